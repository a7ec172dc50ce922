package quota

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"sendmail-wrapper/origin"
)

// Message is one message that somebody wants to send.
type Message struct {
	ID      uuid.UUID // version 7; a message that comes twice with one ID is charged once
	Origin  origin.Origin
	Mailbox string // login name of SMTP AUTH: the message is the mailbox's, and Origin does not matter to whom it is charged
	// OnBehalf is the address for which the message is sent: of a mailbox, alias or list of
	// this server that sends on what it got, or the envelope sender that a trusted user's
	// program gives. Charged is the mailbox of that name, if there is one (none is made), or
	// else its domain; where the domain is not known, the user, or, with NoUser, the server
	// alone. It is not looked at where there is a Mailbox.
	OnBehalf string `json:",omitzero"`
	NoUser   bool   `json:",omitzero"` // Origin.UID means nothing: no program of this host sends it, nor a user's .forward file
	// Passes: it is counted, and nothing refuses it, such as a bounce of the mail server.
	Passes bool `json:",omitzero"`
	// Again: a message with this ID may have been accepted before, at any time of the last
	// RepeatDays; then it is accepted, and charged no second time. One that was refused
	// before is decided anew.
	Again bool `json:",omitzero"`
	// Probe: the question is only whether it would be refused. A refusal is recorded as of
	// any message; otherwise nothing is charged or recorded, and there are no events.
	Probe bool `json:"-"`
	// SenderCheck says what becomes of a Sender that is not the message's own: see
	// Store.ownSender.
	SenderCheck SenderCheck `json:"-"`
	// Client is the address of the SMTP client, or of a web client that is proved: for
	// white lists, and kept nowhere.
	Client     netip.Addr `json:"-"`
	Sender     string     // envelope sender, "" for the null sender
	Recipients int        // envelope recipients, ≥ 1
	Size       int64      // bytes
	Details    Details    `json:",omitzero"`
	Forbidden  string     // not empty: refused whatever the limits, for this reason
}

// RepeatDays is for how long a message can come again with its ID and be known: longer
// than mail servers try (maximal_queue_lifetime of Postfix and the retry rules of Exim:
// 5 days).
const RepeatDays = 10

// SenderCheck says what becomes of a message whose envelope sender is not its mailbox's
// or user's own.
type SenderCheck uint8

const (
	SenderAny    SenderCheck = iota // nothing: it is not looked at
	SenderReport                    // it passes, and its row says so as one that was observed
	SenderRefuse                    // it is refused: 554 5.7.1
)

// Details are what is kept of a message's own text, for reports and traces: all
// of it claimed, and kept no longer than details-days.
type Details struct {
	MessageID string   // of the header, with < and >; "" if it has none
	Subject   string   // raw: not unfolded words of RFC 2047
	To        []string // addresses of the first recipients, at most 20
}

// check refuses what no column could hold.
func (m *Message) check() error {
	if m.Recipients < 0 || m.Recipients > math.MaxInt32 || m.Size < 0 {
		return fmt.Errorf("message of %d recipients and %d bytes: out of range", m.Recipients, m.Size)
	}
	return nil
}

// bounded is the message with its texts as its row has them.
func (m *Message) bounded() Message {
	b, o := *m, &m.Origin
	b.Mailbox, b.OnBehalf, b.Sender, b.Forbidden = text(m.Mailbox), text(m.OnBehalf), text(m.Sender), text(m.Forbidden)
	b.Origin.User = text(o.User)
	boundFacts(&b.Origin)
	b.Details = m.Details.bounded()
	return b
}

// IDTime is when the id of a message was made; the zero time if it is none, but of
// another version than 7.
func IDTime(id uuid.UUID) time.Time {
	if id.Version() != 7 {
		return time.Time{}
	}
	// Milliseconds since 1970 (RFC 9562 5.7).
	var ms int64
	for _, b := range id[:6] {
		ms = ms<<8 | int64(b)
	}
	return time.UnixMilli(ms)
}

func (m *Message) cost() Cost { return Cost{Messages: 1, Recipients: int64(m.Recipients)} }

