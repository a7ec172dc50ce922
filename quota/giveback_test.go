package quota_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/tests/testpg"
)

// accept decides about a message that must be accepted.
func accept(t testing.TB, store *quota.Store, m quota.Message) quota.Decision {
	t.Helper()
	decisions, err := store.Decide(t.Context(), []quota.Message{m})
	if err != nil || decisions[0].Refusal != nil {
		t.Fatalf("%+v, %v", decisions, err)
	}
	return decisions[0]
}

func giveBack(t testing.TB, store *quota.Store, m quota.Message, at time.Time) {
	t.Helper()
	if err := store.GiveBack(t.Context(), m.ID, at); err != nil {
		t.Fatal(err)
	}
}

// TestGiveBack: what the mail server refused is charged to nobody, once; the next
// decision knows.
func TestGiveBack(t *testing.T) {
	store, pool := newStore(t)
	_, alice := sites(t, store, pool)
	setLimit(t, pool, alice, quota.Subscription, "recipients_hour", 5)
	m := message(0, "", 5)
	m.Mailbox = "info@a.example"
	d := accept(t, store, m)
	next := message(1001, "alice", 1)
	if got := ask(t, store, next); got != "subscription:alice recipients/hour" {
		t.Errorf("at the limit: %s", got)
	}
	quota.Trust(store)
	trips := quota.RememberedOf(store)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := store.GiveBack(t.Context(), m.ID, d.At); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := number(t, pool, `SELECT count(*) FROM returned WHERE id = $1 AND at = $2`, m.ID, d.At); n != 1 {
		t.Errorf("%d rows of returned", n)
	}
	for _, object := range []string{"mailbox:info@a.example", "domain:a.example", "subscription:alice", "server"} {
		for _, limit := range []string{"messages/hour", "messages/day", "recipients/hour", "recipients/day"} {
			if n := used(t, store, object, limit); n != 0 {
				t.Errorf("%s %s: %d used", object, limit, n)
			}
		}
	}
	for n := range 5 {
		if got := ask(t, store, message(1001, "alice", 1)); got != "accepted" {
			t.Errorf("%d. message after that: %s", n+1, got)
		}
	}
	if got := ask(t, store, message(1001, "alice", 1)); got == "accepted" {
		t.Error("more than the limit was accepted")
	}
	if n := quota.RememberedOf(store) - trips; n != 6 {
		t.Errorf("%d of 6 batches were decided by memory", n)
	}
	prove(t, store, pool)
}

// TestGiveBackNothing: what was not accepted is not given back.
func TestGiveBackNothing(t *testing.T) {
	store, pool := newStore(t)
	_, alice, _, err := store.EnsureUser(t.Context(), 1001, "alice")
	if err != nil {
		t.Fatal(err)
	}
	m := message(1001, "alice", 1)
	at := accept(t, store, m).At
	setLimit(t, pool, alice, quota.Subscription, "messages_hour", 0)
	refused := message(1001, "alice", 1)
	decisions, err := store.Decide(t.Context(), []quota.Message{refused})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		m    quota.Message
		at   time.Time
	}{
		{"a refused one", refused, decisions[0].At},
		{"one that was never seen", message(1001, "alice", 1), at},
		{"another time", m, at.Add(time.Microsecond)},
		{"a day without a partition", m, at.AddDate(-1, 0, 0)},
	} {
		if err := store.GiveBack(t.Context(), c.m.ID, c.at); !errors.Is(err, quota.ErrNoRow) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	if n := number(t, pool, `SELECT count(*) FROM returned`); n != 0 {
		t.Errorf("%d rows of returned", n)
	}
	if n := used(t, store, "subscription:alice", "messages/hour"); n != 1 {
		t.Errorf("%d used, want 1", n)
	}
}

// TestGiveBackForgiven: what an administrator has forgiven is not given back again.
func TestGiveBackForgiven(t *testing.T) {
	store, pool := newStore(t)
	_, alice, _, err := store.EnsureUser(t.Context(), 1001, "alice")
	if err != nil {
		t.Fatal(err)
	}
	m := message(1001, "alice", 3)
	at := accept(t, store, m).At
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := store.Forgive(t.Context(), tx, alice)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	giveBack(t, store, m, at)
	for object, want := range map[string]int64{"subscription:alice": 0, "user:alice": 0, "server": 0} {
		if n := used(t, store, object, "recipients/hour"); n != want {
			t.Errorf("%s: %d used, want %d", object, n, want)
		}
	}
	accept(t, store, message(1001, "alice", 2))
	if n := used(t, store, "subscription:alice", "recipients/day"); n != 2 {
		t.Errorf("%d used, want 2", n)
	}
	prove(t, store, pool)
}

