package quota

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Store keeps objects, limits, counters and message rows in PostgreSQL. It is
// safe for use by many goroutines.
type Store struct {
	pool         *pgxpool.Pool
	host         string
	firstUserUID uint32
	hostID       atomic.Int32 // 0: not asked yet
}

// NewStore returns the store of one mail host. Uids below firstUserUID (and
// nobody's) come under the plan "system" when they are first seen.
func NewStore(pool *pgxpool.Pool, host string, firstUserUID uint32) *Store {
	return &Store{pool: pool, host: host, firstUserUID: firstUserUID}
}

// attempts bounds how often a batch is tried: again after a deadlock with a
// foreign transaction, a lost connection, or partitions that were missing.
const attempts = 4

// Decide decides about messages in the order given, in one transaction, and
// writes counters and rows. On an error none of them is charged, except where
// the connection was lost while the transaction committed; a retry finds what
// was booked by the messages' ids.
func (s *Store) Decide(ctx context.Context, messages []Message) ([]Decision, error) {
	if len(messages) == 0 {
		return nil, nil
	}
	decisions, err := s.decide(ctx, messages, false)
	for n := 1; err != nil && n < attempts && ctx.Err() == nil; n++ {
		var again bool
		if again, err = s.mend(ctx, messages, err); !again {
			break
		}
		decisions, err = s.decide(ctx, messages, true)
	}
	return decisions, err
}

// mend does what an error asks for before the same batch can be tried again.
func (s *Store) mend(ctx context.Context, messages []Message, failure error) (again bool, err error) {
	var unknown *unknownUsersError
	var missing *missingUsageError
	var pg *pgconn.PgError
	switch {
	case errors.As(failure, &unknown):
		for _, u := range unknown.users {
			if _, _, _, err := s.EnsureUser(ctx, u.uid, u.name); err != nil {
				return false, err
			}
		}
		return true, nil
	case errors.As(failure, &missing):
		return true, s.ensureUsage(ctx, missing.ids)
	case errors.As(failure, &pg):
		switch {
		case pg.Code == "40P01" || pg.Code == "40001": // deadlock, serialization failure
			return true, nil
		case pg.Code == "23514" && pg.ConstraintName == "": // no partition for this row
			_, err := s.pool.Exec(ctx, `SELECT make_partitions((clock_timestamp() AT TIME ZONE 'UTC')::date - 1, 9)`)
			return err == nil, err
		case strings.HasPrefix(pg.Code, "57P"): // the server shuts down or starts
			return true, nil
		}
		return false, failure
	case errors.Is(failure, errLost):
		return true, nil
	}
	return false, failure
}

// errLost marks that a connection broke: what was under way on it is unknown.
var errLost = errors.New("connection to the database lost")

type missingUsageError struct{ ids []ID }

func (e *missingUsageError) Error() string {
	return fmt.Sprintf("%d objects without a usage row", len(e.ids))
}

// ensureUsage makes missing usage rows in a transaction of its own, because a
// row made while others are locked would not be in their order.
func (s *Store) ensureUsage(ctx context.Context, ids []ID) error {
	_, err := s.pool.Exec(ctx,
		`INSERT INTO usage (id) SELECT id FROM unnest($1::bigint[]) k(id) ORDER BY id ON CONFLICT DO NOTHING`, ids)
	if err != nil {
		return fmt.Errorf("make usage rows: %w", err)
	}
	return nil
}

