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

	// maxRecipientHeader bounds how much is read to find recipients: nobody
	// means a longer header, and to read one is work for the daemon.
	maxRecipientHeader = 16 << 20

	// maxText is what is kept of fields for the report: a line of RFC 5322, 2.1.1.
	maxText = 998
)

// fields are the header fields that matter, by their names in lower case.
var fields = map[string]field{
	"to": recipientField, "cc": recipientField, "bcc": recipientField,
	"resent-to": resentField, "resent-cc": resentField, "resent-bcc": resentField,
	"x-php-originating-script": phpField, "message-id": messageIDField, "subject": subjectField,
}

type field uint8

const (
	otherField field = iota
	recipientField
	resentField
	phpField
	messageIDField
	subjectField
)

// ErrHeaderTooLong is what Scan returns for a header of more than 16 MiB.
var ErrHeaderTooLong = errors.New("the header is longer than 16 MiB")

// scanner reads a header as Postfix does: rec_streamlf.c and mime_state.c for
// lines, is_header.c for what a field is, sendmail.c for From_ lines and dots.
type scanner struct {
	call       Call
	envelope   *Envelope
	recipients int
	resent     int
	isResent   bool

	current field
	started bool   // a field has begun, which a line with leading space continues
	value   []byte // of the current field
	beyond  int    // separators after maxField
	read    int
}

func (s *scanner) scan(message io.Reader) error {
	r := bufio.NewReaderSize(message, 64<<10)
	fromLines := true
	for {
		line, err := r.ReadSlice('\n')
		whole := err == nil
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) && !errors.Is(err, io.EOF) {
			return err
		}
		s.read += len(line)
		if len(line) == 0 || !s.call.FromHeader && s.read > maxHeader {
			break
		}
		if s.read > maxRecipientHeader {
			return ErrHeaderTooLong
		}
		if fromLines && isFromLine(line) {
			if !whole && !skipLine(r) {
				break
			}
			continue
		}
		fromLines = false
		if !s.line(line) {
			break
		}
		for !whole { // the rest of a long line
			line, err = r.ReadSlice('\n')
			whole = err == nil || len(line) == 0
			if err != nil && !errors.Is(err, bufio.ErrBufferFull) && !errors.Is(err, io.EOF) {
				return err
			}
			s.read += len(line)
			if s.read > maxRecipientHeader {
				return ErrHeaderTooLong
			}
			s.append(line)
		}
	}
	s.endField()
	return nil
}

// skipLine reads to the end of a line; false at the end of the message.
func skipLine(r *bufio.Reader) bool {
	for {
		_, err := r.ReadSlice('\n')
		if err == nil || !errors.Is(err, bufio.ErrBufferFull) {
			return err == nil
		}
	}
}

func isFromLine(line []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(line, ">"), []byte("From "))
}

// line takes the first 64 KiB of a line; false if the header ends before it.
func (s *scanner) line(line []byte) bool {
	text := bytes.TrimRight(line, "\r\n")
	switch {
	case len(text) == 0:
		return false
	case len(text) == 1 && text[0] == '.' && !s.call.IgnoreDots:
		return false
	case text[0] == ' ' || text[0] == '\t':
		s.append(line)
		return s.started
	}
	name, ok := fieldName(text)
	if !ok {
		return false
	}
	s.endField()
	s.started = true
	s.current = fields[strings.ToLower(name)]
	s.append(line[bytes.IndexByte(line, ':')+1:])
	return true
}

// fieldName is the name before the colon, if the line is a header field: at
// least one printable character of ASCII, then perhaps white space.
func fieldName(line []byte) (name string, ok bool) {
	before, _, found := bytes.Cut(line[:min(len(line), 2048)], []byte(":"))
	before = bytes.TrimRight(before, " \t\r\v\f")
	if !found || len(before) == 0 {
		return "", false
	}
	for _, c := range before {
		if c <= ' ' || c >= 0x7f {
			return "", false
		}
	}
	return string(before), true
}

func (s *scanner) append(b []byte) {
	if s.current == otherField {
		return
	}
	limit := maxText + 2
	if s.current == recipientField || s.current == resentField {
		if !s.call.FromHeader {
			return
		}
		limit = maxField
	}
	keep := min(len(b), limit-min(len(s.value), limit))
	s.value = append(s.value, b[:keep]...)
	for _, c := range b[keep:] {
		if isSpace(c) || strings.IndexByte(",;<>", c) >= 0 {
			s.beyond++
		}
	}
}

func (s *scanner) endField() {
	e := s.envelope
	switch s.current {
	case recipientField:
		s.recipients += countAddresses(string(s.value)) + s.beyond
	case resentField:
		s.isResent = true
		s.resent += countAddresses(string(s.value)) + s.beyond
	case phpField:
		keepFirst(&e.PHPScript, s.value)
	case messageIDField:
		keepFirst(&e.MessageID, s.value)
	case subjectField:
		keepFirst(&e.Subject, s.value)
	}
	s.current, s.value, s.beyond = otherField, s.value[:0], 0
}

// keepFirst takes the value of a field that counts once, without its folds.
func keepFirst(into *string, value []byte) {
	if *into == "" {
		unfolded := strings.NewReplacer("\r", "", "\n", "").Replace(string(value))
		unfolded = strings.Trim(unfolded, " \t")
		*into = unfolded[:min(len(unfolded), maxText)]
	}
}
