// Package daemon is mailquotad: it answers each request of the socket.
//
// A connection is one call of sendmail. Who asks is taken from the kernel
// before anything is read. A few calls of one user are worked on at a time, the others
// wait (turns.go); those beyond calls-per-user are refused and recorded without reading
// a byte of theirs. The command line is understood and the header scanned here, not by
// the wrapper, which belongs to the caller; then the caller's origin is found
// while he waits, and the message goes into the queue. The answer is given once
// the transaction is committed.
//
// # SMTP
//
// Postfix and Exim ask about mail that does not call sendmail. What is submitted is
// charged at its end (smtp.go), once for each instance (instance.go): to the mailbox
// that logged in, or the uid that the kernel has for a client of this host, which is
// looked for at the first question, while it is there. What Postfix then refuses
// itself is given back (queuefile.go). Each recipient to whom the mail server sends
// something on is charged when it is about to leave. The ID of a message is made of
// what names it, so that no question charges it twice.
//
// # Trouble
//
// Whatever a caller sends, he gets an error and the daemon goes on: frames are
// bounded, every read has a deadline, the message must be a sealed memfd, and a
// panic ends one connection.
//
// Without a database the daemon goes on by its journal (package quota), or as
// on-database-down says; where nothing is known yet it answers "unavailable",
// which leaves the decision to the wrapper's on-unavailable.
package daemon

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/rs/zerolog"

	"sendmail-wrapper/config"
	"sendmail-wrapper/origin"
	"sendmail-wrapper/systemd"
	"sendmail-wrapper/wire"
)

// Server answers requests. Make it with New.
type Server struct {
	version  string
	started  time.Time
	finder   *origin.Finder
	settings atomic.Pointer[settings]
	database *database

	slots        chan struct{} // of all connections of calls
	policySocket connections
	policyPort   connections
	questions    chan struct{} // slots of the requests of both that are worked on
	turns        turns
	warnings     warnings
	asking       calls         // questions of ordinary users
	asks         chan struct{} // slots of these that are worked on
	changes      changes
	working      sync.WaitGroup
	counts       struct{ accepted, refused, unavailable, rejected, strangers, early, unknownClients, givenBack atomic.Int64 }

	instances   instances
	queueFiles  queueFiles
	returns     chan charge     // refused by the mail server, to be given back
	sending     chan struct{}   // places of the messages that the mail server has, and whose calls have no slot any more
	sendingOf   calls           // the same, by user
	patience    context.Context // of those that have no place in mailquota-submit yet: ends when a stop has no time left
	endPatience context.CancelFunc
	givingBack  sync.Mutex // held by who gives back what was not sent: decisions of others wait for him, and so for one only

	metrics      *metrics.Set
	decisionTime *metrics.PrometheusHistogram
	originTime   *metrics.PrometheusHistogram
}

// settings are what a reload can change.
type settings struct {
	config config.Daemon
	log    zerolog.Logger
}

// New returns a server that logs as the configuration says. An error is about the
// connection string of the database, or the journal's file.
func New(c config.Daemon, version string, log zerolog.Logger) (*Server, error) {
	s := &Server{version: version, started: time.Now(), finder: origin.NewFinder(origin.Settings{ApacheStatus: c.ApacheStatus, ApacheKey: c.ApacheStatusKey}), slots: make(chan struct{}, 2*c.Calls), questions: make(chan struct{}, c.Calls), asks: make(chan struct{}, asksAtOnce), returns: make(chan charge, maxGiveBacks), sending: make(chan struct{}, c.Calls)}
	s.policySocket.init(c.Calls)
	s.policyPort.init(c.Calls)
	s.turns.init()
	s.asking.init()
	s.sendingOf.init()
	s.patience, s.endPatience = context.WithCancel(context.Background())
	s.instances.init(c.Host, s.started)
	s.initMetrics()
	s.settings.Store(&settings{c, withLevel(log, c)})
	var err error
	if s.database, err = openDatabase(&c, s.log); err != nil {
		return nil, err
	}
	return s, nil
}

func withLevel(log zerolog.Logger, c config.Daemon) zerolog.Logger {
	level, err := zerolog.ParseLevel(c.LogLevel)
	if err != nil {
		level = zerolog.InfoLevel
	}
	return log.Level(level)
}

func (s *Server) config() *config.Daemon { return &s.settings.Load().config }

func (s *Server) log() *zerolog.Logger { return &s.settings.Load().log }

