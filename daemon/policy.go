package daemon

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/policy"
)

// policyBuffer holds a whole request of Postfix (some 700 bytes), so that it is
// read with one system call; many connections are idle, so it is not larger.
const policyBuffer = 2 << 10

// maxPipelined is the most requests of one connection that are worked on at a time:
// more than the recipients that Postfix's queue manager delivers together
// (default_destination_recipient_limit, 50).
const maxPipelined = 64

// listenPolicySocket makes the socket of Postfix's policy protocol, nil where it is
// off. Who may connect is the group of the process: whoever can, can charge any
// mailbox.
func (s *Server) listenPolicySocket() (listener, error) {
	path := s.config().PolicySocket
	if path == "" {
		return nil, nil
	}
	l, err := makeSocket(path, 0o660)
	if err != nil {
		return nil, fmt.Errorf("policy-socket: %w", err)
	}
	return l, nil
}

// listenPolicyPort opens the address of the same protocol, if systemd has not, nil where
// it is off. Every user of the host can connect there; admit tells who may.
func (s *Server) listenPolicyPort(passed *net.TCPListener) (listener, error) {
	if passed != nil {
		return passed, nil
	}
	address := s.config().PolicyListen
	if address == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("policy-listen: %w", err)
	}
	return l.(*net.TCPListener), nil
}

// admitters is how many connections of one of these sockets are looked at at a time, so
// that the kernel's queue of them, which is the same for all users, is soon empty.
const admitters = 4

// servePolicies answers the connections of one of these sockets until ctx ends.
func (s *Server) servePolicies(ctx context.Context, l listener, open *connections) error {
	s.log().Info().Stringer("address", l.Addr()).Msg("policy requests are taken")
	defer l.Close() // who is in the kernel's queue need not wait for what is worked on
	ended := make(chan error, admitters)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for range admitters {
		go func() { ended <- s.admitAll(ctx, l, open) }()
	}
	err := <-ended
	stop() // the others
	for range admitters - 1 {
		<-ended
	}
	return err
}

// admitAll takes connections of a socket until ctx ends.
func (s *Server) admitAll(ctx context.Context, l listener, open *connections) error {
	for {
		c, err := s.next(ctx, l)
		if c == nil {
			return err
		}
		peer, err := s.admit(c)
		if err != nil {
			s.strange(peer, err)
			sendAway(c)
			continue
		}
		kept := open.enter(ctx, c.(stream))
		if kept == nil {
			c.Close()
			return nil
		}
		s.working.Go(func() { s.servePolicy(ctx, kept, peer) })
	}
}

// sendAway closes a stranger's connection. One by TCP is reset: its end would stay for a
// minute (TIME_WAIT), and strangers may make many.
func sendAway(c net.Conn) {
	if c, ok := c.(*net.TCPConn); ok {
		c.SetLinger(0)
	}
	c.Close()
}

// admit returns whose program a connection is, and an error where that may not ask. It
// takes no longer for a stranger, who never gets to be one of the connections.
func (s *Server) admit(c net.Conn) (*origin.Peer, error) {
	if c, ok := c.(*net.UnixConn); ok {
		peer, err := origin.PeerOf(c)
		if err == nil {
			peer.Close() // its uid is enough
		}
		return peer, err
	}
	client, server := c.RemoteAddr().(*net.TCPAddr).AddrPort(), c.LocalAddr().(*net.TCPAddr).AddrPort()
	peer, local, err := s.finder.Client(client, server)
	switch {
	case err != nil:
		return nil, err
	case !local:
		return nil, errors.New("not a client of this host")
	case peer == nil:
		return nil, errors.New("nobody has the client's end open")
	}
	peer.Close()
	if peer.UID != 0 && !s.finder.IsOne(peer.UID, s.config().PolicyUsers) {
		return peer, errors.New("neither root nor one of policy-users")
	}
	return peer, nil
}

// unknownUID stands for all who are not known: no user has it (chown(2)).
const unknownUID = math.MaxUint32

// strange notes a connection that may not ask.
func (s *Server) strange(peer *origin.Peer, why error) {
	s.counts.strangers.Add(1)
	uid := uint32(unknownUID)
	if peer != nil {
		uid = peer.UID
	}
	n, ok := s.warnings.allow(uid, time.Now())
	if !ok {
		return
	}
	e := s.log().Warn().Err(why).Int("unlogged", n)
	if peer != nil {
		e = e.Uint32("uid", uid)
	}
	e.Msg("a connection to ask for a policy was closed")
}

// servePolicy answers the requests of one connection, for as long as Postfix keeps it,
// in their order, and works on those that come together at the same time. In case of
// trouble it ends without an answer, as the protocol has it, and Postfix asks again by
// another.
func (s *Server) servePolicy(ctx context.Context, c *connection, peer *origin.Peer) {
	defer c.Close()
	defer s.survivePolicy()
	var working sync.WaitGroup
	defer working.Wait() // who sends no more may still wait for answers
	// At a stop, an idle connection ends at once, and one whose request is here
	// after its answer.
	stop := context.AfterFunc(ctx, func() { c.CloseRead() })
	defer stop()
	r := bufio.NewReaderSize(c, policyBuffer)
	window := make(chan struct{}, maxPipelined)
	answered := make(chan struct{}) // the request before
	close(answered)
	for {
		if _, err := r.Peek(1); err != nil || !c.begin() {
			return // Postfix has gone, we stop, or another needs the place
		}
		request, err := s.readPolicy(c, r)
		if err != nil {
			if ctx.Err() == nil {
				s.rejected(peer, err)
			}
			return
		}
		window <- struct{}{}
		s.questions <- struct{}{}
		turn, done := answered, make(chan struct{})
		answered = done
		working.Go(func() {
			s.answerPolicy(c, &request, turn)
			c.end()
			<-s.questions
			<-window
			close(done)
		})
	}
}

// readPolicy reads a request that has begun, and waits at most request-timeout
// for the rest of it.
func (s *Server) readPolicy(c *connection, r *bufio.Reader) (policy.Request, error) {
	if begun, _ := r.Peek(r.Buffered()); !bytes.HasSuffix(begun, []byte("\n\n")) {
		if err := c.SetReadDeadline(time.Now().Add(time.Duration(s.config().RequestTimeout))); err != nil {
			return policy.Request{}, err
		}
		defer c.SetReadDeadline(time.Time{})
	}
	return policy.ReadRequest(r)
}

// answerPolicy answers one request when it is its turn: when all before it are answered.
func (s *Server) answerPolicy(c *connection, request *policy.Request, turn <-chan struct{}) {
	written := false
	defer func() {
		if !written {
			<-turn
			c.Close() // the next answer would be taken for this one's
		}
	}()
	defer s.survivePolicy()
	action, text := s.policyAnswer(request)
	answer := action.Append(nil, text)
	<-turn
	if err := c.SetWriteDeadline(time.Now().Add(time.Duration(s.config().RequestTimeout))); err != nil {
		return
	}
	_, err := c.Write(answer)
	written = err == nil
}

// survivePolicy, deferred, lets the daemon go on after a panic.
func (s *Server) survivePolicy() {
	if p := recover(); p != nil {
		s.log().Error().Any("panic", p).Bytes("stack", debug.Stack()).Msg("a policy connection ended by a fault of mailquotad")
	}
}
