package sendmail

import "strings"

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
	return &msmtpHeader{recipients: c.FromHeader, readFrom: c.FromField}
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
		if isBlank(c) {
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
