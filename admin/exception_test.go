package admin_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/quota"
)

// TestExceptions: each change has its row in the audit, and a subject has one
// exception of a kind.
func TestExceptions(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	acme := quota.Object{Class: quota.Subscription, Name: "acme"}
	b.must(t, b.AddSubscription(ctx, acme.Name, quota.DefaultPlan, ""))
	first, second := time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2099, 2, 1, 0, 0, 0, 0, time.UTC)

	raise := func(l quota.Limit, value int64, until time.Time, want string) {
		t.Helper()
		before, err := b.Raise(ctx, acme, l, value, until)
		if err != nil || before != want {
			t.Errorf("%q, %v, want %q", before, err, want)
		}
	}
	raise(quota.MessagesHour, 9, first, "")
	raise(quota.MessagesHour, quota.Unlimited, second, "messages/hour 9 until 2099-01-01 00:00:00 UTC")
	raise(quota.MessagesDay, 5, first, "")
	for _, c := range []struct {
		kind   quota.ExceptionKind
		target string
	}{{quota.Block, "subscription:acme"}, {quota.Block, "script:/home/x/"}, {quota.Block, "crontab:planted"}, {quota.Whitelist, "network:192.0.2.0/24"}} {
		s, err := admin.ParseSubject(c.target, c.kind)
		b.must(t, err)
		before, err := b.AddException(ctx, c.kind, s, time.Time{})
		if err != nil || before != "" {
			t.Errorf("%s: %q, %v", c.target, before, err)
		}
		before, err = b.AddException(ctx, c.kind, s, first)
		if err != nil || before != "until removed" {
			t.Errorf("%s: %q, %v", c.target, before, err)
		}
	}
	list, err := b.Exceptions(ctx, "", false)
	if err != nil || len(list) != 6 {
		t.Errorf("%d exceptions, want 6: %v, %v", len(list), list, err)
	}
	removed, err := b.RemoveException(ctx, list[0].ID)
	if err != nil || removed.Subject != "subscription:acme" || *removed.Limit != "messages/hour" {
		t.Errorf("%+v, %v", removed, err)
	}
	script := admin.Subject{Script: "/home/x/"}
	b.must(t, b.RemoveSubject(ctx, quota.Block, script))
	refused(t, b.RemoveSubject(ctx, quota.Block, script), "script:/home/x/ is not blocked", "mailctl block list")
	refused(t, b.RemoveSubject(ctx, quota.Whitelist, admin.Subject{Object: acme}), "subscription:acme is not in the white list", "mailctl whitelist list")
	_, err = b.RemoveException(ctx, list[0].ID)
	refused(t, err, "there is no exception 1", "mailctl exception list")
	_, err = b.Raise(ctx, quota.Object{Class: quota.Plan, Name: quota.DefaultPlan}, quota.MessagesHour, 9, first)
	refused(t, err, "plan:default is charged nothing: a plan holds the defaults of its subscriptions", "mailctl limit set plan:default LIMIT NUMBER")
	_, err = b.RaisedBy(ctx, acme, quota.RecipientsDay, 5)
	refused(t, err, "recipients/day of subscription:acme is unlimited: there is nothing to raise", "mailctl limit show subscription:acme")

	const one, two = "until 2099-01-01 00:00:00 UTC", "until 2099-02-01 00:00:00 UTC"
	equal(t, b.audit(t), nil,
		[4]string{"subscription add", "subscription:acme", "", "plan default"},
		[4]string{"exception raise", "subscription:acme", "", "messages/hour 9 " + one},
		[4]string{"exception raise", "subscription:acme", "messages/hour 9 " + one, "messages/hour unlimited " + two},
		[4]string{"exception raise", "subscription:acme", "", "messages/day 5 " + one},
		[4]string{"block add", "subscription:acme", "", "until removed"},
		[4]string{"block add", "subscription:acme", "until removed", one},
		[4]string{"block add", "script:/home/x/", "", "until removed"},
		[4]string{"block add", "script:/home/x/", "until removed", one},
		[4]string{"block add", "crontab:planted", "", "until removed"},
		[4]string{"block add", "crontab:planted", "until removed", one},
		[4]string{"whitelist add", "network:192.0.2.0/24", "", "until removed"},
		[4]string{"whitelist add", "network:192.0.2.0/24", "until removed", one},
		[4]string{"exception remove", "subscription:acme", "raise messages/hour unlimited " + two, ""},
		[4]string{"block remove", "script:/home/x/", one, ""},
	)
}

