package quota_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
)

// idOf returns an ID that was made at a time.
func idOf(at time.Time) uuid.UUID {
	id := uuid.Must(uuid.NewV7())
	for i := range 6 {
		id[i] = byte(at.UnixMilli() >> (40 - 8*i))
	}
	return id
}

func TestIDTime(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 89e6, time.UTC)
	for _, c := range []struct {
		id   uuid.UUID
		want time.Time
	}{{idOf(at), at}, {uuid.New(), time.Time{}}, {uuid.Nil, time.Time{}}} {
		if got := quota.IDTime(c.id); !got.Equal(c.want) {
			t.Errorf("%s: %s, want %s", c.id, got, c.want)
		}
	}
}

// ask decides about one message: "accepted", or what refused it.
func ask(t testing.TB, store *quota.Store, m quota.Message) string {
	t.Helper()
	decisions, err := store.Decide(t.Context(), []quota.Message{m})
	if err != nil {
		t.Fatal(err)
	}
	return outcome(&decisions[0])
}

func outcome(d *quota.Decision) string {
	if d.Refusal != nil {
		return d.Refusal.By()
	}
	return "accepted"
}

// sites makes alice's subscription with the domain a.example and its mailbox
// info@a.example.
func sites(t testing.TB, store *quota.Store, pool *pgxpool.Pool) (domain, subscription quota.ID) {
	t.Helper()
	_, subscription, _, err := store.EnsureUser(t.Context(), 1001, "alice")
	if err != nil {
		t.Fatal(err)
	}
	domain = quota.ID(number(t, pool, `INSERT INTO domain (subscription_id, name) VALUES ($1, 'a.example') RETURNING id`, subscription))
	number(t, pool, `INSERT INTO mailbox (domain_id, address) VALUES ($1, 'info@a.example') RETURNING id`, domain)
	return domain, subscription
}

// TestOnBehalf: to whom it is charged what is sent for an address, or by nobody of
// this host; and that nobody is made for it, but the user if it is his.
func TestOnBehalf(t *testing.T) {
	store, pool := newStore(t)
	sites(t, store, pool)
	for _, c := range []struct {
		onBehalf string
		noUser   bool
		uid      uint32
		mailbox  string
		want     string // objects of the row, and its uid
	}{
		{"info@a.example", false, 1001, "", "- info@a.example a.example alice 1001"},
		{"Info@A.Example", true, 0, "", "- info@a.example a.example alice -"},
		{"info@a.example", false, 1500, "", "- info@a.example a.example alice 1500"},
		{"other@a.example", true, 0, "", "- - a.example alice -"},
		{"other@a.example", false, 1500, "", "- - a.example alice 1500"},
		{"x@b.example", false, 1001, "", "alice - a.example alice 1001"},
		{"x@b.example", false, 1003, "", "carol - - carol 1003"},
		{"x@b.example", true, 1004, "", "- - - - -"},
		{"info@a.example@", true, 0, "", "- - - - -"},
		{"root", true, 0, "", "- - - - -"},
		{"", true, 1001, "", "- - - - -"},
		{"", true, 0, "", "- - - - -"},
		{"info@a.example", true, 1001, "new@a.example", "- new@a.example a.example alice -"},
		{"new@a.example", true, 0, "", "- new@a.example a.example alice -"},
	} {
		for _, how := range []string{"by memory", "with locks", "after a change"} {
			if quota.Trust(store); how == "with locks" {
				quota.Distrust(store)
			}
			if how == "after a change" {
				number(t, pool, `UPDATE plan SET name = name WHERE name = 'system' RETURNING 1`)
			}
			m := message(c.uid, map[uint32]string{1001: "alice", 1003: "carol"}[c.uid], 1)
			m.OnBehalf, m.NoUser, m.Mailbox = c.onBehalf, c.noUser, c.mailbox
			if got := ask(t, store, m); got != "accepted" {
				t.Errorf("%q: %s", c.onBehalf, got)
			}
			var got string
			err := pool.QueryRow(t.Context(), `SELECT concat_ws(' ', coalesce(u.name, '-'), coalesce(b.address, '-'), coalesce(d.name, '-'), coalesce(s.name, '-'), coalesce(m.uid::text, '-'))
  FROM messages m LEFT JOIN system_user u ON u.id = m.user_id LEFT JOIN mailbox b ON b.id = m.mailbox_id
  LEFT JOIN domain d ON d.id = m.domain_id LEFT JOIN subscription s ON s.id = m.subscription_id WHERE m.id = $1`, m.ID).Scan(&got)
			if err != nil || got != c.want {
				t.Errorf("%q (no user: %t, uid %d), %s: %s, want %s (%v)", c.onBehalf, c.noUser, c.uid, how, got, c.want, err)
			}
		}
	}
	if n := number(t, pool, `SELECT count(*) FROM system_user`); n != 2 {
		t.Errorf("%d users, want alice and carol", n)
	}
	if n := number(t, pool, `SELECT count(*) FROM mailbox`); n != 2 {
		t.Errorf("%d mailboxes", n)
	}
	prove(t, store, pool)
}

