package wire

import (
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// readStep is how much is read at once: memory grows with the bytes that
// arrive, never with the length that a stranger claims.
const readStep = 64 << 10

// ReadRequest reads one request and the message that comes with OpSubmit (nil
// with others; the caller closes it) from a *net.UnixConn, which may have a
// deadline. Bytes that are no request give a *ProtocolError; then all
// descriptors that came along are closed.
func ReadRequest(c syscall.Conn) (*Request, *os.File, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	r := requestReader{raw: raw, buf: make([]byte, 0, 4096)}
	defer r.closeAll()
	if err := r.fill(headerLen); err != nil {
		return nil, nil, err
	}
	n, err := frameLength(r.buf, MaxRequest)
	if err != nil {
		return nil, nil, err
	}
	if err := r.fill(headerLen + n); err != nil {
		return nil, nil, err
	}
	req, err := decodeRequest(r.buf[headerLen:])
	if err != nil {
		return nil, nil, err
	}
	want := 0
	if req.Op == OpSubmit {
		want = 1
	}
	if r.truncated || len(r.fds) != want {
		return nil, nil, &ProtocolError{"a request of this kind brings " + strconv.Itoa(want) + " descriptors, not " + strconv.Itoa(len(r.fds))}
	}
	if want == 0 {
		return req, nil, nil
	}
	message := os.NewFile(uintptr(r.fds[0]), "message")
	r.fds = nil
	return req, message, nil
}

type requestReader struct {
	raw       syscall.RawConn
	buf       []byte
	fds       []int
	truncated bool // descriptors were lost: more than fit
}

// fill reads until buf holds exactly total bytes: what follows the frame is
// left in the socket, for there is one request a connection.
func (r *requestReader) fill(total int) error {
	// Room for a few more descriptors than one, to see and close them. What
	// does not fit, the kernel closes and says MSG_CTRUNC.
	oob := make([]byte, unix.CmsgSpace(4*4))
	for len(r.buf) < total {
		start := len(r.buf)
		step := min(total-start, readStep)
		r.buf = append(r.buf, make([]byte, step)...)
		var n, oobn, flags int
		var err error
		waitErr := r.raw.Read(func(fd uintptr) bool {
			n, oobn, flags, _, err = unix.Recvmsg(int(fd), r.buf[start:], oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
			return err != unix.EAGAIN && err != unix.EINTR
		})
		r.buf = r.buf[:start+max(n, 0)]
		if waitErr != nil {
			return waitErr // the deadline passed, or the connection was closed
		}
		if err != nil {
			return os.NewSyscallError("recvmsg", err)
		}
		r.takeDescriptors(oob[:oobn])
		r.truncated = r.truncated || flags&unix.MSG_CTRUNC != 0
		if n == 0 {
			return &ProtocolError{"connection closed after " + strconv.Itoa(start) + " bytes of a request"}
		}
	}
	return nil
}

func (r *requestReader) takeDescriptors(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		r.truncated = true
		return
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			r.fds = append(r.fds, fds...)
		}
	}
}

func (r *requestReader) closeAll() {
	for _, fd := range r.fds {
		unix.Close(fd)
	}
}

// seals are all that a message must have: nobody can write to it, change its
// size, or take the seals away (memfd_create(2), fcntl(2) "File Sealing").
const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL

// CheckSealed returns the size of a message that nobody can change any more. A
// *ProtocolError says that it is not one: a pipe, a file on disk that would
// block or change while it is read, or a memfd without its seals.
func CheckSealed(f *os.File) (size int64, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var have int
	var stat unix.Stat_t
	var statErr error
	ctlErr := raw.Control(func(fd uintptr) {
		if have, err = unix.FcntlInt(fd, unix.F_GET_SEALS, 0); err == nil {
			statErr = unix.Fstat(int(fd), &stat)
		}
	})
	switch {
	case ctlErr != nil:
		return 0, ctlErr
	case err != nil:
		return 0, &ProtocolError{"the message is not in a memfd"}
	case have&seals != seals:
		return 0, &ProtocolError{"the message's memfd is not sealed"}
	case statErr != nil:
		return 0, os.NewSyscallError("fstat", statErr)
	}
	return stat.Size, nil
}

// WriteReply sends the answer.
func WriteReply(w io.Writer, r *Reply) error {
	frame, err := r.AppendFrame(nil)
	if err != nil {
		return err
	}
	_, err = w.Write(frame)
	return err
}
