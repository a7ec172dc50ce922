package quota

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// ObjectUsage is what an object may send and has sent.
type ObjectUsage struct {
	Object string                `json:"object"`
	Limits map[string]LimitUsage `json:"limits"` // by Limit.String()
}

// LimitUsage is one limit of an object and how much of it is used.
type LimitUsage struct {
	Limit  *int64     `json:"limit"`   // null: unlimited
	Used   int64      `json:"used"`    // within the window; 0 for recipients/message
	Left   *int64     `json:"left"`    // null: unlimited; 0 also where more is used than a limit that was lowered
	FreeAt *time.Time `json:"free_at"` // when one more fits; null: at once, or never (limit 0)
	From   string     `json:"from"`    // class of the object on which the limit is set; "" if nobody set it
}

// Usage returns limits and usage of objects, in their order. Each must exist
// (*NotFoundError); a plan has none.
func (s *Store) Usage(ctx context.Context, objects []Object) ([]ObjectUsage, error) {
	var targets []target
	for _, o := range objects {
		if o.Class == Plan {
			return nil, fmt.Errorf("%s is charged nothing: a plan holds the defaults of its subscriptions", o)
		}
		id, err := s.Find(ctx, o)
		if err != nil {
			return nil, err
		}
		targets = append(targets, target{id: id, object: o})
	}
	return s.usage(ctx, targets)
}

// UsageOfUser returns what a system user of this host may know: his own usage,
// his subscription's, and that of its domains; nothing for a uid never seen.
func (s *Store) UsageOfUser(ctx context.Context, uid uint32) ([]ObjectUsage, error) {
	hostID, err := s.ensureHost(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.pool.Query(ctx, `WITH u AS (SELECT id, name, subscription_id FROM system_user WHERE host_id = $1 AND uid = $2 AND removed_at IS NULL)
SELECT id, name FROM u
UNION ALL SELECT s.id, s.name FROM subscription s JOIN u ON s.id = u.subscription_id
UNION ALL SELECT d.id, d.name FROM domain d JOIN u ON d.subscription_id = u.subscription_id AND d.removed_at IS NULL`, hostID, int64(uid))
	if err != nil {
		return nil, fmt.Errorf("find objects of uid %d: %w", uid, err)
	}
	targets, err := pgx.CollectRows(rows, scanTarget)
	if err != nil {
		return nil, fmt.Errorf("find objects of uid %d: %w", uid, err)
	}
	return s.usage(ctx, targets)
}

// UsageOfAll returns limits and usage of every object that was ever charged,
// the server first. A user of another host is written NAME@HOST.
func (s *Store) UsageOfAll(ctx context.Context) ([]ObjectUsage, error) {
	rows, err := s.pool.Query(ctx, `SELECT o.id, o.name FROM usage JOIN (
       SELECT id, '' AS name FROM server
       UNION ALL SELECT id, name FROM subscription WHERE removed_at IS NULL
       UNION ALL SELECT id, name FROM domain WHERE removed_at IS NULL
       UNION ALL SELECT id, address FROM mailbox WHERE removed_at IS NULL
       UNION ALL SELECT u.id, CASE WHEN h.name = $1 THEN u.name ELSE u.name || '@' || h.name END
         FROM system_user u JOIN host h ON h.id = u.host_id WHERE u.removed_at IS NULL) o ON o.id = usage.id
 WHERE usage.state <> '' ORDER BY o.id >> 40 DESC, o.name`, s.host)
	if err != nil {
		return nil, fmt.Errorf("list what was charged: %w", err)
	}
	targets, err := pgx.CollectRows(rows, scanTarget)
	if err != nil {
		return nil, fmt.Errorf("list what was charged: %w", err)
	}
	return s.usage(ctx, targets)
}

func scanTarget(row pgx.CollectableRow) (t target, err error) {
	err = row.Scan(&t.id, &t.object.Name)
	t.object.Class = t.id.Class()
	return t, err
}

// planSQL gives the plan whose defaults apply to each of a list of objects.
const planSQL = `SELECT k.id, s.plan_id FROM unnest($1::bigint[]) k(id)
  LEFT JOIN system_user u ON u.id = k.id
  LEFT JOIN mailbox m ON m.id = k.id
  LEFT JOIN domain d ON d.id = coalesce(m.domain_id, k.id)
  JOIN subscription s ON s.id = coalesce(u.subscription_id, d.subscription_id, k.id)`

func (s *Store) usage(ctx context.Context, targets []target) ([]ObjectUsage, error) {
	ids := make([]ID, len(targets))
	for i, t := range targets {
		ids[i] = t.id
	}
	plans, err := s.plansOf(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("find plans: %w", err)
	}
	var now time.Time
	bounds, states := map[ID]Bounds{}, map[ID]*Usage{}
	batch := &pgx.Batch{}
	batch.Queue(clockSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&now) })
	batch.Queue(limitsSQL, ids, plans).Query(func(rows pgx.Rows) error {
		return scanBounds(rows, func(id ID, b Bounds) { bounds[id] = b })
	})
	batch.Queue(`SELECT id, state FROM usage WHERE id = ANY($1::bigint[])`, ids).Query(func(rows pgx.Rows) error {
		return scanStates(rows, states)
	})
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("read usage: %w", err)
	}
	var list []ObjectUsage
	for _, t := range targets {
		u := states[t.id]
		if u == nil {
			u = &Usage{}
		}
		list = append(list, ObjectUsage{Object: t.object.String(), Limits: u.against(bounds[t.id], max(minuteAt(now), u.newest()))})
	}
	return list, nil
}

