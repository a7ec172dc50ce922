package notify

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"sendmail-wrapper/quota"
)

// Recorder writes what happens to objects into table event. Make it with
// NewRecorder, and let Run run.
type Recorder struct {
	pool  *pgxpool.Pool
	store *quota.Store
	log   func() *zerolog.Logger
	flush time.Duration
	wake  chan struct{}

	mu      sync.Mutex
	entries map[entryKey]*entry
	dropped int // events of further objects than there is room for
}

// maxEntries bounds what is kept while the database is away. An entry has some
// 200 bytes.
const maxEntries = 20_000

// writeBound bounds one try to write.
const writeBound = 10 * time.Second

// entryKey is an object and a kind. The name counts only where the id is not known.
type entryKey struct {
	id     quota.ID
	object quota.Object
	kind   quota.EventKind
}

// entry is what happened to an object since it was last written. It stays until
// there was nothing new between two flushes.
type entry struct {
	first quota.Event
	last  time.Time
	state entryState
}

type entryState int

const (
	written entryState = iota
	changed            // last only: written with the next flush
	fresh              // written at once
)

// NewRecorder returns a Recorder that writes to a pool, and finds in a store
// objects that have no id yet.
func NewRecorder(pool *pgxpool.Pool, store *quota.Store, log func() *zerolog.Logger) *Recorder {
	return &Recorder{pool: pool, store: store, log: log, flush: wakeful, wake: make(chan struct{}, 1), entries: map[entryKey]*entry{}}
}

// Note takes events. It never waits for the database.
func (r *Recorder) Note(events []quota.Event) {
	if len(events) == 0 {
		return
	}
	r.mu.Lock()
	isFresh := false
	for _, e := range events {
		key := entryKey{id: e.ID, kind: e.Kind}
		if e.ID == 0 {
			key.object = e.Object
		}
		switch known := r.entries[key]; {
		case known != nil:
			if e.At.After(known.last) {
				known.last, known.state = e.At, max(known.state, changed)
			}
		case len(r.entries) >= maxEntries:
			r.dropped++
		default:
			r.entries[key] = &entry{first: e, last: e.At, state: fresh}
			isFresh = true
		}
	}
	r.mu.Unlock()
	if isFresh {
		select {
		case r.wake <- struct{}{}:
		default: // it will look
		}
	}
}

// Run writes until ctx ends, and then what is left, if the database is there.
func (r *Recorder) Run(ctx context.Context) {
	tick := time.NewTicker(r.flush)
	defer tick.Stop()
	again := time.NewTimer(0)
	again.Stop()
	wait := time.Duration(0) // until the next try, after one that failed
	for {
		least, wake := fresh, r.wake
		if wait > 0 {
			wake = nil // new ones wait for the next try, too
		}
		select {
		case <-ctx.Done():
			final, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if err := r.write(final, changed); err != nil {
				r.log().Warn().Err(err).Msg("events for notifications are lost")
			}
			return
		case <-wake:
		case <-again.C:
		case <-tick.C:
			if wait > 0 {
				continue
			}
			least = changed
			r.forget()
		}
		if err := r.write(ctx, least); err != nil && ctx.Err() == nil {
			if wait == 0 {
				r.log().Warn().Err(err).Msg("events for notifications wait for the database")
			}
			wait = min(max(2*wait, time.Second), wakeful)
			again.Reset(wait)
			continue
		}
		wait = 0
	}
}

// forget takes out what has been written and did not happen again since.
func (r *Recorder) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, e := range r.entries {
		if e.state == written {
			delete(r.entries, key)
		}
	}
	if r.dropped > 0 {
		r.log().Warn().Int("events", r.dropped).Msg("too many objects for notifications at a time: some are left out")
		r.dropped = 0
	}
}

// batch is how many rows one statement writes.
const batch = 1000

