package daemon

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sendmail-wrapper/wire"
)

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o666 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another mailquotad listens") {
		t.Errorf("a second daemon: %v", err)
	}
	l.Calls.SetUnlinkOnClose(false)
	l.Close()
	l, err = Listen(path) // a dead one's socket
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("a file in the way: %v", err)
	}
}

// TestSocketActivation: the sockets that systemd passed are used, and no others taken.
func TestSocketActivation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	calls, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer calls.Close()
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	everywhere, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer everywhere.Close()
	activate := func(out io.Writer, sockets ...net.Listener) *exec.Cmd {
		t.Helper()
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{"TEST_AS=activated", fmt.Sprint("LISTEN_FDS=", len(sockets))}
		for _, l := range sockets { // from descriptor 3 on
			f, err := l.(interface{ File() (*os.File, error) }).File()
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		}
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	for _, sockets := range [][]net.Listener{{calls}, {calls, port}, {port, calls}} {
		var out bytes.Buffer
		cmd := activate(&out, sockets...)
		reply, err := ask(path, "x", "sendmail", "a@x")
		if err != nil || reply.Verdict != wire.VerdictRefuse {
			t.Errorf("%+v, %v\n%s", reply, err, out.String())
		}
		if len(sockets) > 1 {
			c, err := net.Dial("tcp", port.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			p := &peer{c, bufio.NewReader(c)}
			if action, err := p.ask(message("carol@box.test")); err != nil || !strings.HasPrefix(action, "421 4.3.0") {
				t.Errorf("by the port: %q, %v\n%s", action, err, out.String())
			}
			c.Close()
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
	for _, sockets := range [][]net.Listener{{calls, calls}, {port, port}, {calls, everywhere}} {
		var out bytes.Buffer
		if err := activate(&out, sockets...).Wait(); err == nil || !strings.Contains(out.String(), "mailquotad takes one unix stream socket, and one of TCP") {
			t.Errorf("%v: %v, %s", sockets, err, out.String())
		}
	}
}
