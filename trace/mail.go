package trace

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"mime"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// MaxMail is how many bytes of a file ReadMail reads. What returns has the
// header at its beginning, or whole messages of the size that mail servers take.
const MaxMail = 64 << 20

// Bounds of what is kept of one file, and of one header.
const (
	maxHeaders    = 100
	maxDepth      = 10 // messages within messages
	maxParts      = 1000
	maxFields     = 1000
	maxFieldBytes = 64 << 10
	maxTraces     = 20
	maxReceived   = 100
)

// Header is the header of one message in a file.
type Header struct {
	Where     string      // "in the file", "attached", "in the text"
	Traces    []uuid.UUID // of the trace fields, topmost first
	MessageID string      // with < and >; "" if there is none
	Subject   string      // as it stands, unfolded
	IsTitled  bool        // there is a Subject
	Return    *string     // address of Return-Path, which is the envelope sender's; "" for the null sender
	Received  []Received  // newest first
}

// Received is a field that a mail server wrote, or somebody in its name.
type Received struct {
	Host string // "by" whom
	ID   string // of the queue file there
	UID  *int64 // "from userid", where it was handed over by sendmail(1)
}

// ReadMail returns the headers in a file that have something to go by, in the
// order of the file. Fields are the names of the trace header. What begins with
// binary data is no mail (RFC 5322, 2), and read no further.
func ReadMail(r io.Reader, fields []string) ([]Header, error) {
	buffered := bufio.NewReader(r)
	if head, _ := buffered.Peek(4096); bytes.IndexByte(head, 0) >= 0 { // errors come again
		return nil, nil
	}
	content, err := io.ReadAll(io.LimitReader(buffered, MaxMail))
	if err != nil {
		return nil, fmt.Errorf("read the mail: %w", err)
	}
	p := &mailParser{fields: fields}
	// The first line of an mbox, which is of no header.
	if bytes.HasPrefix(content, []byte("From ")) || bytes.HasPrefix(content, []byte(">From ")) {
		_, content, _ = bytes.Cut(content, []byte("\n"))
	}
	p.message(content, "in the file", 0)
	return p.found, nil
}

type mailParser struct {
	fields []string
	found  []Header
	parts  int
}

// field is one of a header, unfolded.
type field struct{ name, value string }

// message reads a message, or the header of one.
func (p *mailParser) message(content []byte, where string, depth int) {
	if depth > maxDepth || len(p.found) >= maxHeaders {
		return
	}
	fields, body := splitHeader(content)
	p.keep(fields, where)
	p.body(fields, body, depth)
}

// keep adds a header, if it has something to go by.
func (p *mailParser) keep(fields []field, where string) {
	h := Header{Where: where}
	for _, f := range fields {
		p.field(&h, f)
	}
	if len(p.found) < maxHeaders && (len(h.Traces) > 0 || h.MessageID != "" || len(h.Received) > 0) {
		p.found = append(p.found, h)
	}
}

func (p *mailParser) field(h *Header, f field) {
	for _, name := range p.fields {
		if !strings.EqualFold(f.name, name) {
			continue
		}
		if id, err := ParseID(f.value); err == nil && len(h.Traces) < maxTraces {
			h.Traces = append(h.Traces, id)
		}
		return
	}
	switch strings.ToLower(f.name) {
	case "message-id":
		if h.MessageID == "" {
			h.MessageID = f.value
		}
	case "subject":
		if !h.IsTitled {
			h.Subject, h.IsTitled = f.value, true
		}
	case "return-path":
		// Of several the topmost is the last mail server's.
		if address, ok := strings.CutPrefix(f.value, "<"); ok && h.Return == nil {
			address, _, _ = strings.Cut(address, ">")
			h.Return = &address
		}
	case "received":
		if r, ok := parseReceived(f.value); ok && len(h.Received) < maxReceived {
			h.Received = append(h.Received, r)
		}
	}
}

// ParseID reads the value of a trace header, in the one form in which it is
// written.
func ParseID(s string) (uuid.UUID, error) {
	s = strings.TrimSpace(s)
	if len(s) != 36 {
		return uuid.Nil, fmt.Errorf("%q is no UUID", s[:min(len(s), 50)])
	}
	return uuid.Parse(s)
}

// What Postfix writes, and others much alike (RFC 5321 4.4):
//
//	by HOST (Postfix, from userid 1001) id QUEUE; DATE
//	from NAME (NAME [ADDRESS]) by HOST (Postfix) with ESMTP id QUEUE for <ADDRESS>; DATE
var (
	receivedBy  = regexp.MustCompile(`(?:^|\s)by\s+([^\s();]+)`)
	receivedID  = regexp.MustCompile(`\sid\s+<?([^\s();<>]+)`)
	receivedUID = regexp.MustCompile(`\(Postfix, from userid (\d{1,10})\)`)
)

func parseReceived(value string) (r Received, ok bool) {
	by, id := receivedBy.FindStringSubmatch(value), receivedID.FindStringSubmatch(value)
	if by == nil || id == nil {
		return r, false
	}
	r.Host, r.ID = by[1], id[1]
	if m := receivedUID.FindStringSubmatch(value); m != nil {
		if n, err := strconv.ParseInt(m[1], 10, 64); err == nil {
			r.UID = &n
		}
	}
	return r, true
}

// splitHeader cuts a message at the first empty line. A line that is none of a
// header ends it, too.
func splitHeader(content []byte) (fields []field, body []byte) {
	var name string
	var value []byte
	end := func() {
		if name != "" && len(fields) < maxFields {
			fields = append(fields, field{name, string(value)})
		}
	}
	for len(content) > 0 {
		line, rest, _ := bytes.Cut(content, []byte("\n"))
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 {
			content = rest
			break
		}
		text := line
		if line[0] == ' ' || line[0] == '\t' {
			if name == "" {
				break
			}
			value = append(value, ' ')
		} else {
			before, after, ok := bytes.Cut(line, []byte(":"))
			before = bytes.TrimRight(before, " \t")
			if !ok || len(before) == 0 || len(before) > 100 || bytes.ContainsAny(before, " \t") {
				break
			}
			end()
			name, value, text = string(before), value[:0], after
		}
		text = bytes.Trim(text, " \t")
		value = append(value, text[:min(len(text), max(maxFieldBytes-len(value), 0))]...)
		content = rest
	}
	end()
	return fields, content
}

// DecodeSubject decodes words of RFC 2047. What is not UTF-8, ISO 8859-1 or
// US-ASCII stays as it is.
func DecodeSubject(s string) string {
	if decoded, err := new(mime.WordDecoder).DecodeHeader(s); err == nil {
		return decoded
	}
	return s
}
