package sendmail

import (
	"bytes"
	"strings"
)

// Parameter is one of MAIL or RCPT: its keyword in upper case, and its value.
type Parameter struct{ Keyword, Value string }

// ParsePath reads the argument of MAIL or RCPT, as "FROM:<a@x> SIZE=9", where keyword is
// FROM or TO: the address as it stands there, without brackets and source route, "" for
// the null sender, and parameters. Not ok is what is no address of RFC 5321, 4.1.2, or an
// address that an MTA could take for more than one.
func ParsePath(line []byte, keyword string) (address string, parameters []Parameter, ok bool) {
	_, argument := cutWord(line)
	if len(argument) <= len(keyword) || !isKeyword(argument[:len(keyword)], keyword) || argument[len(keyword)] != ':' {
		return "", nil, false
	}
	path := bytes.TrimLeft(argument[len(keyword)+1:], " \t")
	rest := path
	if bracketed, is := bytes.CutPrefix(path, []byte("<")); is {
		end := quotedPathEnd(bracketed, '>')
		if end == len(bracketed) {
			return "", nil, false
		}
		path, rest = bracketed[:end], bracketed[end+1:]
		if len(rest) > 0 && !isBlank(rest[0]) {
			return "", nil, false
		}
		if bytes.HasPrefix(path, []byte("@")) { // a source route (RFC 5321, appendix C)
			_, path, is = bytes.Cut(path, []byte(":"))
			if !is || len(path) == 0 {
				return "", nil, false
			}
		}
	} else {
		end := quotedPathEnd(path, ' ')
		path, rest = path[:end], path[end:]
		if len(path) == 0 {
			return "", nil, false
		}
	}
	for word := range bytes.FieldsSeq(rest) {
		name, value, _ := bytes.Cut(word, []byte("="))
		parameters = append(parameters, Parameter{strings.ToUpper(string(name)), string(value)})
	}
	address = string(path)
	return address, parameters, address == "" && keyword == "FROM" || isMailbox(address)
}

// quotedPathEnd finds a byte outside quotes.
func quotedPathEnd(b []byte, end byte) int {
	quoted := false
	for i := 0; i < len(b); i++ {
		switch {
		case b[i] == '\\':
			i++
		case b[i] == '"':
			quoted = !quoted
		case b[i] == end && !quoted:
			return i
		}
	}
	return len(b)
}

// isMailbox is whether s is a local part, of atoms and dots or in quotes, and perhaps a domain
// or address literal. Bytes over 127 are letters (RFC 6531).
func isMailbox(s string) bool {
	if len(s) == 0 || len(s) > MaxAddress+2 {
		return false
	}
	local, domain := s, ""
	if s[0] == '"' {
		end := 1
		for end < len(s) && s[end] != '"' {
			if s[end] == '\\' {
				end++
			}
			end++
		}
		if end >= len(s) {
			return false
		}
		local, domain = s[1:end], s[end+1:]
		for i := range len(local) {
			if local[i] < ' ' || local[i] == 0x7f {
				return false
			}
		}
	} else if at := strings.LastIndexByte(s, '@'); at >= 0 {
		local, domain = s[:at], s[at:]
	}
	if s[0] != '"' && !onlyOf(local, "!#$%&'*+-/=?^_`{|}~.") {
		return false
	}
	if domain == "" {
		return true
	}
	domain, at := strings.CutPrefix(domain, "@")
	if inner, literal := strings.CutPrefix(domain, "["); literal {
		inner, closed := strings.CutSuffix(inner, "]")
		return at && closed && onlyOf(inner, ".:-")
	}
	return at && onlyOf(domain, ".-_")
}

// onlyOf is whether s is of letters, digits and these.
func onlyOf(s, others string) bool {
	for i := range len(s) {
		if !isAlnum(s[i]) && s[i] < 0x80 && strings.IndexByte(others, s[i]) < 0 {
			return false
		}
	}
	return s != ""
}

// IsOneRecipient is whether this mail server takes an operand for one recipient, and no more.
func (p *Profile) IsOneRecipient(operand string) bool {
	n := tally{p: p}
	n.list(operand, 2)
	return operand != "" && n.n == 1
}

// LocalForm makes of Content's output what a program gets that is called with the message:
// lines that end in LF, and no dot doubled. The zero value is at the start of a message.
type LocalForm struct{ inLine, cr bool }

// Append appends a part of it to dst.
func (p *LocalForm) Append(dst, src []byte) []byte {
	for _, c := range src {
		if p.cr {
			p.cr = false
			if c != '\n' {
				dst = append(dst, '\r')
			}
		}
		switch {
		case c == '\r':
			p.cr, p.inLine = true, true
			continue
		case c == '.' && !p.inLine:
		default:
			dst = append(dst, c)
		}
		p.inLine = c != '\n'
	}
	return dst
}
