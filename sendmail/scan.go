package sendmail

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
)

const (
	// maxField is how much of one header field is kept. Postfix with -t takes
	// no field longer than header_size_limit, 102400 by default; what is beyond
	// maxField is counted by its separators.
	maxField = 256 << 10

	// maxHeader bounds how much is read where only names and not recipients are
	// looked for.
	maxHeader = 1 << 20

	// maxRecipientHeader bounds how much of a message is read to find recipients:
	// nobody means a longer header, and to read one is work for the daemon.
	maxRecipientHeader = 16 << 20

	// maxText is what is kept of fields for the report: a line of RFC 5322, 2.1.1.
	maxText = 998

	// maxSender bounds what is read of an option -f or a line that names the
	// sender: an address has at most 254 bytes (RFC 5321, 4.5.3.1.3), and may have
	// a name before it.
	maxSender = 4096
)

// ErrHeaderTooLong is what Scan returns for a header of more than 16 MiB.
var ErrHeaderTooLong = errors.New("the header is longer than 16 MiB")

// Scan reads the header of a message and counts the envelope of the call. It
// reads no more than a buffer behind the header, and no more than 16 MiB, or
// where the profile has a table and there is no -t, maxHeader bytes. With
// AllHeader that may be the whole message. In memory are at most maxField bytes
// of it. The error is ErrHeaderTooLong or the reader's.
func (p *Profile) Scan(c Call, env Env, message io.Reader) (Envelope, error) {
	s := scanner{p: p, call: c, operands: tally{p: p}}
	s.envelope.Sender, s.envelope.SenderSet = c.Sender, c.SenderSet
	s.envelope.LineBreaks = c.LineBreaks || p.lineBreakIn(env)
	for _, operand := range c.Operands {
		s.operandNames.add(operand)
		if operand == "" {
			s.operands.n += p.EmptyOperand
		} else {
			s.operands.list(operand, p.BlankOperand)
		}
	}
	s.plain, s.resent = tally{p: p, operands: &s.operands}, tally{p: p, operands: &s.operands}
	if c.Mode != Submit {
		s.finish(env)
		return s.envelope, nil
	}
	var m machine
	if p.machine != nil {
		m = p.machine(p, c, env)
	}
	if !p.AllHeader {
		message = &bounded{message, maxRecipientHeader}
	}
	if p.lines != nil {
		message = p.lines(message)
	}
	err := s.scan(m, message)
	s.finish(env)
	if m != nil {
		m.end(&s.envelope)
	}
	return s.envelope, err
}

// bounded reads so many bytes, whatever the MTA makes of them; then it fails.
type bounded struct {
	in   io.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, ErrHeaderTooLong
	}
	n, err := b.in.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// A machine reads the header of an MTA that reads it unlike the others, and in
// memory that does not grow with the header. The scanner beside it still finds
// what is for the report only.
type machine interface {
	// piece takes the next part of a line, which ends with the newline if that is
	// in the part; false if it needs no more.
	piece(b []byte) bool
	// end sets recipients and sender, of which the envelope has those of the
	// command line.
	end(e *Envelope)
}

// scanner reads a header as the profile says.
type scanner struct {
	p        *Profile
	call     Call
	envelope Envelope

	operands                              tally
	plain                                 tally // of To, Cc, Bcc
	resent                                tally // of Resent-To …
	isResent                              bool
	operandNames, plainNames, resentNames names
	atLeast                               int // recipients if the header ended where that is not sure

	within   bool // a line
	inMbox   bool // the line is one of mbox
	inHeader bool // no line of mbox can come any more

	current    field
	resentName bool   // one of ResentWhen
	value      []byte // of the current field
	beyond     int    // separators after maxField
	read       int
}

// field is what a header field is for.
type field uint8

const (
	noField field = iota
	otherField
	recipientField
	resentField
	phpField
	messageIDField
	subjectField
	redirectedField
)

// scan reads pieces of lines until nobody wants more.
func (s *scanner) scan(m machine, message io.Reader) error {
	r := bufio.NewReaderSize(message, 64<<10)
	byTable := m == nil // is counted, or else by the machine
	mine, machines := true, m != nil
	for mine || machines {
		piece, err := r.ReadSlice('\n')
		eof := errors.Is(err, io.EOF)
		if err != nil && !eof && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		s.read += len(piece)
		if mine && len(piece) > 0 {
			mine = s.piece(piece, eof) && (s.read <= maxHeader || s.call.FromHeader && byTable)
		}
		if machines && len(piece) > 0 {
			machines = m.piece(piece)
		}
		if eof {
			break
		}
	}
	s.endField()
	return nil
}

