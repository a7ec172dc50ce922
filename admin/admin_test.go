package admin_test

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/tests/testpg"
)

func TestMain(m *testing.M) { testpg.Main(m) }

type bench struct {
	*admin.Admin
	pool  *pgxpool.Pool
	store *quota.Store
}

// newBench has the role that mailctl has.
func newBench(t *testing.T) *bench {
	t.Helper()
	t.Setenv("SUDO_USER", "operator")
	pool, err := pgxpool.New(t.Context(), testpg.NewAs(t, "mailquotad"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store := quota.NewStore(pool, "host1", 1000)
	return &bench{admin.New(pool, store, "host1", "because"), pool, store}
}

// audit returns action, object, before, after of all audit rows, and checks the
// rest of them.
func (b *bench) audit(t *testing.T) [][4]string {
	t.Helper()
	rows, err := b.pool.Query(t.Context(), `SELECT action, object, coalesce(before, ''), coalesce(after, ''), host, actor, why FROM audit ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r [4]string, err error) {
		var host, actor, why string
		err = row.Scan(&r[0], &r[1], &r[2], &r[3], &host, &actor, &why)
		if host != "host1" || actor != "operator" || why != "because" {
			t.Errorf("%v: host %q, actor %q, why %q", r, host, actor, why)
		}
		return r, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func (b *bench) must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused checks that an error is one that the administrator can mend.
func refused(t *testing.T, err error, text, hint string) {
	t.Helper()
	var e *admin.Error
	if !errors.As(err, &e) {
		t.Errorf("error %v, want %q", err, text)
		return
	}
	if diff := cmp.Diff([]string{text, hint}, []string{e.Text, e.Hint}); diff != "" {
		t.Errorf("text, hint:\n%s", diff)
	}
}

func equal[T any](t *testing.T, got []T, err error, want ...T) {
	t.Helper()
	if err != nil {
		t.Error(err)
	} else if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func ptr[T any](v T) *T { return &v }

// TestLifeOfObjects goes through every change, and what the audit says of it.
func TestLifeOfObjects(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	b.must(t, b.AddPlan(ctx, "gold", nil))
	b.must(t, b.AddPlan(ctx, "inner", ptr(quota.Off)))
	b.must(t, b.AddSubscription(ctx, "acme", "gold", ""))
	b.must(t, b.AddSubscription(ctx, "other", "default", ""))
	b.must(t, b.AddDomain(ctx, "Shop.Example", "acme", "/srv/shop"))
	b.must(t, b.AddMailbox(ctx, "Info@shop.example"))
	b.must(t, b.AddUser(ctx, "daemon", "acme"))

	plans, err := b.Plans(ctx, "")
	equal(t, plans, err, admin.Plan{Name: "default", Subscriptions: 1}, admin.Plan{Name: "gold", Subscriptions: 1}, admin.Plan{Name: "inner", Mode: ptr(quota.Off)}, admin.Plan{Name: "system", Mode: ptr(quota.Off)})
	subscriptions, err := b.Subscriptions(ctx, "acme")
	equal(t, subscriptions, err, admin.Subscription{Name: "acme", Plan: "gold", Users: 1, Domains: 1})
	domains, err := b.Domains(ctx, "SHOP.example")
	equal(t, domains, err, admin.Domain{Name: "shop.example", Subscription: "acme", DocumentRoot: ptr("/srv/shop"), Mailboxes: 1})
	mailboxes, err := b.Mailboxes(ctx, "")
	equal(t, mailboxes, err, admin.Mailbox{Address: "info@shop.example", Domain: "shop.example", Subscription: "acme"})
	want := admin.User{Name: "daemon", Host: "host1", UID: 1, Subscription: "acme", Plan: "gold"}
	for _, name := range []string{"", "daemon", "daemon@host1"} {
		users, err := b.Users(ctx, name)
		equal(t, users, err, want)
	}

	b.must(t, b.SetPlan(ctx, "inner", ptr("outer"), true, nil))
	b.must(t, b.SetSubscription(ctx, "acme", ptr("acme2"), ptr("outer"), nil))
	b.must(t, b.SetDomain(ctx, "shop.example", nil, ptr("other"), ptr("")))
	b.must(t, b.SetMailbox(ctx, "info@shop.example", "office@shop.example"))
	b.must(t, b.SetUser(ctx, "daemon", "other"))
	b.must(t, b.Remove(ctx, quota.Object{Class: quota.Mailbox, Name: "office@shop.example"}))
	b.must(t, b.SetDomain(ctx, "shop.example", ptr("Store.example"), nil, nil))
	for _, o := range []string{"domain:store.example", "user:daemon", "subscription:other", "subscription:acme2", "plan:outer", "plan:gold"} {
		object, err := quota.ParseObject(o)
		b.must(t, err)
		b.must(t, b.Remove(ctx, object))
	}

	audit := b.audit(t)
	equal(t, audit, nil,
		[4]string{"plan add", "plan:gold", "", "mode inherit"},
		[4]string{"plan add", "plan:inner", "", "mode off"},
		[4]string{"subscription add", "subscription:acme", "", "plan gold"},
		[4]string{"subscription add", "subscription:other", "", "plan default"},
		[4]string{"domain add", "domain:shop.example", "", "subscription acme"},
		[4]string{"mailbox add", "mailbox:info@shop.example", "", "domain shop.example"},
		[4]string{"user add", "user:daemon", "", "uid 1, subscription acme"},
		[4]string{"mode set", "plan:inner", "off", "inherit"},
		[4]string{"plan set", "plan:inner", "inner", "outer"},
		[4]string{"subscription set", "subscription:acme", "plan gold", "plan outer"},
		[4]string{"subscription set", "subscription:acme", "acme", "acme2"},
		[4]string{"domain set", "domain:shop.example", "subscription acme2", "subscription other"},
		[4]string{"domain set", "domain:shop.example", "document root /srv/shop", "document root "},
		[4]string{"mailbox set", "mailbox:info@shop.example", "info@shop.example", "office@shop.example"},
		[4]string{"user set", "user:daemon", "subscription acme2", "subscription other"},
		[4]string{"mailbox remove", "mailbox:office@shop.example", "office@shop.example", ""},
		[4]string{"domain set", "domain:shop.example", "shop.example", "store.example"},
		[4]string{"domain remove", "domain:store.example", "store.example", ""},
		[4]string{"user remove", "user:daemon", "daemon", ""},
		[4]string{"subscription remove", "subscription:other", "other", ""},
		[4]string{"subscription remove", "subscription:acme2", "acme2", ""},
		[4]string{"plan remove", "plan:outer", "outer", ""},
		[4]string{"plan remove", "plan:gold", "gold", ""},
	)
	// A name is free again.
	b.must(t, b.AddSubscription(ctx, "acme2", "default", ""))
}

// TestRefused: each refusal says what to type, changes nothing, and leaves no
// audit row.
func TestRefused(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	b.must(t, b.AddPlan(ctx, "gold", nil))
	b.must(t, b.AddSubscription(ctx, "acme", "gold", ""))
	b.must(t, b.AddSubscription(ctx, "rival", "gold", ""))
	b.must(t, b.AddDomain(ctx, "shop.example", "acme", ""))
	b.must(t, b.AddMailbox(ctx, "info@shop.example"))
	b.must(t, b.AddUser(ctx, "daemon", "rival"))
	before := len(b.audit(t))
	remove := func(s string) error {
		o, err := quota.ParseObject(s)
		b.must(t, err)
		return b.Remove(ctx, o)
	}
	list := func(_ any, err error) error { return err }
	for _, c := range []struct {
		err        error
		text, hint string
	}{
		{b.AddPlan(ctx, "gold", nil), "plan gold exists already", "mailctl plan show gold"},
		{b.AddPlan(ctx, "", nil), `"" cannot be the name of a plan: use 1 to 254 printable characters without spaces`, ""},
		{b.AddPlan(ctx, "a\x1b[2J", nil), `"a\x1b[2J" cannot be the name of a plan: use 1 to 254 printable characters without spaces`, ""},
		{b.AddSubscription(ctx, "x", "lead", ""), "there is no plan lead", "mailctl plan list"},
		{b.AddDomain(ctx, "y.example", "nobody", ""), "there is no subscription nobody", "mailctl subscription list"},
		{b.AddDomain(ctx, "y.example", "acme", "srv"), `document root "srv" is no absolute path`, ""},
		{b.AddDomain(ctx, "y", "acme", ""), `"y" cannot be the name of a domain: write it like shop.example`, ""},
		{b.AddDomain(ctx, "shop..example", "acme", ""), `"shop..example" cannot be the name of a domain: write it like shop.example`, ""},
		{b.AddMailbox(ctx, "shop.example"), `"shop.example" cannot be the name of a mailbox: write it like info@shop.example`, ""},
		{b.AddMailbox(ctx, "info@other.example"), "there is no domain other.example", "mailctl domain list"},
		{b.AddMailbox(ctx, "INFO@shop.example"), "mailbox info@shop.example exists already", "mailctl mailbox show info@shop.example"},
		{b.AddUser(ctx, "no-such-login", ""), "there is no login no-such-login on this host", "getent passwd no-such-login"},
		{b.AddUser(ctx, "daemon", ""), "user daemon exists already", "mailctl user set daemon --subscription NAME"},
		{b.AddUser(ctx, "bin", "nobody"), "there is no subscription nobody", "mailctl subscription list"},
		{b.SetUser(ctx, "bin", "acme"), "no system user bin of this host has called sendmail yet", "mailctl user list"},
		{b.SetPlan(ctx, "default", ptr("usual"), false, nil), "plan default cannot be renamed: new system users come under it", ""},
		{b.SetPlan(ctx, "gold", ptr("system"), true, ptr(quota.Off)), "plan system exists already", "mailctl plan show system"},
		{b.SetSubscription(ctx, "acme", ptr("rival"), ptr("default"), nil), "subscription rival exists already", "mailctl subscription show rival"},
		{b.SetDomain(ctx, "shop.example", ptr("store.example"), ptr("rival"), ptr("/srv")), "domain shop.example still has 1 of class mailbox", "mailctl mailbox list, then move or remove them"},
		{b.SetMailbox(ctx, "info@shop.example", "info@store.example"), "mailbox info@shop.example belongs to domain shop.example, and so must its new name", "mailctl mailbox add info@store.example"},
		{remove("plan:system"), "plan system cannot be removed: new system users come under it", ""},
		{remove("plan:gold"), "plan gold still has 2 of class subscription", "mailctl subscription list, then move or remove them"},
		{remove("subscription:acme"), "subscription acme still has 1 of class domain", "mailctl domain list, then move or remove them"},
		{remove("subscription:rival"), "subscription rival still has 1 of class user", "mailctl user list, then move or remove them"},
		{remove("domain:shop.example"), "domain shop.example still has 1 of class mailbox", "mailctl mailbox list, then move or remove them"},
		{remove("domain:gone.example"), "there is no domain gone.example", "mailctl domain list"},
		{list(b.Plans(ctx, "lead")), "there is no plan lead", "mailctl plan list"},
		{list(b.Users(ctx, "bin")), "there is no user bin", "mailctl user list"},
	} {
		refused(t, c.err, c.text, c.hint)
	}
	if after := len(b.audit(t)); after != before {
		t.Errorf("%d audit rows of changes that were refused", after-before)
	}
	plans, err := b.Plans(ctx, "gold")
	equal(t, plans, err, admin.Plan{Name: "gold", Subscriptions: 2})
	domains, err := b.Domains(ctx, "shop.example")
	equal(t, domains, err, admin.Domain{Name: "shop.example", Subscription: "acme", Mailboxes: 1})
}

// TestRemovedMeanwhile: nothing comes under an object that is being removed, and
// it gets no mode.
func TestRemovedMeanwhile(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	for name, change := range map[string]func() error{
		"add": func() error { return b.AddSubscription(ctx, "acme", "gold", "") },
		"mode": func() error {
			_, err := b.SetMode(ctx, quota.Object{Class: quota.Plan, Name: "gold"}, ptr(quota.Off))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			b.must(t, b.AddPlan(ctx, "gold", nil))
			tx, err := b.pool.Begin(ctx)
			b.must(t, err)
			defer tx.Rollback(context.WithoutCancel(ctx))
			_, err = tx.Exec(ctx, `UPDATE plan SET removed_at = now() WHERE name = 'gold'`)
			b.must(t, err)
			done := make(chan error)
			go func() { done <- change() }()
			b.waitForLock(t)
			b.must(t, tx.Commit(ctx))
			refused(t, <-done, "there is no plan gold", "mailctl plan list")
		})
	}
}

// waitForLock returns once another connection waits for a lock.
func (b *bench) waitForLock(t *testing.T) {
	t.Helper()
	b.wait(t, `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)`)
}

// wait returns once a question is answered with yes.
func (b *bench) wait(t *testing.T, question string, args ...any) {
	t.Helper()
	for yes := false; !yes; {
		b.must(t, b.pool.QueryRow(t.Context(), question, args...).Scan(&yes))
	}
}

// TestDeadlock: of two that wait for each other, the one whom PostgreSQL ends
// starts again. Here he has the epoch and wants a name, and the other the
// reverse; a lock on the audit keeps him until the other is there.
func TestDeadlock(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	b.must(t, b.AddPlan(ctx, "gold", nil))
	dial := func() *pgx.Conn {
		conn, err := pgx.Connect(ctx, testpg.As(b.pool.Config().ConnString(), "postgres"))
		b.must(t, err)
		t.Cleanup(func() { conn.Close(context.WithoutCancel(ctx)) })
		return conn
	}
	exec := func(conn *pgx.Conn, sql string) {
		_, err := conn.Exec(ctx, sql)
		b.must(t, err)
	}
	gate, other := dial(), dial()
	exec(gate, `BEGIN; LOCK TABLE audit IN EXCLUSIVE MODE`)
	exec(other, `BEGIN; INSERT INTO plan (name) VALUES ('lead'); SET deadlock_timeout = '1h'`)

	set := make(chan error, 1)
	go func() { set <- b.SetPlan(ctx, "gold", ptr("lead"), true, ptr(quota.Off)) }()
	b.waitForLock(t)
	done := make(chan error, 1)
	go func() {
		_, err := other.Exec(ctx, `UPDATE plan SET mode = 'off' WHERE name = 'default'`)
		done <- err
	}()
	b.wait(t, `SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)`, other.PgConn().PID())
	exec(gate, `COMMIT`)
	b.must(t, <-done)
	exec(other, `ROLLBACK`)
	b.must(t, <-set)
	equal(t, b.audit(t), nil, [4]string{"plan add", "plan:gold", "", "mode inherit"},
		[4]string{"mode set", "plan:gold", "inherit", "off"}, [4]string{"plan set", "plan:gold", "gold", "lead"})
}

// TestAtOnce: administrators who change different limits and objects at the same
// time do not get in each other's way.
func TestAtOnce(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	const n, rounds = 4, 12
	results := make(chan error, n)
	for i := range n {
		go func() { results <- b.changes(ctx, fmt.Sprint("acme", i), rounds) }()
	}
	for range n {
		b.must(t, <-results)
	}
	var epoch, audit int
	b.must(t, b.pool.QueryRow(ctx, `SELECT n, (SELECT count(*) FROM audit) FROM epoch`).Scan(&epoch, &audit))
	if want := n * (1 + rounds*6); audit != want {
		t.Errorf("%d changes in the audit, want %d", audit, want)
	}
	if epoch < n*rounds*4 {
		t.Errorf("epoch %d after %d changes", epoch, audit)
	}
}

// changes does again and again what an administrator does with one customer.
func (b *bench) changes(ctx context.Context, name string, rounds int) error {
	err := b.AddSubscription(ctx, name, "default", "")
	domain, mailbox := name+".example", "info@"+name+".example"
	subscription := quota.Object{Class: quota.Subscription, Name: name}
	server := quota.Object{Class: quota.Server}
	for i := range rounds {
		for _, change := range []func() error{
			func() error { return b.AddDomain(ctx, domain, name, "/srv/"+name) },
			func() error { return b.AddMailbox(ctx, mailbox) },
			func() error {
				_, err := b.SetLimit(ctx, subscription, quota.Subscription, quota.MessagesHour, ptr(int64(i)))
				return err
			},
			func() error {
				_, err := b.SetLimit(ctx, server, quota.Server, quota.MessagesDay, ptr(int64(i)))
				return err
			},
			func() error { return b.Remove(ctx, quota.Object{Class: quota.Mailbox, Name: mailbox}) },
			func() error { return b.Remove(ctx, quota.Object{Class: quota.Domain, Name: domain}) },
		} {
			if err == nil {
				err = change()
			}
		}
	}
	return err
}

// TestRegister: a login is known as after its first mail, whoever asks first.
func TestRegister(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	for _, c := range []struct {
		object string
		want   bool
	}{
		{"subscription:daemon", true}, {"subscription:daemon", false}, {"user:daemon", false},
		{"user:bin", true}, {"user:no-such-login", false}, {"plan:bin", false}, {"domain:bin", false}, {"user:bin@host2", false},
	} {
		o, err := quota.ParseObject(c.object)
		b.must(t, err)
		got, err := b.Register(ctx, o)
		if err != nil || got != c.want {
			t.Errorf("%s: %v, %v", c.object, got, err)
		}
	}
	bin, err := user.Lookup("bin")
	b.must(t, err)
	users, err := b.Users(ctx, "")
	equal(t, users, err, admin.User{Name: "bin", Host: "host1", UID: 2, Subscription: "bin", Plan: "system"},
		admin.User{Name: "daemon", Host: "host1", UID: 1, Subscription: "daemon", Plan: "system"})
	equal(t, b.audit(t), nil, [4]string{"user add", "user:daemon", "", "uid 1"}, [4]string{"user add", "user:bin", "", "uid " + bin.Uid})
}
