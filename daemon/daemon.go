// Package daemon is mailquotad: it answers each request of the socket.
//
// A connection is one call of sendmail. Who asks is taken from the kernel
// before anything is read. At most calls-per-user calls of one user are worked
// on at a time; those beyond are refused and recorded without reading a byte of
// theirs. The command line is understood and the header scanned here, not by
// the wrapper, which belongs to the caller; then the caller's origin is found
// while he waits, and the message goes into the queue. The answer is given once
// the transaction is committed.
//
// Whatever a caller sends, he gets an error and the daemon goes on: frames are
// bounded, every read has a deadline, the message must be a sealed memfd, and a
// panic ends one connection.
//
// Without a database the daemon runs, answers "unavailable", which leaves the
// decision to the wrapper's on-unavailable, and goes on trying.
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

	"github.com/rs/zerolog"

	"sendmail-wrapper/config"
	"sendmail-wrapper/origin"
	"sendmail-wrapper/wire"
)

// Server answers requests. Make it with New.
type Server struct {
	version  string
	started  time.Time
	finder   *origin.Finder
	settings atomic.Pointer[settings]
	database atomic.Pointer[database] // nil until it was first reached
	trouble  atomic.Pointer[string]   // why it was not

	slots    chan struct{} // of all calls
	calls    calls
	warnings warnings
	working  sync.WaitGroup
	counts   struct{ accepted, refused, unavailable, rejected atomic.Int64 }
}

// settings are what a reload can change.
type settings struct {
	config config.Daemon
	log    zerolog.Logger
}

// New returns a server that logs as the configuration says.
func New(c config.Daemon, version string, log zerolog.Logger) *Server {
	s := &Server{version: version, started: time.Now(), finder: origin.NewFinder(), slots: make(chan struct{}, c.Calls)}
	s.calls.init()
	s.settings.Store(&settings{c, withLevel(log, c)})
	return s
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
	reached := s.database.Load() != nil
	fixed := []struct {
		key     string
		differs bool
	}{
		{"database", reached && c.Database != old.config.Database},
		{"host", reached && c.Host != old.config.Host},
		{"socket", c.Socket != old.config.Socket},
		{"first-user-uid", reached && c.FirstUserUID != old.config.FirstUserUID},
		{"calls", c.Calls != old.config.Calls},
		{"log-format", c.LogFormat != old.config.LogFormat},
	}
	// What runs on is what stays in the settings: status must not name a host
	// that no row has, and the next reload must say again what waits. Without a
	// database yet, the next try takes what is new about it.
	if reached {
		c.Database, c.Host, c.FirstUserUID = old.config.Database, old.config.Host, old.config.FirstUserUID
	}
	c.Socket, c.Calls, c.LogFormat = old.config.Socket, old.config.Calls, old.config.LogFormat
	s.settings.Store(&settings{c, withLevel(old.log, c)})
	for _, f := range fixed {
		if f.differs {
			s.log().Warn().Str("key", f.key).Msg("changed in the configuration, takes effect at a restart")
		}
	}
	s.log().Info().Msg("configuration reloaded")
}

// Serve answers the connections of a socket until ctx ends. Then it takes no
// more, finishes those it has, and returns nil.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	tried := make(chan struct{})
	database := make(chan struct{})
	go func() {
		defer close(database)
		s.keepDatabase(ctx, tried)
	}()
	// Ready also without a database: systemd would restart in a loop, and
	// callers would wait instead of being told.
	select {
	case <-tried:
	case <-time.After(5 * time.Second):
	case <-ctx.Done():
	}
	notify("READY=1")
	s.log().Info().Str("version", s.version).Stringer("socket", l.Addr()).Str("host", s.config().Host).Msg("mailquotad takes requests")

	stop := context.AfterFunc(ctx, func() { l.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err := s.accept(ctx, l)
	notify("STOPPING=1")
	s.log().Info().Int("calls", len(s.slots)).Msg("mailquotad stops")
	s.finish()
	<-database
	return err
}

func (s *Server) accept(ctx context.Context, l *net.UnixListener) error {
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := l.AcceptUnix()
		if err != nil {
			<-s.slots
			if ctx.Err() != nil {
				return nil
			}
			// No descriptors or no memory left: calls that end free some.
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM) {
				s.log().Error().Err(err).Msg("cannot take a call")
				select {
				case <-time.After(20 * time.Millisecond):
				case <-ctx.Done():
				}
				continue
			}
			return err
		}
		s.working.Add(1)
		go func() {
			defer s.working.Done()
			defer func() { <-s.slots }()
			s.serve(c)
		}()
	}
}

// finish waits for the calls that are there: each has its deadlines.
func (s *Server) finish() {
	done := make(chan struct{})
	go func() {
		s.working.Wait()
		close(done)
	}()
	bound := time.Duration(s.config().RequestTimeout+s.config().DecisionTimeout) + 5*time.Second
	select {
	case <-done:
	case <-time.After(bound):
		s.log().Error().Int("calls", len(s.slots)).Msg("calls did not end in time")
	}
	if d := s.database.Load(); d != nil {
		d.close()
	}
}

// serve answers one connection.
func (s *Server) serve(c *net.UnixConn) {
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
	owner := s.finder.Owner(peer.UID)
	if !s.calls.enter(owner, s.config().CallsPerUser) {
		s.reply(c, s.refuseExcess(peer))
		return
	}
	defer s.calls.leave(owner)

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
	s.reply(c, s.answer(peer, request, message))
}

func (s *Server) answer(peer *origin.Peer, request *wire.Request, message *os.File) *wire.Reply {
	switch request.Op {
	case wire.OpUsage:
		return s.usage(peer)
	case wire.OpStatus:
		return s.status(peer)
	}
	return s.submit(peer, request, message)
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
