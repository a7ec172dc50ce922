package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
)

// firstPassed is the first descriptor that systemd passes (sd_listen_fds(3)).
const firstPassed = 3

// Sockets are those that mailquotad has before it reads anything.
type Sockets struct {
	Calls  *net.UnixListener
	Policy *net.TCPListener // of systemd, in place of policy-listen; nil where there is none
}

// Close closes them.
func (s Sockets) Close() {
	s.Calls.Close()
	if s.Policy != nil {
		s.Policy.Close()
	}
}

// Listen returns the sockets that systemd passed. Where it passed none for calls, that
// is made at path, and every user may connect to it.
func Listen(path string) (Sockets, error) {
	sockets, err := passedSockets()
	if err != nil || sockets.Calls != nil {
		return sockets, err
	}
	// Every user may send mail, so every user may ask; the kernel says who it is.
	sockets.Calls, err = makeSocket(path, 0o666)
	return sockets, err
}

// makeSocket returns a socket at path that those may connect to whom mode gives
// the right to write.
func makeSocket(path string, mode fs.FileMode) (*net.UnixListener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the socket: %w", err)
	}
	if err := os.Chmod(path, mode); err != nil {
		l.Close()
		return nil, fmt.Errorf("open the socket to its users: %w", err)
	}
	return l, nil
}

// passedSockets are those of socket activation, empty where there are none.
func passedSockets() (passed Sockets, err error) {
	pid, n := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	if n == "" || pid != strconv.Itoa(os.Getpid()) {
		return Sockets{}, nil
	}
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(name) // not for children
	}
	if n != "1" && n != "2" {
		return Sockets{}, fmt.Errorf("systemd passed %s sockets: mailquotad takes one for calls and one for policy-listen", n)
	}
	for fd := uintptr(firstPassed); fd < firstPassed+uintptr(n[0]-'0'); fd++ {
		if err := passed.take(fd); err != nil {
			return Sockets{}, err
		}
	}
	return passed, nil
}

// take makes a descriptor of systemd the socket that its kind says.
func (s *Sockets) take(fd uintptr) error {
	syscall.CloseOnExec(int(fd))
	f := os.NewFile(fd, "socket of systemd")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return fmt.Errorf("take the socket of systemd: %w", err)
	}
	switch l := l.(type) {
	case *net.UnixListener:
		if s.Calls == nil {
			s.Calls = l
			return nil
		}
	case *net.TCPListener:
		if s.Policy == nil && l.Addr().(*net.TCPAddr).IP.IsLoopback() {
			s.Policy = l
			return nil
		}
	}
	l.Close()
	return fmt.Errorf("the socket of systemd at %s %s: mailquotad takes one unix stream socket, and one of TCP at a loopback address", l.Addr().Network(), l.Addr())
}

// removeStale takes away the socket of a daemon that is dead, and nothing else.
func removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is no socket", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return fmt.Errorf("another mailquotad listens at %s", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("look for another mailquotad: %w", err)
	}
	return os.Remove(path)
}

// tellSystemd tells systemd the state of the service (sd_notify(3)), if it asked.
func tellSystemd(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(state))
}

// NotifyReloading and NotifyReady enclose a reload.
func NotifyReloading() { tellSystemd("RELOADING=1") }

// NotifyReady says that requests are taken.
func NotifyReady() { tellSystemd("READY=1") }
