package inventory

import (
	"fmt"
	"strings"

	"sendmail-wrapper/quota"
)

// ReadOwners reads lines "DOMAIN: USER": cPanel's /etc/userdomains, which has all
// domains, and /etc/trueuserdomains, which has the first of each account; and
// DirectAdmin's /etc/virtual/domainowners. cPanel has "*: nobody" for the rest.
func ReadOwners(files []File, s *System) (*Inventory, error) {
	b := newBuilder()
	b.inv.Observed = true
	for _, f := range files {
		text, err := checkText(f.Name, f.Text, maxLine)
		if err != nil {
			return nil, err
		}
		number := 0
		for line := range strings.Lines(string(text)) {
			number++
			if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
				continue
			}
			domain, login, ok := strings.Cut(line, ":")
			domain, login = strings.ToLower(strings.TrimSpace(domain)), strings.TrimSpace(login)
			if !ok || domain == "" || login == "" || strings.ContainsAny(login, ": \t") {
				return nil, &Error{f.Name, number, 0, "no line DOMAIN: USER"}
			}
			customer, err := s.owner(b, login, number)
			if err == nil && customer && domain != "*" {
				err = b.put(Object{Ref: Ref{Class: quota.Domain, Name: domain}, Parent: login, Line: number})
			}
			if err != nil {
				return nil, &Error{f.Name, number, 0, err.Error()}
			}
			if !customer && domain != "*" {
				b.inv.Notes = append(b.inv.Notes, fmt.Sprintf("left out: domain %s of %s, who is no customer", domain, login))
			}
		}
	}
	return b.inv, nil
}
