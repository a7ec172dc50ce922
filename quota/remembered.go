package quota

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// A batch whose accounts are all remembered is decided by memory, and written in
// one round trip without locks before. Its transaction holds only if nobody else
// has written these counters meanwhile, nothing that is remembered has changed,
// and the clock is right; if not, PostgreSQL undoes it, for a text is no number,
// and the batch is decided with locks. The text is for whoever reads PostgreSQL's
// log, where each error leaves a line. So where one daemon does most of the work each
// batch takes one trip; where several write the same counters, nearly all take two.

// rememberedSQL writes counters ($1, $2; of version $3 before, $4 after), also
// those that only refused something: then whatever was decided by them in a trip
// whose answer was lost, and which may arrive late, is void once the batch has
// been decided again. It also looks at the epoch ($5), and whether the clock by
// which was decided ($6) is the database's.
const rememberedSQL = `WITH written AS (
  UPDATE usage u SET state = k.state, version = $4
    FROM unnest($1::bigint[], $2::bytea[], $3::bigint[]) k(id, state, version)
   WHERE u.id = k.id AND u.version = k.version RETURNING 1)
SELECT clock_timestamp(), CASE
  WHEN (SELECT count(*) FROM written) = cardinality($1)
   AND (SELECT n FROM epoch) = $5
   AND clock_timestamp() BETWEEN $6::timestamptz - interval '1 second' AND $6::timestamptz + interval '1 second' THEN 0
  ELSE ('counters or limits have changed meanwhile: decided again with locks, nothing is lost' || left(clock_timestamp()::text, 0))::integer END`

var errForeign = errors.New("counters have been written by somebody else")

// Batches that are decided with locks after one that somebody else got in the way
// of: more each time, so that two busy daemons lose little by trying.
const (
	firstCaution = 16
	lastCaution  = 1024
)

// versions hands out numbers that nobody else does, and that do not come again: by
// counting up a row's version two daemons would come to the same.
type versions struct{ next int64 }

func newVersions() versions { return versions{int64(rand.Uint32()>>1) << 32} }

func (v *versions) take() int64 {
	v.next++
	return v.next
}

// recall returns the accounts of routes as remembered, nil if one is not.
func (m *memory) recall(routes []*route, holds *rules, term int64) (*ledger, error) {
	l := newLedger(routes, holds, term)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.term != term {
		return nil, nil
	}
	for i := range l.folios {
		f := &l.folios[i]
		k, ok := m.accounts.Get(f.ID)
		if !ok || k.term != term {
			return nil, nil
		}
		f.account.Bounds = k.Bounds
		if err := f.load(k.version, k.State); err != nil {
			return nil, err
		}
	}
	l.epoch = m.epoch
	l.now = m.seen.Add(time.Since(m.seenAt)).Truncate(time.Microsecond)
	return l, nil
}

// tryRemembered decides a batch by memory. The error is errForeign if it has to
// be decided with locks.
func (s *Store) tryRemembered(ctx context.Context, b *batch, routes []*route, holds *rules, term int64, hostID int32) ([]Decision, error) {
	if s.caution > 0 {
		s.caution--
		return nil, errForeign
	}
	l, err := s.memory.recall(routes, holds, term)
	if err != nil || l == nil {
		return nil, errors.Join(err, errForeign)
	}
	decisions := l.decide(b, routes, s.warn.Load())
	if err := l.encode(); err != nil {
		return nil, err
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	defer conn.Release()
	version := s.versions.take()
	states := make(pgtype.FlatArray[[]byte], len(l.folios))
	before := make([]int64, len(l.folios))
	for i := range l.folios {
		f := &l.folios[i]
		states[i], before[i] = f.state, f.version
		f.version = version
	}
	trip := &pgx.Batch{} // what stands before its end is one transaction
	trip.Queue(rememberedSQL, l.ids, states, before, version, l.epoch, l.now).QueryRow(func(row pgx.Row) error {
		var zero int32
		err := row.Scan(&l.clock, &zero)
		l.read = time.Now()
		return err
	})
	l.rows.queue(trip, hostID)
	b.sent, b.again = decisions, true
	err = conn.SendBatch(ctx, trip).Close()
	var pg *pgconn.PgError
	switch {
	case err == nil:
		s.memory.learn(l)
		s.remembered.Add(1)
		s.nextCaution = firstCaution
		return decisions, nil
	case errors.As(err, &pg) && pg.SeverityUnlocalized == "ERROR":
		b.sent, b.again = nil, false // not done
		if pg.Code == "22P02" {      // invalid_text_representation
			s.caution = s.nextCaution
			s.nextCaution = min(2*s.nextCaution, lastCaution)
			return nil, errForeign
		}
	case !conn.Conn().IsClosed() && ctx.Err() == nil && pg == nil:
		err = &faultError{err}
	}
	return nil, fmt.Errorf("write counters and messages: %w", err)
}