// piece takes the next part of a line, which ends with the newline if that is
// in the part; false if the header ends before it.
func (s *scanner) piece(piece []byte, eof bool) bool {
	within := s.within
	s.within = piece[len(piece)-1] != '\n'
	lost := s.within && eof && !s.p.LastLine
	switch {
	case within && s.inMbox, !within && s.fromLine(piece):
		return true
	case lost:
		if within || isBlank(piece[0]) { // and with the line the field that it continues
			s.current = noField
		}
		return false
	case within:
		s.append(piece)
		return true
	}
	return s.line(piece)
}

// fromLine is whether a line is one of mbox, before the header.
func (s *scanner) fromLine(line []byte) bool {
	if s.inHeader {
		return false
	}
	from := line
	switch s.p.FromLines {
	case quotedFromSkipped:
		from = bytes.TrimLeft(line, ">")
	case onceQuotedFromSkipped:
		from = bytes.TrimPrefix(line, []byte(">"))
	}
	folded := s.inMbox && s.p.FromLines == fromLinesSkipped && isBlank(line[0])
	s.inMbox = folded || s.p.FromLines != fromLinesEnd && (bytes.HasPrefix(from, []byte("From ")) || s.p.FromLines == anyCaseFromSkipped && foldPrefix(line, "from "))
	s.inHeader = !s.inMbox || s.p.FromLines == fromLineSkipped
	if s.inMbox && !folded && s.p.fromLine != nil && !s.call.SenderSet {
		if address, ok := s.p.fromLine(line[:min(len(line), maxSender)]); ok {
			s.envelope.Sender, s.envelope.SenderSet = address, true
		}
	}
	return s.inMbox
}

// line takes the first 64 KiB of a line; false if the header ends before it.
func (s *scanner) line(line []byte) bool {
	text := bytes.TrimRight(line, "\r\n")
	switch {
	case len(text) == 0:
		return false
	case len(text) == 1 && text[0] == '.' && !s.call.IgnoreDots:
		return false
	case isBlank(text[0]):
		s.append(line)
		return s.current != noField
	}
	name, value, ok := s.field(text)
	if !ok {
		return false
	}
	s.endField()
	s.current = s.kind(name)
	if s.p.LineLimit > 0 && value > s.p.LineLimit || oneOf(s.p.MayEnd, name) {
		s.atLeast = max(s.atLeast, s.total())
	}
	if strings.IndexByte(name, 0x7f) >= 0 {
		s.atLeast = max(s.atLeast, 2) // chompheader() of Sendmail: "header syntax error", bounced to the sender and to postmaster
	}
	s.append(line[value:])
	return true
}

// field finds the name in the first part of a line, and where the value begins,
// if it is a header field: at least one printable character, then a colon, for
// which the rest of the line is yet to come if the line is long.
func (s *scanner) field(line []byte) (name string, value int, ok bool) {
	end := bytes.IndexByte(line, ':')
	value = end + 1
	if end < 0 {
		if !s.within {
			return "", 0, false
		}
		end, value = len(line), len(line)
	}
	before := line[:end]
	before = bytes.TrimRight(before, s.p.BeforeColon)
	for _, c := range before {
		if c <= ' ' || c == 0x7f && !s.p.DELNames || c > 0x7f && !s.p.AnyNames {
			return "", 0, false
		}
	}
	if s.p.MaxName > 0 && len(before) > s.p.MaxName || s.p.NoName != "" && bytes.HasPrefix(line, []byte(s.p.NoName)) {
		return "", 0, false
	}
	return string(before), value, len(before) > 0 || s.p.AnyNames
}

