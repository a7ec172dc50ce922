package sendmail

import (
	"bytes"
	"strings"
)

// dma is the DragonFly Mail Agent 0.13 and 0.14: dma.c and mail.c. An operand is
// one recipient, whatever is in it. Whether a name without @ is a user or an alias
// is not known here; dma refuses a message to another.
//
// 0.13 reads no continuation of a field with recipients, and takes -oi for
// nothing. So the header is read in both ways, and the one counts that finds more.
var dma = Profile{
	Name: "dma",

	Options:  "A:b:B:C:d:Df:F:h:iL:N:no:O:q:r:R:tUV:vX:", // main()
	Permutes: true,                                       // getopt(3) of glibc
	Names: []rule{
		{"mailq", ends},
		{"newaliases", ends},
	},
	Does: []rule{
		{"Ac*", nothing}, {"Am*", nothing},
		{"Ap*", ends}, // falls into -bp
		{"bp*", ends},
		{"f*", setSender}, {"r*", setSender},
		{"i", ignoreDots}, {"oi*", ignoreDots},
		{"q*", ends}, // runs the queue; with operands a usage error
		{"t", fromHeader},
	},
	sender: asGiven,
	check: func(w *parsing) {
		// set_from() refuses one in the sender, unless MASQUERADE put another in its place.
		w.call.LineBreaks = hasLineBreak(w.call.Operands...) || hasLineBreak(w.call.Sender)
	},

	Dots:      true, // before LF, not before CR: readmail() looks for a line of two bytes
	machine:   newDMAHeader,
	AllHeader: true,              // mail with CR LF is header to its end
	RawEnv:    []string{"EMAIL"}, // set_from()

	Recipients:   []string{"to", "cc", "bcc"},
	traceable:    withoutFromLine, // Debian's drops such lines where they are the first
	Duplicates:   dropped,         // add_recp()
	EmptyOperand: 1,               // as any name, it may be an alias: "*" is
	addresses:    func(list string, each func(address string)) { each(dmaLocal(list)) },
}

// dmaLocal is an address without the host, if that is this one.
func dmaLocal(address string) string { return strings.TrimSuffix(address, "@localhost") }

// dmaHeader is readmail().
type dmaHeader struct {
	call   Call
	env    Env
	line   []byte // so far, where it comes in pieces
	unread bool   // the header is over, or refused
	ways   [2]dmaReading
}

// dmaReading is parse_addrs() with its parse_state.
type dmaReading struct {
	folds   bool // it reads continuations
	found   tally
	atDot   int // what had been found at the first lone dot, which may be the end
	refused bool

	state    dmaState
	quote    bool
	comments int
	brackets bool
	escaped  bool
	address  []byte
}

type dmaState uint8

const (
	dmaNone dmaState = iota
	dmaEOL           // at the end of a line of the field
	dmaQuit          // the field is over
)

const (
	dmaLineMax    = 1000 // "bad mail input format"; 0.13 takes 998
	dmaAddressMax = 999
)

func newDMAHeader(p *Profile, c Call, env Env) machine {
	h := &dmaHeader{call: c, env: env}
	for i := range h.ways {
		h.ways[i].folds = i > 0
		h.ways[i].found.p = p
		for _, operand := range c.Operands {
			h.ways[i].found.list(operand, 0)
		}
	}
	return h
}

func (h *dmaHeader) piece(b []byte) bool {
	whole := b[len(b)-1] == '\n'
	if len(h.line) > 0 || !whole {
		h.line = append(h.line, b[:min(len(b), dmaLineMax+1)]...)
		b = h.line
	}
	if len(b) > dmaLineMax {
		h.refuse()
		return false
	}
	if whole {
		h.header(b)
		h.line = h.line[:0]
	}
	return !h.unread
}

func (h *dmaHeader) refuse() {
	h.unread = true
	for i := range h.ways {
		h.ways[i].refused = true
	}
}

