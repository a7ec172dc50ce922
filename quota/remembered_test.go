package quota_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/tests/testpg"
)

// decideOne decides one message of alice.
func decideOne(t *testing.T, store *quota.Store) quota.Decision {
	t.Helper()
	decisions, err := store.Decide(t.Context(), []quota.Message{message(1001, "alice", 1)})
	if err != nil {
		t.Fatal(err)
	}
	return decisions[0]
}

// TestRemembered: what a store remembers is used only as long as it is right.
func TestRemembered(t *testing.T) {
	database := testpg.New(t)
	owner := connect(t, database)
	store := newStoreOn(t, testpg.As(database, "mailquotad"))
	_, alice, _, err := store.EnsureUser(t.Context(), 1001, "alice")
	if err != nil {
		t.Fatal(err)
	}
	setLimit(t, owner, alice, quota.Subscription, "messages_hour", 5)
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := owner.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	trips := func() int64 { return quota.RememberedOf(store) }
	expect := func(what string, accepted, remembered bool) {
		t.Helper()
		before := trips()
		if d := decideOne(t, store); (d.Refusal == nil) != accepted {
			t.Errorf("%s: %+v", what, d.Refusal)
		}
		if (trips() > before) != remembered {
			t.Errorf("%s: by memory %v", what, !remembered)
		}
		quota.Trust(store)
	}
	expect("the first", true, false)
	expect("the second", true, true)
	other := newStoreOn(t, testpg.As(database, "mailquotad"))
	decideOne(t, other)
	expect("after somebody else's", true, false) // the fourth
	expect("the fifth", true, true)
	expect("the sixth", false, true)
	setLimit(t, owner, alice, quota.Subscription, "messages_hour", 6)
	expect("after a change of the limit", true, false)
	expect("beyond it", false, true)
	exec(`UPDATE usage SET state = '', version = -1 WHERE id = $1`, alice)
	expect("after the counter was reset", true, false)
	quota.TurnClock(store, 5*time.Second)
	before := time.Now()
	expect("by a clock that is wrong", true, false)
	if at := decideOne(t, store).At; at.After(before.Add(4 * time.Second)) {
		t.Errorf("decided at %v, it was %v", at, before)
	}
	exec(`UPDATE system_user SET removed_at = now() WHERE uid = 1001`)
	expect("after the user was removed", true, false) // he is made again
	if n := number(t, owner, `SELECT count(*) FROM system_user WHERE uid = 1001`); n != 2 {
		t.Errorf("%d users of one uid", n)
	}
}

// TestChangeWhileWaiting: a limit that changes while a decision waits for its
// locks, and of which a heartbeat hears first, holds for the next message.
func TestChangeWhileWaiting(t *testing.T) {
	database := testpg.New(t)
	owner := connect(t, database)
	store := newStoreOn(t, testpg.As(database, "mailquotad"))
	decideOne(t, store)
	tx, err := owner.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT FROM usage WHERE id = $1 FOR UPDATE`, quota.ServerID); err != nil {
		t.Fatal(err)
	}
	quota.Distrust(store)
	var waiting sync.WaitGroup
	waiting.Go(func() { decideOne(t, store) })
	for number(t, owner, `SELECT count(*) FROM pg_locks WHERE NOT granted`) == 0 {
		time.Sleep(time.Millisecond)
	}
	setLimit(t, owner, quota.ServerID, quota.Server, "messages_hour", 0)
	if err := store.Heartbeat(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	waiting.Wait()
	if d := decideOne(t, store); d.Refusal == nil {
		t.Error("accepted after a limit of 0")
	}
}

// TestChangeUnderLoad: a limit that is committed holds for each message that comes
// afterwards, on all hosts; so does its end.
func TestChangeUnderLoad(t *testing.T) {
	database := testpg.New(t)
	owner := connect(t, database)
	var queues []*quota.Queue
	for range 2 {
		q := newQueue(t, newStoreOn(t, testpg.As(database, "mailquotad")), 32)
		defer q.Close()
		queues = append(queues, q)
	}
	var changes atomic.Int64 // odd: forbidden
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var accepted, wrong, refused atomic.Int64
	for i := range 16 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				before := changes.Load()
				d, err := queues[i%2].Submit(t.Context(), message(1001+uint32(i%3), []string{"alice", "bob", "carol"}[i%3], 1))
				switch {
				case err != nil:
					t.Errorf("submit: %v", err)
					return
				case d.Refusal != nil:
					refused.Add(1)
				case before%2 == 1 && changes.Load() == before:
					wrong.Add(1)
				default:
					accepted.Add(1)
				}
			}
		})
	}
	wait := func(n *atomic.Int64) {
		for start := n.Load(); n.Load() < start+50 && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
	}
	for range 3 {
		wait(&accepted)
		setLimit(t, owner, quota.ServerID, quota.Server, "messages_hour", 0)
		changes.Add(1)
		wait(&refused)
		changes.Add(1)
		setLimit(t, owner, quota.ServerID, quota.Server, "messages_hour", -1)
	}
	close(stop)
	wg.Wait()
	if n := wrong.Load(); n > 0 {
		t.Errorf("%d accepted after a limit of 0 was committed", n)
	}
	prove(t, quota.NewStore(owner, "host1", 1000), owner)
}
