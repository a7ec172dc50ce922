package quota_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/sqlschema"
	"sendmail-wrapper/tests/testpg"
)

func TestMain(m *testing.M) { testpg.Main(m) }

// connect returns a pool to a database, as the daemon's role has it.
func connect(t testing.TB, database string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// daemonPool returns connections as mailquotad has them: its settings keep the
// order in which rows are locked.
func daemonPool(t testing.TB, database string) *pgxpool.Pool {
	t.Helper()
	pool, err := sqlschema.DaemonPool(database + " application_name=store")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func newStore(t testing.TB) (*quota.Store, *pgxpool.Pool) {
	t.Helper()
	pool := daemonPool(t, testpg.NewAs(t, "mailquotad"))
	store := quota.NewStore(pool, "host1", 1000)
	if err := store.Maintain(t.Context(), 31, 31); err != nil {
		t.Fatal(err)
	}
	return store, pool
}

var settings = quota.Settings{Timeout: 10 * time.Second, JournalLimit: 1000, JournalShare: 10,
	Check: func(context.Context) error { return nil }}

func newQueue(t testing.TB, store *quota.Store, maxBatch int) *quota.Queue {
	t.Helper()
	s := settings
	s.MaxBatch, s.Journal = maxBatch, filepath.Join(t.TempDir(), "none")
	return startQueue(t, store, s)
}

func startQueue(t testing.TB, store *quota.Store, s quota.Settings) *quota.Queue {
	t.Helper()
	log := zerolog.New(zerolog.NewTestWriter(t))
	q, err := quota.NewQueue(store, s, func() *zerolog.Logger { return &log })
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func message(uid uint32, user string, recipients int) quota.Message {
	return quota.Message{
		ID:         uuid.Must(uuid.NewV7()),
		Origin:     origin.Origin{UID: uid, User: user, Kind: origin.Shell, KindProof: origin.Claimed},
		Sender:     user + "@host1.example",
		Recipients: recipients,
		Size:       100,
	}
}

// setLimit sets one limit of an object (its own, or a default for a class).
func setLimit(t testing.TB, pool *pgxpool.Pool, owner quota.ID, class quota.Class, column string, value int) {
	t.Helper()
	_, err := pool.Exec(t.Context(), `INSERT INTO limits (owner_id, class, `+column+`) VALUES ($1, $2, $3)
		ON CONFLICT (owner_id, class) DO UPDATE SET `+column+` = $3`, owner, class, value)
	if err != nil {
		t.Fatal(err)
	}
}

func number(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) (n int64) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// prove fails where counters and rows differ, or a deadlock occurred.
func prove(t testing.TB, store *quota.Store, pool *pgxpool.Pool) {
	t.Helper()
	mismatches, err := store.Prove(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mismatches {
		t.Errorf("%s %s: counter %d, rows %d", m.Object, m.Limit, m.Counter, m.Events)
	}
	if n := number(t, pool, `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
}

func used(t testing.TB, store *quota.Store, object, limit string) int64 {
	t.Helper()
	o, err := quota.ParseObject(object)
	if err != nil {
		t.Fatal(err)
	}
	list, err := store.Usage(t.Context(), []quota.Object{o})
	if err != nil {
		t.Fatal(err)
	}
	return list[0].Limits[limit].Used
}

// submitAll submits messages at once and counts what was accepted.
func submitAll(t testing.TB, queues []*quota.Queue, messages []quota.Message) (accepted, recipients int) {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i, m := range messages {
		wg.Go(func() {
			d, err := queues[i%len(queues)].Submit(t.Context(), m)
			if err != nil {
				t.Errorf("submit: %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if d.Refusal == nil {
				accepted++
				recipients += m.Recipients
			}
		})
	}
	wg.Wait()
	return accepted, recipients
}

func TestExactUnderLoad(t *testing.T) {
	store, pool := newStore(t)
	_, subscription, _, err := store.EnsureUser(t.Context(), 1001, "alice")
	if err != nil {
		t.Fatal(err)
	}
	setLimit(t, pool, subscription, quota.Subscription, "messages_hour", 100)
	queue := newQueue(t, store, 64)
	defer queue.Close()
	messages := make([]quota.Message, 400)
	for i := range messages {
		messages[i] = message(1001, "alice", 1)
	}
	if accepted, _ := submitAll(t, []*quota.Queue{queue}, messages); accepted != 100 {
		t.Errorf("%d accepted at a limit of 100", accepted)
	}
	if n := number(t, pool, `SELECT count(*) FROM messages`); n != 400 {
		t.Errorf("%d rows for 400 messages", n)
	}
	if n := used(t, store, "subscription:alice", "messages/hour"); n != 100 {
		t.Errorf("%d used", n)
	}
	if n := queue.State().Waiting; n != 0 {
		t.Errorf("%d wait in an empty queue", n)
	}
	prove(t, store, pool)
}

// TestExactOnTwoHosts: users never seen, on two hosts that share the database,
// a limit on recipients of the whole server and one on a domain of two users.
func TestExactOnTwoHosts(t *testing.T) {
	database := testpg.NewAs(t, "mailquotad")
	pool := daemonPool(t, database)
	stores := []*quota.Store{quota.NewStore(pool, "host1", 1000), quota.NewStore(daemonPool(t, database), "host2", 1000)}
	if err := stores[0].Maintain(t.Context(), 31, 31); err != nil {
		t.Fatal(err)
	}
	setLimit(t, pool, quota.ServerID, quota.Server, "recipients_hour", 500)
	var queues []*quota.Queue
	for _, s := range stores {
		q := newQueue(t, s, 32)
		defer q.Close()
		queues = append(queues, q)
	}
	random := rand.New(rand.NewPCG(1, 2))
	messages := make([]quota.Message, 400)
	for i := range messages {
		n := uint32(random.IntN(8))
		messages[i] = message(1001+n, fmt.Sprintf("user%d", n), 1+random.IntN(5))
	}
	_, recipients := submitAll(t, queues, messages)
	if recipients > 500 || recipients < 496 {
		t.Errorf("%d recipients accepted at a limit of 500: with messages of up to 5, 496 to 500 must be", recipients)
	}
	if n := used(t, stores[0], "server", "recipients/hour"); n != int64(recipients) {
		t.Errorf("%d used, %d accepted", n, recipients)
	}
	if n := number(t, pool, `SELECT count(*) FROM subscription`); n != 8 {
		t.Errorf("%d subscriptions for 8 login names", n)
	}
	if n := number(t, pool, `SELECT count(*) FROM system_user`); n < 8 || n > 16 {
		t.Errorf("%d system users", n)
	}
	prove(t, stores[0], pool)
}

func TestDomainSharedByTwoUsers(t *testing.T) {
	store, pool := newStore(t)
	_, acme, _, err := store.EnsureUser(t.Context(), 1001, "alice")
	if err != nil {
		t.Fatal(err)
	}
	bob, _, _, err := store.EnsureUser(t.Context(), 1002, "bob")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), `UPDATE system_user SET subscription_id = $1 WHERE id = $2`, acme, bob); err != nil {
		t.Fatal(err)
	}
	domain := number(t, pool, `INSERT INTO domain (subscription_id, name) VALUES ($1, 'acme.example') RETURNING id`, acme)
	setLimit(t, pool, quota.ID(domain), quota.Domain, "messages_hour", 50)
	queue := newQueue(t, store, 64)
	defer queue.Close()
	var messages []quota.Message
	for range 100 {
		messages = append(messages, message(1001, "alice", 1), message(1002, "bob", 1))
	}
	if accepted, _ := submitAll(t, []*quota.Queue{queue}, messages); accepted != 50 {
		t.Errorf("%d accepted at a limit of 50", accepted)
	}
	if n := number(t, pool, `SELECT count(*) FROM messages WHERE refused_object = $1 AND refused_limit = 0`, domain); n != 150 {
		t.Errorf("%d rows say that the domain refused them", n)
	}
	prove(t, store, pool)
}

func TestInheritance(t *testing.T) {
	store, pool := newStore(t)
	_, alice, _, err := store.EnsureUser(t.Context(), 1001, "alice")
	if err != nil {
		t.Fatal(err)
	}
	plan := quota.ID(number(t, pool, `SELECT id FROM plan WHERE name = 'default'`))
	limitOf := func() string {
		list, err := store.Usage(t.Context(), []quota.Object{{Class: quota.Subscription, Name: "alice"}})
		if err != nil {
			t.Fatal(err)
		}
		l := list[0].Limits["messages/hour"]
		if l.Limit == nil {
			return "unlimited from " + l.From
		}
		return fmt.Sprint(*l.Limit, " from ", l.From)
	}
	check := func(want string) {
		t.Helper()
		if got := limitOf(); got != want {
			t.Errorf("limit is %s, want %s", got, want)
		}
	}
	check("unlimited from ")
	setLimit(t, pool, quota.ServerID, quota.Subscription, "messages_hour", 7)
	check("7 from server")
	setLimit(t, pool, plan, quota.Subscription, "messages_hour", 50)
	check("50 from plan")
	setLimit(t, pool, plan, quota.User, "messages_hour", 3)
	check("50 from plan")
	setLimit(t, pool, alice, quota.Subscription, "messages_hour", quota.Unlimited)
	check("unlimited from subscription")
	setLimit(t, pool, alice, quota.Subscription, "messages_hour", 0)
	check("0 from subscription")

	decide := func(want string) {
		t.Helper()
		decisions, err := store.Decide(t.Context(), []quota.Message{message(1001, "alice", 2)})
		if err != nil {
			t.Fatal(err)
		}
		got := "accepted"
		if r := decisions[0].Refusal; r != nil {
			got = r.By()
		}
		if got != want {
			t.Errorf("decision %s, want %s", got, want)
		}
	}
	decide("subscription:alice messages/hour")
	setLimit(t, pool, alice, quota.Subscription, "messages_hour", 10) // takes effect at the next message
	decide("accepted")
	setLimit(t, pool, alice, quota.Subscription, "recipients_message", 1)
	decide("subscription:alice recipients/message")
	prove(t, store, pool)
}

// TestSystemUsers: uids below first-user-uid and nobody are counted, never
// refused, until an administrator moves them.
func TestSystemUsers(t *testing.T) {
	store, pool := newStore(t)
	setLimit(t, pool, quota.ServerID, quota.Server, "messages_hour", 1)
	for _, m := range []quota.Message{message(0, "root", 1), message(33, "www-data", 1), message(65534, "nobody", 1)} {
		decisions, err := store.Decide(t.Context(), []quota.Message{m, message(m.Origin.UID, m.Origin.User, 1)})
		if err != nil {
			t.Fatal(err)
		}
		if decisions[0].Refusal != nil || decisions[1].Refusal != nil {
			t.Errorf("mail of %s was refused", m.Origin.User)
		}
	}
	if n := used(t, store, "server", "messages/hour"); n != 6 {
		t.Errorf("%d counted, want 6", n)
	}
	decisions, err := store.Decide(t.Context(), []quota.Message{message(1001, "alice", 1)})
	if err != nil || decisions[0].Refusal == nil {
		t.Errorf("a full server let a customer's mail through: %v", err)
	}
	prove(t, store, pool)
}

// TestForbidden is recorded and charges nothing.
func TestForbidden(t *testing.T) {
	store, pool := newStore(t)
	m := message(0, "root", 3)
	m.Forbidden = "too many at once"
	decisions, err := store.Decide(t.Context(), []quota.Message{m})
	if err != nil || decisions[0].Refusal == nil || decisions[0].Refusal.Text() != "too many at once" {
		t.Fatalf("%+v, %v", decisions, err)
	}
	if n := number(t, pool, `SELECT count(*) FROM messages WHERE decision = 2 AND refused_why = 'too many at once' AND refused_object IS NULL`); n != 1 {
		t.Errorf("%d rows", n)
	}
	prove(t, store, pool)
}

// TestOnceByID: one id is charged once and has one row, in one batch; its
// second decision is the first one.
func TestOnceByID(t *testing.T) {
	store, pool := newStore(t)
	m := message(1001, "alice", 2)
	decisions, err := store.Decide(t.Context(), []quota.Message{m, m, m})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(decisions[0], decisions[2]); diff != "" {
		t.Error(diff)
	}
	if n := used(t, store, "user:alice", "recipients/day"); n != 2 {
		t.Errorf("%d recipients charged", n)
	}
	prove(t, store, pool)
}

// TestRubbish: bytes that PostgreSQL's text does not take are recorded as
// U+FFFD, and the message is decided like any other.
func TestRubbish(t *testing.T) {
	store, pool := newStore(t)
	m := message(1001, "alice", 1)
	m.Sender = "a\x00b\xff\xc3"
	m.Origin.Script = origin.Fact{Value: "/home/\xf0\x9f/x" + string(make([]byte, 9000)), Proof: origin.Claimed}
	if _, err := store.Decide(t.Context(), []quota.Message{m}); err != nil {
		t.Fatal(err)
	}
	if n := number(t, pool, "SELECT count(*) FROM messages WHERE sender = 'a\uFFFDb\uFFFD'"); n != 1 {
		t.Errorf("%d rows with the sender as it can be stored", n)
	}
}

// TestPoisonedMessage fails alone; those beside it in the batch are decided.
func TestPoisonedMessage(t *testing.T) {
	database := testpg.New(t)
	owner := connect(t, database)
	if _, err := owner.Exec(t.Context(), `ALTER TABLE messages ADD CONSTRAINT messages_no_poison CHECK (sender <> 'poison@x')`); err != nil {
		t.Fatal(err)
	}
	store := newStoreOn(t, testpg.As(database, "mailquotad"))
	queue := newQueue(t, store, 64)
	defer queue.Close()
	var wg sync.WaitGroup
	for i := range 40 {
		m := message(1001, "alice", 1)
		switch i {
		case 17:
			m.Sender = "poison@x"
		case 23:
			m.Recipients = 1 << 40 // more than the column takes
		}
		wg.Go(func() {
			_, err := queue.Submit(t.Context(), m)
			if (err != nil) != (m.Recipients > 1 || m.Sender == "poison@x") {
				t.Errorf("message of %d recipients from %s: %v", m.Recipients, m.Sender, err)
			}
		})
	}
	wg.Wait()
	if n := number(t, owner, `SELECT count(*) FROM messages`); n != 38 {
		t.Errorf("%d rows", n)
	}
	prove(t, store, owner)
}

// TestLostConnections: connections cut at any moment lose and double nothing
// that was answered.
func TestLostConnections(t *testing.T) {
	database := testpg.New(t)
	owner := connect(t, database)
	store := newStoreOn(t, database)
	queue := newQueue(t, store, 16)
	stop := make(chan struct{})
	var cutter sync.WaitGroup
	cutter.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(30 * time.Millisecond):
				if _, err := owner.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
					WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'store'`); err != nil {
					t.Errorf("cut connections: %v", err)
				}
			}
		}
	})
	var wg sync.WaitGroup
	var mu sync.Mutex
	answered, failed := 0, 0
	for range 300 {
		wg.Go(func() {
			d, err := queue.Submit(t.Context(), message(1001, "alice", 1))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed++
			} else if d.Refusal == nil {
				answered++
			}
		})
	}
	wg.Wait()
	close(stop)
	cutter.Wait()
	queue.Close()
	rows := number(t, owner, `SELECT count(*) FROM messages`)
	if rows < int64(answered) || rows > int64(answered+failed) {
		t.Errorf("%d rows, %d answered, %d failed", rows, answered, failed)
	}
	prove(t, quota.NewStore(owner, "host1", 1000), owner) // by connections that nobody cut
}

