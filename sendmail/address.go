package sendmail

import "strings"

// A token of an address list is an operator, named by its own character, or a
// word: an atom, a quoted string, or a domain literal. White space and comments
// separate tokens and are none (RFC 5322, 3.2; Postfix: tok822_scan in
// src/global/tok822_parse.c).
const word = 'a'

const operators = `|"(),.:;<>@[]`

// tokens calls emit for each token of a list, with its text: of a quoted string
// without the quotes.
func tokens(list string, emit func(kind byte, text string)) {
	for i := 0; i < len(list); {
		switch c := list[i]; {
		case isSpace(c):
			i++
		case c == '(':
			i = commentEnd(list, i)
		case c == '"':
			end := quotedEnd(list, i+1, func(c byte) bool { return c == '"' })
			emit(word, list[i+1:end])
			i = min(end+1, len(list))
		case c == '[':
			end := min(quotedEnd(list, i+1, func(c byte) bool { return c == ']' })+1, len(list))
			emit(word, list[i:end])
			i = end
		case strings.IndexByte(operators, c) >= 0:
			emit(c, list[i:i+1])
			i++
		default:
			end := quotedEnd(list, i, func(c byte) bool { return isSpace(c) || strings.IndexByte(operators, c) >= 0 })
			emit(word, list[i:end])
			i = end
		}
	}
}

// quotedEnd finds the first byte from i that ends a token and has no backslash
// before it; the end of the list, if there is none.
func quotedEnd(list string, i int, ends func(byte) bool) int {
	for ; i < len(list) && !ends(list[i]); i++ {
		if list[i] == '\\' {
			i++
		}
	}
	return min(i, len(list))
}

// commentEnd is behind the comment that begins at i; comments nest.
func commentEnd(list string, i int) int {
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
		}
	}
	return len(list)
}

// split finds the addresses in a list of tokens, from right to left as Postfix
// does (tok822_parse_limit): at commas, at the semicolon and colon of a group,
// around <brackets>, before which anything is a name, and between words that
// no operator joins, where a comma is missing. It calls address with the range
// of the tokens of each, the last address first.
func split(kinds []byte, address func(from, to int)) {
	group := func(left, right int) {
		if left+1 < right {
			address(left+1, right)
		}
	}
	wordMayFollow, inGroup := true, false
	right := len(kinds)
	for i := len(kinds) - 1; i >= 0; i-- {
		switch kind := kinds[i]; {
		case kind == ';':
			group(i, right)
			right, inGroup, wordMayFollow = i, true, true
		case kind == ':' && inGroup:
			group(i, right)
			for i > 0 && kinds[i-1] != ',' { // the name of the group
				i--
			}
			right = i
		case kind == '>':
			group(i, right)
			open := lastIndex(kinds[:i], "<") // without one, all to the left is one address
			group(open, i)
			i = lastIndex(kinds[:max(open, 0)], ">;,:") + 1 // the name
			right, wordMayFollow = i, true
		case kind == word:
			if !wordMayFollow {
				group(i, right)
				right = i + 1
			}
			wordMayFollow = false
		case kind == ',':
			group(i, right)
			right, wordMayFollow = i, true
		default:
			wordMayFollow = true
		}
	}
	group(-1, right)
}

// lastIndex finds the last of some operators.
func lastIndex(kinds []byte, of string) int {
	for i := len(kinds) - 1; i >= 0; i-- {
		if strings.IndexByte(of, kinds[i]) >= 0 {
			return i
		}
	}
	return -1
}

// postfixAddresses are the recipients that Postfix makes of a list.
func postfixAddresses(list string, each func(address string)) {
	kinds := make([]byte, 0, 64)
	tokens(list, func(kind byte, _ string) { kinds = append(kinds, kind) })
	split(kinds, func(int, int) { each("") })
}

// firstAddress is the first address of a list, bare; "" where there is none, as
// in <>.
func firstAddress(list string) (address string) {
	var kinds []byte
	var texts []string
	tokens(list[:min(len(list), maxSender)], func(kind byte, text string) {
		kinds, texts = append(kinds, kind), append(texts, text)
	})
	split(kinds, func(from, to int) { address = strings.Join(texts[from:to], "") })
	return address
}

// simpleAddress is the address in one entry of a list, if there can be no doubt
// how an MTA reads it; "" otherwise.
func simpleAddress(entry string) string {
	entry = strings.Trim(entry, " \t\r\n")
	if inner, ok := strings.CutSuffix(entry, ">"); ok {
		open := strings.LastIndexByte(inner, '<')
		name := strings.Trim(inner[:max(open, 0)], " \t\r\n")
		if quoted := strings.TrimPrefix(strings.TrimSuffix(name, `"`), `"`); len(quoted)+2 == len(name) && !strings.ContainsAny(quoted, "\"\\") {
			name = ""
		}
		if open < 0 || strings.ContainsAny(name, "()<>@,;:\\\"[]") {
			return ""
		}
		entry = inner[open+1:]
	}
	for i := range len(entry) {
		if c := entry[i]; !isAlnum(c) && strings.IndexByte("@.-_+=", c) < 0 {
			return ""
		}
	}
	return entry
}
