package sendmail

import (
	"bufio"
	"io"
	"strings"
)

// exim is Exim 4.96 to 4.98: src/exim.c for the command line, src/receive.c for
// the header, src/parse.c for addresses.
var exim = Profile{
	Name: "exim",

	Names: []rule{ // main(): "if the program is called as …"
		{"mailq", ends},      // -bp, whatever else is there
		{"newaliases", ends}, // -bi
		{"rmail", ignoreDots | gateway},
		{"rsmtp", batchSMTP},
		{"runq", ends}, // -q
	},
	Does: []rule{ // main(): the loop over argv; each word is one option
		{"Ac", nothing}, {"Am", nothing},
		{"B?", nothing},
		{"bm", nothing}, {"bnq", nothing}, // -bs stays -bs
		{"bV", nothing}, {"-version", nothing}, {"bI:*", nothing}, // print something and go on, if there are recipients
		{"bs", smtp}, {"bS", batchSMTP},
		{"b*", ends}, // what else there is receives nothing, or is an error
		{"C:", nothing},
		{"D*", nothing}, {"dp+", nothing}, {"d*", nothing}, // refused to users who are no administrators
		{"E*", noBounce},
		{"ee", bounce}, {"em", bounce}, {"ew", bounce}, {"oee", bounce}, {"oem", bounce}, {"oew", bounce},
		{"ep", noBounce}, {"eq", noBounce}, {"oep", noBounce}, {"oeq", noBounce}, // ERRORS_STDERR
		{"F:", nothing},
		{"f:", setSender}, {"r:", setSender},
		{"G*", gateway},
		{"h:", nothing},
		{"-help", ends},
		{"i", ignoreDots}, {"oi", ignoreDots}, {"oitrue", ignoreDots},
		{"L:", nothing},
		{"M*", ends}, // messages in the queue
		{"m", nothing},
		{"N", nothing}, // "don't deliver", with no value: recipients follow
		{"n*", nothing},
		{"O:", nothing},
		{"oA:", nothing},
		{"oB#", nothing},
		{"odb", nothing}, {"odd", nothing}, {"odf", nothing}, {"odi", nothing}, {"odq", nothing}, {"odqs", nothing},
		{"oMa+", nothing}, {"oMaa+", nothing}, {"oMai+", nothing}, {"oMas+", nothing}, {"oMi+", nothing},
		{"oMm+", nothing}, {"oMr+", nothing}, {"oMs+", nothing}, {"oMt+", nothing},
		{"om", nothing}, {"oo", nothing},
		{"oP+", nothing}, {"oPX", nothing},
		{"or:", nothing}, {"os:", nothing},
		{"ov", nothing},
		{"oX+", nothing}, {"oY", nothing},
		{"p:", nothing},
		{"q*", ends}, {"R*", ends}, {"S*", ends}, // queue runs; with recipients "incompatible"
		{"t", fromHeader}, {"ti", fromHeader | ignoreDots}, {"tls-on-connect", nothing},
		{"U*", nothing},
		{"v", nothing},
		{"X:", nothing},
		{"x", nothing},
		{"z*", ends}, // writes to the log
	},
	sender: eximSender,
	check:  checkExim,

	Dots:        true,
	FromLines:   fromLinesSkipped, // as long as no header line was kept
	fromLine:    uucpSender,
	lines:       eximLines,
	BeforeColon: cSpace,
	AnyNames:    true, // mac_isgraph, and none at all
	LastLine:    true, // "treat EOF as a line terminator always"

	Recipients: []string{"to", "cc", "bcc"},
	Resent:     []string{"resent-to", "resent-cc", "resent-bcc"},
	ResentWhen: []string{"resent-*"}, // contains_resent_headers: any name that begins so
	Arguments:  subtracted,           // extract_addresses_remove_arguments, on by default
	Bounces:    bounceToSender,       // "no recipients found in headers"

	// A bad address is bounced, too: moan_to_sender(), once a message. Of bad
	// operands it is all that is sent.
	EmptyOperand: 0,
	BlankOperand: 1,
	addresses:    eximAddresses,

	GoAhead: `354 Enter message, ending with "." on a line by itself`, // smtp_in.c; the predata ACL may set another
	CRLF:    true,                                                     // receive.c: first_line_ended_crlf

	Passed: []passed{
		{"t", ""}, {"ti", ""}, {"i", ""}, {"oi", "-i"}, {"oitrue", "-i"},
		{"ee", ""}, {"em", ""}, {"ew", ""}, {"ep", ""}, {"eq", ""},
		{"oee", ""}, {"oem", ""}, {"oew", ""}, {"oep", ""}, {"oeq", ""},
		{"E*", "-oep"}, // for Exim itself; what counts is that nothing is bounced
		{"N", ""}, {"h:", ""},
	},
	NamePassed:   []string{"-i", "-oee"}, // rmail: errors_sender_rc = EXIT_SUCCESS
	PrintsErrors: []string{"-oep"},
	PrintsAll:    true,    // ERRORS_STDERR: main() and receive_msg() exit before anything is queued
	Unqueued:     []int{}, // 1 and 2 may have mailed a bounce: moan_to_sender()

	TraceEnds:   true,
	TraceCloses: true, // receive_msg(): "if not a valid header line, break from the header reading loop"
	mboxLine:    asctimeLine,
}

