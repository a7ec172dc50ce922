package sendmail

import (
	"bytes"
	"slices"
	"strconv"
)

// Verb is what an SMTP command is to somebody who counts mail.
type Verb uint8

const (
	Unsure   Verb = iota // none of these: if the MTA takes it, it may have named a recipient
	Ehlo                 // EHLO, whose reply offers extensions
	Mail                 // MAIL: a transaction begins
	Rcpt                 // RCPT
	Rset                 // RSET: the transaction is over
	Data                 // DATA
	Bdat                 // BDAT (RFC 3030)
	StartTLS             // STARTTLS (RFC 3207)
	Quit                 // QUIT
	Plain                // names no recipient, whatever the MTA answers
)

// verbs are known by their names (RFC 5321, 4.1.1; ETRN: RFC 1985).
var verbs = [...]struct {
	name string
	verb Verb
}{
	{"MAIL", Mail}, {"RCPT", Rcpt}, {"RSET", Rset}, {"DATA", Data}, {"EHLO", Ehlo}, {"BDAT", Bdat}, {"STARTTLS", StartTLS},
	{"HELO", Plain}, {"NOOP", Plain}, {"QUIT", Quit}, {"VRFY", Plain}, {"EXPN", Plain}, {"HELP", Plain}, {"ETRN", Plain},
}

// Command is an SMTP command, as far as counting needs it.
type Command struct {
	Verb    Verb
	Address string // of MAIL or RCPT, without brackets, source route and quotes
	Report  bool   // RCPT asks for a report of success (RFC 3461, 4.1: NOTIFY=SUCCESS), which is mail to the sender
	Size    int64  // bytes that follow BDAT; -1 for a BDAT that is wrong
	Last    bool   // … and are the last of the message
}

// ParseCommand reads a command line, without its line end. Not ok is a line that
// two programs could read in two ways: with NUL, CR or LF in it.
//
// The verb is the first word, and white space before it is skipped, as Postfix
// (smtpd_token.c) and Sendmail (srvrsmtp.c) do. Exim takes less: what it refuses,
// it says itself.
func ParseCommand(line []byte) (c Command, ok bool) {
	if bytes.IndexByte(line, 0) >= 0 || bytes.IndexByte(line, '\r') >= 0 || bytes.IndexByte(line, '\n') >= 0 {
		return Command{}, false
	}
	verb, rest := cutWord(line)
	for i := range verbs {
		if isKeyword(verb, verbs[i].name) {
			c.Verb = verbs[i].verb
		}
	}
	switch c.Verb {
	case Mail:
		c.Address = mailAddress(rest)
	case Rcpt:
		c.Address = mailAddress(rest)
		// Wherever it stands: an address that looks like it counts high.
		upper := bytes.ToUpper(rest)
		c.Report = bytes.Contains(upper, []byte("NOTIFY=")) && bytes.Contains(upper, []byte("SUCCESS"))
	case Data:
		if len(rest) > 0 { // an error, of which the MTA has its own words
			c.Verb = Plain
		}
	case Bdat:
		c.Size, c.Last = chunkSize(rest)
	}
	return c, true
}

// cutWord cuts the first word off a line.
func cutWord(line []byte) (word, rest []byte) {
	line = bytes.TrimLeft(line, cSpace)
	end := bytes.IndexAny(line, cSpace)
	if end < 0 {
		return line, nil
	}
	return line[:end], bytes.TrimLeft(line[end:], cSpace)
}

// isKeyword compares in ASCII only: to bytes.EqualFold, the Kelvin sign is a K.
func isKeyword(b []byte, upper string) bool {
	if len(b) != len(upper) {
		return false
	}
	for i, c := range b {
		if lower(c) != lower(upper[i]) {
			return false
		}
	}
	return true
}

