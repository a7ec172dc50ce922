package main

import (
	"bytes"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// allRules has something of everything.
func allRules() *networkRules {
	return &networkRules{
		Users:     []networkUser{{"postfix", 102}, {"Debian-exim", 4242}, {"web-1", 33}},
		Addresses: []netip.Prefix{netip.MustParsePrefix("172.18.0.0/16"), netip.MustParsePrefix("172.18.0.5/32"), netip.MustParsePrefix("fd00::/64")},
		LocalSMTP: true, Uplinks: []string{"eth0", "vmbr0.5"}, GroupOf: 110,
		allow: []string{"web-1", "172.18.0.0/16", "172.18.0.5", "fd00::/64"},
	}
}

// inNetwork runs a script in a network of its own, with the rules as its input, and
// returns what it writes.
func inNetwork(t *testing.T, rules *networkRules, script string) []byte {
	t.Helper()
	args := []string{"-n", "bash", "-euc", script}
	if os.Geteuid() != 0 {
		args[0] = "-rn"
	}
	c := exec.Command("unshare", args...)
	c.Stdin = bytes.NewReader(rules.text())
	c.Stderr = t.Output()
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return out
}

func names(uid uint32) (name, owner string) {
	if uid == 0 {
		return "root", ""
	}
	return "#", "alice"
}

// TestNetworkRules: the kernel takes them, twice as well, and what is read back from it is
// what was written, and who was refused.
func TestNetworkRules(t *testing.T) {
	const list = "nft -j -n list table inet mailquota"
	load := "ip link set lo up; cat >/dev/null; " // one that reads no rules
	for _, c := range []struct {
		what, script string
		rules        *networkRules
		is           bool
		refused      int64 // attempts of root, who is in no set here
	}{
		{"all", "nft -f -; " + list, allRules(), true, 0},
		{"twice", `rules=$(cat); nft -f - <<<"$rules"; nft -c -f - <<<"$rules"; nft -f - <<<"$rules"; ` + list, allRules(), true, 0},
		{"beside others", "nft add table inet filter; nft add chain inet filter output; nft -f -; nft list chain inet filter output >&2; " + list, allRules(), true, 0},
		{"to this host", "ip link set lo up; nft -f -; for port in 25 587 2525; do ! (exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null; done; " + list, &networkRules{Users: []networkUser{{"x", 1}}}, true, 2},
		{"--local-smtp", "ip link set lo up; nft -f -; ! (exec 3<>/dev/tcp/127.0.0.1/25) 2>/dev/null; " + list, &networkRules{LocalSMTP: true, Users: []networkUser{{"x", 1}}}, true, 0},
		{"a user more", "nft -f -; nft add element inet mailquota may_send { 1001 }; " + list, allRules(), false, 0},
		{"no users", "nft -f -; nft flush set inet mailquota may_send; " + list, allRules(), false, 0},
		{"a chain emptied", "nft -f -; nft flush chain inet mailquota refuse_forward; " + list, allRules(), false, 0},
		{"a hook emptied", "nft -f -; nft flush chain inet mailquota output; " + list, allRules(), false, 0},
		{"another's table of that name", load + "nft add table inet mailquota; " + list, allRules(), false, 0},
	} {
		state, err := parseNetworkState(inNetwork(t, c.rules, c.script), time.Now(), names)
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		if got := state.is(c.rules); got != c.is {
			t.Errorf("%s: as the file: %v, want %v: %+v", c.what, got, c.is, state)
		}
		var refused int64
		for _, r := range state.refused {
			refused += r.Count
			if r.Name != "root" || time.Since(r.Last) > time.Minute {
				t.Errorf("%s: %+v", c.what, r)
			}
		}
		if refused != c.refused {
			t.Errorf("%s: %d were refused, want %d", c.what, refused, c.refused)
		}
	}
}

// TestParseNetwork: what a file says is what was chosen.
func TestParseNetwork(t *testing.T) {
	r := allRules()
	got := parseNetwork(r.text())
	if !slices.Equal(got.Users, r.Users) || got.LocalSMTP != r.LocalSMTP || !slices.Equal(got.allow, r.allow) {
		t.Errorf("got %+v, want %+v", got, r)
	}
	if got := parseNetwork((&networkRules{}).text()); got.LocalSMTP || len(got.allow)+len(got.Users) > 0 {
		t.Errorf("nothing chosen: %+v", got)
	}
}

// TestNetworkState: elements with and without a counter.
func TestNetworkState(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	const text = `{"nftables": [{"metainfo": {"version": "1.0.6"}},
{"set": {"name": "may_send", "type": "uid", "elem": [102, 0]}},
{"set": {"name": "may_forward4", "elem": [{"prefix": {"addr": "172.18.0.0", "len": 16}}, "10.0.0.1"]}},
{"set": {"name": "refused", "timeout": 604800, "elem": [{"elem": {"val": 0, "expires": 604800, "counter": {"packets": 2, "bytes": 124}}},
 {"elem": {"val": 100004, "expires": 601200, "counter": {"packets": 7, "bytes": 1}}}]}},
{"set": {"name": "refused_forward", "timeout": 604800, "elem": [{"elem": {"val": "br0", "expires": 604799, "counter": {"packets": 3}}}]}}]}`
	s, err := parseNetworkState([]byte(text), now, names)
	if err != nil {
		t.Fatal(err)
	}
	want := &networkState{loaded: true, may: []uint32{0, 102},
		refused:   []refusedUser{{"#", 100004, "alice", 7, now.Add(-time.Hour)}, {"root", 0, "", 2, now}},
		forwarded: []refusedForward{{"br0", 3, now.Add(-time.Second)}}}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got %+v, want %+v", s, want)
	}
	const told = "in the last 7 days the network door refused uid 100004 of alice 7 times, root 2 times, containers at br0 3 times"
	if f, any := refusals(s); !any || f.Text != told || f.State != isFine {
		t.Errorf("refusals: %+v, want %q", f, told)
	}
	for _, wrong := range []string{"", "{", `{"nftables": [{"set": {"name": "refused", "elem": ["x"]}}]}`, `{"nftables": [{"set": {"name": "may_send", "elem": ["postfix"]}}]}`} {
		if _, err := parseNetworkState([]byte(wrong), now, names); err == nil {
			t.Errorf("%q is understood", wrong)
		}
	}
}

