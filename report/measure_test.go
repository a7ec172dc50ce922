package report_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
)

// addHour puts a row into hourly; what a test does not care for is 0 or empty.
func addHour(t *testing.T, pool *pgxpool.Pool, given map[string]any) {
	t.Helper()
	rows, err := pool.Query(t.Context(), `SELECT attname, format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = 'hourly'::regclass AND attnum > 0 AND NOT attisdropped`)
	if err != nil {
		t.Fatal(err)
	}
	var names, places []string
	var values []any
	var name, kind string
	_, err = pgx.ForEachRow(rows, []any{&name, &kind}, func() error {
		value, ok := given[name]
		switch {
		case ok:
		case kind == "text":
			value = ""
		case kind == "timestamp with time zone":
			value = time.Now()
		default:
			value = 0
		}
		names, values = append(names, name), append(values, value)
		places = append(places, fmt.Sprint("$", len(values)))
		return nil
	})
	if err == nil {
		_, err = pool.Exec(t.Context(), `INSERT INTO hourly (`+strings.Join(names, ", ")+`) VALUES (`+strings.Join(places, ", ")+`)`, values...)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestMeasurePeaks: rows are read day by day, windows go on over midnight, and
// what is older than the rows comes from the sums of hours.
func TestMeasurePeaks(t *testing.T) {
	pool := twoDays(t) // 700 messages of 2 recipients a second, 12000 a day, from midnight on
	var subscription quota.ID
	if err := pool.QueryRow(t.Context(), `SELECT id FROM subscription`).Scan(&subscription); err != nil {
		t.Fatal(err)
	}
	measure := func(since time.Time) (*report.Peaks, []string) {
		t.Helper()
		var days []string
		p, err := report.MeasurePeaks(t.Context(), pool, quota.Subscription, since, func(day time.Time) { days = append(days, day.UTC().Format("02")) })
		if err != nil {
			t.Fatal(err)
		}
		return p, days
	}
	yesterday := today().Add(-24 * time.Hour)
	p, days := measure(yesterday)
	// Today's first quarter of an hour is in one window with yesterday's.
	if want := (report.Peak{perDay, 2 * perDay, 2 * perDay, 4 * perDay}); len(p.Of) != 1 || p.Of[subscription] != want || !p.First.Equal(yesterday) || p.Sums {
		t.Errorf("%+v, want %v since %s", p, want, yesterday)
	}
	if want := []string{yesterday.Format("02"), today().Format("02"), today().Add(24 * time.Hour).Format("02")}; !slices.Equal(days, want) {
		t.Errorf("days %v, want %v", days, want)
	}
	if p, _ := measure(today()); p.Of[subscription] != (report.Peak{perDay, perDay, 2 * perDay, 2 * perDay}) {
		t.Errorf("today alone: %+v", p)
	}

	// 20 hours of 1000 messages, of two sources each, ten days ago; and an hour that
	// the rows have, too.
	for n := range 20 {
		for _, script := range []string{"/a", "/b"} {
			addHour(t, pool, map[string]any{"at": today().Add(-240 * time.Hour).Add(time.Duration(n) * time.Hour), "subscription_id": subscription,
				"messages": 500, "recipients": 600, "script": script, "decision": 1})
		}
	}
	addHour(t, pool, map[string]any{"at": today(), "subscription_id": subscription, "messages": 1_000_000, "recipients": 1, "decision": 1})
	addHour(t, pool, map[string]any{"at": today().Add(-240 * time.Hour), "messages": 1_000_000, "recipients": 1, "decision": 1}) // nobody's
	p, _ = measure(today().Add(-300 * time.Hour))
	if want := (report.Peak{perDay, 2 * perDay, 2 * perDay, 4 * perDay}); p.Of[subscription] != want || !p.Sums || !p.First.Equal(today().Add(-240*time.Hour)) {
		t.Errorf("with sums: %+v, want %v", p, want)
	}
	if _, err := pool.Exec(t.Context(), `TRUNCATE messages`); err != nil {
		t.Fatal(err)
	}
	if p, _ := measure(today().Add(-300 * time.Hour)); p.Of[subscription] != (report.Peak{1000, 20_000, 1200, 24_000}) {
		t.Errorf("sums alone: %+v", p)
	}
}
