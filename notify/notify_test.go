package notify

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"sendmail-wrapper/config"
	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/sqlschema"
	"sendmail-wrapper/tests/testpg"
)

func TestMain(m *testing.M) { testpg.Main(m) }

// world is a database with some objects, and what tells of them.
type world struct {
	*Deliverer
	t        *testing.T
	database string
	owner    *pgxpool.Pool
	recorder *Recorder
	log      *bytes.Buffer
	dir      string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, database: testpg.New(t), log: &bytes.Buffer{}, dir: t.TempDir()}
	w.owner = w.connect(w.database)
	w.Deliverer = w.deliverer()
	w.recorder = NewRecorder(w.Pool, w.Store, func() *zerolog.Logger { return &w.Log })
	for _, sql := range []string{
		`SELECT make_partitions((now() AT TIME ZONE 'UTC')::date - 1, 3)`,
		`INSERT INTO subscription (plan_id, name, contact) SELECT id, 'alice', 'alice@customer.example' FROM plan WHERE name = 'default'`,
		`INSERT INTO domain (subscription_id, name) SELECT id, 'alice.example' FROM subscription`,
		`INSERT INTO host (name) VALUES ('host1'), ('host2')`,
		`INSERT INTO system_user (subscription_id, uid, host_id, name) SELECT s.id, 1001, h.id, 'alice' FROM subscription s, host h`,
		`INSERT INTO limits (owner_id, class, messages_hour, messages_day) SELECT id, 4, 10, 100 FROM subscription`,
	} {
		w.exec(sql)
	}
	return w
}

func (w *world) connect(database string) *pgxpool.Pool {
	pool, err := sqlschema.DaemonPool(database)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(pool.Close)
	return pool
}

