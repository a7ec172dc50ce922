package sendmail

import (
	"bytes"
	"strings"
)

// nullmailer is nullmailer 2.2: src/sendmail.cc, which reads options with
// lib/cli++/main.cc, and nullmailer-inject, to which it hands the operands
// (src/inject.cc, lib/address.cc). What inject finds wrong in any field with
// addresses refuses the message.
var nullmailer = Profile{
	Name: "nullmailer",

	Options: "B:C:d:F:f:h:iL:mN:nO:o:p:q:R:r:tUV:vX:", // cli_options[], which have a letter
	Ends:    atOneOrTwoDashes,
	Words: []rule{ // … and which have a name, with one dash or two
		{"bm", submit}, {"-bm", submit},
		{"bp", other}, {"-bp", other},
		{"bs", smtp}, {"-bs", smtp},
		{"em", nothing}, {"-em", nothing},
		{"ep", nothing}, {"-ep", nothing},
		{"eq", nothing}, {"-eq", nothing},
		{"-help", ends}, // with one dash it is -h with a value
	},
	Does: []rule{
		{"f*", setSender}, {"r*", setSender},
		{"t", fromHeader},
	},
	sender: func(w *parsing, value string) {
		if value == "<>" {
			value = ""
		}
		w.call.Sender, w.call.SenderSet = value, true // setenvelope(): what is before the first @ and behind it
	},
	check: checkNullmailer,

	Dots:    false, // and so -i means nothing
	machine: newNullmailerHeader,

	addresses: func(list string, each func(address string)) {
		addresses, _ := nullmailerAddresses(list)
		for _, address := range addresses {
			each(address)
		}
	},

	GoAhead: "354 End your message with a period on a line by itself", // smtpd.cc, resp_data_ok
}

// checkNullmailer is cli_main() of sendmail.cc and parse_args() of inject.cc.
func checkNullmailer(w *parsing) {
	c := &w.call
	if c.Mode != Submit {
		return // nullmailer-smtpd and mailq get no arguments
	}
	if !injectArguments(c) {
		w.ended = true
		return
	}
	for _, operand := range c.Operands {
		if _, ok := nullmailerAddresses(operand); !ok {
			w.ended = true // "Invalid recipient"
		}
	}
}

// injectArguments reads the operands as nullmailer-inject does. It gets them
// without "--" before them, so that a first one with a dash is an option to it;
// false after an error, or where it queues nothing.
func injectArguments(c *Call) bool {
	const arguments, both, either, header = 'a', 'b', 'e', 'h'
	from := either // without -t it takes the header if there is no operand
	if c.FromHeader {
		from = both
	}
	sender, senderSet := "", false
	words := c.Operands
	for len(words) > 0 && strings.HasPrefix(words[0], "-") {
		word := words[0]
		words = words[1:]
		if word == "-" || word == "--" {
			break
		}
		letters, value, hasValue := word[1:], "", false
		if long, ok := strings.CutPrefix(word, "--"); ok {
			long, value, hasValue = strings.Cut(long, "=")
			switch long {
			case "use-args":
				letters = "a"
			case "use-both":
				letters = "b"
			case "use-either":
				letters = "e"
			case "use-header":
				letters = "h"
			case "show-envelope":
				letters = "v"
			case "from":
				letters = "f"
			default: // an error, --help, or --no-queue
				return false
			}
			if hasValue && long != "from" {
				return false
			}
		}
		for letters != "" {
			option := letters[0]
			letters = letters[1:]
			switch option {
			case arguments, both, either, header:
				from = rune(option)
			case 'v': // shows the envelope, with -n
			case 'f':
				if !hasValue {
					value, letters, hasValue = letters, "", true
					if value == "" && len(words) == 0 {
						return false
					}
					if value == "" {
						value, words = words[0], words[1:]
					}
				}
				sender, senderSet = value, true
			default: // an error, or -n: to standard output
				return false
			}
		}
	}
	if senderSet {
		c.Sender, c.SenderSet = "", true
		if sender != "" && sender != "<>" {
			one, ok := nullmailerAddresses(sender)
			if !ok || len(one) != 1 {
				return false // "Invalid sender address"
			}
			c.Sender = one[0]
		}
	}
	switch from {
	case arguments:
		c.FromHeader = false
	case both:
		c.FromHeader = true
	case either:
		c.FromHeader = len(words) == 0
	case header:
		c.FromHeader, words = true, nil
	}
	c.Operands = words
	return true
}