// Reload takes over a new configuration, as far as that goes without a restart;
// it logs what does not.
func (s *Server) Reload(c config.Daemon) {
	old := s.settings.Load()
	// What runs on is what stays in the settings: status must not name a host
	// that no row has, and the next reload must say again what waits.
	var waiting []string
	keep(&waiting, "database", &c.Database, old.config.Database)
	keep(&waiting, "host", &c.Host, old.config.Host)
	keep(&waiting, "socket", &c.Socket, old.config.Socket)
	keep(&waiting, "first-user-uid", &c.FirstUserUID, old.config.FirstUserUID)
	keep(&waiting, "calls", &c.Calls, old.config.Calls)
	keep(&waiting, "decision-timeout", &c.DecisionTimeout, old.config.DecisionTimeout)
	keep(&waiting, "on-database-down", &c.OnDatabaseDown, old.config.OnDatabaseDown)
	keep(&waiting, "journal", &c.Journal, old.config.Journal)
	keep(&waiting, "journal-limit", &c.JournalLimit, old.config.JournalLimit)
	keep(&waiting, "journal-share", &c.JournalShare, old.config.JournalShare)
	keep(&waiting, "policy-socket", &c.PolicySocket, old.config.PolicySocket)
	keep(&waiting, "policy-listen", &c.PolicyListen, old.config.PolicyListen)
	keep(&waiting, "postfix-queue", &c.PostfixQueue, old.config.PostfixQueue)
	keep(&waiting, "metrics", &c.Metrics, old.config.Metrics)
	keep(&waiting, "apache-status", &c.ApacheStatus, old.config.ApacheStatus)
	keep(&waiting, "apache-status-key", &c.ApacheStatusKey, old.config.ApacheStatusKey)
	keep(&waiting, "log-format", &c.LogFormat, old.config.LogFormat)
	s.settings.Store(&settings{c, withLevel(old.log, c)})
	for _, key := range waiting {
		s.log().Warn().Str("key", key).Msg("changed in the configuration, takes effect at a restart")
	}
	s.database.store.SetWarnPercent(c.NotifyWarn)
	s.database.store.SetHostNames(c.HostNames()...)
	s.log().Info().Msg("configuration reloaded")
}

// keep leaves a key at its old value, and notes that it differs.
func keep[T comparable](waiting *[]string, key string, now *T, old T) {
	if *now != old {
		*waiting = append(*waiting, key)
		*now = old
	}
}

// Serve answers the connections of these sockets, and what else the configuration
// asks for, until stop ends. Then it takes no more, finishes those it has, and
// returns nil.
func (s *Server) Serve(stop context.Context, sockets Sockets) error {
	ctx, cancel := context.WithCancelCause(stop)
	defer cancel(nil)
	defer s.database.close()
	policySocket, err := s.listenPolicySocket()
	if err != nil {
		return err
	}
	if policySocket != nil {
		defer policySocket.Close()
	}
	policyPort, err := s.listenPolicyPort(sockets.Policy)
	if err != nil {
		return err
	}
	if policyPort != nil {
		defer policyPort.Close()
	}
	scrapes, err := s.listenMetrics()
	if err != nil {
		return err
	}
	if policySocket != nil || policyPort != nil {
		s.watchQueue()
	}
	var others sync.WaitGroup
	others.Go(func() { s.followQueue(ctx) })
	others.Go(func() { s.lookAfter(ctx) })
	// They stop after the last call, whose event and whose refund they take.
	lasting, stopLasting := context.WithCancel(context.Background())
	var last sync.WaitGroup
	last.Go(func() { s.database.recorder.Run(lasting) })
	last.Go(func() { s.giveBack(lasting) })
	defer last.Wait()
	defer stopLasting()
	// Ready also without a database: systemd would restart in a loop, and
	// callers would wait instead of being told.
	select {
	case <-s.database.queue.Reached():
	case <-ctx.Done():
	}
	NotifyReady()
	s.log().Info().Str("version", s.version).Stringer("socket", sockets.Calls.Addr()).Str("host", s.config().Host).Msg("mailquotad takes requests")

	if policySocket != nil {
		others.Go(func() { cancel(s.servePolicies(ctx, policySocket, &s.policySocket)) })
	}
	if policyPort != nil {
		others.Go(func() { cancel(s.servePolicies(ctx, policyPort, &s.policyPort)) })
	}
	if scrapes != nil {
		others.Go(func() { cancel(s.serveMetrics(ctx, scrapes)) })
	}
	err = s.accept(ctx, sockets.Calls)
	if err == nil && stop.Err() == nil {
		err = context.Cause(ctx) // another of the sockets broke
	}
	cancel(err)
	systemd.Notify("STOPPING=1")
	s.log().Info().Int("calls", len(s.slots)).Msg("mailquotad stops")
	s.turns.open()
	others.Wait()
	s.finish()
	return err
}

// accept hands each connection of the socket, and a slot with it, to serve.
func (s *Server) accept(ctx context.Context, l *net.UnixListener) error {
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := s.next(ctx, l)
		if c == nil {
			<-s.slots
			return err
		}
		s.working.Go(func() {
			release := sync.OnceFunc(func() { <-s.slots })
			defer release()
			s.serve(c.(*net.UnixConn), release)
		})
	}
}

