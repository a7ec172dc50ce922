package origin

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Pool is one pool of a configuration of php-fpm.
type Pool struct {
	Name    string
	File    string            // in which its section begins
	Line    int               // of File, from 1, where it begins
	Options map[string]string // of all its sections, the last value of each, $pool replaced (fpm_conf_set_string)
}

// ReadPools returns the pools of the configuration of php-fpm at path and of the
// files that it includes, in their order. An error means that not all are known.
// Whoever may write these files decides what is in them: it proves nothing.
func ReadPools(path string) ([]Pool, error) {
	r := poolReader{current: -1}
	if err := r.load(path, 0); err != nil {
		return nil, err
	}
	return r.pools, nil
}

type poolReader struct {
	pools   []Pool
	current int // -1 in [global]
	files   int
}

func (r *poolReader) load(path string, depth int) error {
	if r.files++; r.files > maxFPMFiles || depth > maxFPMDepth {
		return fmt.Errorf("read configuration %s of php-fpm: too many includes", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read configuration of php-fpm: %w", err)
	}
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		key, value, section := parseIniLine(line)
		switch {
		case section && strings.EqualFold(key, "global"):
			r.current = -1
		case section:
			r.open(key, path, number)
		case key == "include":
			if !filepath.IsAbs(value) {
				return fmt.Errorf("%s:%d: include %q is relative to a prefix that is not known", path, number, value)
			}
			files, err := filepath.Glob(value)
			if err != nil {
				return fmt.Errorf("%s:%d: include %q: %w", path, number, value, err)
			}
			for _, file := range files {
				if err := r.load(file, depth+1); err != nil {
					return err
				}
			}
		case key != "" && r.current >= 0:
			p := &r.pools[r.current]
			p.Options[key] = strings.ReplaceAll(value, "$pool", p.Name)
		}
	}
	return nil
}

func (r *poolReader) open(name, file string, line int) {
	for i := range r.pools {
		if r.pools[i].Name == name {
			r.current = i
			return
		}
	}
	r.pools = append(r.pools, Pool{Name: name, File: file, Line: line, Options: make(map[string]string)})
	r.current = len(r.pools) - 1
}
