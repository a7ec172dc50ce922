// Package transport stands between Postfix's queue manager and its delivery
// agents, and asks mailquotad about each message that leaves and was not charged
// when it came in: what an alias, a .forward file or a list sends on.
//
// # Place
//
// Only there is every recipient that leaves known together with the address to
// which the mail came, after all rewriting, and can be kept in the queue by
// itself. With default_transport = mailquota, qmgr(8) connects to
// private/mailquota in the queue directory, which is ours, and we to
// private/smtp; likewise to private/NAME for private/mailquota-NAME. TLS, source
// address and all else of delivery stays with smtp(8).
//
// # Protocol
//
// It is Postfix's own between qmgr(8) and its agents, and no public interface:
// src/qmgr/qmgr_deliver.c, src/global/deliver_request.c and deliver_pass.c. It is
// lists of attributes, each name and value ended by a NUL, each list by one more.
// The agent speaks first, one list, as soon as it is free; qmgr(8) sends a list
// for the message and one for each recipient; the agent answers one list with a
// status code (RFC 3463) of the destination, empty as a rule, and a result, 0
// where no recipient is to be tried again. Then qmgr(8) disconnects; it may do so
// before its request, too. Names that we do not know are copied with their
// values, in their order, and the agent's greeting and answer are its own; so
// Postfix 3.5 to 3.11, which differ in both, are all served. What changes is:
// recipient_count, for the recipients that pass; nexthop, which for retry(8) and
// error(8) is what they say; and the result, where some are to be tried again
// and the agent knows nothing of them. The answer has two attributes named
// status, the code and the result: the result is the last.
//
// # What is asked
//
// See [request.questions]: a recipient that was charged when the message came in
// is not asked about, and goes on with mailquotad down, too. Others are deferred
// then, which loses nothing. The agents write what happened to each recipient
// into the queue file, as ever: retry(8) and error(8) for those that do not pass.
//
// # Death
//
// Nothing is kept here, so nothing is lost. What mailquotad was asked about it is
// asked about again at the next try, with the same queue id and number, and
// charges it once. Dies the transport during a delivery, qmgr(8) defers the
// message; the agent goes on and marks its recipients done, and until then its
// lock on the queue file keeps qmgr(8) from trying again.
package transport

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Times to wait for Postfix: for the next bytes of what has begun (ipc_timeout),
// and for the end of a delivery, when its watchdog has ended the agent
// (daemon_timeout).
const (
	ipcTimeout      = time.Hour
	deliveryTimeout = 6 * time.Hour
)

// A Server passes on what qmgr(8) sends.
type Server struct {
	Mailquotad string // its policy-listen, "127.0.0.1:10031", or path of its policy-socket
	Log        zerolog.Logger
}

// Serve takes delivery requests at a socket until that is closed, and returns
// when the last is answered. The socket's path says whom it stands for:
// DIRECTORY/mailquota for DIRECTORY/smtp, DIRECTORY/mailquota-NAME for
// DIRECTORY/NAME; DIRECTORY is private/ in the queue directory.
func (s *Server) Serve(l *net.UnixListener) error {
	path := l.Addr().String()
	agent, ok := agentOf(filepath.Base(path))
	if !ok {
		return errors.New(path + ": the name of the socket is neither mailquota nor mailquota-NAME")
	}
	var deliveries sync.WaitGroup
	defer deliveries.Wait()
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil { // such as too many open files
			s.Log.Error().Err(err).Msg("cannot take a delivery request")
			time.Sleep(100 * time.Millisecond)
			continue
		}
		deliveries.Go(func() {
			defer c.Close()
			defer func() {
				if p := recover(); p != nil {
					s.Log.Error().Any("panic", p).Bytes("stack", debug.Stack()).Msg("a delivery ended by a fault of the transport")
				}
			}()
			d := delivery{Server: s, private: filepath.Dir(path), agent: agent}
			if err := d.serve(c); err != nil {
				s.Log.Error().Err(err).Str("transport", filepath.Base(path)).Str("queue_id", d.queueID).Msg("a delivery is left to the queue manager to try again")
			}
		})
	}
}