// nullmailerHeader is read_header() of inject.cc.
type nullmailerHeader struct {
	call Call
	env  Env

	within bool // a line
	first  bool // no line has been that is not of mbox
	inMbox bool
	done   bool
	field  []byte // with its name, and the line breaks of its folds
	beyond int    // separators after maxField

	recipients int // of the header
	resent     bool
	refused    bool
	sender     string
	hasSender  bool
}

func newNullmailerHeader(_ *Profile, c Call, env Env) machine {
	return &nullmailerHeader{call: c, env: env, first: true}
}

func (h *nullmailerHeader) piece(b []byte) bool {
	within := h.within
	h.within = b[len(b)-1] != '\n'
	switch {
	case within && h.inMbox:
		return true
	case within:
		h.append(b)
		return true
	}
	return h.line(b)
}

// line takes the beginning of a line; false if the header ends before it.
func (h *nullmailerHeader) line(b []byte) bool {
	line := bytes.TrimSuffix(b, []byte("\n"))
	h.inMbox = h.first && (bytes.HasPrefix(line, []byte("From ")) || bytes.HasPrefix(line, []byte(">From ")))
	switch {
	case len(line) == 0, len(line) == 1 && line[0] == '\r':
		h.done = true
		return false
	case h.inMbox:
		return true
	}
	h.first = false
	if len(h.field) > 0 && isCSpace(line[0]) {
		h.append(b)
		return true
	}
	for _, c := range line { // is_header()
		if isCSpace(c) {
			h.done = true
			return false
		}
		if c == ':' {
			break
		}
	}
	if bytes.IndexByte(line, ':') < 0 && !h.within {
		h.done = true
		return false
	}
	h.endField()
	h.append(b)
	return true
}

func (h *nullmailerHeader) append(b []byte) {
	keep := min(len(b), maxField-min(len(h.field), maxField))
	h.field = append(h.field, b[:keep]...)
	h.beyond += separators(b[keep:])
}

// separators is how many addresses there may be in a part of a list, at most.
func separators(list []byte) (n int) {
	for _, c := range list {
		if isCSpace(c) || strings.IndexByte(",;<>\"", c) >= 0 {
			n++
		}
	}
	return n
}

// isCSpace is isspace(3) in the locale C.
func isCSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

// endField is parse_line().
func (h *nullmailerHeader) endField() {
	name, list, found := strings.Cut(strings.TrimSuffix(string(h.field), "\n"), ":")
	beyond := h.beyond
	h.field, h.beyond = h.field[:0], 0
	kind := nullmailerFieldOf(name)
	if !found || kind == 0 || kind == nullmailerFrom && h.flag('f') || kind == nullmailerReturnPath && h.flag('s') {
		return
	}
	if kind&nullmailerResent != 0 && !h.resent { // forgets what was before, operands, too
		h.resent, h.recipients, h.hasSender = true, 0, false
	}
	if kind == nullmailerResent { // Resent-Date, Resent-Message-Id
		return
	}
	addresses, ok := nullmailerAddresses(list)
	n := len(addresses)
	switch {
	case beyond > 0: // what it is as a whole, nobody knows
		n = separators([]byte(list)) + beyond
	case !ok:
		h.refused = true // "Unable to parse the addresses."
	}
	switch {
	case kind&nullmailerRecipient != 0 && h.resent == (kind&nullmailerResent != 0):
		h.recipients += n
	case kind == nullmailerReturnPath && !h.resent && len(addresses) == 1:
		h.sender, h.hasSender = addresses[0], true
	}
}

