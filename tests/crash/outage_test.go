package crash

import (
	"fmt"
	"maps"
	"testing"

	"sendmail-wrapper/quota"
)

// outage is a host, and a sender with a limit of 100 messages of which 50 are
// used. The sender is a mailbox, or a user where mailbox is "".
type outage struct {
	p       *postgres
	h       *host
	l       *ledger
	mailbox string
	limits  map[quota.Class]limit
}

// briefly is how long a daemon waits for its database in these tests: not so
// long that they take for ever, nor so short that a slow machine looks like an
// outage.
const briefly = `"2s"`

func newOutage(t *testing.T, p *postgres, database string, byMailbox bool, settings map[string]string) *outage {
	t.Helper()
	o := &outage{p: p, l: newLedger(), limits: map[quota.Class]limit{quota.User: {100, 1000}, quota.Mailbox: {100, 1000}}}
	p.setLimits(t, o.limits)
	if byMailbox {
		o.mailbox = p.addDomain(t, "a.example", 1)[0]
	}
	all := map[string]string{"decision-timeout": briefly}
	maps.Copy(all, settings)
	o.h = newHost(t, "host1", database, all)
	o.h.awaitWell(t)
	if n := o.send(t, "before", 50); n != 50 {
		t.Fatalf("%d of 50 accepted before the outage", n)
	}
	return o
}

func (o *outage) send(t *testing.T, name string, messages int) (accepted int) {
	t.Helper()
	return o.l.sendAll(t, o.h, name, o.mailbox, messages, 16)
}

// end waits until all is booked, and checks it.
func (o *outage) end(t *testing.T, accepted, rows int64) {
	t.Helper()
	o.h.awaitWell(t)
	o.l.check(t, o.p, o.limits)
	if n := o.p.number(t, `SELECT count(*) FROM messages WHERE decision = 1`); n != accepted {
		t.Errorf("%d rows accepted, want %d", n, accepted)
	}
	if n := o.p.number(t, `SELECT count(*) FROM messages`); n != rows {
		t.Errorf("%d rows, want %d", n, rows)
	}
}

// TestOutage: 50 of 100 used, the database goes, 300 attempts on one host:
// exactly 50 pass, and all is counted afterwards.
func TestOutage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		byMailbox bool
		during    func(*testing.T, *outage) (accepted int) // from the last message before to the database's return
	}{
		{"stopped", true, func(t *testing.T, o *outage) int {
			o.p.stop(t)
			return o.send(t, "during", 300)
		}},
		{"stopped, users of sendmail", false, func(t *testing.T, o *outage) int {
			o.p.stop(t)
			return o.send(t, "during", 300)
		}},
		{"killed", true, func(t *testing.T, o *outage) int {
			o.p.kill(t)
			return o.send(t, "during", 300)
		}},
		{"mailquotad killed in mid-outage", true, func(t *testing.T, o *outage) int {
			o.p.stop(t)
			n := o.send(t, "during", 130)
			o.h.kill(t)
			o.h.start(t)
			return n + o.send(t, "later", 170)
		}},
		{"mailquotad killed twice in mid-outage, users of sendmail", false, func(t *testing.T, o *outage) int {
			o.p.kill(t)
			n := o.send(t, "during", 20)
			o.h.kill(t)
			o.h.start(t)
			n += o.send(t, "later", 20)
			o.h.kill(t)
			o.h.start(t)
			return n + o.send(t, "last", 260)
		}},
		{"mailquotad restarted in mid-outage", true, func(t *testing.T, o *outage) int {
			o.p.stop(t)
			n := o.send(t, "during", 20)
			o.h.stop(t)
			o.h.start(t)
			return n + o.send(t, "later", 280)
		}},
		{"mailquotad stopped, then started without the database", true, func(t *testing.T, o *outage) int {
			o.h.stop(t)
			o.p.stop(t)
			o.h.start(t)
			return o.send(t, "during", 300)
		}},
		{"database back and gone again", true, func(t *testing.T, o *outage) int {
			o.p.stop(t)
			n := o.send(t, "during", 20)
			o.p.start(t)
			o.h.awaitWell(t)
			n += o.send(t, "between", 10)
			o.p.kill(t)
			return n + o.send(t, "later", 270)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPostgres(t)
			o := newOutage(t, p, p.forHosts(), c.byMailbox, nil)
			if n := c.during(t, o); n != 50 {
				t.Errorf("%d accepted in the outage, want 50", n)
			}
			p.start(t)
			o.end(t, 100, 350)
		})
	}
}

