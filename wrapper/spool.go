package wrapper

import (
	"bytes"
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// chunk is how much of standard input is held at once.
const chunk = 64 << 10

// fault is why a call ends without the real sendmail: the exit status, and what
// the caller is told.
type fault struct {
	exit int
	text string
}

// spool is a memfd that takes a message, to a bound.
type spool struct {
	fd        int
	size      int64
	bound     int64 // bytes that it takes
	room      int64 // bytes that the process may write
	truncated bool  // there was more than bound
	dotted    bool  // a lone dot has ended it: the writer may wait, and not close
	failure   *fault
}

// newSpool makes one for at most bound bytes (0: no bound). A failure is kept in
// it until the message is sealed, since whoever sends it wants to send all of it.
func newSpool(bound int64) *spool {
	s := &spool{bound: bound, room: math.MaxInt64}
	if bound == 0 {
		s.bound = math.MaxInt64
	}
	// A write beyond RLIMIT_FSIZE (ulimit -f) raises SIGXFSZ, at which Go prints
	// a trace; so stop before it.
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_FSIZE, &limit) == nil && limit.Cur < math.MaxInt64 {
		s.room = int64(limit.Cur)
	}
	var err error
	if s.fd, err = unix.MemfdCreate("message", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING); err != nil {
		s.failure = &fault{exOSErr, "memfd_create: " + err.Error()}
	}
	return s
}

// write adds to the message. What comes after a failure, or after more than the
// bound, is dropped.
func (s *spool) write(b []byte) {
	switch n := int64(len(b)); {
	case s.failure != nil || s.truncated:
		return
	case n > s.bound-s.size:
		s.truncated = true
		return
	case n > s.room-s.size:
		s.failure = &fault{exOSErr, "message is longer than the file size limit (ulimit -f) of " + strconv.FormatInt(s.room, 10) + " bytes"}
		return
	}
	for len(b) > 0 {
		n, err := unix.Write(s.fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			s.failure = &fault{exOSErr, "hold message: " + err.Error()}
			return
		}
		s.size, b = s.size+int64(n), b[n:]
	}
}

// seal ends the message: nobody can change it any more.
func (s *spool) seal() (*os.File, *fault) {
	if s.failure == nil {
		seals := unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
		if _, err := unix.FcntlInt(uintptr(s.fd), unix.F_ADD_SEALS, seals); err != nil {
			s.failure = &fault{exOSErr, "seal message: " + err.Error()}
		}
	}
	if s.failure != nil {
		s.drop()
		return nil, s.failure
	}
	return os.NewFile(uintptr(s.fd), "message"), nil
}

// drop gives up a message that was not sealed.
func (s *spool) drop() {
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}

// copyStdin adds standard input, to its end or to the bound; and, where dots is
// set, no more than has been read with a line of a lone dot. The real sendmail
// reads no further, and so somebody who types a message waits for it, or a program
// that keeps the pipe open. A dot before CR LF is left out: not every MTA takes it.
func (s *spool) copyStdin(dots bool) {
	buf := make([]byte, chunk)
	dot := []byte("\n.\n")
	last := []byte("\n") // at most two bytes before buf
	for s.failure == nil && !s.truncated && !s.dotted {
		n, err := readStdin(buf)
		if err != nil {
			s.failure = &fault{exIOErr, "standard input: " + err.Error()}
		}
		if n == 0 {
			return
		}
		s.write(buf[:n])
		if dots {
			seam := append(last, buf[:min(n, 2)]...)
			s.dotted = bytes.Contains(seam, dot) || bytes.Contains(buf[:n], dot)
			last = append(last, buf[max(n-2, 0):n]...)
			last = last[max(len(last)-2, 0):]
		}
	}
}

// readable is false where each read(2) of standard input must fail: it was
// closed, is open for writing or as a path only, or is a directory. What the real
// sendmail makes of that, it shall say itself; for us it is an empty message. No
// other error is left to it: a socket gives one once, and then the message.
func readable() bool {
	if callerClosed&1 != 0 {
		return false
	}
	flags, err := unix.FcntlInt(0, unix.F_GETFL, 0)
	if err != nil || flags&unix.O_PATH != 0 || flags&unix.O_ACCMODE != unix.O_RDONLY && flags&unix.O_ACCMODE != unix.O_RDWR {
		return false
	}
	var stat unix.Stat_t
	return unix.Fstat(0, &stat) != nil || stat.Mode&unix.S_IFMT != unix.S_IFDIR
}

// readStdin is read(2) that also waits where the caller left standard input
// non-blocking.
func readStdin(buf []byte) (int, error) {
	for {
		n, err := unix.Read(0, buf)
		switch err {
		case nil:
			return n, nil
		case unix.EINTR:
		case unix.EAGAIN:
			if err := wait(0, unix.POLLIN); err != nil {
				return 0, err
			}
		default:
			return 0, err
		}
	}
}

func wait(fd int, events int16) error {
	_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, -1)
	if err == unix.EINTR {
		return nil
	}
	return err
}

// drain reads standard input to its end: a caller that still writes would get
// SIGPIPE or EPIPE instead of the exit status and the reason.
func drain() {
	buf := make([]byte, chunk)
	for {
		if n, err := readStdin(buf); n == 0 || err != nil {
			return
		}
	}
}