// write writes all entries that have at least a state.
func (r *Recorder) write(ctx context.Context, least entryState) error {
	taken := r.take(least)
	var rows []quota.Event
	last := map[entryKey]time.Time{}
	for key, e := range taken {
		event := e.first
		if event.ID == 0 {
			id, err := r.find(ctx, event.Object)
			if err != nil {
				r.giveBack(taken)
				return err
			}
			if id == 0 {
				delete(taken, key)
				continue
			}
			event.ID = id
		}
		// One that had no id may be there twice.
		same := entryKey{id: event.ID, kind: event.Kind}
		if _, twice := last[same]; !twice {
			rows = append(rows, event)
		}
		if e.last.After(last[same]) {
			last[same] = e.last
		}
	}
	// All hosts lock rows in one order.
	slices.SortFunc(rows, func(a, b quota.Event) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Kind, b.Kind))
	})
	for some := range slices.Chunk(rows, batch) {
		err := r.upsert(ctx, some, last)
		var wrong *pgconn.PgError
		if errors.As(err, &wrong) && (wrong.Code[:2] == "22" || wrong.Code[:2] == "23") {
			// No later try would do better, and all others would wait for it.
			r.log().Error().Err(err).Int("events", len(some)).Msg("events for notifications that cannot be written")
			continue
		}
		if err != nil {
			r.giveBack(taken)
			return err
		}
	}
	return nil
}

// take returns copies of entries, which count as written from now on.
func (r *Recorder) take(least entryState) map[entryKey]entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := map[entryKey]entry{}
	for key, e := range r.entries {
		if e.state >= least {
			taken[key] = *e
			e.state = written
		}
	}
	return taken
}

// giveBack says of entries that were taken that they are not written.
func (r *Recorder) giveBack(taken map[entryKey]entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, e := range taken {
		if now := r.entries[key]; now != nil {
			now.state = max(now.state, e.state)
		}
	}
}

// find looks up an object that a decision without a database had no id of; 0 if
// there is none.
func (r *Recorder) find(ctx context.Context, o quota.Object) (quota.ID, error) {
	ctx, cancel := context.WithTimeout(ctx, writeBound)
	defer cancel()
	id, err := r.store.Find(ctx, o)
	if missing := (*quota.NotFoundError)(nil); errors.As(err, &missing) {
		r.log().Warn().Err(err).Msg("nobody is told of an object that the database does not have")
		return 0, nil
	}
	return id, err
}

// upsertSQL wakes the deliverer only for new rows: a commit with a NOTIFY waits for
// all others that have one.
const upsertSQL = `WITH noted AS (
INSERT INTO event AS e (object_id, kind, limit_no, max, used, message_id, opened_at, last_at)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::smallint[], $4::bigint[], $5::bigint[], $6::uuid[], $7::timestamptz[], $8::timestamptz[])
ON CONFLICT (object_id, kind) WHERE closed_at IS NULL
DO UPDATE SET last_at = greatest(e.last_at, excluded.last_at)
RETURNING xmax = 0 AS is_new)
SELECT pg_notify($9, '') FROM noted WHERE is_new LIMIT 1`

func (r *Recorder) upsert(ctx context.Context, events []quota.Event, last map[entryKey]time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, writeBound)
	defer cancel()
	n := len(events)
	ids, kinds, limits := make([]quota.ID, n), make([]string, n), make([]int16, n)
	maxima, used := make([]int64, n), make([]int64, n)
	messages, opened, lasts := make([]uuid.UUID, n), make([]time.Time, n), make([]time.Time, n)
	for i, e := range events {
		ids[i], kinds[i], limits[i], maxima[i], used[i] = e.ID, string(e.Kind), int16(e.Limit), e.Max, e.Used
		messages[i], opened[i], lasts[i] = e.Message, e.At, last[entryKey{id: e.ID, kind: e.Kind}]
	}
	return pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, upsertSQL, ids, kinds, limits, maxima, used, messages, opened, lasts, pgChannel)
		return err
	})
}
