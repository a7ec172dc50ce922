package main

import (
	"os/exec"
	"strings"
	"testing"
)

// allowed is everything that the program may be made of, each with its reason:
// it starts at every mail of a server, and the start of what it imports is what
// that costs. Packages under internal/ belong to those that are named.
var allowed = map[string]string{
	"sendmail-wrapper/wrapper":  "the program",
	"sendmail-wrapper/wire":     "asks mailquotad",
	"sendmail-wrapper/sendmail": "understands the command line",
	"golang.org/x/sys/unix":     "memfd, seals, SCM_RIGHTS, poll",

	"os": "arguments, files, exit", "io": "readers", "bufio": "lines of a header", "io/fs": "of os", "path": "of os", "syscall": "of os",
	"os/signal": "ignored signals stay ignored", "context": "of os/signal",
	"time": "deadline, date of a syslog line", "errors": "", "strings": "", "strconv": "", "bytes": "", "math": "bounds",
	"encoding/binary": "frames", "sort": "of encoding/binary's reflect", "reflect": "of encoding/binary, errors",
	"slices": "", "cmp": "of slices", "iter": "of strings", "maps": "of slices", "math/bits": "of strconv", "unicode": "of strings",
	"unicode/utf8": "", "sync": "of os", "sync/atomic": "of sync", "runtime": "", "unsafe": "",
}

// TestDependencies: what would cost a start, or bring the network or a database
// into a program that every customer can run, is not linked.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("go list -deps: %v", err)
	}
	count := 0
	for pkg := range strings.FieldsSeq(string(out)) {
		count++
		if strings.Contains(pkg, "internal/") || pkg == "sendmail-wrapper/cmd/sendmail-wrapper" {
			continue
		}
		if _, ok := allowed[pkg]; !ok {
			t.Errorf("%s is linked: give its reason in the table, or do without", pkg)
		}
	}
	if count < len(allowed)/2 {
		t.Errorf("go list named %d packages only", count)
	}
}