func scanStates(rows pgx.Rows, states map[ID]*Usage) error {
	var id ID
	var state []byte
	_, err := pgx.ForEachRow(rows, []any{&id, &state}, func() error {
		states[id] = &Usage{}
		if err := states[id].UnmarshalBinary(state); err != nil {
			return fmt.Errorf("usage row %d: %w", id, err)
		}
		return nil
	})
	return err
}

func (s *Store) plansOf(ctx context.Context, ids []ID) ([]ID, error) {
	plans := make([]ID, len(ids))
	rows, err := s.pool.Query(ctx, planSQL, ids)
	if err != nil {
		return nil, err
	}
	var id, plan ID
	_, err = pgx.ForEachRow(rows, []any{&id, &plan}, func() error {
		for i := range ids {
			if ids[i] == id {
				plans[i] = plan
			}
		}
		return nil
	})
	return plans, err
}

// against compares usage with limits at a minute.
func (u *Usage) against(b Bounds, minute int64) map[string]LimitUsage {
	limits := map[string]LimitUsage{}
	for l := range Limit(NumLimits) {
		v := LimitUsage{Used: u.used(l, minute)}
		if b[l].From != 0 {
			v.From = b[l].From.String()
		}
		if bound := b[l].Max; bound != Unlimited {
			left := max(bound-v.Used, 0)
			v.Limit, v.Left = &bound, &left
			if left == 0 && bound > 0 {
				free := u.freeAt(l, minute, 1, bound)
				v.FreeAt = &free
			}
		}
		limits[l.String()] = v
	}
	return limits
}

// Mismatch is a counter that differs from the sum over the message rows.
type Mismatch struct {
	Object          Object
	Limit           Limit // whose window and unit it is
	Counter, Events int64
}

// Prove adds up the accepted messages of the last hour and day and compares
// the sums with the counters of every object, in one snapshot. It returns what
// differs: nothing, unless somebody changed rows by hand.
func (s *Store) Prove(ctx context.Context) ([]Mismatch, error) {
	var found []Mismatch
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		found, err = prove(ctx, tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("compare counters with messages: %w", err)
	}
	return found, nil
}

func prove(ctx context.Context, tx pgx.Tx) ([]Mismatch, error) {
	states := map[ID]*Usage{}
	rows, err := tx.Query(ctx, `SELECT id, state FROM usage`)
	if err != nil {
		return nil, err
	}
	if err := scanStates(rows, states); err != nil {
		return nil, err
	}
	var now time.Time
	if err := tx.QueryRow(ctx, clockSQL).Scan(&now); err != nil {
		return nil, err
	}
	// One minute for all: no counter has dropped a slot that is still live
	// then, for it dropped slots at minutes that are not later.
	minute := minuteAt(now)
	for _, u := range states {
		minute = max(minute, u.newest())
	}
	events, err := sumEvents(ctx, tx, minute)
	if err != nil {
		return nil, err
	}
	for id := range events {
		if states[id] == nil {
			states[id] = &Usage{}
		}
	}
	var found []Mismatch
	for id, u := range states {
		for l := range RecipientsMessage {
			if counter, event := u.used(l, minute), events[id][l]; counter != event {
				name, err := nameOf(ctx, tx, id)
				if err != nil {
					return nil, err
				}
				found = append(found, Mismatch{Object{id.Class(), name}, l, counter, event})
			}
		}
	}
	slices.SortFunc(found, func(a, b Mismatch) int {
		return cmp.Or(cmp.Compare(a.Object.String(), b.Object.String()), cmp.Compare(a.Limit, b.Limit))
	})
	return found, nil
}

// nameOf is the name of an object, also of one that was removed.
func nameOf(ctx context.Context, tx pgx.Tx, id ID) (name string, err error) {
	err = tx.QueryRow(ctx, `SELECT name FROM (
       SELECT id, name FROM system_user UNION ALL SELECT id, address FROM mailbox
       UNION ALL SELECT id, name FROM domain UNION ALL SELECT id, name FROM subscription
       UNION ALL SELECT id, '' FROM server) o WHERE id = $1`, id).Scan(&name)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Sprintf("(row %d)", int64(id)), nil
	}
	return name, err
}

func sumEvents(ctx context.Context, tx pgx.Tx, minute int64) (map[ID][NumLimits]int64, error) {
	hour := time.Unix((minute-minuteSlots+1)*minuteSeconds, 0)
	day := time.Unix((minute/minutesPerQuarter-quarterSlots+1)*quarterSeconds, 0)
	rows, err := tx.Query(ctx, `SELECT o.id, count(*) FILTER (WHERE m.at >= $1), count(*),
       coalesce(sum(m.recipients) FILTER (WHERE m.at >= $1), 0)::bigint, sum(m.recipients)::bigint
  FROM messages m, LATERAL (VALUES (m.user_id), (m.mailbox_id), (m.domain_id), (m.subscription_id), (6::bigint << 40)) o(id)
 WHERE m.at >= $2 AND m.decision = 1 AND o.id IS NOT NULL
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

// Maintain makes the partitions of the days around today and of a week ahead,
// and drops those that are older than retentionDays (2 or more).
func (s *Store) Maintain(ctx context.Context, retentionDays int) error {
	_, err := s.pool.Exec(ctx, `SELECT make_partitions((clock_timestamp() AT TIME ZONE 'UTC')::date - 1, 9)`)
	if err != nil {
		return fmt.Errorf("make partitions: %w", err)
	}
	_, err = s.pool.Exec(ctx, `SELECT drop_partitions((clock_timestamp() AT TIME ZONE 'UTC')::date - $1::integer)`, retentionDays)
	if err != nil {
		return fmt.Errorf("drop partitions older than %d days: %w", retentionDays, err)
	}
	return nil
}
