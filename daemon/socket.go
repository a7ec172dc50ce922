package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"sendmail-wrapper/systemd"
)

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
	all, err := systemd.Listeners()
	if err != nil {
		return Sockets{}, err
	}
	for _, l := range all {
		if !passed.take(l) {
			systemd.Close(all)
			return Sockets{}, fmt.Errorf("the socket of systemd at %s %s: mailquotad takes one unix stream socket, and one of TCP at a loopback address", l.Addr().Network(), l.Addr())
		}
	}
	return passed, nil
}

// take makes a socket the one that its kind says, if there is none yet.
func (s *Sockets) take(l net.Listener) bool {
	switch l := l.(type) {
	case *net.UnixListener:
		if s.Calls == nil {
			s.Calls = l
			return true
		}
	case *net.TCPListener:
		if s.Policy == nil && l.Addr().(*net.TCPAddr).IP.IsLoopback() {
			s.Policy = l
			return true
		}
	}
	return false
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

// NotifyReloading and NotifyReady enclose a reload.
func NotifyReloading() { systemd.Notify("RELOADING=1") }

// NotifyReady says that requests are taken.
func NotifyReady() { systemd.Notify("READY=1") }