// TestNetworkUsers: the kernel goes by numbers, and people by names.
func TestNetworkUsers(t *testing.T) {
	for _, c := range []struct {
		users []networkUser
		allow []string
		state findingState
		text  string // of the finding about these
	}{
		{[]networkUser{{"root", 0}}, nil, "", ""},
		{[]networkUser{{"daemon", 2}}, nil, isWrong, "open to uid 2 for daemon, whose uid is 1 now"},
		{[]networkUser{{"no-such-user", 1}}, nil, isOpen, "open to uid 1, which was no-such-user and is daemon now"},
		{[]networkUser{{"no-such-user", 3999999999}}, nil, isOpen, "is nobody now"},
		{[]networkUser{{"nobody", 65534}}, []string{"nobody"}, isOpen, "open to nobody, an ordinary user"},
		{[]networkUser{{"nobody", 65534}}, nil, "", ""}, // of trusted-users
		{nil, nil, isWrong, "closed to root, who was not there"},
	} {
		var about []finding
		for _, f := range networkUserFindings(&networkRules{Users: c.users, allow: c.allow}, 1000) {
			if len(c.users) == 0 || !strings.Contains(f.Text, "closed to") {
				about = append(about, f)
			}
		}
		switch {
		case c.state == "" && len(about) == 0:
		case c.state == "" || len(about) == 0 || about[0].State != c.state || !strings.Contains(about[0].Text, c.text) || about[0].Command == "":
			t.Errorf("%v: %+v, want %s %q", c.users, about, c.state, c.text)
		}
	}
}

// TestUplinks: the interfaces of default routes, each once.
func TestUplinks(t *testing.T) {
	const route = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
		"vmbr0\t00000000\t0164A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
		"wg0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n" + // 0.0.0.0/1
		"docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
	const route6 = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n" +
		"00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003    vmbr0\n" +
		"00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n" +
		"fd770000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001      br7\n"
	if got := uplinks(route, route6); !slices.Equal(got, []string{"eth0", "vmbr0"}) {
		t.Errorf("got %q", got)
	}
	if got := uplinks("", "a\n\n"); len(got) > 0 {
		t.Errorf("of nothing: %q", got)
	}
	if got := uplinks("a\"b\t00000000\t0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n", ""); len(got) > 0 {
		t.Errorf("a name that nft would read otherwise: %q", got)
	}
}

func TestParsePrefix(t *testing.T) {
	for in, want := range map[string]string{"10.0.0.5": "10.0.0.5/32", "10.0.0.5/8": "10.0.0.0/8", "fd00::5": "fd00::5/128",
		"fd00::5/64": "fd00::/64", "::ffff:10.0.0.5": "10.0.0.5/32", "alice": "", "10.0.0": "", "fe80::1%eth0": "", "10.0.0.5/33": "", "": ""} {
		got, ok := parsePrefix(in)
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%q: %v, %v", in, got, ok)
		}
	}
}