// flag is whether NULLMAILER_FLAGS has a letter.
func (h *nullmailerHeader) flag(letter byte) bool {
	flags, _ := h.env("NULLMAILER_FLAGS")
	return strings.IndexByte(flags, letter) >= 0
}

// nullmailerField is a field with addresses, in header_fields[]; several add up.
type nullmailerField uint8

const (
	nullmailerAddress nullmailerField = 1 << iota
	nullmailerRecipient
	nullmailerResent
	nullmailerFrom
	nullmailerReturnPath
)

func nullmailerFieldOf(name string) nullmailerField {
	switch strings.ToLower(name[:min(len(name), 32)]) {
	case "sender", "reply-to", "return-receipt-to", "errors-to":
		return nullmailerAddress
	case "from":
		return nullmailerFrom
	case "return-path":
		return nullmailerReturnPath
	case "resent-sender", "resent-from", "resent-reply-to":
		return nullmailerResent | nullmailerAddress
	case "to", "cc", "bcc", "apparently-to":
		return nullmailerRecipient
	case "resent-to", "resent-cc", "resent-bcc":
		return nullmailerResent | nullmailerRecipient
	case "resent-date", "resent-message-id":
		return nullmailerResent
	}
	return 0
}

func (h *nullmailerHeader) end(e *Envelope) {
	h.endField()
	if h.call.FromHeader {
		if h.resent {
			e.Recipients = 0
		}
		e.Recipients += h.recipients
	}
	null := e.SenderSet && e.Sender == ""
	switch {
	case h.hasSender && !null: // beats -f
		e.Sender, e.SenderSet = h.sender, true
	case !null:
		if more := h.sentBy(e); e.Recipients > 0 {
			e.Recipients += more
		}
	}
	if h.refused {
		e.Recipients = 0
	}
}

// sentBy is setup_from(): the sender of -f or of the environment. It returns how
// many recipients more that is: the envelope goes to nullmailer-queue as lines,
// and a line break in the sender begins another.
func (h *nullmailerHeader) sentBy(e *Envelope) (more int) {
	user, host := "", ""
	if e.SenderSet { // sendmail.cc sets NULLMAILER_USER and NULLMAILER_HOST by it
		user, host, _ = strings.Cut(e.Sender, "@")
	}
	if host == "" {
		host = h.firstOf("NULLMAILER_HOST", "MAILHOST", "HOSTNAME")
	}
	if !e.SenderSet {
		user = h.firstOf("NULLMAILER_USER")
	}
	if user == "" {
		user = h.firstOf("MAILUSER", "USER", "LOGNAME")
	}
	for _, part := range [...]struct {
		name  string
		value *string
	}{{"NULLMAILER_SUSER", &user}, {"NULLMAILER_SHOST", &host}} {
		if other := h.firstOf(part.name); other != "" {
			*part.value = other
		}
	}
	if e.SenderSet = user != ""; e.SenderSet {
		if e.Sender = user; host != "" {
			e.Sender += "@" + host
		}
	}
	if more = strings.Count(user+host, "\n"); more > 0 && len(user)+len(host) >= nullmailerCut {
		more += 1 << 16
	}
	return more
}

// nullmailerCut is as much of a variable as the wrapper passes on for sure
// (PATH_MAX); with a line break, and so long, there may be many more.
const nullmailerCut = 4096

// firstOf is the first of some variables that is not empty.
func (h *nullmailerHeader) firstOf(names ...string) string {
	for _, name := range names {
		if value, _ := h.env(name); value != "" {
			return value
		}
	}
	return ""
}

