package quota_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/sqlschema"
	"sendmail-wrapper/tests/testpg"
)

// outage is a database that can be taken away, and what was done with it.
type outage struct {
	*testing.T
	database string
	admin    *pgx.Conn     // of another database, as superuser
	owner    *pgxpool.Pool // for looking, while the database is there
	journal  string
}

func newOutage(t *testing.T) *outage {
	t.Parallel() // each waits for the time-out
	o := &outage{T: t, database: testpg.New(t), journal: filepath.Join(t.TempDir(), "journal")}
	admin, err := pgx.ParseConfig(testpg.As(o.database, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	admin.Database = "postgres"
	if o.admin, err = pgx.ConnectConfig(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	o.owner = connect(t, o.database)
	return o
}

// host starts a queue on a host, by the journal that is there.
func (o *outage) host(name, journal string) *quota.Queue {
	o.Helper()
	pool, err := sqlschema.DaemonPool(testpg.As(o.database, "mailquotad"))
	if err != nil {
		o.Fatal(err)
	}
	s := settings
	s.MaxBatch, s.Timeout, s.Journal, s.ByJournal = 32, 3*time.Second, journal, true
	q := startQueue(o, quota.NewStore(pool, name, 1000), s)
	o.Cleanup(func() {
		q.Close()
		pool.Close()
	})
	return q
}

func (o *outage) exec(sql string) {
	o.Helper()
	if _, err := o.admin.Exec(o.Context(), sql); err != nil {
		o.Fatal(err)
	}
}

// away takes the database away from everybody.
func (o *outage) away() {
	o.Helper()
	name := o.owner.Config().ConnConfig.Database
	o.owner.Reset()
	o.exec(`ALTER DATABASE ` + name + ` ALLOW_CONNECTIONS false`)
	o.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '` + name + `'`)
}

func (o *outage) back(queues ...*quota.Queue) {
	o.Helper()
	o.exec(`ALTER DATABASE ` + o.owner.Config().ConnConfig.Database + ` ALLOW_CONNECTIONS true`)
	for _, q := range queues {
		o.reached(q)
	}
}

// reached waits until a queue has booked all, and decides by the database.
func (o *outage) reached(q *quota.Queue) {
	o.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		s := q.State()
		if s.Trouble == "" && s.Journal.Messages == 0 {
			return
		}
		if time.Now().After(end) {
			o.Fatalf("%+v", s)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// send submits n messages at once and counts what became of them.
func (o *outage) send(q *quota.Queue, n int, uid uint32, user string) (accepted, refused int) {
	o.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range n {
		wg.Go(func() {
			d, err := q.Submit(o.Context(), message(uid, user, 1))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				o.Errorf("submit: %v", err)
			case d.Refusal == nil:
				accepted++
			default:
				refused++
			}
		})
	}
	wg.Wait()
	return accepted, refused
}

func (o *outage) expect(what string, got, want int) {
	o.Helper()
	if got != want {
		o.Errorf("%s: %d, want %d", what, got, want)
	}
}

// booked compares the database with what it should have, when all is booked.
func (o *outage) booked(q *quota.Queue, object string, charged, rows int) {
	o.Helper()
	o.reached(q)
	store := quota.NewStore(o.owner, "host1", 1000)
	o.expect("used by "+object, int(used(o, store, object, "messages/hour")), charged)
	o.expect("rows", int(number(o, o.owner, `SELECT count(*) FROM messages`)), rows)
	prove(o, store, o.owner)
}

// copyJournal is the journal as a kill -9 at this moment would leave it: all that
// was answered is on the disk.
func (o *outage) copyJournal() string {
	o.Helper()
	path := filepath.Join(o.TempDir(), "journal")
	for _, suffix := range []string{"", ".known"} {
		content, err := os.ReadFile(o.journal + suffix)
		if err == nil {
			err = os.WriteFile(path+suffix, content, 0o600)
		}
		if err != nil {
			o.Fatal(err)
		}
	}
	return path
}

// limitAlice makes the users whose limits the tests look at.
func (o *outage) limitAlice(perHour int) {
	o.Helper()
	store := newStoreOn(o, testpg.As(o.database, "mailquotad"))
	_, alice, _, err := store.EnsureUser(o.Context(), 1001, "alice")
	if err != nil {
		o.Fatal(err)
	}
	setLimit(o, o.owner, alice, quota.Subscription, "messages_hour", perHour)
}

// TestOutage: one host keeps to the limit as if the database were there.
func TestOutage(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(100)
	q := o.host("host1", o.journal)
	accepted, _ := o.send(q, 50, 1001, "alice")
	o.expect("accepted before", accepted, 50)
	o.away()
	accepted, refused := o.send(q, 300, 1001, "alice")
	o.expect("accepted without the database", accepted, 50)
	o.expect("refused without the database", refused, 250)
	if s := q.State(); s.Trouble == "" || s.Journal.Messages != 300 || s.Since.IsZero() {
		t.Errorf("%+v", s)
	}
	o.back(q)
	o.booked(q, "subscription:alice", 100, 350)
	if accepted, _ := o.send(q, 10, 1001, "alice"); accepted != 0 {
		t.Errorf("%d accepted beyond the limit after the outage", accepted)
	}
}

// TestKilledInOutage: a daemon that is killed in an outage knows afterwards what
// it decided; one that is killed while it books books each message once.
func TestKilledInOutage(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(100)
	q := o.host("host1", o.journal)
	o.send(q, 50, 1001, "alice")
	o.away()
	accepted, _ := o.send(q, 30, 1001, "alice")
	o.expect("accepted before the kill", accepted, 30)

	killed, restarted := o.copyJournal(), time.Now()
	second := o.host("host1", killed)
	if s := second.State(); !s.Since.Before(restarted) {
		t.Errorf("the outage has lasted since %v", s.Since)
	}
	accepted, refused := o.send(second, 100, 1001, "alice")
	o.expect("accepted after the kill", accepted, 20)
	o.expect("refused after the kill", refused, 80)
	q.Close() // the first one's life went on in the copy

	again := o.copyJournalOf(killed)
	o.back(second)
	o.booked(second, "subscription:alice", 100, 180)
	third := o.host("host1", again) // killed after the booking, before it noted it
	o.booked(third, "subscription:alice", 100, 180)
}

func (o *outage) copyJournalOf(path string) string {
	o.Helper()
	was := o.journal
	defer func() { o.journal = was }()
	o.journal = path
	return o.copyJournal()
}

// TestJournalOfAnotherSetting: what is in the journal is booked also by a daemon that
// does not use it any more.
func TestJournalOfAnotherSetting(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(100)
	q := o.host("host1", o.journal)
	o.send(q, 1, 1001, "alice")
	o.away()
	o.send(q, 10, 1001, "alice")
	left := o.copyJournal()
	q.Close()
	o.back()
	s := settings
	s.MaxBatch, s.Journal = 32, left
	second := startQueue(t, quota.NewStore(daemonPool(t, testpg.As(o.database, "mailquotad")), "host1", 1000), s)
	defer second.Close()
	o.booked(second, "subscription:alice", 11, 11)
}

// TestJournalTakenAway: what is decided is not written to a file that nobody will
// find again.
func TestJournalTakenAway(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(100)
	q := o.host("host1", o.journal)
	o.send(q, 1, 1001, "alice")
	o.away()
	o.send(q, 10, 1001, "alice")
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	move(o.journal, o.journal+".away")
	for range 200 {
		if _, err := q.Submit(t.Context(), message(1001, "alice", 1)); !errors.Is(err, quota.ErrJournal) {
			t.Fatalf("without the file: %v", err)
		}
	}
	move(o.journal+".away", o.journal)
	accepted, _ := o.send(q, 120, 1001, "alice") // what could not be kept was not charged
	o.expect("accepted of 89 that are left", accepted, 89)
	o.back(q)
	o.booked(q, "subscription:alice", 100, 131)
}

// TestAwayWhileBooking: a daemon that was restarted books a part of its journal, and
// the database goes again: what is booked is not counted on top of what it was
// booked from.
func TestAwayWhileBooking(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(1000)
	q := o.host("host1", o.journal)
	o.send(q, 1, 1001, "alice")
	o.away()
	accepted, _ := o.send(q, 700, 1001, "alice")
	o.expect("accepted", accepted, 700)
	killed := o.copyJournal()
	q.Close()
	o.back()
	second := o.host("host1", killed)
	for second.State().Journal.Messages == 700 {
		time.Sleep(time.Millisecond)
	}
	o.away()
	accepted, _ = o.send(second, 400, 1001, "alice")
	o.expect("accepted after a part was booked", accepted, 299)
	o.back(second)
	o.booked(second, "subscription:alice", 1000, 1101-int(second.State().Journal.Unrecorded))
}

// mailboxMessage is one of somebody who has logged in.
func mailboxMessage(address string) quota.Message {
	m := message(0, "", 1)
	m.Mailbox = address
	return m
}

// TestStrangeMailboxInOutage: a mailbox that is not known is charged to its domain
// and subscription, which are.
func TestStrangeMailboxInOutage(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(100)
	if _, err := o.owner.Exec(t.Context(), `INSERT INTO domain (subscription_id, name) SELECT id, 'alice.example' FROM subscription WHERE name = 'alice'`); err != nil {
		t.Fatal(err)
	}
	q := o.host("host1", o.journal)
	submit := func(address string) bool {
		t.Helper()
		d, err := q.Submit(t.Context(), mailboxMessage(address))
		if err != nil {
			t.Fatal(err)
		}
		return d.Refusal == nil
	}
	if !submit("known@alice.example") || !submit(strings.Repeat("long", 2000)+"@alice.example") {
		t.Error("refused")
	}
	if s := q.State(); s.Trouble != "" {
		t.Errorf("an address that is too long for an index: %s", s.Trouble)
	}
	o.away()
	accepted := 0
	for i := range 150 {
		if submit([]string{"known@alice.example", "strange@alice.example", "other@alice.example"}[i%3]) {
			accepted++
		}
	}
	o.expect("accepted of 99 that are left", accepted, 99)
	o.back(q)
	o.booked(q, "subscription:alice", 100, 152)
	o.expect("of the domain", int(used(t, quota.NewStore(o.owner, "host1", 1000), "domain:alice.example", "messages/hour")), 100)
}

// TestClockAheadInOutage: what was decided by a clock that was ahead does not stop
// the time of the database.
func TestClockAheadInOutage(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(100)
	q := o.host("host1", o.journal)
	o.send(q, 10, 1001, "alice")
	quota.TurnClock(quota.StoreOf(q), 2*time.Hour)
	o.away()
	accepted, _ := o.send(q, 10, 1001, "alice")
	o.expect("accepted", accepted, 10)
	o.back(q)
	o.booked(q, "subscription:alice", 20, 20)
	if n := number(t, o.owner, `SELECT count(*) FROM messages WHERE at > clock_timestamp()`); n != 0 {
		t.Errorf("%d rows of the future", n)
	}
}

// TestStoppedBeforeOutage: what was known at a stop is known at the next start,
// to the last message; what was known at a kill may be too little.
func TestStoppedBeforeOutage(t *testing.T) {
	for _, test := range []struct {
		how     string
		allowed int // of 100, with 50 used
	}{{"stopped", 50}, {"killed", 5}} { // 10 percent of the 50 that are left as far as is known
		t.Run(test.how, func(t *testing.T) {
			o := newOutage(t)
			o.limitAlice(100)
			q := o.host("host1", o.journal)
			o.send(q, 50, 1001, "alice")
			q.Close()
			if test.how == "killed" { // another life, which decided nothing for alice, ended by a kill
				next := o.host("host1", o.journal)
				o.reached(next)
				o.journal = o.copyJournal()
			}
			o.away()
			after := o.host("host1", o.journal)
			accepted, _ := o.send(after, 100, 1001, "alice")
			o.expect("accepted", accepted, test.allowed)
			o.back(after)
			o.booked(after, "subscription:alice", 50+test.allowed, 150)
		})
	}
}

// TestStrangersInOutage: who is not known gets a share of what is the limit by
// default, and is made when the database is back.
func TestStrangersInOutage(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(100)
	setLimit(t, o.owner, quota.ServerID, quota.Subscription, "messages_hour", 70)
	q := o.host("host1", o.journal)
	o.send(q, 1, 1001, "alice")
	o.away()
	accepted, _ := o.send(q, 50, 1002, "bob")
	o.expect("accepted of a stranger", accepted, 7)
	accepted, _ = o.send(q, 20, 33, "www-data")
	o.expect("accepted of a system user", accepted, 20)
	o.back(q)
	o.booked(q, "subscription:bob", 7, 71)
}

// TestSilentInOutage: who has sent nothing yet keeps to his limit.
func TestSilentInOutage(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(100)
	q := o.host("host1", o.journal)
	o.reached(q)
	if err := quota.StoreOf(q).Acquaint(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.away()
	accepted, _ := o.send(q, 150, 1001, "alice")
	o.expect("accepted", accepted, 100)
	o.back(q)
	o.booked(q, "subscription:alice", 100, 150)
}

// TestServerInOutage: the limit of the server is known from the first heartbeat on;
// its usage is not, so a share of it is granted.
func TestServerInOutage(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(100)
	setLimit(t, o.owner, quota.ServerID, quota.Server, "messages_hour", 50)
	q := o.host("host1", o.journal)
	o.reached(q)
	o.away()
	accepted, _ := o.send(q, 60, 1001, "alice")
	o.expect("accepted", accepted, 5)
	o.back(q)
	o.reached(q)
}

// TestHostsInOutage: several hosts share what is left.
func TestHostsInOutage(t *testing.T) {
	o := newOutage(t)
	store := newStoreOn(t, testpg.As(o.database, "mailquotad"))
	setLimit(t, o.owner, quota.ServerID, quota.Server, "messages_hour", 300)
	var queues []*quota.Queue
	for i := range 3 {
		q := o.host(fmt.Sprintf("host%d", i+1), filepath.Join(t.TempDir(), "journal"))
		o.reached(q)
		queues = append(queues, q)
	}
	for _, q := range queues { // each has seen all three, and the same usage
		o.send(q, 20, 1001, "alice")
	}
	for i, q := range queues {
		if err := quota.StoreOf(q).Heartbeat(t.Context()); err != nil {
			t.Fatal(i, err)
		}
	}
	o.away()
	sum := 60
	for i, q := range queues {
		accepted, _ := o.send(q, 200, 1001, "alice")
		if accepted < 70 {
			t.Errorf("host %d granted %d", i+1, accepted)
		}
		sum += accepted
	}
	// The first two have not seen what the others charged after their last
	// message: 40 and 20 of 300, of which they grant a third.
	if sum < 290 || sum > 300+(40+20)/3 {
		t.Errorf("%d in all at a limit of 300", sum)
	}
	o.back(queues...)
	o.expect("used", int(used(t, store, "server", "messages/hour")), sum)
	prove(t, store, o.owner)
}

// TestFullJournal: a journal that is full refuses, and says so; refusals leave
// room for what is accepted.
func TestFullJournal(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(600)
	q := o.host("host1", o.journal)
	o.send(q, 1, 1001, "alice")
	o.away()
	accepted, refused := o.send(q, 1200, 1001, "alice") // of 1000 entries
	o.expect("accepted", accepted, 599)
	o.expect("refused", refused, 601)
	if s := q.State(); s.Journal.Unrecorded == 0 || s.Journal.Messages+int(s.Journal.Unrecorded) != 1200 {
		t.Errorf("%+v", s)
	}
	var err error
	for i := 0; err == nil && i < 2000; i++ {
		_, err = q.Submit(t.Context(), message(33, "www-data", 1))
	}
	if !errors.Is(err, quota.ErrJournal) {
		t.Errorf("beyond the limit: %v", err)
	}
	full := q.State().Journal.Messages
	for range 50 { // what cannot be kept charges nobody
		if _, err := q.Submit(t.Context(), message(33, "www-data", 1)); !errors.Is(err, quota.ErrJournal) {
			t.Errorf("beyond the limit: %v", err)
		}
	}
	o.expect("entries", q.State().Journal.Messages, full)
	o.back(q)
	o.reached(q)
	o.expect("used", int(used(t, quota.NewStore(o.owner, "host1", 1000), "subscription:alice", "messages/hour")), 600)
	prove(t, quota.NewStore(o.owner, "host1", 1000), o.owner)
}