// TestKillWhileBooking kills at the moment when a part of the journal is booked
// and the next part is under way: the rows that it is about are locked then.
func TestKillWhileBooking(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		kill func(*testing.T, *outage)
	}{
		{"mailquotad", func(t *testing.T, o *outage) {
			o.h.kill(t)
			o.h.start(t)
		}},
		{"PostgreSQL", func(t *testing.T, o *outage) {
			o.p.kill(t)
			o.p.start(t)
		}},
		{"both", func(t *testing.T, o *outage) {
			o.h.kill(t)
			o.p.kill(t)
			o.p.start(t)
			o.h.start(t)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPostgres(t)
			o := newOutage(t, p, p.forHosts(), true, nil)
			second := p.addDomain(t, "b.example", 1)[0]
			o.l.sendAll(t, o.h, "second-before", second, 50, 4)
			p.hide(t)
			p.stop(t)
			if n := o.send(t, "during", 600); n != 50 {
				t.Errorf("%d accepted in the outage, want 50", n)
			}
			if n := o.l.sendAll(t, o.h, "second-during", second, 600, 16); n != 50 {
				t.Errorf("%d of the second mailbox accepted in the outage, want 50", n)
			}
			p.start(t)
			release := p.holdLock(t, `id = (SELECT id FROM mailbox WHERE address = 'm0@b.example')`)
			p.show(t)
			p.awaitNumber(t, 1, waitingForLocks)
			c.kill(t, o)
			release()
			o.end(t, 200, 1300)
		})
	}
}

// TestStale: a daemon killed while the database worked, and started without it,
// cannot know what was sent since it last wrote down what it knew: it grants
// its journal-share.
func TestStale(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	o := newOutage(t, p, p.forHosts(), true, map[string]string{"journal-share": "10"})
	o.h.stop(t)
	o.h.start(t)
	o.h.awaitWell(t)
	o.send(t, "more", 10) // which it knows, but has not written down
	o.h.kill(t)
	p.stop(t)
	o.h.start(t)
	n := o.send(t, "during", 100)
	if n < 1 || n > 10 {
		t.Errorf("%d accepted, want some, and at most the share of 10", n)
	}
	p.start(t)
	o.h.awaitWell(t)
	o.l.check(t, p, o.limits)
}

// TestUnknownInOutage: of a sender that was never heard of, a host grants its
// journal-share of the default limit.
func TestUnknownInOutage(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	o := newOutage(t, p, p.forHosts(), true, map[string]string{"journal-share": "20"})
	p.addDomain(t, "b.example", 1)
	p.stop(t)
	for i, mailbox := range []string{"new@a.example", "m0@b.example", ""} {
		if n := o.l.sendAll(t, o.h, fmt.Sprintf("during%d", i), mailbox, 60, 8); n < 1 || n > 20 {
			t.Errorf("%d of %q accepted, want some, and at most the share of 20", n, mailbox)
		}
	}
	p.start(t)
	o.h.awaitWell(t)
	o.l.check(t, p, o.limits)
}

// TestNeverReached: a daemon that knows nothing at all decides nothing.
func TestNeverReached(t *testing.T) {
	t.Parallel()
	p := newStoppedPostgres(t)
	h := newHost(t, "host1", p.forHosts(), map[string]string{"decision-timeout": briefly})
	l := newLedger()
	l.sendAll(t, h, "mailbox", "m0@a.example", 5, 1)
	l.sendAll(t, h, "user", "", 5, 1)
	if n := l.count(undecided); n != 10 {
		t.Errorf("%d of 10 undecided", n)
	}
	p.start(t)
	h.awaitWell(t)
	if l.sendAll(t, h, "later", "", 5, 1) != 5 {
		t.Error("not accepted once the database is there")
	}
	l.check(t, p, nil)
}