// mailAddress is the address in the argument of MAIL, `FROM:<a@x> SIZE=…`, or RCPT.
func mailAddress(argument []byte) string {
	_, path, _ := bytes.Cut(argument, []byte(":"))
	path = bytes.TrimLeft(path, cSpace)
	end := byte(' ')
	if after, bracket := bytes.CutPrefix(path, []byte("<")); bracket {
		path, end = after, '>'
	}
	if bytes.HasPrefix(path, []byte("@")) { // a source route (RFC 5321, appendix C)
		if _, after, ok := bytes.Cut(path, []byte(":")); ok {
			path = after
		}
	}
	var address []byte
	quoted := false
	for i := 0; i < len(path) && (quoted || path[i] != end); i++ {
		switch c := path[i]; {
		case c == '"':
			quoted = !quoted
			continue
		case c == '\\' && i+1 < len(path):
			i++
		}
		address = append(address, path[i])
	}
	return string(address[:min(len(address), maxSender)])
}

// chunkSize reads the argument of BDAT: a size, and perhaps LAST.
func chunkSize(argument []byte) (size int64, last bool) {
	digits, rest := cutWord(argument)
	word, more := cutWord(rest)
	size, err := strconv.ParseInt(string(digits), 10, 64)
	last = isKeyword(word, "LAST")
	if err != nil || digits[0] < '0' || len(word) > 0 && !last || len(more) > 0 {
		return -1, false
	}
	return size, last
}

// ReplyLen returns how many bytes of b are its first reply, and the code of it; 0
// where the reply is not whole yet. The last line of a reply has no hyphen after
// the code (RFC 5321, 4.2.1); a line without a code is taken for one more before
// the last.
func ReplyLen(b []byte) (n, code int) {
	for n < len(b) {
		end := bytes.IndexByte(b[n:], '\n')
		if end < 0 {
			break
		}
		line := bytes.TrimRight(b[n:n+end], "\r")
		n += end + 1
		if code, last := replyCode(line); last {
			return n, code
		}
	}
	return 0, 0
}

// replyCode reads the code at the beginning of a line: -1 if there is none. The
// last line of a reply has no hyphen behind it.
func replyCode(line []byte) (code int, last bool) {
	if len(line) < 3 {
		return -1, false
	}
	n, err := strconv.ParseUint(string(line[:3]), 10, 16)
	if err != nil {
		return -1, false
	}
	return int(n), len(line) == 3 || line[3] != '-'
}

// WithoutStartTLS takes STARTTLS out of a reply to EHLO. It uses the memory of the
// reply.
func WithoutStartTLS(reply []byte) []byte {
	var before []byte // the line before that has a code, in what is kept
	kept := reply[:0]
	for line := range bytes.SplitAfterSeq(reply, []byte("\n")) {
		code, last := replyCode(line)
		if before != nil && code >= 0 { // the first line names the host
			keyword, _ := cutWord(bytes.TrimRight(line[min(4, len(line)):], "\r\n"))
			if isKeyword(keyword, "STARTTLS") {
				if last {
					before[3] = ' '
				}
				continue
			}
		}
		start := len(kept)
		kept = append(kept, line...)
		if code >= 0 && !last {
			before = kept[start:]
		}
	}
	return kept
}

// maxCRs is how many CR at the beginning of a line may stand between a dot and
// the line end.
const maxCRs = 1000

// Content makes the content of a message what every MTA reads in the same way:
// each line ends in CR LF, and none but the one that ends it all is a lone dot.
// So it does not matter where the MTA sees line ends that we do not, or the other
// way round (CVE-2023-51764 to 51766), and nothing that a client sends as content
// is ever a command to the MTA. The zero value is at the start of a message.
type Content struct {
	// CRLF is Profile.CRLF: if the first line ends in CR LF, then LF alone ends no
	// line. Such a LF stays, but a dot behind it is doubled.
	CRLF bool

	Lines int // ended so far

	chunked bool
	strict  bool // a LF alone ends no line
	inLine  bool // something of the line has been written
	dot     bool // the line is a dot, not yet written, and CRs
	afterLF bool // a LF that ended no line was the last byte
	crs     int  // CRs, not yet written
}

