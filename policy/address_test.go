package policy

import (
	"strings"
	"testing"
)

func TestSameAddress(t *testing.T) {
	for _, c := range []struct {
		came, leaves string
		want         bool
	}{
		{"a@x", "A@X", true},
		{"a@x", "a@y", false},
		{"\u212a@x", "k@x", false}, // Unicode's KELVIN SIGN
		{"\u00e4@x", "\u00c4@x", false},
		{"\xff@X", "\xff@x", true},
		{"\xfe@x", "\xff@X", false},
		{"", "", true},
		{"", "a@x", false},
		{"z@out.example.", "z@out.example", true},
		{"z@out.example..", "z@out.example", false},
		{"z@.", "z@", false},
		{"z@out.example", "z@out.example.", true},
		{"x%out.example@here", "x@out.example", true},
		{"x%OUT.example.@here", "X@out.Example", true},
		{"x%out.example@[127.0.0.1]", "x@out.example", true},
		{"x%out.example%localhost@here", "x@out.example", true},
		{"x%out.example%localhost@here", "x%out.example@localhost", true}, // another localhost
		{"x%out.example", "x@out.example", true},
		{"x%out.example@here", "y@out.example", false},
		{"x%out.example@here", "out.example@x", false},
		{"out.example!x@here", "x@out.example", true},
		{"here!out.example!x@here", "x@out.example", true},
		{"out.example!x", "x@out.example", true},
		{"out.example!x%localhost@localhost", "x%localhost@out.example", true},
		{"localhost!x%out.example@localhost", "x@out.example", true},
		{"out.example!x@here", "out.example@x", false},
		{"x@out.example@here", "x@out.example", true},
		{"x%out.example@lists.test@here", "x@out.example", true},
		{"x@out.example@", "x@out.example", true},
		{"@here,@there:x@out.example", "x@out.example", true},
		{"@here:x%out.example@there", "x@out.example", true},
		{"@here", "x@here", false},
		{"root", "root@server.example", true},
		{"@here:root", "root@server.example", true},
		{"root", "admin@server.example", false},
		{"root@here", "root@server.example", false}, // an alias
		{"list@hosted.test", "x@out.example", false},
		{"x+out.example@here", "x@out.example", false},
		{"x", "x", true},
		{"X@y", "x", false},
	} {
		if got := SameAddress(c.came, c.leaves); got != c.want {
			t.Errorf("%q %q: %v", c.came, c.leaves, got)
		}
	}
}

// What is the same stays it however often it is wrapped; and what leaves is all there, in
// what came.
func FuzzSameAddress(f *testing.F) {
	f.Add("x%out.example@here", "x@out.example")
	f.Add("@a:out.example!x.", "X@OUT.example")
	f.Add("root", "root@server.example")
	f.Add("\xff@x..", "\xff@x.")
	f.Fuzz(func(t *testing.T, came, leaves string) {
		if !SameAddress(leaves, leaves) {
			t.Fatalf("%q is another than itself", leaves)
		}
		if local, domain, ok := strings.Cut(leaves, "@"); ok && local != "" && !strings.ContainsAny(leaves, "!%") && !strings.Contains(domain, "@") {
			for _, wrapped := range []string{leaves + "@h", local + "%" + domain + "@h", local + "%" + domain + "%i@h", domain + "!" + local + "@h", "@r:" + leaves} {
				if !SameAddress(wrapped, leaves) {
					t.Errorf("%q is another than %q", wrapped, leaves)
				}
			}
		}
		if local, _, _ := strings.Cut(leaves, "@"); SameAddress(came, leaves) && !strings.Contains(foldASCII(came), foldASCII(local)) {
			t.Errorf("%q is %q", came, leaves)
		}
	})
}

// Addresses on a command line can be long.
func BenchmarkSameAddress(b *testing.B) {
	long := strings.Repeat("%x@y!z", 20000)
	for b.Loop() {
		SameAddress(long, "a@b")
	}
}