// decide tries a batch once, in three trips to the database: whose mail is it;
// lock, clock and limits; counters, rows and commit.
func (s *Store) decide(ctx context.Context, messages []Message, again bool) (decisions []Decision, err error) {
	hostID, err := s.ensureHost(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	defer conn.Release()
	defer func() {
		if err != nil && conn.Conn().IsClosed() {
			err = fmt.Errorf("%w: %w", errLost, err)
		} else if err != nil {
			// The connection goes back into the pool only with its
			// transaction ended; Release closes it otherwise.
			conn.Exec(ctx, "ROLLBACK")
		}
	}()

	routes, err := s.route(ctx, conn, hostID, messages)
	if err != nil {
		return nil, err
	}
	locked, err := lock(ctx, conn, routes, messages, again)
	if err != nil {
		return nil, err
	}
	decisions = locked.decide(messages, routes)
	return decisions, locked.save(ctx, conn, hostID)
}

// locked is what the lock trip found.
type locked struct {
	now      time.Time
	ids      []ID // sorted
	accounts map[ID]*Account
	changed  map[ID]bool
	booked   map[uuid.UUID]Decision // has a row: of an earlier attempt whose end nobody saw, or of this one
	rows     messageRows            // to be written
}

const (
	lockSQL  = `SELECT id, state FROM usage WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE`
	clockSQL = `SELECT clock_timestamp()`

	// limitsSQL: for each object what is set on itself, by its plan, and by the
	// server. It runs once the rows are locked, so a limit that was committed
	// before the message came is seen.
	limitsSQL = `SELECT k.id,
       own.messages_hour, own.messages_day, own.recipients_hour, own.recipients_day, own.recipients_message,
       pln.messages_hour, pln.messages_day, pln.recipients_hour, pln.recipients_day, pln.recipients_message,
       srv.messages_hour, srv.messages_day, srv.recipients_hour, srv.recipients_day, srv.recipients_message
  FROM unnest($1::bigint[], $2::bigint[]) k(id, plan_id)
  LEFT JOIN limits own ON own.owner_id = k.id AND own.class = k.id >> 40
  LEFT JOIN limits pln ON pln.owner_id = k.plan_id AND pln.class = k.id >> 40
  LEFT JOIN limits srv ON srv.owner_id = 6::bigint << 40 AND srv.class = k.id >> 40`

	bookedSQL = `SELECT id, at, decision, refused_why FROM messages
 WHERE id = ANY($1::uuid[]) AND at > clock_timestamp() - interval '1 hour'`
)

func lock(ctx context.Context, conn *pgxpool.Conn, routes []route, messages []Message, again bool) (*locked, error) {
	objects := map[ID]target{}
	for i := range routes {
		for _, t := range routes[i].targets {
			objects[t.id] = t
		}
	}
	l := &locked{accounts: map[ID]*Account{}, changed: map[ID]bool{}, booked: map[uuid.UUID]Decision{}}
	for id := range objects {
		l.ids = append(l.ids, id)
	}
	slices.Sort(l.ids)
	plans := make([]ID, len(l.ids))
	for i, id := range l.ids {
		plans[i] = objects[id].plan
	}

	batch := &pgx.Batch{}
	batch.Queue(lockSQL, l.ids).Query(func(rows pgx.Rows) error {
		var id ID
		var state []byte
		_, err := pgx.ForEachRow(rows, []any{&id, &state}, func() error {
			a := &Account{Object: objects[id].object, Bounds: Unbounded()}
			if err := a.Usage.UnmarshalBinary(state); err != nil {
				return fmt.Errorf("usage row of %s: %w", a.Object, err)
			}
			l.accounts[id] = a
			return nil
		})
		return err
	})
	batch.Queue(clockSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&l.now) })
	batch.Queue(limitsSQL, l.ids, plans).Query(func(rows pgx.Rows) error {
		return scanBounds(rows, func(id ID, b Bounds) {
			if a := l.accounts[id]; a != nil {
				a.Bounds = b
			}
		})
	})
	if again {
		ids := make([]uuid.UUID, len(messages))
		for i := range messages {
			ids[i] = messages[i].ID
		}
		batch.Queue(bookedSQL, ids).Query(l.scanBooked)
	}
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("lock counters: %w", err)
	}
	if len(l.accounts) < len(l.ids) {
		var missing []ID
		for _, id := range l.ids {
			if l.accounts[id] == nil {
				missing = append(missing, id)
			}
		}
		return nil, &missingUsageError{missing}
	}
	return l, nil
}

// scanBounds reads what limitsSQL selects.
func scanBounds(rows pgx.Rows, found func(ID, Bounds)) error {
	var id ID
	var set [3][NumLimits]*int32
	into := []any{&id}
	for i := range set {
		for j := range set[i] {
			into = append(into, &set[i][j])
		}
	}
	_, err := pgx.ForEachRow(rows, into, func() error {
		b := Unbounded()
		for l := range b {
			for level, from := range [...]Class{id.Class(), Plan, Server} {
				if v := set[level][l]; v != nil {
					b[l] = Bound{Max: int64(*v), From: from}
					break
				}
			}
		}
		found(id, b)
		return nil
	})
	return err
}

func (l *locked) scanBooked(rows pgx.Rows) error {
	var id uuid.UUID
	var at time.Time
	var decision int16
	var why *string
	_, err := pgx.ForEachRow(rows, []any{&id, &at, &decision, &why}, func() error {
		d := Decision{At: at}
		if decision == rowRefused && why != nil {
			d.Refusal = &Refusal{Reason: *why}
		}
		l.booked[id] = d
		return nil
	})
	return err
}

// decide goes through the batch in order of arrival.
func (l *locked) decide(messages []Message, routes []route) []Decision {
	decisions := make([]Decision, len(messages))
	for i := range messages {
		m, r := &messages[i], &routes[i]
		d, booked := l.booked[m.ID]
		if !booked {
			d = l.decideOne(m, r)
			l.rows.add(m, r, &d)
			l.booked[m.ID] = d
		}
		d.Subscription, d.Domain = r.subscription, r.domain
		decisions[i] = d
	}
	return decisions
}

func (l *locked) decideOne(m *Message, r *route) (d Decision) {
	if m.Forbidden != "" {
		return Decision{At: l.now, Refusal: &Refusal{Reason: m.Forbidden}}
	}
	var accounts []*Account
	for _, t := range r.targets {
		accounts = append(accounts, l.accounts[t.id])
	}
	d.At, d.Refusal = Decide(accounts, Cost{Messages: 1, Recipients: int64(m.Recipients)}, r.exempt, l.now)
	if d.Refusal == nil {
		for _, t := range r.targets {
			l.changed[t.id] = true
		}
	}
	return d
}

const saveSQL = `UPDATE usage u SET state = k.state FROM unnest($1::bigint[], $2::bytea[]) k(id, state) WHERE u.id = k.id`

// save writes counters and rows, and commits.
func (l *locked) save(ctx context.Context, conn *pgxpool.Conn, hostID int32) error {
	var ids []ID
	var states [][]byte
	for _, id := range l.ids {
		if l.changed[id] {
			state, err := l.accounts[id].Usage.AppendBinary(nil)
			if err != nil {
				return err
			}
			ids, states = append(ids, id), append(states, state)
		}
	}
	batch := &pgx.Batch{}
	if len(ids) > 0 {
		batch.Queue(saveSQL, ids, states)
	}
	if len(l.rows.id) > 0 {
		batch.Queue(insertSQL, l.rows.arguments(hostID)...)
	}
	batch.Queue("COMMIT")
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("write counters and messages: %w", err)
	}
	return nil
}
