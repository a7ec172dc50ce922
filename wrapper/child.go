package wrapper

import (
	"bytes"
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/sendmail"
)

// child is the real sendmail, where a dialogue is passed on to it. It reads a pipe
// of ours, and so it ends where this process ends, however that comes about.
type child struct {
	pid  int
	exit int // pidfd, readable once it has ended; -1 on a kernel before 5.3

	// Our ends of the pipes, which never block.
	in  int // its standard input
	out int // its standard output; -1: it writes to ours

	said []byte // and not yet taken
	deaf bool   // it reads no more
	gone bool   // it says no more
}

// maxSaid is more than any MTA says before it waits for the client.
const maxSaid = 64 << 10

// startChild starts the real sendmail as the caller has started us, but for
// standard input and, where it is to be heard, standard output.
func startChild(path string, argv []string, heard bool) (*child, *fault) {
	in, out := [2]int{-1, -1}, [2]int{-1, 1}
	err := unix.Pipe2(in[:], unix.O_CLOEXEC)
	if err == nil && heard {
		err = unix.Pipe2(out[:], unix.O_CLOEXEC)
	}
	if err != nil {
		return nil, &fault{exOSErr, "pipe2: " + err.Error()}
	}
	c := &child{in: in[1], out: out[0]}
	// With SIGPIPE ignored, nullmailer goes on where its queue ends in mid content,
	// and takes the rest for commands (smtpd.cc, DATA). Other MTAs set it themselves.
	setAction(unix.SIGPIPE, sigDefault)
	defer setAction(unix.SIGPIPE, sigIgnore)
	c.pid, err = syscall.ForkExec(path, argv, &syscall.ProcAttr{Env: environment(), Files: []uintptr{uintptr(in[0]), inheritDescriptor(out[1]), inheritDescriptor(2)}})
	if err != nil {
		return nil, &fault{exConfig, "cannot execute " + path + ": " + err.Error()}
	}
	inheritChild(c.pid)
	unix.Close(in[0])
	err = unix.SetNonblock(c.in, true)
	if heard {
		unix.Close(out[1])
		err = errors.Join(err, unix.SetNonblock(c.out, true))
	}
	if err != nil {
		return nil, &fault{exOSErr, "fcntl: " + err.Error()}
	}
	if c.exit, err = unix.PidfdOpen(c.pid, 0); err != nil {
		c.exit = -1
	}
	return c, nil
}

// wait waits until the MTA has said something or has gone, or until a descriptor
// (-1: none) is ready. As the MTA is always listened to meanwhile, neither side
// can wait for the other with both pipes full.
func (c *child) wait(fd int, events int16) (ready bool) {
	if fd < 0 && c.out < 0 && c.exit < 0 {
		c.gone = true // nothing of it can be waited for but its status
		return false
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}, {Fd: int32(c.out), Events: unix.POLLIN}, {Fd: int32(c.exit), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, -1); err != nil {
		return false // EINTR: the caller looks again
	}
	if fds[1].Revents != 0 || fds[2].Revents != 0 {
		c.hear()
	}
	c.gone = c.gone || fds[2].Revents != 0
	return fds[0].Revents != 0
}

// hear takes what the MTA has said so far.
func (c *child) hear() {
	if c.said == nil {
		c.said = make([]byte, 0, maxSaid)
	}
	for c.out >= 0 && !c.gone {
		n, err := unix.Read(c.out, c.said[len(c.said):maxSaid])
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN {
			return
		}
		c.said = c.said[:len(c.said)+max(n, 0)]
		c.gone = n <= 0 || len(c.said) == maxSaid
	}
}

// next is the first whole reply of what was said, nil if there is none.
func (c *child) next() (reply []byte, code int) {
	n, code := sendmail.ReplyLen(c.said)
	if n == 0 {
		return nil, 0
	}
	reply = bytes.Clone(c.said[:n])
	c.said = append(c.said[:0], c.said[n:]...)
	return reply, code
}

// reply waits for a reply. Not ok: the MTA has gone, and these are its last words.
func (c *child) reply() (reply []byte, code int, ok bool) {
	for {
		if reply, code = c.next(); reply != nil {
			return reply, code, true
		}
		if c.gone {
			reply, c.said = c.said, nil
			return reply, 0, false
		}
		c.wait(-1, 0)
	}
}

// write has no error: an MTA that reads no more may still say why.
func (c *child) write(b []byte) {
	for len(b) > 0 && !c.deaf && !c.gone {
		n, err := unix.Write(c.in, b)
		b = b[max(n, 0):]
		c.afterWrite(err)
	}
}

// send writes a part of a message.
func (c *child) send(message *os.File, offset, end int64) {
	for offset < end && !c.deaf && !c.gone {
		_, err := unix.Sendfile(c.in, int(message.Fd()), &offset, int(min(end-offset, chunk)))
		c.afterWrite(err)
	}
}

func (c *child) afterWrite(err error) {
	switch err {
	case nil, unix.EINTR:
	case unix.EAGAIN:
		c.wait(c.in, unix.POLLOUT)
	default:
		c.deaf = true
		if err != unix.EPIPE { // it must not queue a part of a message
			_ = unix.Kill(c.pid, unix.SIGKILL) // it has ended already
		}
	}
}

// hangUp ends its standard input, at which it ends.
func (c *child) hangUp() {
	unix.Close(c.in)
	c.in, c.deaf = -1, true
}

// status waits for its end, and is its exit status. Where a signal ended it, the
// same signal ends us.
func (c *child) status() int {
	unix.Close(c.out)
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(c.pid, &status, 0, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil: // ECHILD: the caller ignores SIGCHLD, and it ended before inheritChild
			return 0
		case !status.Signaled():
			return status.ExitStatus()
		}
		setAction(status.Signal(), sigDefault) // where Go's own handler would print a trace
		unix.Tgkill(unix.Getpid(), unix.Gettid(), status.Signal())
		return 128 + int(status.Signal()) // a signal that does not end us; so says a shell
	}
}
