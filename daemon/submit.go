package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/sendmail"
	"sendmail-wrapper/sqlschema"
	"sendmail-wrapper/wire"
)

// submit decides about one message, and has it sent where that is asked for.
func (s *Server) submit(peer *origin.Peer, request *wire.Request, content *os.File, release func()) *wire.Reply {
	began := time.Now()
	profile, err := sendmail.ProfileByName(request.Profile)
	if err != nil {
		return s.wrong(peer, err)
	}
	size, err := wire.CheckSealed(content)
	if err != nil {
		return s.wrong(peer, err)
	}
	env := hints(request)
	lookup := func(name string) (string, bool) { value, set := env[name]; return value, set }
	call := profile.Under(lookup).Parse(request.Argv)
	if call.Mode == sendmail.Other {
		return s.wrong(peer, fmt.Errorf("this command line submits no mail"))
	}
	asked := call
	dialogue := call.Mode == sendmail.SMTP || call.Mode == sendmail.BatchSMTP
	if dialogue { // of the header, only what the report shows
		call = sendmail.Call{Mode: sendmail.Submit, Sender: request.Sender, SenderSet: true, IgnoreDots: true, Gateway: call.Gateway}
	}
	// Not by its offset, which the caller shares.
	envelope, err := profile.Scan(call, lookup, io.NewSectionReader(content, 0, size))
	tooLong := errors.Is(err, sendmail.ErrHeaderTooLong)
	if err != nil && !tooLong {
		return s.wrong(peer, fmt.Errorf("read the message: %w", err))
	}
	traceHeader := s.config().TraceHeader // whatever a reload says meanwhile
	var head []byte
	if traceHeader != "" {
		head = make([]byte, min(size, sendmail.TraceHead))
		if _, err := content.ReadAt(head, 0); err != nil {
			return s.wrong(peer, fmt.Errorf("read the message: %w", err))
		}
	}
	handing, err := s.handOverOf(peer, request, profile, &call, &envelope, lookup)
	if err != nil {
		return s.wrong(peer, err)
	}
	if handing == nil {
		content.Close()
	} else { // the call may wait for long, and its command line be long
		request.Argv = nil
	}
	if dialogue {
		envelope.Sender, envelope.SenderSet, envelope.Recipients = request.Sender, true, max(request.Recipients, 1)
		envelope.LineBreaks = false // in the environment, which is not looked at
		envelope.Addresses = request.To
	}
	m := quota.Message{
		Origin:     s.originOf(peer, origin.Claims{Env: env, PHPScript: envelope.PHPScript}),
		Sender:     envelope.Sender,
		Recipients: envelope.Recipients,
		Size:       size,
		Details:    s.details(&envelope),

		SenderCheck: quota.ParseSenderCheck(s.config().SenderCheck),
	}
	if !envelope.SenderSet {
		m.Sender = m.Origin.User
	}
	if s.trusts(&m.Origin) {
		m.OnBehalf = cmp.Or(bareAddress(envelope.RedirectedFrom), listAddress(m.Sender))
	}
	full := false // of messages that the mail server has
	if handing != nil {
		// No user takes all of them where the mail server hangs.
		owner := s.finder.Owner(peer.UID)
		if full = !s.sendingOf.enter(owner, max(16, cap(s.sending)/16)); !full {
			defer s.sendingOf.leave(owner)
			select {
			case s.sending <- struct{}{}:
				defer func() { <-s.sending }()
			default:
				full = true
			}
		}
	}
	switch {
	case tooLong:
		m.Forbidden = sendmail.ErrHeaderTooLong.Error()
	case full:
		m.Forbidden = "too many messages wait for the mail server"
	case request.Truncated:
		m.Forbidden = wire.TextTooLong
	case envelope.LineBreaks:
		m.Forbidden = "an argument or a variable has a line break, behind which " + profile.Name + " would read recipients or commands"
	case m.Recipients == 0:
		s.log().Info().Uint32("uid", m.Origin.UID).Str("user", m.Origin.User).Msg("no recipients: left to the mail server to refuse")
		reply := &wire.Reply{Verdict: wire.VerdictAccept}
		if handing == nil {
			return reply
		}
		release()
		return s.send(handing, content, &m, time.Time{}, reply)
	}
	m.Recipients = max(m.Recipients, 1)
	reply, at := s.decide(&m, call.Gateway, began)
	if reply.Verdict == wire.VerdictRefuse && (tooLong || request.Truncated) {
		reply.Code = wire.CodeTooLong
	}
	if reply.Verdict == wire.VerdictAccept && traceHeader != "" {
		// Neither name nor value is the caller's.
		reply.Trace, reply.TraceAt = profile.Trace(asked, head, traceHeader+": "+reply.ID)
	}
	if reply.Verdict != wire.VerdictAccept || handing == nil {
		return reply
	}
	release()
	return s.send(handing, content, &m, at, reply)
}

