package report_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/report"
	"sendmail-wrapper/tests/testpg"
)

func TestMain(m *testing.M) { testpg.Main(m) }

// perDay is more than two pages, also of keys; perSecond so many that times are
// not unique and a page ends among equal ones.
const perDay, perSecond = 12000, 700

// today is when the rows of days begin.
func today() time.Time { return time.Now().UTC().Truncate(24 * time.Hour) }

// twoDays returns a database with perDay messages yesterday and today, each
// fourth refused, of users u0, u1 and u2 in turn. Their ids are in no order.
func twoDays(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), testpg.New(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	for _, sql := range []string{
		`SELECT make_partitions((now() AT TIME ZONE 'UTC')::date - 1, 3)`,
		`INSERT INTO host (name) VALUES ('host1')`,
		`INSERT INTO subscription (plan_id, name) SELECT id, 'acme' FROM plan WHERE name = 'default'`,
		`INSERT INTO system_user (subscription_id, uid, host_id, name) SELECT s.id, n, h.id, 'u' || n FROM subscription s, host h, generate_series(0, 2) n`,
		fmt.Sprintf(`INSERT INTO messages (at, id, uid, size, user_id, subscription_id, host_id, recipients, decision, refused_object, refused_limit, refused_why, sender, kind, script, script_proof)
SELECT date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' - day * interval '1 day' + n / %d * interval '1 second',
       gen_random_uuid(), n %% 3, n, u.id, u.subscription_id, u.host_id, 2, CASE WHEN n %% 4 = 3 THEN 2 ELSE 1 END,
       CASE WHEN n %% 4 = 3 THEN u.subscription_id END, CASE WHEN n %% 4 = 3 THEN 0 END, CASE WHEN n %% 4 = 3 THEN 'full' END, 's', 'cron', '/srv/' || n %% 3, 1
  FROM generate_series(0, 1) day, generate_series(0, %d) n JOIN system_user u ON u.uid = n %% 3`, perSecond, perDay-1),
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	return pool
}

// TestPages: each message comes once, by time and then id, over pages and days.
func TestPages(t *testing.T) {
	pool := twoDays(t)
	for _, c := range []struct {
		name   string
		filter report.Filter
		limit  int
		want   int
	}{
		{"all", report.Filter{}, 0, 2 * perDay},
		{"newest", report.Filter{}, perDay + 6000, perDay + 6000},
		{"fewer than asked for", report.Filter{}, 3 * perDay, 2 * perDay},
		{"one day", report.Filter{Since: today()}, 0, perDay},
		{"the day before", report.Filter{Until: today()}, 0, perDay},
		{"a second", report.Filter{Since: today(), Until: today().Add(time.Second)}, 0, perSecond},
		{"user", report.Filter{User: "u1"}, 0, 2 * perDay / 3},
		{"subscription, script, refused", report.Filter{Subscription: "acme", Script: "srv/2", Refused: true}, 0, perDay / 6},
		{"none", report.Filter{Domain: "shop.example"}, 0, 0},
	} {
		seen := map[string]bool{}
		last := ""
		err := report.Messages(t.Context(), pool, c.filter, c.limit, func(m *report.Message) error {
			position := m.Time.String() + m.ID.String()
			if position <= last {
				t.Fatalf("%s: %s after %s", c.name, position, last)
			}
			last = position
			seen[m.ID.String()] = true
			return nil
		})
		if err != nil || len(seen) != c.want {
			t.Errorf("%s: %d messages, want %d; %v", c.name, len(seen), c.want, err)
		}
	}
}

// TestPagesAreLinear: however often a page is read, it costs its own rows, and not
// all that come after it, as a plan that PostgreSQL keeps may have it.
func TestPagesAreLinear(t *testing.T) {
	pool := twoDays(t)
	config := pool.Config()
	config.MaxConns = 1 // which plans what it runs often
	one, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	read := func() (rows int64) {
		t.Helper()
		for _, sql := range []string{`SELECT pg_stat_force_next_flush()`, `SELECT pg_stat_clear_snapshot()`} {
			if _, err := one.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		err := one.QueryRow(t.Context(), `SELECT sum(t.seq_tup_read + i.idx_tup_read)::bigint
  FROM pg_stat_user_tables t JOIN pg_stat_user_indexes i USING (relid) WHERE t.relname ~ '^messages_[0-9]+$'`).Scan(&rows)
		if err != nil {
			t.Fatal(err)
		}
		return rows
	}
	if _, err := one.Exec(t.Context(), `ANALYZE`); err != nil {
		t.Fatal(err)
	}
	const times = 6
	before := read()
	for range times {
		if err := report.Messages(t.Context(), one, report.Filter{}, 0, func(*report.Message) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	// Once for its key, once for the row.
	if n := read() - before; n < times*2*perDay || n > times*2*2*perDay*11/10 {
		t.Errorf("%d rows read for %d", n, times*2*perDay)
	}
}

// TestSums: sums over days are those over all rows.
func TestSums(t *testing.T) {
	pool := twoDays(t)
	first, last := today().AddDate(0, 0, -1), today().Add(time.Duration((perDay-1)/perSecond)*time.Second)
	top, err := report.Top(t.Context(), pool, report.Filter{}, "user", 2)
	if err != nil {
		t.Fatal(err)
	}
	if len(top) != 2 {
		t.Fatalf("%d senders", len(top))
	}
	for _, s := range top {
		// Each user sent perDay*2/3, a fourth of them refused.
		if s.Messages != perDay/2 || s.Recipients != perDay || s.Refused != perDay/6 || !time.Time(s.First).Before(first.Add(time.Second)) || !time.Time(s.Last).Equal(last) {
			t.Errorf("%s: %+v", *s.Name, s)
		}
	}
	attempts, err := report.Attempts(t.Context(), pool, report.Filter{User: "u0"}, 10)
	if err != nil {
		t.Fatal(err)
	}
	if len(attempts) != 1 || attempts[0].Attempts != perDay/6 || attempts[0].Recipients != perDay/3 || attempts[0].RefusedBy != "subscription:acme messages/hour" {
		t.Errorf("%+v", attempts)
	}
	none, err := report.Top(t.Context(), pool, report.Filter{Until: today().AddDate(0, 0, -5)}, "kind", 5)
	if err != nil || len(none) != 0 {
		t.Errorf("%+v, %v", none, err)
	}
	if _, err := report.Top(t.Context(), pool, report.Filter{}, "1; DROP TABLE messages", 5); err == nil {
		t.Error("counted by a statement")
	}
}

func TestTable(t *testing.T) {
	name, number := "a\x1b[2J\nb\xff", int64(7)
	var b bytes.Buffer
	report.Table(&b, []string{"name", "count"}, [][]any{{&name, &number}, {"", (*int64)(nil)}, {(*string)(nil), int64(1234)}})
	want := "" +
		"name      count\n" +
		"a�[2J�b�      7\n" +
		"-             -\n" +
		"-          1234\n"
	got := ""
	for line := range strings.Lines(b.String()) {
		if line = strings.Trim(line, " \n"); strings.Trim(line, "─┌┐└┘├┤│ ") != "" {
			got += strings.TrimRight(strings.Trim(line, "│"), " ") + "\n"
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s\n%s", diff, b.String())
	}
}
