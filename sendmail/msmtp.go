package sendmail

import "strings"

// msmtp is msmtp 1.8.23 to 1.8.33 under the name sendmail, from its
// src/msmtp.c. It queues nothing: it speaks SMTP at once, with a RCPT for each
// recipient. The account of msmtprc, and with it the sender of a call without
// -f, are not known here.
var msmtp = Profile{
	Name: "msmtp",

	Options:  "Pd::SC:a:f:N:R:X:tA:B:b:F:Gh:iL:mnO:o:v" + readEnvelopeFrom, // msmtp_cmdline()
	Permutes: true,                                                         // getopt_long(3) of glibc
	rewrite:  msmtpLongOption,
	Does: []rule{
		{"P", ends},    // --pretend shows the configuration
		{"S", ends},    // --serverinfo
		{"d0.1", ends}, // the version, as of sendmail -d0.1
		{"bm", nothing},
		{"b*", ends}, // "unsupported operation mode"
		{"f*", setSender},
		{"t", fromHeader},
		{"G", gateway},
		{"Rhdrs", nothing}, {"Rheaders", nothing}, {"Rfull", nothing}, {"Roff", nothing},
		{"R*", ends}, // "invalid argument"
	},
	sender: func(w *parsing, value string) {
		if value == "<>" {
			value = "" // Debian bug 612679
		}
		w.call.Sender, w.call.SenderSet = value, true // as it stands, with a name before it or a list
	},
	check: checkMsmtp,

	Dots:    false, // and so -i means nothing
	machine: newMsmtpHeader,

	addresses: func(list string, each func(address string)) {
		// Operands are lines "To: operand" of a header of their own.
		m := msmtpHeader{recipients: true}
		m.write("To: " + list + "\n\n")
		for range m.count() {
			each("")
		}
	},
}

// readEnvelopeFrom is the letter of --read-envelope-from, which has none: no
// argument has this byte.
const readEnvelopeFrom = "\x00"

// msmtpLongOptions are the long options of all versions: "=" for a value, "=?"
// for one that may be absent, and then the letter that does the same. What does
// not matter here is -O, with a value, or -i.
var msmtpLongOptions = [...]struct{ name, takes, letter string }{
	{"version", "", "P"},
	{"help", "", "P"},
	{"configure", "=", "P"},
	{"pretend", "", "P"},
	{"debug", "=?", "d"},
	{"serverinfo", "", "S"},
	{"rmqs", "=", "P"}, // Remote Message Queue Starting, ETRN
	{"file", "=", "C"},
	{"account", "=", "a"},
	{"host", "=", "O"},
	{"port", "=", "O"},
	{"timeout", "=", "O"},
	{"connect-timeout", "=", "O"},
	{"auto-from", "=?", "i"},
	{"from", "=", "f"},
	{"maildomain", "=", "O"},
	{"auth", "=?", "i"},
	{"user", "=", "O"},
	{"passwordeval", "=", "O"},
	{"tls", "=?", "i"},
	{"tls-starttls", "=?", "i"},
	{"tls-trust-file", "=", "O"},
	{"tls-crl-file", "=", "O"},
	{"tls-fingerprint", "=", "O"},
	{"tls-key-file", "=", "O"},
	{"tls-cert-file", "=", "O"},
	{"tls-certcheck", "=?", "i"},
	{"tls-force-sslv3", "=?", "i"},
	{"tls-min-dh-prime-bits", "=", "O"},
	{"tls-priorities", "=", "O"},
	{"tls-host-override", "=", "O"},
	{"dsn-notify", "=", "N"},
	{"dsn-return", "=", "R"},
	{"protocol", "=", "O"},
	{"domain", "=", "O"},
	{"logfile", "=", "X"},
	{"logfile-time-format", "=", "O"},
	{"syslog", "=?", "i"},
	{"aliases", "=", "O"},
	{"proxy-host", "=", "O"},
	{"proxy-port", "=", "O"},
	{"add-missing-from-header", "=?", "i"},
	{"add-missing-date-header", "=?", "i"},
	{"set-from-header", "=?", "i"},
	{"set-date-header", "=?", "i"},
	{"set-msgid-header", "=?", "i"},
	{"set-to-header", "=?", "i"}, // 1.8.29
	{"remove-bcc-headers", "=?", "i"},
	{"undisclosed-recipients", "=?", "i"},
	{"source-ip", "=", "O"},
	{"socket", "=", "O"},
	{"keepbcc", "=?", "i"},
	{"read-recipients", "", "t"},
	{"read-envelope-from", "", readEnvelopeFrom},
}

// usageError is a word that getopt(3) takes for an error.
const usageError = "-:"

