package quota

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Store keeps objects, limits, counters and message rows in PostgreSQL. It is
// safe for use by many goroutines; decisions are made one batch at a time.
type Store struct {
	pool         *pgxpool.Pool
	host         string
	firstUserUID uint32
	hostID       atomic.Int32 // 0: not asked yet
	memory       *memory
	senders      *senders
	remembered   atomic.Int64 // batches decided by memory
	warn         atomic.Int64 // percent of a limit; 0: no EventWarned

	deciding    sync.Mutex // holds for what follows
	versions    versions
	caution     int // batches to be decided with locks
	nextCaution int
}

// NewStore returns the store of one mail host. Uids below firstUserUID (and
// nobody's) come under the plan "system" when they are first seen. To decide, the
// pool must be one of sqlschema.DaemonPool: its settings make PostgreSQL lock rows
// in the order in which they are named.
func NewStore(pool *pgxpool.Pool, host string, firstUserUID uint32) *Store {
	return &Store{pool: pool, host: host, firstUserUID: firstUserUID, memory: newMemory(), senders: newSenders(host), versions: newVersions(), nextCaution: firstCaution}
}

// batch is messages that are decided together, and how far that got.
type batch struct {
	messages []Message
	decided  []*Decision // by the journal, to be booked as they are; nil: to be decided
	again    bool        // rows of some messages may be there already
	// sent are the decisions whose transaction was on its way to be committed
	// when the database was lost: it may have been, or not.
	sent []Decision
}

// attempts bounds how often a batch is tried: again after a deadlock with a
// foreign transaction, and with users, usage rows and partitions that were missing.
const attempts = 6

// Decide decides about messages in the order given, in one transaction, and
// writes counters and rows. On an error none of them is charged, except where
// the connection was lost while the transaction committed.
func (s *Store) Decide(ctx context.Context, messages []Message) ([]Decision, error) {
	return s.decide(ctx, &batch{messages: messages})
}

func (s *Store) decide(ctx context.Context, b *batch) ([]Decision, error) {
	if len(b.messages) == 0 {
		return nil, nil
	}
	s.deciding.Lock()
	defer s.deciding.Unlock()
	fresh := false
	for n := 1; ; n++ {
		decisions, failure := s.try(ctx, b, fresh)
		if failure == nil {
			return decisions, nil
		}
		again, err := s.mend(ctx, b, failure)
		switch {
		case !again:
			return nil, err
		case n == attempts:
			return nil, failure
		}
		// What is read from now on is read after the messages came, so a
		// change since then needs no third look.
		fresh = true
	}
}

// mend does what an error asks for before the same batch can be tried again.
func (s *Store) mend(ctx context.Context, b *batch, failure error) (again bool, err error) {
	var unknown *unknownError
	var missing *missingUsageError
	var pg *pgconn.PgError
	switch {
	case errors.Is(failure, errChanged):
		return true, nil
	case errors.As(failure, &unknown):
		return s.makeUnknown(ctx, unknown)
	case errors.As(failure, &missing):
		err := s.ensureUsage(ctx, missing.ids)
		return err == nil, err
	case errors.As(failure, &pg):
		switch {
		case pg.Code == "40P01" || pg.Code == "40001": // deadlock, serialization failure
			return true, nil
		case pg.Code == "23514" && pg.ConstraintName == "": // no partition for a row
			now, err := s.clock(ctx)
			if err == nil {
				err = s.makePartitions(ctx, append(b.times(), now, now.AddDate(0, 0, 1))...)
			}
			return err == nil, err
		}
	}
	return false, failure
}

func (s *Store) makeUnknown(ctx context.Context, unknown *unknownError) (again bool, err error) {
	for u := range unknown.users {
		if _, _, _, err := s.EnsureUser(ctx, u.uid, u.name); err != nil {
			return false, err
		}
	}
	for address := range unknown.mailboxes {
		if err := s.ensureMailbox(ctx, address); err != nil {
			return false, err
		}
	}
	return true, nil
}

// times are those of rows whose time is known already.
func (b *batch) times() (times []time.Time) {
	for _, d := range b.decided {
		if d != nil {
			times = append(times, d.At)
		}
	}
	return times
}

// hasRepeats tells whether some messages may have been accepted long ago.
func (b *batch) hasRepeats() bool {
	for i := range b.messages {
		if b.messages[i].Again {
			return true
		}
	}
	return false
}

// repeats are the IDs of these, and a time before which none of them was made.
func (b *batch) repeats() (ids []uuid.UUID, since time.Time) {
	for i := range b.messages {
		m := &b.messages[i]
		if !m.Again {
			continue
		}
		if made := IDTime(m.ID).Add(-24 * time.Hour); len(ids) == 0 || made.Before(since) { // by a clock that may be ahead
			since = made
		}
		ids = append(ids, m.ID)
	}
	return ids, since
}

