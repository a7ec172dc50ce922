package quota_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/tests/testpg"
)

// TestWhichDomain: a proved site or script decides; a claim never does, and a
// domain of another subscription is never charged.
func TestWhichDomain(t *testing.T) {
	store, pool := newStore(t)
	_, alice, _, err := store.EnsureUser(t.Context(), 1001, "alice")
	if err != nil {
		t.Fatal(err)
	}
	_, bob, _, err := store.EnsureUser(t.Context(), 1002, "bob")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []struct {
		subscription quota.ID
		name, root   string
	}{{alice, "a.example", "/home/alice/a/"}, {alice, "b.example", "/home/alice/a/b"}, {bob, "bob.example", "/home/bob"}} {
		if _, err := pool.Exec(t.Context(), `INSERT INTO domain (subscription_id, name, document_root) VALUES ($1, $2, $3)`, d.subscription, d.name, d.root); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name         string
		uid          uint32
		user         string
		site, script origin.Fact
		domain       string
	}{
		{"nothing known", 1001, "alice", origin.Fact{}, origin.Fact{}, ""},
		{"claimed site", 1001, "alice", origin.Fact{Value: "a.example", Proof: origin.Claimed}, origin.Fact{}, ""},
		{"proved site", 1001, "alice", origin.Fact{Value: "a.example", Proof: origin.System}, origin.Fact{}, "a.example"},
		{"another's site", 1001, "alice", origin.Fact{Value: "bob.example", Proof: origin.System}, origin.Fact{}, ""},
		{"proved script", 1001, "alice", origin.Fact{}, origin.Fact{Value: "/home/alice/a/x.php", Proof: origin.System}, "a.example"},
		{"site and script that disagree", 1001, "alice", origin.Fact{Value: "a.example", Proof: origin.System}, origin.Fact{Value: "/home/alice/a/b/x.php", Proof: origin.System}, "a.example"},
		{"a site in capitals", 1001, "alice", origin.Fact{Value: "A.Example", Proof: origin.System}, origin.Fact{}, "a.example"},
		{"a site that is no domain", 1001, "alice", origin.Fact{Value: "alice", Proof: origin.System}, origin.Fact{Value: "/home/alice/a/b/x.php", Proof: origin.System}, "b.example"},
		{"another's script", 1001, "alice", origin.Fact{}, origin.Fact{Value: "/home/bob/x.php", Proof: origin.Kernel}, ""},
		{"the deeper document root", 1001, "alice", origin.Fact{}, origin.Fact{Value: "/home/alice/a/b/x.php", Proof: origin.System}, "b.example"},
		{"a directory of a longer name", 1001, "alice", origin.Fact{}, origin.Fact{Value: "/home/alice/another/x.php", Proof: origin.System}, ""},
		{"claimed script", 1001, "alice", origin.Fact{}, origin.Fact{Value: "/home/alice/a/x.php", Proof: origin.Claimed}, ""},
		{"the only domain", 1002, "bob", origin.Fact{}, origin.Fact{}, "bob.example"},
	} {
		m := message(c.uid, c.user, 1)
		m.Origin.Site, m.Origin.Script = c.site, c.script
		decisions, err := store.Decide(t.Context(), []quota.Message{m})
		if err != nil {
			t.Fatal(err)
		}
		if got := decisions[0].Domain; got != c.domain {
			t.Errorf("%s: charged to domain %q, want %q", c.name, got, c.domain)
		}
	}
	prove(t, store, pool)
}

