package quota

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"sendmail-wrapper/origin"
)

// TestMatch: which mail a block or white list is of.
func TestMatch(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	user, domain, subscription := ID(User)<<40|1, ID(Domain)<<40|2, ID(Subscription)<<40|3
	customer := []target{{ID: user, Object: Object{User, "alice"}}, {ID: domain, Object: Object{Domain, "a.example"}},
		{ID: subscription, Object: Object{Subscription, "alice"}}, serverTarget}
	script := func(path string, proof origin.Proof) Message {
		return Message{Origin: origin.Origin{UID: 1001, Script: origin.Fact{Value: path, Proof: proof}}}
	}
	include := Message{Origin: origin.Origin{Include: origin.Fact{Value: "mailer.php", Proof: origin.Claimed}}}
	cron := func(proof origin.Proof) Message {
		return Message{Origin: origin.Origin{Crontab: origin.Fact{Value: "/etc/crontab:5 * * * * * wget -q http://x.example/", Proof: proof}}}
	}
	client := func(address string) Message { return Message{Client: netip.MustParseAddr(address)} }
	network := func(prefix string) Exception { return Exception{Network: netip.MustParsePrefix(prefix)} }
	for _, c := range []struct {
		name        string
		exception   Exception
		message     Message
		block, pass bool // as a block, and on the white list
	}{
		{"the user", Exception{Object: user}, Message{}, true, true},
		{"his domain", Exception{Object: domain}, Message{}, true, true},
		{"his subscription", Exception{Object: subscription}, Message{}, true, true},
		{"another object", Exception{Object: user + 1}, Message{}, false, false},
		{"until later", Exception{Object: user, Until: now.Add(1)}, Message{}, true, true},
		{"until now", Exception{Object: user, Until: now}, Message{}, false, false},
		{"the script, proved", Exception{Script: "/home/alice/x.php"}, script("/home/alice/x.php", origin.System), true, true},
		{"the script, claimed", Exception{Script: "/home/alice/x.php"}, script("/home/alice/x.php", origin.Claimed), true, false},
		{"by another way", Exception{Script: "/home/alice/x.php"}, script("/home/bob/../alice//x.php", origin.System), true, true},
		{"a longer name", Exception{Script: "/home/alice/x.php"}, script("/home/alice/x.php5", origin.System), false, false},
		{"no directory, as it has no slash", Exception{Script: "/home/alice"}, script("/home/alice/x.php", origin.System), false, false},
		{"below a directory", Exception{Script: "/home/alice/"}, script("/home/alice/www/wp/x.php", origin.System), true, true},
		{"the directory by another way", Exception{Script: "/home/./alice//"}, script("/home/alice/x.php", origin.System), true, true},
		{"out of the directory again", Exception{Script: "/home/alice/"}, script("/home/alice/../bob/x.php", origin.System), false, false},
		{"a directory beside it", Exception{Script: "/home/alice/"}, script("/home/alice2/x.php", origin.System), false, false},
		{"all scripts", Exception{Script: "/"}, script("/x.php", origin.System), true, true},
		{"no script", Exception{Script: "/"}, Message{}, false, false},
		{"by its base name", Exception{Script: "mailer.php"}, include, true, false},
		{"a script's words of a mailbox", Exception{Script: "/x.php"}, func() Message { m := script("/x.php", origin.System); m.Mailbox = "a@a.example"; return m }(), false, false},
		{"in a crontab line, proved", Exception{Crontab: "wget -q"}, cron(origin.System), true, true},
		{"in a crontab line, claimed", Exception{Crontab: "wget -q"}, cron(origin.Claimed), true, false},
		{"not in the line", Exception{Crontab: "curl"}, cron(origin.System), false, false},
		{"no job of cron", Exception{Crontab: "wget"}, Message{}, false, false},
		{"in the network", network("192.0.2.0/24"), client("192.0.2.77"), true, true},
		{"beside it", network("192.0.2.0/24"), client("192.0.3.77"), false, false},
		{"the address itself", network("192.0.2.77/32"), client("192.0.2.77"), true, true},
		{"written with host bits", network("192.0.2.1/24"), client("192.0.2.77"), true, true},
		{"mapped into IPv6", network("192.0.2.0/24"), client("::ffff:192.0.2.77"), true, true},
		{"of IPv6", network("2001:db8::/32"), client("2001:db8:7::1"), true, true},
		{"of the other family", network("::/0"), client("192.0.2.77"), false, false},
		{"no address", network("0.0.0.0/0"), Message{}, false, false},
	} {
		r := &route{Targets: customer, Mode: Enforce}
		c.exception.Kind = Block
		if _, blocked, _ := newRules(Enforce, []Exception{c.exception}).judge(&c.message, r, now); (blocked != nil) != c.block {
			t.Errorf("%s: blocked %v", c.name, blocked != nil)
		}
		c.exception.Kind = Whitelist
		if mode, _, _ := newRules(Enforce, []Exception{c.exception}).judge(&c.message, r, now); (mode == Off) != c.pass {
			t.Errorf("%s: white list %v", c.name, mode == Off)
		}
	}
}

