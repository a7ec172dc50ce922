package quota_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
)

// summed says that the days of some times have been summed up.
func summed(t *testing.T, pool *pgxpool.Pool, times ...time.Time) {
	t.Helper()
	_, err := pool.Exec(t.Context(), `INSERT INTO summed (at, span) SELECT DISTINCT date_trunc('day', at, 'UTC'), 'day' FROM unnest($1::timestamptz[]) at`, times)
	if err != nil {
		t.Fatal(err)
	}
}

// TestBookedRowsMakeSumsDirty: rows of hours that are over, and no others.
func TestBookedRowsMakeSumsDirty(t *testing.T) {
	store, pool := newStore(t)
	now := time.Now().UTC()
	then := now.Truncate(24 * time.Hour).Add(-90 * time.Minute) // of yesterday, the hour before the last
	if _, err := pool.Exec(t.Context(), `INSERT INTO summed (at, span) VALUES ($1, 'hour'), ($2, 'hour'), ($3, 'day')`,
		then.Truncate(time.Hour), then.Truncate(time.Hour).Add(time.Hour), then.Truncate(24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	list := func() string {
		t.Helper()
		rows, err := pool.Query(t.Context(), `SELECT span, at FROM summed WHERE dirty ORDER BY span DESC, at`)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		var all []string
		for rows.Next() {
			var span string
			var at time.Time
			if err := rows.Scan(&span, &at); err != nil {
				t.Fatal(err)
			}
			all = append(all, fmt.Sprint(span, " ", at.Unix()))
		}
		return strings.Join(all, ", ")
	}
	book := func(times ...time.Time) {
		t.Helper()
		var messages []quota.Message
		var decided []*quota.Decision
		for _, at := range times {
			messages, decided = append(messages, message(1001, "alice", 1)), append(decided, &quota.Decision{At: at})
		}
		if err := quota.Book(store, t.Context(), messages, decided); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := store.Decide(t.Context(), []quota.Message{message(1001, "alice", 1)}); err != nil {
		t.Fatal(err)
	}
	book(now)
	if got := list(); got != "" && now.Truncate(time.Hour).Equal(time.Now().Truncate(time.Hour)) {
		t.Errorf("rows of this hour: dirty %s", got)
	}
	book(then.Add(-time.Minute), now, then, then)
	want := fmt.Sprintf("hour %d, day %d", then.Truncate(time.Hour).Unix(), then.Truncate(24*time.Hour).Unix())
	if got := list(); got != want {
		t.Errorf("dirty %s, want %s", got, want)
	}
}

// TestRetentionWaitsForSums: a day that is not summed up, or dirty, is kept for some
// days longer, and with it what came after; then it goes, and is named.
func TestRetentionWaitsForSums(t *testing.T) {
	store, pool := newStore(t)
	young := partitions(t, pool)
	before := func(days int) time.Time { return time.Now().UTC().AddDate(0, 0, -days) }
	old := []time.Time{before(14), before(13), before(12), before(11)}
	if err := quota.MakePartitions(store, t.Context(), old...); err != nil {
		t.Fatal(err)
	}
	expect := func(want string, days ...time.Time) {
		t.Helper()
		err := store.Maintain(t.Context(), 10, 10)
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		left := ""
		for _, d := range days {
			left += d.Format("20060102") + " "
		}
		if got := partitions(t, pool); got != left+young {
			t.Errorf("partitions %s, want %s", got, left+young)
		}
	}
	summed(t, pool, old[1], old[3])
	expect("messages of "+old[0].Format(time.DateOnly)+" are dropped, and there are no sums of them", old[1:]...)
	expect("", old[2:]...)
	if _, err := pool.Exec(t.Context(), `UPDATE summed SET dirty = true`); err != nil {
		t.Fatal(err)
	}
	summed(t, pool, old[2])
	expect("", old[3])
	if _, err := pool.Exec(t.Context(), `UPDATE summed SET dirty = false`); err != nil {
		t.Fatal(err)
	}
	expect("")
}
