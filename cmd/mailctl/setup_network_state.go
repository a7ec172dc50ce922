package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/wrapper"
)

// networkState is what the kernel has of our table.
type networkState struct {
	loaded    bool
	may       []uint32 // in order
	chains    []string // that refuse: "output", "forward"
	refused   []refusedUser
	forwarded []refusedForward
}

// refusedUser is a uid whose connections were refused since the rules were loaded,
// for the last time within networkMemory.
type refusedUser struct {
	Name  string    `json:"name"`
	UID   uint32    `json:"uid"`
	Owner string    `json:"owner"` // of a subordinate uid, "" none
	Count int64     `json:"count"`
	Last  time.Time `json:"last"`
}

// refusedForward is an interface from which connections were refused.
type refusedForward struct {
	Interface string    `json:"interface"`
	Count     int64     `json:"count"`
	Last      time.Time `json:"last"`
}

// is tells whether the kernel has those rules.
func (s *networkState) is(r *networkRules) bool {
	return s.loaded && slices.Equal(s.may, r.uids()) && slices.Equal(s.chains, []string{"forward", "output"})
}

// readNetworkState asks the kernel.
func readNetworkState(ctx context.Context) (*networkState, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var said strings.Builder
	c := exec.CommandContext(ctx, "nft", "-j", "-n", "list", "table", "inet", networkTable)
	c.Stderr = &said
	c.Env = append(os.Environ(), "LC_ALL=C")
	out, err := c.Output()
	if err != nil && strings.Contains(said.String(), "No such file or directory") { // ENOENT of the kernel
		return &networkState{refused: []refusedUser{}, forwarded: []refusedForward{}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("nft -j list table inet %s: %w: %s", networkTable, err, firstLine(said.String()))
	}
	return parseNetworkState(out, time.Now(), origin.UserNames())
}

// nftList is what is looked at in libnftables-json(5).
type nftList struct {
	Nftables []struct {
		Set *struct {
			Name    string
			Timeout int64 // seconds
			Elem    []json.RawMessage
		}
		Chain *struct{ Name, Hook, Policy string }
		Rule  *struct {
			Chain string
			Expr  []map[string]json.RawMessage
		}
	}
}

// nftElement is an element of a set that has more than its value.
type nftElement struct {
	Elem struct {
		Val     json.RawMessage
		Expires int64 // seconds
		Counter struct{ Packets int64 }
	}
}

func parseNetworkState(text []byte, now time.Time, nameOf func(uint32) (name, owner string)) (*networkState, error) {
	var list nftList
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("nft -j: %w", err)
	}
	s := &networkState{loaded: true, refused: []refusedUser{}, forwarded: []refusedForward{}}
	hooks := map[string]string{}   // chain → hook
	leads := map[string][]string{} // chain → chains that it leads to
	refuses := map[string]bool{}   // chain → has a reject
	target := func(raw json.RawMessage) string {
		var to struct{ Target string }
		_ = json.Unmarshal(raw, &to) // "" leads nowhere
		return to.Target
	}
	for _, o := range list.Nftables {
		switch {
		case o.Set != nil:
			if err := s.addSet(o.Set.Name, o.Set.Elem, o.Set.Timeout, now, nameOf); err != nil {
				return nil, fmt.Errorf("nft -j: set %s: %w", o.Set.Name, err)
			}
		case o.Chain != nil:
			hooks[o.Chain.Name] = o.Chain.Hook
		case o.Rule != nil:
			for _, e := range o.Rule.Expr {
				for word, raw := range e {
					switch word {
					case "reject":
						refuses[o.Rule.Chain] = true
					case "jump", "goto":
						leads[o.Rule.Chain] = append(leads[o.Rule.Chain], target(raw))
					}
				}
			}
		}
	}
	var refusing func(chain string, depth int) bool
	refusing = func(chain string, depth int) bool {
		return refuses[chain] || depth > 0 && slices.ContainsFunc(leads[chain], func(to string) bool { return refusing(to, depth-1) })
	}
	for chain, hook := range hooks {
		if hook != "" && refusing(chain, 3) {
			s.chains = append(s.chains, hook)
		}
	}
	slices.Sort(s.chains)
	slices.Sort(s.may)
	slices.SortFunc(s.refused, func(a, b refusedUser) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.UID, b.UID)) })
	slices.SortFunc(s.forwarded, func(a, b refusedForward) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Interface, b.Interface))
	})
	return s, nil
}

