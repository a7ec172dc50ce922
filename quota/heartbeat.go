package quota

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// plansSQL: what applies to who is made under plans of these names.
const plansSQL = `SELECT id, name, coalesce(mode, (SELECT mode FROM server), 'enforce') FROM plan WHERE name = ANY($1) AND removed_at IS NULL`

// Heartbeat says that this host is there, and asks what is needed to share the
// limits with others, and with those whom nobody knows, while the database is
// away. It writes, so it fails where a disk is full or a stand-by was reached.
func (s *Store) Heartbeat(ctx context.Context) error {
	hostID, err := s.ensureHost(ctx)
	if err != nil {
		return err
	}
	var now time.Time
	var epoch, hosts int64
	var plan ID
	batch := &pgx.Batch{}
	batch.Queue(`UPDATE host SET last_seen = clock_timestamp() WHERE id = $1`, hostID)
	batch.Queue(`SELECT count(*) FROM host WHERE last_seen > clock_timestamp() - interval '7 days'`).QueryRow(func(row pgx.Row) error { return row.Scan(&hosts) })
	batch.Queue(epochSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&now, &epoch) })
	modes := map[string]Mode{}
	batch.Queue(plansSQL, []string{DefaultPlan, SystemPlan}).Query(func(rows pgx.Rows) error {
		var id ID
		var name, mode string
		_, err := pgx.ForEachRow(rows, []any{&id, &name, &mode}, func() error {
			if modes[name] = modeOf(mode); name == DefaultPlan {
				plan = id
			}
			return nil
		})
		return err
	})
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("say that this host is there: %w", err)
	}
	// No object has number 0, but the server: what applies to it is what applies
	// by default.
	classes := []ID{ID(User) << 40, ID(Mailbox) << 40, ID(Domain) << 40, ID(Subscription) << 40, ServerID}
	rows, err := s.pool.Query(ctx, limitsSQL, classes, []ID{plan, plan, plan, plan, 0})
	if err != nil {
		return fmt.Errorf("read default limits: %w", err)
	}
	strange := map[Class]Bounds{}
	if err := scanBounds(rows, func(id ID, b Bounds) { strange[id.Class()] = b }); err != nil {
		return fmt.Errorf("read default limits: %w", err)
	}
	s.memory.beat(now, epoch, hosts, strange, modes)
	return nil
}

// refreshRules reads the rules anew, if they may have changed.
func (s *Store) refreshRules(ctx context.Context) error {
	term, _, holds := s.memory.begin(nil)
	if holds != nil {
		return nil
	}
	holds, err := s.readRoutes(ctx, 0, nil, nil)
	if err == nil {
		s.memory.learnRules(holds, term)
	}
	return err
}

// refreshChunk bounds how many objects are read at a time.
const refreshChunk = 2000

// Refresh reads anew what is remembered of accounts and exceptions, as far as it
// may have changed. Together with Heartbeat once a minute it makes the last knowledge not
// older than that.
func (s *Store) Refresh(ctx context.Context) error {
	if err := s.refreshRules(ctx); err != nil {
		return fmt.Errorf("refresh what is remembered: %w", err)
	}
	for {
		term, old := s.memory.outdated(refreshChunk)
		if len(old) == 0 {
			return nil
		}
		if err := s.refresh(ctx, term, old); err != nil {
			return fmt.Errorf("refresh what is remembered: %w", err)
		}
	}
}

func (s *Store) refresh(ctx context.Context, term int64, old map[ID]*known) error {
	ids := make([]ID, 0, len(old))
	now := make(map[ID]*known, len(old))
	for id, k := range old {
		ids = append(ids, id)
		now[id] = &known{Object: k.Object, Bounds: Unbounded(), term: term}
	}
	plans, err := s.plansOf(ctx, ids)
	if err != nil {
		return err
	}
	batch := &pgx.Batch{}
	batch.Queue(limitsSQL, ids, plans).Query(func(rows pgx.Rows) error {
		return scanBounds(rows, func(id ID, b Bounds) { now[id].Bounds = b })
	})
	batch.Queue(`SELECT id, version, state FROM usage WHERE id = ANY($1::bigint[])`, ids).Query(func(rows pgx.Rows) error {
		var id ID
		var version int64
		var state []byte
		_, err := pgx.ForEachRow(rows, []any{&id, &version, &state}, func() error {
			now[id].State, now[id].version = state, version
			return nil
		})
		return err
	})
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	s.memory.refresh(old, now)
	return nil
}

// Acquaint remembers users and mailboxes that have sent nothing lately, as far as
// there is room, so that their limits hold without the database, too.
func (s *Store) Acquaint(ctx context.Context) error {
	hostID, err := s.ensureHost(ctx)
	if err != nil {
		return err
	}
	room := s.memory.room()
	rows, err := s.pool.Query(ctx, `(SELECT uid, '' FROM system_user WHERE host_id = $1 AND removed_at IS NULL ORDER BY id DESC LIMIT $2)
UNION ALL (SELECT 0, address FROM mailbox WHERE removed_at IS NULL ORDER BY id DESC LIMIT $2)`, hostID, room)
	if err != nil {
		return fmt.Errorf("list users and mailboxes: %w", err)
	}
	var keys []routeKey
	var uid int64
	var address string
	_, err = pgx.ForEachRow(rows, []any{&uid, &address}, func() error {
		keys = append(keys, routeKey{Mailbox: address, UID: uint32(uid)})
		return nil
	})
	if err != nil {
		return fmt.Errorf("list users and mailboxes: %w", err)
	}
	for some := range slices.Chunk(keys[:min(len(keys), room)], refreshChunk) {
		term, routes, holds := s.memory.begin(some)
		read := map[routeKey]*route{}
		for i, k := range some {
			if routes[i] == nil {
				read[k] = nil
			}
		}
		if holds, err = s.readRoutes(ctx, hostID, read, holds); err != nil {
			return err
		}
		s.memory.learnRules(holds, term)
		s.memory.acquaint(read, term)
	}
	return s.Refresh(ctx)
}