// TestMissingPartitions: nobody has made the tables in which rows of today go.
func TestMissingPartitions(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	p.exec(t, `DO $$ DECLARE part text; BEGIN
		FOR part IN SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'messages'::regclass LOOP
			EXECUTE 'DROP TABLE ' || part;
		END LOOP; END $$`)
	newOutage(t, p, p.forHosts(), true, nil).end(t, 50, 50)
}

// TestWithoutJournal: on-database-down = accept or refuse says what becomes of
// mail meanwhile, and nothing of it is recorded.
func TestWithoutJournal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		down string
		want answer
	}{{"accept", accepted}, {"refuse", undecided}} {
		t.Run(c.down, func(t *testing.T) {
			t.Parallel()
			p := newPostgres(t)
			o := newOutage(t, p, p.forHosts(), true, map[string]string{"on-database-down": quoted(c.down)})
			p.stop(t)
			for _, mailbox := range []string{o.mailbox, ""} {
				l := newLedger() // whose answers are not to be found in rows
				l.sendAll(t, o.h, "during", mailbox, 60, 16)
				if n := l.count(c.want); n != 60 {
					t.Errorf("%d of 60 of %q were %v: %v", n, mailbox, c.want, l.counts)
				}
			}
			p.start(t)
			o.h.awaitWell(t)
			if n := o.send(t, "after", 60); n != 50 {
				t.Errorf("%d accepted after the outage, want 50", n)
			}
			o.end(t, 100, 110)
		})
	}
}

// TestJournalOfRefusals: a journal that is half full takes no refusals any more,
// which cost their sender nothing; it still takes what is accepted.
func TestJournalOfRefusals(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	o := newOutage(t, p, p.forHosts(), true, map[string]string{"journal-limit": "1000"})
	second := p.addDomain(t, "b.example", 1)[0]
	o.l.sendAll(t, o.h, "second", second, 50, 8)
	p.stop(t)
	if n := o.send(t, "during", 1500); n != 50 {
		t.Errorf("%d accepted, want 50", n)
	}
	if n := o.l.sendAll(t, o.h, "second-during", second, 60, 8); n != 50 {
		t.Errorf("%d of the second mailbox accepted, want 50", n)
	}
	s, err := o.h.status()
	must(t, err)
	if o.l.unrecorded = 1500 - 500 + 10; s.Journal.Unrecorded != o.l.unrecorded {
		t.Errorf("%+v: want %d refusals that are not recorded", s, o.l.unrecorded)
	}
	p.start(t)
	o.end(t, 200, 100+500+50)
}

// TestFullJournal: a journal that is full takes nothing, and nothing is accepted.
func TestFullJournal(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	o := newOutage(t, p, p.forHosts(), true, map[string]string{"journal-limit": "1000"})
	o.limits = map[quota.Class]limit{quota.Mailbox: {5000, 5000}}
	p.setLimits(t, o.limits)
	o.send(t, "seen", 1) // so that the daemon knows it
	p.stop(t)
	n := o.send(t, "during", 1500)
	if n > 1000 || n < 1000-16 { // a batch is taken as a whole
		t.Errorf("%d accepted, want 1000 or nearly so", n)
	}
	if u := o.l.count(undecided); u != 1500-n {
		t.Errorf("%d undecided, want all but the %d accepted", u, n)
	}
	o.h.kill(t)
	o.h.start(t)
	if n := o.send(t, "later", 20); n > 16 {
		t.Errorf("%d more accepted after a restart", n)
	}
	p.start(t)
	o.h.awaitWell(t)
	if n := o.send(t, "after", 20); n != 20 {
		t.Errorf("%d of 20 accepted once it is booked", n)
	}
	o.h.awaitWell(t)
	o.l.check(t, p, o.limits)
}