// originOf looks up who called.
func (s *Server) originOf(peer *origin.Peer, c origin.Claims) origin.Origin {
	defer s.originTime.UpdateDuration(time.Now())
	return s.finder.Find(peer, c)
}

// details are what the configuration lets us keep of a message's own text.
func (s *Server) details(e *sendmail.Envelope) quota.Details {
	d := quota.Details{MessageID: e.MessageID}
	if s.config().RecordSubjects {
		d.Subject = e.Subject
	}
	if s.config().RecordRecipients {
		d.To = e.Addresses
	}
	return d
}

// hints are what the wrapper says of the caller's environment.
func hints(request *wire.Request) map[string]string {
	env := map[string]string{}
	for _, hint := range request.Hints {
		if name, value, ok := strings.Cut(hint, "="); ok && len(env) < len(wire.HintNames) {
			env[name] = value
		}
	}
	return env
}

// refuseExcess refuses and records a call of a user who has too many at the
// same time. Nothing of it is read, so it costs no time that the caller can
// draw out.
func (s *Server) refuseExcess(peer *origin.Peer, why string) *wire.Reply {
	m := quota.Message{
		Origin:     s.originOf(peer, origin.Claims{}),
		Recipients: 1,
		Forbidden:  "too many calls of sendmail at the same time (" + why + ")",
	}
	m.Sender = m.Origin.User
	reply, _ := s.decide(&m, false, time.Now())
	reply.Code = "452 4.3.2" // RFC 3463: the system takes none for the moment
	return reply
}

// decide puts a message through the queue, and logs what became of it. It returns when
// it was charged, zero where it was not. What is forbidden is refused whatever becomes of
// the record: it is in the caller's hand, as the number of his calls is.
func (s *Server) decide(m *quota.Message, gateway bool, began time.Time) (reply *wire.Reply, charged time.Time) {
	if o := &m.Origin; o.Client.Proof >= origin.System {
		m.Client, _ = netip.ParseAddr(o.Client.Value) // zero where it is none
	}
	s.dropRequest(&m.Origin)
	decision, err := s.decision(m)
	if err != nil {
		reply := s.undecided(m, gateway, err)
		if m.Forbidden != "" {
			reply = refusal(m, &quota.Refusal{Reason: m.Forbidden}, gateway)
		}
		return reply, time.Time{}
	}
	s.logDecision(m, &decision, time.Since(began))
	if decision.Refusal != nil {
		s.counts.refused.Add(1)
		return refusal(m, decision.Refusal, gateway), time.Time{}
	}
	s.counts.accepted.Add(1)
	return &wire.Reply{Verdict: wire.VerdictAccept, ID: m.ID.String()}, decision.At
}

// dropRequest drops what record-requests says is not kept.
func (s *Server) dropRequest(o *origin.Origin) {
	if !s.config().RecordRequests {
		o.Method, o.URI, o.Client = origin.Fact{}, origin.Fact{}, origin.Fact{}
	}
}

