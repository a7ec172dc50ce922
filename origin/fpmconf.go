package origin

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sendmail-wrapper/serverstatus"
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

// fpmPool is one pool of a configuration of php-fpm. What is not set is "".
type fpmPool struct {
	name         string
	user         string // login name or number
	listen       string // address: a path, PORT or HOST:PORT
	statusListen string // the same
	statusPath   string
	chroot       string

	whole Pool // if it is kept
}

// setting returns where a setting of that name goes, nil for one that is not wanted.
func (p *fpmPool) setting(key string) *string {
	switch key {
	case "user":
		return &p.user
	case "listen":
		return &p.listen
	case "pm.status_listen":
		return &p.statusListen
	case "pm.status_path":
		return &p.statusPath
	case "chroot":
		return &p.chroot
	}
	return nil
}

// fpmConfig reads the pools of a configuration with its includes. The format is
// that of fpm_conf.c: php.ini(5) line by line, the section naming the pool, and
// "include=GLOB" read in its place.
type fpmConfig struct {
	pools   []fpmPool
	byName  map[string]int // index
	current int            // of the pool whose section is open, -1 in [global]
	files   int
	keepAll bool // in fpmPool.whole

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
	number := 0
	for line := range strings.Lines(text) {
		number++
		key, value, section := parseIniLine(line)
		switch {
		case section && strings.EqualFold(key, "global"):
			c.current = -1
		case section:
			c.open(key, path, number)
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
		case c.current >= 0:
			pool := &c.pools[c.current]
			value = strings.ReplaceAll(value, "$pool", pool.name)
			if to := pool.setting(key); to != nil {
				*to = value
			}
			if c.keepAll && key != "" {
				pool.whole.Options[key] = value
			}
		}
	}
	return nil
}

func (c *fpmConfig) open(name, file string, line int) {
	at, known := c.byName[name]
	if !known {
		if c.byName == nil {
			c.byName = make(map[string]int)
		}
		at = len(c.pools)
		c.byName[name] = at
		pool := fpmPool{name: name}
		if c.keepAll {
			pool.whole = Pool{name, file, line, make(map[string]string)}
		}
		c.pools = append(c.pools, pool)
	}
	c.current = at
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
	checked map[string]time.Time  // when their files were last looked at
}

type fpmMaster struct {
	stamps map[string]stamp // files and directories that were read
	known  bool             // all pools are known, and only root can have written them
	pools  []fpmPool
	names  map[string]*fpmPool
	owners atomic.Pointer[fpmOwners]
}

// fpmOwners tells whose the pools of a master are by one state of passwd(5).
type fpmOwners struct {
	users   *userTable
	of      map[uint32][]*fpmPool
	unknown []*fpmPool // users that there are not
}

// master returns what is known of the configuration at path, never nil. Thousands of
// files may have to be looked at: one call does so, and others at the same time go on
// with what was known before.
func (f *fpmConfigs) master(path string) *fpmMaster {
	if !filepath.IsAbs(path) {
		return new(fpmMaster)
	}
	f.mu.Lock()
	m := f.masters[path]
	if m != nil && time.Since(f.checked[path]) < fpmRecheck {
		f.mu.Unlock()
		return m
	}
	if f.masters == nil || len(f.masters) >= cachedMasters {
		f.masters, f.checked = make(map[string]*fpmMaster), make(map[string]time.Time)
	}
	if m == nil {
		m = new(fpmMaster)
	}
	f.masters[path], f.checked[path] = m, time.Now()
	f.mu.Unlock()
	if m.same() {
		return m
	}
	m = readFPMMaster(path)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.masters[path] = m
	return m
}

// ownedBy returns the pools whose user has this uid, and those whose user is not known.
func (m *fpmMaster) ownedBy(uid uint32, users *userTable) (mine, unknown []*fpmPool) {
	o := m.owners.Load()
	if o == nil || o.users != users {
		o = &fpmOwners{users: users, of: make(map[uint32][]*fpmPool)}
		for _, p := range m.names {
			if owner, ok := users.lookup(p.user); ok {
				o.of[owner] = append(o.of[owner], p)
			} else {
				o.unknown = append(o.unknown, p)
			}
		}
		m.owners.Store(o)
	}
	return o.of[uid], o.unknown
}

func (m *fpmMaster) same() bool {
	if len(m.stamps) == 0 { // not read yet
		return false
	}
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
	if c.load(path, 0) != nil {
		return m
	}
	m.known, m.pools, m.names = true, c.pools, make(map[string]*fpmPool, len(c.pools))
	for i := range c.pools {
		m.names[c.pools[i].name] = &c.pools[i]
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

// fpmListeners are the status listeners of pools that have been asked.
type fpmListeners struct {
	mu    sync.Mutex
	known map[fpmAddress]*serverstatus.FPM
}

type fpmAddress struct{ network, address, path string }

// maxListeners bounds how many are kept.
const maxListeners = 10_000

// of returns the status listener of a pool, nil unless it has one at an address
// at which nobody but root can listen.
func (l *fpmListeners) of(pool *fpmPool) *serverstatus.FPM {
	at := fpmAddress{path: pool.statusPath}
	switch at.address = pool.statusListen; {
	case !strings.HasPrefix(at.path, "/"):
		return nil
	case filepath.IsAbs(at.address):
		// Asked each time: a directory can change hands.
		if rootsAlone(filepath.Dir(at.address), make(map[string]bool)) != nil {
			return nil
		}
		at.network = "unix"
	default:
		a, err := netip.ParseAddrPort(at.address)
		if err != nil || !a.Addr().IsLoopback() || !serverstatus.RootsPort(a.Port()) {
			return nil
		}
		at.network = "tcp"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	status := l.known[at]
	if status == nil {
		if l.known == nil || len(l.known) >= maxListeners {
			l.known = make(map[fpmAddress]*serverstatus.FPM)
		}
		status = serverstatus.NewFPM(at.network, at.address, at.path)
		l.known[at] = status
	}
	return status
}

// fpmConfigOf returns the path of the configuration in a master's title.
func fpmConfigOf(master *process) string {
	return strings.TrimSuffix(strings.TrimPrefix(title(master.cmdline()), fpmMasterTitle), ")")
}
