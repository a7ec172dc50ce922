package sendmail

import (
	"bytes"
	"slices"
	"strings"
)

// opensmtpd is smtpctl of OpenSMTPD 6.8 to 7.9 under the name sendmail:
// usr.sbin/smtpd/{smtpctl,enqueue}.c, and what smtpd takes of it:
// {smtp_session,to,util,rfc5322}.c. One recipient that smtpd does not take, and
// nobody gets the message.
var opensmtpd = Profile{
	Name: "opensmtpd",

	Options:  "A:B:b:E::e:F:f:iJ::L:mN:o:p:qr:R:StvV:x", // enqueue()
	Permutes: true,                                      // Debian links it with getopt(3) of glibc
	Does: []rule{
		{"f*", setSender}, {"r*", setSender},
		{"J*", ends}, // in the list, but not in the switch: usage()
		{"q", ends},  // "implement process all now"
		{"t", fromHeader},
	},
	sender: func(w *parsing, value string) { w.call.Sender, w.call.SenderSet = value, true },
	check:  checkOpensmtpd,

	Dots:    false, // and so -i means nothing
	machine: newOpensmtpdHeader,

	addresses: func(list string, each func(address string)) { // rcpt_add()
		for address := range strings.SplitSeq(list, ",") {
			each(address)
		}
	},
}

// opensmtpdSender is build_from(), of the last -f.
func opensmtpdSender(value string) (address string, ok bool) {
	if inner, ok := strings.CutPrefix(value, "<"); ok {
		return strings.CutSuffix(inner, ">") // "leading < but no trailing >"
	}
	return value, true
}

func checkOpensmtpd(w *parsing) {
	c := &w.call
	switch w.argv[0][strings.LastIndexByte(w.argv[0], '/')+1:] { // sendmail_compat()
	case "sendmail", "send-mail":
	default:
		w.ended = true // mailq, makemap, newaliases, or "unsupported mode"
	}
	for _, word := range w.argv[1:] {
		if strings.HasPrefix(word, "-bi") { // wherever it stands: makemap
			w.ended = true
		}
	}
	sender, ok := opensmtpdSender(c.Sender)
	c.Sender, w.ended = sender, w.ended || !ok
	if c.LineBreaks = lineBreaks(w.argv) > 0; c.LineBreaks {
		return
	}
	if c.SenderSet && !opensmtpdTakesFrom(c.Sender) {
		w.ended = true // "553 Sender address syntax error"
	}
	for _, operand := range c.Operands {
		for address := range strings.SplitSeq(operand, ",") {
			if !opensmtpdTakes(address) {
				w.ended = true // "501 Recipient address syntax error"
			}
		}
	}
}

// opensmtpdTakes is whether smtpd may take the recipient <address>, and
// opensmtpdTakesFrom the sender, who may be nobody (smtp_mailaddr()). Where that
// hangs on more than the syntax, it may.
func opensmtpdTakes(address string) bool {
	user, domain, ok := opensmtpdPath(address, "NOTIFY", "ORCPT")
	return ok && opensmtpdValid(user, domain)
}

func opensmtpdTakesFrom(address string) bool {
	user, domain, ok := opensmtpdPath(address, "AUTH", "SIZE", "BODY", "RET", "ENVID")
	return ok && (user == "" && domain == "" || opensmtpdValid(user, domain))
}

// opensmtpdPath takes <address> apart; not ok if there is more behind it than
// the options of these names.
func opensmtpdPath(address string, options ...string) (user, domain string, ok bool) {
	address, rest, closed := strings.Cut(address, ">")
	if closed {
		for option := range strings.SplitSeq(rest+">", " ") {
			name, _, hasValue := strings.Cut(option, "=")
			if option != "" && (!hasValue || !slices.ContainsFunc(options, func(o string) bool { return strings.EqualFold(o, name) })) {
				return "", "", false // "503 Unsupported option"
			}
		}
	}
	user = address
	if at := strings.LastIndexByte(address, '@'); at >= 0 {
		user, domain = address[:at], address[at+1:]
	}
	if _, behind, route := strings.Cut(user, ":"); route {
		user = behind
	}
	return user, domain, true
}

