package sendmail

import "strings"

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
	text = strings.TrimLeft(text, cSpace)
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
	return strings.TrimRight(text, cSpace)
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
	l.comments()
	if !l.is(':') {
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
	l.comments()
	if l.kind() != nullmailerAtom {
		l.at = start
		return "", false
	}
	from := l.at
	l.at++
	for l.comments(); l.kind() == '.'; l.comments() {
		l.at++
		l.comments()
		if l.kind() == nullmailerAtom {
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
