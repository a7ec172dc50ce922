package main

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWasCutShort: the note of what is being changed goes at the end, and stays
// where the run was stopped; notes of others stay in either case.
func TestWasCutShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	change := func(ctx context.Context, what string) func() {
		lock, err := lockSetup(path)
		if err != nil {
			t.Fatal(err)
		}
		finish, err := begin(ctx, lock, what)
		if err != nil {
			t.Fatal(err)
		}
		return func() { finish(); lock.Close() }
	}
	is := func(when string, want ...string) {
		t.Helper()
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Fields(string(text)); strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
		for _, what := range want {
			if !wasCutShort(path, what) {
				t.Errorf("%s: wasCutShort(%q) is false", when, what)
			}
		}
	}
	if wasCutShort(path, "fpm") {
		t.Error("before the first run")
	}
	end := change(t.Context(), "fpm")
	is("meanwhile", "fpm")
	end()
	is("at the end")
	stopped, stop := context.WithCancel(t.Context())
	end = change(stopped, "fpm")
	stop()
	end()
	is("stopped by a signal", "fpm")
	change(t.Context(), "postfix")()
	is("another one since", "fpm")
	change(t.Context(), "fpm")()
	is("again, to the end")
}

// TestDatabaseLines: what --database writes is taken out again, to the byte and the
// mode, and nobody else can read a password meanwhile.
func TestDatabaseLines(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root, who changes groups")
	}
	sample, err := os.ReadFile("../../config/mailquotad.conf")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		before   []byte // nil: no file
		database string
		owner    string
		mode     os.FileMode // while it is there
	}{
		"a password":  {sample, "postgres://mailquotad:s@db.example/q", "postgres://mailquota:s@db.example/q", 0o640},
		"no password": {sample, "postgres://mailquotad@db.example/q", "", 0o644},
		"the owner's": {[]byte("host = \"a\"\n"), "host=/run/pg user=mailquotad", "host=/run/pg user=mailquota password='a b'", 0o640},
		"no file":     {nil, "postgres://mailquotad:s@db.example/q", "", 0o640},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "mailquotad.conf")
			if c.before != nil {
				if err := os.WriteFile(path, c.before, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			s := &setupRun{app: &app{configPath: path}, group: "daemon"}
			for range 2 { // again, with lines that are there
				if err := s.writeDatabase(c.database, c.owner); err != nil {
					t.Fatal(err)
				}
				info, err := os.Stat(path)
				if err != nil || info.Mode() != c.mode {
					t.Errorf("mode %v, want %v, %v", info.Mode(), c.mode, err)
				}
				a := s.fresh()
				if err := a.loadConfig(); err != nil {
					t.Fatal(err)
				}
				if a.config.Database != c.database || a.config.DatabaseOwner != c.owner {
					t.Errorf("the file says %q, %q", a.config.Database, a.config.DatabaseOwner)
				}
			}
			for _, want := range []stepState{stepUndone, stepSo} {
				r, err := s.forgetDatabase(false)
				if err != nil || r.State != want {
					t.Errorf("%+v, %v, want %s", r, err, want)
				}
			}
			got, err := os.ReadFile(path)
			if c.before == nil {
				if !os.IsNotExist(err) {
					t.Errorf("the file is still there: %q, %v", got, err)
				}
				return
			}
			if info, err := os.Stat(path); err != nil || info.Mode() != 0o644 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			if !bytes.Equal(got, c.before) {
				t.Errorf("got:\n%s\nwant:\n%s", got, c.before)
			}
		})
	}
}

// TestSweep: what a killed run was writing goes, and nothing else.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "main.cf")
	for _, name := range []string{"main.cf", ".main.cf.mailctl-123", ".main.cf.swp", ".master.cf.mailctl-1", "main.cf.mailctl-1"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := sweep(link); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if got := strings.Join(left, " "); got != ".main.cf.swp .master.cf.mailctl-1 main.cf main.cf.mailctl-1" {
		t.Errorf("left: %s", got)
	}
}

// TestAsk: Enter is yes, and nothing is done where no answer comes.
func TestAsk(t *testing.T) {
	for text, want := range map[string]string{"\n": "true", "Y\n": "true", " yes \n": "true", "n\n": "false", "NO\n": "false", "what\nn\n": "false",
		"": "stopped before that was done", "n": "false", "what": "stopped before that was done"} {
		var said bytes.Buffer
		s := &setupRun{app: &app{stderr: &said}, answers: bufio.NewReader(strings.NewReader(text))}
		yes, err := s.ask(t.Context(), "do it")
		got := "false"
		if err != nil {
			got = err.Error()
		} else if yes {
			got = "true"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
		if !strings.HasPrefix(said.String(), "do it\n        Do it? [Y/n] ") {
			t.Errorf("%q: said %q", text, said.String())
		}
	}
}
