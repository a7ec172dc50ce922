// Package systemd is what a service takes from systemd and tells it: sockets that were
// open before it started (sd_listen_fds(3)), and its state (sd_notify(3)).
package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

// firstPassed is the first descriptor that is passed, maxPassed the most that are taken.
const (
	firstPassed = 3
	maxPassed   = 256
)

// Listeners returns the sockets that systemd passed to this process, none where it passed
// none. It takes what says so out of the environment, which is not for children: another
// call returns none. Closing a unix socket leaves its file, which is systemd's.
func Listeners() (passed []net.Listener, err error) {
	pid, count := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	if count == "" || pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(name)
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 || n > maxPassed {
		return nil, fmt.Errorf("LISTEN_FDS=%.20q of systemd: must be 1 to %d", count, maxPassed)
	}
	for fd := firstPassed; fd < firstPassed+n; fd++ {
		syscall.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "socket of systemd")
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			Close(passed)
			return nil, fmt.Errorf("take a socket of systemd: %w", err)
		}
		passed = append(passed, l)
	}
	return passed, nil
}

// UnixListeners is Listeners for a service that has nothing but unix stream sockets, at least one.
func UnixListeners() ([]*net.UnixListener, error) {
	passed, err := Listeners()
	if err != nil {
		return nil, err
	}
	if len(passed) == 0 {
		return nil, errors.New("systemd has passed no socket")
	}
	var listeners []*net.UnixListener
	for _, l := range passed {
		unix, ok := l.(*net.UnixListener)
		if !ok {
			Close(passed)
			return nil, fmt.Errorf("a socket of systemd is of %s, not a unix stream socket", l.Addr().Network())
		}
		listeners = append(listeners, unix)
	}
	return listeners, nil
}

// Serve serves sockets until SIGTERM or SIGINT, or until one of them fails: it closes them
// all then, for systemd to start the service again, and returns once all have ended. The
// error is the first.
func Serve(listeners []*net.UnixListener, serve func(*net.UnixListener) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ended := make(chan error)
	for _, l := range listeners {
		context.AfterFunc(ctx, func() { l.Close() })
		go func() { ended <- serve(l) }()
	}
	var first error
	for range listeners {
		if err := <-ended; err != nil && first == nil {
			first = err
			stop()
		}
	}
	return first
}

// Close closes sockets that were passed.
func Close(passed []net.Listener) {
	for _, l := range passed {
		l.Close()
	}
}

// Notify tells systemd the state of the service, such as READY=1, if it asked for it.
func Notify(state string) {
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
