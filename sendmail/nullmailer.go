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
	sender: asGivenOrNull, // setenvelope(): what is before the first @ and behind it
	check:  checkNullmailer,

	Dots:      false, // and so -i means nothing
	FromLines: onceQuotedFromSkipped,
	machine:   newNullmailerHeader,
	// setup_from(). The envelope goes to nullmailer-queue as lines.
	RawEnv: []string{"NULLMAILER_USER", "NULLMAILER_HOST", "NULLMAILER_SUSER", "NULLMAILER_SHOST",
		"MAILUSER", "USER", "LOGNAME", "MAILHOST", "HOSTNAME"},

	Recipients: []string{"to", "cc", "bcc", "apparently-to"},
	Resent:     []string{"resent-to", "resent-cc", "resent-bcc"},
	ResentWhen: []string{ // header_fields[]: is_resent
		"resent-sender", "resent-from", "resent-reply-to", "resent-to", "resent-cc", "resent-bcc", "resent-date", "resent-message-id",
	},
	ResentForgets: true,
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
	c.LineBreaks = hasLineBreak(c.Sender)
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
			return false
		}
		if c == ':' {
			break
		}
	}
	if bytes.IndexByte(line, ':') < 0 && !h.within {
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
		h.sentBy(e)
	}
	if h.refused {
		e.Recipients = 0
	}
}

// sentBy is setup_from(): the sender of -f or of the environment.
func (h *nullmailerHeader) sentBy(e *Envelope) {
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
	e.SenderSet = user != ""
	if !e.SenderSet {
		return
	}
	e.Sender = user
	if host != "" {
		e.Sender += "@" + host
	}
}

// firstOf is the first of some variables that is not empty.
func (h *nullmailerHeader) firstOf(names ...string) string {
	for _, name := range names {
		if value, _ := h.env(name); value != "" {
			return value
		}
	}
	return ""
}