// oldest is a time before which no row of the batch is, or was written: now is
// the database's clock, or zero if it was not read yet.
func (b *batch) oldest(now time.Time) time.Time {
	for _, at := range b.times() {
		if at.Before(now) {
			now = at
		}
	}
	return now.Add(-time.Hour)
}

// faultError is one of this program's side, such as a value that cannot be sent.
type faultError struct{ error }

func (e *faultError) Unwrap() error { return e.error }

// isAway tells whether an error is the database's and not the messages': then
// they are decided without it. PostgreSQL's classes 22, 23 and 54 are of the data
// that it was given, XX of a row or index that is broken.
func isAway(err error) bool {
	var fault *faultError
	var unknown *unknownError
	var missing *missingUsageError
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &fault), errors.As(err, &unknown), errors.As(err, &missing), errors.Is(err, errChanged):
		return false
	case errors.As(err, &pg):
		return !slices.Contains([]string{"22", "23", "54", "XX"}, pg.Code[:min(2, len(pg.Code))])
	}
	return true
}

// errChanged says that the epoch has changed since what is remembered was read.
var errChanged = errors.New("limits or objects have changed")

type missingUsageError struct{ ids []int64 }

func (e *missingUsageError) Error() string {
	return fmt.Sprintf("%d objects without a usage row", len(e.ids))
}

// ensureUsage makes missing usage rows in a transaction of its own, because a
// row made while others are locked would not be in their order.
func (s *Store) ensureUsage(ctx context.Context, ids []int64) error {
	_, err := s.pool.Exec(ctx,
		`INSERT INTO usage (id) SELECT id FROM unnest($1::bigint[]) k(id) ORDER BY id ON CONFLICT DO NOTHING`, ids)
	if err != nil {
		return fmt.Errorf("make usage rows: %w", err)
	}
	return nil
}

// try tries a batch once: by memory in one trip to the database, or in two: lock,
// clock and epoch; counters, rows and commit.
func (s *Store) try(ctx context.Context, b *batch, fresh bool) (decisions []Decision, err error) {
	hostID, err := s.ensureHost(ctx)
	if err != nil {
		return nil, err
	}
	routes, holds, term, err := s.routes(ctx, hostID, b.messages, fresh)
	if err != nil {
		return nil, err
	}
	if err := s.checkSenders(ctx, b.messages, routes, term, fresh); err != nil {
		return nil, err
	}
	if !fresh && !b.again && !b.hasRepeats() {
		decisions, err := s.tryRemembered(ctx, b, routes, holds, term, hostID)
		if !errors.Is(err, errForeign) {
			return decisions, err
		}
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	defer conn.Release()
	defer func() {
		if err == nil || conn.Conn().IsClosed() {
			return
		}
		// The connection goes back into the pool only with its transaction
		// ended; Release closes it otherwise.
		conn.Exec(ctx, "ROLLBACK")
		var pg *pgconn.PgError
		if ctx.Err() == nil && !errors.As(err, &pg) {
			err = &faultError{err}
		}
	}()
	l, err := s.lock(ctx, conn, routes, holds, term, b, fresh)
	if err != nil {
		return nil, err
	}
	// An earlier attempt that had locked the rows has ended now, and what it wrote
	// has been found. One by memory may still be on its way, unseen: it is void
	// once all rows have another version.
	b.sent = nil
	for i := range l.folios {
		l.folios[i].changed = b.again
	}
	decisions = l.decide(b, routes, s.warn.Load())
	if err := l.encode(); err != nil {
		return nil, err
	}
	b.sent, b.again = decisions, true
	if err := l.save(ctx, conn, hostID, s.versions.take()); err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.SeverityUnlocalized == "ERROR" {
			b.sent = nil // not done; FATAL can come after the commit
		}
		return nil, err
	}
	s.memory.learn(l)
	s.memory.learnAccepted(b.messages, decisions)
	return decisions, nil
}

// ledger is the accounts of a batch, locked or remembered, and what becomes of
// them.
type ledger struct {
	now     time.Time // by which is decided
	clock   time.Time // the database's, and
	read    time.Time // this host's when it was read
	epoch   int64
	rules   *rules
	term    int64   // of the limits
	folios  []folio // in the order of their ids
	ids     []int64 // the same, as pgx encodes them without reflection
	indexOf map[ID]int
	booked  map[uuid.UUID]Decision // has a row already: of an earlier attempt whose end nobody saw, or see Message.Again
	rows    messageRows            // to be written
}

