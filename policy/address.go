package policy

import (
	"strings"
)

// SameAddress tells whether Postfix routes mail to the address came, without any alias, to
// the address leaves: then nobody has sent it on. Besides the case of ASCII letters it
// changes (trivial-rewrite(8); canonical(5) is not known here)
//
//	@route:local@domain                     a source route
//	local@domain.                           the dot that ends a domain
//	local                                   append_at_myorigin
//	local@domain@here  "local@domain"@here  resolve_dequoted_address
//	domain!local@here  domain!local         swap_bangpath
//	local%domain@here  local%domain         allow_percent_hack
//
// the last three again and again, for as long as here is the server itself. What is here is
// not asked: leaves shows it.
func SameAddress(came, leaves string) bool {
	came, leaves = foldASCII(came), foldASCII(leaves)
	if came == leaves {
		return true
	}
	if strings.HasPrefix(came, "@") {
		if _, behind, ok := strings.Cut(came, ":"); ok {
			came = behind
		}
	}
	at := strings.LastIndexByte(leaves, '@')
	if at < 0 {
		return came == leaves
	}
	wantLocal, wantDomain := leaves[:at], withoutDot(leaves[at+1:])
	same := func(local, domain string) bool { return local == wantLocal && withoutDot(domain) == wantDomain }
	// Cut off one domain after the other. No "@" comes back once there is none, and no "!",
	// so this is the order in which Postfix finds them.
	local := came
	for i := strings.LastIndexByte(local, '@'); i >= 0; i = strings.LastIndexByte(local, '@') {
		if same(local[:i], local[i+1:]) {
			return true
		}
		local = local[:i]
	}
	if local == came && local == wantLocal {
		return true
	}
	for domain, behind, ok := strings.Cut(local, "!"); ok; domain, behind, ok = strings.Cut(local, "!") {
		if same(behind, domain) {
			return true
		}
		local = behind
	}
	for i := strings.LastIndexByte(local, '%'); i >= 0; i = strings.LastIndexByte(local, '%') {
		if same(local[:i], local[i+1:]) {
			return true
		}
		local = local[:i]
	}
	return false
}

// withoutDot is a domain without the dot that ends it, unless there are two.
func withoutDot(domain string) string {
	if short, ok := strings.CutSuffix(domain, "."); ok && short != "" && !strings.HasSuffix(short, ".") {
		return short
	}
	return domain
}

// foldASCII has the letters A to Z in lower case: mail servers know no case of others, and
// an address may be any bytes.
func foldASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
