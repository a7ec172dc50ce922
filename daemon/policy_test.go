package daemon

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sendmail-wrapper/config"
	"sendmail-wrapper/origin"
	"sendmail-wrapper/policy"
)

// startPolicy starts a server with a policy socket, and makes
// carol@box.test a mailbox.
func startPolicy(t *testing.T, change func(*config.Daemon)) (r *running, socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "policy")
	r = start(t, func(c *config.Daemon) {
		c.PolicySocket = socket
		if change != nil {
			change(c)
		}
	})
	_, err := r.owner.Exec(t.Context(), `WITH
		s AS (INSERT INTO subscription (plan_id, name) SELECT id, 'carol' FROM plan WHERE name = 'default' RETURNING id),
		d AS (INSERT INTO domain (subscription_id, name) SELECT id, 'box.test' FROM s RETURNING id)
		INSERT INTO mailbox (domain_id, address) SELECT id, 'carol@box.test' FROM d`)
	if err != nil {
		t.Fatal(err)
	}
	return r, socket
}

// peer is a connection to the policy socket, as smtpd keeps it.
type peer struct {
	net.Conn
	in *bufio.Reader
}

func dialPolicy(socket string) (*peer, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	return &peer{c, bufio.NewReader(c)}, nil
}

// answer reads one answer, without "action=".
func (p *peer) answer() (string, error) {
	line, err := p.in.ReadString('\n')
	if err != nil {
		return "", err
	}
	action, ok := strings.CutPrefix(line, "action=")
	if end, err := p.in.ReadByte(); err != nil || end != '\n' || !ok {
		return "", fmt.Errorf("%q and %q is no answer: %v", line, end, err)
	}
	return strings.TrimSuffix(action, "\n"), nil
}

func (p *peer) ask(q *policy.Request) (string, error) {
	if _, err := p.Write(q.Append(nil)); err != nil {
		return "", err
	}
	return p.answer()
}

// messages counts the messages of this test program.
var messages atomic.Int64

// newInstance is the instance of one more message, as smtpd makes it.
func newInstance() string {
	now := time.Now()
	return fmt.Sprintf("%x.%x.%x.%x", os.Getpid(), now.Unix(), now.Nanosecond()/1000, messages.Add(1))
}

// message is a request about a whole message of a mailbox.
func message(username string) *policy.Request {
	return &policy.Request{State: policy.EndOfMessage, Username: username, Sender: "carol@box.test",
		Recipients: 1, Size: 1000, Instance: newInstance(), QueueID: "4cWq1F0Wn2z9tJ", ClientAddress: "192.0.2.7"}
}

// TestPolicyExact: 400 messages over 16 kept connections at a mailbox with a
// limit of 100.
func TestPolicyExact(t *testing.T) {
	r, socket := startPolicy(t, nil)
	if _, err := r.owner.Exec(t.Context(), `INSERT INTO limits (owner_id, class, messages_hour) SELECT id, 2, 100 FROM mailbox`); err != nil {
		t.Fatal(err)
	}
	var accepted, refused atomic.Int64
	var peers sync.WaitGroup
	for range 16 {
		peers.Go(func() {
			p, err := dialPolicy(socket)
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Close()
			for range 25 {
				action, err := p.ask(message("carol@box.test"))
				switch {
				case err != nil:
					t.Error(err)
					return
				case action == "DUNNO":
					accepted.Add(1)
				case strings.HasPrefix(action, "421 4.7.1 limit of 100 messages per hour of mailbox carol@box.test reached (100 used); free again at 20"):
					refused.Add(1)
				default:
					t.Errorf("action %q", action)
				}
			}
		})
	}
	peers.Wait()
	if accepted.Load() != 100 || refused.Load() != 300 {
		t.Errorf("%d accepted, %d refused", accepted.Load(), refused.Load())
	}
	const carol = "uid IS NULL AND user_id IS NULL AND mailbox_id = (SELECT id FROM mailbox) AND domain_id = (SELECT id FROM domain) AND sender = 'carol@box.test' AND size = 1000"
	if a, n := r.count(t, carol+" AND decision = 1"), r.count(t, carol+" AND decision = 2"); a != 100 || n != 300 {
		t.Errorf("%d rows accepted, %d refused", a, n)
	}
	if lines := strings.Count(r.log.String(), `"mailbox":"carol@box.test","subscription":"carol","domain":"box.test","queue_id":"4cWq1F0Wn2z9tJ","client":"192.0.2.7"`); lines != 400 {
		t.Errorf("%d lines of the log", lines)
	}
}

