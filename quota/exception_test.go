package quota_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/tests/testpg"
)

// server is a database, two hosts that use it, and alice, who may send two
// messages an hour.
type server struct {
	*testing.T
	owner      *pgxpool.Pool
	one, other *quota.Store
	alice      quota.ID // the subscription
}

func newServer(t *testing.T) *server {
	database := testpg.New(t)
	s := &server{T: t, owner: connect(t, database), one: newStoreOn(t, testpg.As(database, "mailquotad"))}
	s.other = quota.NewStore(daemonPool(t, testpg.As(database, "mailquotad")), "host2", 1000)
	_, alice, _, err := s.one.EnsureUser(t.Context(), 1001, "alice")
	if err != nil {
		t.Fatal(err)
	}
	s.alice = alice
	setLimit(t, s.owner, alice, quota.Subscription, "messages_hour", 2)
	return s
}

func (s *server) exec(sql string, args ...any) {
	s.Helper()
	if _, err := s.owner.Exec(s.Context(), sql, args...); err != nil {
		s.Fatal(err)
	}
}

// send sends a message of alice's by one of the hosts.
func (s *server) send(store *quota.Store) quota.Decision {
	return s.decide(store, message(1001, "alice", 1))
}

func (s *server) decide(store *quota.Store, m quota.Message) quota.Decision {
	s.Helper()
	d, err := store.Decide(s.Context(), []quota.Message{m})
	if err != nil {
		s.Fatal(err)
	}
	return d[0]
}

// change changes what an object has used.
func (s *server) change(what func(tx pgx.Tx) (string, error)) (before string) {
	s.Helper()
	err := pgx.BeginFunc(s.Context(), s.owner, func(tx pgx.Tx) (err error) {
		before, err = what(tx)
		return err
	})
	if err != nil {
		s.Fatal(err)
	}
	return before
}

func (s *server) expect(what string, d quota.Decision, want string) {
	s.Helper()
	got := "accepted"
	switch {
	case d.Refusal != nil:
		got = "refused by " + d.Refusal.By()
	case d.Observed != nil:
		got = "observed by " + d.Observed.By()
	}
	if got != want {
		s.Errorf("%s: %s, want %s", what, got, want)
	}
}

const limited = "subscription:alice messages/hour"

