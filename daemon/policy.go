package daemon

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/policy"
	"sendmail-wrapper/quota"
)

// policyBuffer holds a whole request of Postfix (some 700 bytes), so that it is
// read with one system call; many connections are idle, so it is not larger.
const policyBuffer = 2 << 10

// listenPolicy makes the socket of Postfix's policy protocol, nil where it is
// off. Who may connect is the group of the process: whoever can, can charge any
// mailbox.
func (s *Server) listenPolicy() (*net.UnixListener, error) {
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

// servePolicy answers the requests of one connection, for as long as Postfix
// keeps it. In case of trouble it ends without an answer, as the protocol has
// it, and Postfix asks again by another.
func (s *Server) servePolicy(ctx context.Context, c *net.UnixConn) {
	defer c.Close()
	defer func() {
		if p := recover(); p != nil {
			s.log().Error().Any("panic", p).Bytes("stack", debug.Stack()).Msg("a policy connection ended by a fault of mailquotad")
		}
	}()
	peer, err := origin.PeerOf(c)
	if err != nil {
		s.log().Error().Err(err).Msg("cannot tell who asks for a policy")
		return
	}
	peer.Close() // its uid is enough
	// At a stop, an idle connection ends at once, and one whose request is here
	// after its answer.
	stop := context.AfterFunc(ctx, func() {
		c.SetWriteDeadline(time.Now().Add(time.Duration(s.config().RequestTimeout)))
		c.CloseRead()
	})
	defer stop()
	r := bufio.NewReaderSize(c, policyBuffer)
	var answer []byte
	for {
		if _, err := r.Peek(1); err != nil {
			return // Postfix has gone, or we stop
		}
		request, err := s.readPolicy(c, r)
		if err != nil {
			if ctx.Err() == nil {
				s.rejected(peer, err)
			}
			return
		}
		action, text := s.policyAction(&request)
		answer = action.Append(answer[:0], text)
		if _, err := c.Write(answer); err != nil {
			return // Postfix has gone
		}
	}
}

// readPolicy reads a request that has begun, and waits at most request-timeout
// for the rest of it.
func (s *Server) readPolicy(c *net.UnixConn, r *bufio.Reader) (policy.Request, error) {
	if begun, _ := r.Peek(r.Buffered()); !bytes.HasSuffix(begun, []byte("\n\n")) {
		if err := c.SetReadDeadline(time.Now().Add(time.Duration(s.config().RequestTimeout))); err != nil {
			return policy.Request{}, err
		}
		defer c.SetReadDeadline(time.Time{})
	}
	return policy.ReadRequest(r)
}

// policyAction charges a message of a client that has logged in, when all of it
// has come. Anything else passes uncounted.
func (s *Server) policyAction(request *policy.Request) (action policy.Action, text string) {
	if request.State != policy.EndOfMessage || request.Username == "" {
		return policy.Dunno, ""
	}
	began := time.Now()
	m := quota.Message{
		Mailbox:    strings.ToLower(request.Username),
		Origin:     origin.Origin{Kind: origin.SMTP, KindProof: origin.System},
		Sender:     request.Sender,
		Recipients: max(request.Recipients, 1),
		Size:       request.Size,
	}
	m.Client, _ = netip.ParseAddr(request.ClientAddress) // zero for "unknown"
	decision, err := s.decision(&m)
	if err != nil {
		s.counts.unavailable.Add(1)
		action, text = policy.Defer, "mail cannot be counted now; try again later"
		if s.config().OnDatabaseDown == "accept" && errors.Is(err, quota.ErrUnavailable) {
			action, text = policy.Dunno, ""
		}
		s.log().Error().Err(err).Str("id", m.ID.String()).Str("mailbox", m.Mailbox).Str("queue_id", request.QueueID).Str("sender", m.Sender).
			Int("recipients", m.Recipients).Str("answer", string(action)).Msg("no decision")
		return action, text
	}
	s.logMailbox(&m, request, &decision, time.Since(began))
	if decision.Refusal != nil {
		s.counts.refused.Add(1)
		return policy.Action(decision.Refusal.Code()), decision.Refusal.Text()
	}
	s.counts.accepted.Add(1)
	return policy.Dunno, ""
}

// logMailbox writes the one line of a message.
func (s *Server) logMailbox(m *quota.Message, request *policy.Request, d *quota.Decision, took time.Duration) {
	e := s.log().Info().Str("id", m.ID.String()).Str("mailbox", m.Mailbox).Str("subscription", d.Subscription)
	if d.Domain != "" {
		e = e.Str("domain", d.Domain)
	}
	e = e.Str("queue_id", request.QueueID).Str("client", request.ClientAddress).
		Str("sender", m.Sender).Int("recipients", m.Recipients).Int64("size", m.Size).Dur("took", took)
	logOutcome(e, d)
}
