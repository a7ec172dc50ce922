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

// Listen returns the socket that systemd passed, or else makes one at path that
// every user may connect to.
func Listen(path string) (*net.UnixListener, error) {
	if passed, err := passedSocket(); passed != nil || err != nil {
		return passed, err
	}
	// Every user may send mail, so every user may ask; the kernel says who it is.
	return makeSocket(path, 0o666)
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

// passedSocket is the one of socket activation, nil where there is none.
func passedSocket() (*net.UnixListener, error) {
	pid, n := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	if n == "" || pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(name) // not for children
	}
	if n != "1" {
		return nil, fmt.Errorf("systemd passed %s sockets: mailquotad takes one", n)
	}
	syscall.CloseOnExec(firstPassed)
	f := os.NewFile(firstPassed, "socket of systemd")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take the socket of systemd: %w", err)
	}
	unix, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("the socket of systemd is of %s: mailquotad takes a unix stream socket", l.Addr().Network())
	}
	return unix, nil
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
