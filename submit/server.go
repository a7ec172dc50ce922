package submit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"sendmail-wrapper/wire"
)

// Bounds of the programs that run at a time: in all, and of one owner. Postfix's takes
// 10 ms for a message; one that hangs is some other's no longer than runTimeout.
const (
	atATime  = 32
	ofAnUser = 8
)

// A Server runs the real sendmail. Make it with New.
type Server struct {
	program func(profile string) (path string, err error) // the real sendmail, now; an error where it is not of this profile
	from    uint32                                        // uid of mailquotad
	log     zerolog.Logger

	places     *places
	runTimeout time.Duration
}

// New returns a server that takes requests of a user only, and runs what program returns.
func New(from uint32, program func(profile string) (path string, err error), log zerolog.Logger) *Server {
	return &Server{program: program, from: from, log: log, places: newPlaces(atATime, ofAnUser), runTimeout: runTimeout}
}

// Serve takes requests at a socket until that is closed, and returns when the last that
// has a place is answered. The others are not: their connections end, and who waits for a
// place asks the next server.
func (s *Server) Serve(l *net.UnixListener) error {
	var working sync.WaitGroup
	defer working.Wait()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil { // such as too many open files
			s.log.Error().Err(err).Msg("cannot take a message")
			time.Sleep(100 * time.Millisecond)
			continue
		}
		working.Go(func() {
			defer c.Close()
			defer func() {
				if p := recover(); p != nil {
					s.log.Error().Any("panic", p).Bytes("stack", debug.Stack()).Msg("a message ended by a fault of mailquota-submit")
				}
			}()
			if err := s.serve(ctx, c); err != nil {
				s.log.Error().Err(err).Msg("a message was not taken")
			}
		})
	}
}

// serve answers one connection, unless ctx ends before there is a place. An error is for the
// log: of a peer that is none, or has gone.
func (s *Server) serve(ctx context.Context, c *net.UnixConn) error {
	uid, err := peerOf(c)
	if err != nil {
		return err
	}
	if uid != s.from {
		return s.refuse(c, fmt.Errorf("uid %d is not mailquotad's", uid))
	}
	r, message, err := readRequest(c)
	if err != nil {
		return s.refuse(c, err) // or it would be asked again
	}
	defer message.Close()
	program, err := s.program(r.Profile)
	if err != nil {
		return s.refuse(c, err)
	}
	// mailquotad waits for half as long. Who has gone meanwhile is found out below.
	patience, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := s.places.enter(patience, r.Owner); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return s.refuse(c, err)
	}
	defer s.places.leave(r.Owner)
	stdin, err := r.stdin(message) // only now, as it may be a copy
	if err != nil {
		return s.refuse(c, err)
	}
	defer stdin.Close()
	message.Close()
	if err := c.SetDeadline(time.Now().Add(frameTimeout)); err != nil {
		return err
	}
	if ctx.Err() != nil { // it has its place only just now
		return nil
	}
	if _, err := c.Write([]byte{ready}); err != nil {
		return fmt.Errorf("mailquotad has not waited for a place: %w", err)
	}
	var word [1]byte
	if _, err := io.ReadFull(c, word[:]); err != nil || word[0] != start {
		return fmt.Errorf("mailquotad has not waited for a place: %w", err)
	}
	result := s.run(program, r, stdin)
	if err := c.SetDeadline(time.Now().Add(frameTimeout)); err != nil {
		return err
	}
	if err := writeFrame(c, result, nil); err != nil {
		s.log.Warn().Err(err).Uint32("uid", r.Owner).Int("exit", result.Exit).Str("ended", result.Ended).Msg("mailquotad is not there to hear what became of a message")
	}
	return nil
}

// refuse tells mailquotad that a message is not sent, and never will be. It returns why, and
// what kept mailquotad from hearing of it.
func (s *Server) refuse(c *net.UnixConn, why error) error {
	err := c.SetDeadline(time.Now().Add(frameTimeout))
	if err == nil {
		_, err = c.Write([]byte{0})
	}
	if err == nil {
		err = writeFrame(c, &Result{NotRun: why.Error()}, nil)
	}
	if err != nil {
		return fmt.Errorf("%w; mailquotad does not hear of it: %w", why, err)
	}
	return why
}

// peerOf returns the uid of who is at the other end, by the kernel's word.
func peerOf(c *net.UnixConn) (uid uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if ctlErr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); ctlErr != nil {
		return 0, ctlErr
	}
	if err != nil {
		return 0, os.NewSyscallError("getsockopt", err)
	}
	return cred.Uid, nil
}

// readRequest receives a request and its message, which the caller closes.
func readRequest(c *net.UnixConn) (r *Request, message *os.File, err error) {
	if err := c.SetDeadline(time.Now().Add(frameTimeout)); err != nil {
		return nil, nil, err
	}
	first, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*4))
	n, oobn, flags, _, err := c.ReadMsgUnix(first, oob) // with MSG_CMSG_CLOEXEC
	if err != nil {
		return nil, nil, err
	}
	fds, err := descriptors(oob[:oobn])
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	if err != nil {
		return nil, nil, err
	}
	if len(fds) != 1 || flags&unix.MSG_CTRUNC != 0 {
		return nil, nil, fmt.Errorf("a request brings 1 descriptor, not %d", len(fds))
	}
	r = new(Request)
	if err := readFrame(io.MultiReader(bytes.NewReader(first[:n]), c), r, maxRequest); err != nil {
		return nil, nil, err
	}
	if len(r.Argv) == 0 {
		return nil, nil, errors.New("no command line")
	}
	message = os.NewFile(uintptr(fds[0]), "message")
	fds = nil
	return r, message, nil
}

// descriptors are those that came along.
func descriptors(oob []byte) (fds []int, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	for i := range messages {
		if more, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, more...)
		}
	}
	return fds, err
}

// maxTraced is up to what size, in bytes, a message is copied for its trace field, as in
// the wrapper.
const maxTraced = 16 << 20

// stdin is the message as the real sendmail shall have it, with an offset of its own.
func (r *Request) stdin(message *os.File) (*os.File, error) {
	size, err := wire.CheckSealed(message)
	if err != nil {
		return nil, err
	}
	if r.TraceAt < 0 || r.TraceAt > size {
		return nil, errors.New("the trace field is outside the message")
	}
	if r.Trace == "" || size > maxTraced {
		again, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", message.Fd()))
		if err == nil || size > maxTraced {
			return again, err
		}
		r.Trace = "" // its mode, which the caller may have changed, shuts us out
	}
	fd, err := unix.MemfdCreate("message", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	copied := os.NewFile(uintptr(fd), "message")
	// By pread(2), since the caller has the offset, too.
	parts := io.MultiReader(io.NewSectionReader(message, 0, r.TraceAt), bytes.NewReader([]byte(r.Trace)), io.NewSectionReader(message, r.TraceAt, size-r.TraceAt))
	_, err = io.Copy(copied, parts)
	if err == nil {
		_, err = copied.Seek(0, io.SeekStart)
	}
	if err != nil {
		copied.Close()
		return nil, err
	}
	return copied, nil
}
