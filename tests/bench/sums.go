package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
	reports "sendmail-wrapper/report"
	"sendmail-wrapper/sqlschema"
)

// What reports read: a month of messages of as many customers as a busy server has.
// Of the ten million the first customer sends 1.5, the middle one 2,000.
const monthMessages, monthDays, monthCustomers = 10_000_000, 31, 2000

// monthSQL makes the objects, their numbers in their ids, and then a day of messages
// each. A customer has two scripts (six and one in ten messages), a cron job (one) and
// two mailboxes. The hundred who send most send half of all, and of theirs one in
// thirty is refused, one in a hundred observed: 2 % of all messages.
var (
	monthObjectsSQL = []string{
		fmt.Sprintf(`SELECT make_partitions((now() AT TIME ZONE 'UTC')::date - %d, %d)`, monthDays-1, monthDays+1),
		`INSERT INTO host (name) VALUES ('one'), ('two')`,
		fmt.Sprintf(`INSERT INTO subscription (id, plan_id, name) SELECT 4::bigint << 40 | n, p.id, 'c' || n FROM generate_series(1, %d) n, plan p WHERE p.name = 'default'`, monthCustomers),
		`INSERT INTO domain (id, subscription_id, name) SELECT 3::bigint << 40 | (id & 16777215), id, name || '.example' FROM subscription`,
		`INSERT INTO mailbox (id, domain_id, address) SELECT 2::bigint << 40 | (id & 16777215) * 4 + n, id, 'm' || n || '@' || name FROM domain, generate_series(0, 1) n`,
		`INSERT INTO system_user (id, subscription_id, uid, host_id, name) SELECT 1::bigint << 40 | (id & 16777215), id, 10000 + (id & 16777215), 1 + (id & 1), name FROM subscription`,
		`INSERT INTO limits (owner_id, class, messages_hour, messages_day) VALUES (6::bigint << 40, 4, 500, 5000)`,
	}
	monthDaySQL = fmt.Sprintf(`INSERT INTO messages (at, id, uid, size, user_id, mailbox_id, domain_id, subscription_id, refused_object, host_id, recipients, decision,
  refused_limit, kind_proof, script_proof, crontab_proof, sender, kind, script, crontab, refused_why)
SELECT $1::timestamptz + n * ($2::timestamptz - $1::timestamptz) / $3, gen_random_uuid(), CASE WHEN what < 8 THEN 10000 + c END, 2000, CASE WHEN what < 8 THEN 1::bigint << 40 | c END,
       CASE WHEN what >= 8 THEN 2::bigint << 40 | c * 4 + n %% 2 END, CASE WHEN what <> 7 THEN 3::bigint << 40 | c END, 4::bigint << 40 | c,
       CASE WHEN fate < 42 THEN 4::bigint << 40 | c END, 1 + (c & 1), 1 + n %% 3, CASE WHEN fate < 32 THEN 2 WHEN fate < 42 THEN 3 ELSE 1 END,
       CASE WHEN fate < 42 THEN 0 END, 3, CASE WHEN what < 7 THEN 2 END, CASE WHEN what = 7 THEN 2 END, 'm@c' || c || '.example',
       CASE WHEN what < 7 THEN 'php-fpm' WHEN what = 7 THEN 'cron' ELSE 'smtp' END, CASE WHEN what < 7 THEN '/var/www/vhosts/c' || c || '.example/httpdocs/' || what / 6 || '/contact.php' END,
       CASE WHEN what = 7 THEN '/var/spool/cron/crontabs/c' || c || ':3 php /var/www/vhosts/c' || c || '.example/cron.php' END, CASE WHEN fate < 42 THEN 'limit of 500 messages per hour' END
  FROM (SELECT n, c, what, CASE WHEN c <= 100 THEN floor(1000 * random())::integer ELSE 1000 END AS fate
          FROM (SELECT n, 1 + floor(%d * random() ^ 4)::bigint AS c, floor(10 * random())::integer AS what FROM generate_series(0::bigint, $3 - 1) n OFFSET 0) m) k`, monthCustomers)
)

