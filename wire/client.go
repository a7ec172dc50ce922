package wire

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// UnreachableError says that no daemon answers: the socket is missing, nobody
// listens, it closed before its reply, or the time is over. An error of any
// other type is the caller's own doing (no descriptors left, no memory, a
// command line that is too long): a caller can bring that about whenever he
// likes, so it must never let a message pass.
type UnreachableError struct {
	Err   error
	Asked bool // the request was sent whole: a message may be counted, and handed over
}

func (e *UnreachableError) Error() string { return "mailquotad does not answer: " + e.Err.Error() }
func (e *UnreachableError) Unwrap() error { return e.Err }

// Ask sends a request, with the sealed memfd of the message for OpSubmit (nil
// otherwise), and waits for the reply, for at most timeout in all.
//
// It uses system calls and not package net, because it runs at every mail and
// net costs as much to start as everything else here together.
func Ask(socket string, r *Request, message *os.File, timeout time.Duration) (*Reply, error) {
	frame, err := r.AppendFrame(nil)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	c := client{fd: fd, deadline: time.Now().Add(timeout)}
	if err := c.connect(socket); err != nil {
		return nil, err
	}
	// A daemon that has seen enough may answer and close before it has read
	// everything: the answer counts, then.
	sendErr := c.send(frame, message)
	if sendErr != nil && !errors.As(sendErr, new(*UnreachableError)) {
		return nil, sendErr
	}
	reply, err := c.receive()
	if err != nil && sendErr != nil {
		return nil, sendErr
	}
	if unreachable := (*UnreachableError)(nil); errors.As(err, &unreachable) {
		unreachable.Asked = true
	}
	return reply, err
}

type client struct {
	fd       int
	deadline time.Time
}

// before sets the time that the next call on the socket may take. SO_SNDTIMEO
// bounds connect(2), too (socket(7)): it blocks while the backlog is full.
func (c *client) before(option int) error {
	left := time.Until(c.deadline)
	if left <= 0 {
		return &UnreachableError{Err: unix.ETIMEDOUT}
	}
	tv := unix.NsecToTimeval(max(left, time.Microsecond).Nanoseconds())
	return os.NewSyscallError("setsockopt", unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, option, &tv))
}

func (c *client) connect(socket string) error {
	for {
		if err := c.before(unix.SO_SNDTIMEO); err != nil {
			return err
		}
		err := unix.Connect(c.fd, &unix.SockaddrUnix{Name: socket})
		if err == unix.EINTR {
			continue
		}
		return classify("connect "+socket, err)
	}
}

func (c *client) send(frame []byte, message *os.File) error {
	var rights []byte
	if message != nil {
		rights = unix.UnixRights(int(message.Fd()))
	}
	for len(frame) > 0 {
		if err := c.before(unix.SO_SNDTIMEO); err != nil {
			return err
		}
		n, err := unix.SendmsgN(c.fd, frame, rights, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return classify("sendmsg", err)
		}
		frame, rights = frame[n:], nil
	}
	return nil
}

func (c *client) receive() (*Reply, error) {
	buf := make([]byte, 0, 4096)
	total := headerLen
	for len(buf) < total {
		start := len(buf)
		buf = append(buf, make([]byte, min(total-start, readStep))...)
		if err := c.before(unix.SO_RCVTIMEO); err != nil {
			return nil, err
		}
		n, _, err := unix.Recvfrom(c.fd, buf[start:], 0)
		buf = buf[:start+max(n, 0)]
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, classify("recv", err)
		case n == 0:
			return nil, &UnreachableError{Err: io.ErrUnexpectedEOF}
		}
		if len(buf) == headerLen {
			n, err := frameLength(buf, MaxReply)
			if err != nil {
				return nil, err
			}
			total += n
		}
	}
	return decodeReply(buf[headerLen:])
}

// classify tells a daemon that is away from a fault on the caller's side.
func classify(call string, err error) error {
	switch err {
	case nil:
		return nil
	case unix.ENOENT, unix.ENOTDIR, unix.ECONNREFUSED, unix.ECONNRESET, unix.EPIPE, unix.EAGAIN,
		unix.ETIMEDOUT, unix.EACCES, unix.EPERM, unix.EPROTOTYPE, unix.ENOTSOCK:
		return &UnreachableError{Err: os.NewSyscallError(call, err)}
	}
	return os.NewSyscallError(call, err)
}