// Data takes what a client sends after DATA, and appends to dst what of it is
// content, dots doubled as the client has them. It returns how many bytes it
// used, and whether that was all of the message: then the lone dot is used, and
// not appended.
//
// All CRs before a LF belong to the line end, as Postfix has it (smtp_get); where
// LF alone ends no line, exactly one does.
func (c *Content) Data(dst, src []byte) (_ []byte, used int, end bool) {
	for used < len(src) {
		if c.inLine && c.crs == 0 && !c.afterLF {
			n := plain(src[used:])
			dst = append(dst, src[used:used+n]...)
			used += n
			if used == len(src) {
				break
			}
		}
		b := src[used]
		used++
		if b == '\n' && c.dot && (!c.strict || c.crs == 1) {
			c.Lines++
			return dst, used, true
		}
		dst = c.put(dst, b)
	}
	return dst, used, false
}

// Chunk appends a part of what a client sends with BDAT, where nothing is doubled
// and nothing but the size ends the message; a LF alone ends a line, as in Postfix
// (bdat_cmd) and Exim (read_message_bdat_smtp).
func (c *Content) Chunk(dst, src []byte) []byte {
	c.chunked = true
	for len(src) > 0 {
		if c.inLine && c.crs == 0 {
			n := plain(src)
			dst, src = append(dst, src[:n]...), src[n:]
			if len(src) == 0 {
				break
			}
		}
		dst, src = c.put(dst, src[0]), src[1:]
	}
	return dst
}

// End ends a last line that has no line end, after the last chunk.
func (c *Content) End(dst []byte) []byte {
	if c.inLine || c.crs > 0 {
		dst = c.put(dst, '\n')
	}
	return dst
}

// plain is how much of b comes before the next line end.
func plain(b []byte) int {
	if lf := bytes.IndexByte(b, '\n'); lf >= 0 {
		b = b[:lf]
	}
	if cr := bytes.IndexByte(b, '\r'); cr >= 0 {
		return cr
	}
	return len(b)
}

// put takes one byte that does not end the message.
func (c *Content) put(dst []byte, b byte) []byte {
	switch {
	case b == '\r' && c.crs < maxCRs:
		c.crs++
		return dst
	case b == '\r': // too many to wait for what follows
		dst = c.held(dst, true)
		c.crs, c.inLine = 1, true
		return dst
	case b == '\n':
		crlf := c.crs > 0
		if c.Lines == 0 && !c.chunked {
			c.strict = c.CRLF && crlf
		}
		if c.strict && !crlf {
			dst = append(c.held(dst, true), '\n')
			c.inLine, c.afterLF = true, true
			return dst
		}
		c.crs = max(c.crs-1, 0)
		dst = append(c.held(dst, true), "\r\n"...)
		c.inLine, c.afterLF = false, false
		c.Lines++
		return dst
	}
	start := !c.inLine && !c.dot && c.crs == 0
	dst = c.held(dst, false)
	if b == '.' && (start && c.chunked || c.afterLF) {
		dst = append(dst, '.')
	}
	c.afterLF = false
	if b == '.' && start && !c.chunked {
		c.dot = true
		return dst
	}
	c.inLine = true
	return append(dst, b)
}

// held writes what was not yet written; a dot that could be taken for a lone one
// is doubled.
func (c *Content) held(dst []byte, double bool) []byte {
	if c.dot {
		dst = append(dst, '.')
		if double {
			dst = append(dst, '.')
		}
		c.dot, c.inLine = false, true
	}
	if c.crs > 0 {
		dst = slices.Grow(dst, c.crs)
		for ; c.crs > 0; c.crs-- {
			dst = append(dst, '\r')
		}
		c.inLine, c.afterLF = true, false
	}
	return dst
}