// refusal is the reply to a message that was refused.
func refusal(m *quota.Message, r *quota.Refusal, gateway bool) *wire.Reply {
	return &wire.Reply{Verdict: wire.VerdictRefuse, Exit: r.Exit(gateway), Code: r.Code(), ID: m.ID.String(), Text: printable(m.Origin.User + ": " + r.Text())}
}

// decisionBound bounds the wait for a decision. The wrapper waits for 30 seconds.
const decisionBound = 28 * time.Second

// decision takes a message through the queue, and gives it an id if it has none.
func (s *Server) decision(m *quota.Message) (d quota.Decision, err error) {
	if m.ID == uuid.Nil {
		if m.ID, err = uuid.NewV7(); err != nil {
			return d, fmt.Errorf("make an id: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), decisionBound)
	defer cancel()
	began := time.Now()
	d, err = s.database.queue.Submit(ctx, *m)
	s.decisionTime.UpdateDuration(began)
	s.database.recorder.Note(d.Events)
	return d, err
}

// undecided answers where there is no decision: by on-database-down, if it is the
// database that is away. What the caller could have brought about never lets a
// message pass.
func (s *Server) undecided(m *quota.Message, gateway bool, err error) *wire.Reply {
	s.counts.unavailable.Add(1)
	reply := &wire.Reply{ID: m.ID.String()}
	away := errors.Is(err, quota.ErrUnavailable)
	switch down := s.config().OnDatabaseDown; {
	case away && down == "accept":
		reply.Verdict = wire.VerdictAccept
	case away && down == "refuse", errors.Is(err, quota.ErrJournal):
		r := &quota.Refusal{Reason: "mail cannot be counted now, so it is refused; try again later"}
		reply.Verdict, reply.Exit, reply.Code, reply.Text = wire.VerdictRefuse, r.Exit(gateway), wire.CodeFault, r.Text()
	case away, errors.Is(err, quota.ErrClosed), errors.Is(err, context.DeadlineExceeded):
		reply.Verdict, reply.Text = wire.VerdictUnavailable, "mailquotad has no database"
	default:
		reply.Verdict, reply.Text = wire.VerdictError, "this message cannot be recorded: see the log of mailquotad"
	}
	s.log().Error().Err(err).Str("id", reply.ID).Uint32("uid", m.Origin.UID).Str("user", m.Origin.User).Str("sender", m.Sender).
		Int("recipients", m.Recipients).Str("answer", verdictNames[reply.Verdict]).Msg("no decision")
	return reply
}

var verdictNames = map[wire.Verdict]string{wire.VerdictAccept: "accept", wire.VerdictRefuse: "refuse",
	wire.VerdictUnavailable: "unavailable", wire.VerdictError: "error", wire.VerdictHanded: "handed over"}

// wrong refuses a request that the wrapper would not make.
func (s *Server) wrong(peer *origin.Peer, err error) *wire.Reply {
	s.rejected(peer, err)
	return &wire.Reply{Verdict: wire.VerdictError, Text: printable(err.Error())}
}

// logDecision writes the one line of a message.
func (s *Server) logDecision(m *quota.Message, d *quota.Decision, took time.Duration) {
	o := &m.Origin
	e := s.log().Info().Str("id", m.ID.String()).Uint32("uid", o.UID).Str("user", o.User).Str("subscription", d.Subscription)
	if d.Domain != "" {
		e = e.Str("domain", d.Domain)
	}
	e = e.Str("kind", string(o.Kind)).Stringer("kind_proof", o.KindProof)
	e = logFacts(e, o)
	if m.Details.MessageID != "" {
		e = e.Str("message_id", m.Details.MessageID)
	}
	e = e.Str("sender", m.Sender).Int("recipients", m.Recipients).Int64("size", m.Size).Dur("took", took)
	logOutcome(e, d)
}

func logFacts(e *zerolog.Event, o *origin.Origin) *zerolog.Event {
	for name, f := range o.Facts() {
		if f.Proof != 0 {
			e = e.Str(name, f.Value).Stringer(name+"_proof", f.Proof)
		}
	}
	return e
}

// logOutcome ends the line of a message.
func logOutcome(e *zerolog.Event, d *quota.Decision) {
	switch {
	case d.Refusal != nil:
		e.Str("decision", "refused").Str("refused_by", d.Refusal.By()).Msg("message")
	case d.Observed != nil:
		e.Str("decision", "observed").Str("refused_by", d.Observed.By()).Msg("message")
	default:
		e.Str("decision", "accepted").Msg("message")
	}
}

// usage tells a user what he has sent, and nobody else.
func (s *Server) usage(peer *origin.Peer) *wire.Reply {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(s.config().DecisionTimeout))
	defer cancel()
	list, err := s.database.store.UsageOfUser(ctx, s.finder.Owner(peer.UID))
	if err != nil {
		s.log().Error().Err(err).Uint32("uid", peer.UID).Msg("no usage")
		return &wire.Reply{Verdict: wire.VerdictUnavailable, Text: "mailquotad has no database"}
	}
	if list == nil {
		list = []quota.ObjectUsage{} // [] and not null
	}
	return s.body(list)
}

// Status is the body of a reply to wire.OpStatus. Only root and the daemon's own
// user see more than the first two.
type Status struct {
	Version  string `json:"version"`
	Database string `json:"database"` // "ok", or what is wrong

	Host        string    `json:"host,omitempty"`
	Started     time.Time `json:"started,omitzero"`
	Schema      int       `json:"schema,omitempty"`
	Calls       int       `json:"calls,omitempty"`       // worked on now
	Waiting     int       `json:"waiting,omitempty"`     // messages in the queue
	Accepted    int64     `json:"accepted,omitempty"`    // since the start; the others alike
	Refused     int64     `json:"refused,omitempty"`     //
	Unavailable int64     `json:"unavailable,omitempty"` // no decision possible
	Rejected    int64     `json:"rejected,omitempty"`    // no valid request

	DownSince time.Time `json:"database_down_since,omitzero"`
	Journal   *Journal  `json:"journal,omitempty"` // where there is something in it
}

// Journal is what the database has not got yet.
type Journal struct {
	Messages   int       `json:"messages"`   // decisions to be booked
	Failed     int       `json:"failed"`     // that the database did not take
	Unrecorded int64     `json:"unrecorded"` // refusals that are in the log only
	Since      time.Time `json:"since,omitzero"`
}

func (s *Server) status(peer *origin.Peer) *wire.Reply {
	state := s.database.queue.State()
	status := Status{Version: s.version, Database: "ok"}
	if state.Trouble != "" {
		status.Database = state.Trouble
	}
	if peer.UID != 0 && peer.UID != uint32(os.Geteuid()) {
		if state.Trouble != "" { // an error may name hosts and roles
			status.Database = "not reached"
		}
		return s.body(status)
	}
	status.Host, status.Started = s.config().Host, s.started.UTC()
	status.Calls, status.Waiting, status.DownSince = len(s.slots), state.Waiting, state.Since
	if state.Trouble == "" {
		status.Schema = sqlschema.Latest() // or it would not be used
	}
	if j := state.Journal; j.Messages+j.Failed > 0 || j.Unrecorded > 0 {
		status.Journal = &Journal{j.Messages, j.Failed, j.Unrecorded, state.Since}
	}
	status.Accepted, status.Refused = s.counts.accepted.Load(), s.counts.refused.Load()
	status.Unavailable, status.Rejected = s.counts.unavailable.Load(), s.counts.rejected.Load()
	return s.body(status)
}

func (s *Server) body(v any) *wire.Reply {
	body, err := json.Marshal(v)
	if err != nil {
		s.log().Error().Err(err).Msg("cannot answer")
		return &wire.Reply{Verdict: wire.VerdictError, Text: "fault in mailquotad: see its log"}
	}
	return &wire.Reply{Verdict: wire.VerdictAccept, Body: body}
}

// maxText bounds the line that a caller gets, in bytes.
const maxText = 480

// printable makes one line of a text with a stranger's bytes in it.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + " …"
	}
	return text
}
