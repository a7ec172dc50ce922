package crash

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/pgcluster"
	"sendmail-wrapper/quota"
)

// attempt is a message that a client tried to send. Its sender is found again
// in its row, whatever the client was told.
type attempt struct {
	sender string
	got    answer
	id     string // of the row, where the answer names it
}

// ledger is what the clients were told.
type ledger struct {
	mu       sync.Mutex
	attempts map[string]attempt
	counts   [4]int // by answer

	unrecorded int // refusals that must have no row
}

func newLedger() *ledger { return &ledger{attempts: map[string]attempt{}} }

func (l *ledger) note(a attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempts[a.sender] = a
	l.counts[a.got]++
}

// count is the number of attempts that got one of some answers.
func (l *ledger) count(answers ...answer) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range answers {
		n += l.counts[a]
	}
	return n
}

// awaitMore waits until so many attempts more have got one of some answers.
func (l *ledger) awaitMore(t *testing.T, more int, answers ...answer) {
	t.Helper()
	want := l.count(answers...) + more
	await(t, fmt.Sprintf("%d more attempts with %v", more, answers), func() bool { return l.count(answers...) >= want })
}

// limit bounds what an object may send in 60 minutes.
type limit struct{ messages, recipients int }

// check compares the answers with the rows, in one snapshot, and the rows with
// the limits, by class, and with the counters. No attempt may be under way.
func (l *ledger) check(t *testing.T, p *postgres, limits map[quota.Class]limit) {
	t.Helper()
	pool := p.connect(t, pgcluster.OwnerRole)
	defer pool.Close()
	rows, err := pool.Query(t.Context(), `SELECT sender, id, decision, at, recipients,
		ARRAY[user_id, mailbox_id, domain_id, subscription_id, 6::bigint << 40] FROM messages ORDER BY at`)
	must(t, err)
	type row struct {
		id       uuid.UUID
		decision int16
	}
	found := map[string]row{}
	charged := map[quota.ID][]charge{}
	var sender string
	var r row
	var c charge
	var objects []*int64
	_, err = pgx.ForEachRow(rows, []any{&sender, &r.id, &r.decision, &c.at, &c.recipients, &objects}, func() error {
		if other, twice := found[sender]; twice {
			t.Errorf("%s has two rows, %v and %v", sender, other, r)
		}
		found[sender] = r
		for _, id := range objects {
			if id != nil && r.decision == 1 {
				charged[quota.ID(*id)] = append(charged[quota.ID(*id)], c)
			}
		}
		return nil
	})
	must(t, err)

	l.mu.Lock()
	defer l.mu.Unlock()
	wrong, unrecorded := 0, 0
	for _, a := range l.attempts {
		r, is := found[a.sender]
		var what string
		switch {
		case a.got != accepted && a.got != refused:
		case !is && a.got == refused && unrecorded < l.unrecorded:
			unrecorded++
		case !is:
			what = "no row"
		case (a.got == accepted) != (r.decision == 1):
			what = fmt.Sprintf("a row with decision %d", r.decision)
		case a.id != "" && a.id != r.id.String():
			what = fmt.Sprintf("a row with another id, %s and not %s", r.id, a.id)
		}
		if what != "" {
			if wrong++; wrong <= 10 {
				t.Errorf("%s was %v and has %s (row id %s)", a.sender, a.got, what, a.id)
			}
		}
	}
	if unrecorded < l.unrecorded {
		t.Errorf("%d refusals have no row, want %d", unrecorded, l.unrecorded)
	}
	if wrong > 0 {
		t.Errorf("%d answers of %d do not hold", wrong, len(l.attempts))
	}
	for sender := range found {
		if _, is := l.attempts[sender]; !is {
			t.Errorf("a row of %q, who sent nothing", sender)
		}
	}
	for id, list := range charged {
		limit, is := limits[id.Class()]
		if !is {
			continue
		}
		if got := worstHour(list); got.messages > limit.messages || got.recipients > limit.recipients {
			t.Errorf("%s %d: within 60 minutes %+v, limit %+v", id.Class(), id, got, limit)
		}
	}
	mismatches, err := quota.NewStore(pool, "checker", 1000).Prove(t.Context())
	must(t, err)
	for i, m := range mismatches {
		if i < 10 {
			t.Errorf("%s %s: counter %d, rows %d", m.Object, m.Limit, m.Counter, m.Events)
		}
	}
}

type charge struct {
	at         time.Time
	recipients int
}

// worstHour is the most that lies within any 60 minutes; the list is in order.
func worstHour(list []charge) (worst limit) {
	var now limit
	oldest := 0
	for _, c := range list {
		now.messages++
		now.recipients += c.recipients
		for ; !list[oldest].at.Add(time.Hour).After(c.at); oldest++ {
			now.messages--
			now.recipients -= list[oldest].recipients
		}
		worst.messages, worst.recipients = max(worst.messages, now.messages), max(worst.recipients, now.recipients)
	}
	return worst
}

