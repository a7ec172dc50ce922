package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/policy"
	"sendmail-wrapper/quota"
)

// deferNow is for a client of this host of whom nobody can say whose it is.
const deferNow policy.Action = "451 4.3.0"

const cannotCount = "mail cannot be counted now; try again later"

// policyAnswer decides about mail that does not call sendmail. One that is submitted
// by SMTP is charged at its end, with all its recipients: to the mailbox that logged
// in, or to the user whose program of this host the client is. Before, it is refused
// where it is likely that it would be at its end. What other hosts bring without a
// login comes in, and is not counted here, but where it is sent on. A question that
// was asked is answered, also at a stop.
func (s *Server) policyAnswer(q *policy.Request) (policy.Action, string) {
	if q.Delivery {
		return s.deliveryAnswer(q)
	}
	atEnd := q.State == policy.EndOfMessage
	if !atEnd && q.State != "RCPT" && q.State != "DATA" {
		return policy.Dunno, ""
	}
	began := time.Now()
	i := s.instances.get(q.Instance, atEnd, began)
	i.mu.Lock()
	defer i.mu.Unlock()
	if atEnd && i.final != nil {
		return i.atEnd(i.final.action), i.final.text
	}
	program, local := s.program(i, q)
	if atEnd {
		i.program = nil // nobody asks for it any more
	}
	switch {
	case q.Username != "":
	case !local:
		s.instances.forget(i)
		return policy.Dunno, ""
	case program == nil:
		s.counts.unknownClients.Add(1)
		s.warnOfClient(q, errors.New("the kernel does not know the connection any more"))
		action := deferNow
		if atEnd {
			action = i.atEnd(action)
		}
		return action, "whose program this is cannot be told; try again later"
	}
	m := s.submission(q, program)
	if atEnd {
		action, text := s.charge(i, &m, q, began)
		return i.atEnd(action), text
	}
	return s.probe(i, &m, q, began)
}

// program finds out which program of this host the client is. It is kept, since the
// client may be gone at the next question. Where the client is local and there is
// none, the kernel does not know the connection any more.
func (s *Server) program(i *instance, q *policy.Request) (program *origin.Origin, local bool) {
	if i.program != nil {
		return i.program, true
	}
	peer, local, err := s.finder.Client(endpoint(q.ClientAddress, q.ClientPort), endpoint(q.ServerAddress, q.ServerPort))
	if err != nil {
		s.warnOfClient(q, err)
		return nil, true // rather than uncounted
	}
	if peer == nil {
		return nil, local
	}
	defer peer.Close()
	found := s.originOf(peer, origin.Claims{})
	s.instances.keep(i, &found)
	return &found, true
}

// warnOfClient says of a client of this host that nobody can tell whose it is. Whoever
// connects and goes can bring that about, so not of each one.
func (s *Server) warnOfClient(q *policy.Request, why error) {
	if n, ok := s.warnings.allow(unknownUID, time.Now()); ok {
		s.log().Warn().Err(why).Str("client", q.ClientAddress).Uint16("port", q.ClientPort).Str("queue_id", q.QueueID).Str("sender", q.Sender).
			Int("unlogged", n).Msg("whose program this client is cannot be told")
	}
}

// endpoint is the zero one where Postfix does not know it.
func endpoint(address string, port uint16) netip.AddrPort {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, port)
}

// submission is the message of a client that has logged in, or is a program of this
// host, or both: then it is the mailbox's, and the row tells the program too.
func (s *Server) submission(q *policy.Request, program *origin.Origin) quota.Message {
	m := quota.Message{Sender: q.Sender, Recipients: max(q.Recipients, 1), Size: q.Size, SenderCheck: quota.ParseSenderCheck(s.config().SenderCheck)}
	m.Client, _ = netip.ParseAddr(q.ClientAddress) // zero for "unknown"
	if program != nil {
		m.Origin = *program
		s.dropRequest(&m.Origin)
	}
	if q.Username != "" {
		m.Mailbox = strings.ToLower(q.Username)
		m.Origin.Kind, m.Origin.KindProof = origin.SMTP, origin.System
	} else if s.trusts(&m.Origin) {
		m.OnBehalf = listAddress(m.Sender)
	}
	return m
}