// deliverer is one that puts each mail into a file of its own in dir.
func (w *world) deliverer() *Deliverer {
	sendmail := filepath.Join(w.dir, "sendmail")
	script := "#!/bin/sh\nf=$(mktemp " + w.dir + "/mail.XXXXXX)\n{ printf '%s|' \"$0\" \"$@\"; echo; cat; } >$f.part && mv $f.part $f\n"
	if err := os.WriteFile(sendmail, []byte(script), 0o755); err != nil {
		w.t.Fatal(err)
	}
	c := config.Default()
	c.Host, c.NotifyFrom, c.NotifyAdmin, c.NotifyTemplates = "host1", "mailquota@host1.example", []string{"root"}, filepath.Join(w.dir, "templates")
	c.NotifyWebhookKey = filepath.Join(w.dir, "key")
	pool := w.connect(testpg.As(w.database, "mailquotad"))
	return &Deliverer{Pool: pool, Store: quota.NewStore(pool, "host1", 1000), Config: &c, Sendmail: func() (string, string, error) { return sendmail, "<>", nil }, Log: zerolog.New(w.log),
		Check: func(ctx context.Context) error { return sqlschema.Check(ctx, pool) }}
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.owner.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

func (w *world) text(sql string, args ...any) (text string) {
	w.t.Helper()
	if err := w.owner.QueryRow(w.t.Context(), sql, args...).Scan(&text); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// object returns an object with its id.
func (w *world) object(name string) (quota.Object, quota.ID) {
	w.t.Helper()
	o, err := quota.ParseObject(name)
	if err != nil {
		w.t.Fatal(err)
	}
	id, err := w.Store.Find(w.t.Context(), o)
	if err != nil {
		w.t.Fatal(err)
	}
	return o, id
}

// refusal is the event of a message of alice's, whose row is written as a refused one.
func (w *world) refusal(object string, kind quota.EventKind, m quota.Message) quota.Event {
	w.t.Helper()
	o, id := w.object(object)
	e := quota.Event{Kind: kind, Object: o, ID: id, Limit: quota.MessagesHour, Max: 10, Used: 10, At: time.Now(), Message: uuid.Must(uuid.NewV7())}
	decision := map[quota.EventKind]int{quota.EventRefused: 2, quota.EventObserved: 3, quota.EventWarned: 1}[kind]
	w.exec(`INSERT INTO messages (at, id, uid, size, user_id, subscription_id, refused_object, refused_limit, host_id, recipients, decision, sender, kind, kind_proof,
  script, script_proof, crontab, crontab_proof, refused_why)
 SELECT $1, $2, 1001, 1, u.id, u.subscription_id, $3, 0, u.host_id, $4, $5, $6, $7, 3, nullif($8, ''), 2, nullif($9, ''), 2, CASE WHEN $5::smallint <> 1 THEN 'why' END
   FROM system_user u JOIN host h ON h.id = u.host_id WHERE h.name = 'host1' AND u.name = 'alice'`,
		e.At, e.Message, id, max(m.Recipients, 1), decision, m.Sender, string(m.Origin.Kind), m.Origin.Script.Value, m.Origin.Crontab.Value)
	w.exec(`INSERT INTO details (at, id, subject, recipients) VALUES ($1, $2, $3, $4)`, e.At, e.Message, m.Details.Subject, m.Details.To)
	return e
}

var spam = quota.Message{Recipients: 2, Sender: "alice@host1.example", Details: quota.Details{Subject: "You won", To: []string{"v1@outside.example", "v2@outside.example"}},
	Origin: origin.Origin{Kind: origin.PHPFPM, Script: origin.Fact{Value: "/home/alice/www/x.php"}}}

// record writes events at once.
func (w *world) record(events ...quota.Event) {
	w.t.Helper()
	w.recorder.Note(events)
	if err := w.recorder.write(w.t.Context(), changed); err != nil {
		w.t.Fatal(err)
	}
}

// deliverAll makes notices and delivers what is due.
func (w *world) deliverAll() {
	w.t.Helper()
	if err := w.pass(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	for _, channel := range Channels {
		for {
			n, err := w.claim(w.t.Context(), channel)
			if err != nil {
				w.t.Fatal(err)
			}
			if n == nil {
				break
			}
			w.deliver(w.t.Context(), n)
		}
	}
}

// mails are those that were sent, by recipient, and takes them away.
func (w *world) mails() map[string]string {
	w.t.Helper()
	files, err := filepath.Glob(w.dir + "/mail.*")
	if err != nil {
		w.t.Fatal(err)
	}
	mails := map[string]string{}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			w.t.Fatal(err)
		}
		arguments, mail, _ := strings.Cut(string(content), "\n")
		words := strings.Split(strings.TrimSuffix(arguments, "|"), "|")
		if got := strings.Join(words[1:len(words)-1], " "); got != "-i -f <> --" {
			w.t.Errorf("sendmail is called with %q", words)
		}
		mails[words[len(words)-1]] += mail
		if err := os.Remove(f); err != nil {
			w.t.Fatal(err)
		}
	}
	return mails
}

// TestEventMail: what the administrator is told has all that he needs.
func TestEventMail(t *testing.T) {
	w := newWorld(t)
	w.record(w.refusal("subscription:alice", quota.EventRefused, spam))
	w.deliverAll()
	mail := w.mails()["root"]
	for _, want := range []string{
		"\nSubject: [mailquota] Mail refused: subscription:alice (limit of 10 messages/hour)\n", "From: mailquota@host1.example\n", "\nTo: root\n",
		"\nAuto-Submitted: auto-generated\n", "\nMessage-ID: <notice-1.", "@host1.example>\n", "\nContent-Transfer-Encoding: 7bit\n\n",
		"Mail of subscription:alice is refused since 20", "10 messages/hour of subscription:alice (subscription alice, plan default)",
		"  script     /home/alice/www/x.php (system)\n", "  user       alice (kernel)\n", "  program    php-fpm (kernel)\n", "  host       host1\n",
		"  subject    You won\n", "  recipients 2: v1@outside.example, v2@outside.example\n",
		"  mailctl why subscription:alice\n", "  mailctl report messages --refused --since 1h --subscription alice\n",
		"  mailctl block add script:/home/alice/www/x.php\n", "  mailctl exception raise subscription:alice messages/hour +10 --for 2h\n",
	} {
		if !strings.Contains(mail, want) {
			t.Errorf("no %q in:\n%s", want, mail)
		}
	}
	w.deliverAll()
	if mails := w.mails(); len(mails) > 0 {
		t.Errorf("told again: %v", mails)
	}
}

// TestCustomerMail: the customer is told of his own objects only, in his words.
func TestCustomerMail(t *testing.T) {
	w := newWorld(t)
	w.Config.NotifyCustomers = true
	w.exec(`INSERT INTO limits (owner_id, class, messages_hour) VALUES (6::bigint << 40, 6, 7777)`)
	w.record(w.refusal("domain:alice.example", quota.EventRefused, spam), w.refusal("server", quota.EventRefused, spam), w.refusal("user:alice", quota.EventObserved, spam))
	w.deliverAll()
	mails := w.mails()
	mail := mails["alice@customer.example"]
	for _, want := range []string{"\nSubject: Your mail is refused for now: domain:alice.example\n", "script     /home/alice/www/x.php", "subject    You won", "10 messages/hour", "subscription:alice: 0 of 10 messages/hour"} {
		if !strings.Contains(mail, want) {
			t.Errorf("no %q in:\n%s", want, mail)
		}
	}
	for _, hidden := range []string{"mailctl", "7777", "server:", "host1\n", "plan", "default"} {
		if strings.Contains(mail, hidden) {
			t.Errorf("%q in:\n%s", hidden, mail)
		}
	}
	if n := strings.Count(mail, "\nSubject: "); n != 1 {
		t.Errorf("%d mails to the customer, of one event of his", n)
	}
	if n := strings.Count(mails["root"], "\nSubject: "); n != 3 {
		t.Errorf("%d mails to the administrator", n)
	}
	// Of somebody else's message he is not told what it was.
	w.exec(`UPDATE event SET closed_at = now()`)
	w.exec(`INSERT INTO subscription (plan_id, name) SELECT id, 'bob' FROM plan WHERE name = 'default'`)
	e := w.refusal("domain:alice.example", quota.EventRefused, quota.Message{})
	e.Message = uuid.Must(uuid.NewV7())
	w.exec(`INSERT INTO messages (at, id, size, subscription_id, host_id, recipients, decision, sender, kind, script, refused_why)
 SELECT $1, $2, 1, (SELECT id FROM subscription WHERE name = 'bob'), min(id), 1, 2, 'bob@x', 'shell', '/home/bob/secret', 'why' FROM host`, e.At, e.Message)
	w.record(e)
	w.deliverAll()
	if mail := w.mails()["alice@customer.example"]; !strings.Contains(mail, "refused") || strings.Contains(mail, "bob") {
		t.Errorf("of bob's message:\n%s", mail)
	}
}

// TestBounds: an address gets so many at once, the others are in the digest; a
// month's old events are not told one by one.
func TestBounds(t *testing.T) {
	w := newWorld(t)
	w.Config.NotifyCustomers = true
	var events []quota.Event
	for i := range adminPerHour + 5 {
		name := fmt.Sprintf("d%d.example", i)
		w.exec(`INSERT INTO domain (subscription_id, name) SELECT id, $1 FROM subscription WHERE name = 'alice'`, name)
		o, id := w.object("domain:" + name)
		events = append(events, quota.Event{Kind: quota.EventWarned, Object: o, ID: id, At: time.Now(), Message: uuid.Must(uuid.NewV7())})
	}
	old := w.refusal("user:alice", quota.EventRefused, spam)
	w.record(append(events, old)...)
	w.exec(`UPDATE event SET opened_at = now() - interval '25 hours' WHERE kind = 'refused'`)
	if err := w.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := w.text(`SELECT string_agg(channel || ' ' || n, ', ' ORDER BY channel) FROM (SELECT channel, count(*) n FROM notice GROUP BY 1) c`)
	if want := fmt.Sprintf("admin %d, customer %d", adminPerHour, customerPerHour); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := w.text(`SELECT count(*)::text FROM event WHERE told_at IS NULL`); got != "0" {
		t.Errorf("%s events wait for being told", got)
	}
	if got := w.text(`SELECT count(*)::text FROM notice n JOIN event e ON e.id = n.event_id WHERE e.kind = 'refused'`); got != "0" {
		t.Errorf("%s notices of an event of yesterday", got)
	}
}

// TestBoundOfMachines: web hook and program are told so much in an hour, too, over
// all passes.
func TestBoundOfMachines(t *testing.T) {
	w := newWorld(t)
	w.Config.NotifyAdmin, w.Config.NotifyWebhook, w.Config.NotifyHook = nil, "http://127.0.0.1:1/", "/nonexistent"
	for first := range 2 {
		w.exec(`INSERT INTO event (object_id, max, used, message_id, limit_no, kind)
 SELECT (3::bigint << 40) + 1000 * (1 + $1) + n, 1, 1, gen_random_uuid(), 0, 'warned' FROM generate_series(1, $2) n`, first, machinePerHour/2+5)
		if err := w.pass(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	got := w.text(`SELECT string_agg(channel || ' ' || n, ', ' ORDER BY channel) FROM (SELECT channel, count(*) n FROM notice GROUP BY 1) c`)
	if want := fmt.Sprintf("hook %d, webhook %d", machinePerHour, machinePerHour); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestOver: an event that is over is closed, the next one is told at once again.
func TestOver(t *testing.T) {
	w := newWorld(t)
	for round := 1; round <= 2; round++ {
		w.recorder = NewRecorder(w.Pool, w.Store, w.recorder.log)
		w.record(w.refusal("user:alice", quota.EventRefused, spam))
		w.deliverAll()
		if n := len(w.mails()); n != 1 {
			t.Fatalf("round %d: %d mails", round, n)
		}
		w.exec(`UPDATE event SET last_at = now() - interval '61 minutes' WHERE closed_at IS NULL`)
		w.deliverAll()
		if got := w.text(`SELECT count(*)::text FROM event WHERE closed_at IS NULL`); got != "0" {
			t.Fatalf("round %d: %s open", round, got)
		}
	}
}

// TestNotBooked: a notice waits for the row of its message, which comes out of the
// journal after an outage, and not for ever.
func TestNotBooked(t *testing.T) {
	w := newWorld(t)
	o, id := w.object("user:alice")
	w.record(quota.Event{Kind: quota.EventRefused, Object: o, ID: id, At: time.Now(), Max: 3, Message: uuid.Must(uuid.NewV7())})
	w.deliverAll()
	if mails := w.mails(); len(mails) > 0 {
		t.Errorf("told without its message: %v", mails)
	}
	w.exec(`UPDATE notice SET due_at = now(), made_at = made_at - interval '2 minutes'`)
	w.deliverAll()
	if mail := w.mails()["root"]; !strings.Contains(mail, "Mail refused: user:alice") || strings.Contains(mail, "Sent by") {
		t.Errorf("without a message at last: %s", mail)
	}
}

func TestRetry(t *testing.T) {
	var at time.Duration
	var got []string
	for tries := 0; ; tries++ {
		wait, again := retry(tries, at)
		if !again {
			break
		}
		at += wait
		got = append(got, at.String())
	}
	if want := "30s 2m30s 12m30s 1h12m30s 7h12m30s 13h12m30s 19h12m30s"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
}
