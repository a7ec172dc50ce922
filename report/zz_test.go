package report_test

import ("testing";"time";"fmt";"sendmail-wrapper/report")

func TestZZ(t *testing.T) {
	pool := twoDays(t)
	_, err := pool.Exec(t.Context(), `INSERT INTO messages (at, id, uid, size, user_id, subscription_id, host_id, recipients, decision, sender, kind, script, script_proof)
SELECT date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + n * interval '80 ms', gen_random_uuid(), 1, 1, u.id, u.subscription_id, u.host_id, 2, 1, 's', 'cron', '/srv/' || n % 1000, 1 FROM generate_series(1,1000000) n JOIN system_user u ON u.uid=1`)
	if err != nil { t.Fatal(err) }
	if _, err := pool.Exec(t.Context(), "ANALYZE messages"); err != nil { t.Fatal(err) }
	start, last, n, worst := time.Now(), time.Now(), 0, time.Duration(0)
	err = report.Messages(t.Context(), pool, report.Filter{}, 0, func(*report.Message) error { n++; if n%5000==0 { worst=max(worst, time.Since(last)); last=time.Now() }; if n == 250000 { return fmt.Errorf("enough") }; return nil })
	t.Log("250000 rows", time.Since(start), "worst page", worst, err)
	start = time.Now(); report.Messages(t.Context(), pool, report.Filter{}, 100, func(*report.Message) error { return nil }); t.Log("newest 100", time.Since(start))
	start = time.Now(); report.Messages(t.Context(), pool, report.Filter{User: "u2"}, 100, func(*report.Message) error { return nil }); t.Log("newest 100 of u2", time.Since(start))
	start = time.Now(); report.Top(t.Context(), pool, report.Filter{}, "script", 20); t.Log("top", time.Since(start))
}
