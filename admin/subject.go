package admin

import (
	"fmt"
	"net/netip"
	"path"
	"strings"
	"unicode"

	"sendmail-wrapper/quota"
)

// Subject is whose mail a block or an entry of the white list is about: one of an
// object, a script, a crontab line and a network.
type Subject struct {
	Object  quota.Object
	Script  string
	Crontab string
	Network netip.Prefix
}

// ParseSubject reads a Subject as it is written on the command line.
func ParseSubject(s string, kind quota.ExceptionKind) (Subject, error) {
	word, rest, _ := strings.Cut(s, ":")
	switch {
	case word == "script":
		return Subject{Script: rest}, checkScript(rest)
	case word == "crontab":
		return Subject{Crontab: rest}, checkCrontab(rest)
	case word == "network" && kind == quota.Whitelist:
		return parseNetwork(rest)
	}
	o, err := quota.ParseObject(s)
	if err != nil {
		return Subject{}, noSubject(s, kind)
	}
	return Subject{Object: o}, Subject{Object: o}.check(kind)
}

// check refuses what cannot be the subject of an exception, wherever it is written:
// one wrong word must not stop the mail of a server.
func (s Subject) check(kind quota.ExceptionKind) error {
	switch {
	case kind == quota.Raise && s.Object.Class == quota.Plan:
		return &Error{"a plan is charged nothing: it holds the defaults of its subscriptions", ""}
	case kind == quota.Raise:
		return nil
	case s.Script != "":
		return checkScript(s.Script)
	case s.Crontab != "":
		return checkCrontab(s.Crontab)
	case s.Network.IsValid():
		if kind != quota.Whitelist || s.Network != s.Network.Masked() || s.Network.Addr().Is4In6() {
			return &Error{"a network is in a white list, and its address is the first one in it", ""}
		}
		return nil
	case s.Object.Class == quota.Server, s.Object.Class == quota.Plan:
		return noSubject(s.String(), kind)
	}
	return nil
}

func noSubject(s string, kind quota.ExceptionKind) error {
	forms := "user:, mailbox:, domain:, subscription:, script:PATH or crontab:TEXT"
	if kind == quota.Whitelist {
		forms += " or network:CIDR"
	}
	return &Error{fmt.Sprintf("%.60q cannot be the subject of a %s: write %s", s, kind, forms), ""}
}

func checkCrontab(s string) error {
	if len(strings.TrimSpace(s)) < 4 || len(s) > 1000 || strings.ContainsFunc(s, unicode.IsControl) {
		return &Error{fmt.Sprintf("%.60q cannot be part of a crontab line: write 4 to 1000 bytes on one line", s), ""}
	}
	return nil
}

// checkScript takes a path; with / at its end it is all below a directory, which is
// not the root: that would be every script.
func checkScript(s string) error {
	clean := s == path.Clean(s) || s == path.Clean(s)+"/"
	if len(s) < 2 || s == "//" || s[0] != '/' || len(s) > 4096 || !clean || strings.ContainsFunc(s, unicode.IsControl) {
		return &Error{fmt.Sprintf("%.60q is no path of a script: write an absolute one without . and .., or a directory with / at its end", s), ""}
	}
	return nil
}

func parseNetwork(s string) (Subject, error) {
	n, err := netip.ParsePrefix(s)
	if one, e := netip.ParseAddr(s); e == nil && one.Zone() == "" {
		n, err = netip.PrefixFrom(one, one.BitLen()), nil
	}
	if err == nil && n.Addr().Is4In6() {
		if n.Bits() < 96 {
			return Subject{}, &Error{fmt.Sprintf("%.60q is more than IPv4 in IPv6", s), ""}
		}
		n = netip.PrefixFrom(n.Addr().Unmap(), n.Bits()-96)
	}
	if err != nil {
		return Subject{}, &Error{fmt.Sprintf("%.60q is no network: write 192.0.2.0/24 or 2001:db8::/32", s), ""}
	}
	return Subject{Network: n.Masked()}, nil
}

func (s Subject) String() string {
	switch {
	case s.Script != "":
		return "script:" + s.Script
	case s.Crontab != "":
		return "crontab:" + s.Crontab
	case s.Network.IsValid():
		return "network:" + s.Network.String()
	}
	return s.Object.String()
}
