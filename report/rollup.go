package report

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// An hour is summed up some time after its end, when all that was decided in it has
// been committed; a day later still. Rows that come after that are those of an
// outage, and whoever writes them makes their hours and days dirty.
const (
	hourPatience = 2 * time.Minute
	dayPatience  = time.Hour
)

// rollTime bounds how long RollUp works at one go: whoever calls it has more to do.
const rollTime = 20 * time.Second

// rollLock is an advisory lock: of many daemons one sums up.
const rollLock = 7305419260000003

// sumSQL sums up a time ($1 to $2) of messages into hourly or daily.
const sumSQL = ` (at, first, last, messages, recipients, bytes, script_weakest, script_strongest, crontab_weakest, crontab_strongest,
       site_weakest, site_strongest, user_id, mailbox_id, domain_id, subscription_id, refused_object, host_id, decision, refused_limit,
       kind, script, crontab, site, reason)
SELECT $1, min(m.at), max(m.at), count(*), sum(m.recipients), sum(m.bytes),
       coalesce(min(nullif(m.script_weakest, 0)), 0), max(m.script_strongest), coalesce(min(nullif(m.crontab_weakest, 0)), 0), max(m.crontab_strongest),
       coalesce(min(nullif(m.site_weakest, 0)), 0), max(m.site_strongest),
       m.user_id, m.mailbox_id, m.domain_id, m.subscription_id, m.refused_object, m.host_id, m.decision, m.refused_limit,
       m.kind, m.script, m.crontab, m.site, m.reason
  FROM ` + rowsSQL + ` m WHERE m.at >= $1 AND m.at < $2
 GROUP BY m.user_id, m.mailbox_id, m.domain_id, m.subscription_id, m.refused_object, m.host_id, m.decision, m.refused_limit,
       m.kind, m.script, m.crontab, m.site, m.reason`

// span is an hour or a day.
type span struct {
	table string // hourly, daily
	name  string // as summed.span has it
	at    time.Time
	end   time.Time
}

// dueSQL are the hours and days that are over and not summed, or dirty, of which
// there can be rows; those of a day come before it.
const dueSQL = `WITH day AS (
  SELECT to_date(right(c.relname, 8), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC' AS at
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
   WHERE i.inhparent = 'messages'::regclass AND c.relname ~ '^messages_[0-9]{8}$'),
due AS (
  SELECT 'hour' AS span, at + n * interval '1 hour' AS at, at + (n + 1) * interval '1 hour' AS over, $1::interval AS patience
    FROM day, generate_series(0, 23) n
  UNION
  SELECT 'day', at, at + interval '24 hours', $2::interval FROM day
  UNION
  SELECT span, at, at + CASE span WHEN 'day' THEN interval '24 hours' ELSE interval '1 hour' END,
         CASE span WHEN 'day' THEN $2::interval ELSE $1::interval END FROM summed WHERE dirty)
SELECT due.span, due.at, due.over FROM due LEFT JOIN summed s ON s.span = due.span AND s.at = due.at
 WHERE due.over + due.patience <= clock_timestamp() AND (s.at IS NULL OR s.dirty)
 ORDER BY due.over, due.span DESC`

// RollUp sums up the hours and days that are over, and those to which rows were
// added since, one a transaction; the first time that is all there are. It stops
// where another daemon is at it. What it did not come to is left to the next call.
func RollUp(ctx context.Context, pool *pgxpool.Pool) error {
	end := time.Now().Add(rollTime)
	due, err := dueSpans(ctx, pool)
	if err != nil {
		return fmt.Errorf("list what is to be summed up: %w", err)
	}
	for _, s := range due {
		busy, err := s.rollUp(ctx, pool)
		if err != nil {
			return fmt.Errorf("sum up the %s of %s: %w", s.name, s.at.UTC().Format(time.RFC3339), err)
		}
		if busy || time.Now().After(end) {
			break
		}
	}
	return nil
}

func dueSpans(ctx context.Context, pool *pgxpool.Pool) ([]span, error) {
	rows, _ := pool.Query(ctx, dueSQL, hourPatience, dayPatience) // the error is the rows', too
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (s span, err error) {
		err = row.Scan(&s.name, &s.at, &s.end)
		s.table = map[string]string{"hour": "hourly", "day": "daily"}[s.name]
		return s, err
	})
}

// plannedSQL undoes what a connection of sqlschema.DaemonPool is set to, which is
// for rows by key.
const plannedSQL = `SELECT set_config(name, 'on', true) FROM unnest('{enable_seqscan,enable_hashjoin,enable_bitmapscan}'::text[]) name
UNION ALL SELECT set_config('plan_cache_mode', 'force_custom_plan', true)`

var errBusy = errors.New("another daemon sums up")