// Decision is what became of a Message.
type Decision struct {
	At           time.Time // by the database's clock
	Refusal      *Refusal  // nil: accepted and charged
	Observed     *Refusal  `json:",omitzero"` // accepted by mode observe: why it would have been refused
	Spent        []Spent   `json:",omitzero"` // of Grants
	Events       []Event   `json:"-"`         // that it brought about
	Subscription string    // whom it was charged to, for the log
	Domain       string    // "" where no domain is known
}

// priceOf is what the Grant of an account gave for the message.
func (d *Decision) priceOf(o Object) (price Cost) {
	for i := range d.Spent {
		if d.Spent[i].Object == o {
			price = d.Spent[i].Price
		}
	}
	return price
}

// Refusal says why a message was refused.
type Refusal struct {
	Object     Object // whose limit, or which is blocked; zero where neither, so Message.Forbidden or another block
	Limit      Limit
	Max        int64     // the limit's value
	Used       int64     // used when the message came (RecipientsMessage: recipients of the message)
	Recipients int64     // of the message
	FreeAt     time.Time // when the same message would pass, if nothing else is sent; zero: never
	Away       bool      // refused by Grant, while the database is away
	Grant      int64     // what this host grants of the limit meanwhile
	Blocked    bool      `json:",omitzero"` // by an exception, as Reason says
	Reason     string    // Message.Forbidden, or what the row of an earlier attempt says
	Later      bool      // a limit refused it, as that row says, and FreeAt is not known
}

// Exit is the exit status of sendmail for a refused message, of sysexits(3): 69
// (EX_UNAVAILABLE), which mailers and PHP take for a final failure; 75
// (EX_TEMPFAIL) for mail that an MTA relays with -G, which keeps it in its queue
// then. PHP since 8.5 takes 75 for sent, so a script never gets it.
func (r *Refusal) Exit(gateway bool) uint8 {
	if gateway {
		return 75
	}
	return 69
}

// Code is how SMTP says it, reply code and status code (RFC 5321, 4.2; RFC 3463):
// "452 4.7.1" where trying again later helps, "554 5.7.1" where it never does.
func (r *Refusal) Code() string {
	if r.Later || r.byLimit() && (r.Away || !r.FreeAt.IsZero()) {
		return "452 4.7.1"
	}
	return "554 5.7.1"
}

func (r *Refusal) byLimit() bool { return r.Object != (Object{}) && !r.Blocked }

// By names what refused, as reports and logs show it: "subscription:alice
// messages/hour", or the reason where no limit did.
func (r *Refusal) By() string {
	if !r.byLimit() {
		return r.Reason
	}
	return r.Object.String() + " " + r.Limit.String()
}

var limitPhrases = [NumLimits]string{"messages per hour", "messages per day", "recipients per hour", "recipients per day", "recipients per message"}

// Text says in one line what the limit is, how much of it is used, and when it
// is free again.
func (r *Refusal) Text() string {
	if !r.byLimit() {
		return r.Reason
	}
	of := r.Object.phrase()
	limit := fmt.Sprintf("limit of %d %s of %s", r.Max, limitPhrases[r.Limit], of)
	switch {
	case r.Max == 0 && r.FreeAt.IsZero():
		return fmt.Sprintf("%s may send no mail (%s)", of, limit)
	case r.Limit == RecipientsMessage:
		return fmt.Sprintf("%s: this message has %d; send it to fewer at a time", limit, r.Used)
	case r.Away:
		return fmt.Sprintf("%s: %d used as far as is known; while the database is away this host lets %d more through, and no more now; try again later",
			limit, r.Used, r.Grant)
	case r.FreeAt.IsZero():
		return fmt.Sprintf("%s: this message has %d recipients and can never pass; send it to fewer at a time", limit, r.Recipients)
	case r.Used >= r.Max:
		limit = fmt.Sprintf("%s reached (%d used)", limit, r.Used)
	default:
		limit = fmt.Sprintf("%s: %d used, this message has %d", limit, r.Used, r.Recipients)
	}
	return limit + "; free again at " + r.FreeAt.UTC().Format("2006-01-02 15:04 UTC")
}
