package origin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	maxFPMConfig   = 1 << 20 // bytes of a file
	maxFPMFiles    = 20_000  // files of one master
	maxFPMDepth    = 8       // includes in includes
	cachedMasters  = 64
	fpmRecheck     = 5 * time.Second // stat the files of a configuration again after this
	fpmMasterTitle = "php-fpm: master process ("
	fpmWorkerTitle = "php-fpm: pool "
)

// fpmPool is one pool of a configuration of php-fpm.
type fpmPool struct {
	name string
	user string // login name or number; "" if none is set
}

// fpmConfig reads the pools of a configuration with its includes. The format is
// that of fpm_conf.c: php.ini(5) line by line, the section naming the pool, and
// "include=GLOB" read in its place.
type fpmConfig struct {
	pools   []fpmPool
	current int // index of the pool whose section is open, -1 in [global]
	files   int

	// read returns a file, and glob the files of a pattern, sorted.
	read func(path string) (string, error)
	glob func(pattern string) ([]string, error)
}

// load reads a file of the configuration. An error means that the pools are not
// all known.
func (c *fpmConfig) load(path string, depth int) error {
	if c.files++; c.files > maxFPMFiles || depth > maxFPMDepth {
		return fmt.Errorf("read configuration %s of php-fpm: too many includes", path)
	}
	text, err := c.read(path)
	if err != nil {
		return fmt.Errorf("read configuration %s of php-fpm: %w", path, err)
	}
	for line := range strings.Lines(text) {
		key, value, section := parseIniLine(line)
		switch {
		case section && strings.EqualFold(key, "global"):
			c.current = -1
		case section:
			c.open(key)
		case key == "user" && c.current >= 0:
			c.pools[c.current].user = strings.ReplaceAll(value, "$pool", c.pools[c.current].name)
		case key == "include":
			if !filepath.IsAbs(value) {
				return fmt.Errorf("configuration %s of php-fpm: include %q is relative to a prefix that is not known", path, value)
			}
			files, err := c.glob(value)
			if err != nil {
				return fmt.Errorf("configuration %s of php-fpm: include %q: %w", path, value, err)
			}
			for _, file := range files {
				if err := c.load(file, depth+1); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (c *fpmConfig) open(name string) {
	for i := range c.pools {
		if c.pools[i].name == name {
			c.current = i
			return
		}
	}
	c.pools = append(c.pools, fpmPool{name: name})
	c.current = len(c.pools) - 1
}

// parseIniLine returns the name of a section, or the key and value of a line;
// nothing of a comment.
func parseIniLine(line string) (key, value string, section bool) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == ';' || line[0] == '#' {
		return "", "", false
	}
	if line[0] == '[' {
		name, _, closed := strings.Cut(line[1:], "]")
		if name = strings.TrimSpace(name); !closed || name == "" {
			return "", "", false
		}
		return name, "", true
	}
	key, value, ok := strings.Cut(line, "=")
	if !ok {
		return "", "", false
	}
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	if value != "" && (value[0] == '"' || value[0] == '\'') {
		if inner, _, closed := strings.Cut(value[1:], value[:1]); closed {
			return key, inner, false
		}
	}
	value, _, _ = strings.Cut(value, ";")
	return key, strings.TrimSpace(value), false
}

// fpmConfigs keeps what was read of the configurations of running masters.
type fpmConfigs struct {
	mu      sync.Mutex
	masters map[string]*fpmMaster // by path
}

type fpmMaster struct {
	checked time.Time
	stamps  map[string]stamp // files and directories that were read
	pools   []fpmPool        // nil if not all are known
}

// pools returns the pools of the configuration at path, nil unless all are known
// and only root can have written them.
func (f *fpmConfigs) pools(path string) []fpmPool {
	if !filepath.IsAbs(path) {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.masters[path]
	if m != nil && time.Since(m.checked) < fpmRecheck {
		return m.pools
	}
	if m == nil || !m.same() {
		m = readFPMMaster(path)
	}
	m.checked = time.Now()
	if f.masters == nil || len(f.masters) >= cachedMasters {
		f.masters = make(map[string]*fpmMaster)
	}
	f.masters[path] = m
	return m.pools
}

func (m *fpmMaster) same() bool {
	for path, s := range m.stamps {
		if stampOf(path) != s {
			return false
		}
	}
	return true
}

func readFPMMaster(path string) *fpmMaster {
	m := &fpmMaster{stamps: make(map[string]stamp)}
	dirs := make(map[string]bool) // those found to be root's alone
	c := fpmConfig{current: -1}
	c.read = func(path string) (string, error) {
		m.stamps[path] = stampOf(path)
		if err := rootsAlone(filepath.Dir(path), dirs); err != nil {
			return "", err
		}
		st, err := os.Lstat(path)
		if err == nil {
			err = writtenByRoot(path, st)
		}
		if err != nil {
			return "", err
		}
		text, _, err := readRegular(path, maxFPMConfig)
		return text, err
	}
	c.glob = func(pattern string) ([]string, error) {
		dir := filepath.Dir(pattern)
		if strings.ContainsAny(dir, "*?[{") || strings.Contains(filepath.Base(pattern), "{") {
			return nil, errors.New("pattern in a directory's name")
		}
		m.stamps[dir] = stampOf(dir)
		return filepath.Glob(pattern)
	}
	if err := c.load(path, 0); err == nil {
		m.pools = c.pools
	}
	return m
}

// rootsAlone checks that nobody but root can put a file into a directory, nor
// exchange one above it: these may have the sticky bit instead, as /tmp has.
func rootsAlone(dir string, known map[string]bool) error {
	st, err := os.Lstat(dir)
	if err == nil {
		err = writtenByRoot(dir, st)
	}
	for ; err == nil && !known[dir]; dir = filepath.Dir(dir) {
		if st, err = os.Lstat(dir); err == nil && st.Mode()&fs.ModeSticky == 0 {
			err = writtenByRoot(dir, st)
		}
		known[dir] = err == nil
	}
	return err
}

// writtenByRoot refuses symbolic links too, by their mode: where they lead to is
// another place to check.
func writtenByRoot(path string, st fs.FileInfo) error {
	sys := st.Sys().(*syscall.Stat_t)
	if sys.Uid != 0 || sys.Mode&0o022 != 0 {
		return fmt.Errorf("%s may be written by others than root", path)
	}
	return nil
}
