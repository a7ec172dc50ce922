package sendmail

import "bytes"

// TraceHead is how much of the beginning of a message Trace wants to see, in bytes;
// less is all of the message.
const TraceHead = 32 << 10

// Trace says where a header field, as "X-Mail-Trace: ID" without a line end, goes
// into the message of a call, so that the MTA takes all else as it would without:
// text is to be inserted at the offset at, in bytes. It is the field with its line
// end, and where what follows would continue the field, an empty line. Where nobody
// can be sure, and where there is no message, text is "".
//
// The field goes on top of the header, behind lines of mbox, which an MTA knows only
// before it. So it is above the Resent- fields and above one of its own name that
// was there before: of several the first is the newest, as with trace fields of RFC
// 5322, 3.6.7.
//
// Of an SMTP dialogue, the message is its content as it goes to the MTA. There a
// From_ line, or white space at the very beginning, is taken in different ways.
func (p *Profile) Trace(c Call, head []byte, field string) (text string, at int64) {
	whole := len(head) < TraceHead
	dialogue := c.Mode == SMTP || c.Mode == BatchSMTP
	if c.Mode != Submit && !dialogue || p.traceable != nil && !p.traceable(head, whole) {
		return "", 0
	}
	end := "\n"
	switch first, ended := firstLine(head); {
	case !ended && !whole:
		return "", 0
	case p.TraceEnds && ended && bytes.HasSuffix(first, []byte("\r\n")):
		end = "\r\n"
	}
	mbox, ok := p.mbox(head)
	if !ok || mbox > 0 && dialogue {
		return "", 0
	}
	switch next := nextLine(head[mbox:]); {
	case next == anyLine:
		return field + end, int64(mbox)
	case next == blankLine && mbox == 0 && p.TraceCloses && !dialogue:
		return field + end + end, 0
	}
	return "", 0
}

// withoutFromLine is whether a message begins with no line that anybody could take for
// one of mbox.
func withoutFromLine(head []byte, _ bool) bool {
	return !foldPrefix(bytes.TrimLeft(head, ">"), "from ")
}

// firstLine is all up to the first LF.
func firstLine(b []byte) (line []byte, ended bool) {
	if end := bytes.IndexByte(b, '\n'); end >= 0 {
		return b[:end+1], true
	}
	return b, false
}

// maxMboxLine bounds a line of mbox that is taken for one beyond doubt.
const maxMboxLine = 998

// mbox is how many bytes of the beginning are lines of mbox. Not ok: that hangs on
// what the MTA takes for a line end, or on more than is known here.
func (p *Profile) mbox(head []byte) (n int, ok bool) {
	s := scanner{p: p, call: Call{SenderSet: true}}
	first, _ := firstLine(head)
	crlf := bytes.HasSuffix(first, []byte("\r\n"))
	for n < len(head) {
		line, ended := firstLine(head[n:])
		if !s.fromLine(line) {
			return n, true
		}
		text := bytes.TrimSuffix(line, []byte("\n"))
		if crlf {
			text = bytes.TrimSuffix(text, []byte("\r"))
		}
		same := !crlf || bytes.HasSuffix(line, []byte("\r\n"))
		if !ended || !same || len(text) > maxMboxLine || bytes.IndexByte(text, '\r') >= 0 || bytes.IndexByte(text, 0) >= 0 || p.mboxLine != nil && !p.mboxLine(line) {
			return 0, false
		}
		n += len(line)
	}
	return n, true
}

// lineStart is what the line behind the trace field begins with.
type lineStart uint8

const (
	anyLine   lineStart = iota // what continues no field, or nothing at all
	blankLine                  // white space, so that it would continue the trace field
	oddLine                    // what some program may take for white space, or drop
)

// nextLine looks at the first line of b. A NUL in it is dropped by Sendmail, where it
// is read, and ends it for programs in C.
func nextLine(b []byte) lineStart {
	line, _ := firstLine(b)
	switch {
	case bytes.IndexByte(line, 0) >= 0:
		return oddLine
	case len(line) == 0, line[0] == '\n', bytes.HasPrefix(line, []byte("\r\n")):
		return anyLine
	case isBlank(line[0]):
		return blankLine
	case isCSpace(line[0]):
		return oddLine
	}
	return anyLine
}
