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
		return parseScript(rest)
	case word == "crontab":
		if len(rest) < 4 || len(rest) > 1000 || strings.ContainsFunc(rest, unicode.IsControl) {
			return Subject{}, &Error{fmt.Sprintf("%.60q cannot be part of a crontab line: write 4 to 1000 bytes on one line", rest), ""}
		}
		return Subject{Crontab: rest}, nil
	case word == "network" && kind == quota.Whitelist:
		return parseNetwork(rest)
	}
	o, err := quota.ParseObject(s)
	if err != nil || o.Class == quota.Server || o.Class == quota.Plan {
		forms := "user:, mailbox:, domain:, subscription:, script:PATH or crontab:TEXT"
		if kind == quota.Whitelist {
			forms += " or network:CIDR"
		}
		return Subject{}, &Error{fmt.Sprintf("%.60q cannot be the subject of a %s: write %s", s, kind, forms), ""}
	}
	return Subject{Object: o}, nil
}

// parseScript reads a path; with / at its end it is all below a directory.
func parseScript(s string) (Subject, error) {
	clean := s == path.Clean(s) || strings.HasSuffix(s, "/") && s[:len(s)-1] == path.Clean(s)
	if len(s) < 2 || s[0] != '/' || len(s) > 4096 || !clean || strings.ContainsFunc(s, unicode.IsControl) {
		return Subject{}, &Error{fmt.Sprintf("%.60q is no path of a script: write an absolute one without . and .., or a directory with / at its end", s), ""}
	}
	return Subject{Script: s}, nil
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
