package quota_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/tests/testpg"
)

// subscription is alice's, whose limit is set.
func (o *outage) subscription() quota.ID {
	return quota.ID(number(o, o.owner, `SELECT id FROM subscription WHERE name = 'alice'`))
}

func (o *outage) sql(sql string, args ...any) {
	o.Helper()
	if _, err := o.owner.Exec(o.Context(), sql, args...); err != nil {
		o.Fatal(err)
	}
}

func (o *outage) grant(g quota.Grant) {
	o.Helper()
	id := o.subscription()
	err := pgx.BeginFunc(o.Context(), o.owner, func(tx pgx.Tx) error {
		_, err := new(quota.Store).Grant(o.Context(), tx, id, g)
		return err
	})
	if err != nil {
		o.Fatal(err)
	}
}

// left is what alice's subscription has left of its allowance.
func (o *outage) left() (messages int) {
	o.Helper()
	list, err := quota.NewStore(o.owner, "host1", 1000).Usage(context.Background(), []quota.Object{{Class: quota.Subscription, Name: "alice"}})
	if err != nil {
		o.Fatal(err)
	}
	if g := list[0].Grants; g != nil {
		messages = int(g.Messages)
	}
	return messages
}

// TestGrantInOutage: an allowance is used up without the database as with it, by
// a host that is killed meanwhile, too, and is booked once.
func TestGrantInOutage(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(10)
	o.grant(quota.Grant{Messages: 20, Until: time.Now().Add(time.Hour)})
	q := o.host("host1", o.journal)
	accepted, refused := o.send(q, 12, 1001, "alice")
	o.expect("accepted before", accepted, 12)
	o.expect("refused before", refused, 0)
	o.expect("left of the allowance", o.left(), 18)
	o.away()
	accepted, _ = o.send(q, 8, 1001, "alice")
	o.expect("accepted away", accepted, 8)
	killed := o.host("host1", o.copyJournal())
	accepted, refused = o.send(killed, 20, 1001, "alice")
	o.expect("accepted after the kill", accepted, 10)
	o.expect("refused after the kill", refused, 10)
	accepted, _ = o.send(q, 20, 1001, "alice") // the one that was not killed knows nothing of it
	o.expect("accepted by the other life", accepted, 10)
	o.back(killed)
	o.expect("left after the booking", o.left(), 0)
	o.back(q)
	o.expect("never less than nothing", o.left(), 0)
	o.booked(q, "subscription:alice", 10, 12+8+20+20)
}

// TestRaiseInOutage ends by the clock, and is known after a restart.
func TestRaiseInOutage(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(5)
	id := o.subscription()
	o.sql(`INSERT INTO exception (kind, object_id, limit_no, value, until, actor) VALUES ('raise', $1, 0, 8, now() + interval '1 hour', 'root'),
		('raise', $1, 0, 100, clock_timestamp() + interval '100 ms', 'root')`, id)
	q := o.host("host1", o.journal)
	<-q.Reached()
	if err := quota.StoreOf(q).Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	accepted, _ := o.send(q, 1, 1001, "alice")
	o.expect("accepted before", accepted, 1)
	time.Sleep(100 * time.Millisecond) // until the higher one has ended
	o.away()
	accepted, _ = o.send(q, 4, 1001, "alice")
	o.expect("accepted away", accepted, 4)
	again := o.host("host1", o.copyJournal())
	accepted, refused := o.send(again, 10, 1001, "alice")
	o.expect("accepted after a kill", accepted, 3)
	o.expect("refused after a kill", refused, 7)
	o.back(again)
	o.booked(again, "subscription:alice", 8, 15)
}

// TestModeAndBlockInOutage: observed and blocked mail is so without the database,
// and its rows say so.
func TestModeAndBlockInOutage(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(3)
	id := o.subscription()
	o.sql(`UPDATE server SET mode = 'observe'`)
	o.sql(`INSERT INTO subscription (plan_id, name) SELECT plan_id, 'bob' FROM subscription WHERE id = $1`, id)
	store := newStoreOn(t, testpg.As(o.database, "mailquotad"))
	if _, _, _, err := store.EnsureUser(t.Context(), 1002, "bob"); err != nil {
		t.Fatal(err)
	}
	o.sql(`INSERT INTO exception (kind, object_id, actor) SELECT 'block', id, 'root' FROM subscription WHERE name = 'bob'`)
	q := o.host("host1", o.journal)
	<-q.Reached()
	o.send(q, 1, 1001, "alice")
	_, refused := o.send(q, 1, 1002, "bob")
	o.expect("blocked before", refused, 1)
	o.away()
	accepted, _ := o.send(q, 6, 1001, "alice")
	o.expect("let through", accepted, 6)
	d, err := q.Submit(t.Context(), message(1001, "alice", 1))
	if err != nil || d.Observed == nil || len(d.Events) != 1 || d.Events[0].Kind != quota.EventObserved || d.Events[0].ID != id {
		t.Errorf("%+v, %v", d, err)
	}
	d, err = q.Submit(t.Context(), message(1002, "bob", 1))
	if err != nil || d.Refusal == nil || !d.Refusal.Blocked || d.Refusal.Code() != "554 5.7.1" {
		t.Errorf("%+v, %v", d, err)
	}
	o.back(q)
	o.booked(q, "subscription:alice", 8, 10)
	o.expect("observed rows", int(number(t, o.owner, `SELECT count(*) FROM messages WHERE decision = 3 AND refused_object = $1 AND refused_limit = 0`, id)), 5)
	o.expect("blocked rows", int(number(t, o.owner, `SELECT count(*) FROM messages m JOIN subscription s ON s.id = m.refused_object
		WHERE s.name = 'bob' AND decision = 2 AND refused_limit IS NULL AND refused_why = 'subscription bob is blocked by the administrator'`)), 2)
}

// TestResetBeforeOutage: what is booked after a reset counts.
func TestResetBeforeOutage(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(4)
	q := o.host("host1", o.journal)
	accepted, _ := o.send(q, 6, 1001, "alice")
	o.expect("accepted at first", accepted, 4)
	id := o.subscription()
	err := pgx.BeginFunc(t.Context(), o.owner, func(tx pgx.Tx) error {
		_, err := quota.StoreOf(q).Forgive(t.Context(), tx, id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	accepted, _ = o.send(q, 1, 1001, "alice")
	o.expect("accepted after the reset", accepted, 1)
	o.away()
	accepted, _ = o.send(q, 6, 1001, "alice")
	o.expect("accepted away", accepted, 3)
	o.back(q)
	o.booked(q, "subscription:alice", 4, 13)
}
