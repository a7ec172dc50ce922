package report

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// rowsSQL is messages with the columns of hourly and daily, each row a sum of its
// own; sender and facts it has alone.
const rowsSQL = `(SELECT at, at AS first, at AS last, 1 AS messages, recipients, size AS bytes,
       coalesce(user_id, 0) AS user_id, coalesce(mailbox_id, 0) AS mailbox_id, coalesce(domain_id, 0) AS domain_id,
       coalesce(subscription_id, 0) AS subscription_id, coalesce(refused_object, 0) AS refused_object, host_id, decision,
       coalesce(refused_limit, -1::smallint) AS refused_limit,
       coalesce(script_proof, 0::smallint) AS script_weakest, coalesce(script_proof, 0::smallint) AS script_strongest,
       coalesce(crontab_proof, 0::smallint) AS crontab_weakest, coalesce(crontab_proof, 0::smallint) AS crontab_strongest,
       coalesce(site_proof, 0::smallint) AS site_weakest, coalesce(site_proof, 0::smallint) AS site_strongest,
       kind, coalesce(script, '') AS script, coalesce(crontab, '') AS crontab, coalesce(site, '') AS site,
       CASE WHEN refused_limit IS NULL THEN coalesce(refused_why, '') ELSE '' END AS reason, sender, facts FROM messages)`

// part is a time that is read from one table.
type part struct {
	table        string // daily, hourly, messages
	since, until time.Time
}

// source is what stands behind FROM: for a question that needs of all columns by
// which messages are told apart one at most (class, see classOf), sums by object.
func (p *part) source(class int) string {
	switch {
	case p.table == "messages":
		return rowsSQL
	case class == 0:
		return p.table
	}
	return fmt.Sprintf(`(SELECT at, first, last, messages, recipients, decision, object_id AS %s FROM %s WHERE class = %d)`,
		classColumns[class], objectsOf(p.table), class)
}

// objectsOf is the table of the sums by object that belong to one of hourly or daily.
func objectsOf(table string) string { return table + "_object" }

// classColumns are the columns of hourly and daily by their class in hourly_object
// and daily_object; that of the server has none.
var classColumns = map[int]string{1: "user_id", 2: "mailbox_id", 3: "domain_id", 4: "subscription_id", serverClass: "server", 7: "host_id"}

const serverClass = 6

// classOf is the class whose sums by object answer a question: by a column ("":
// none), through a filter. 0: there is none, since more is needed.
func classOf(f *Filter, column string) int {
	if f.Script != "" || f.Crontab != "" || f.Site != "" || f.Client != "" || f.Kind != "" {
		return 0
	}
	needed := map[string]bool{
		"user_id": f.User != "" || f.UserID != 0, "mailbox_id": f.Mailbox != "", "domain_id": f.Domain != "",
		"subscription_id": f.Subscription != "" || f.SubscriptionID != 0 || f.Plan != "", "host_id": f.Host != "",
	}
	if column != "" {
		needed[column] = true
	}
	maps.DeleteFunc(needed, func(_ string, is bool) bool { return !is })
	if len(needed) == 0 {
		return serverClass
	}
	for class, column := range classColumns {
		if len(needed) == 1 && needed[column] {
			return class
		}
	}
	return 0
}

// grain is how fine a report must know times.
type grain int

const (
	byDay  grain = iota // daily will do
	byHour              // hourly will do
	byRow               // only messages have what is asked for
)

// known is of which times there are rows and sums, by their beginning in seconds
// since 1970.
type known struct {
	partitions, days, hours map[int64]bool
	first, end              time.Time // of all of them; zero: there are none
}

const (
	hour = time.Hour
	day  = 24 * time.Hour
)

func readKnown(ctx context.Context, pool *pgxpool.Pool, f *Filter) (*known, error) {
	k := &known{partitions: map[int64]bool{}, days: map[int64]bool{}, hours: map[int64]bool{}}
	since, until := f.bounds()
	rows, err := pool.Query(ctx, `SELECT 0, to_date(right(c.relname, 8), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC' AS at
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'messages'::regclass AND c.relname ~ '^messages_[0-9]{8}$'
UNION ALL SELECT CASE span WHEN 'day' THEN 1 ELSE 2 END, at FROM summed WHERE NOT dirty AND at >= date_trunc('day', $1::timestamptz, 'UTC') AND at < $2`, since, until)
	if err != nil {
		return nil, fmt.Errorf("list the days: %w", err)
	}
	var what int
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&what, &at}, func() error {
		[...]map[int64]bool{k.partitions, k.days, k.hours}[what][at.Unix()] = true
		if k.first.IsZero() || at.Before(k.first) {
			k.first = at
		}
		if next := at.Truncate(day).Add(day); next.After(k.end) {
			k.end = next
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the days: %w", err)
	}
	if since.After(k.first) {
		k.first = since
	}
	if until.Before(k.end) {
		k.end = until
	}
	return k, nil
}

// parts splits the time of a filter by where it is read: whole days that are summed
// from daily, whole hours from hourly, the rest from messages, where there are any.
func (k *known) parts(g grain) (list []part) {
	add := func(table string, since, until time.Time) {
		if n := len(list) - 1; n >= 0 && list[n].table == table && list[n].until.Equal(since) &&
			(table == "daily" || since.Truncate(day).Equal(list[n].since.Truncate(day))) {
			list[n].until = until
			return
		}
		list = append(list, part{table, since, until})
	}
	for t := k.first; t.Before(k.end); {
		d, h := t.UTC().Truncate(day), t.UTC().Truncate(hour)
		whole := func(begin time.Time, long time.Duration) bool { return begin.Equal(t) && !begin.Add(long).After(k.end) }
		switch {
		case g == byDay && whole(d, day) && k.days[d.Unix()]:
			add("daily", t, d.Add(day))
			t = d.Add(day)
			continue
		case g != byRow && whole(h, hour) && k.hours[h.Unix()]:
			add("hourly", t, h.Add(hour))
		case k.partitions[d.Unix()]:
			add("messages", t, earlier(h.Add(hour), k.end))
		}
		t = h.Add(hour)
	}
	return list
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// eachGroup reads the groups of a filter's time part by part, each in a snapshot
// of its own; one group may come from several of them. sql makes the statement from
// what is behind FROM and WHERE.
func eachGroup[T any](ctx context.Context, pool *pgxpool.Pool, f Filter, g grain, class int, sql func(source, conditions string) string, scan pgx.RowToFunc[T], each func(T)) error {
	if f.Client != "" {
		g = byRow
	}
	k, err := readKnown(ctx, pool, &f)
	if err != nil {
		return err
	}
	for _, p := range k.parts(g) {
		some := f
		some.Since, some.Until = p.since, p.until
		conditions, args := some.where()
		rows, err := pool.Query(ctx, sql(p.source(class), conditions), append([]any{pgx.QueryExecModeCacheDescribe}, args...)...)
		if err != nil {
			return err
		}
		list, err := pgx.CollectRows(rows, scan)
		if err != nil {
			return err
		}
		for _, group := range list {
			each(group)
		}
	}
	return nil
}