// TestModes: the nearest mode that is set holds, from the next message on, on the
// other host as well, and for a mailbox as for a user.
func TestModes(t *testing.T) {
	s := newServer(t)
	s.exec(`INSERT INTO domain (subscription_id, name) VALUES ($1, 'a.example')`, s.alice)
	box := mailboxMessage("x@a.example")
	for range 2 {
		s.expect("at first", s.send(s.one), "accepted")
	}
	for _, step := range []struct{ table, mode, user, mailbox string }{
		{"server", "observe", "observed by " + limited, "observed by " + limited},
		{"plan", "enforce", "refused by " + limited, "refused by " + limited},
		{"subscription", "off", "accepted", "accepted"},
		{"domain", "observe", "observed by " + limited, "observed by " + limited},
		{"system_user", "enforce", "refused by " + limited, "observed by " + limited},
		{"mailbox", "off", "refused by " + limited, "accepted"},
	} {
		where := ""
		if step.table == "plan" {
			where = ` WHERE name = 'default'`
		}
		s.exec(`UPDATE `+step.table+` SET mode = $1`+where, step.mode)
		for name, store := range map[string]*quota.Store{"one": s.one, "other": s.other} {
			if name == "one" { // the user is one of this host
				s.expect(step.table+" "+step.mode+", a user", s.send(store), step.user)
			}
			box.ID = message(0, "", 1).ID
			s.expect(step.table+" "+step.mode+", a mailbox on "+name, s.decide(store, box), step.mailbox)
		}
	}
	unknown := mailboxMessage("x@elsewhere.example")
	setLimit(t, s.owner, quota.ServerID, quota.Server, "messages_hour", 0)
	s.expect("of no domain, as the server says", s.decide(s.one, unknown), "observed by server messages/hour")
	if n := number(t, s.owner, `SELECT count(*) FROM messages WHERE decision = 3 AND (refused_object IS NULL OR refused_limit <> 0 OR refused_why IS NULL)`); n != 0 {
		t.Errorf("%d observed rows without what would have refused", n)
	}
	if n := number(t, s.owner, `SELECT count(*) FROM messages WHERE decision = 3`); n < 8 {
		t.Errorf("%d observed rows", n)
	}
	prove(t, s.one, s.owner)
	list, err := s.one.Usage(t.Context(), []quota.Object{{Class: quota.Mailbox, Name: "x@a.example"}, {Class: quota.Subscription, Name: "alice"}, {Class: quota.Server}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"off mailbox", "off subscription", "observe server"} {
		if got := list[i].Mode + " " + list[i].ModeFrom; got != want {
			t.Errorf("%s: %s, want %s", list[i].Object, got, want)
		}
	}
}

// TestObservedTwice: an observed message that comes again with its id is told the
// same, and charged once.
func TestObservedTwice(t *testing.T) {
	s := newServer(t)
	s.exec(`UPDATE server SET mode = 'observe'`)
	setLimit(t, s.owner, s.alice, quota.Subscription, "messages_hour", 0)
	m := message(1001, "alice", 1)
	decisions, err := s.one.Decide(t.Context(), []quota.Message{m, m})
	if err != nil {
		t.Fatal(err)
	}
	s.expect("the first", decisions[0], "observed by "+limited)
	s.expect("the second", decisions[1], "observed by "+limited)
	if len(decisions[0].Events) != 1 || decisions[0].Events[0].Message != m.ID || len(decisions[1].Events) != 0 {
		t.Errorf("%+v, %+v", decisions[0].Events, decisions[1].Events)
	}
	prove(t, s.one, s.owner)
}

// TestVirtualHostModes: with mod_php the mode is the customer's; the web server's
// user has one of his own, which is for his own limits.
func TestVirtualHostModes(t *testing.T) {
	s := newServer(t)
	s.exec(`INSERT INTO domain (subscription_id, name) VALUES ($1, 'a.example')`, s.alice)
	web := func() quota.Message {
		return vhost(33, "www-data", origin.ModPHP, origin.Fact{Value: "a.example", Proof: origin.System})
	}
	s.expect("the first", s.decide(s.one, web()), "accepted")
	s.expect("the second", s.decide(s.one, web()), "accepted")
	setLimit(t, s.owner, quota.ServerID, quota.User, "messages_hour", 0)
	s.expect("the third, though the web server's user is counted only", s.decide(s.one, web()), "refused by "+limited)
	s.exec(`UPDATE system_user SET mode = 'enforce' WHERE uid = 33`)
	s.exec(`UPDATE domain SET mode = 'observe'`)
	s.expect("with limits of his own", s.decide(s.one, web()), "observed by user:www-data messages/hour")
	s.exec(`UPDATE system_user SET mode = 'observe' WHERE uid = 33`)
	s.exec(`UPDATE domain SET mode = 'enforce'`)
	s.expect("without them", s.decide(s.one, web()), "refused by "+limited)
	s.change(func(tx pgx.Tx) (string, error) { return s.one.Forgive(t.Context(), tx, s.alice) })
	both, err := s.one.Decide(t.Context(), []quota.Message{message(33, "www-data", 1), web(), message(33, "www-data", 1)})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"observed by user:www-data messages/hour", "accepted", "observed by user:www-data messages/hour"} {
		s.expect(fmt.Sprintf("message %d of a batch with both", i), both[i], want)
	}
}

// TestExceptionsHoldAtOnce: from the next message on, on the other host, too, and
// until they end, without anybody being told.
func TestExceptionsHoldAtOnce(t *testing.T) {
	s := newServer(t)
	mailbox := func() quota.Message { return mailboxMessage("x@a.example") }
	s.exec(`INSERT INTO domain (subscription_id, name) VALUES ($1, 'a.example')`, s.alice)
	for range 2 {
		s.expect("at first", s.decide(s.one, mailbox()), "accepted")
	}
	both := func(what, want string) {
		s.Helper()
		s.expect(what, s.decide(s.one, mailbox()), want)
		s.expect(what+", by the other", s.decide(s.other, mailbox()), want)
	}
	both("full", "refused by "+limited)
	s.exec(`INSERT INTO exception (kind, object_id, limit_no, value, actor) VALUES ('raise', $1, 0, 3, 'root')`, s.alice)
	s.expect("raised by one", s.decide(s.other, mailbox()), "accepted")
	both("full again", "refused by "+limited)
	s.exec(`INSERT INTO exception (kind, object_id, limit_no, value, actor) VALUES ('raise', $1, 0, -1, 'root')`, s.alice)
	both("of two the highest", "accepted")
	s.exec(`DELETE FROM exception WHERE value = -1`)
	both("removed", "refused by "+limited)
	s.exec(`INSERT INTO exception (kind, network, actor) VALUES ('whitelist', '192.0.2.0/24', 'root')`)
	from := mailbox()
	from.Client = netip.MustParseAddr("192.0.2.1")
	s.expect("from a network on the white list", s.decide(s.other, from), "accepted")
	both("from elsewhere", "refused by "+limited)
	s.exec(`INSERT INTO exception (kind, object_id, actor, until) VALUES ('block', $1, 'root', now() + interval '1 hour')`, s.alice)
	s.exec(`UPDATE server SET mode = 'off'`)
	d := s.decide(s.other, mailbox())
	if d.Refusal == nil || !d.Refusal.Blocked || !strings.HasPrefix(d.Refusal.Text(), "subscription alice is blocked by the administrator; until ") {
		t.Errorf("%+v", d)
	}
	if n := number(t, s.owner, `SELECT count(*) FROM messages WHERE decision = 2 AND refused_object = $1 AND refused_limit IS NULL AND refused_why LIKE '%blocked%'`, s.alice); n != 1 {
		t.Errorf("%d rows of the block", n)
	}
	prove(t, s.one, s.owner)
}

