package quota_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
)

// TestCheck says what Decide would, and leaves nothing behind.
func TestCheck(t *testing.T) {
	s := newServer(t)
	s.exec(`INSERT INTO domain (subscription_id, name) VALUES ($1, 'a.example'), ($1, 'b.example')`, s.alice)
	setLimit(t, s.owner, quota.ServerID, quota.User, "messages_hour", 3)
	setLimit(t, s.owner, quota.ServerID, quota.Mailbox, "recipients_message", 7)
	s.send(s.one)
	s.send(s.one)
	crowd := mailboxMessage("new@b.example")
	crowd.Recipients = 8
	counts := func() string {
		var n string
		err := s.owner.QueryRow(t.Context(), `SELECT concat_ws(' ', (SELECT count(*) FROM host), (SELECT count(*) FROM subscription), (SELECT count(*) FROM system_user),
			(SELECT count(*) FROM mailbox), (SELECT count(*) FROM messages), (SELECT string_agg(concat(id, state, version), ',' ORDER BY id) FROM usage), (SELECT n FROM epoch))`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	check := func(store *quota.Store, m quota.Message) (quota.Verdict, string) {
		t.Helper()
		v, err := store.Check(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, o := range v.Accounts {
			names = append(names, o.String())
		}
		return v, strings.Join(names, " ")
	}
	for _, c := range []struct {
		name, accounts, want string
		message              quota.Message
	}{
		{"a user", "user:alice subscription:alice server", "refused by " + limited, message(1001, "alice", 1)},
		{"a new user of his own", "user:bob subscription:bob server", "accepted", message(1002, "bob", 1)},
		{"a new user of a subscription that is there", "user:alice subscription:alice server", "refused by " + limited, message(1003, "alice", 1)},
		{"a new user's site", "user:alice domain:b.example subscription:alice server", "refused by " + limited, func() quota.Message {
			m := message(1003, "alice", 1)
			m.Origin.Site = origin.Fact{Value: "b.example", Proof: origin.System}
			return m
		}()},
		{"a new web server", "user:www-data domain:a.example subscription:alice server", "refused by " + limited,
			vhost(33, "www-data", origin.ModPHP, origin.Fact{Value: "a.example", Proof: origin.System})},
		{"a system user", "user:daemon subscription:daemon server", "accepted", message(2, "daemon", 1)},
		{"a new mailbox", "mailbox:new@b.example domain:b.example subscription:alice server", "refused by mailbox:new@b.example recipients/message", crowd},
		{"of no domain", "server", "accepted", mailboxMessage("x@elsewhere.example")},
		{"forbidden", "user:bob subscription:bob server", "refused by no", func() quota.Message { m := message(1002, "bob", 1); m.Forbidden = "no"; return m }()},
	} {
		before := counts()
		v, accounts := check(s.one, c.message)
		s.expect(c.name, v.Decision, c.want)
		if accounts != c.accounts {
			t.Errorf("%s: charged to %s, want %s", c.name, accounts, c.accounts)
		}
		if mode := map[bool]quota.Mode{true: quota.Off, false: quota.Enforce}[c.name == "a system user"]; v.Mode != mode {
			t.Errorf("%s: mode %s", c.name, v.Mode)
		}
		if after := counts(); after != before {
			t.Errorf("%s: %s before, %s after", c.name, before, after)
		}
	}
	before := counts()
	if _, accounts := check(quota.NewStore(s.owner, "nowhere", 1000), message(1001, "alice", 1)); accounts != "user:alice subscription:alice server" || counts() != before {
		t.Errorf("on a host that is not there yet: %s, %s", accounts, counts())
	}

	s.exec(`INSERT INTO exception (kind, object_id, limit_no, value, actor, why) VALUES ('raise', $1, 0, 9, 'root', 'newsletter')`, s.alice)
	v, _ := check(s.one, message(1001, "alice", 1))
	s.expect("raised", v.Decision, "accepted")
	if len(v.Exceptions) != 1 || v.Exceptions[0].Value != 9 {
		t.Errorf("%+v", v.Exceptions)
	}
	s.change(func(tx pgx.Tx) (string, error) {
		return s.one.Grant(t.Context(), tx, s.alice, quota.Grant{Messages: 5})
	})
	list, err := s.one.Usage(t.Context(), []quota.Object{{Class: quota.Subscription, Name: "alice"}, {Class: quota.Subscription, Name: "alice"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range list { // asked for twice, told twice
		if len(u.Exceptions) != 1 || u.Exceptions[0].Limit != "messages/hour" || *u.Exceptions[0].Value != 9 || u.Exceptions[0].Why != "newsletter" ||
			u.Grants == nil || u.Grants.Messages != 5 || u.Mode != "enforce" || u.ModeFrom != "" ||
			*u.Limits["messages/hour"].Limit != 9 || u.Limits["messages/hour"].From != "exception" {
			t.Errorf("%+v", u)
		}
	}
	s.exec(`INSERT INTO exception (kind, object_id, actor) VALUES ('block', $1, 'root')`, s.alice)
	v, _ = check(s.one, message(1001, "alice", 1))
	s.expect("blocked", v.Decision, "refused by subscription alice is blocked by the administrator")
}
