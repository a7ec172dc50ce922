package origin

import (
	"fmt"
	"path/filepath"
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
	c := fpmConfig{current: -1, keepAll: true, glob: filepath.Glob}
	c.read = func(path string) (string, error) {
		text, _, err := readRegular(path, maxFPMConfig)
		if err == nil && len(text) == maxFPMConfig {
			err = fmt.Errorf("%d bytes or more", maxFPMConfig)
		}
		return text, err
	}
	if err := c.load(path, 0); err != nil {
		return nil, err
	}
	var pools []Pool
	for _, p := range c.pools {
		pools = append(pools, p.whole)
	}
	return pools, nil
}
