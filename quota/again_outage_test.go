package quota_test

import (
	"fmt"
	"testing"
	"time"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/tests/testpg"
)

// submit decides about a message: "accepted", or what refused it.
func (o *outage) submit(q *quota.Queue, m quota.Message) string {
	o.Helper()
	d, err := q.Submit(o.Context(), m)
	if err != nil {
		o.Fatal(err)
	}
	return outcome(&d)
}

// repeat asks several times about one message.
func (o *outage) repeat(q *quota.Queue, m quota.Message, want string) {
	o.Helper()
	for n := range 3 {
		if got := o.submit(q, m); got != want {
			o.Errorf("%d. time: %s, want %s", n+1, got, want)
		}
	}
}

func againMessage(made time.Time) quota.Message {
	m := message(1001, "alice", 1)
	m.ID, m.Again = idOf(made), true
	return m
}

// TestAgainInOutage: what was accepted before the outage or in it is accepted, and
// charged once; what was refused is decided anew.
func TestAgainInOutage(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(5)
	q := o.host("host1", o.journal)
	const full = "subscription:alice messages/hour"
	now := time.Now()
	before, old, within, late := againMessage(now), againMessage(now.Add(-48*time.Hour)), againMessage(now), againMessage(now)
	o.repeat(q, before, "accepted")
	o.repeat(q, old, "accepted")
	// As if it had been accepted two days ago, and not lately.
	number(t, o.owner, `SELECT make_partitions((now() AT TIME ZONE 'UTC')::date - 3, 3)`)
	forgotten := againMessage(now.Add(-48 * time.Hour))
	if _, err := o.owner.Exec(t.Context(), insertRowOf, now.Add(-47*time.Hour), forgotten.ID); err != nil {
		t.Fatal(err)
	}

	o.away()
	o.repeat(q, before, "accepted")
	o.expect("decisions in the journal", q.State().Journal.Messages, 0)
	o.repeat(q, within, "accepted")
	o.repeat(q, old, "accepted")
	o.expect("decisions in the journal", q.State().Journal.Messages, 1)
	if got := o.submit(q, forgotten); got != "accepted" {
		t.Errorf("one of which nothing is known is decided anew: %s", got)
	}
	o.submit(q, message(1001, "alice", 1))
	o.repeat(q, late, full)
	o.repeat(q, within, "accepted")

	// Killed: of what was accepted before the outage nothing is known any more.
	killed := o.copyJournal()
	q.Close()
	second := o.host("host1", killed)
	o.repeat(second, within, "accepted")
	o.repeat(second, before, full)
	again := o.copyJournalOf(killed)
	o.back(second)
	// Of what was forgotten, before, old, within, one more, and one refusal of late.
	o.booked(second, "subscription:alice", 4, 1+4+1)
	o.repeat(second, before, "accepted")
	o.repeat(second, forgotten, "accepted")
	o.booked(second, "subscription:alice", 4, 1+4+1)
	third := o.host("host1", again) // killed after the booking, before it noted it
	o.booked(third, "subscription:alice", 4, 1+4+1)
	o.repeat(third, late, "accepted")
	o.booked(third, "subscription:alice", 5, 1+5+1)
}

const insertRowOf = `INSERT INTO messages (at, id, size, host_id, recipients, decision, sender, kind) VALUES ($1, $2, 1, 1, 1, 1, '', 'forward')`

// TestRefusedThenAcceptedInOutage: of one message that was refused first and accepted
// later, both are booked.
func TestRefusedThenAcceptedInOutage(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(100)
	o.sql(`INSERT INTO exception (kind, object_id, until, actor) SELECT 'block', id, now() + interval '4 seconds', 'x' FROM subscription WHERE name = 'alice'`)
	q := o.host("host1", o.journal)
	o.submit(q, message(1001, "alice", 1))
	o.away()
	m := againMessage(time.Now())
	if got := o.submit(q, m); got == "accepted" {
		t.Fatal("the block does not hold")
	}
	for end := time.Now().Add(20 * time.Second); o.submit(q, m) != "accepted"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the block holds for ever")
		}
	}
	o.repeat(q, m, "accepted")
	o.back(q)
	o.reached(q)
	o.expect("rows of the accepted message", int(number(t, o.owner, `SELECT count(*) FROM messages WHERE id = $1 AND decision = 1`, m.ID)), 1)
	o.expect("used", int(used(t, quota.NewStore(o.owner, "host1", 1000), "subscription:alice", "messages/hour")), 1)
	prove(t, quota.NewStore(o.owner, "host1", 1000), o.owner)
}

// TestProbeInOutage: it is decided, and only a refusal is written down.
func TestProbeInOutage(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(2)
	q := o.host("host1", o.journal)
	o.submit(q, message(1001, "alice", 1))
	o.away()
	probe := func() quota.Message {
		m := message(1001, "alice", 1)
		m.Probe = true
		return m
	}
	o.repeat(q, probe(), "accepted")
	o.expect("decisions in the journal", q.State().Journal.Messages, 0)
	o.submit(q, message(1001, "alice", 1))
	if got := o.submit(q, probe()); got != "subscription:alice messages/hour" {
		t.Error(got)
	}
	o.expect("decisions in the journal", q.State().Journal.Messages, 2)
	o.back(q)
	o.booked(q, "subscription:alice", 2, 3)
}

// TestOnBehalfInOutage: it is charged to the same objects, as far as they are known;
// without a user and a known domain, to the server, whose mode holds also after a
// restart.
func TestOnBehalfInOutage(t *testing.T) {
	o := newOutage(t)
	store := newStoreOn(t, testpg.As(o.database, "mailquotad"))
	domain, _ := sites(t, store, o.owner)
	setLimit(t, o.owner, domain, quota.Domain, "messages_hour", 4)
	setLimit(t, o.owner, quota.ServerID, quota.Server, "messages_hour", 5)
	o.sql(`UPDATE server SET mode = 'observe'`)
	o.sql(`UPDATE subscription SET mode = 'enforce' WHERE name = 'alice'`)
	forward := func(address string) quota.Message {
		m := message(0, "", 1)
		m.OnBehalf, m.NoUser = address, true
		return m
	}
	q := o.host("host1", o.journal)
	o.submit(q, forward("info@a.example"))
	o.away()
	const full = "domain:a.example messages/hour"
	got := fmt.Sprint(o.submit(q, forward("Info@a.example")), o.submit(q, forward("x@a.example")), o.submit(q, forward("y@a.example")), o.submit(q, forward("info@a.example")))
	if want := fmt.Sprint("accepted", "accepted", "accepted", full); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	killed := o.copyJournal()
	q.Close()
	second := o.host("host1", killed)
	for range 3 {
		if o.submit(second, forward("x@b.example")) != "accepted" || o.submit(second, forward("")) != "accepted" {
			t.Error("the server's mode is not known any more")
		}
	}
	user := message(1001, "alice", 1)
	user.OnBehalf = "x@b.example"
	if o.submit(second, user) == "accepted" { // it is alice's, who has one domain
		t.Error("a user's mail for a stranger's address is not charged to him")
	}
	o.back(second)
	o.booked(second, "domain:a.example", 4, 12)
	store = quota.NewStore(o.owner, "host1", 1000)
	o.expect("used of the mailbox", int(used(t, store, "mailbox:info@a.example", "messages/hour")), 2)
	o.expect("used of the server", int(used(t, store, "server", "messages/hour")), 10)
	o.expect("rows of observation", int(number(t, o.owner, `SELECT count(*) FROM messages WHERE decision = 3`)), 5)
}