// TestAgainProbeGiveBack: whatever is asked, and asked again, on two hosts, the
// counters are the rows less what was given back, and what was accepted stays so.
func TestAgainProbeGiveBack(t *testing.T) {
	database := testpg.NewAs(t, "mailquotad")
	pool := daemonPool(t, database)
	stores := []*quota.Store{quota.NewStore(pool, "host1", 1000), quota.NewStore(daemonPool(t, database), "host2", 1000)}
	if err := stores[0].Maintain(t.Context(), 31, 31); err != nil {
		t.Fatal(err)
	}
	domain, alice := sites(t, stores[0], pool)
	setLimit(t, pool, alice, quota.Subscription, "recipients_hour", 60)
	setLimit(t, pool, domain, quota.Domain, "messages_hour", 25)
	queues := []*quota.Queue{newQueue(t, stores[0], 8), newQueue(t, stores[1], 8)}
	defer queues[0].Close()
	defer queues[1].Close()

	type asked struct {
		quota.Message
		host     int
		accepted time.Time // zero: not yet
	}
	worker := func(seed uint64) {
		random := rand.New(rand.NewPCG(seed, 7))
		var mine []*asked
		for range 120 {
			var a *asked
			if len(mine) > 0 && random.IntN(2) == 0 {
				a = mine[random.IntN(len(mine))]
			} else {
				a = &asked{Message: message(1001, "alice", 1+random.IntN(3)), host: random.IntN(2)}
				if random.IntN(2) == 0 {
					a.NoUser, a.OnBehalf = true, []string{"info@a.example", "x@a.example", "x@b.example"}[random.IntN(3)]
				}
				mine = append(mine, a)
			}
			if !a.accepted.IsZero() && random.IntN(4) == 0 {
				if err := stores[a.host].GiveBack(t.Context(), a.ID, a.accepted); err != nil {
					t.Error(err)
				}
				continue
			}
			m := a.Message
			m.Probe, m.Again = random.IntN(4) == 0, true
			d, err := queues[a.host].Submit(t.Context(), m)
			switch {
			case err != nil:
				t.Error(err)
			case !a.accepted.IsZero() && (d.Refusal != nil || !d.At.Equal(a.accepted)):
				t.Errorf("accepted at %s, then %+v", a.accepted, d)
			case d.Refusal == nil && !m.Probe:
				a.accepted = d.At
			}
		}
	}
	var wg sync.WaitGroup
	for seed := range uint64(6) {
		wg.Go(func() { worker(seed) })
	}
	wg.Wait()

	if n := number(t, pool, `SELECT count(*) FROM (SELECT id FROM messages WHERE decision <> 2 GROUP BY id HAVING count(*) > 1) twice`); n != 0 {
		t.Errorf("%d messages were accepted twice", n)
	}
	for _, kind := range []string{"decision = 2", "decision <> 2", "(id, at) IN (SELECT id, at FROM returned)"} {
		if number(t, pool, `SELECT count(*) FROM messages WHERE `+kind) == 0 {
			t.Errorf("no message with %s: the test shows nothing", kind)
		}
	}
	for object, column := range map[string]string{"user:alice": "user_id", "mailbox:info@a.example": "mailbox_id", "domain:a.example": "domain_id",
		"subscription:alice": "subscription_id", "server": "6::bigint << 40"} {
		o, err := quota.ParseObject(object)
		if err != nil {
			t.Fatal(err)
		}
		id, err := stores[0].Find(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		for limit, sum := range map[string]string{"messages": "count(*)", "recipients": "coalesce(sum(recipients), 0)"} {
			rows := number(t, pool, fmt.Sprintf(`SELECT %s FROM messages m WHERE decision <> 2 AND %s = $1 AND (id, at) NOT IN (SELECT id, at FROM returned)`, sum, column), id)
			for _, window := range []string{"/hour", "/day"} {
				if n := used(t, stores[0], object, limit+window); n != rows {
					t.Errorf("%s %s: %d used, %d in rows that were not given back", object, limit+window, n, rows)
				}
			}
		}
	}
	prove(t, stores[0], pool)
}

// TestReturnedIsDropped with its messages.
func TestReturnedIsDropped(t *testing.T) {
	store, pool := newStore(t)
	now := time.Now().UTC()
	for _, days := range []int{3, 30, 31, 32, 40} {
		if _, err := pool.Exec(t.Context(), `INSERT INTO returned (at, id) SELECT $1, gen_random_uuid() FROM generate_series(1, 700)`, now.AddDate(0, 0, -days)); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Maintain(t.Context(), 31, 31); err != nil {
		t.Fatal(err)
	}
	rows, err := pool.Query(t.Context(), `SELECT DISTINCT at::date::text FROM returned ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	var want []string
	for _, days := range []int{31, 30, 3} {
		want = append(want, now.AddDate(0, 0, -days).Format(time.DateOnly))
	}
	if err != nil || !slices.Equal(left, want) {
		t.Errorf("%v are left, want %v (%v)", left, want, err)
	}
}
