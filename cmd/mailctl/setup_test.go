package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLockSetup: there is one at a time.
func TestLockSetup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := lockSetup(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockSetup(path); err == nil || !strings.Contains(err.Error(), "another mailctl setup or harden is running") {
		t.Errorf("a second one: %v", err)
	}
	first.Close()
	if again, err := lockSetup(path); err != nil {
		t.Errorf("after the first: %v", err)
	} else {
		again.Close()
	}
}

// TestExim: what its configuration says decides between its two profiles.
func TestExim(t *testing.T) {
	program := filepath.Join(t.TempDir(), "exim4")
	if out, err := exec.Command("go", "build", "-o", program, "./testdata/exim").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, c := range []struct{ answer, want, err string }{
		{"extract_addresses_remove_arguments", "exim", ""},
		{"no_extract_addresses_remove_arguments", "exim-add-arguments", ""},
		{"Exim configuration error in line 3", "", "exim4 -bP extract_addresses_remove_arguments: not understood: Exim configuration error in line 3"},
	} {
		t.Setenv("ANSWER", c.answer)
		_, got, err := identify(t.Context(), program)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.HasSuffix(err.Error(), c.err) {
			t.Errorf("%s: %q, %v", c.answer, got, err)
		}
	}
}
