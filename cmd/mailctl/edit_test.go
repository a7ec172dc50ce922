package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEditMeanwhile: what somebody has written since the file was read stays.
func TestEditMeanwhile(t *testing.T) {
	for name, meanwhile := range map[string]string{"changed": "a\nb\n", "removed": "", "written already": "a\nours\n"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "main.cf")
			if err := os.WriteFile(path, []byte("a\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			e, err := readEdit(path)
			if err != nil {
				t.Fatal(err)
			}
			e.after = []byte("a\nours\n")
			if meanwhile == "" {
				err = os.Remove(path)
			} else {
				err = os.WriteFile(path, []byte(meanwhile), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
			err = e.apply()
			if name == "written already" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), "was changed meanwhile") {
				t.Errorf("%v", err)
			}
			if now, _ := os.ReadFile(path); string(now) != meanwhile {
				t.Errorf("%q", now)
			}
		})
	}
}

// TestFPMDirNamed: a pool's file counts, whether its PHP-FPM is there or not.
func TestFPMDirNamed(t *testing.T) {
	root := t.TempDir()
	pools := filepath.Join(root, "etc/php/8.1/fpm/pool.d")
	if err := os.MkdirAll(pools, 0o755); err != nil {
		t.Fatal(err)
	}
	if isFPMDirNamed(root) {
		t.Error("there is no pool")
	}
	if err := os.WriteFile(filepath.Join(pools, "a.conf"), []byte("[a]\npm.status_listen = "+fpmDir+"/8.1-a.sock\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if !isFPMDirNamed(root) {
		t.Error("the pool is not seen")
	}
}