// header takes a line of the header. Only an empty line with nothing but a LF
// ends that: mail with CRLF is all header. Then nearly all lines begin no field
// with recipients, and continue none.
func (h *dmaHeader) header(line []byte) {
	if strings.IndexByte("\n.tTcCbB", line[0]) < 0 && h.ways[0].state != dmaEOL && h.ways[1].state != dmaEOL {
		return
	}
	dot := len(line) == 2 && line[0] == '.'
	end := len(line) == 1 || dot && !h.call.IgnoreDots
	recipients := h.call.FromHeader && (foldPrefix(line, "to:") || foldPrefix(line, "cc:") || foldPrefix(line, "bcc:"))
	text, _, _ := bytes.Cut(line, []byte{0}) // a string of C
	for i := range h.ways {
		w := &h.ways[i]
		if w.refused {
			continue
		}
		if w.state == dmaEOL {
			w.next(text)
		}
		if recipients {
			*w = dmaReading{folds: w.folds, found: w.found, atDot: w.atDot, refused: w.refused}
			w.parse(text[bytes.IndexByte(text, ':')+1:])
		}
		if dot && w.atDot == 0 {
			w.atDot = w.found.n
		}
	}
	h.unread = end || h.ways[0].refused && h.ways[1].refused
}

// next takes the line behind one of the field.
func (w *dmaReading) next(line []byte) {
	switch {
	case len(line) == 0 || !isBlank(line[0]):
		w.state = dmaQuit
		if len(w.address) > 0 {
			w.add()
		}
	case w.folds:
		w.parse(line)
	}
}

// parse takes a line of the field, or the rest of it. What is pending at its end
// is an address when the next line begins, and nothing at the end of the message.
func (w *dmaReading) parse(line []byte) {
	for _, c := range line {
		switch {
		case c == '\r' || c == '\n':
			if w.escaped {
				w.refused = true // "invalid address in header"
			}
			w.state = dmaEOL
			return
		case w.escaped:
			w.escaped = false
			w.copy(c)
			continue
		case w.quote:
			w.quote = c != '"'
			w.escaped = c == '\\'
			w.copy(c)
			continue
		}
		switch c {
		case '(':
			w.comments++
		case ')':
			if w.comments == 0 {
				w.refused = true
				return
			}
			w.comments--
		case '"': // in a comment, too
			w.quote = true
			w.copy(c)
		case '\\':
			w.escaped = true
			w.copy(c)
		default:
			if w.comments == 0 && !w.plain(c) {
				return
			}
		}
	}
	w.state = dmaEOL
}

// plain takes a byte that is in no comment and not quoted; false refuses.
func (w *dmaReading) plain(c byte) bool {
	switch c {
	case ' ', '\t':
	case '<': // what was before is a name
		w.brackets, w.address = true, w.address[:0]
	case '>':
		if !w.brackets {
			w.refused = true
			return false
		}
		w.brackets = false
		w.add()
	case ':': // … of a group
		w.address = w.address[:0]
	case ',', ';':
		if len(w.address) > 0 {
			w.add()
		}
	default:
		w.copy(c)
	}
	return !w.refused
}

func (w *dmaReading) copy(c byte) {
	switch {
	case w.comments > 0:
	case len(w.address) == dmaAddressMax:
		w.refused = true
	default:
		w.address = append(w.address, c)
	}
}

func (w *dmaReading) add() {
	w.found.list(string(w.address), 0)
	w.address = w.address[:0]
}

func (h *dmaHeader) end(e *Envelope) {
	if len(h.line) > 0 && !h.unread { // the last line without its LF
		h.header(h.line)
	}
	e.Recipients = 0
	for i := range h.ways {
		n := h.ways[i].found.n
		if h.ways[i].refused {
			n = h.ways[i].atDot
		}
		e.Recipients = max(e.Recipients, n)
	}
	// set_from(): -f '' is the login name, whatever EMAIL says.
	if !e.SenderSet {
		e.Sender, e.SenderSet = h.env("EMAIL")
	}
	if e.Sender == "" {
		e.SenderSet = false
	}
}