// rollUp makes the sums of a span. Its row of summed is written last, since who books
// rows of an outage writes it, too, and all mail waits for him. Whose mark was there
// before, his rows are seen; by another one the span stays dirty.
func (s *span) rollUp(ctx context.Context, pool *pgxpool.Pool) (busy bool, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		var locked bool
		if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, rollLock).Scan(&locked); err != nil {
			return err
		}
		if !locked {
			return errBusy
		}
		if _, err := tx.Exec(ctx, plannedSQL); err != nil {
			return err
		}
		var marks int64
		var done bool
		err := tx.QueryRow(ctx, `SELECT coalesce(max(marks), 0), coalesce(bool_or(NOT dirty), false) FROM summed WHERE at = $1 AND span = $2`, s.at, s.name).Scan(&marks, &done)
		if err != nil || done { // meanwhile
			return err
		}
		if err := s.write(ctx, tx); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO summed AS s (at, span) VALUES ($1, $2) ON CONFLICT (span, at) DO UPDATE SET dirty = false WHERE s.marks = $3`,
			s.at, s.name, marks)
		return err
	})
	if errors.Is(err, errBusy) {
		return true, nil
	}
	return false, err
}

// write replaces the sums of a span. They stay as they are where there are fewer
// rows than they count: those rows were dropped (retention-days), and what came
// after that of an outage is not worth the rest.
func (s *span) write(ctx context.Context, tx pgx.Tx) error {
	var rows, counted int64
	err := tx.QueryRow(ctx, `SELECT (SELECT count(*) FROM messages WHERE at >= $1 AND at < $2), (SELECT coalesce(sum(messages), 0)::bigint FROM `+s.table+` WHERE at = $1)`,
		s.at, s.end).Scan(&rows, &counted)
	if err != nil || rows < counted {
		return err
	}
	if counted > 0 {
		for _, table := range []string{s.table, objectsOf(s.table)} {
			if _, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE at = $1`, s.at); err != nil {
				return err
			}
		}
	}
	if _, err := tx.Exec(ctx, `INSERT INTO `+s.table+sumSQL, s.at, s.end); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `INSERT INTO `+objectsOf(s.table)+` (at, first, last, messages, recipients, object_id, class, decision)
SELECT m.at, min(m.first), max(m.last), sum(m.messages), sum(m.recipients), o.id, o.class, m.decision
  FROM `+s.table+` m, LATERAL (VALUES (1, m.user_id), (2, m.mailbox_id), (3, m.domain_id), (4, m.subscription_id), (6, 0), (7, m.host_id)) o (class, id)
 WHERE m.at = $1 GROUP BY m.at, o.class, o.id, m.decision ORDER BY o.class, o.id`, s.at); err != nil {
		return err
	}
	if s.name == "day" {
		return s.compare(ctx, tx)
	}
	return nil
}

// compare makes those hours of a day dirty whose sums are not of as many rows as
// there are: a transaction took longer than hourPatience to commit.
func (s *span) compare(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `UPDATE summed s SET dirty = true
  FROM (SELECT date_trunc('hour', at, 'UTC') AS at, count(*) AS n FROM messages WHERE at >= $1 AND at < $2 GROUP BY 1) m
  FULL JOIN (SELECT at, sum(messages) AS n FROM hourly WHERE at >= $1 AND at < $2 GROUP BY 1) h USING (at)
 WHERE s.span = 'hour' AND s.at = coalesce(m.at, h.at) AND NOT s.dirty AND coalesce(m.n, 0) > coalesce(h.n, 0)`, s.at, s.end)
	return err
}

// sumsPortion is how many hours and days one transaction of DropSums drops.
const sumsPortion = 24

// DropSums drops the sums that are older than some months, but for those of days
// whose messages are there: they would be made again.
func DropSums(ctx context.Context, pool *pgxpool.Pool, months int) error {
	for {
		tag, err := pool.Exec(ctx, `WITH old AS (
  DELETE FROM summed WHERE (span, at) IN (
    SELECT span, at FROM summed 
     WHERE at < least(date_trunc('day', now() - $1 * interval '1 month', 'UTC'),
       (SELECT min(to_date(right(c.relname, 8), 'YYYYMMDD'))::timestamp AT TIME ZONE 'UTC' FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'messages'::regclass AND c.relname ~ '^messages_[0-9]{8}$'))
     ORDER BY at LIMIT $2) RETURNING span, at),
h AS (DELETE FROM hourly WHERE at IN (SELECT at FROM old WHERE span = 'hour')),
oh AS (DELETE FROM hourly_object WHERE at IN (SELECT at FROM old WHERE span = 'hour')),
d AS (DELETE FROM daily WHERE at IN (SELECT at FROM old WHERE span = 'day')),
od AS (DELETE FROM daily_object WHERE at IN (SELECT at FROM old WHERE span = 'day'))
SELECT FROM old`, months, sumsPortion)
		if err != nil {
			return fmt.Errorf("drop sums of before %d months: %w", months, err)
		}
		if tag.RowsAffected() < sumsPortion {
			return nil
		}
	}
}
