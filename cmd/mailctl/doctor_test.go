package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sendmail-wrapper/origin"
)

// TestAsFinding: the command at the end of a sentence of status is one to type.
func TestAsFinding(t *testing.T) {
	for text, want := range map[string]finding{
		"apache-status does not answer: 404: mailctl setup apache": {Text: "apache-status does not answer: 404", Command: "mailctl setup apache"},
		"wrapper.conf:3: unknown key colour: there are mta":        {Text: "wrapper.conf:3: unknown key colour: there are mta"},
		"nothing to type": {Text: "nothing to type"},
	} {
		want.Check, want.State, want.Severity = "x", isWrong, lowSeverity
		if got := asFinding("x", isWrong, lowSeverity, text); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}

// TestPoolDoor: whom a pool's socket lets in.
func TestPoolDoor(t *testing.T) {
	dir := t.TempDir()
	// t.TempDir is below directories of mode 0700.
	for at := dir; at != os.TempDir(); at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	socket := func(path string, mode, above os.FileMode) string {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(path), above); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		listen string
		open   bool
	}{
		{"9000", true},
		{"127.0.0.1:9000", true},
		{"[::1]:9000", true},
		{socket("all/s", 0o666, 0o755), true},
		{socket("web/s", 0o660, 0o755), false},
		{socket("shut/s", 0o666, 0o750), false},
		{filepath.Join(dir, "none"), false},
		{"", false},
	} {
		p := origin.Pool{Name: "p", File: "/etc/php/p.conf", Line: 3, Options: map[string]string{"listen": c.listen}}
		if f, open := poolDoor(&p); open != c.open || open && !strings.Contains(f.Text, "pool p (/etc/php/p.conf:3)") {
			t.Errorf("%s: %v %+v", c.listen, open, f)
		}
	}
}

// TestSocketFinding: each user must reach the socket, and nobody put another in its place.
func TestSocketFinding(t *testing.T) {
	dir := t.TempDir()
	for at := dir; at != os.TempDir(); at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct {
		socket, above os.FileMode
		want          string
	}{
		{0o666, 0o755, ""},
		{0o660, 0o755, "has mode 0660: not every user may ask"},
		{0o666, 0o750, "has mode 0750: not every user reaches"},
		{0o666, 0o777, "has mode 0777: others can put a socket"},
	} {
		if err := os.Chmod(path, c.socket); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, c.above); err != nil {
			t.Fatal(err)
		}
		f := socketFinding(path)
		if (f.State == isFine) != (c.want == "") || c.want != "" && (!strings.Contains(f.Text, c.want) || f.Command == "") {
			t.Errorf("%o below %o: %+v", c.socket, c.above, f)
		}
	}
	if f := socketFinding(path + "x"); f.State != isWrong {
		t.Errorf("no socket: %+v", f)
	}
}
