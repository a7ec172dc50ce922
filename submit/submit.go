// Package submit gives mail to the mail server in the name of users, for mailquotad
// which has counted it: it runs the real sendmail, as a user of its own, whom alone
// the mail server has to take mail from then.
//
// # Protocol
//
// A connection is a message. mailquotad sends a [Request] and with its first bytes
// the sealed memfd; the server answers once there is a place; mailquotad says go;
// the server runs the real sendmail, and answers with a [Result]. So each knows at
// any time what the other does when it dies: before go nothing is ever sent,
// and after it the message is, whatever becomes of mailquotad and of the user's own
// process. A connection that ends before there is a place has brought about nothing, and is
// made anew: so a server that is stopped gives those that wait to the next, which
// systemd starts at the same socket. A frame is its length as a big-endian uint32, and JSON.
//
// # The program
//
// It is the real-sendmail of wrapper.conf, with the command line that mailquotad has
// made (sendmail.Profile.HandOver), by the rules of the mail server that wrapper.conf
// names: which these are, the caller says, and by another's a message may count less.
// Environment, directory and all descriptors are
// the server's own, and it has a process group of its own. How many run at a time is
// bounded, and how many of one owner; others wait in their order. One that takes too
// long is ended, and nobody knows then whether its message is queued.
//
// # The message
//
// Standard input is a file and no pipe: the end of a pipe is the end of the message, so
// that of a server that was killed a part would be queued. It is a memfd with the
// trace field in it, or the caller's own, opened anew: since he has a descriptor of
// that, he could seek in the middle of it, but not by ours, which has an offset of its
// own. That nobody can write to it is checked here again.
package submit

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Request is a message to be sent.
type Request struct {
	Owner   uint32   // uid of the user whose it is
	Profile string   // name of the mail server by whose rules it was counted and Argv was made
	Argv    [][]byte // of the real sendmail
	Trace   string   // is put into the message, at the offset TraceAt; "" for nothing
	TraceAt int64
}

// Result is what became of it.
type Result struct {
	NotRun string // why the real sendmail was not run: nothing was sent; "" if it was
	Ended  string // how it ended, where it has no exit status: then nobody knows whether it has queued the message
	Exit   int    // status

	Stdout, Stderr []byte // the first wire.MaxOutput bytes
}

// Longest frames, in bytes: of a Request, whose command line JSON makes longer by a
// third, and of a Result.
const (
	maxRequest = 8 << 20
	maxResult  = 1 << 20
)

// frameTimeout bounds the wait for a peer that is there and has something to say.
const frameTimeout = 10 * time.Second

// ready is what the server says when it has a place, and start what the client then says.
const (
	ready byte = 'R'
	start byte = 'G'
)

// NotRunError says that a message was not sent, and never will be.
type NotRunError struct{ Err error }

func (e *NotRunError) Error() string { return e.Err.Error() }
func (e *NotRunError) Unwrap() error { return e.Err }

// Waits before a server is asked again, the first and the longest.
const (
	firstWait = 100 * time.Millisecond
	maxWait   = time.Second
)

// Send has a message sent, by the server that listens at a socket, or the next one there if that
// is stopped before it has a place: ctx bounds the wait for a place, and nothing behind
// it. A NotRunError says that nothing was sent, and another error that this is not known.
func Send(ctx context.Context, socket string, r *Request, message *os.File) (*Result, error) {
	for wait := firstWait; ; wait = min(2*wait, maxWait) {
		c, err := getPlace(ctx, socket, r, message)
		if err == nil {
			defer c.Close()
			return sendAt(c)
		}
		if !isGone(err) {
			return nil, &NotRunError{err}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, &NotRunError{fmt.Errorf("mailquota-submit has no place: %w (%w)", context.Cause(ctx), err)}
		}
	}
}

// isGone is whether an error is that of a server that has ended, or of one that is about to start
// and for which more wait than its socket holds.
func isGone(err error) bool {
	for _, gone := range []error{io.EOF, io.ErrUnexpectedEOF, unix.ECONNRESET, unix.EPIPE, unix.EAGAIN} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// getPlace returns a connection to a server that has a place for a message, and waits for the word
// to start it. Where there is an error, it never gets it.
func getPlace(ctx context.Context, socket string, r *Request, message *os.File) (placed *net.UnixConn, err error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	goOn := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer goOn()
	err = writeFrame(c, r, unix.UnixRights(int(message.Fd())))
	var place [1]byte
	if err == nil || isGone(err) { // who has gone may have said why
		_, err = io.ReadFull(c, place[:])
	}
	if err != nil {
		return nil, fmt.Errorf("mailquota-submit has no place: %w", cmp.Or(context.Cause(ctx), err))
	}
	if place[0] != ready {
		var result Result
		if err := readFrame(c, &result, maxResult); err != nil {
			return nil, cmp.Or(context.Cause(ctx), err)
		}
		return nil, errors.New(result.NotRun)
	}
	if !goOn() {
		return nil, context.Cause(ctx)
	}
	return c, nil
}

// sendAt has a message sent that has a place.
func sendAt(c *net.UnixConn) (*Result, error) {
	if err := c.SetDeadline(time.Now().Add(runTimeout + 2*killTimeout + frameTimeout)); err != nil {
		return nil, &NotRunError{err}
	}
	if _, err := c.Write([]byte{start}); err != nil {
		return nil, &NotRunError{err}
	}
	var result Result
	if err := readFrame(c, &result, maxResult); err != nil {
		return nil, fmt.Errorf("mailquota-submit has not said what became of the message: %w", err)
	}
	if result.NotRun != "" {
		return nil, &NotRunError{errors.New(result.NotRun)}
	}
	return &result, nil
}

// writeFrame sends v, and descriptors with its first bytes.
func writeFrame(c *net.UnixConn, v any, rights []byte) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	n, _, err := c.WriteMsgUnix(frame, rights, nil)
	if err == nil && n < len(frame) {
		_, err = c.Write(frame[n:])
	}
	return err
}

// readFrame receives v.
func readFrame(r io.Reader, v any, max uint32) error {
	var header [4]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(header[:])
	if n > max {
		return fmt.Errorf("frame of %d bytes: at most %d are taken", n, max)
	}
	// Memory grows with what arrives.
	body, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return err
	}
	if len(body) < int(n) {
		return io.ErrUnexpectedEOF
	}
	return json.Unmarshal(body, v)
}
