package sendmail

import "strings"

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
	space := isBlank(c)
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