// TestRaiseEnds: with two hosts that decide by memory, at the moment that it says.
func TestRaiseEnds(t *testing.T) {
	s := newServer(t)
	s.exec(`INSERT INTO exception (kind, object_id, limit_no, value, until, actor) VALUES ('raise', $1, 0, 1000000, clock_timestamp() + interval '700 ms', 'root')`, s.alice)
	var until time.Time
	if err := s.owner.QueryRow(t.Context(), `SELECT until FROM exception`).Scan(&until); err != nil {
		t.Fatal(err)
	}
	accepted := 0
	for end := time.Now().Add(20 * time.Second); ; {
		d := s.send(s.one)
		if d.Refusal != nil {
			if d.At.Before(until) {
				t.Errorf("refused at %v, the raise holds until %v", d.At, until)
			}
			break
		}
		if accepted++; !d.At.Before(until) && accepted > 2 {
			t.Fatalf("accepted at %v, the raise held until %v", d.At, until)
		}
		if time.Now().After(end) {
			t.Fatal("it never ends")
		}
	}
	if accepted < 3 {
		t.Errorf("%d accepted", accepted)
	}
	prove(t, s.one, s.owner)
}

// TestGrantIsExact: of many messages at once on two hosts, as many pass as are
// left of the limit, and of the allowance; its host's memory notices it at once.
func TestGrantIsExact(t *testing.T) {
	s := newServer(t)
	s.exec(`INSERT INTO domain (subscription_id, name) VALUES ($1, 'a.example')`, s.alice)
	s.decide(s.one, mailboxMessage("x@a.example"))
	if before := s.change(func(tx pgx.Tx) (string, error) {
		return s.one.Grant(t.Context(), tx, s.alice, quota.Grant{Messages: 20})
	}); before != "" {
		t.Errorf("before: %s", before)
	}
	if before := s.change(func(tx pgx.Tx) (string, error) {
		return s.one.Grant(t.Context(), tx, s.alice, quota.Grant{Messages: 40, Until: time.Now().Add(time.Hour)})
	}); before != "20 messages" {
		t.Errorf("before: %s", before)
	}
	var queues []*quota.Queue
	for _, store := range []*quota.Store{s.one, s.other} {
		q := newQueue(t, store, 8)
		defer q.Close()
		queues = append(queues, q)
	}
	messages := make([]quota.Message, 100)
	for i := range messages {
		messages[i] = mailboxMessage(fmt.Sprintf("box%d@a.example", i%5))
	}
	if accepted, _ := submitAll(t, queues, messages); accepted != 41 {
		t.Errorf("%d accepted, 1 is left of the limit and 40 were granted", accepted)
	}
	list, err := s.one.Usage(t.Context(), []quota.Object{{Class: quota.Subscription, Name: "alice"}})
	if err != nil {
		t.Fatal(err)
	}
	if u := list[0]; u.Grants != nil || u.Limits["messages/hour"].Used != 2 {
		t.Errorf("%+v", u)
	}
	before := s.change(func(tx pgx.Tx) (string, error) { return s.other.Forgive(t.Context(), tx, s.alice) })
	if before != "2 messages, 2 recipients in the last hour, 2 messages, 2 recipients in the last day" {
		t.Errorf("before: %s", before)
	}
	if n := used(t, s.one, "subscription:alice", "messages/day"); n != 0 {
		t.Errorf("%d used after the reset", n)
	}
	for i, want := range []string{"accepted", "accepted", "refused by " + limited} {
		s.expect(fmt.Sprintf("message %d after the reset", i), s.decide(s.one, mailboxMessage("x@a.example")), want)
	}
	prove(t, s.one, s.owner)
}