func TestPolicy(t *testing.T) {
	r, socket := startPolicy(t, nil)
	p, err := dialPolicy(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, c := range []struct {
		name   string
		change func(*policy.Request)
		where  string // of the one row
	}{
		{"another stage", func(q *policy.Request) { q.State = "RCPT" }, ""},
		{"not logged in", func(q *policy.Request) { q.Username = "" }, ""},
		{"recipients", func(q *policy.Request) { q.Recipients, q.Size = 7, 1<<40 }, "recipients = 7 AND size = 1::bigint << 40"},
		{"no recipients are one", func(q *policy.Request) { q.Recipients = 0 }, "recipients = 1"},
		{"the null sender", func(q *policy.Request) { q.Sender = "" }, "sender = ''"},
		{"capital letters", func(q *policy.Request) { q.Username = "Carol@BOX.test" }, "mailbox_id = (SELECT id FROM mailbox WHERE address = 'carol@box.test')"},
		{"a new mailbox of the domain", func(q *policy.Request) { q.Username = "dave@box.test" }, "mailbox_id = (SELECT id FROM mailbox WHERE address = 'dave@box.test')"},
		{"a domain not known", func(q *policy.Request) { q.Username = "x@elsewhere.test" }, "mailbox_id IS NULL AND subscription_id IS NULL"},
		{"no domain", func(q *policy.Request) { q.Username = "carol" }, "mailbox_id IS NULL AND subscription_id IS NULL"},
		{"any bytes", func(q *policy.Request) { q.Username, q.Sender = "\xff@box.test", "\x01\xff" }, "sender = E'\\x01\uFFFD'"},
	} {
		before := r.count(t, "true")
		q := message("carol@box.test")
		c.change(q)
		action, err := p.ask(q)
		if err != nil || action != "DUNNO" {
			t.Fatalf("%s: %q, %v", c.name, action, err)
		}
		rows := 0
		if c.where != "" {
			rows = 1
			if n := r.count(t, c.where+" AND id = (SELECT id FROM messages ORDER BY id DESC LIMIT 1)"); n != 1 {
				t.Errorf("%s: the newest row is another than %s", c.name, c.where)
			}
		}
		if n := r.count(t, "true") - before; n != rows {
			t.Errorf("%s: %d rows", c.name, n)
		}
	}
	// In pieces, and two at once.
	q := message("carol@box.test").Append(nil)
	for _, b := range q {
		if _, err := p.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Write(append(q, q...)); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if action, err := p.answer(); err != nil || action != "DUNNO" {
			t.Errorf("answer %d: %q, %v", n, action, err)
		}
	}
	if st, err := os.Stat(socket); err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

// TestPolicyStrangers: whatever is said to the socket, the daemon goes on, and
// keeps neither a goroutine nor a descriptor of it.
// TestPolicyExceptions: what is observed, blocked, and on the white list by the
// client's address, as Postfix and the log hear of it.
func TestPolicyExceptions(t *testing.T) {
	r, socket := startPolicy(t, nil)
	p, err := dialPolicy(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, step := range []struct{ sql, client, action, log string }{
		{`INSERT INTO limits (owner_id, class, messages_hour) SELECT id, 2, 0 FROM mailbox`, "192.0.2.7", "521 5.7.1 mailbox carol@box.test may send no mail",
			`"decision":"refused","refused_by":"mailbox:carol@box.test messages/hour"`},
		{`UPDATE domain SET mode = 'observe'`, "192.0.2.7", "DUNNO", `"decision":"observed","refused_by":"mailbox:carol@box.test messages/hour"`},
		{`INSERT INTO exception (kind, network, actor) VALUES ('whitelist', '2001:db8::/32', 'root')`, "2001:db8::7", "DUNNO", `"decision":"accepted"`},
		{`SELECT`, "unknown", "DUNNO", `"decision":"observed"`},
		{`INSERT INTO exception (kind, object_id, actor) SELECT 'block', id, 'root' FROM domain`, "2001:db8::7", "521 5.7.1 domain box.test is blocked by the administrator",
			`"decision":"refused","refused_by":"domain box.test is blocked by the administrator"`},
	} {
		if _, err := r.owner.Exec(t.Context(), step.sql); err != nil {
			t.Fatal(err)
		}
		q := message("carol@box.test")
		q.ClientAddress = step.client
		before := len(r.log.String())
		action, err := p.ask(q)
		if err != nil || !strings.HasPrefix(action, step.action) {
			t.Errorf("%s: action %q, %v; want %q", step.sql, action, err, step.action)
		}
		if line := r.log.String()[before:]; !strings.Contains(line, step.log) {
			t.Errorf("%s: logged %s", step.sql, line)
		}
	}
}

func TestPolicyStrangers(t *testing.T) {
	r, socket := startPolicy(t, func(c *config.Daemon) { c.RequestTimeout = config.Duration(200 * time.Millisecond) })
	kept, err := dialPolicy(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	if action, err := kept.ask(message("carol@box.test")); err != nil || action != "DUNNO" {
		t.Fatalf("%q, %v", action, err)
	}
	settled := func() (goroutines, descriptors int) {
		for open := 2; open > 1 || len(r.slots) > 1; open, _ = r.policySocket.count() { // the kept one, and the wait for the next call
			runtime.Gosched()
		}
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return runtime.NumGoroutine(), len(entries)
	}
	goroutines, descriptors := settled()
	whole := message("carol@box.test").Append(nil)
	for _, c := range []struct {
		name  string
		bytes []byte
		close bool // at once; else the daemon must close
	}{
		{"closed at once", nil, true},
		{"closed within a request", whole[:50], true},
		{"closed before the answer", whole, true},
		{"half a request", whole[:50], false},
		{"an endless line", bytes.Repeat([]byte("x"), 1<<20), false},
		{"binary", bytes.Repeat([]byte{0xff, 0, '\n'}, 1<<16), false},
		{"10,000 attributes", append([]byte("request=smtpd_access_policy\n"), bytes.Repeat([]byte("a=b\n"), 10000)...), false},
		{"another request", []byte("request=junk_policy\n\n"), false},
		{"a number that is none", []byte("request=smtpd_access_policy\nsize=x\n\n"), false},
		{"HTTP", []byte("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := dialPolicy(socket)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			// The daemon may close before it has got all.
			if _, err := p.Write(c.bytes); err != nil && len(c.bytes) < 10000 {
				t.Fatal(err)
			}
			if c.close {
				return
			}
			if got, _ := io.ReadAll(p.in); len(got) > 0 {
				t.Errorf("answer %q", got)
			}
		})
	}
	if action, err := kept.ask(message("carol@box.test")); err != nil || action != "DUNNO" {
		t.Fatalf("afterwards: %q, %v", action, err)
	}
	// A goroutine that has given its slot back may take a moment to end. And the
	// pool may have opened a connection or two to the database: far fewer than the
	// strangers were.
	const pool = 3
	for n := 0; n < 1000 && runtime.NumGoroutine() > goroutines; n++ {
		time.Sleep(time.Millisecond)
	}
	if g, d := settled(); g > goroutines+pool || d > descriptors+pool {
		t.Errorf("%d goroutines and %d descriptors; before %d and %d", g, d, goroutines, descriptors)
	}
	if n := strings.Count(r.log.String(), "no valid request"); n != 1 {
		t.Errorf("%d warnings: only the first may be logged within ten seconds", n)
	}
	if n := r.counts.rejected.Load(); n != 8 {
		t.Errorf("%d rejected", n)
	}
}

// TestPolicyKept: a connection may be silent for longer than request-timeout
// between two requests, and not within one.
func TestPolicyKept(t *testing.T) {
	_, socket := startPolicy(t, func(c *config.Daemon) { c.RequestTimeout = config.Duration(100 * time.Millisecond) })
	kept, err := dialPolicy(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	for range 2 {
		slow, err := dialPolicy(socket)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := slow.Write([]byte("a=\n")); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(slow.in); err != nil || len(got) > 0 { // for request-timeout
			t.Errorf("%q, %v", got, err)
		}
		slow.Close()
		if action, err := kept.ask(message("carol@box.test")); err != nil || action != "DUNNO" {
			t.Errorf("%q, %v", action, err)
		}
	}
}

// TestPolicyStop: an idle connection ends at once, a message that is being
// decided is answered.
func TestPolicyStop(t *testing.T) {
	r, socket := startPolicy(t, nil)
	var peers [2]*peer
	for i := range peers {
		var err error
		if peers[i], err = dialPolicy(socket); err != nil {
			t.Fatal(err)
		}
		defer peers[i].Close()
		if action, err := peers[i].ask(message("carol@box.test")); err != nil || action != "DUNNO" {
			t.Fatalf("%q, %v", action, err)
		}
	}
	tx, err := r.owner.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT FROM usage WHERE id = 6::bigint << 40 FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	idle, busy := peers[0], peers[1]
	if _, err := busy.Write(message("carol@box.test").Append(nil)); err != nil {
		t.Fatal(err)
	}
	for r.database.queue.State().Waiting == 0 {
		runtime.Gosched()
	}
	stopped := make(chan struct{})
	go func() {
		r.stop()
		close(stopped)
	}()
	if got, err := io.ReadAll(idle.in); err != nil || len(got) > 0 {
		t.Errorf("the idle connection: %q, %v", got, err)
	}
	select {
	case <-stopped:
		t.Fatal("stopped with a message unanswered")
	default:
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if action, err := busy.answer(); err != nil || action != "DUNNO" {
		t.Errorf("%q, %v", action, err)
	}
	<-stopped
	if got, err := io.ReadAll(busy.in); err != nil || len(got) > 0 {
		t.Errorf("after the answer: %q, %v", got, err)
	}
	if n := r.count(t, "decision = 1"); n != 3 {
		t.Errorf("%d rows", n)
	}
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestPolicyUndecided: without a decision on-database-down holds.
func TestPolicyUndecided(t *testing.T) {
	for _, c := range []struct{ down, want string }{
		{"journal", "421 4.3.0 mail cannot be counted now; try again later"},
		{"refuse", "421 4.3.0 mail cannot be counted now; try again later"},
		{"accept", "DUNNO"},
	} {
		socket := filepath.Join(t.TempDir(), "policy")
		start(t, func(d *config.Daemon) {
			d.Database, d.OnDatabaseDown, d.PolicySocket = "host=/nonexistent user=mailquotad dbname=x", c.down, socket
			d.DecisionTimeout = config.Duration(100 * time.Millisecond)
		})
		p, err := dialPolicy(socket)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if action, err := p.ask(message("carol@box.test")); err != nil || action != c.want {
			t.Errorf("%s: %q, %v", c.down, action, err)
		}
	}
}

// TestPolicyFault: a panic ends one connection, without an answer.
func TestPolicyFault(t *testing.T) {
	log := &lockedBuffer{}
	c := testConfig("host=/nonexistent")
	c.OnDatabaseDown = "refuse" // no journal is made
	broken, err := New(c, "v", zerolog.New(log))
	if err != nil {
		t.Fatal(err)
	}
	broken.database.close()
	broken.database = nil
	ends := socketPair(t)
	if _, err := ends[1].Write(message("carol@box.test").Append(nil)); err != nil {
		t.Fatal(err)
	}
	broken.servePolicy(t.Context(), broken.policySocket.enter(t.Context(), ends[0]), &origin.Peer{})
	if got, err := io.ReadAll(ends[1]); err != nil || len(got) > 0 {
		t.Errorf("answer %q, %v", got, err)
	}
	if !strings.Contains(log.String(), "fault of mailquotad") {
		t.Error("the fault is not in the log")
	}
}