// opensmtpdValid is valid_localpart() and valid_domainpart() of util.c.
func opensmtpdValid(user, domain string) bool {
	for atom := range strings.SplitSeq(user, ".") {
		if atom == "" {
			return false
		}
		for i := 0; i < len(atom); i++ {
			if !isAlnum(atom[i]) && strings.IndexByte("!#$%&'*/?^`{|}~+-=_", atom[i]) < 0 { // MAILADDR_ALLOWED of 6.8
				return false
			}
		}
	}
	if domain == "" || domain[0] == '[' || strings.IndexByte(domain, '\\') >= 0 {
		return true
	}
	for i := 0; i < len(domain); i++ { // res_hnok(3)
		if c := domain[i]; !isAlnum(c) && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return domain[len(domain)-1] != '.'
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// opensmtpdHeader reads a message as parse_message() does.
type opensmtpdHeader struct {
	recipients bool // -t
	readFrom   bool // no -f

	within     bool // a line
	nul        int  // where in it the first NUL is, -1 without
	length     int  // of it, so far
	open       bool // the last line lost its end to a NUL
	inBody     bool
	current    opensmtpdField
	known      bool // a field that it knows
	malformed  bool // a line in the header that is no field
	refused    bool
	count      int
	sender     string
	senderSeen bool
	list       opensmtpdList
}

type opensmtpdField uint8

const (
	opensmtpdNone opensmtpdField = iota
	opensmtpdOther
	opensmtpdFrom
	opensmtpdRecipients
	opensmtpdBcc
)

func newOpensmtpdHeader(_ *Profile, c Call, _ Env) machine {
	h := &opensmtpdHeader{recipients: c.FromHeader, readFrom: !c.SenderSet}
	if c.LineBreaks {
		return &lineCounter{machine: h}
	}
	return h
}

func (h *opensmtpdHeader) piece(b []byte) bool {
	if !h.within {
		h.line(b)
		h.nul, h.length = -1, 0
	}
	if at := bytes.IndexByte(b, 0); at >= 0 && h.nul < 0 {
		h.nul = h.length + at
	}
	h.length += len(b)
	if h.within = b[len(b)-1] != '\n'; !h.within && h.nul != 0 && h.current != opensmtpdBcc {
		h.open = h.nul > 0 // "%.*s" writes what is before it
	}
	if h.recipients && (h.current == opensmtpdRecipients || h.current == opensmtpdBcc) || h.readFrom && h.current == opensmtpdFrom {
		h.refused = !h.list.parse(b, h.address) || h.refused
	}
	return !h.refused
}

// line takes the beginning of a line, of up to 64 KiB.
func (h *opensmtpdHeader) line(b []byte) {
	text := bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(text) == 0 && len(b) > 0 && b[len(b)-1] == '\n' {
		h.inBody = true
	}
	if b[0] == ' ' || b[0] == '\t' {
		h.list.continued()
		return
	}
	if h.current != opensmtpdNone && !h.list.flush(h.address) {
		h.refused = true
	}
	h.list.begin()
	h.current = opensmtpdNone
	if h.inBody {
		return
	}
	if h.current = opensmtpdFieldOf(b); h.current != opensmtpdNone {
		h.known = true
		return
	}
	// smtpd, in _rfc5322_next(). From_ lines are left out before that.
	if bytes.IndexByte(b, ':') < 0 && bytes.IndexByte(b, 0) < 0 && b[len(b)-1] == '\n' && !foldPrefix(b, "from ") {
		h.malformed = true
	}
}

// opensmtpdFieldOf is what a line begins. Only the fields that enqueue.c knows
// make a header: without one of them an empty line is put before all.
func opensmtpdFieldOf(line []byte) opensmtpdField {
	for _, known := range [...]struct {
		word  string
		field opensmtpdField
	}{
		{"From:", opensmtpdFrom},
		{"To:", opensmtpdRecipients},
		{"Cc:", opensmtpdRecipients},
		{"Bcc:", opensmtpdBcc},
		{"Subject:", opensmtpdOther},
		{"Date:", opensmtpdOther},
		{"Message-Id:", opensmtpdOther},
		{"MIME-Version:", opensmtpdOther},
		{"Content-Type:", opensmtpdOther},
		{"Content-Disposition:", opensmtpdOther},
		{"Content-Transfer-Encoding:", opensmtpdOther},
		{"User-Agent:", opensmtpdOther},
	} {
		if len(line) > len(known.word) && foldPrefix(line, known.word) {
			return known.field
		}
	}
	return opensmtpdNone
}

// foldPrefix is whether a line begins with a word, in whatever case.
func foldPrefix(line []byte, word string) bool {
	return len(line) >= len(word) && strings.EqualFold(string(line[:len(word)]), word)
}

func (h *opensmtpdHeader) address(address string) {
	if h.current == opensmtpdFrom { // the last one is the sender
		h.sender, h.senderSeen = address, true
		return
	}
	for one := range strings.SplitSeq(address, ",") { // rcpt_add(), whatever is quoted
		h.refused = h.refused || !opensmtpdTakes(one)
		h.count++
	}
}

func (h *opensmtpdHeader) end(e *Envelope) {
	if h.within && h.list.ended && !h.list.flush(h.address) {
		h.refused = true
	}
	e.Recipients += h.count
	if h.senderSeen {
		e.Sender, e.SenderSet = h.sender, true
	}
	switch {
	case h.refused,
		h.senderSeen && !opensmtpdTakesFrom(h.sender),
		h.malformed && h.known,
		h.open && !h.within: // "expect EOL"
		e.Recipients = 0
	}
}

// opensmtpdList is parse_addr() with its pstate, byte by byte.
type opensmtpdList struct {
	at       opensmtpdAt
	quote    bool
	comments int
	escaped  bool
	brackets bool // there has been a "<" in the message; only then is ">" more than text
	ended    bool // the address is whole; what follows up to a comma is not looked at
	address  []byte
}

// opensmtpdAt is where in a line it is.
type opensmtpdAt uint8

const (
	opensmtpdName  opensmtpdAt = iota // up to the colon
	opensmtpdLead                     // white space, colons, commas before an address
	opensmtpdMain                     //
	opensmtpdColon                    // white space behind the name of a group
	opensmtpdBreak                    // behind CR or LF
)

const opensmtpdAddressMax = 1000 // SMTP_LINELEN

// begin is for the line of a new field, continued for one that continues it.
func (l *opensmtpdList) begin()     { l.at, l.ended = opensmtpdName, false }
func (l *opensmtpdList) continued() { l.at, l.ended = opensmtpdLead, false }

// parse takes a part of a line; false refuses the message.
func (l *opensmtpdList) parse(b []byte, each func(string)) bool {
	for _, c := range b {
		if !l.byte(c, each) {
			return false
		}
	}
	return true
}

func (l *opensmtpdList) byte(c byte, each func(string)) bool {
	space := c == ' ' || c == '\t'
	switch l.at {
	case opensmtpdBreak:
		switch {
		case c == '\r' || c == '\n':
			return true
		case space || c == ',' || c == ';':
			l.at = opensmtpdLead
		default: // a bare CR: what follows is taken for a field
			l.at = opensmtpdName
			if !l.flush(each) {
				return false
			}
		}
		return l.byte(c, each)
	case opensmtpdName:
		if c == ':' {
			l.at = opensmtpdLead
		}
		return true
	case opensmtpdLead:
		if !l.quote && (space || c == ':' || c == ',' || c == ';') {
			return true
		}
		l.at = opensmtpdMain
	}
	if l.at == opensmtpdColon {
		if space {
			return true
		}
		l.at = opensmtpdMain // and this byte begins no comment, quotes, or group
	} else {
		if !l.escaped && !l.quote && c == '(' {
			l.comments++
		}
		if l.comments == 0 && !l.escaped && c == '"' {
			l.quote = !l.quote
		}
		if l.plain() && c == ':' {
			l.address = l.address[:0]
			l.at = opensmtpdColon
			return true
		}
	}
	if l.plain() {
		switch c {
		case '\r', '\n':
			l.at = opensmtpdBreak
			return !l.ended || l.flush(each)
		case ',', ';':
			l.at = opensmtpdLead
			return l.flush(each)
		case '<':
			l.address, l.brackets = l.address[:0], true
		case '>':
			l.ended = l.ended || l.brackets
		}
	}
	if l.comments == 0 && !l.ended && (l.quote || l.escaped || c != '<' && !space) {
		if len(l.address) >= opensmtpdAddressMax {
			return false // "address exceeds buffer size"
		}
		l.address = append(l.address, c)
	}
	if !l.quote && l.comments > 0 && c == ')' {
		l.comments--
	}
	l.escaped = !l.escaped && l.comments == 0 && c == '\\'
	if c == '\n' && l.ended {
		return l.flush(each)
	}
	return true
}

func (l *opensmtpdList) plain() bool { return l.comments == 0 && !l.quote && !l.escaped }

// flush is parse_addr_terminal(): it ends an address, if one has begun; false
// refuses the message, for a "syntax error in address".
func (l *opensmtpdList) flush(each func(string)) bool {
	l.ended = false
	if !l.plain() {
		return false
	}
	if len(l.address) > 0 {
		address, _, _ := strings.Cut(string(l.address), "\x00") // a string of C
		each(address)
	}
	l.address = l.address[:0]
	return true
}
