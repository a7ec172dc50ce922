package origin

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Peer is the process at the other end of a unix socket, as the kernel noted it
// when the process connected, or who has made that of a TCP connection (Finder.Client).
// Close it after use.
type Peer struct {
	PID      int // in the daemon's pid namespace; 0 if it cannot be seen from there
	UID, GID uint32

	pidfd int  // -1 if there is none
	gone  bool // the process had ended before a pidfd could be had

	smtp   bool   // a client of the mail server
	socket uint32 // inode of its socket; 0 if no process has that open any more
}

// PeerOf returns the process that connected c. It fails only if the kernel does
// not tell the peer's uid: a process that has ended meanwhile, or that lives in
// a foreign pid namespace, is a Peer too, about which Find learns no more than
// the uid.
func PeerOf(c *net.UnixConn) (*Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("get the descriptor of a caller's connection: %w", err)
	}
	var p *Peer
	var failure error
	err = raw.Control(func(fd uintptr) { p, failure = peerOf(int(fd)) })
	if err == nil {
		err = failure
	}
	if err != nil {
		return nil, fmt.Errorf("ask the kernel for the peer of a connection: %w", err)
	}
	return p, nil
}

func peerOf(fd int) (*Peer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, fmt.Errorf("getsockopt SO_PEERCRED: %w", err)
	}
	p := &Peer{PID: int(cred.Pid), UID: cred.Uid, GID: cred.Gid, pidfd: -1}
	if p.PID <= 0 {
		p.PID = 0
		return p, nil
	}
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	switch {
	case err == nil:
		p.pidfd = pidfd
	case errors.Is(err, unix.ENOPROTOOPT):
		p.openByNumber()
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL):
		// Kernels 6.5 to 6.15 give no pidfd of a process that has been reaped.
		p.gone = true
	}
	return p, nil
}

// openByNumber gets a pidfd where the kernel is older than 6.5 and has no
// SO_PEERPIDFD. The pid may be another process's by then; one of another user is
// told by its uid. One of the same user is not, and would make him the author of
// his own mail by another of his programs: no other's.
func (p *Peer) openByNumber() {
	pidfd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		p.gone = errors.Is(err, unix.ESRCH)
		return
	}
	pr := openProcess(p.PID)
	if pr == nil {
		unix.Close(pidfd)
		return
	}
	defer pr.close()
	if pr.uids[1] != p.UID {
		unix.Close(pidfd)
		p.gone = true
		return
	}
	p.pidfd = pidfd
}

// Alive reports whether the process still runs, as far as the kernel can tell:
// a zombie does not, one without a pidfd is taken to run.
func (p *Peer) Alive() bool {
	if p.gone || p.pidfd < 0 {
		return !p.gone
	}
	return !ended(p.pidfd)
}

// ended asks a pidfd. What cannot be asked has ended, too.
func ended(pidfd int) bool {
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Ppoll(poll, &unix.Timespec{}, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err != nil || n != 0
	}
}

// End tells when a process ends. Take it with Peer.End.
type End struct{ pidfd *os.File }

// End takes the pidfd over, of which the peer then has none any more. It is nil where
// the kernel does not tell, or the process has ended.
func (p *Peer) End() *End {
	if p.pidfd < 0 || !p.Alive() {
		return nil
	}
	// os.NewFile has those that do not block watched by epoll(7).
	if err := unix.SetNonblock(p.pidfd, true); err != nil {
		return nil
	}
	e := &End{os.NewFile(uintptr(p.pidfd), "pidfd")}
	p.pidfd = -1
	return e
}

// Wait returns once the process has ended, or is a zombie, or Stop was called. It is
// called once, at most.
func (e *End) Wait() {
	defer e.pidfd.Close()
	c, err := e.pidfd.SyscallConn()
	if err != nil { // stopped
		return
	}
	c.Read(func(fd uintptr) bool { return ended(int(fd)) }) // an error is Stop, or that it cannot be watched
}

// Stop ends Wait, and releases the pidfd. It may be called on nil, and several times.
func (e *End) Stop() {
	if e != nil {
		e.pidfd.Close()
	}
}

// known reports whether what /proc says of PID is about this process: it holds
// until the next moment only, so ask after reading.
func (p *Peer) known() bool { return p.pidfd >= 0 && p.Alive() }

// Close releases the pidfd. It may be called twice.
func (p *Peer) Close() {
	if p.pidfd >= 0 {
		unix.Close(p.pidfd)
		p.pidfd = -1
	}
}

// startedAt turns a start time of proc_pid_stat(5), in clock ticks since boot,
// into the time of day.
func startedAt(ticks uint64) time.Time {
	// USER_HZ is 100 on all architectures that Go runs on (getauxval(3), AT_CLKTCK).
	const tick = time.Second / 100
	var boot unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(ticks)*tick - time.Duration(boot.Nano()))
}
