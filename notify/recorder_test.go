package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/tests/testpg"
)

// TestTenHosts: ten daemons refuse a message of the same object each, at the same
// time, and several deliverers run: that is one event and one notification by
// each channel.
func TestTenHosts(t *testing.T) {
	w := newWorld(t)
	if err := os.WriteFile(w.Config.NotifyWebhookKey, []byte("a key of some length\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	posted := make(chan string, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		posted <- string(body)
	}))
	defer server.Close()
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for i := range 3 {
		d := w.deliverer()
		d.Config.Host, d.Config.NotifyWebhook = fmt.Sprintf("host%d", i), server.URL
		d.Log = zerolog.Nop()
		running.Go(func() { d.Run(ctx) })
	}
	nothing := zerolog.Nop()
	var events []quota.Event
	for range 20 {
		events = append(events, w.refusal("subscription:alice", quota.EventRefused, spam))
	}
	begin := make(chan struct{})
	for i := range 10 {
		r := NewRecorder(w.connect(testpg.As(w.database, "mailquotad")), w.Store, func() *zerolog.Logger { return &nothing })
		running.Go(func() { r.Run(ctx) })
		running.Go(func() {
			<-begin
			r.Note(events[i : i+1])
			r.Note(events[10+i:])
		})
	}
	close(begin)
	select {
	case body := <-posted:
		if !strings.Contains(body, `"kind":"refused"`) || !strings.Contains(body, `"object":"subscription:alice"`) {
			t.Errorf("posted: %s", body)
		}
	case <-time.After(wakeful - 5*time.Second): // not by the clock, but because he was woken
		t.Fatal("nobody was told")
	}
	stop() // the recorders write what they have, deliverers end what they began
	running.Wait()
	w.deliverAll() // what is still to be told would be now
	if len(posted) > 0 {
		t.Errorf("told again: %s", <-posted)
	}
	if n := strings.Count(w.mails()["root"], "\nSubject: "); n != 1 {
		t.Errorf("%d mails", n)
	}
	if got := w.text(`SELECT count(*) || ' ' || max(last_at)::text FROM event`); got != "1 "+w.text(`SELECT $1::timestamptz::text`, events[19].At) {
		t.Errorf("events, and the last message: %s, want 1 and %s", got, events[19].At)
	}
}

// TestManyDeliverers: of several who do not know of each other, one delivers a
// notice.
func TestManyDeliverers(t *testing.T) {
	w := newWorld(t)
	var posts atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { posts.Add(1) }))
	defer server.Close()
	if err := os.WriteFile(w.Config.NotifyWebhookKey, []byte("a key of some length"), 0o600); err != nil {
		t.Fatal(err)
	}
	const events = 30
	for i := range events {
		w.exec(`INSERT INTO event (object_id, max, used, message_id, limit_no, kind, told_at) VALUES ($1, 1, 1, gen_random_uuid(), 0, 'refused', now())`, 4<<40|i)
	}
	w.exec(`INSERT INTO notice (event_id, channel, target, made_at) SELECT id, 'webhook', $1, now() - interval '5 minutes' FROM event`, server.URL)
	ctx, stop := context.WithCancel(t.Context())
	var working sync.WaitGroup
	for range 4 {
		d := w.deliverer()
		d.Log = zerolog.Nop()
		working.Go(func() { d.work(ctx, Webhook, nil) })
	}
	for w.text(`SELECT count(*)::text FROM notice WHERE sent_at IS NOT NULL`) != fmt.Sprint(events) {
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	working.Wait()
	if n := posts.Load(); n != events {
		t.Errorf("%d posts of %d notices", n, events)
	}
}

// TestAway: while the database is away the recorder keeps events, as many as there
// is room for, never waits, and writes them when it is back.
func TestAway(t *testing.T) {
	w := newWorld(t)
	var away atomic.Bool
	away.Store(true)
	c, err := pgxpool.ParseConfig(testpg.As(w.database, "mailquotad"))
	if err != nil {
		t.Fatal(err)
	}
	tried := make(chan struct{}, 100)
	c.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
		if away.Load() {
			select {
			case tried <- struct{}{}:
			default:
			}
			return errors.New("away")
		}
		return nil
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	r := NewRecorder(pool, quota.NewStore(pool, "host1", 1000), func() *zerolog.Logger { return &w.Log })
	r.flush = 50 * time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()

	// Decided without the database, an object may have no id yet.
	known, id := w.object("subscription:alice")
	e := quota.Event{Kind: quota.EventRefused, Object: known, Limit: quota.RecipientsDay, Max: 5, Used: 5, At: time.Now(), Message: uuid.Must(uuid.NewV7())}
	r.Note([]quota.Event{e})
	e.ID = id
	r.Note([]quota.Event{e})
	<-tried
	stranger := e
	stranger.ID, stranger.Object.Name = 0, "nobody"
	r.Note([]quota.Event{stranger})
	for i := range maxEntries + 10 {
		e.ID = quota.ID(4<<40 | 1000000 + i)
		r.Note([]quota.Event{e})
	}
	if n := len(r.entries); n > maxEntries {
		t.Errorf("%d entries", n)
	}
	away.Store(false)
	for w.text(`SELECT count(*)::text FROM event`) != fmt.Sprint(maxEntries-2) { // one object was there twice, and one is nobody's
		time.Sleep(10 * time.Millisecond)
	}
	if got := w.text(`SELECT kind || ' ' || limit_no || ' ' || max FROM event WHERE object_id = $1`, id); got != "refused 3 5" {
		t.Errorf("event of what had no id: %s", got)
	}
	stop()
	<-done
	for _, want := range []string{"wait for the database", "an object that the database does not have"} {
		if !strings.Contains(w.log.String(), want) {
			t.Errorf("no %q in the log: %.2000s", want, w.log)
		}
	}
}

// TestAtStop: what was noted last is written.
func TestAtStop(t *testing.T) {
	w := newWorld(t)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	w.recorder.Note([]quota.Event{w.refusal("user:alice", quota.EventWarned, spam)})
	w.recorder.Run(ctx)
	if got := w.text(`SELECT string_agg(kind, ' ') FROM event`); got != "warned" {
		t.Errorf("%s", got)
	}
}