// TestOnBehalfCheck: Check names the same accounts, and makes nobody.
func TestOnBehalfCheck(t *testing.T) {
	store, pool := newStore(t)
	sites(t, store, pool)
	for _, c := range []struct {
		onBehalf string
		noUser   bool
		want     string
	}{
		{"info@a.example", true, "[mailbox:info@a.example domain:a.example subscription:alice server]"},
		{"x@a.example", false, "[domain:a.example subscription:alice server]"},
		{"x@b.example", false, "[user:dave subscription:dave server]"},
		{"x@b.example", true, "[server]"},
		{"", true, "[server]"},
	} {
		m := message(1009, "dave", 1)
		m.OnBehalf, m.NoUser = c.onBehalf, c.noUser
		v, err := store.Check(t.Context(), m)
		if got := fmt.Sprint(v.Accounts); err != nil || got != c.want {
			t.Errorf("%q: %s, want %s (%v)", c.onBehalf, got, c.want, err)
		}
	}
}

// TestOnBehalfLimits: the same counters hold for the mailbox that logs in and what is
// sent on for it.
func TestOnBehalfLimits(t *testing.T) {
	store, pool := newStore(t)
	domain, _ := sites(t, store, pool)
	setLimit(t, pool, domain, quota.Domain, "messages_hour", 3)
	forward := func(address string) string {
		m := message(0, "", 1)
		m.Origin, m.OnBehalf, m.NoUser = origin.Origin{Kind: origin.Forward}, address, true
		return ask(t, store, m)
	}
	login := message(0, "", 1)
	login.Mailbox = "info@a.example"
	got := fmt.Sprint(ask(t, store, login), forward("info@a.example"), forward("catchall@a.example"), forward("info@a.example"), forward("x@a.example"))
	const full = "domain:a.example messages/hour"
	if want := fmt.Sprint("accepted", "accepted", "accepted", full, full); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for address, want := range map[string]bool{"info@a.example": true, "x@a.example": false} { // of those there can be any number
		m := message(0, "", 1)
		m.OnBehalf, m.NoUser = address, true
		if quota.IsRemembered(store, &m) != want {
			t.Errorf("%s is remembered: %t, want %t", address, !want, want)
		}
	}
	prove(t, store, pool)
}

// TestPasses: it is counted, and neither limit nor block refuses it.
func TestPasses(t *testing.T) {
	store, pool := newStore(t)
	setLimit(t, pool, quota.ServerID, quota.Server, "messages_hour", 1)
	number(t, pool, `INSERT INTO exception (kind, object_id, actor) VALUES ('block', 6::bigint << 40, 'x') RETURNING id`)
	for range 3 {
		m := message(0, "", 5)
		m.NoUser, m.Passes, m.Forbidden = true, true, "forbidden"
		if got := ask(t, store, m); got != "accepted" {
			t.Errorf("it is refused: %s", got)
		}
	}
	if n := used(t, store, "server", "recipients/hour"); n != 15 {
		t.Errorf("%d recipients used, want 15", n)
	}
	if got := ask(t, store, message(1001, "alice", 1)); got == "accepted" {
		t.Error("one that does not pass is not blocked")
	}
	prove(t, store, pool)
}

// TestProbe: it tells what would become of the message, and only a refusal leaves
// anything behind.
func TestProbe(t *testing.T) {
	store, pool := newStore(t)
	_, alice, _, err := store.EnsureUser(t.Context(), 1001, "alice")
	if err != nil {
		t.Fatal(err)
	}
	store.SetWarnPercent(1)
	setLimit(t, pool, alice, quota.Subscription, "messages_hour", 2)
	probe := func(id uuid.UUID) quota.Message {
		m := message(1001, "alice", 1)
		m.ID, m.Probe = id, true
		return m
	}
	one := message(1001, "alice", 1)
	for _, quick := range []func(*quota.Store){quota.Trust, quota.Distrust} {
		for range 3 {
			quick(store)
			decisions, err := store.Decide(t.Context(), []quota.Message{probe(one.ID), probe(uuid.Must(uuid.NewV7()))})
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range decisions {
				if outcome(&d) != "accepted" || len(d.Events) > 0 || d.Subscription != "alice" {
					t.Errorf("%+v", d)
				}
			}
		}
	}
	if n := number(t, pool, `SELECT count(*) FROM messages`); n != 0 {
		t.Errorf("%d rows of probes", n)
	}
	// In one batch: a probe, its message, which is charged, and a probe of it.
	decisions, err := store.Decide(t.Context(), []quota.Message{probe(one.ID), one, probe(one.ID), message(1001, "alice", 1), probe(uuid.Must(uuid.NewV7()))})
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for i := range decisions {
		got += outcome(&decisions[i]) + ","
	}
	if want := "accepted,accepted,accepted,accepted,subscription:alice messages/hour,"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if events := decisions[4].Events; len(events) != 1 || events[0].Kind != quota.EventRefused {
		t.Errorf("events of the refusal: %+v", events)
	}
	if n := number(t, pool, `SELECT count(*) FROM messages WHERE decision = 2`); n != 1 {
		t.Errorf("%d rows of refusals, want 1", n)
	}
	if n := used(t, store, "subscription:alice", "messages/hour"); n != 2 {
		t.Errorf("%d used, want 2", n)
	}
	prove(t, store, pool)
}