func (s *networkState) addSet(name string, elements []json.RawMessage, timeout int64, now time.Time, nameOf func(uint32) (name, owner string)) error {
	for _, raw := range elements {
		e := nftElement{}
		if name == "may_send" {
			e.Elem.Val = raw
		} else if err := json.Unmarshal(raw, &e); err != nil && (name == "refused" || name == "refused_forward") {
			return err
		}
		last := now.Add(-time.Duration(max(timeout-e.Elem.Expires, 0)) * time.Second).Truncate(time.Second)
		var err error
		switch name {
		case "may_send":
			var uid uint32
			err = json.Unmarshal(e.Elem.Val, &uid)
			s.may = append(s.may, uid)
		case "refused":
			u := refusedUser{Count: e.Elem.Counter.Packets, Last: last}
			err = json.Unmarshal(e.Elem.Val, &u.UID)
			u.Name, u.Owner = nameOf(u.UID)
			s.refused = append(s.refused, u)
		case "refused_forward":
			f := refusedForward{Count: e.Elem.Counter.Packets, Last: last}
			err = json.Unmarshal(e.Elem.Val, &f.Interface)
			s.forwarded = append(s.forwarded, f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// networkFindings tells of the network door, for mailctl doctor.
func (a *app) networkFindings(ctx context.Context) []finding {
	const setUp = "mailctl setup network"
	one := func(state findingState, how severity, text, command string) finding {
		return finding{Check: "network-door", State: state, Severity: how, Text: text, Command: command}
	}
	text, err := os.ReadFile(networkFile)
	switch {
	case os.IsNotExist(err):
		return []finding{one(isOpen, mediumSeverity, "every user may connect to ports 25, 465 and 587 of other hosts, and mail that leaves so is not counted", setUp)}
	case err != nil:
		return []finding{one(isUnknown, mediumSeverity, err.Error(), "")}
	}
	if err := needNft(); err != nil {
		_, hint := a.explain(err, nil)
		return []finding{one(isWrong, highSeverity, "the network door is not closed: "+err.Error(), hint)}
	}
	state, err := readNetworkState(ctx)
	if err != nil {
		return []finding{one(isUnknown, highSeverity, "whether the network door is closed cannot be told: "+err.Error(), "")}
	}
	rules := parseNetwork(text)
	var list []finding
	switch {
	case !state.loaded:
		list = append(list, one(isWrong, highSeverity, "the network door is not closed: something has flushed its rules (nft flush ruleset), or "+networkUnit+" was stopped", setUp+" --yes"))
	case !state.is(rules):
		list = append(list, one(isWrong, highSeverity, "the rules of the network door in the kernel are not those of "+networkFile, "systemctl reload-or-restart "+networkUnit))
	case !isEnabled(ctx, networkUnit):
		list = append(list, one(isWrong, highSeverity, "the network door will be open after the next boot: "+networkUnit+" is not enabled", setUp+" --yes"))
	default:
		where := "of other hosts and of this one"
		if rules.LocalSMTP {
			where = "of other hosts (--local-smtp: of this one to all users, whom mailquotad counts)"
		}
		list = append(list, one(isFine, "", fmt.Sprintf("ports 25, 465 and 587 %s, by IPv4 and IPv6, are open to %s alone", where, rules.names()), ""))
	}
	if rules.LocalSMTP && a.loadConfig() == nil {
		conf, _ := wrapper.LoadConfig(a.wrapperConf())
		if err := a.localSMTPAsks(ctx, conf.Profile.Name); err != nil {
			list = append(list, finding{"network-local-smtp", isWrong, highSeverity, err.Error(), "mailctl setup network --local-smtp=false"})
		}
	}
	list = append(list, networkUserFindings(rules, a.firstUserUID())...)
	if f, any := refusals(state); any {
		list = append(list, f)
	}
	return list
}

// firstUserUID is the lowest uid of a customer; what is wrong in the
// configuration others say.
func (a *app) firstUserUID() uint32 {
	if a.loadConfig() != nil {
		return 1000 // login.defs(5), UID_MIN
	}
	return a.config.FirstUserUID
}

// networkUserFindings looks whether names still have the numbers that were written, as
// the kernel goes by numbers, and whether a customer is let through.
func networkUserFindings(rules *networkRules, firstUser uint32) (list []finding) {
	wrong := func(state findingState, how severity, text, command string) {
		list = append(list, finding{"network-users", state, how, text, command})
	}
	for _, u := range rules.Users {
		now, err := user.Lookup(u.Name)
		switch {
		case err != nil:
			who := "nobody now, and whoever gets that number later may connect uncounted"
			if other, err := user.LookupId(strconv.FormatUint(uint64(u.UID), 10)); err == nil {
				who = other.Username + " now, who may connect uncounted"
			}
			wrong(isOpen, mediumSeverity, fmt.Sprintf("the network door is open to uid %d, which was %s and is %s", u.UID, u.Name, who), "mailctl setup network --yes")
		case now.Uid != strconv.FormatUint(uint64(u.UID), 10):
			wrong(isWrong, highSeverity, fmt.Sprintf("the network door is open to uid %d for %s, whose uid is %s now: its mail is refused", u.UID, u.Name, now.Uid), "mailctl setup network --yes")
		case u.UID >= firstUser && slices.Contains(rules.allow, u.Name):
			wrong(isOpen, mediumSeverity, fmt.Sprintf("the network door is open to %s, an ordinary user: what its programs send by SMTP is not counted", u.Name), "mailctl setup network --allow '"+strings.Join(without(rules.allow, u.Name), ",")+"' --yes")
		}
	}
	for _, name := range doorUsers {
		u, err := user.Lookup(name)
		if err == nil && !slices.ContainsFunc(rules.Users, func(n networkUser) bool { return strconv.FormatUint(uint64(n.UID), 10) == u.Uid }) {
			wrong(isWrong, highSeverity, fmt.Sprintf("the network door is closed to %s, who was not there when it was set up: its mail is refused", name), "mailctl setup network --yes")
		}
	}
	return list
}

func without(list []string, word string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == word })
}

// refusals tells who tries.
func refusals(state *networkState) (finding, bool) {
	const most = 5
	var all []string
	for _, r := range state.refused {
		who := r.Name
		if r.Owner != "" {
			who = fmt.Sprintf("uid %d of %s", r.UID, r.Owner)
		}
		all = append(all, fmt.Sprintf("%s %d times", who, r.Count))
	}
	for _, f := range state.forwarded {
		all = append(all, fmt.Sprintf("containers at %s %d times", f.Interface, f.Count))
	}
	if len(all) == 0 {
		return finding{}, false
	}
	text := "in the last 7 days the network door refused " + strings.Join(all[:min(len(all), most)], ", ")
	if len(all) > most {
		text += fmt.Sprintf(" and %d others", len(all)-most)
	}
	return finding{Check: "network-refused", State: isFine, Text: text}, true
}
