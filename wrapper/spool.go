package wrapper

import (
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/sendmail"
)

// chunk is how much of standard input is held at once.
const chunk = 64 << 10

// spoolError is a failure on the way from standard input to the memfd.
type spoolError struct {
	exit int
	text string
}

// spool returns a sealed memfd with the message: standard input to its end for
// Submit, nothing for the other modes, which leave standard input alone. It
// stops at max bytes (0: no bound) and says so.
func spool(mode sendmail.Mode, max int64) (message *os.File, truncated bool, failure *spoolError) {
	fd, err := unix.MemfdCreate("message", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, false, &spoolError{exOSErr, "memfd_create: " + err.Error()}
	}
	if mode == sendmail.Submit {
		if truncated, failure = copyStdin(fd, max); failure != nil {
			unix.Close(fd)
			return nil, false, failure
		}
	}
	seals := unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		unix.Close(fd)
		return nil, false, &spoolError{exOSErr, "seal message: " + err.Error()}
	}
	return os.NewFile(uintptr(fd), "message"), truncated, nil
}

func copyStdin(fd int, bound int64) (truncated bool, failure *spoolError) {
	if bound == 0 {
		bound = math.MaxInt64
	}
	// A write beyond RLIMIT_FSIZE (ulimit -f) raises SIGXFSZ, at which Go prints
	// a trace; so stop before it.
	room := int64(math.MaxInt64)
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_FSIZE, &limit) == nil && limit.Cur < math.MaxInt64 {
		room = int64(limit.Cur)
	}
	buf := make([]byte, chunk)
	for total := int64(0); ; {
		n, err := readStdin(buf)
		if err != nil {
			return false, &spoolError{exIOErr, "standard input: " + err.Error()}
		}
		if n == 0 {
			return false, nil
		}
		if int64(n) > bound-total {
			return true, nil
		}
		if int64(n) > room-total {
			return false, &spoolError{exOSErr, "message is longer than the file size limit (ulimit -f) of " + strconv.FormatInt(room, 10) + " bytes"}
		}
		for rest := buf[:n]; len(rest) > 0; {
			w, err := unix.Write(fd, rest)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return false, &spoolError{exOSErr, "hold message: " + err.Error()}
			}
			rest = rest[w:]
		}
		total += int64(n)
	}
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
func drain(mode sendmail.Mode) {
	if mode != sendmail.Submit {
		return
	}
	buf := make([]byte, chunk)
	for {
		if n, err := readStdin(buf); n == 0 || err != nil {
			return
		}
	}
}
