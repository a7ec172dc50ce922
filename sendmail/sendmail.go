// Package sendmail is sendmail(1) as the MTAs of the field speak it: what a
// command line asks for, and which envelope a message on standard input gets.
// It reads bytes and returns facts; it opens nothing and imports nothing of ours.
package sendmail

import "io"

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
	Name string
	// the rest belongs to this package: see postfix.go
}

// Parse reads a command line. It never fails: a call that the real program
// would reject is Other, so that the real program says so itself.
func (p *Profile) Parse(argv []string) Call { panic("to be written") }

// Scan reads the header of a message and counts the envelope of the call. It
// reads at most maxHeader bytes and holds no more than one field of it in memory.
func (p *Profile) Scan(c Call, message io.Reader) (Envelope, error) { panic("to be written") }