// month makes the database, its sums, too.
func (b *bench) month(ctx context.Context) (string, error) {
	const name = "month"
	if err := b.cloneTemplate(ctx, name); err != nil {
		return "", err
	}
	if err := b.exec(ctx, "mailquota", name, monthObjectsSQL...); err != nil {
		return "", err
	}
	pool, err := sqlschema.Pool(b.as("mailquotad", name) + " pool_max_conns=4 statement_timeout=0")
	if err != nil {
		return "", err
	}
	defer pool.Close()
	now, began := time.Now(), time.Now()
	today := now.UTC().Truncate(24 * time.Hour)
	errs := make(chan error, monthDays)
	for d := range monthDays {
		since := today.AddDate(0, 0, d-monthDays+1)
		until := since.AddDate(0, 0, 1)
		if until.After(now) {
			until = now
		}
		go func() {
			_, err := pool.Exec(ctx, monthDaySQL, since, until, int64(monthMessages/monthDays))
			errs <- err
		}()
	}
	for range monthDays {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return "", err
	}
	b.say("a month of messages took %s", time.Since(began).Round(time.Second))
	if err := b.exec(ctx, "postgres", name, `VACUUM ANALYZE`); err != nil {
		return "", err
	}
	began = time.Now()
	daemon, err := sqlschema.DaemonPool(b.as("mailquotad", name))
	if err != nil {
		return "", err
	}
	defer daemon.Close()
	for left := int64(1); left > 0; {
		if err := reports.RollUp(ctx, daemon); err != nil {
			return "", err
		}
		if left, err = b.ask(ctx, name, `SELECT 24 * 30 - count(*) FROM summed WHERE span = 'hour' AND at < date_trunc('day', now() - interval '1 hour', 'UTC')`); err != nil {
			return "", err
		}
	}
	b.say("to sum it up took %s", time.Since(began).Round(time.Second))
	for _, what := range []string{"hourly", "daily", "hourly_object", "daily_object"} {
		n, err := b.ask(ctx, name, `SELECT count(*) FROM `+what)
		if err != nil {
			return "", err
		}
		b.say("%d rows in %s", n, what)
	}
	return name, b.exec(ctx, "postgres", name, `VACUUM ANALYZE`,
		`INSERT INTO usage (id, state) SELECT id, ''::bytea FROM subscription UNION ALL SELECT id, '' FROM domain UNION ALL SELECT 6::bigint << 40, ''`)
}

// monthReads are the reports, each of the whole month unless its name says another
// time.
func monthReads() []monthRead {
	ago := func(d time.Duration) reports.Filter { return reports.Filter{Since: time.Now().Add(-d)} }
	const day = 24 * time.Hour
	top := func(by string, f func() reports.Filter) func(ctx context.Context, pool *pgxpool.Pool) error {
		return func(ctx context.Context, pool *pgxpool.Pool) error {
			list, err := reports.Top(ctx, pool, f(), by, 20)
			return notEmpty(len(list), err)
		}
	}
	all := func() reports.Filter { return reports.Filter{} }
	totals := func(f func() reports.Filter, hours bool) func(ctx context.Context, pool *pgxpool.Pool) error {
		return func(ctx context.Context, pool *pgxpool.Pool) error {
			list, err := reports.Totals(ctx, pool, f(), hours)
			return notEmpty(len(list), err)
		}
	}
	attempts := func(by string) func(ctx context.Context, pool *pgxpool.Pool) error {
		return func(ctx context.Context, pool *pgxpool.Pool) error {
			list, err := reports.TopAttempts(ctx, pool, reports.Filter{}, by, 50)
			return notEmpty(len(list), err)
		}
	}
	messages := func(f reports.Filter) func(ctx context.Context, pool *pgxpool.Pool) error {
		return func(ctx context.Context, pool *pgxpool.Pool) error {
			n := 0
			err := reports.Messages(ctx, pool, f, 100, func(*reports.Message) error { n++; return nil })
			return notEmpty(n, err)
		}
	}
	return []monthRead{
		{"report summary, last day", func(ctx context.Context, pool *pgxpool.Pool) error {
			_, err := reports.Summarize(ctx, pool, quota.NewStore(pool, "one", 1000), ago(day), 20)
			return err
		}},
		{"report summary, month", func(ctx context.Context, pool *pgxpool.Pool) error {
			_, err := reports.Summarize(ctx, pool, quota.NewStore(pool, "one", 1000), reports.Filter{}, 20)
			return err
		}},
		{"report attempts", func(ctx context.Context, pool *pgxpool.Pool) error {
			list, err := reports.Attempts(ctx, pool, reports.Filter{}, 50)
			return notEmpty(len(list), err)
		}},
		{"report attempts --by subscription", attempts("subscription")},
		{"report attempts --by domain", attempts("domain")},
		{"report top --by script", top("script", all)},
		{"report top --by subscription", top("subscription", all)},
		{"report top --by mailbox", top("mailbox", all)},
		{"report top --by hour, last day", top("hour", func() reports.Filter { return ago(day) })},
		{"report scripts", func(ctx context.Context, pool *pgxpool.Pool) error {
			list, err := reports.Sources(ctx, pool, reports.Filter{}, "script", 20)
			return notEmpty(len(list), err)
		}},
		{"report history subscription:c7, last day by hour", totals(func() reports.Filter { f := ago(day); f.Subscription = "c7"; return f }, true)},
		{"report history subscription:c7 --by day", totals(func() reports.Filter { return reports.Filter{Subscription: "c7"} }, false)},
		{"report history domain:c8.example --by hour, 3 days", totals(func() reports.Filter { f := ago(3 * day); f.Domain = "c8.example"; return f }, true)},
		{"report trend", totals(all, false)},
		{"report messages, newest 100", messages(reports.Filter{})},
		{"report messages --subscription c7, newest 100", messages(reports.Filter{Subscription: "c7"})},
		{"usage of all", func(ctx context.Context, pool *pgxpool.Pool) error {
			_, err := quota.NewStore(pool, "one", 1000).UsageOfAll(ctx)
			return err
		}},
		{"usage subscription:c7", func(ctx context.Context, pool *pgxpool.Pool) error {
			_, err := quota.NewStore(pool, "one", 1000).Usage(ctx, []quota.Object{{Class: quota.Subscription, Name: "c7"}})
			return err
		}},
	}
}