// caller is whom a client sends as: one of some mailboxes, over the policy
// socket, or else a user, over the socket of sendmail.
type caller struct {
	mailboxes []string
	uid       int
}

// load sends messages, each caller one after the other to one of the hosts,
// until stop is called. They pause, so that a round has not thousands of them.
func (l *ledger) load(t *testing.T, name string, seed uint64, hosts []*host, callers []caller) (stop func()) {
	stopped := make(chan struct{})
	var clients sync.WaitGroup
	for i, c := range callers {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			send, end := c.sender(t, hosts[i%len(hosts)])
			defer end()
			for n := 0; ; n++ {
				select {
				case <-stopped:
					return
				default:
				}
				a := attempt{sender: fmt.Sprintf("%s.%d.%d@t.example", name, i, n)}
				a.got, a.id = send(a.sender, 1+random.IntN(3), random)
				l.note(a)
				pause := 5 * time.Millisecond
				if a.got == accepted || a.got == refused {
					pause = time.Duration(random.IntN(4)) * time.Millisecond
				}
				time.Sleep(pause)
			}
		})
	}
	stop = sync.OnceFunc(func() {
		close(stopped)
		clients.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// sender returns what sends one message. It is to be called by the goroutine
// that will send, whose thread it may make another user's.
func (c caller) sender(t *testing.T, h *host) (send func(sender string, recipients int, random *rand.Rand) (answer, string), end func()) {
	if c.mailboxes != nil {
		client := &policyClient{}
		return func(sender string, recipients int, random *rand.Rand) (answer, string) {
			return client.ask(h, sender, c.mailboxes[random.IntN(len(c.mailboxes))], recipients), ""
		}, client.close
	}
	if err := become(c.uid); err != nil {
		t.Errorf("become uid %d: %v", c.uid, err)
	}
	message, err := sealedMessage()
	if err != nil {
		t.Errorf("make a message: %v", err)
	}
	return func(sender string, recipients int, _ *rand.Rand) (answer, string) {
		return callSendmail(h, message, sender, recipients)
	}, func() { message.Close() }
}

// sendAll sends so many messages of one mailbox, or of the calling user where
// that is "", over some connections at a time, and returns how many were
// accepted.
func (l *ledger) sendAll(t *testing.T, h *host, name, mailbox string, messages, connections int) (n int) {
	t.Helper()
	work := make(chan int)
	var mu sync.Mutex
	var clients sync.WaitGroup
	c := caller{uid: wireUID}
	if mailbox != "" {
		c.mailboxes = []string{mailbox}
	}
	for range connections {
		clients.Go(func() {
			send, end := c.sender(t, h)
			defer end()
			random := rand.New(rand.NewPCG(1, 1))
			for i := range work {
				a := attempt{sender: fmt.Sprintf("%s.%d@t.example", name, i)}
				a.got, a.id = send(a.sender, 1, random)
				l.note(a)
				if a.got == accepted {
					mu.Lock()
					n++
					mu.Unlock()
				}
			}
		})
	}
	for i := range messages {
		work <- i
	}
	close(work)
	clients.Wait()
	return n
}

// wireUID is the user of those who send over the socket of sendmail.
const wireUID = 2001

// setLimits sets what each object of a class may send in an hour; of the class
// Server, the one there is.
func (p *postgres) setLimits(t *testing.T, limits map[quota.Class]limit) {
	t.Helper()
	for class, l := range limits {
		p.exec(t, `INSERT INTO limits (owner_id, class, messages_hour, recipients_hour) VALUES (6::bigint << 40, $1, $2, $3)
			ON CONFLICT (owner_id, class) DO UPDATE SET messages_hour = $2, recipients_hour = $3`, class, l.messages, l.recipients)
	}
}

// addDomain makes a subscription with a domain and some mailboxes of it.
func (p *postgres) addDomain(t *testing.T, name string, mailboxes int) (addresses []string) {
	t.Helper()
	for i := range mailboxes {
		addresses = append(addresses, fmt.Sprintf("m%d@%s", i, name))
	}
	p.exec(t, `WITH s AS (INSERT INTO subscription (plan_id, name) SELECT id, $1 FROM plan WHERE name = 'default' RETURNING id),
		d AS (INSERT INTO domain (subscription_id, name) SELECT id, $1 FROM s RETURNING id)
		INSERT INTO mailbox (domain_id, address) SELECT id, unnest($2::text[]) FROM d`, name, addresses)
	return addresses
}

// TestWorstHour tests the checker.
func TestWorstHour(t *testing.T) {
	at := func(minutes ...int) (list []charge) {
		for _, m := range minutes {
			list = append(list, charge{time.Unix(0, 0).Add(time.Duration(m) * time.Minute), 2})
		}
		return list
	}
	for _, c := range []struct {
		list []charge
		want limit
	}{{nil, limit{}}, {at(0, 59), limit{2, 4}}, {at(0, 60), limit{1, 2}}, {at(0, 30, 59, 61, 70, 200), limit{4, 8}}} {
		if got := worstHour(c.list); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.list, got, c.want)
		}
	}
}
