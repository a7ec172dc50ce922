package quota

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// ObjectUsage is what an object may send and has sent.
type ObjectUsage struct {
	Object     string                `json:"object"`
	Mode       string                `json:"mode"`                 // what its limits do: see Mode
	ModeFrom   string                `json:"mode_from"`            // class of the object on which that is set; "" if nobody set it
	Limits     map[string]LimitUsage `json:"limits"`               // by Limit.String()
	Exceptions []ObjectException     `json:"exceptions,omitempty"` // that hold now, of the object itself
	Grants     *Grant                `json:"grants,omitempty"`     // what is left of its one-off allowance
}

// ObjectException is an exception as it is shown with its object.
type ObjectException struct {
	ID    int64         `json:"id"`
	Kind  ExceptionKind `json:"kind"`
	Limit string        `json:"limit,omitempty"` // of a raise: Limit.String()
	Value *int64        `json:"value,omitempty"` // of a raise; -1: unlimited
	Until *time.Time    `json:"until"`           // null: until it is removed
	Why   string        `json:"why,omitempty"`
}

// LimitUsage is one limit of an object and how much of it is used.
type LimitUsage struct {
	Limit  *int64     `json:"limit"`   // null: unlimited; while an exception raises it, its value
	Used   int64      `json:"used"`    // within the window, less what was forgiven; 0 for recipients/message
	Left   *int64     `json:"left"`    // null: unlimited; 0 also where more is used than a limit that was lowered
	FreeAt *time.Time `json:"free_at"` // when one more fits; null: at once, or never (limit 0)
	From   string     `json:"from"`    // class of the object on which the limit is set, or "exception"; "" if nobody set it
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
		targets = append(targets, target{ID: id, Object: o})
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
	var list []ObjectUsage
	for page := range slices.Chunk(targets, usagePage) {
		some, err := s.usage(ctx, page)
		if err != nil {
			return nil, err
		}
		list = append(list, some...)
	}
	return list, nil
}

// usagePage is how many objects one snapshot reads.
const usagePage = 5000

func scanTarget(row pgx.CollectableRow) (t target, err error) {
	err = row.Scan(&t.ID, &t.Object.Name)
	t.Object.Class = t.ID.Class()
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
		ids[i] = t.ID
	}
	plans, err := s.plansOf(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("find plans: %w", err)
	}
	var now time.Time
	bounds, states := map[ID]Bounds{}, map[ID]*Usage{}
	shown := make(map[ID]*ObjectUsage, len(targets))
	for _, t := range targets {
		shown[t.ID] = &ObjectUsage{Object: t.Object.String()}
	}
	raises := map[ID][]*Exception{}
	batch := &pgx.Batch{}
	batch.Queue(clockSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&now) })
	batch.Queue(limitsSQL, ids, plans).Query(func(rows pgx.Rows) error {
		return scanBounds(rows, func(id ID, b Bounds) { bounds[id] = b })
	})
	batch.Queue(statesSQL, ids).Query(func(rows pgx.Rows) error {
		return scanStates(rows, states)
	})
	batch.Queue(modesSQL, ids).Query(func(rows pgx.Rows) error {
		return scanModes(rows, func(id ID, mode Mode, from string) { shown[id].Mode, shown[id].ModeFrom = string(mode), from })
	})
	batch.Queue(objectExceptionsSQL, ids).Query(func(rows pgx.Rows) error {
		return scanObjectExceptions(rows, func(e *Exception, why string) {
			shown[e.Object].Exceptions = append(shown[e.Object].Exceptions, e.shown(why))
			if e.Kind == Raise {
				raises[e.Object] = append(raises[e.Object], e)
			}
		})
	})
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("read usage: %w", err)
	}
	var list []ObjectUsage
	for _, t := range targets {
		a, o := Account{Bounds: bounds[t.ID], raises: raises[t.ID]}, shown[t.ID]
		if u := states[t.ID]; u != nil {
			a.Usage = *u
		}
		o.Limits = a.limits(now)
		if g := a.Usage.grantAt(now); g.Messages+g.Recipients > 0 {
			o.Grants = &g
		}
		list = append(list, *o)
	}
	return list, nil
}

