package inventory

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
)

// ReadFPM makes a subscription of each user of a PHP-FPM pool, and a domain of
// each pool whose name is one.
func ReadFPM(pools []origin.Pool, s *System) (*Inventory, error) {
	b := newBuilder()
	b.inv.Observed = true
	for _, p := range pools {
		login := s.login(p.Options["user"])
		customer, err := s.owner(b, login, p.Line)
		if name := strings.ToLower(p.Name); err == nil && customer && isDomain(name) {
			err = b.put(Object{Ref: Ref{Class: quota.Domain, Name: name}, Parent: login, Line: p.Line})
		}
		if err != nil {
			return nil, &Error{p.File, p.Line, 0, err.Error()}
		}
		if !customer {
			b.inv.Notes = append(b.inv.Notes, fmt.Sprintf("left out: pool %s of %q, who is no customer", p.Name, login))
		}
	}
	return b.inv, nil
}

// isDomain tells whether a name looks like one of a site on the internet, and not
// like a word, an address or a version.
func isDomain(name string) bool {
	dot := strings.LastIndexByte(name, '.')
	letter := func(r rune) bool { return r >= 'a' && r <= 'z' || r >= 0x80 && r != utf8.RuneError }
	return dot > 0 && strings.ContainsFunc(name[dot+1:], letter) && !strings.Contains(name, "..") && name[0] != '.' &&
		!strings.ContainsFunc(name, func(r rune) bool { return !letter(r) && (r < '0' || r > '9') && !strings.ContainsRune(".-_", r) })
}
