package wrapper

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/wire"
)

// maxTrace bounds the header field that mailquotad has put into a message: a name of
// 64 bytes, an id, and line ends.
const maxTrace = 256

// maxTraced is up to what size, in bytes, a message is copied. The memory counts for
// the caller's control group: a big mail that it has room for once shall not have him
// killed.
const maxTraced = 16 << 20

// traceOf is what of the reply is to be put into a message of size bytes, "" for
// nothing. mailquotad is trusted; a text that could be more than one field, or a
// place outside the message, is a fault that shall spoil no mail.
func traceOf(reply *wire.Reply, size int64) string {
	field := strings.TrimRight(reply.Trace, "\r\n")
	if len(reply.Trace) > maxTrace || reply.TraceAt < 0 || reply.TraceAt > size || !strings.HasSuffix(reply.Trace, "\n") || strings.IndexByte(field, ':') < 1 {
		return ""
	}
	for i := range len(field) {
		if field[i] < ' ' || field[i] > '~' {
			return ""
		}
	}
	return reply.Trace
}

// traced is the message, of size bytes, with the field in it that the reply asks for:
// a copy, made in the kernel. Where it cannot be made, for lack of memory, of
// descriptors, or by a limit of the caller's, and where it would be of more than
// maxTraced, it is the message itself, since mail without the field is better than none.
func traced(message *os.File, size int64, reply *wire.Reply) *os.File {
	text := traceOf(reply, size)
	if text == "" || size > maxTraced {
		return message
	}
	copied := newSpool(0)
	copied.copyFile(message, 0, reply.TraceAt)
	copied.write([]byte(text))
	copied.copyFile(message, reply.TraceAt, size)
	with, failure := copied.seal()
	if failure != nil {
		return message
	}
	message.Close()
	return with
}

// copyFile adds a part of a file.
func (s *spool) copyFile(from *os.File, at, end int64) {
	for at < end && s.failure == nil {
		if end-at > s.room-s.size {
			s.failure = &fault{exOSErr, "message is longer than the file size limit (ulimit -f)"}
			return
		}
		n, err := unix.Sendfile(s.fd, int(from.Fd()), &at, int(end-at))
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
		case err != nil:
			s.failure = &fault{exOSErr, "copy message: " + err.Error()}
		case n == 0:
			s.failure = &fault{exOSErr, "copy message: it has become shorter"}
		default:
			s.size += int64(n)
		}
	}
}

// sendTraced gives a message to the MTA as the content that follows DATA, with the
// field that the reply asks for: there each line ends in CR LF.
func (c *child) sendTraced(message *os.File, size int64, reply *wire.Reply) {
	text := traceOf(reply, size)
	if text == "" {
		c.send(message, 0, size)
		return
	}
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\n", "\r\n")
	c.send(message, 0, reply.TraceAt)
	c.write([]byte(text))
	c.send(message, reply.TraceAt, size)
}