// nullmailerAddresses is parse_addresses(): the addresses of a list, which has to
// be one from beginning to end. A quoted line break in an address is one in the
// envelope, and so makes two.
func nullmailerAddresses(list string) (addresses []string, ok bool) {
	list, _, _ = strings.Cut(list, "\x00") // a string of C
	l := nullmailerList{noGroup: -1, noRoute: -1}
	if !l.tokenize(list) {
		return nil, false
	}
	switch {
	case l.kind() == nullmailerEOT:
		return nil, true
	case l.kind() == '(' && l.tokens[1].kind == nullmailerEOT:
		return nil, true
	case !l.address():
		return nil, false
	}
	for {
		l.commas()
		if l.kind() == nullmailerEOT {
			break
		}
		if !l.address() {
			return l.addresses, false
		}
	}
	for _, address := range l.addresses {
		if strings.LastIndexByte(address, '@') < 1 {
			return l.addresses, false // validate_addr() of queue.cc
		}
	}
	return l.addresses, true
}

// nullmailerList is a list while it is read. Its methods are the rules of
// lib/address.cc; each moves on if it matches, and else stays.
type nullmailerList struct {
	tokens    []nullmailerToken
	at        int
	addresses []string

	// What has been tried is not tried again, so that the time is linear.
	phraseFrom, phraseTo int // a phrase that was found
	noGroup, noRoute     int // behind which colon and which bracket there is none
}

// nullmailerToken: an operator, named by its own character, or a word, a quoted
// string, a comment, or the end.
type nullmailerToken struct {
	kind byte
	text string
}

const (
	nullmailerAtom   = 'a'
	nullmailerQuoted = '"'
	nullmailerEOT    = '$'
)

// tokenize fails at what is not closed, and at any bracket of a domain literal,
// since the closing one is read twice.
func (l *nullmailerList) tokenize(list string) bool {
	for i := 0; i < len(list); {
		start := i
		switch c := list[i]; {
		case isCSpace(c):
			i++
			continue
		case strings.IndexByte("<>@,;:\\.", c) >= 0:
			i++
			l.tokens = append(l.tokens, nullmailerToken{c, list[start:i]})
		case c == '(':
			if i = nullmailerCommentEnd(list, i); i < 0 {
				return false
			}
			l.tokens = append(l.tokens, nullmailerToken{c, list[start:i]})
		case c == '"':
			end := quotedEnd(list, i+1, func(c byte) bool { return c == '"' })
			if end >= len(list) {
				return false
			}
			i = end + 1
			l.tokens = append(l.tokens, nullmailerToken{nullmailerQuoted, list[start+1 : end]})
		case !nullmailerIsAtom(c):
			return false
		default:
			for i < len(list) && nullmailerIsAtom(list[i]) {
				i++
			}
			l.tokens = append(l.tokens, nullmailerToken{nullmailerAtom, list[start:i]})
		}
	}
	l.tokens = append(l.tokens, nullmailerToken{nullmailerEOT, ""})
	return true
}

func nullmailerIsAtom(c byte) bool {
	return c > ' ' && c != 0x7f && strings.IndexByte("()<>[]@,;:\\\".", c) < 0
}

// nullmailerCommentEnd is behind the comment that begins at i; -1 if it is not
// closed, or folded.
func nullmailerCommentEnd(list string, i int) int {
	depth := 0
	for ; i < len(list); i++ {
		switch list[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i + 1
			}
		case '\n':
			return -1
		}
	}
	return -1
}

func (l *nullmailerList) kind() byte { return l.tokens[l.at].kind }

func (l *nullmailerList) comments() {
	for l.kind() == '(' {
		l.at++
	}
}

// commas skips what is between addresses. There may be none.
func (l *nullmailerList) commas() {
	for l.kind() == '(' || l.kind() == ',' {
		l.at++
	}
}

// is moves on over an operator.
func (l *nullmailerList) is(kind byte) bool {
	if l.kind() != kind {
		return false
	}
	l.at++
	return true
}

// address = group / mailbox
func (l *nullmailerList) address() bool { return l.group() || l.mailbox() }

// mailbox = [phrase] route-addr / addr-spec
func (l *nullmailerList) mailbox() bool {
	start := l.at
	l.phrase()
	if l.routeAddress() {
		return true
	}
	l.at = start
	address, ok := l.addressSpec()
	if ok {
		l.add(address)
	}
	return ok
}

