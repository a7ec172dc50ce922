package quota

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// dirtySQL says that rows came later than sums over their hours and days may have
// been made. In one order, as others may do the same.
const dirtySQL = `INSERT INTO summed AS s (at, span, dirty, marks)
SELECT DISTINCT date_trunc(span, at, 'UTC'), span, true, 1 FROM unnest($1::timestamptz[]) at, unnest('{day,hour}'::text[]) span ORDER BY 2, 1
    ON CONFLICT (span, at) DO UPDATE SET dirty = true, marks = s.marks + 1`

// queueDirty has a trip say so in the transaction that writes the rows, where some
// are of an hour that is over by the database's clock: of an outage.
func (c *messageRows) queueDirty(trip *pgx.Batch, clock time.Time) {
	hour := clock.Truncate(time.Hour)
	var late []time.Time
	for _, at := range c.at {
		if h := at.Truncate(time.Hour); h.Before(hour) && (len(late) == 0 || !late[len(late)-1].Equal(h)) {
			late = append(late, h)
		}
	}
	if late != nil {
		trip.Queue(dirtySQL, late)
	}
}

// unsummedDays is for how many days longer than they would be messages are kept
// whose sums have not been made.
const unsummedDays = 3

// summedBefore is the day before which messages may be dropped: none whose sums
// have not been made, unless that fails for days.
func (s *Store) summedBefore(ctx context.Context, before time.Time) (time.Time, error) {
	var unsummed *time.Time
	err := s.pool.QueryRow(ctx, `SELECT min(day) FROM (
  SELECT to_date(right(c.relname, 8), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC' AS day
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
   WHERE i.inhparent = 'messages'::regclass AND c.relname ~ '^messages_[0-9]{8}$') d
 WHERE NOT EXISTS (SELECT FROM summed WHERE span = 'day' AND at = day AND NOT dirty)`).Scan(&unsummed)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask for which days there are sums: %w", err)
	}
	if unsummed == nil {
		return before, nil
	}
	last := before.AddDate(0, 0, -unsummedDays)
	if unsummed.Before(last.Truncate(24 * time.Hour)) {
		return last, fmt.Errorf("messages of %s are dropped, and there are no sums of them", unsummed.UTC().Format(time.DateOnly))
	}
	if unsummed.Before(before) {
		return *unsummed, nil
	}
	return before, nil
}