// modesSQL gives what is set for each of a list of objects, on itself and above, by
// class.
const modesSQL = `SELECT k.id, u.mode, m.mode, d.mode, s.mode, p.mode, (SELECT mode FROM server) FROM unnest($1::bigint[]) k(id)
  LEFT JOIN system_user u ON u.id = k.id
  LEFT JOIN mailbox m ON m.id = k.id
  LEFT JOIN domain d ON d.id = coalesce(m.domain_id, k.id)
  LEFT JOIN subscription s ON s.id = coalesce(u.subscription_id, d.subscription_id, k.id)
  LEFT JOIN plan p ON p.id = s.plan_id`

func scanModes(rows pgx.Rows, found func(id ID, mode Mode, from string)) error {
	var id ID
	var set [Server + 1]*string
	into := []any{&id}
	for c := User; c <= Server; c++ {
		into = append(into, &set[c])
	}
	_, err := pgx.ForEachRow(rows, into, func() error {
		mode, from := Enforce, ""
		for c := User; c <= Server; c++ {
			if set[c] != nil {
				mode, from = modeOf(*set[c]), c.String()
				break
			}
		}
		found(id, mode, from)
		return nil
	})
	return err
}

const objectExceptionsSQL = `SELECT id, kind, object_id, coalesce(limit_no, 0), coalesce(value, 0), until, coalesce(why, '') FROM exception
 WHERE object_id = ANY($1::bigint[]) AND (until IS NULL OR until > clock_timestamp()) ORDER BY id`

func scanObjectExceptions(rows pgx.Rows, found func(e *Exception, why string)) error {
	var e Exception
	var limit int16
	var until *time.Time
	var why string
	_, err := pgx.ForEachRow(rows, []any{&e.ID, &e.Kind, &e.Object, &limit, &e.Value, &until, &why}, func() error {
		one := e
		one.Limit, one.Until = Limit(limit), deref(until).UTC()
		found(&one, why)
		return nil
	})
	return err
}

func (e *Exception) shown(why string) ObjectException {
	o := ObjectException{ID: e.ID, Kind: e.Kind, Why: why}
	if e.Kind == Raise {
		o.Limit, o.Value = e.Limit.String(), &e.Value
	}
	if !e.Until.IsZero() {
		o.Until = &e.Until
	}
	return o
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
	rows, err := s.pool.Query(ctx, planSQL, ids)
	if err != nil {
		return nil, err
	}
	found := make(map[ID]ID, len(ids))
	var id, plan ID
	_, err = pgx.ForEachRow(rows, []any{&id, &plan}, func() error {
		found[id] = plan
		return nil
	})
	plans := make([]ID, len(ids))
	for i, id := range ids {
		plans[i] = found[id]
	}
	return plans, err
}

// limits compares what an account has used with its limits, at a time.
func (a *Account) limits(now time.Time) map[string]LimitUsage {
	minute := max(minuteAt(now), a.Usage.newest())
	limits := map[string]LimitUsage{}
	for l := range Limit(NumLimits) {
		v := LimitUsage{Used: a.Usage.used(l, minute)}
		if from := a.Bounds[l].From; from != 0 {
			v.From = from.String()
		}
		bound, raised := a.bound(l, now)
		if raised {
			v.From = "exception"
		}
		if bound != Unlimited {
			left := max(bound-v.Used, 0)
			v.Limit, v.Left = &bound, &left
			if left == 0 && bound > 0 {
				if free := a.freeAt(l, 1, minute, now); !free.IsZero() {
					v.FreeAt = &free
				}
			}
		}
		limits[l.String()] = v
	}
	return limits
}
