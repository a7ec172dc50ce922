// Package sendmail is sendmail(1) as the MTAs of the field speak it: what a
// command line asks for, and which envelope a message on standard input gets.
// It reads bytes and returns facts; it opens nothing and imports nothing of ours.
//
// Each MTA has a [Profile], because there is no one grammar: some stop at the
// first operand and some go on looking for options, and they differ in what
// ends a header, what a lone dot does, and where recipients come from.
//
// Where a profile cannot be sure, it counts high: a message that the MTA then
// refuses was charged for nothing, but none leaves that was not charged.
package sendmail

import (
	"errors"
	"io"
)

// Mode is what a call of sendmail does.
type Mode uint8

const (
	Other  Mode = iota // submits nothing (mailq, newaliases, -bi, -q, usage errors …): exec the real program at once
	Submit             // one message from standard input
	Probe              // -bv of Postfix: queues a message to each operand, standard input is not read
	SMTP               // -bs: an SMTP dialogue on standard input and output
)

// Call is a command line, understood.
type Call struct {
	Mode       Mode
	Sender     string   // envelope sender as given with -f or -r, without brackets and name
	SenderSet  bool     // false: the MTA takes the caller's login name
	FromHeader bool     // -t: recipients from the header, too
	IgnoreDots bool     // -i, -oi: a lone dot does not end the message
	Gateway    bool     // -G: relayed mail; a refusal must be temporary (exit 75)
	Operands   []string // recipients as they stand in argv
}

// Envelope is what the MTA would queue for a Call and the message given.
type Envelope struct {
	Recipients int    // as many as the MTA would take; unsure counts high
	PHPScript  string // value of X-PHP-Originating-Script, "" without
	MessageID  string // value of Message-ID, "" without
	Subject    string // value of Subject, raw, unfolded, at most 998 bytes
}

// Profile is the grammar of one MTA's sendmail.
type Profile struct {
	Name  string
	parse func(argv []string) Call
}

var profiles = []*Profile{postfix}

// ProfileByName returns the profile of an MTA. The error names those there are.
func ProfileByName(name string) (*Profile, error) {
	known := ""
	for _, p := range profiles {
		if p.Name == name {
			return p, nil
		}
		known += " " + p.Name
	}
	return nil, errors.New("mail server " + name + " is not known: there are" + known)
}

// Parse reads a command line. It never fails: a call that the real program
// would reject is Other, so that the real program says so itself.
func (p *Profile) Parse(argv []string) Call {
	if len(argv) == 0 {
		return Call{}
	}
	return p.parse(argv)
}

// Scan reads the header of a message and counts the envelope of the call. It
// reads no further than the header, and of a message without -t no more than
// maxHeader bytes; it holds at most maxField bytes of it in memory. The error is
// ErrHeaderTooLong or the reader's.
func (p *Profile) Scan(c Call, message io.Reader) (Envelope, error) {
	e := Envelope{}
	for _, operand := range c.Operands {
		// An operand is never nothing: "" is queued to the empty address.
		e.Recipients += max(1, countAddresses(operand))
	}
	if c.Mode != Submit {
		return e, nil
	}
	s := scanner{call: c, envelope: &e}
	err := s.scan(message)
	if c.FromHeader {
		// Resent- fields take the place of the others (RFC 5322, 3.6.6), even
		// where they name nobody.
		if s.isResent {
			e.Recipients += s.resent
		} else {
			e.Recipients += s.recipients
		}
	}
	return e, err
}
