package report_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
	"sendmail-wrapper/sqlschema"
	"sendmail-wrapper/tests/testpg"
)

// daemonPool is the database of a pool as the daemon opens it, whose connections
// are set for other queries.
func daemonPool(t *testing.T, pool *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	d, err := sqlschema.DaemonPool(testpg.As(pool.Config().ConnString(), "mailquotad"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// someDays returns a database with n messages at random times of yesterday and the
// days before, of all decisions and sources, some of which have no name.
func someDays(t *testing.T, days, n int) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), testpg.New(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	for _, sql := range []string{
		fmt.Sprintf(`SELECT make_partitions((now() AT TIME ZONE 'UTC')::date - %d, %d)`, days, days+2),
		`INSERT INTO host (name) SELECT 'host' || n FROM generate_series(1, 2) n`,
		`INSERT INTO plan (name) VALUES ('gold')`,
		`INSERT INTO subscription (plan_id, name) SELECT p.id, s FROM plan p, unnest('{acme,beta}'::text[]) s WHERE p.name = CASE s WHEN 'acme' THEN 'gold' ELSE 'default' END`,
		`INSERT INTO domain (subscription_id, name) SELECT id, name || '.example' FROM subscription`,
		`INSERT INTO mailbox (domain_id, address) SELECT id, 'info@' || name FROM domain`,
		`INSERT INTO system_user (subscription_id, uid, host_id, name) SELECT s.id, 1000 + row_number() OVER (), h.id, 'u-' || s.name FROM subscription s, host h WHERE s.name = 'acme' OR h.id = 1`,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	addMessages(t, pool, n, today().AddDate(0, 0, -days), time.Duration(days)*24*time.Hour)
	return pool
}

// addMessages adds messages from a time on.
func addMessages(t *testing.T, pool *pgxpool.Pool, n int, since time.Time, long time.Duration) {
	t.Helper()
	_, err := pool.Exec(t.Context(), `INSERT INTO messages (at, id, size, user_id, subscription_id, domain_id, mailbox_id, host_id, recipients, decision,
  refused_object, refused_limit, refused_why, sender, kind, kind_proof, script, script_proof, crontab, crontab_proof, site, site_proof, facts)
SELECT $1::timestamptz + random() * $2::interval, gen_random_uuid(), 10 + n % 100, CASE WHEN n % 5 <> 4 THEN u.id END, u.subscription_id, CASE WHEN n % 3 = 0 THEN d.id END,
  CASE WHEN n % 5 = 4 THEN b.id END, u.host_id, 1 + n % 7, k.decision, CASE WHEN k.decision <> 1 AND n % 2 = 0 THEN u.subscription_id END,
  CASE WHEN k.decision <> 1 AND n % 2 = 0 THEN n / 8 % 4 END, CASE WHEN k.decision <> 1 THEN 'no: ' || n % 3 END, 's' || n % 4, 'cron', 3,
  CASE WHEN n % 6 < 4 THEN '/srv/' || n % 6 END, CASE WHEN n % 6 < 4 THEN 1 + n / 6 % 3 END, CASE WHEN n % 6 = 4 THEN 'crontab:' || n % 2 END, CASE WHEN n % 6 = 4 THEN 2 END,
  CASE WHEN n % 4 = 0 THEN 'site' END, CASE WHEN n % 4 = 0 THEN 1 + n / 4 % 3 END, CASE WHEN n % 9 = 0 THEN '{"client": ["198.51.100.7", "system"]}'::jsonb END
  FROM generate_series(1, $3) n, LATERAL (SELECT (ARRAY[1,1,1,2,3])[1 + n / 3 % 5] AS decision) k,
       LATERAL (SELECT * FROM system_user ORDER BY id OFFSET n % 3 LIMIT 1) u, LATERAL (SELECT * FROM domain WHERE subscription_id = u.subscription_id) d,
       LATERAL (SELECT * FROM mailbox WHERE domain_id = d.id) b`, since, long, n)
	if err != nil {
		t.Fatal(err)
	}
}

func rollUp(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	if err := report.RollUp(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
}

// everything is all that is read from sums.
func everything(t *testing.T, pool *pgxpool.Pool, f report.Filter) map[string]any {
	t.Helper()
	all := map[string]any{}
	keep := func(name string, v any, err error) {
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all[name] = v
	}
	for _, by := range report.TopColumns {
		list, err := report.Top(t.Context(), pool, f, by, 1000)
		keep("top "+by, list, err)
	}
	for _, by := range report.AttemptColumns {
		list, err := report.TopAttempts(t.Context(), pool, f, by, 1000)
		keep("attempts "+by, list, err)
	}
	for _, by := range report.SourceColumns {
		list, err := report.Sources(t.Context(), pool, f, by, 1000)
		for i := range list {
			list[i].Subjects, list[i].To = nil, nil
		}
		keep("sources "+by, list, err)
	}
	attempts, err := report.Attempts(t.Context(), pool, f, 1000)
	keep("attempts", len(attempts), err)
	sums := map[string]report.Attempt{}
	for _, a := range attempts {
		sums[fmt.Sprint(a.RefusedBy, a.User == nil || *a.User == "u-acme", a.Kind, a.Script == nil || *a.Script == "/srv/1", a.Crontab == nil, a.Attempts, a.Last)] = a
	}
	keep("each attempt", sums, nil)
	summary, err := report.Summarize(t.Context(), pool, quota.NewStore(pool, "host1", 1000), f, 1000)
	keep("summary", summary, err)
	history, err := report.Totals(t.Context(), pool, f, true)
	keep("hours", history, err)
	history, err = report.Totals(t.Context(), pool, f, false)
	keep("days", history, err)
	return all
}

var compareSources = cmpopts.IgnoreUnexported(report.Source{}, report.Group{}, report.Attempt{}, report.Tried{})
var compareTimes = cmp.Comparer(func(a, b report.Time) bool { return time.Time(a).Equal(time.Time(b)) })

// TestSumsAreExact: whatever the period and the filter, reports with sums are those
// without, also while some sums are missing or dirty.
func TestSumsAreExact(t *testing.T) {
	const days = 3
	pool := someDays(t, days, 3000)
	daemon := daemonPool(t, pool)
	rng := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	begin := today().AddDate(0, 0, -days)
	moment := func() time.Time {
		at := begin.Add(time.Duration(rng.Int64N(int64((days + 1) * 24 * time.Hour)))).Truncate(time.Microsecond)
		switch rng.IntN(3) {
		case 0:
			return at.Truncate(time.Hour)
		case 1:
			return at.Truncate(24 * time.Hour)
		}
		return at
	}
	filters := []report.Filter{
		{}, {User: "u-acme"}, {Subscription: "beta"}, {Domain: "acme.example"}, {Mailbox: "INFO@beta.example"}, {Plan: "gold"}, {Host: "host2"}, {Kind: "cron"},
		{Subscription: "beta", Host: "host1"}, {Script: "srv/1"}, {Crontab: "tab:1"}, {Site: "site"}, {Refused: true}, {Client: "198.51.100.7"},
	}
	for round := range 14 {
		f := filters[round%len(filters)]
		if f.Since, f.Until = moment(), moment(); f.Until.Before(f.Since) {
			f.Since, f.Until = f.Until, f.Since
		}
		if round%8 == 0 {
			f.Since, f.Until = time.Time{}, time.Time{}
		}
		for _, sql := range []string{`DELETE FROM summed`, `DELETE FROM hourly`, `DELETE FROM daily`, `DELETE FROM hourly_object`, `DELETE FROM daily_object`} {
			if _, err := pool.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		plain := everything(t, pool, f)
		rollUp(t, daemon)
		if diff := cmp.Diff(plain, everything(t, pool, f), compareSources, compareTimes); diff != "" {
			t.Fatalf("%+v:\n%s", f, diff)
		}
		// Rows of an outage, and hours that nobody summed up.
		addMessages(t, pool, 50, begin.Add(time.Duration(rng.IntN(days*24-1))*time.Hour), 90*time.Minute)
		if _, err := pool.Exec(t.Context(), `UPDATE summed s SET dirty = true FROM messages m WHERE s.at = date_trunc(s.span, m.at, 'UTC') AND m.xmin::text = (SELECT max(xmin::text::bigint)::text FROM messages)`); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.Exec(t.Context(), `DELETE FROM summed WHERE random() < 0.2`); err != nil {
			t.Fatal(err)
		}
		mixed := everything(t, pool, f)
		if _, err := pool.Exec(t.Context(), `UPDATE summed SET dirty = true`); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(everything(t, pool, f), mixed, compareSources, compareTimes); diff != "" {
			t.Fatalf("%+v, dirty:\n%s", f, diff)
		}
	}
}

func number(t *testing.T, pool *pgxpool.Pool, sql string) (n int64) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// TestRollUp: each hour and day once; again what is dirty; what came too late is
// found with the day; sums outlive their rows, and go after their months.
func TestRollUp(t *testing.T) {
	pool := someDays(t, 2, 2000)
	daemon := daemonPool(t, pool)
	sums := func() string {
		return fmt.Sprint(number(t, pool, `SELECT coalesce(sum(messages), 0)::bigint FROM hourly WHERE at < date_trunc('day', now(), 'UTC')`), " ",
			number(t, pool, `SELECT coalesce(sum(messages), 0)::bigint FROM daily`), " ", number(t, pool, `SELECT count(*) FROM summed WHERE dirty`))
	}
	expect := func(what, want string) {
		t.Helper()
		if got := sums(); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	held, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := held.Exec(t.Context(), `SELECT pg_advisory_xact_lock(7305419260000003)`); err != nil {
		t.Fatal(err)
	}
	rollUp(t, daemon)
	expect("while another daemon does it", "0 0 0")
	if err := held.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	rollUp(t, daemon)
	// Within an hour of midnight yesterday is not over yet.
	hours, daysDone := number(t, pool, `SELECT sum(messages)::bigint FROM hourly`), number(t, pool, `SELECT coalesce(sum(messages), 0)::bigint FROM daily`)
	if hours < 1900 || daysDone < 900 {
		t.Fatalf("%d messages in hours, %d in days", hours, daysDone)
	}
	addMessages(t, pool, 10, today().Add(-30*time.Hour), time.Minute)
	rollUp(t, daemon)
	expect("rows that nobody told of", fmt.Sprintf("%d %d 0", hours, daysDone))
	// With the day, what came late is found in its hours, too.
	if _, err := pool.Exec(t.Context(), `UPDATE summed SET dirty = true WHERE span = 'day'`); err != nil {
		t.Fatal(err)
	}
	rollUp(t, daemon)
	expect("the day", fmt.Sprintf("%d %d 1", hours, daysDone+10))
	rollUp(t, daemon)
	expect("its hours", fmt.Sprintf("%d %d 0", hours+10, daysDone+10))

	// Rows that were dropped stay in sums, whatever comes after them.
	for _, sql := range []string{`DELETE FROM messages`, `UPDATE summed SET dirty = true`} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	addMessages(t, pool, 1, today().Add(-30*time.Hour), time.Minute)
	rollUp(t, daemon)
	expect("rows dropped", fmt.Sprintf("%d %d 0", hours+10, daysDone+10))
	list, err := report.Top(t.Context(), pool, report.Filter{Until: today().AddDate(0, 0, -1)}, "kind", 5)
	if err != nil || len(list) != 1 || list[0].Messages+list[0].Refused != number(t, pool, `SELECT sum(messages)::bigint FROM daily WHERE at < date_trunc('day', now() - interval '24 hours', 'UTC')`) {
		t.Errorf("%+v, %v", list, err)
	}

	if err := report.DropSums(t.Context(), daemon, 1); err != nil {
		t.Fatal(err)
	}
	expect("young sums", fmt.Sprintf("%d %d 0", hours+10, daysDone+10))
	for _, table := range []string{"hourly", "daily", "hourly_object", "daily_object", "summed"} {
		if _, err := pool.Exec(t.Context(), `UPDATE `+table+` SET at = at - interval '1 month' WHERE at < $1`, today().AddDate(0, 0, -1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := report.DropSums(t.Context(), daemon, 1); err != nil {
		t.Fatal(err)
	}
	if n := number(t, pool, `SELECT (SELECT count(*) FROM summed WHERE at < now() - interval '1 month') + (SELECT count(*) FROM hourly WHERE at < now() - interval '1 month')
  + (SELECT count(*) FROM hourly_object WHERE at < now() - interval '1 month') + (SELECT count(*) FROM daily_object WHERE at < now() - interval '1 month')`); n != 0 {
		t.Errorf("%d old sums", n)
	}
}

// TestBookedWhileSummingUp: an hour to which rows of an outage come while it is summed
// up stays dirty.
func TestBookedWhileSummingUp(t *testing.T) {
	pool := twoDays(t)
	reader, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Rollback(t.Context())
	if _, err := reader.Exec(t.Context(), `LOCK TABLE hourly`); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- report.RollUp(t.Context(), pool) }()
	for waits := false; !waits; {
		if err := pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'hourly'::regclass)`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	_, err = pool.Exec(t.Context(), `INSERT INTO summed (at, span, dirty, marks) SELECT $1::timestamptz + n * interval '1 hour', 'hour', true, 1 FROM generate_series(-48, 23) n`,
		today().AddDate(0, 0, -1))
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// It was the first one of the oldest day.
	var dirty bool
	err = pool.QueryRow(t.Context(), `SELECT dirty FROM summed WHERE span = 'hour' AND at = (SELECT min(to_date(right(c.relname, 8), 'YYYYMMDD'))::timestamp AT TIME ZONE 'UTC'
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'messages'::regclass)`).Scan(&dirty)
	if err != nil || !dirty {
		t.Errorf("dirty: %v, %v", dirty, err)
	}
}