// folio is one account of a ledger.
type folio struct {
	target
	account Account
	found   bool   // has a usage row
	changed bool   // is to be written
	state   []byte // as usage.state has it, or will
	version int64  // the same of usage.version
}

func newLedger(routes []*route, holds *rules, term int64) *ledger {
	l := &ledger{rules: holds, term: term, indexOf: make(map[ID]int, len(routes)+16)}
	for _, r := range routes {
		for _, t := range r.Targets {
			if _, ok := l.indexOf[t.ID]; !ok {
				l.indexOf[t.ID] = 0
				l.folios = append(l.folios, folio{target: t, account: Account{ID: t.ID, Object: t.Object, raises: holds.raises[t.ID]}})
			}
		}
	}
	slices.SortFunc(l.folios, func(a, b folio) int { return cmp.Compare(a.ID, b.ID) })
	l.ids = make([]int64, len(l.folios))
	for i := range l.folios {
		l.ids[i] = int64(l.folios[i].ID)
		l.indexOf[l.folios[i].ID] = i
	}
	return l
}

// of returns the folio of an id that is in the ledger.
func (l *ledger) of(id ID) *folio { return &l.folios[l.indexOf[id]] }

// load takes what the database has, or had.
func (f *folio) load(version int64, state []byte) error {
	f.found, f.version, f.state = true, version, state
	if err := f.account.Usage.UnmarshalBinary(state); err != nil {
		return fmt.Errorf("usage row of %s: %w", f.Object, err)
	}
	return nil
}

const (
	lockSQL   = `SELECT id, version, state FROM usage WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE`
	statesSQL = `SELECT id, state FROM usage WHERE id = ANY($1::bigint[])`
	clockSQL  = `SELECT clock_timestamp()`
	epochSQL  = `SELECT clock_timestamp(), n FROM epoch`

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

	bookedSQL = `SELECT id, at, decision, refused_limit IS NOT NULL, refused_why FROM messages WHERE id = ANY($1::uuid[]) AND at > $2`

	// acceptedSQL reads the partitions since the oldest ID was made, which are few.
	acceptedSQL = `SELECT id, at, decision, refused_limit IS NOT NULL, refused_why FROM messages
 WHERE id = ANY($1::uuid[]) AND at > greatest(now() - $2 * interval '1 day', $3) AND decision <> 2`
)

