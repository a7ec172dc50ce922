package quota

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Mismatch is a counter that differs from the sum over the message rows.
type Mismatch struct {
	Object          Object
	Limit           Limit // whose window and unit it is
	Counter, Events int64
}

// proveTime bounds how long Prove keeps its snapshot, as that slows down all mail
// meanwhile. A million messages a day take two seconds on a small busy server.
const proveTime = 30 * time.Second

// Prove adds up the accepted messages of the last hour and day and compares
// the sums with the counters of every object, in one snapshot. It returns what
// differs: nothing, unless somebody changed rows by hand. It gives up after
// proveTime.
func (s *Store) Prove(ctx context.Context) ([]Mismatch, error) {
	bounded, cancel := context.WithTimeout(ctx, proveTime)
	defer cancel()
	var counters map[ID][]byte
	var events map[ID][NumLimits]int64
	var minute int64
	err := pgx.BeginTxFunc(bounded, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		if counters, minute, err = readCounters(bounded, tx); err == nil {
			events, err = sumEvents(bounded, tx, minute)
		}
		return err
	})
	if bounded.Err() != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("compare counters with messages: not done after %v, for which time mail may be slowed down by it", proveTime)
	}
	if err != nil {
		return nil, fmt.Errorf("compare counters with messages: %w", err)
	}
	found, err := compare(counters, events, minute)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return s.named(ctx, found)
}

// readCounters returns all usage rows as they are, which takes less memory, and
// one minute for all: no counter has dropped a slot that is still live then, for
// it dropped slots at minutes that are not later.
func readCounters(ctx context.Context, tx pgx.Tx) (counters map[ID][]byte, minute int64, err error) {
	var now time.Time
	if err := tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now); err != nil {
		return nil, 0, err
	}
	counters, minute = map[ID][]byte{}, minuteAt(now)
	rows, err := tx.Query(ctx, `SELECT id, state FROM usage`)
	if err != nil {
		return nil, 0, err
	}
	var id ID
	var state []byte
	_, err = pgx.ForEachRow(rows, []any{&id, &state}, func() error {
		var u Usage
		if err := u.UnmarshalBinary(state); err != nil {
			return fmt.Errorf("usage row %d: %w", id, err)
		}
		counters[id], minute = slices.Clone(state), max(minute, u.newest())
		return nil
	})
	return counters, minute, err
}

// compare returns what differs, by object; the objects have no names yet.
func compare(counters map[ID][]byte, events map[ID][NumLimits]int64, minute int64) (map[ID][]Mismatch, error) {
	found := map[ID][]Mismatch{}
	for id := range events {
		if counters[id] == nil {
			counters[id] = []byte{}
		}
	}
	for id, state := range counters {
		var u Usage
		if err := u.UnmarshalBinary(state); err != nil {
			return nil, fmt.Errorf("usage row %d: %w", id, err)
		}
		for l := range RecipientsMessage {
			if counter, event := u.counted(l, minute), events[id][l]; counter != event {
				found[id] = append(found[id], Mismatch{Object{Class: id.Class()}, l, counter, event})
			}
		}
	}
	return found, nil
}

// named gives mismatches the names of their objects, also of those that were
// removed, and sorts them by these.
func (s *Store) named(ctx context.Context, found map[ID][]Mismatch) (list []Mismatch, err error) {
	rows, err := s.pool.Query(ctx, `SELECT k.id, coalesce(u.name, m.address, d.name, s.name, CASE WHEN k.id <> 6::bigint << 40 THEN format('(row %s)', k.id) END, '')
  FROM unnest($1::bigint[]) k(id)
  LEFT JOIN system_user u ON u.id = k.id
  LEFT JOIN mailbox m ON m.id = k.id
  LEFT JOIN domain d ON d.id = k.id
  LEFT JOIN subscription s ON s.id = k.id`, slices.Collect(maps.Keys(found)))
	if err != nil {
		return nil, fmt.Errorf("name objects: %w", err)
	}
	var id ID
	var name string
	_, err = pgx.ForEachRow(rows, []any{&id, &name}, func() error {
		for _, m := range found[id] {
			m.Object.Name = name
			list = append(list, m)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("name objects: %w", err)
	}
	slices.SortFunc(list, func(a, b Mismatch) int {
		return cmp.Or(cmp.Compare(a.Object.String(), b.Object.String()), cmp.Compare(a.Limit, b.Limit))
	})
	return list, nil
}

// sumEvents adds up per combination of objects first, so that each row is
// looked at once and not for each of its objects. It reads the partitions of one
// or two days.
func sumEvents(ctx context.Context, tx pgx.Tx, minute int64) (map[ID][NumLimits]int64, error) {
	hour := time.Unix((minute-minuteSlots+1)*minuteSeconds, 0)
	day := time.Unix((minute/minutesPerQuarter-quarterSlots+1)*quarterSeconds, 0)
	rows, err := tx.Query(ctx, `WITH m AS (
       SELECT user_id, mailbox_id, domain_id, subscription_id, count(*) FILTER (WHERE at >= $1) AS messages_hour, count(*) AS messages_day,
              coalesce(sum(recipients) FILTER (WHERE at >= $1), 0) AS recipients_hour, sum(recipients) AS recipients_day
         FROM messages WHERE at >= $2 AND decision IN (1, 3)
        GROUP BY user_id, mailbox_id, domain_id, subscription_id)
SELECT o.id, sum(messages_hour)::bigint, sum(messages_day)::bigint, sum(recipients_hour)::bigint, sum(recipients_day)::bigint
  FROM m, LATERAL (VALUES (m.user_id), (m.mailbox_id), (m.domain_id), (m.subscription_id), (6::bigint << 40)) o(id)
 WHERE o.id IS NOT NULL
 GROUP BY o.id`, hour, day)
	if err != nil {
		return nil, err
	}
	sums := map[ID][NumLimits]int64{}
	var id ID
	var sum [NumLimits]int64
	_, err = pgx.ForEachRow(rows, []any{&id, &sum[MessagesHour], &sum[MessagesDay], &sum[RecipientsHour], &sum[RecipientsDay]}, func() error {
		sums[id] = sum
		return nil
	})
	return sums, err
}