// TestGrantOfTheSilent: an object that never sent anything has no row yet.
func TestGrantOfTheSilent(t *testing.T) {
	s := newServer(t)
	s.exec(`INSERT INTO domain (subscription_id, name) VALUES ($1, 'a.example')`, s.alice)
	id, err := s.one.Find(t.Context(), quota.Object{Class: quota.Domain, Name: "a.example"})
	if err != nil {
		t.Fatal(err)
	}
	setLimit(t, s.owner, id, quota.Domain, "recipients_day", 0)
	s.change(func(tx pgx.Tx) (string, error) { return s.one.Grant(t.Context(), tx, id, quota.Grant{Recipients: 1}) })
	s.change(func(tx pgx.Tx) (string, error) { return s.one.Forgive(t.Context(), tx, id) })
	for _, want := range []string{"accepted", "refused by domain:a.example recipients/day"} {
		s.expect("with one recipient granted", s.decide(s.one, mailboxMessage("x@a.example")), want)
	}
	for name, bad := range map[string]quota.Grant{"negative": {Messages: -1}, "too many": {Recipients: quota.MaxGrant + 1}} {
		err := pgx.BeginFunc(t.Context(), s.owner, func(tx pgx.Tx) error { _, err := s.one.Grant(t.Context(), tx, id, bad); return err })
		if err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	err = pgx.BeginFunc(t.Context(), s.owner, func(tx pgx.Tx) error { _, err := s.one.Forgive(t.Context(), tx, quota.ID(quota.Plan)<<40); return err })
	if err == nil {
		t.Error("a plan was reset")
	}
}

// TestForgiveUnderLoad: resets while two hosts decide: no message is lost for the
// counters.
func TestForgiveUnderLoad(t *testing.T) {
	s := newServer(t)
	s.exec(`INSERT INTO domain (subscription_id, name) VALUES ($1, 'a.example')`, s.alice)
	var queues []*quota.Queue
	for _, store := range []*quota.Store{s.one, s.other} {
		q := newQueue(t, store, 8)
		defer q.Close()
		queues = append(queues, q)
	}
	messages := make([]quota.Message, 300)
	for i := range messages {
		messages[i] = mailboxMessage("x@a.example")
	}
	done := make(chan int)
	go func() {
		accepted, _ := submitAll(t, queues, messages)
		done <- accepted
	}()
	for resets := 0; ; resets++ {
		select {
		case accepted := <-done:
			if most := 2 * (resets + 1); accepted < 2 || accepted > most {
				t.Errorf("%d accepted with %d resets: at most %d", accepted, resets, most)
			}
			prove(t, s.one, s.owner)
			return
		default:
			s.change(func(tx pgx.Tx) (string, error) { return s.one.Forgive(t.Context(), tx, s.alice) })
		}
	}
}

// TestMaintainDeletes what has ended, and lets the daemons remember where nothing
// has.
func TestMaintainDeletes(t *testing.T) {
	s := newServer(t)
	s.exec(`INSERT INTO exception (kind, object_id, actor, until) VALUES ('block', 1, 'root', now() - interval '32 days'), ('block', 1, 'root', now() - interval '30 days'), ('block', 1, 'root', NULL)`)
	s.exec(`INSERT INTO event (object_id, max, used, message_id, limit_no, kind, closed_at) SELECT n, 1, 1, gen_random_uuid(), 0, 'refused', closed
		FROM (VALUES (1, now() - interval '32 days'), (2, now()), (3, NULL)) v(n, closed)`)
	s.exec(`INSERT INTO notice (event_id, channel, target, sent_at) SELECT id, 'admin', 'x', sent FROM event, (VALUES (now() - interval '32 days'), (NULL)) v(sent) WHERE object_id = 2 AND sent IS NOT NULL`)
	s.exec(`INSERT INTO notice (event_id, channel, target) SELECT id, 'hook', 'x' FROM event WHERE object_id <> 3`)
	s.exec(`INSERT INTO notice (since, period, channel, target, due_at) VALUES (now() - interval '33 days', now() - interval '32 days', 'admin', 'x', 'infinity'), (now() - interval '31 days', now() - interval '30 days', 'admin', 'x', 'infinity')`)
	if err := s.one.Maintain(t.Context(), 31, 31); err != nil {
		t.Fatal(err)
	}
	for table, want := range map[string]int64{"exception": 2, "event": 2, "notice": 2} {
		if n := number(t, s.owner, `SELECT count(*) FROM `+table); n != want {
			t.Errorf("%d rows of %s, want %d", n, table, want)
		}
	}
	epoch := number(t, s.owner, `SELECT n FROM epoch`)
	if err := s.one.Maintain(t.Context(), 31, 31); err != nil {
		t.Fatal(err)
	}
	if n := number(t, s.owner, `SELECT n FROM epoch`); n != epoch {
		t.Error("all is forgotten although nothing had ended")
	}
}