// TestProbeObserved: mode observe would have refused it, and nobody is told.
func TestProbeObserved(t *testing.T) {
	store, pool := newStore(t)
	_, alice, _, err := store.EnsureUser(t.Context(), 1001, "alice")
	if err != nil {
		t.Fatal(err)
	}
	setLimit(t, pool, alice, quota.Subscription, "messages_hour", 0)
	number(t, pool, `UPDATE subscription SET mode = 'observe' WHERE id = $1 RETURNING id`, alice)
	m := message(1001, "alice", 1)
	m.Probe = true
	decisions, err := store.Decide(t.Context(), []quota.Message{m})
	if err != nil || decisions[0].Refusal != nil || decisions[0].Observed == nil || len(decisions[0].Events) > 0 {
		t.Errorf("%+v, %v", decisions, err)
	}
	if n := number(t, pool, `SELECT count(*) FROM messages`); n != 0 {
		t.Errorf("%d rows", n)
	}
}

// TestAgain: accepted once, charged once; refused, it is decided anew, and each
// refusal has its row.
func TestAgain(t *testing.T) {
	store, pool := newStore(t)
	_, alice, _, err := store.EnsureUser(t.Context(), 1001, "alice")
	if err != nil {
		t.Fatal(err)
	}
	limit := func(n int) { setLimit(t, pool, alice, quota.Subscription, "messages_hour", n) }
	again := func(made time.Time) quota.Message {
		m := message(1001, "alice", 1)
		m.ID, m.Again = idOf(made), true
		return m
	}
	if _, err := pool.Exec(t.Context(), `SELECT make_partitions((now() AT TIME ZONE 'UTC')::date - 12, 11)`); err != nil {
		t.Fatal(err)
	}
	const full = "subscription:alice messages/hour"
	now := time.Now()
	for _, made := range []time.Time{now, now.Add(-5 * 24 * time.Hour)} {
		m := again(made)
		limit(0)
		for range 2 {
			if got := ask(t, store, m); got != full {
				t.Errorf("at limit 0: %s", got)
			}
		}
		limit(quota.Unlimited)
		first, err := store.Decide(t.Context(), []quota.Message{m})
		if err != nil || first[0].Refusal != nil {
			t.Fatalf("once there is no limit: %+v, %v", first, err)
		}
		limit(0)
		other := quota.NewStore(pool, "host1", 1000) // as after a restart
		for _, s := range []*quota.Store{store, other} {
			second, err := s.Decide(t.Context(), []quota.Message{m, m})
			if err != nil || second[0].Refusal != nil || second[1].Refusal != nil || !second[0].At.Equal(first[0].At) || second[0].Subscription != "alice" {
				t.Errorf("once more: %+v, %v", second, err)
			}
		}
		if n := number(t, pool, `SELECT 10 * count(*) FILTER (WHERE decision = 2) + count(*) FILTER (WHERE decision = 1) FROM messages WHERE id = $1`, m.ID); n != 21 {
			t.Errorf("%d rows of refusals and of acceptance, want 21", n)
		}
	}
	if n := used(t, store, "subscription:alice", "messages/hour"); n != 2 {
		t.Errorf("%d used, want 2", n)
	}
	prove(t, store, pool)
	// What was accepted longer ago than mail is tried is not known any more.
	for _, c := range []struct {
		days int
		want string
	}{{quota.RepeatDays - 1, "accepted"}, {quota.RepeatDays + 1, full}} {
		at := now.AddDate(0, 0, -c.days)
		m := again(at)
		if _, err := pool.Exec(t.Context(), `INSERT INTO messages (at, id, size, host_id, recipients, decision, sender, kind) VALUES ($1, $2, 1, 1, 1, 1, '', 'forward')`, at, m.ID); err != nil {
			t.Fatal(err)
		}
		if got := ask(t, store, m); got != c.want {
			t.Errorf("accepted %d days ago: %s, want %s", c.days, got, c.want)
		}
	}
}

// TestAgainInOneBatch: what comes twice in one batch is decided once, among others.
func TestAgainInOneBatch(t *testing.T) {
	store, pool := newStore(t)
	_, alice, _, err := store.EnsureUser(t.Context(), 1001, "alice")
	if err != nil {
		t.Fatal(err)
	}
	setLimit(t, pool, alice, quota.Subscription, "messages_hour", 2)
	a, b, c := message(1001, "alice", 1), message(1001, "alice", 1), message(1001, "alice", 1)
	a.Again, c.Again = true, true
	for range 2 {
		decisions, err := store.Decide(t.Context(), []quota.Message{a, a, b, c, c, a})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for i := range decisions {
			got += map[bool]string{true: "+", false: "-"}[decisions[i].Refusal == nil]
		}
		if got != "+++--+" {
			t.Errorf("%s, want +++--+", got)
		}
		b = message(1001, "alice", 1)
		setLimit(t, pool, alice, quota.Subscription, "messages_hour", 3)
	}
	prove(t, store, pool)
}