// group = phrase ":" [mailbox *(*"," mailbox)] ";"
func (l *nullmailerList) group() bool {
	start, before := l.at, len(l.addresses)
	if l.phrase() && l.at != l.noGroup && l.is(':') {
		colon := l.at - 1
		for l.mailbox() {
			l.commas()
		}
		l.comments()
		if l.is(';') {
			return true
		}
		l.noGroup = colon
	}
	l.at, l.addresses = start, l.addresses[:before]
	return false
}

// phrase = word *(word / ".")
func (l *nullmailerList) phrase() bool {
	start := l.at
	if _, ok := l.word(); !ok {
		return false
	}
	if l.phraseFrom <= start && start < l.phraseTo {
		l.at = l.phraseTo
		return true
	}
	for more := true; more; {
		if more = l.is('.'); !more {
			_, more = l.word()
		}
	}
	l.phraseFrom, l.phraseTo = start, l.at
	return true
}

// word = *comment (atom / quoted-string)
func (l *nullmailerList) word() (text string, ok bool) {
	start := l.at
	l.comments()
	text = l.tokens[l.at].text
	switch l.kind() {
	case nullmailerAtom:
		l.at++
		return text, true
	case nullmailerQuoted:
		l.at++
		return nullmailerUnquote(text), true
	}
	l.at = start
	return "", false
}

func nullmailerUnquote(text string) string {
	text = strings.TrimLeft(text, " \t\n\v\f\r")
	if strings.IndexByte(text, '\\') >= 0 {
		plain := make([]byte, 0, len(text))
		for i := 0; i < len(text); i++ {
			if text[i] == '\\' && i+1 < len(text) {
				i++
			}
			plain = append(plain, text[i])
		}
		text = string(plain)
	}
	return strings.TrimRight(text, " \t\n\v\f\r")
}

// route-addr = *comment "<" [1*("@" domain) ":"] addr-spec ">"
func (l *nullmailerList) routeAddress() bool {
	start := l.at
	l.comments()
	bracket := l.at
	if bracket == l.noRoute || !l.is('<') {
		l.at = start
		return false
	}
	l.route()
	address, ok := l.addressSpec()
	l.comments()
	if !ok || !l.is('>') {
		l.at, l.noRoute = start, bracket
		return false
	}
	l.add(address)
	return true
}

func (l *nullmailerList) route() {
	start := l.at
	for l.is('@') {
		if _, ok := l.domain(); !ok {
			l.at = start
			return
		}
	}
	if l.comments(); !l.is(':') {
		l.at = start
	}
}

// addr-spec = local-part *("@" domain); the last domain is the one.
func (l *nullmailerList) addressSpec() (address string, ok bool) {
	text, ok := l.word()
	if !ok {
		return "", false
	}
	parts := []string{text}
	for l.comments(); l.kind() == '.'; l.comments() {
		dot := l.at
		l.at++
		if text, ok = l.word(); !ok {
			l.at = dot
			break
		}
		parts = append(parts, ".", text)
	}
	qualified := false
	for l.comments(); l.kind() == '@'; l.comments() {
		at := l.at
		l.at++
		if text, ok = l.domain(); !ok {
			l.at = at
			break
		}
		parts, qualified = append(parts, "@", text), true
	}
	if !qualified {
		parts = append(parts, "@") // and the default host
	}
	return strings.Join(parts, ""), true
}

// domain = sub-domain *("." [sub-domain])
func (l *nullmailerList) domain() (text string, ok bool) {
	start := l.at
	if l.comments(); l.kind() != nullmailerAtom {
		l.at = start
		return "", false
	}
	from := l.at
	l.at++
	for l.comments(); l.kind() == '.'; l.comments() {
		l.at++
		if l.comments(); l.kind() == nullmailerAtom {
			l.at++
		}
	}
	for _, t := range l.tokens[from:l.at] {
		if t.kind != '(' {
			text += t.text
		}
	}
	return text, true
}

func (l *nullmailerList) add(address string) {
	for part := range strings.SplitSeq(address, "\n") {
		l.addresses = append(l.addresses, part)
	}
}