// msmtpLongOption puts a short option in the place of a long one. A beginning
// that only one name has is enough (getopt_long(3)).
func msmtpLongOption(words []string) string {
	long, ok := strings.CutPrefix(words[0], "--")
	if !ok || long == "" {
		return words[0]
	}
	name, value, hasValue := strings.Cut(long, "=")
	found := -1
	for i, option := range msmtpLongOptions {
		if option.name == name {
			found = i
			break
		}
		if strings.HasPrefix(option.name, name) {
			if found >= 0 {
				return usageError // ambiguous
			}
			found = i
		}
	}
	if found < 0 {
		return usageError
	}
	switch option := msmtpLongOptions[found]; {
	case option.takes == "" && hasValue:
		return usageError
	case option.letter == "i", option.letter == "P":
		return "-" + option.letter
	case hasValue && value == "" && option.letter == "f":
		return "-f<>"
	case hasValue && value == "" && option.takes == "=":
		return "-i" // an empty value is one, and the next word is none
	default:
		return "-" + option.letter + value
	}
}

func checkMsmtp(w *parsing) {
	if w.seen['f'] > 0 && w.seen[readEnvelopeFrom[0]] > 0 {
		w.ended = true // "cannot use both --from and --read-envelope-from"
	}
	w.call.FromField = w.seen[readEnvelopeFrom[0]] > 0
	// What operands hold is made harmless (msmtp_read_headers(): "sanitize
	// characters"), other values are not.
	w.call.LineBreaks = lineBreaks(w.argv) > lineBreaks(w.call.Operands)
}

// msmtpHeader reads a header as msmtp_read_headers() does, byte by byte.
type msmtpHeader struct {
	recipients bool // -t
	readFrom   bool // --read-envelope-from

	state msmtpState
	fold  msmtpState // where a continuation goes on
	saved msmtpState // … and what is behind a backslash
	outer msmtpState // … and behind a comment
	depth int        // of comments; an unclosed one goes on in the next field
	name  []byte     // of the field, in lower case, while it may be one that counts

	begun     bool // an address has
	plain     int
	resent    int
	block     resentBlock
	from      fromField
	sender    []byte
	hasSender bool
}

type msmtpState uint8

const (
	msmtpLine      msmtpState = iota // at the start of a line
	msmtpAfterList                   // the same, behind a field with addresses: space continues it
	msmtpName
	msmtpOther // a line without addresses
	msmtpBetween
	msmtpBare
	msmtpQuoted
	msmtpOpened // just behind "<"
	msmtpBracketed
	msmtpCommentOpened // just behind "("
	msmtpComment
	msmtpEscaped
	msmtpEnd
)

// resentBlock: only the first block of Resent- fields names recipients, and
// another line ends it.
type resentBlock uint8

const (
	beforeResent resentBlock = iota
	inResent
	afterResent
)

// fromField: the first address of From: is the sender's, whether or not that is
// wanted. A second one is a recipient with -t.
type fromField uint8

const (
	beforeFrom fromField = iota
	inFrom
	afterFrom
)

func newMsmtpHeader(_ *Profile, c Call, _ Env) machine {
	m := &msmtpHeader{recipients: c.FromHeader, readFrom: c.FromField}
	if c.LineBreaks {
		return &lineCounter{machine: m}
	}
	return m
}

func (m *msmtpHeader) piece(b []byte) bool {
	for _, c := range b {
		m.byte(c)
	}
	return m.state != msmtpEnd && (m.recipients || m.readFrom)
}

func (m *msmtpHeader) write(text string) {
	for i := 0; i < len(text); i++ {
		m.byte(text[i])
	}
}

func (m *msmtpHeader) end(e *Envelope) {
	if m.state != msmtpEnd {
		m.finish()
	}
	if m.recipients {
		e.Recipients += m.count()
	}
	if m.hasSender && m.readFrom {
		e.Sender, e.SenderSet = string(m.sender), true
	}
}

func (m *msmtpHeader) count() int {
	if m.block != beforeResent {
		return m.resent
	}
	return m.plain
}

// byte takes the next byte. All CR are dropped before anything is looked at.
func (m *msmtpHeader) byte(c byte) {
	if c == '\r' || m.state == msmtpEnd {
		return
	}
	switch m.state {
	case msmtpLine, msmtpAfterList, msmtpName, msmtpOther:
		m.outside(c)
		return
	case msmtpEscaped:
		if c == '\n' {
			m.newline(msmtpBetween)
			return
		}
		if m.state = m.saved; m.state == msmtpBare || m.state == msmtpBracketed {
			m.add(c)
		}
		return
	case msmtpQuoted, msmtpOpened, msmtpBracketed, msmtpCommentOpened, msmtpComment:
		if c == '\n' {
			m.newline(m.state)
			return
		}
	}
	switch m.state {
	case msmtpBetween, msmtpBare:
		m.inList(c)
	case msmtpQuoted:
		switch c {
		case '\\':
			m.escape()
		case '"':
			m.state = msmtpBetween
		}
	case msmtpOpened, msmtpBracketed:
		switch {
		case c == '(':
			m.comment()
		case c == '>':
			m.finish()
			m.state = msmtpBetween
		case c == '\\' && m.state == msmtpBracketed:
			m.escape()
		default:
			m.state = msmtpBracketed
			m.add(c)
		}
	case msmtpCommentOpened:
		if c == ')' {
			m.state = m.outer
			return
		}
		m.depth++
		m.state = msmtpComment
	case msmtpComment:
		switch c {
		case '\\':
			m.escape()
		case '(':
			m.state = msmtpCommentOpened
		case ')':
			if m.depth--; m.depth == 0 {
				m.state = m.outer
			}
		}
	}
}