// newStoreOn returns a store whose connections are told by their name, "store".
func newStoreOn(t testing.TB, database string) *quota.Store {
	t.Helper()
	pool := daemonPool(t, database)
	store := quota.NewStore(pool, "host1", 1000)
	if err := store.Maintain(t.Context(), 31, 31); err != nil {
		t.Fatal(err)
	}
	return store
}

// TestMissingPartition is made when a message needs it.
func TestMissingPartition(t *testing.T) {
	pool := daemonPool(t, testpg.NewAs(t, "mailquotad"))
	store := quota.NewStore(pool, "host1", 1000)
	if _, err := store.Decide(t.Context(), []quota.Message{message(1001, "alice", 1)}); err != nil {
		t.Fatal(err)
	}
	prove(t, store, pool)
}

func TestRenamedUser(t *testing.T) {
	store, pool := newStore(t)
	for _, name := range []string{"alice", "alicia", "#1001"} {
		if _, err := store.Decide(t.Context(), []quota.Message{message(1001, name, 1)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := used(t, store, "user:alicia", "messages/hour"); n != 3 {
		t.Errorf("%d messages of the renamed user", n)
	}
	var notFound *quota.NotFoundError
	if _, err := store.Find(t.Context(), quota.Object{Class: quota.User, Name: "alice"}); !errors.As(err, &notFound) {
		t.Errorf("the old name is still found: %v", err)
	}
	prove(t, store, pool)
}

func TestUsageOfUser(t *testing.T) {
	store, _ := newStore(t)
	if list, err := store.UsageOfUser(t.Context(), 1001); err != nil || len(list) != 0 {
		t.Errorf("a uid never seen: %v, %v", list, err)
	}
	if _, err := store.Decide(t.Context(), []quota.Message{message(1001, "alice", 1), message(1002, "bob", 1)}); err != nil {
		t.Fatal(err)
	}
	list, err := store.UsageOfUser(t.Context(), 1001)
	if err != nil || len(list) != 2 || list[0].Object != "user:alice" || list[1].Object != "subscription:alice" {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestProveFindsIt: a counter changed by hand is found.
func TestProveFindsIt(t *testing.T) {
	store, pool := newStore(t)
	if _, err := store.Decide(t.Context(), []quota.Message{message(1001, "alice", 3)}); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), `UPDATE usage SET state = '' WHERE id >> 40 = 4`); err != nil {
		t.Fatal(err)
	}
	mismatches, err := store.Prove(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	alice := quota.Object{Class: quota.Subscription, Name: "alice"}
	want := []quota.Mismatch{{Object: alice, Limit: quota.MessagesHour, Events: 1}, {Object: alice, Limit: quota.MessagesDay, Events: 1},
		{Object: alice, Limit: quota.RecipientsHour, Events: 3}, {Object: alice, Limit: quota.RecipientsDay, Events: 3}}
	if diff := cmp.Diff(want, mismatches); diff != "" {
		t.Error(diff)
	}
}

func TestSubmitAfterClose(t *testing.T) {
	store, _ := newStore(t)
	queue := newQueue(t, store, 4)
	queue.Close()
	queue.Close()
	if _, err := queue.Submit(context.Background(), message(1001, "alice", 1)); !errors.Is(err, quota.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkStore(b *testing.B) {
	for _, size := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("batch%d", size), func(b *testing.B) {
			store, _ := newStore(b)
			for b.Loop() {
				batch := make([]quota.Message, size)
				for i := range batch {
					batch[i] = message(uint32(1001+i), fmt.Sprintf("user%d", i), 1)
				}
				if _, err := store.Decide(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(size*b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}