// customers makes subscriptions with a domain each, and returns their ids.
func customers(t *testing.T, store *quota.Store, names ...string) (ids []quota.ID) {
	t.Helper()
	for i, name := range names {
		_, id, _, err := store.EnsureUser(t.Context(), uint32(1001+i), name)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

func vhost(uid uint32, user string, kind origin.Kind, site origin.Fact) quota.Message {
	m := message(uid, user, 1)
	m.Origin.Kind, m.Origin.KindProof, m.Origin.Site = kind, origin.Kernel, site
	return m
}

// TestVirtualHost: below first-user-uid, and with mod_php and CGI only, a proved site
// says whose mail it is; nothing else ever charges another subscription.
func TestVirtualHost(t *testing.T) {
	database := testpg.New(t)
	owner := connect(t, database)
	store := newStoreOn(t, testpg.As(database, "mailquotad"))
	ids := customers(t, store, "alice", "bob")
	for i, name := range []string{"alice", "bob"} {
		if _, err := owner.Exec(t.Context(), `INSERT INTO domain (subscription_id, name, document_root) VALUES ($1, $2, $3)`, ids[i], name+".example", "/var/www/"+name); err != nil {
			t.Fatal(err)
		}
	}
	proved, claimed := origin.Fact{Value: "bob.example", Proof: origin.System}, origin.Fact{Value: "bob.example", Proof: origin.Claimed}
	inBob := origin.Fact{Value: "/var/www/bob/x.php", Proof: origin.System}
	for _, tt := range []struct {
		name         string
		uid          uint32
		user         string
		kind         origin.Kind
		site, script origin.Fact
		domain, to   string
	}{
		{"a proved virtual host", 33, "www-data", origin.ModPHP, proved, origin.Fact{}, "bob.example", "bob"},
		{"and a script", 33, "www-data", origin.ModPHP, proved, origin.Fact{Value: "/var/www/alice/x.php", Proof: origin.System}, "bob.example", "bob"},
		{"by the kernel", 33, "www-data", origin.ModPHP, origin.Fact{Value: "Bob.Example", Proof: origin.Kernel}, inBob, "bob.example", "bob"},
		{"a claimed one", 33, "www-data", origin.ModPHP, claimed, origin.Fact{}, "", "www-data"},
		{"a claimed one and a proved script", 33, "www-data", origin.ModPHP, claimed, inBob, "", "www-data"},
		{"one that is no domain", 33, "www-data", origin.ModPHP, origin.Fact{Value: "carol.example", Proof: origin.System}, origin.Fact{}, "", "www-data"},
		{"php-cgi of the web server's user", 33, "www-data", origin.PHPCGI, proved, inBob, "bob.example", "bob"},
		{"CGI of the web server's user", 33, "www-data", origin.CGI, proved, origin.Fact{}, "bob.example", "bob"},
		{"CGI with a claimed site", 33, "www-data", origin.CGI, claimed, inBob, "", "www-data"},
		{"CGI of a customer's own uid", 1001, "alice", origin.CGI, proved, inBob, "alice.example", "alice"},
		{"a pool of the web server's user", 33, "www-data", origin.PHPFPM, proved, inBob, "", "www-data"},
		{"a customer's own uid", 1001, "alice", origin.ModPHP, proved, inBob, "alice.example", "alice"},
		{"the last uid below the customers'", 999, "httpd", origin.ModPHP, proved, origin.Fact{}, "bob.example", "bob"},
		{"the first of the customers'", 1000, "carol", origin.ModPHP, proved, inBob, "", "carol"},
		{"nobody", 65534, "nobody", origin.ModPHP, proved, inBob, "", "nobody"},
	} {
		for _, by := range []string{"the database", "memory"} { // what was remembered of others, too
			m := vhost(tt.uid, tt.user, tt.kind, tt.site)
			m.Origin.Script = tt.script
			decisions, err := store.Decide(t.Context(), []quota.Message{m})
			if err != nil {
				t.Fatal(err)
			}
			if d := decisions[0]; d.Domain != tt.domain || d.Subscription != tt.to {
				t.Errorf("%s, by %s: charged to domain %q of %q, want %q of %q", tt.name, by, d.Domain, d.Subscription, tt.domain, tt.to)
			}
			var user string
			var own bool
			err = owner.QueryRow(t.Context(), `SELECT u.name, m.subscription_id = u.subscription_id FROM messages m JOIN system_user u ON u.id = m.user_id WHERE m.id = $1`, m.ID).Scan(&user, &own)
			if err != nil || user != tt.user || own != (tt.to == tt.user) {
				t.Errorf("%s: the row has user %q, of the subscription it was charged to: %v; %v", tt.name, user, own, err)
			}
		}
	}
	m := vhost(33, "www-data", origin.ModPHP, proved)
	m.Origin.KindProof = origin.Claimed
	if decisions, err := store.Decide(t.Context(), []quota.Message{m}); err != nil || decisions[0].Subscription != "www-data" {
		t.Errorf("a claimed kind: %+v, %v", decisions, err)
	}
	prove(t, store, owner)
}

// TestVirtualHostLimits: a site's mail is refused by the limits of its domain and
// subscription, and not by those of the web server's user, whose mode is off;
// unless he was moved to another plan.
func TestVirtualHostLimits(t *testing.T) {
	store, pool := newStore(t)
	ids := customers(t, store, "alice", "bob")
	for i, name := range []string{"alice.example", "bob.example"} {
		if _, err := pool.Exec(t.Context(), `INSERT INTO domain (subscription_id, name) VALUES ($1, $2)`, ids[i], name); err != nil {
			t.Fatal(err)
		}
	}
	setLimit(t, pool, quota.ServerID, quota.User, "messages_hour", 1)
	setLimit(t, pool, ids[1], quota.Subscription, "messages_hour", 3)
	send := func(site string) string {
		t.Helper()
		decisions, err := store.Decide(t.Context(), []quota.Message{vhost(33, "www-data", origin.ModPHP, origin.Fact{Value: site, Proof: origin.System})})
		if err != nil {
			t.Fatal(err)
		}
		if r := decisions[0].Refusal; r != nil {
			return r.By()
		}
		return "accepted"
	}
	expect := func(site string, want ...string) {
		t.Helper()
		var got []string
		for range want {
			got = append(got, send(site))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", site, diff)
		}
	}
	yes := "accepted"
	expect("bob.example", yes, yes, yes, "subscription:bob messages/hour")
	expect("alice.example", yes, yes, yes, yes)
	expect("none.example", yes, yes)
	if n := used(t, store, "user:www-data", "messages/hour"); n != 9 {
		t.Errorf("%d counted for www-data, want 9", n)
	}
	if n := used(t, store, "subscription:www-data", "messages/hour"); n != 2 {
		t.Errorf("%d counted for the subscription www-data, want 2", n)
	}
	prove(t, store, pool)
	if _, err := pool.Exec(t.Context(), `UPDATE subscription SET plan_id = (SELECT id FROM plan WHERE name = 'default') WHERE name = 'www-data'`); err != nil {
		t.Fatal(err)
	}
	expect("alice.example", "user:www-data messages/hour")
	prove(t, store, pool)
}

// TestScriptsAreRemembered: where the script does not matter, another one asks
// the database for nothing; where it does, each has its own domain.
func TestScriptsAreRemembered(t *testing.T) {
	store, pool := newStore(t)
	alice := customers(t, store, "alice")[0]
	add := func(name string, root any) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), `INSERT INTO domain (subscription_id, name, document_root) VALUES ($1, $2, $3)`, alice, name, root); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		name    string
		do      func()
		site    string
		domains []string // of scripts in three directories
		any     bool
	}{
		{"no domain", func() {}, "", []string{"", "", ""}, true},
		{"one", func() { add("one.example", "/srv/1") }, "", []string{"one.example", "one.example", "one.example"}, true},
		{"two", func() { add("two.example", nil) }, "", []string{"", "one.example", ""}, false},
		{"two, and a site", func() {}, "two.example", []string{"two.example", "two.example", "two.example"}, true},
		{"two, and a site that is no domain", func() {}, "alice", []string{"", "one.example", ""}, false},
		{"three", func() { add("three.example", "/srv/2") }, "", []string{"", "one.example", "three.example"}, false},
		{"no document root", func() {
			if _, err := pool.Exec(t.Context(), `UPDATE domain SET document_root = NULL`); err != nil {
				t.Fatal(err)
			}
		}, "", []string{"", "", ""}, true},
	} {
		step.do()
		decideOne(t, store) // the epoch is known
		for i, want := range step.domains {
			m := message(1001, "alice", 1)
			m.Origin.Script = origin.Fact{Value: fmt.Sprintf("/srv/%d/x.php", i), Proof: origin.System}
			if step.site != "" {
				m.Origin.Site = origin.Fact{Value: step.site, Proof: origin.System}
			}
			if known := quota.IsRemembered(store, &m); known != (step.any && (i > 0 || step.site == "")) {
				t.Errorf("%s: script %d is remembered: %v", step.name, i, known)
			}
			decisions, err := store.Decide(t.Context(), []quota.Message{m})
			if err != nil {
				t.Fatal(err)
			}
			if got := decisions[0].Domain; got != want {
				t.Errorf("%s: script %d is charged to %q, want %q", step.name, i, got, want)
			}
		}
	}
	prove(t, store, pool)
}