// charge decides about a message that has come as a whole. Asked again, it has the
// same answer.
func (s *Server) charge(i *instance, m *quota.Message, q *policy.Request, began time.Time) (policy.Action, string) {
	m.ID, m.Again = i.id, i.again
	i.again = true // if there is no decision now, it may be booked all the same
	file := s.queueFiles.expect(q.QueueID)
	decision, err := s.decision(m)
	if err != nil {
		s.queueFiles.drop(file)
		return s.undecidedSMTP(m, q, err)
	}
	s.logSMTP(m, q, &decision, time.Since(began))
	if decision.Refusal != nil {
		s.queueFiles.drop(file)
		i.final = s.refused(m, decision.Refusal)
	} else {
		s.counts.accepted.Add(1)
		if s.queueFiles.charged(file, m, decision.At) {
			s.refusedByServer(file.charge)
		}
		i.final = &answer{action: policy.Dunno}
	}
	return i.final.action, i.final.text
}

// probe refuses a recipient, or a message before it comes, where it would be refused at
// its end as far as is remembered, and as the database then says. Anything else is
// decided at its end.
func (s *Server) probe(i *instance, m *quota.Message, q *policy.Request, began time.Time) (policy.Action, string) {
	if i.early != nil && (i.early.action != policy.Dunno || m.Recipients <= i.probed) {
		return i.early.action, i.early.text
	}
	if !s.database.store.Foresees(*m) {
		return policy.Dunno, ""
	}
	m.Probe = true
	decision, err := s.decision(m)
	if err != nil {
		return policy.Dunno, ""
	}
	i.early, i.probed = &answer{action: policy.Dunno}, m.Recipients
	if decision.Refusal != nil {
		s.logSMTP(m, q, &decision, time.Since(began))
		s.counts.early.Add(1)
		i.early = s.refused(m, decision.Refusal)
	}
	return i.early.action, i.early.text
}

// refused is the answer to a message that was refused.
func (s *Server) refused(m *quota.Message, r *quota.Refusal) *answer {
	s.counts.refused.Add(1)
	code, text := r.Code(), r.Text()
	if s.config().SMTPRefusal == "reject" {
		code = "554 5.7.1"
	}
	if m.Mailbox == "" {
		text = m.Origin.User + ": " + text // as the wrapper says it
	}
	return &answer{policy.Action(code), text}
}

// undecidedSMTP answers where there is no decision: by on-database-down, if it is the
// database that is away.
func (s *Server) undecidedSMTP(m *quota.Message, q *policy.Request, err error) (policy.Action, string) {
	s.counts.unavailable.Add(1)
	action, text := policy.Defer, cannotCount
	if s.config().OnDatabaseDown == "accept" && errors.Is(err, quota.ErrUnavailable) {
		action, text = policy.Dunno, ""
	}
	s.log().Error().Err(err).Str("id", m.ID.String()).EmbedObject(senderOf(m)).Str("queue_id", q.QueueID).Str("sender", m.Sender).
		Int("recipients", m.Recipients).Str("answer", string(action)).Msg("no decision")
	return action, text
}

// deliveryAnswer decides about one recipient of a message that is about to leave. Free
// is one that was charged when it was submitted; one that the mail server sends on is
// not.
func (s *Server) deliveryAnswer(q *policy.Request) (policy.Action, string) {
	began := time.Now()
	m := quota.Message{NoUser: true, Again: true, Sender: q.Sender, Recipients: 1, Size: q.Size, Origin: origin.Origin{KindProof: origin.System}}
	if s.config().RecordRecipients {
		m.Details.To = []string{q.Recipient}
	}
	original := cmp.Or(q.OriginalRecipient, q.Recipient)
	byLocal := q.FirstQueueID != "" && q.FirstQueueID != q.QueueID // local(8) has made it of another
	switch another := !policy.SameAddress(original, q.Recipient); {
	case another:
		m.Origin.Kind, m.OnBehalf = origin.Forward, strings.ToLower(original)
		// Whatever the domain, it was his .forward; a system user's name may be a list's.
		if s.chargeUser(&m, m.OnBehalf) && byLocal && m.Origin.UID >= s.config().FirstUserUID {
			m.OnBehalf = ""
		}
	case byLocal: // and does not say whose alias it followed
		m.Origin.Kind, m.OnBehalf = origin.Forward, listAddress(q.Sender)
	case q.Username != "":
		return policy.Dunno, ""
	case q.ClientAddress == "" && q.Sender != "": // pickup(8) had it from sendmail, which is the wrapper
		return policy.Dunno, ""
	case q.ClientAddress == "":
		m.Origin.Kind, m.Passes = origin.Bounce, true
	default:
		client := endpoint(q.ClientAddress, q.ClientPort)
		if client.IsValid() { // or it is "unknown", and another host's
			_, local, err := s.finder.Client(client, netip.AddrPort{})
			if err != nil {
				return s.undecidedSMTP(&m, q, fmt.Errorf("look for the client on this host: %w", err))
			}
			if local {
				return policy.Dunno, ""
			}
		}
		m.Origin.Kind, m.Client = origin.Relay, client.Addr()
	}
	m.ID = messageID(time.Unix(q.Arrived, 0), "delivery", s.config().Host, q.QueueID, strconv.FormatInt(q.Number, 10))
	decision, err := s.decision(&m)
	if err != nil {
		return s.undecidedSMTP(&m, q, err)
	}
	s.logSMTP(&m, q, &decision, time.Since(began))
	switch {
	case decision.Refusal == nil:
		s.counts.accepted.Add(1)
		return policy.Dunno, ""
	case s.config().SMTPRefusal == "reject":
		s.counts.refused.Add(1)
		return "554 5.7.1", decision.Refusal.Text()
	}
	s.counts.refused.Add(1)
	return "452 4.7.1", decision.Refusal.Text() // whatever it is, it may be lifted before the queue gives up
}

