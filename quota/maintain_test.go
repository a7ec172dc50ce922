package quota_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/tests/testpg"
)

const insertRow = `INSERT INTO messages (at, id, size, host_id, recipients, decision, sender, kind) VALUES ($1, gen_random_uuid(), 1, 1, 1, 1, 'x', 'shell')`

// writer writes rows of today, one transaction each, until the test ends.
type writer struct {
	written atomic.Int64
	cancel  context.CancelFunc
	ended   chan error
}

func newWriter(t *testing.T, pool *pgxpool.Pool) *writer {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &writer{cancel: cancel, ended: make(chan error, 1)}
	go func() {
		for ctx.Err() == nil {
			if _, err := pool.Exec(ctx, insertRow, time.Now()); err != nil && ctx.Err() == nil {
				w.ended <- err
				return
			}
			w.written.Add(1)
		}
		w.ended <- nil
	}()
	return w
}

func (w *writer) stop(t *testing.T) {
	t.Helper()
	w.cancel()
	if err := <-w.ended; err != nil {
		t.Errorf("mail was held up: %v", err)
	}
}

func partitions(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	rows, err := pool.Query(t.Context(), `SELECT right(c.relname, 8) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'messages'::regclass ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	days, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(days, " ")
}

// TestRetentionBesideReader: while somebody reads messages, no partition is
// dropped, he is named, and mail goes on; afterwards all the old ones go.
func TestRetentionBesideReader(t *testing.T) {
	store, pool := newStore(t)
	young := partitions(t, pool)
	old := time.Now().AddDate(0, 0, -40)
	if err := quota.MakePartitions(store, t.Context(), old, old.AddDate(0, 0, 1), old.AddDate(0, 0, 2)); err != nil {
		t.Fatal(err)
	}
	summed(t, pool, old, old.AddDate(0, 0, 1), old.AddDate(0, 0, 2))
	all := partitions(t, pool)
	if _, err := pool.Exec(t.Context(), `INSERT INTO host (name) VALUES ('host1') ON CONFLICT DO NOTHING`); err != nil {
		t.Fatal(err)
	}
	w := newWriter(t, pool)

	reader, err := pgx.Connect(t.Context(), testpg.As(pool.Config().ConnString(), "postgres")+" application_name=report")
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close(context.WithoutCancel(t.Context()))
	for _, sql := range []string{`BEGIN`, `SELECT count(*) FROM messages`} {
		if _, err := reader.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	before := w.written.Load()
	err = store.Maintain(t.Context(), 31, 31)
	want := fmt.Sprintf("process %d (user postgres, application report) since 20", reader.PgConn().PID())
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("beside a reader: %v, want %q", err, want)
	}
	if n := w.written.Load() - before; n < 10 {
		t.Errorf("%d messages while the partition was tried", n)
	}
	if got := partitions(t, pool); got != all {
		t.Errorf("partitions %s, want %s", got, all)
	}

	if _, err := reader.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	if err := store.Maintain(t.Context(), 31, 31); err != nil {
		t.Errorf("without a reader: %v", err)
	}
	if got := partitions(t, pool); got != young {
		t.Errorf("partitions %s, want %s", got, young)
	}
	w.stop(t)
}

// TestPartitionsOfAnOutage: rows are booked when the database is back, perhaps
// on a later day, for days that never had a partition, or had one that is gone.
func TestPartitionsOfAnOutage(t *testing.T) {
	store, pool := newStore(t)
	now := time.Now()
	days := []time.Time{now.AddDate(0, 0, -30), now.AddDate(0, 0, -9), now.AddDate(0, 0, -9).Add(time.Minute), now.AddDate(0, 0, -1), now, now.AddDate(0, 0, 12)}
	if _, err := pool.Exec(t.Context(), insertRow, days[1]); err == nil {
		t.Fatal("there was a partition")
	}
	for range 2 {
		if err := quota.MakePartitions(store, t.Context(), days...); err != nil {
			t.Fatal(err)
		}
		for _, at := range days {
			if _, err := pool.Exec(t.Context(), insertRow, at); err != nil {
				t.Errorf("a row of %s: %v", at, err)
			}
		}
	}
	// Within the time that rows are kept they stay; others go with the next round.
	if err := store.Maintain(t.Context(), 31, 31); err != nil {
		t.Fatal(err)
	}
	if n := number(t, pool, `SELECT count(*) FROM messages`); n != int64(2*len(days)) {
		t.Errorf("%d rows", n)
	}
	summed(t, pool, days[0])
	if err := store.Maintain(t.Context(), 20, 20); err != nil {
		t.Fatal(err)
	}
	if n := number(t, pool, `SELECT count(*) FROM messages`); n != int64(2*len(days)-2) {
		t.Errorf("%d rows", n)
	}
}
