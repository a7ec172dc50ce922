package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// networkRules is what the file of mailctl setup network says.
type networkRules struct {
	Users     []networkUser  // whose connections pass
	Addresses []netip.Prefix // of containers and virtual machines whose connections pass
	LocalSMTP bool           // connections to this host's own addresses pass
	Uplinks   []string       // interfaces of default routes: what comes in there is no container's
	GroupOf   uint32         // of Sendmail's submission program, 0 none

	allow []string // what --allow said, to be kept by the next set-up
}

// networkUser is a user by name and by the number that the kernel knows.
type networkUser struct {
	Name string `json:"name"`
	UID  uint32 `json:"uid"`
}

const (
	networkHead   = "# Made by mailctl setup network"
	networkAllow  = "# --allow "
	networkLocal  = "# --local-smtp"
	networkTable  = "mailquota"
	networkMemory = "7d" // how long a refusal is told of
)

// text is the file, for nft(8). It is one transaction, in which nothing but our table goes
// and comes (nft(8), -f), so that no connection meets a moment without rules.
//
//   - A connection begins with a SYN, so that is looked at, and not the state that conntrack
//     has of it: rules "notrack" of others would be a way past, and connections that are
//     there already stay.
//   - What is asked is who made the socket (meta skuid is the fsuid at socket(2)), which a
//     user namespace does not change: subordinate uids are numbers in no set. A socket without
//     a user, as the kernel makes for AF_SMC, matches no skuid and is refused.
//   - MPTCP (protocol 262) is TCP here.
//   - "update" of a full set ends its rule: therefore the reject is a rule of its own.
func (r *networkRules) text() []byte {
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("%s, which writes it anew: what is changed by hand is lost. Loaded by", networkHead)
	p("# mailquota-network.service, taken away by mailctl setup network --remove.")
	if len(r.allow) > 0 {
		p("%s%s", networkAllow, strings.Join(r.allow, ","))
	}
	if r.LocalSMTP {
		p("%s", networkLocal)
	}
	p("")
	p("table inet %s", networkTable)
	p("delete table inet %s", networkTable)
	p("table inet %s {", networkTable)
	p("\tset may_send {")
	p("\t\ttype uid")
	p("\t\telements = {")
	for _, u := range r.Users {
		p("\t\t\t%d, # %s", u.UID, u.Name)
	}
	p("\t\t}")
	p("\t}")
	for _, f := range []struct {
		set, kind string
		is4       bool
	}{{"may_forward4", "ipv4_addr", true}, {"may_forward6", "ipv6_addr", false}} {
		p("\tset %s {", f.set)
		p("\t\ttype %s", f.kind)
		p("\t\tflags interval")
		p("\t\tauto-merge")
		var list []string
		for _, a := range r.Addresses {
			if a.Addr().Is4() == f.is4 {
				list = append(list, a.String())
			}
		}
		if len(list) > 0 {
			p("\t\telements = { %s }", strings.Join(list, ", "))
		}
		p("\t}")
	}
	for _, s := range [][2]string{{"refused", "uid"}, {"refused_forward", "ifname"}} {
		p("\tset %s {", s[0])
		p("\t\ttype %s", s[1])
		p("\t\tsize 65535")
		p("\t\tflags dynamic, timeout")
		p("\t\ttimeout %s", networkMemory)
		p("\t\tcounter")
		p("\t}")
	}
	const begins = "tcp dport { 25, 465, 587 } tcp flags & (syn | ack) == syn"
	p("\tchain output {")
	p("\t\ttype filter hook output priority filter; policy accept;")
	p("\t\t%s jump from_here", begins)
	p("\t}")
	p("\tchain from_here {")
	p("\t\tmeta skuid @may_send accept")
	if r.GroupOf != 0 {
		p("\t\tfib daddr type local meta skgid %d accept # sendmail(8) hands over as its caller, setgid", r.GroupOf)
	}
	if r.LocalSMTP {
		p("\t\tfib daddr type local accept # the mail server here asks mailquotad")
	}
	p("\t\tupdate @refused { meta skuid }")
	p("\t\tcounter reject with tcp reset")
	p("\t}")
	p("\tchain forward {")
	p("\t\ttype filter hook forward priority filter; policy accept;")
	p("\t\t%s jump from_others", begins)
	p("\t}")
	p("\tchain from_others {")
	if len(r.Uplinks) > 0 {
		p("\t\tiifname { %s } accept # mail for a mail server in a container", `"`+strings.Join(r.Uplinks, `", "`)+`"`)
	}
	p("\t\tip saddr @may_forward4 accept")
	p("\t\tip6 saddr @may_forward6 accept")
	p("\t\tmeta iifkind { \"bridge\", \"veth\" } goto refuse_forward # containers, virtual machines")
	p("\t\tmeta iifkind \"tun\" meta iiftype ether goto refuse_forward # tap: virtual machines")
	p("\t}")
	p("\tchain refuse_forward {")
	p("\t\tupdate @refused_forward { meta iifname }")
	p("\t\tcounter reject with tcp reset")
	p("\t}")
	p("}")
	return b.Bytes()
}

var networkElement = regexp.MustCompile(`^\t\t\t(\d+), # (\S+)$`)

// parseNetwork reads back what was chosen and which numbers were written.
func parseNetwork(text []byte) *networkRules {
	r := new(networkRules)
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if list, ok := strings.CutPrefix(line, networkAllow); ok {
			r.allow = strings.Split(list, ",")
		}
		if line == networkLocal {
			r.LocalSMTP = true
		}
		if m := networkElement.FindStringSubmatch(line); m != nil {
			if uid, err := strconv.ParseUint(m[1], 10, 32); err == nil {
				r.Users = append(r.Users, networkUser{m[2], uint32(uid)})
			}
		}
	}
	return r
}

func (r *networkRules) uids() []uint32 {
	var all []uint32
	for _, u := range r.Users {
		all = append(all, u.UID)
	}
	slices.Sort(all)
	return all
}

func (r *networkRules) names() string {
	var all []string
	for _, u := range r.Users {
		all = append(all, u.Name)
	}
	return strings.Join(all, ", ")
}

// interfaceName is a name that needs no care in nft(8).
var interfaceName = regexp.MustCompile(`^[A-Za-z0-9_.@-]{1,15}$`)

// uplinks are the interfaces of default routes, from /proc/net/route and
// /proc/net/ipv6_route (proc(5)).
func uplinks(route, route6 string) []string {
	var all []string
	add := func(name string) {
		if name != "lo" && interfaceName.MatchString(name) && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	for line := range strings.Lines(route) {
		// Iface Destination Gateway Flags RefCnt Use Metric Mask …
		if f := strings.Fields(line); len(f) >= 8 && f[1] == "00000000" && f[7] == "00000000" {
			add(f[0])
		}
	}
	for line := range strings.Lines(route6) {
		// destination, its length, source, its length, next hop, metric, …, device
		if f := strings.Fields(line); len(f) == 10 && f[1] == "00" && isZero(f[0]) {
			add(f[9])
		}
	}
	slices.Sort(all)
	return all
}

func isZero(digits string) bool {
	b, err := hex.DecodeString(digits)
	return err == nil && !slices.ContainsFunc(b, func(c byte) bool { return c != 0 })
}
