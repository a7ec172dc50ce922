package systemd

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	if os.Getenv("TEST_AS") == "activated" {
		os.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid())) // known to systemd when it starts a program
		passed, err := Listeners()
		for _, l := range passed {
			fmt.Println(l.Addr())
		}
		again, _ := Listeners()
		Close(passed)
		fmt.Println(err, len(again), os.Getenv("LISTEN_FDS"))
		return
	}
	os.Exit(m.Run())
}

// TestListeners: the sockets come in their order, once, and a unix socket's file stays
// when it is closed; a descriptor that is no socket is none.
func TestListeners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	unix, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	var files []*os.File
	for _, l := range []net.Listener{unix, tcp} {
		f, err := l.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, c := range []struct {
		files []*os.File
		count string
		want  string
	}{
		{files, "2", path + "\n" + tcp.Addr().String() + "\n<nil> 0 \n"},
		{files[1:], "1", tcp.Addr().String() + "\n<nil> 0 \n"},
		{nil, "", "<nil> 0 \n"},
		{[]*os.File{null}, "1", "take a socket of systemd: "},
		{nil, "0", `LISTEN_FDS="0" of systemd: must be 1 to 256 0`},
		{nil, "x", `LISTEN_FDS="x" of systemd: must be 1 to 256 0`},
		{nil, "9999999999999999999999", `LISTEN_FDS="99999999999999999999" of systemd: must be 1 to 256 0`},
	} {
		p := exec.Command("/proc/self/exe")
		p.Env = []string{"TEST_AS=activated", "LISTEN_FDS=" + c.count}
		p.ExtraFiles = c.files
		out, err := p.CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), c.want) {
			t.Errorf("%q: %v, %s; want %s", c.count, err, out, c.want)
		}
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "1")
	if passed, err := Listeners(); passed != nil || err != nil {
		t.Errorf("those of another process: %v, %v", passed, err)
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	Notify("lost: nobody asked")
	t.Setenv("NOTIFY_SOCKET", path)
	Notify("READY=1")
	told := make([]byte, 64)
	n, err := c.Read(told)
	if err != nil || string(told[:n]) != "READY=1" {
		t.Errorf("%q, %v", told[:n], err)
	}
	t.Setenv("NOTIFY_SOCKET", path+"-none")
	Notify("nobody hears it")
}