// listAddress is the address of the list that sends with an envelope sender, by the
// forms that sendmail's aliases(5) and list managers have: owner-LIST@, LIST-owner@,
// LIST-request@, LIST-bounces@, and any of them with an extension, +…, as of VERP.
// Another sender is the sender itself, without its extension; "" is no address.
func listAddress(sender string) string {
	at := strings.LastIndexByte(sender, '@')
	if at <= 0 {
		return ""
	}
	local, domain := strings.ToLower(sender[:at]), strings.ToLower(sender[at:])
	if plus := strings.IndexByte(local, '+'); plus > 0 {
		local = local[:plus]
	}
	list := strings.TrimPrefix(local, "owner-")
	for _, suffix := range []string{"-owner", "-request", "-bounces"} {
		if list != local {
			break
		}
		list = strings.TrimSuffix(local, suffix)
	}
	return cmp.Or(list, local) + domain
}

// bareAddress is an address of a header field, without angle brackets and in lower
// case; "" is none.
func bareAddress(value string) string {
	address := strings.Trim(value, " \t<>")
	if strings.LastIndexByte(address, '@') <= 0 {
		return ""
	}
	return strings.ToLower(address)
}

// chargeUser makes a message that is sent on the user's whose address that is, and tells
// whether there is one. As for local(8) that is the local part, whatever the domain:
// a login name, or one with an extension behind "+" or "-" (recipient_delimiter).
func (s *Server) chargeUser(m *quota.Message, address string) bool {
	local := address
	if at := strings.LastIndexByte(address, '@'); at >= 0 {
		local = address[:at]
	}
	for _, end := range []int{len(local), strings.IndexByte(local, '+'), strings.IndexByte(local, '-')} {
		if end <= 0 {
			continue
		}
		if uid, name, known := s.finder.UserOf(local[:end]); known {
			m.NoUser, m.Origin.UID, m.Origin.User = false, uid, name
			return true
		}
	}
	return false
}

// trusts tells whether a program is of one of trusted-users, who send for others.
func (s *Server) trusts(o *origin.Origin) bool {
	return s.finder.IsOne(o.UID, s.config().TrustedUsers)
}

// logSMTP writes the one line of a message.
func (s *Server) logSMTP(m *quota.Message, q *policy.Request, d *quota.Decision, took time.Duration) {
	e := s.log().Info().Str("id", m.ID.String()).EmbedObject(senderOf(m)).Str("subscription", d.Subscription)
	if d.Domain != "" {
		e = e.Str("domain", d.Domain)
	}
	e = e.Str("queue_id", q.QueueID)
	if m.Origin.Client.Proof == 0 { // or that of the program's web request is told
		e = e.Str("client", q.ClientAddress)
	}
	if q.Recipient != "" {
		e = e.Str("recipient", q.Recipient)
	}
	e = logFacts(e, &m.Origin).Str("sender", m.Sender).Int("recipients", m.Recipients).Int64("size", m.Size).Dur("took", took)
	logOutcome(e, d)
}

// sender is whose a message is.
type sender struct {
	mailbox, onBehalf, user string
	uid                     uint32
	noUser                  bool
}

func senderOf(m *quota.Message) sender {
	return sender{m.Mailbox, m.OnBehalf, m.Origin.User, m.Origin.UID, m.NoUser}
}

// MarshalZerologObject adds it to a line of the log.
func (s sender) MarshalZerologObject(e *zerolog.Event) {
	switch {
	case s.mailbox != "":
		e.Str("mailbox", s.mailbox)
	case !s.noUser:
		e.Uint32("uid", s.uid).Str("user", s.user)
	}
	if s.onBehalf != "" {
		e.Str("on_behalf", s.onBehalf)
	}
}