// lock opens the transaction. The order of its statements matters: the clock is
// read once the rows are locked, the epoch after the messages have come, the
// limits after the epoch.
func (s *Store) lock(ctx context.Context, conn *pgxpool.Conn, routes []*route, holds *rules, term int64, b *batch, fresh bool) (*ledger, error) {
	l := newLedger(routes, holds, term)
	missing := l.ids
	if !fresh {
		missing = s.memory.bounds(l)
	}

	trip := &pgx.Batch{}
	trip.Queue("BEGIN")
	trip.Queue(lockSQL, l.ids).Query(func(rows pgx.Rows) error {
		var id ID
		var version int64
		var state []byte
		_, err := pgx.ForEachRow(rows, []any{&id, &version, &state}, func() error {
			return l.of(id).load(version, state)
		})
		return err
	})
	trip.Queue(epochSQL).QueryRow(func(row pgx.Row) error {
		err := row.Scan(&l.clock, &l.epoch)
		l.now, l.read = l.clock, time.Now()
		return err
	})
	if len(missing) > 0 {
		plans := make([]int64, len(missing))
		for i, id := range missing {
			plans[i] = int64(l.of(ID(id)).Plan)
		}
		trip.Queue(limitsSQL, missing, plans).Query(func(rows pgx.Rows) error {
			return scanBounds(rows, func(id ID, b Bounds) { l.of(id).account.Bounds = b })
		})
	}
	if b.again {
		ids := make([]uuid.UUID, len(b.messages))
		for i := range b.messages {
			ids[i] = b.messages[i].ID
		}
		trip.Queue(bookedSQL, ids, b.oldest(s.memory.now())).Query(l.scanBooked)
	}
	if ids, since := b.repeats(); ids != nil {
		trip.Queue(acceptedSQL, ids, RepeatDays, since).Query(l.scanBooked)
	}
	if err := conn.SendBatch(ctx, trip).Close(); err != nil {
		return nil, fmt.Errorf("lock counters: %w", err)
	}
	if l.term = s.memory.current(l.epoch); l.term != term && !fresh {
		return nil, errChanged
	}
	var rowless []int64
	for i := range l.folios {
		if !l.folios[i].found {
			rowless = append(rowless, l.ids[i])
		}
	}
	if rowless != nil {
		return nil, &missingUsageError{rowless}
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

func (l *ledger) scanBooked(rows pgx.Rows) error {
	var id uuid.UUID
	var at time.Time
	var decision int16
	var byLimit bool
	var why *string
	if l.booked == nil {
		l.booked = map[uuid.UUID]Decision{}
	}
	_, err := pgx.ForEachRow(rows, []any{&id, &at, &decision, &byLimit, &why}, func() error {
		d := Decision{At: at}
		if why != nil { // which is all that the row has of it
			r := &Refusal{Reason: *why, Later: byLimit}
			if decision == rowRefused {
				d.Refusal = r
			} else {
				d.Observed = r
			}
		}
		if was, ok := l.booked[id]; !ok || was.Refusal != nil { // of several rows that of the message that was accepted
			l.booked[id] = d
		}
		return nil
	})
	return err
}

// decide goes through the batch in order of arrival. A message that came twice is
// decided once; but what was refused may have been accepted later, by the journal or
// because it came again. Of several refusals in one outage the first leaves a row.
func (l *ledger) decide(b *batch, routes []*route, warn int64) []Decision {
	decisions := make([]Decision, len(b.messages))
	first := make(map[uuid.UUID]int, len(b.messages))
	for i := range b.messages {
		m, r, d := &b.messages[i], routes[i], &decisions[i]
		var decided *Decision
		if b.decided != nil {
			decided = b.decided[i]
		}
		was, known := l.booked[m.ID]
		known = known && (was.Refusal == nil || !m.Again || decided != nil)
		if n, twice := first[m.ID]; twice {
			was, known = decisions[n], true
		}
		switch {
		case known && (was.Refusal == nil || decided == nil || decided.Refusal != nil):
			*d = was
			d.Events = nil
		case decided != nil:
			*d = l.book(r, m, decided)
			l.rows.add(m, r, d)
		default:
			*d = l.decideOne(m, r, warn)
			if !m.Probe || d.Refusal != nil {
				l.rows.add(m, r, d)
			}
		}
		d.Subscription, d.Domain = r.Subscription, r.Domain
		if !m.Probe || d.Refusal != nil {
			first[m.ID] = i
		}
	}
	return decisions
}

func (l *ledger) decideOne(m *Message, r *route, warn int64) Decision {
	accounts := make([]*Account, len(r.Targets))
	for i, t := range r.Targets {
		accounts[i] = &l.of(t.ID).account
		accounts[i].Exempt = t.Exempt // as this route has it
	}
	d := l.rules.decide(m, r, accounts, warn, l.now)
	if d.Refusal == nil && !m.Probe {
		for _, t := range r.Targets {
			l.of(t.ID).changed = true
		}
	}
	return d
}

// book charges a message as it was decided while the database was away. By a
// clock that was ahead then, time would stand still for all until it comes.
func (l *ledger) book(r *route, m *Message, decided *Decision) Decision {
	d := *decided
	d.Events = nil // whoever decided has told of them
	if d.At.After(l.now) {
		d.At = l.now
	}
	if d.Refusal == nil {
		for _, t := range r.Targets {
			f := l.of(t.ID)
			f.account.charge(minuteAt(d.At), m.cost(), d.priceOf(t.Object))
			f.changed = true
		}
	}
	return d
}

// encode makes the states of what was charged.
func (l *ledger) encode() (err error) {
	for i := range l.folios {
		if f := &l.folios[i]; f.changed {
			if f.state, err = f.account.Usage.AppendBinary(make([]byte, 0, len(f.state)+16)); err != nil {
				return err
			}
		}
	}
	return nil
}

const saveSQL = `UPDATE usage u SET state = k.state, version = $3 FROM unnest($1::bigint[], $2::bytea[]) k(id, state) WHERE u.id = k.id`

// save writes counters and rows, and commits.
func (l *ledger) save(ctx context.Context, conn *pgxpool.Conn, hostID int32, version int64) error {
	var ids []int64
	var states pgtype.FlatArray[[]byte]
	for i := range l.folios {
		if f := &l.folios[i]; f.changed {
			ids, states = append(ids, l.ids[i]), append(states, f.state)
			f.version = version
		}
	}
	trip := &pgx.Batch{}
	if len(ids) > 0 {
		trip.Queue(saveSQL, ids, states, version)
	}
	l.rows.queue(trip, hostID)
	l.rows.queueDirty(trip, l.clock)
	trip.Queue("COMMIT")
	if err := conn.SendBatch(ctx, trip).Close(); err != nil {
		return fmt.Errorf("write counters and messages: %w", err)
	}
	return nil
}