// agentOf returns the agent that a transport stands for.
func agentOf(transport string) (string, bool) {
	if transport == "mailquota" {
		return "smtp", true
	}
	name, ok := strings.CutPrefix(transport, "mailquota-")
	return name, ok && name != ""
}

// A delivery is one connection of qmgr(8).
type delivery struct {
	*Server
	private string // directory of the agents
	agent   string // that we stand for
	queueID string // once it is known, for the log
}

// serve passes one request on. An error leaves qmgr(8) without an answer, as if
// the agent had died: it tries again.
func (d *delivery) serve(c *net.UnixConn) error {
	agent, greeting, err := d.dial(d.agent)
	if err != nil {
		return err
	}
	defer agent.Close()
	if _, err := c.Write(greeting.append(nil)); err != nil {
		return nil // it did not want to wait
	}
	if err := c.SetReadDeadline(time.Now().Add(ipcTimeout)); err != nil {
		return err
	}
	q, err := readRequest(bufio.NewReader(c))
	if err == io.EOF {
		return nil // it has changed its mind
	}
	if err != nil {
		return err
	}
	d.queueID = q.common.get(attrQueueID)
	refused, passed := d.decide(q)
	var answer list
	var unfinished string // result of the agents that have recipients left to be tried again
	for v, recipients := range refused {
		if answer, err = d.refuse(v, q, recipients); err != nil {
			return err
		}
		if result := answer.result(); result != done {
			unfinished = result
		}
	}
	if len(passed) > 0 {
		if answer, err = agent.deliver(q, passed); err != nil {
			return err
		}
	}
	if unfinished != "" && answer.result() == done {
		answer = answer.with(attrStatus, unfinished)
	}
	_, err = c.Write(answer.append(nil))
	return err
}

// decide returns the recipients that do not pass, by what becomes of them, and
// those that do.
func (d *delivery) decide(q *request) (refused map[verdict][]list, passed []list) {
	refused = map[verdict][]list{}
	questions, err := q.questions(filepath.Dir(d.private))
	if err != nil {
		d.Log.Error().Err(err).Str("queue_id", d.queueID).Msg("cannot tell what was charged: deferred")
		refused[later] = q.recipients
		return refused, nil
	}
	verdicts, err := d.ask(questions)
	if err != nil {
		d.Log.Error().Err(err).Str("queue_id", d.queueID).Msg("mailquotad does not answer: what it must be asked about is deferred")
	}
	for i, v := range verdicts {
		if v == pass {
			passed = append(passed, q.recipients[i])
		} else {
			refused[v] = append(refused[v], q.recipients[i])
		}
	}
	return refused, passed
}

// refuse has retry(8) or error(8) write down what becomes of recipients, and
// returns its answer.
func (d *delivery) refuse(v verdict, q *request, recipients []list) (list, error) {
	agent, _, err := d.dial(v.service)
	if err != nil {
		return nil, err
	}
	defer agent.Close()
	return agent.deliver(&request{common: q.common.with(attrNexthop, v.text)}, recipients)
}

// An agentConn is a connection to a delivery agent.
type agentConn struct {
	*net.UnixConn
	r *bufio.Reader
}

// dial connects to an agent, and returns its greeting: it is free then.
func (d *delivery) dial(name string) (*agentConn, list, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(d.private, name), Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	a := &agentConn{c, bufio.NewReader(c)}
	greeting, err := a.read(ipcTimeout)
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return a, greeting, nil
}

// deliver sends the agent a request to some recipients, and returns its answer.
func (a *agentConn) deliver(q *request, recipients []list) (list, error) {
	if _, err := a.Write(q.append(nil, recipients)); err != nil {
		return nil, err
	}
	answer, err := a.read(deliveryTimeout)
	if err == nil && answer[len(answer)-1].name != attrStatus {
		err = errMalformed
	}
	return answer, err
}

func (a *agentConn) read(timeout time.Duration) (list, error) {
	if err := a.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	l, err := readList(a.r)
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: a.RemoteAddr().String(), Err: err}
	}
	return l, nil
}

// done is the result of an agent that has no recipient left to be tried again.
const done = "0"

// result is the result in an agent's answer.
func (l list) result() string { return l[len(l)-1].value }