// eximAdding is the name of a variant, which is made where it is asked for.
const eximAdding = "exim-add-arguments"

// eximAddArguments is Exim with extract_addresses_remove_arguments = false.
func eximAddArguments() *Profile {
	p := exim
	p.Name, p.Arguments = eximAdding, added
	return &p
}

// eximSender takes the address of -f. A list is "bad -f address".
func eximSender(w *parsing, value string) {
	c := &w.call
	c.Sender, c.SenderSet = firstAddress(value), true
	if text := strings.TrimSpace(value); c.Sender == "" && text != "<>" {
		c.Sender = text
	}
	w.ended = w.ended || eximEnd(value) < len(value)
}

// checkExim is main() at "check for incompatibilities".
func checkExim(w *parsing) {
	c := &w.call
	if c.Mode != Submit && (c.SenderSet || c.FromHeader) {
		w.ended = true // "incompatible command-line options"
	}
	if c.Mode == Submit && !c.FromHeader && len(c.Operands) == 0 {
		w.ended = true // exim_usage()
	}
}

// uucpSender is the sender in a From_ line of the form that Exim knows:
// uucp_from_pattern in src/globals.c.
func uucpSender(line []byte) (address string, ok bool) {
	words := strings.Fields(string(line))
	if len(words) < 4 || !isDate(words[2:]) && !(isWord(strings.TrimSuffix(words[2], ","), 3) && isDate(words[3:])) {
		return "", false
	}
	return firstAddress(words[1]), true
}

// asctimeLine is a From_ line with a date of asctime(3), which uucp_from_pattern
// matches, too, in its default and in whatever an administrator makes of it. Others
// may be the first of the body.
func asctimeLine(line []byte) bool {
	words := strings.Split(strings.Replace(strings.TrimRight(string(line), "\r\n"), "  ", " ", 1), " ")
	if len(words) != 7 || words[0] != "From" || words[1] == "" {
		return false
	}
	clock := strings.Split(words[5], ":")
	for _, n := range clock {
		if len(n) != 2 || !isNumber(n, 2) {
			return false
		}
	}
	return len(clock) == 3 && isWord(words[2], 3) && isWord(words[3], 3) && isNumber(words[4], 2) && len(words[6]) == 4 && isNumber(words[6], 4)
}

// isDate is whether words begin with a date and an hour, like Jan 5 12:35 or
// 5 Jan 97 12:35.
func isDate(words []string) bool {
	switch {
	case len(words) >= 3 && isWord(words[0], 3) && isNumber(words[1], 2):
		words = words[2:]
	case len(words) >= 4 && isNumber(words[0], 2) && isWord(words[1], 3) && isNumber(words[2], 4):
		words = words[3:]
	default:
		return false
	}
	hour, _, ok := strings.Cut(words[0], ":")
	return ok && isNumber(hour, 2)
}

// isWord is whether s is so many letters.
func isWord(s string, length int) bool {
	for i := range len(s) {
		if !isAlpha(s[i]) {
			return false
		}
	}
	return len(s) == length
}

func isNumber(s string, most int) bool {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return 0 < len(s) && len(s) <= most
}

// eximAddresses calls each for what is between commas and not empty, be it good
// or bad.
func eximAddresses(list string, each func(string)) {
	groups := true // can begin: none is open
	for list != "" {
		end := eximEnd(list)
		entry := strings.Trim(list[:end], cSpace)
		if !eximEmpty(entry, groups) {
			address := simpleAddress(entry)
			if !strings.Contains(address, "@") { // Exim compares what it has qualified
				address = ""
			}
			each(address)
		}
		groups = strings.HasSuffix(entry, ";") || groups && strings.IndexByte(entry, ':') < 0
		list = list[min(end+1, len(list)):]
	}
}

