package tests

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestAdvisoryLocks: each purpose has an advisory lock of its own. Two with one
// number would keep each other out, and nothing else would show it.
func TestAdvisoryLocks(t *testing.T) {
	number := regexp.MustCompile(`\b730541926\d{7}\b`)
	owner := map[string]string{"7305419260000002": "sqlschema/migrations"} // of partitions; in SQL only
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, n := range number.FindAllString(string(text), -1) {
			if other, taken := owner[n]; taken {
				t.Errorf("%s: lock %s is that of %s", path, n, other)
			}
			owner[n] = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(owner) < 4 {
		t.Errorf("%d locks found", len(owner))
	}
}