// inList takes a byte between addresses or within one without brackets.
func (m *msmtpHeader) inList(c byte) {
	switch c {
	case '\n':
		if m.state == msmtpBetween {
			m.finish()
		}
		m.newline(msmtpBetween)
	case '\\':
		m.escape()
	case '(':
		m.comment()
	case '"':
		m.begun = false // what was before is a name
		m.state = msmtpQuoted
	case '<':
		m.begun = false
		m.state = msmtpOpened
	case ' ', '\t':
		m.state = msmtpBetween
	case ':':
		m.begun = false // … of a group
		m.state = msmtpBetween
	case ',', ';':
		m.finish()
		m.state = msmtpBetween
	default:
		if m.state == msmtpBetween {
			m.begun = false // a second word: the first was a name
		}
		m.state = msmtpBare
		m.add(c)
	}
}

func (m *msmtpHeader) newline(fold msmtpState) {
	m.fold, m.state = fold, msmtpAfterList
}

func (m *msmtpHeader) escape() {
	m.saved, m.state = m.state, msmtpEscaped
}

func (m *msmtpHeader) comment() {
	m.outer, m.state = m.state, msmtpCommentOpened
}

func (m *msmtpHeader) add(c byte) {
	if !m.begun {
		m.begun = true
		if m.from == inFrom {
			m.sender = m.sender[:0]
		}
	}
	if m.from == inFrom && len(m.sender) < maxSender {
		m.sender = append(m.sender, c)
	}
}

// finish ends an address, if one has begun.
func (m *msmtpHeader) finish() {
	switch {
	case !m.begun:
		return
	case m.from == inFrom:
		m.from, m.hasSender = afterFrom, true
	case m.block == inResent:
		m.resent++
	default:
		m.plain++
	}
	m.begun = false
}

// outside takes a byte of a line that is not, or not yet, a field with
// addresses.
func (m *msmtpHeader) outside(c byte) {
	switch m.state {
	case msmtpAfterList:
		if c == ' ' || c == '\t' {
			m.state = m.fold
			return
		}
		m.finish()
		if m.from == inFrom { // without an address
			m.from, m.sender = beforeFrom, m.sender[:0]
		}
	case msmtpLine:
		m.depth = 0
	case msmtpOther:
		if c == '\n' {
			m.state = msmtpLine
		}
		return
	}
	if m.state != msmtpName {
		m.name = m.name[:0]
		if c == '\n' {
			m.state = msmtpEnd
			return
		}
	}
	if c == '\n' {
		// Such a short line, as "Da", does not end a block of Resent- fields.
		m.state = msmtpLine
		return
	}
	m.name = append(m.name, lower(c))
	switch name := string(m.name); {
	case name == "resent-" && m.block == beforeResent:
		m.block = inResent
		m.state = msmtpName
	case name == "to:", name == "cc:", name == "bcc:":
		m.closeBlock()
		m.state = msmtpBetween
		if !m.recipients {
			m.state = msmtpOther
		}
	case name == "from:" && m.from == beforeFrom:
		m.closeBlock()
		m.from, m.state = inFrom, msmtpBetween
	case m.block != afterResent && (name == "resent-to:" || name == "resent-cc:" || name == "resent-bcc:"):
		m.state = msmtpBetween
	case m.block != afterResent && name == "resent-from:":
		m.from, m.state = inFrom, msmtpBetween
	case strings.HasPrefix("to:", name), strings.HasPrefix("cc:", name), strings.HasPrefix("bcc:", name), strings.HasPrefix("from:", name):
		if len(name) > 1 {
			m.closeBlock()
		}
		m.state = msmtpName
	case strings.HasPrefix("date:", name), strings.HasPrefix("message-id:", name),
		strings.HasPrefix("resent-to:", name), strings.HasPrefix("resent-cc:", name), strings.HasPrefix("resent-bcc:", name), strings.HasPrefix("resent-from:", name):
		m.state = msmtpName
	default:
		if !strings.HasPrefix(name, "resent-") {
			m.closeBlock()
		}
		m.state = msmtpOther
	}
}

func (m *msmtpHeader) closeBlock() {
	if m.block == inResent {
		m.block = afterResent
	}
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
