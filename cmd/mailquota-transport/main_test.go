package main

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	if os.Getenv("TEST_TRANSPORT") != "" { // TestSockets runs it
		main()
	}
	testscript.Main(m, map[string]func(){"mailquota-transport": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata"})
}

// As systemd passes two sockets: each stands for its own agent, and both stay at
// a stop.
func TestSockets(t *testing.T) {
	for _, c := range []struct {
		name   string
		second string
		status int
	}{
		{"two agents", "mailquota-relay", 0},
		{"a wrong name", "relay", exUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "") // a short path: sun_path has 107 bytes
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			p := exec.Command("sh", "-c", `LISTEN_FDS=2 LISTEN_PID=$$ exec "$0"`, os.Args[0])
			p.Env = append(os.Environ(), "TEST_TRANSPORT=1")
			var stderr bytes.Buffer
			p.Stderr = &stderr
			for _, name := range []string{"mailquota", c.second} {
				l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
				if err != nil {
					t.Fatal(err)
				}
				l.SetUnlinkOnClose(false)
				f, err := l.File()
				if err != nil {
					t.Fatal(err)
				}
				l.Close()
				p.ExtraFiles = append(p.ExtraFiles, f)
			}
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			for _, f := range p.ExtraFiles {
				f.Close()
			}
			if c.status == 0 {
				// Without agents a connection is taken, and closed: qmgr(8) tries again.
				for _, name := range []string{"mailquota", c.second} {
					q, err := net.Dial("unix", filepath.Join(dir, name))
					if err != nil {
						t.Fatal(err)
					}
					if n, err := q.Read(make([]byte, 1)); n != 0 || err == nil {
						t.Errorf("%s greets without its agent", name)
					}
				}
				p.Process.Signal(syscall.SIGTERM)
			}
			if p.Wait(); p.ProcessState.ExitCode() != c.status {
				t.Errorf("%v: %s", p.ProcessState, stderr.String())
			}
			for _, agent := range []string{"/smtp: connect", "/relay: connect"} {
				if got := bytes.Contains(stderr.Bytes(), []byte(agent)); got != (c.status == 0) {
					t.Errorf("%s is said: %v, in %s", agent, got, stderr.String())
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "mailquota")); err != nil {
				t.Error(err)
			}
		})
	}
}