// TestBlockTexts: what a caller is told, by the block that holds longest.
func TestBlockTexts(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	alice := ID(Subscription)<<40 | 3
	r := &route{Targets: []target{{ID: alice, Object: Object{Subscription, "alice"}}, serverTarget}}
	m := Message{Origin: origin.Origin{Script: origin.Fact{Value: "/home/alice/x.php", Proof: origin.Claimed}, Crontab: origin.Fact{Value: "wget x", Proof: origin.Claimed}}}
	for _, c := range []struct {
		exceptions []Exception
		object     Object
		want       string
	}{
		{[]Exception{{Object: alice}}, Object{Subscription, "alice"}, "subscription alice is blocked by the administrator"},
		{[]Exception{{Object: ServerID}}, Object{Class: Server}, "server is blocked by the administrator"},
		{[]Exception{{Script: "/home/alice/"}}, Object{}, "script /home/alice/ is blocked by the administrator"},
		{[]Exception{{Crontab: "wget"}}, Object{}, `crontab line with "wget" is blocked by the administrator`},
		{[]Exception{{Object: alice, Until: now.Add(time.Hour)}, {Object: alice, Until: now.Add(2 * time.Hour)}, {Object: alice, Until: now.Add(-time.Hour)}},
			Object{Subscription, "alice"}, "subscription alice is blocked by the administrator; until 2026-11-28 14:00 UTC"},
		{[]Exception{{Object: alice, Until: now.Add(time.Hour)}, {Script: "/home/alice/x.php"}}, Object{}, "script /home/alice/x.php is blocked by the administrator"},
	} {
		for i := range c.exceptions {
			c.exceptions[i].Kind = Block
		}
		d := newRules(Enforce, c.exceptions).decide(&m, r, nil, 80, now)
		if d.Refusal == nil {
			t.Errorf("not blocked: want %s", c.want)
			continue
		}
		if d.Refusal.Text() != c.want || d.Refusal.By() != c.want || d.Refusal.Object != c.object {
			t.Errorf("%s: %+v", c.want, d.Refusal)
		}
		if d.Refusal.Code() != "554 5.7.1" || d.Refusal.Exit(false) != 69 || d.Events != nil {
			t.Errorf("%s: %s, events %v", c.want, d.Refusal.Code(), d.Events)
		}
	}
	if d := newRules(Enforce, []Exception{{Kind: Block, Object: alice}}).decide(&Message{Forbidden: "no"}, r, nil, 0, now); d.Refusal.Blocked || d.Refusal.Reason != "no" {
		t.Errorf("what is forbidden comes first: %+v", d.Refusal)
	}
}

func BenchmarkJudge(b *testing.B) {
	r := &route{Targets: []target{{ID: 1}, {ID: 2}, {ID: 3}, serverTarget}, Mode: Enforce}
	m := Message{Client: netip.MustParseAddr("192.0.2.1"), Origin: origin.Origin{Script: origin.Fact{Value: "/home/alice/www/wp-content/plugins/x/y.php", Proof: origin.System}}}
	for _, n := range []int{0, 1, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var list []Exception
			for i := range n {
				list = append(list, Exception{Kind: Block, Object: ID(100 + i)}, Exception{Kind: Whitelist, Script: fmt.Sprintf("/home/%d/", i)},
					Exception{Kind: Whitelist, Network: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)})
			}
			holds := newRules(Enforce, list)
			now := time.Now()
			for b.Loop() {
				holds.judge(&m, r, now)
			}
		})
	}
}
