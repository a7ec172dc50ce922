package quota

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Maintain makes the partitions of the days around today and of a week ahead,
// and drops those of messages that are older than retentionDays (2 or more), and
// of details that are older than detailsDays (1 or more); a day is dropped as a
// whole. To drop one needs a moment in which nobody reads its table; mail waits
// behind it for a tenth of a second at most, a few times. If there was no such
// moment, the error names who read; another try an hour later costs nothing.
//
// Exceptions that have ended, events that are closed, notices that were sent and
// those of old digests go after retentionDays, too, and so does what is known of
// charges that were given back.
func (s *Store) Maintain(ctx context.Context, retentionDays, detailsDays int) error {
	now, err := s.clock(ctx)
	if err != nil {
		return err
	}
	var days []time.Time
	for d := -1; d <= 7; d++ {
		days = append(days, now.AddDate(0, 0, d))
	}
	if err := s.makePartitions(ctx, days...); err != nil {
		return err
	}
	before, err := s.summedBefore(ctx, now.AddDate(0, 0, -retentionDays))
	return errors.Join(err,
		s.dropPartitions(ctx, "details", `SELECT drop_details($1::date)`, now.AddDate(0, 0, -detailsDays)),
		s.dropPartitions(ctx, "messages", `SELECT drop_partitions($1::date)`, before),
		s.deleteEnded(ctx, now.AddDate(0, 0, -retentionDays)),
		s.deleteReturned(ctx, before))
}

// deletePortion is how many rows one transaction deletes.
const deletePortion = 1000

const deleteNotices = `DELETE FROM notice WHERE id = ANY($1)`

// endedSQL selects what is over since before a time. It is asked for first: already
// the attempt to delete an exception makes all daemons forget what they remember.
var endedSQL = []struct{ selects, deletes string }{
	{`SELECT id FROM exception WHERE until < $1 ORDER BY id LIMIT $2`, `DELETE FROM exception WHERE id = ANY($1)`},
	{`SELECT id FROM notice WHERE sent_at < $1 ORDER BY sent_at LIMIT $2`, deleteNotices},
	{`SELECT id FROM notice WHERE period < $1 ORDER BY period LIMIT $2`, deleteNotices},                               // a digest that was given up was never sent
	{`SELECT id FROM event WHERE closed_at < $1 ORDER BY closed_at LIMIT $2`, `DELETE FROM event WHERE id = ANY($1)`}, // its notices with it
}

func (s *Store) deleteEnded(ctx context.Context, before time.Time) error {
	for _, ended := range endedSQL {
		for {
			rows, _ := s.pool.Query(ctx, ended.selects, before, deletePortion) // the error is the rows', too
			ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
			if err == nil && len(ids) > 0 {
				_, err = s.pool.Exec(ctx, ended.deletes, ids)
			}
			if err != nil {
				return fmt.Errorf("delete what has ended before %s: %w", before.Format(time.DateOnly), err)
			}
			if len(ids) < deletePortion {
				break
			}
		}
	}
	return nil
}

// deleteReturned deletes the rows of returned whose messages are dropped.
func (s *Store) deleteReturned(ctx context.Context, before time.Time) error {
	day := before.UTC().Truncate(24 * time.Hour)
	for {
		done, err := s.pool.Exec(ctx, `DELETE FROM returned WHERE (id, at) IN (SELECT id, at FROM returned WHERE at < $1 ORDER BY at LIMIT $2)`, day, deletePortion)
		if err != nil {
			return fmt.Errorf("delete what is known of charges given back before %s: %w", day.Format(time.DateOnly), err)
		}
		if done.RowsAffected() < deletePortion {
			return nil
		}
	}
}

func (s *Store) clock(ctx context.Context) (now time.Time, err error) {
	if err := s.pool.QueryRow(ctx, clockSQL).Scan(&now); err != nil {
		return now, fmt.Errorf("read the database's clock: %w", err)
	}
	return now.UTC(), nil
}

// makePartitions makes the partitions, where they are missing, of the days (UTC)
// of some times. Those ahead exist (see Maintain), but rows of an outage are
// booked later, when their days may be over and never had one.
func (s *Store) makePartitions(ctx context.Context, times ...time.Time) error {
	days := make([]time.Time, len(times))
	for i, t := range times {
		days[i] = t.UTC().Truncate(24 * time.Hour)
	}
	_, err := s.pool.Exec(ctx, `SELECT make_partitions(day, 1) FROM (SELECT DISTINCT day FROM unnest($1::date[]) k(day)) k`, days)
	if err != nil {
		return fmt.Errorf("make partitions: %w", err)
	}
	return nil
}

// How often one partition is tried to drop, and how long mail has its way in
// between, all that waited and the next few batches.
const (
	dropTries = 5
	dropPause = 500 * time.Millisecond
)

// dropPartitions drops those of one table, each by a call of drop.
func (s *Store) dropPartitions(ctx context.Context, table, drop string, before time.Time) error {
	for tries := 1; ; {
		var dropped int
		err := s.pool.QueryRow(ctx, drop, before).Scan(&dropped)
		var pg *pgconn.PgError
		switch {
		case err == nil && dropped == 0:
			return nil
		case err == nil:
			tries = 1
		case !errors.As(err, &pg) || pg.Code != "55P03": // lock_not_available
			return fmt.Errorf("drop partitions of %s before %s: %w", table, before.Format(time.DateOnly), err)
		case tries == dropTries:
			return fmt.Errorf("partitions before %s are not dropped: somebody reads %s%s", before.Format(time.DateOnly), table, s.readers(ctx, table, before))
		default:
			tries++
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(dropPause):
			}
		}
	}
}

// readers says who holds messages or details, longest first: ": process 123 (user
// postgres, application psql) since …". What a role without pg_read_all_stats
// cannot see is left out, all of it if need be.
func (s *Store) readers(ctx context.Context, table string, before time.Time) string {
	rows, err := s.pool.Query(ctx, `SELECT format('process %s (user %s, application %s)', a.pid, coalesce(a.usename, '-'), coalesce(nullif(a.application_name, ''), '-'))
       || coalesce(to_char(a.xact_start AT TIME ZONE 'UTC', ' "since" YYYY-MM-DD HH24:MI:SS "UTC"'), '')
  FROM pg_stat_activity a
 WHERE a.pid <> pg_backend_pid() AND EXISTS (SELECT FROM pg_locks l
   WHERE l.pid = a.pid AND l.granted AND l.database = a.datid AND (l.relation = $1::regclass OR l.relation IN (
     SELECT c.oid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
      WHERE i.inhparent = $1::regclass AND c.relname < $1 || '_' || to_char($2::date, 'YYYYMMDD'))))
 ORDER BY a.xact_start NULLS LAST, a.pid LIMIT 3`, table, before)
	if err != nil {
		return ""
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(list) == 0 {
		return ""
	}
	return ": " + strings.Join(list, ", ")
}
