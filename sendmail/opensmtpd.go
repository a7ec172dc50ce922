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
	sender: asGiven,
	check:  checkOpensmtpd,

	Dots:      false,              // and so -i means nothing
	FromLines: anyCaseFromSkipped, // enqueue(): of any header line
	machine:   newOpensmtpdHeader,
	traceable: opensmtpdTraceable,

	Recipients: []string{"to", "cc", "bcc"},
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
	c.LineBreaks = hasLineBreak(w.argv...)
	if c.LineBreaks {
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

// opensmtpdHeader reads a header as parse_message() does. For a NUL in the last
// line of the body smtpctl refuses a message, too; it counts here.
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
	return &opensmtpdHeader{recipients: c.FromHeader, readFrom: !c.SenderSet}
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
	h.within = b[len(b)-1] != '\n'
	if !h.within && h.nul != 0 && h.current != opensmtpdBcc {
		h.open = h.nul > 0 // "%.*s" writes what is before it
	}
	if h.recipients && (h.current == opensmtpdRecipients || h.current == opensmtpdBcc) || h.readFrom && h.current == opensmtpdFrom {
		h.refused = !h.list.parse(b, h.address) || h.refused
	}
	return !h.refused && !h.inBody
}

// line takes the beginning of a line, of up to 64 KiB.
func (h *opensmtpdHeader) line(b []byte) {
	text := bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
	if len(text) == 0 && len(b) > 0 && b[len(b)-1] == '\n' {
		h.inBody = true
	}
	if isBlank(b[0]) {
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
	h.current = opensmtpdFieldOf(b)
	if h.current != opensmtpdNone {
		h.known = true
		return
	}
	// smtpd, in _rfc5322_next(). From_ lines are left out before that, and a line
	// that goes on one without an end is none of its own.
	if !h.open && bytes.IndexByte(b, ':') < 0 && bytes.IndexByte(b, 0) < 0 && b[len(b)-1] == '\n' && !foldPrefix(b, "from ") {
		h.malformed = true
	}
}

// opensmtpdTraceable is whether there is a header: where no line begins a field that
// parse_message() knows, all is the body, and the trace field would be there.
func opensmtpdTraceable(head []byte, _ bool) bool {
	for line := range bytes.Lines(head) {
		switch text := bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")); {
		case len(text) == 0:
			return false
		case opensmtpdFieldOf(line) != opensmtpdNone:
			return true
		}
	}
	return false
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
