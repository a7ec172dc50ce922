// Package sendmail is sendmail(1) as the MTAs of the field speak it: what a
// command line asks for, and which envelope a message on standard input gets.
// It reads bytes and returns facts; it opens nothing and imports nothing of ours.
//
// Each MTA has a [Profile], a table of what its sendmail does:
//
//   - the command line: which options there are, which take a value and where it
//     stands, what ends them, what each does, and what argv[0] means;
//   - the message: what is skipped before the header, what is a field, what ends
//     the header;
//   - the recipients: which fields name them, when Resent- fields take their
//     place, what -t does with operands, how a list is split, whether a double
//     counts;
//   - the sender, and what else is mail: bounces, reports.
//
// # What counts
//
// [Envelope.Recipients] is the recipients that the MTA would put into its queue,
// over all messages that the call causes. It rests on three rules.
//
//   - Where the source says that the call fails, whatever the configuration, it is
//     [Other] and counts nothing: the real program says what is wrong.
//   - Where success hangs on the configuration or on the rights of the caller, it
//     counts.
//   - An address that the MTA may refuse counts as one: it is queued, or it is the
//     bounce. Where a header may end at a line or may not, the higher count stands.
//
// So it is never lower than what leaves. What it cannot know is in
// docs/counting.md.
package sendmail

import (
	"errors"
	"strings"
)

// Mode is what a call of sendmail does.
type Mode uint8

const (
	Other     Mode = iota // submits nothing (mailq, newaliases, -bi, -q, usage errors …): exec the real program at once
	Submit                // one message from standard input
	Probe                 // -bv of Postfix: queues a message to each operand, standard input is not read
	SMTP                  // -bs: an SMTP dialogue on standard input and output
	BatchSMTP             // -bS of Exim: SMTP commands and messages on standard input, no replies
)

// Call is a command line, understood.
type Call struct {
	Mode       Mode
	Sender     string   // envelope sender as given with -f or -r, without brackets and name
	SenderSet  bool     // false: the MTA finds it otherwise
	FromHeader bool     // -t: recipients from the header, too
	IgnoreDots bool     // a lone dot does not end the message
	Gateway    bool     // -G, or called as rmail: relayed mail; a refusal must be temporary (exit 75)
	Report     bool     // the MTA is asked to mail a report of success to the sender: one recipient more
	NoBounce   bool     // what is wrong is printed, and not mailed to the sender
	FromField  bool     // the envelope sender is taken from the field From:, where -f is absent
	LineBreaks bool     // an argument has a line break, and the MTA would take what is behind it for a line of its own
	Operands   []string // recipients as they stand in argv
}

// Envelope is what the MTA would queue for a Call and the message given.
type Envelope struct {
	// Recipients is how many the MTA would queue, over all messages that the
	// call causes: a bounce to the sender and a report are messages, too. Unsure
	// counts high.
	Recipients int

	// Sender is the envelope sender as this MTA takes it, of -f, the header or the
	// environment: a claim of the caller's. Without SenderSet it is his login name.
	Sender    string
	SenderSet bool

	// LineBreaks is that of the Call, or of the environment: the call is not to be
	// passed on, for what it sends is not known (linebreaks.go).
	LineBreaks bool

	PHPScript string // value of X-PHP-Originating-Script, "" without
	MessageID string // value of Message-ID, "" without
	Subject   string // value of Subject, raw, unfolded, at most 998 bytes

	// RedirectedFrom is the value of X-Sieve-Redirected-From, with which Dovecot's Sieve
	// names the mailbox that redirects a message: a claim of the caller's.
	RedirectedFrom string

	// Addresses are the first recipients, for the report only: as far as they can be
	// named, as they stand in argv or header, at most MaxAddresses.
	Addresses []string
}

// MaxAddresses bounds Envelope.Addresses, and MaxAddress each of them, in bytes (RFC
// 5321, 4.5.3.1.3).
const (
	MaxAddresses = 20
	MaxAddress   = 254
)

// Env looks up a variable in the caller's environment, as os.LookupEnv does.
type Env func(name string) (value string, set bool)

// ProfileByName returns the profile of an MTA. The error names those there are.
func ProfileByName(name string) (*Profile, error) {
	if name == eximAdding {
		return eximAddArguments(), nil
	}
	for _, p := range profiles {
		if p.Name == name {
			return p, nil
		}
	}
	var known []string
	for _, p := range profiles {
		known = append(known, p.Name)
	}
	return nil, errors.New("mail server " + name + " is not known: there are " + strings.Join(append(known, eximAdding), " "))
}