type monthRead struct {
	name string
	read func(ctx context.Context, pool *pgxpool.Pool) error
}

func notEmpty(n int, err error) error {
	if err == nil && n == 0 {
		err = errors.New("nothing was found")
	}
	return err
}

// reads is how long what administrators ask takes, in one process beside a question
// that reads nothing, and by mailctl as a program.
func reads() block {
	k := block{name: "reads, 10,000,000 messages of 31 days, 2,000 subscriptions of 2 scripts, a cron job and 2 mailboxes, 2 % refused"}
	const reference = "SELECT 1"
	made := false
	var database string
	var failed error
	add := func(f figure, measure func(ctx context.Context, b *bench) ([]sample, error)) {
		k.experiments = append(k.experiments, experiment{[]figure{f}, func(ctx context.Context, b *bench) ([]sample, error) {
			if !made {
				made = true
				database, failed = b.month(ctx)
			}
			if failed != nil {
				return nil, failed
			}
			return measure(ctx, b)
		}})
	}
	read := func(r monthRead, reference string) {
		add(figure{name: r.name, unit: "ms", reference: reference}, func(ctx context.Context, b *bench) ([]sample, error) { return b.read(ctx, database, r.read) })
	}
	read(monthRead{reference, func(ctx context.Context, pool *pgxpool.Pool) error {
		_, err := pool.Exec(ctx, `SELECT 1`)
		return err
	}}, "")
	for _, r := range monthReads() {
		read(r, reference)
	}
	for _, question := range questions {
		add(figure{name: "mailctl " + question, unit: "ms"}, func(ctx context.Context, b *bench) ([]sample, error) { return b.question(ctx, database, question) })
	}
	return k
}

func (b *bench) read(ctx context.Context, database string, read func(ctx context.Context, pool *pgxpool.Pool) error) ([]sample, error) {
	pool, err := sqlschema.Pool(b.as("mailquotad", database))
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	if err := pool.Ping(ctx); err != nil {
		return nil, err
	}
	took := &histogram{}
	for end, n := time.Now().Add(b.period()), 0; n < 5 || time.Now().Before(end); n++ {
		began := time.Now()
		if err := read(ctx, pool); err != nil {
			return nil, err
		}
		took.add(time.Since(began))
	}
	return []sample{{value: took.quantile(0.5), latency: took}}, nil
}