// listener is a *net.UnixListener or a *net.TCPListener.
type listener interface {
	net.Listener
	SetDeadline(time.Time) error
}

// next returns the next connection of a socket; nil, and no error, where ctx ends.
func (s *Server) next(ctx context.Context, l listener) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		c, err := l.Accept()
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, nil
		}
		// No descriptors or no memory left: calls that end free some.
		if !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) && !errors.Is(err, syscall.ENOBUFS) && !errors.Is(err, syscall.ENOMEM) {
			return nil, err
		}
		s.log().Error().Err(err).Msg("cannot take a call")
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// longestStop is before systemd loses patience (TimeoutStopSec=90s).
const longestStop = time.Minute

// finish waits for the calls that are there: each has its deadlines. Messages that the
// mail server has not begun to take by then are given back, and their callers told.
func (s *Server) finish() {
	done := make(chan struct{})
	go func() {
		s.working.Wait()
		close(done)
	}()
	bound := min(time.Duration(s.config().RequestTimeout+s.config().DecisionTimeout), longestStop)
	hurry := time.AfterFunc(bound, s.endPatience)
	defer hurry.Stop()
	select {
	case <-done:
	case <-time.After(bound + 5*time.Second):
		s.log().Error().Int("calls", len(s.slots)).Msg("calls did not end in time")
	}
}

// serve answers one connection. It calls release once others may have its slot.
func (s *Server) serve(c *net.UnixConn, release func()) {
	defer c.Close()
	defer func() {
		if p := recover(); p != nil {
			s.log().Error().Any("panic", p).Bytes("stack", debug.Stack()).Msg("a call ended by a fault of mailquotad")
			// Not "unavailable", which lets the message pass uncounted: the
			// caller may have brought the fault about.
			s.reply(c, &wire.Reply{Verdict: wire.VerdictError, Text: "fault in mailquotad: see its log"})
		}
	}()
	peer, err := origin.PeerOf(c)
	if err != nil {
		s.log().Error().Err(err).Msg("cannot tell who calls")
		return
	}
	defer peer.Close()
	turn, waited, why := s.turns.enter(s.finder.Owner(peer.UID), peer.PID, s.bounds())
	if why != "" {
		s.reply(c, s.refuseExcess(peer, why))
		return
	}
	defer turn.leave()
	if waited && !peer.Alive() { // killed in line: nothing of his is sent
		return
	}

	if err := c.SetDeadline(time.Now().Add(time.Duration(s.config().RequestTimeout))); err != nil {
		return
	}
	request, message, err := wire.ReadRequest(c)
	if err != nil {
		s.rejected(peer, err)
		if wrong := (*wire.ProtocolError)(nil); errors.As(err, &wrong) {
			s.reply(c, &wire.Reply{Verdict: wire.VerdictError, Text: wrong.Text})
		}
		return
	}
	if message != nil {
		defer message.Close()
	}
	reply := s.answer(peer, request, message, func() { turn.release(); release() })
	// Before the answer: in a dialogue the next question may follow at once.
	if request.Op == wire.OpSubmit && (reply.Verdict == wire.VerdictAccept || reply.Verdict == wire.VerdictUnavailable) {
		turn.pass(peer.End())
	}
	s.reply(c, reply)
}

// bounds are those of a call. Who waits is answered before the wrapper, which cannot
// tell it from a daemon that is away, gives up: with the time that the database may take,
// twice, as its batch may come after one that waits for a database that is gone.
func (s *Server) bounds() bounds {
	c := s.config()
	return bounds{c.CallsPerUser, c.Calls, max(decisionBound-2*time.Duration(c.DecisionTimeout)-time.Second, time.Second)}
}

func (s *Server) answer(peer *origin.Peer, request *wire.Request, message *os.File, release func()) *wire.Reply {
	switch request.Op {
	case wire.OpUsage:
		return s.usage(peer)
	case wire.OpStatus:
		return s.status(peer)
	case wire.OpAsk:
		return s.ask(peer, request)
	}
	return s.submit(peer, request, message, release)
}

// reply sends the answer. A caller that has gone is no error of ours.
func (s *Server) reply(c *net.UnixConn, r *wire.Reply) {
	if err := c.SetWriteDeadline(time.Now().Add(time.Duration(s.config().RequestTimeout))); err != nil {
		return
	}
	if err := wire.WriteReply(c, r); err != nil {
		s.log().Debug().Err(err).Str("id", r.ID).Msg("the caller did not wait for the answer")
	}
}

// rejected notes a peer that did not speak the protocol.
func (s *Server) rejected(peer *origin.Peer, why error) {
	s.counts.rejected.Add(1)
	if n, ok := s.warnings.allow(peer.UID, time.Now()); ok {
		s.log().Warn().Uint32("uid", peer.UID).Int("pid", peer.PID).Int("unlogged", n).Err(why).Msg("no valid request")
	}
}