// kind is what a field of this name is for.
func (s *scanner) kind(name string) field {
	s.resentName = oneOf(s.p.ResentWhen, name)
	switch {
	case oneOf(s.p.Recipients, name):
		return recipientField
	case oneOf(s.p.Resent, name):
		return resentField
	case strings.EqualFold(name, "x-php-originating-script"):
		return phpField
	case strings.EqualFold(name, "message-id"):
		return messageIDField
	case strings.EqualFold(name, "subject"):
		return subjectField
	case strings.EqualFold(name, "x-sieve-redirected-from"):
		return redirectedField
	}
	return otherField
}

// oneOf is whether a name is in a list, where "resent-*" is any that begins so.
func oneOf(list []string, name string) bool {
	for _, form := range list {
		form, any := strings.CutSuffix(form, "*")
		if strings.EqualFold(form, name) || any && len(name) > len(form) && strings.EqualFold(form, name[:len(form)]) {
			return true
		}
	}
	return false
}

func (s *scanner) append(b []byte) {
	limit := 0
	switch s.current {
	case noField, otherField:
		return
	case recipientField, resentField:
		if !s.call.FromHeader {
			return
		}
		limit = maxField
		if s.p.machine != nil { // counted by that, and only named here
			limit = maxNamed + 1
		}
	default:
		limit = maxText + 2
	}
	keep := min(len(b), limit-min(len(s.value), limit))
	s.value = append(s.value, b[:keep]...)
	s.beyond += separators(b[keep:])
}

// separators is how many addresses there may be in a part of a list, at most.
func separators(list []byte) (n int) {
	for _, c := range list {
		if isCSpace(c) || strings.IndexByte(`,;:<>"()[]`, c) >= 0 {
			n++
		}
	}
	return n
}

func (s *scanner) endField() {
	e := &s.envelope
	s.isResent = s.isResent || s.resentName && s.current != noField
	switch s.current {
	case recipientField:
		s.count(&s.plain)
		s.plainNames.add(string(s.value[:min(len(s.value), maxNamed+1)]))
	case resentField:
		s.count(&s.resent)
		s.resentNames.add(string(s.value[:min(len(s.value), maxNamed+1)]))
	case phpField:
		keepFirst(&e.PHPScript, s.value)
	case messageIDField:
		keepFirst(&e.MessageID, s.value)
	case subjectField:
		keepFirst(&e.Subject, s.value)
	case redirectedField:
		keepFirst(&e.RedirectedFrom, s.value)
	}
	s.current, s.value, s.beyond, s.resentName = noField, s.value[:0], 0, false
}

// count counts the recipients of the current field. A NUL ends a line for a program
// in C, or the field, or is left out: then nobody knows what of the rest closes a
// bracket, so each separator counts.
func (s *scanner) count(t *tally) {
	if s.p.machine != nil {
		return
	}
	before := t.n
	t.list(string(s.value), 0)
	if bytes.IndexByte(s.value, 0) >= 0 {
		t.n = max(t.n, before+separators(s.value)+1)
	}
	t.n += s.beyond
}

// keepFirst takes the value of a field that counts once, without its folds.
func keepFirst(into *string, value []byte) {
	if *into == "" {
		unfolded := strings.NewReplacer("\r", "", "\n", "").Replace(string(value))
		unfolded = strings.Trim(unfolded, " \t")
		*into = unfolded[:min(len(unfolded), maxText)]
	}
}

// finish puts together what operands, header and environment say.
func (s *scanner) finish(env Env) {
	p, e := s.p, &s.envelope
	e.Recipients = max(s.total(), s.atLeast)
	if e.Recipients == 0 && s.call.FromHeader && p.Bounces == bounceToSender && !s.call.NoBounce && !(e.SenderSet && e.Sender == "") {
		e.Recipients = 1
	}
	if e.Recipients > 0 && s.reports(env) {
		e.Recipients++
	}
	e.Addresses = s.named()
}

// total is how many recipients there are, if the header ends here.
func (s *scanner) total() int {
	if !s.call.FromHeader {
		return s.operands.n
	}
	header, operands := s.plain.n, s.operands.n
	if s.isResent { // RFC 5322, 3.6.6
		header = s.resent.n
	}
	if s.p.Arguments == subtracted {
		operands = 0
	}
	return header + operands
}

// reports is whether a report is mailed to the sender.
func (s *scanner) reports(env Env) bool {
	set := false
	if s.p.ReportEnv != "" {
		_, set = env(s.p.ReportEnv)
	}
	return s.call.Report || set && s.call.Mode == Submit
}