// eximEnd is where the first address of a list ends: parse_find_address_end().
func eximEnd(list string) int {
	route := strings.HasPrefix(list, "@")
	open := 0 // what must close before a comma ends the address
	if route {
		open = 1
	}
	for i := 0; i < len(list); i++ {
		switch list[i] {
		case ',':
			if open <= 0 {
				return i
			}
		case '\\':
			i++
		case '"':
			i = quotedEnd(list, i+1, func(c byte) bool { return c == '"' })
		case '(':
			i = commentEnd(list, i) - 1
		case '<':
			route = strings.HasPrefix(list[i+1:], "@")
			open = 1
			if route {
				open = 2
			}
		case '>':
			open--
		case ':':
			if route {
				open--
			}
		}
	}
	return len(list)
}

// eximEmpty is what parse_extract_address() calls an "empty address", which is no
// error in a header: nothing, or the end of a group that names nobody.
func eximEmpty(address string, groups bool) bool {
	atStart := true
	for i := 0; i < len(address); i++ {
		switch c := address[i]; {
		case isSpace(c):
		case c == '(':
			i = commentEnd(address, i) - 1
		case c == ';':
			return atStart
		case c == ':': // behind the name of a group
			rest := strings.Trim(address[i+1:], cSpace)
			return groups && (rest == "" || rest[0] == ';')
		case c == '"':
			i = quotedEnd(address, i+1, func(c byte) bool { return c == '"' })
			atStart = false
		case strings.IndexByte("<>@)[]", c) >= 0:
			return false
		case c == '\\':
			i++
			atStart = false
		default:
			atStart = false
		}
	}
	return atStart
}

// eximLines gives the lines of a header as receive_msg() sees them. CR LF ends a
// line, and a CR alone is LF and space. Where CR LF ended the first line, a LF
// alone does not end a header line: what follows continues it. White space
// before the colon may be folded, so it becomes one space here.
func eximLines(message io.Reader) io.Reader {
	return &eximReader{in: bufio.NewReaderSize(message, 32<<10)}
}

type eximReader struct {
	in      *bufio.Reader
	pending []byte
	buf     [2]byte
	err     error

	first  bool // the end of the first line was seen
	crlf   bool // … and was CR LF
	inLine bool // a header line has begun
	value  bool // its colon was seen
	space  bool // white space before the colon
}

func (r *eximReader) Read(p []byte) (n int, err error) {
	for n < len(p) && r.err == nil {
		if len(r.pending) == 0 {
			r.pending, r.err = r.next()
		}
		k := copy(p[n:], r.pending)
		n, r.pending = n+k, r.pending[k:]
		if n > 0 && r.in.Buffered() == 0 {
			break // what there is, without waiting for more
		}
	}
	if n > 0 {
		return n, nil
	}
	return 0, r.err
}

// next is what becomes of the next byte.
func (r *eximReader) next() ([]byte, error) {
	c, err := r.in.ReadByte()
	if err != nil {
		return nil, err
	}
	isCRLF := false
	if c == '\r' {
		if after, err := r.in.Peek(1); err == nil && after[0] == '\n' {
			r.in.Discard(1)
			c, isCRLF = '\n', true
		}
	}
	switch {
	case c == '\n' && !r.inLine:
		return r.emit("\n")
	case c == '\n':
		bare := r.crlf && !isCRLF
		if !r.first {
			r.first, r.crlf = true, isCRLF
		}
		after, _ := r.in.Peek(1)
		if bare || len(after) > 0 && isBlank(after[0]) {
			return r.fold(bare)
		}
		r.inLine, r.value, r.space = false, false, false
		return r.emit("\n")
	case c == '\r' && !r.inLine: // the line begins with LF: no header line
		return r.emit("\n")
	case c == '\r':
		return r.fold(true)
	case !r.value && isSpace(c) && r.inLine:
		return r.fold(false)
	}
	r.inLine, r.space = true, false
	r.value = r.value || c == ':'
	r.buf[0] = c
	return r.buf[:1], nil
}

// fold goes on with the same header line.
func (r *eximReader) fold(withSpace bool) ([]byte, error) {
	switch {
	case !r.value && r.space:
		return nil, nil
	case !r.value:
		r.space = true
		return r.emit(" ")
	case withSpace:
		return r.emit("\n ")
	}
	return r.emit("\n")
}

func (r *eximReader) emit(s string) ([]byte, error) { return append(r.buf[:0], s...), nil }
