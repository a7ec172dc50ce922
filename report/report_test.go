package report_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
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
		err := one.QueryRow(t.Context(), `SELECT (SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname ~ '^messages_[0-9]+$')::bigint
  + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE indexrelname ~ '^messages_[0-9]+_pkey$')::bigint`).Scan(&rows)
		if err != nil {
			t.Fatal(err)
		}
		return rows
	}
	// What vacuum reads to sum up for the index on time is not a page's.
	if _, err := one.Exec(t.Context(), `VACUUM ANALYZE`); err != nil {
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

// keepDetails gives the messages of twoDays details, and those of u1 facts.
func keepDetails(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	for _, sql := range []string{
		`UPDATE messages SET facts = '{"client": ["198.51.100.7", "system"], "new": ["of a later version", "kernel"], "chain": [{"pid": 7, "uid": 1, "euid": 0, "program": "/bin/sh"}]}' WHERE uid = 1`,
		`INSERT INTO details SELECT at, id, CASE WHEN size = 0 THEN '<first@x>' END, '=?utf-8?q?s' || size || '?=', ARRAY['a' || size || '@x', 'b@x'] FROM messages`,
		`UPDATE messages SET script_proof = 2 WHERE uid = 2 AND size < 1000`,
		`UPDATE messages SET script = NULL WHERE uid = 0 AND at >= date_trunc('day', now(), 'UTC')`,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// TestSources: sums over days, the span of proofs, and samples of the last day.
func TestSources(t *testing.T) {
	pool := twoDays(t)
	keepDetails(t, pool)
	sources, err := report.Sources(t.Context(), pool, report.Filter{}, "script", 10)
	if err != nil || len(sources) != 3 {
		t.Fatalf("%+v, %v", sources, err)
	}
	for i, want := range []struct {
		name, user         string
		messages, refused  int64
		weakest, strongest string
	}{
		{"/srv/1", "u1", perDay / 2, perDay / 6, "claimed", "claimed"}, {"/srv/2", "u2", perDay / 2, perDay / 6, "claimed", "system"},
		{"/srv/0", "u0", perDay / 4, perDay / 12, "claimed", "claimed"},
	} {
		s := &sources[i]
		if s.Name != want.name || *s.User != want.user || s.Host != "host1" || s.Messages != want.messages || s.Recipients != 2*want.messages ||
			s.Refused != want.refused || s.Weakest != want.weakest || s.Strongest != want.strongest {
			t.Errorf("%+v, want %+v", s, want)
		}
		day := today()
		if want.name == "/srv/0" {
			day = day.AddDate(0, 0, -1)
		}
		if last := time.Time(s.Last); last.Before(day) || !last.Before(day.AddDate(0, 0, 1)) {
			t.Errorf("%s: last %s", s.Name, s.Last)
		}
		if len(s.Subjects) != 3 || !strings.HasPrefix(s.Subjects[0], "s") || s.Subjects[0] == s.Subjects[1] || len(s.To) != 3 || s.To[1] != "b@x" {
			t.Errorf("%s: samples %q, %q", s.Name, s.Subjects, s.To)
		}
	}
	some, err := report.Sources(t.Context(), pool, report.Filter{Until: today(), Client: "198.51.100.7", Kind: "cron"}, "script", 10)
	if err != nil || len(some) != 1 || some[0].Name != "/srv/1" || some[0].Messages != perDay/4 {
		t.Errorf("%+v, %v", some, err)
	}
	for _, f := range []report.Filter{{Kind: "shell"}, {Site: "x"}, {Crontab: "x"}, {Client: "198.51.100.70"}} {
		if none, err := report.Sources(t.Context(), pool, f, "script", 10); err != nil || len(none) != 0 {
			t.Errorf("%+v: %+v, %v", f, none, err)
		}
	}
	if none, err := report.Sources(t.Context(), pool, report.Filter{}, "site", 10); err != nil || len(none) != 0 {
		t.Errorf("%+v, %v", none, err)
	}
	if _, err := report.Sources(t.Context(), pool, report.Filter{}, "sender", 10); err == nil {
		t.Error("ranked by sender")
	}
}

// TestFind: by id, Message-ID, and by what a mail server knows.
func TestFind(t *testing.T) {
	pool := twoDays(t)
	keepDetails(t, pool)
	insert := func(id uuid.UUID, at time.Time) {
		t.Helper()
		_, err := pool.Exec(t.Context(), `INSERT INTO messages (at, id, uid, size, host_id, recipients, decision, sender, kind) VALUES ($1, $2, 4242, 1, 1, 7, 1, 's', 'shell')`, at, id)
		if err != nil {
			t.Fatal(err)
		}
	}
	id, far, early, none := uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7())
	noon := today().Add(12 * time.Hour)
	for i := range 6 { // the time of a version 7
		shift := uint(40 - 8*i)
		id[i], far[i], none[i] = byte(noon.UnixMilli()>>shift), byte(noon.AddDate(0, 0, 3).UnixMilli()>>shift), byte(noon.UnixMilli()>>shift)
		early[i] = byte(noon.AddDate(0, 0, -quota.RepeatDays-2).UnixMilli() >> shift)
	}
	insert(id, noon.Add(time.Minute))
	insert(far, noon)
	insert(early, noon)
	for _, c := range []struct {
		id   uuid.UUID
		want bool
	}{{id, true}, {far, false}, {early, false}, {none, false}, {uuid.New(), false}} {
		m, err := report.Find(t.Context(), pool, c.id)
		if err != nil || (m != nil) != c.want || m != nil && (m.ID != c.id || *m.UID != 4242 || m.Host != "host1" || m.Chain == nil || m.Subject != nil) {
			t.Errorf("%s: %+v, %v", c.id, m, err)
		}
	}
	var days []time.Time
	list, err := report.FindByMessageID(t.Context(), pool, []string{"<first@x>"}, report.Filter{}, func(day time.Time) { days = append(days, day) })
	if err != nil || len(list) != 1 || *list[0].MessageID != "<first@x>" || !time.Time(list[0].Time).Equal(today()) || *list[0].Subject != "s0" ||
		cmp.Diff(list[0].To, []string{"a0@x", "b@x"}) != "" {
		t.Errorf("%+v, %v", list, err)
	}
	if len(days) != 2 { // tomorrow has a partition
		t.Errorf("days read: %v", days)
	}
	list, err = report.FindByMessageID(t.Context(), pool, []string{"<none@x>"}, report.Filter{}, func(time.Time) {})
	if err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	uid, other := int64(4242), int64(4243)
	for _, c := range []struct {
		name string
		s    report.Submission
		want int
	}{
		{"uid", report.Submission{UID: &uid, Recipients: 7}, 1},
		{"another uid", report.Submission{UID: &other, Recipients: 7}, 0},
		{"other recipients", report.Submission{UID: &uid, Recipients: 8}, 0},
		{"login", report.Submission{UID: &uid, Login: "info@x", Recipients: 7}, 0},
		{"nobody", report.Submission{Recipients: 7}, 0},
	} {
		c.s.Since, c.s.Until = noon.Add(30*time.Second), noon.Add(2*time.Minute)
		if list, err := report.FindSubmissions(t.Context(), pool, c.s); err != nil || len(list) != c.want {
			t.Errorf("%s: %+v, %v", c.name, list, err)
		}
	}
}

// TestFacts: those of the database that this version knows, with their proof.
func TestFacts(t *testing.T) {
	pool := twoDays(t)
	keepDetails(t, pool)
	if _, err := pool.Exec(t.Context(), `UPDATE messages SET facts = (SELECT jsonb_object_agg(name, jsonb_build_array('the ' || name, 'system'))
  FROM unnest('{include,document_root,method,uri,client,unit,login,container,via}'::text[]) name) WHERE uid = 2`); err != nil {
		t.Fatal(err)
	}
	o := origin.Origin{}
	seen := 0
	err := report.Messages(t.Context(), pool, report.Filter{Since: today(), Until: today().Add(time.Second)}, 0, func(m *report.Message) error {
		switch seen++; *m.User {
		case "u1":
			if *m.Client != "198.51.100.7" || m.Proof["client"] != "system" || m.Proof["new"] != "" || len(m.Chain) != 1 || m.Chain[0] != (origin.Process{PID: 7, UID: 1, Program: "/bin/sh"}) {
				t.Errorf("%+v", m)
			}
		case "u2":
			for name := range o.Facts() {
				value := m.Fact(name)
				switch {
				case name == "script" || name == "crontab" || name == "site": // have columns
				case value == nil || *value != "the "+name || m.Proof[name] != "system":
					t.Errorf("%s: %v, %q", name, value, m.Proof[name])
				}
			}
		}
		return nil
	})
	if err != nil || seen != perSecond {
		t.Errorf("%d, %v", seen, err)
	}
}

// TestTriedSeveralTimes: of one id there can be many rows, also more than a page; each
// is read once, and the last one found.
func TestTriedSeveralTimes(t *testing.T) {
	pool := twoDays(t)
	id := uuid.Must(uuid.NewV7())
	made := today().AddDate(0, 0, -quota.RepeatDays)
	for i := range 6 { // the time of a version 7
		id[i] = byte(made.UnixMilli() >> (40 - 8*i))
	}
	for _, sql := range []string{
		`INSERT INTO messages (at, id, size, host_id, recipients, decision, refused_why, sender, kind)
		 SELECT $2::timestamptz + n * interval '1 second', $1, 1, 1, 1, 2, 'full', '', 'forward' FROM generate_series(1, 11000) n`,
		`INSERT INTO messages (at, id, size, host_id, recipients, decision, sender, kind) VALUES ($2::timestamptz + interval '4 hours', $1, 1, 1, 1, 1, '', 'forward')`,
		`INSERT INTO details (at, id, subject) VALUES ($2::timestamptz + interval '4 hours', $1, 'the last')`,
		`INSERT INTO returned (at, id, returned_at) VALUES ($2::timestamptz + interval '4 hours', $1, $2::timestamptz + interval '5 hours')`,
	} {
		if _, err := pool.Exec(t.Context(), sql, id, today()); err != nil {
			t.Fatal(err)
		}
	}
	var last time.Time
	rows, subjects, givenBack := 0, 0, 0
	err := report.Messages(t.Context(), pool, report.Filter{Kind: "forward"}, 0, func(m *report.Message) error {
		if at := time.Time(m.Time); !at.After(last) {
			t.Errorf("%s after %s", at, last)
		} else {
			last = at
		}
		rows++
		if m.Subject != nil {
			subjects++
		}
		if m.GivenBack != nil {
			givenBack++
		}
		return nil
	})
	if err != nil || rows != 11001 || subjects != 1 || givenBack != 1 {
		t.Errorf("%d rows, %d with a subject, %d given back, %v", rows, subjects, givenBack, err)
	}
	m, err := report.Find(t.Context(), pool, id)
	if err != nil || m == nil || m.Decision != "accepted" || *m.Subject != "the last" || !time.Time(*m.GivenBack).Equal(today().Add(5*time.Hour)) {
		t.Errorf("%+v, %v", m, err)
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