// TestGrantAndReset are in the audit with what was before.
func TestGrantAndReset(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	acme := quota.Object{Class: quota.Subscription, Name: "acme"}
	b.must(t, b.AddSubscription(ctx, acme.Name, quota.DefaultPlan, ""))
	until := time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)
	b.must(t, b.Grant(ctx, acme, quota.Grant{Messages: 5, Until: until}))
	b.must(t, b.Grant(ctx, acme, quota.Grant{Recipients: 7, Until: until}))
	refused(t, b.Grant(ctx, acme, quota.Grant{}), "an allowance is a number from 1 to 1000000000", "")
	const none = "0 messages, 0 recipients in the last hour, 0 messages, 0 recipients in the last day"
	before, err := b.Reset(ctx, acme)
	if err != nil || before != none {
		t.Errorf("%q, %v", before, err)
	}
	equal(t, b.audit(t)[1:], nil,
		[4]string{"exception grant", "subscription:acme", "", "5 messages until 2099-01-01 00:00:00 UTC"},
		[4]string{"exception grant", "subscription:acme", "5 messages until 2099-01-01 00:00:00 UTC", "7 recipients until 2099-01-01 00:00:00 UTC"},
		[4]string{"exception reset", "subscription:acme", none, "0"},
	)
}

// TestOneExceptionOfMany: of several administrators who block the same at once,
// one makes the exception, and the others change it.
func TestOneExceptionOfMany(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := b.AddException(ctx, quota.Block, admin.Subject{Crontab: "planted"}, time.Time{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if list, err := b.Exceptions(ctx, quota.Block, true); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	if n := len(b.audit(t)); n != 8 {
		t.Errorf("%d rows of the audit, want 8", n)
	}
}

func TestParseSubject(t *testing.T) {
	for in, want := range map[string]string{
		"user:bob": "user:bob", "domain:Shop.Example": "domain:shop.example", "script:/a/b.php": "script:/a/b.php", "script:/a/": "script:/a/",
		"script:/" + strings.Repeat("a", 4095): "script:/" + strings.Repeat("a", 4095),
		"crontab:abcd":                         "crontab:abcd", "crontab:a: b": "crontab:a: b", "network:192.0.2.7/24": "network:192.0.2.0/24", "network:192.0.2.7": "network:192.0.2.7/32",
		"network:::ffff:192.0.2.0/120": "network:192.0.2.0/24", "network:2001:DB8::1/32": "network:2001:db8::/32", "network:::/0": "network:::/0",
		"": "", "server": "", "plan:gold": "", "bob": "", "user:": "", "script:": "", "script:/": "", "script://": "", "script:///": "", "script:a.php": "", "script:/a//b": "",
		"script:/a/./b": "", "script:/a/../b": "", "script:/a\x00": "", "script:/a\nb": "", "script:/" + strings.Repeat("a", 4096): "",
		"crontab:abc": "", "crontab:  a  ": "", "crontab:a\tbcd": "", "crontab:" + strings.Repeat("a", 1001): "",
		"network:": "", "network:x": "", "network:10.0.0.0/33": "", "network:fe80::1%eth0": "", "network:fe80::%eth0/64": "", "network:::ffff:0.0.0.0/95": "",
	} {
		got, err := admin.ParseSubject(in, quota.Whitelist)
		if (err != nil) != (want == "") || err == nil && got.String() != want {
			t.Errorf("%.80q: %.80q, %v, want %.80q", in, got, err, want)
		}
	}
	if _, err := admin.ParseSubject("network:192.0.2.0/24", quota.Block); err == nil {
		t.Error("a network can be blocked")
	}
}

// TestAuditOfUser: rows of a user of this host are found however they and the question
// are written, and none of another host's.
func TestAuditOfUser(t *testing.T) {
	b := newBench(t)
	_, err := b.pool.Exec(t.Context(), `INSERT INTO audit (host, actor, action, object) SELECT 'host1', 'root', 'x', unnest(ARRAY['user:amy', 'user:amy@host1', 'user:amy@host2'])`)
	b.must(t, err)
	for object, want := range map[string]int{"user:amy": 2, "user:amy@host1": 2, "user:amy@host2": 1, "": 3, "user:bob": 0} {
		rows, err := b.AuditRows(t.Context(), admin.AuditFilter{Object: object, Action: "x", Limit: 10})
		b.must(t, err)
		if len(rows) != want {
			t.Errorf("%q: %d rows, want %d", object, len(rows), want)
		}
	}
}
