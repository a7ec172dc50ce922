package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"

	"sendmail-wrapper/config"
	"sendmail-wrapper/notify"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/sqlschema"
	"sendmail-wrapper/tests/testpg"
	"sendmail-wrapper/wire"
)

// TestOneNotificationOfTenHosts: the daemons of ten hosts refuse a message each, by
// the same limit, while each host has a service that delivers notifications: that
// is one event, and one notification.
func TestOneNotificationOfTenHosts(t *testing.T) {
	database := testpg.New(t)
	owner, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close(context.Background())
	exec := func(sql string) {
		t.Helper()
		if _, err := owner.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec(`SELECT make_partitions((now() AT TIME ZONE 'UTC')::date - 1, 3)`)
	exec(`INSERT INTO limits (owner_id, class, messages_hour) VALUES (6::bigint << 40, 6, 0)`)
	told := make(chan notify.Told, 100)
	web := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var one notify.Told
		if err := json.NewDecoder(r.Body).Decode(&one); err != nil {
			t.Error(err)
		}
		told <- one
	}))
	defer web.Close()
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("a key of some length"), 0o600); err != nil {
		t.Fatal(err)
	}

	const hosts = 10
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var running, callers sync.WaitGroup
	var sockets []string
	for i := range hosts {
		c := testConfig(testpg.As(database, "mailquotad"))
		c.Host, c.Journal, c.DecisionTimeout = fmt.Sprintf("host%d", i), filepath.Join(t.TempDir(), "journal"), config.Duration(10*time.Second)
		c.NotifyAdmin, c.NotifyWebhook, c.NotifyWebhookKey = nil, web.URL, key
		socket := filepath.Join(t.TempDir(), "s")
		l, err := Listen(socket)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		s, err := New(c, "test", zerolog.New(io.Discard))
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			if err := s.Serve(ctx, l); err != nil {
				t.Error(err)
			}
		})
		sockets = append(sockets, socket)
		if i%3 == 0 {
			pool, err := sqlschema.Pool(c.Database)
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			d := &notify.Deliverer{Pool: pool, Store: quota.NewStore(pool, c.Host, 0), Config: &c, Log: zerolog.Nop(),
				Check: func(ctx context.Context) error { return sqlschema.Check(ctx, pool) }}
			running.Go(func() { d.Run(ctx) })
		}
	}
	for _, socket := range sockets {
		callers.Go(func() {
			if reply, err := ask(socket, "Subject: s\n\nx\n", "sendmail", "a@x"); err != nil || reply.Verdict != wire.VerdictRefuse {
				t.Errorf("%+v, %v", reply, err)
			}
		})
	}
	callers.Wait()
	select {
	case one := <-told:
		if one.Kind != quota.EventRefused || one.Event.Object != "server" || one.Event.Limit != "messages/hour" || one.Event.Message.Subject != "s" {
			t.Errorf("%+v", one)
		}
	case <-time.After(time.Minute):
		t.Fatal("nobody is told")
	}
	stop()
	running.Wait() // each has written what it had to
	if len(told) > 0 {
		t.Errorf("told again: %+v", <-told)
	}
	var refused, events, notices int
	if err := owner.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM messages WHERE decision = 2), (SELECT count(*) FROM event), (SELECT count(*) FROM notice)`).
		Scan(&refused, &events, &notices); err != nil || refused != hosts || events != 1 || notices != 1 {
		t.Errorf("%d refused, %d events, %d notices, %v", refused, events, notices, err)
	}
}
