package report

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Health is what can go wrong in a database without any error.
type Health struct {
	Snapshots   []Snapshot // old ones, oldest first
	DeadRows    int64      // of table usage: versions of rows that nobody needs and vacuum has not cleared away
	LiveRows    int64      // of table usage
	MissingDays []string   // of today and tomorrow (UTC), those without a partition
	Role        string     // that asked
	IsBlind     bool       // the role may not see other sessions: Snapshots is not all
}

// Snapshot is an old view of the database that somebody keeps open. As long as he
// does, PostgreSQL keeps every version of every counter since: each decision
// reads through all of them.
type Snapshot struct {
	Kind         string  `json:"kind"` // session, prepared transaction, replication slot, standby
	PID          *int32  `json:"pid"`
	User         *string `json:"user"`
	Application  *string `json:"application"` // or the name of the slot or transaction
	Client       *string `json:"client"`      // address; local for a unix socket
	State        *string `json:"state"`
	Since        *Time   `json:"since"`        // null: not known
	Transactions int64   `json:"transactions"` // begun since
	End          string  `json:"end"`          // what ends it
}

// snapshotSQL: by time where PostgreSQL knows it, older than oldSnapshot; else by
// the transactions that began since: a stand-by reports every ten seconds what
// its queries need (wal_receiver_status_interval), which is up to some ten
// thousand transactions at full load. Vacuum's own snapshot holds nothing up.
const snapshotSQL = `SELECT * FROM (
SELECT 'session', a.pid, a.usename::text, nullif(a.application_name, ''), coalesce(host(a.client_addr), 'local'), a.state, a.xact_start AS since,
       greatest(age(a.backend_xmin), age(a.backend_xid))::bigint AS transactions, format('SELECT pg_terminate_backend(%s)', a.pid)
  FROM pg_stat_activity a
 WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND num_nonnulls(a.backend_xmin, a.backend_xid) > 0
   AND a.xact_start < clock_timestamp() - $1::interval AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.pid = a.pid)
UNION ALL
SELECT 'prepared transaction', NULL, p.owner::text, p.gid, NULL, 'prepared', p.prepared, age(p.transaction), format('ROLLBACK PREPARED %L', p.gid)
  FROM pg_prepared_xacts p WHERE p.database = current_database() AND p.prepared < clock_timestamp() - $1::interval
UNION ALL
SELECT 'replication slot', s.active_pid, NULL, s.slot_name::text, NULL, CASE WHEN s.active THEN 'active' ELSE 'not in use' END, NULL, age(s.xmin),
       CASE WHEN s.active THEN 'end its long queries, or set hot_standby_feedback = off there'
            ELSE format('SELECT pg_drop_replication_slot(%L), if its stand-by is gone for good', s.slot_name) END
  FROM pg_replication_slots s WHERE age(s.xmin) > $2
UNION ALL
SELECT 'standby', r.pid, r.usename::text, nullif(r.application_name, ''), coalesce(host(r.client_addr), 'local'), r.state, NULL, age(r.backend_xmin),
       'end its long queries, or set hot_standby_feedback = off there'
  FROM pg_stat_replication r WHERE age(r.backend_xmin) > $2) s
 ORDER BY transactions DESC, since`

const (
	oldSnapshot             = 5 * time.Second
	oldSnapshotTransactions = 100_000
)

// CheckHealth looks at a database. It reads statistics only, no rows.
func CheckHealth(ctx context.Context, pool *pgxpool.Pool) (*Health, error) {
	h := &Health{Snapshots: []Snapshot{}}
	batch := &pgx.Batch{}
	batch.Queue(snapshotSQL, oldSnapshot, oldSnapshotTransactions).Query(func(rows pgx.Rows) (err error) {
		h.Snapshots, err = pgx.AppendRows(h.Snapshots, rows, scanSnapshot)
		return err
	})
	// A crash of the server loses the first of the two counts of what is live.
	batch.Queue(`SELECT s.n_dead_tup, greatest(s.n_live_tup, c.reltuples::bigint) FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid
 WHERE c.oid = 'usage'::regclass`).QueryRow(func(row pgx.Row) error {
		return row.Scan(&h.DeadRows, &h.LiveRows)
	})
	batch.Queue(`SELECT day::text FROM (SELECT (now() AT TIME ZONE 'UTC')::date + n AS day FROM generate_series(0, 1) n) d
 WHERE to_regclass('messages_' || to_char(day, 'YYYYMMDD')) IS NULL`).Query(func(rows pgx.Rows) (err error) {
		h.MissingDays, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	batch.Queue(`SELECT current_user::text, NOT pg_has_role('pg_read_all_stats', 'USAGE')`).QueryRow(func(row pgx.Row) error {
		return row.Scan(&h.Role, &h.IsBlind)
	})
	if err := pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("look at the database's health: %w", err)
	}
	return h, nil
}

func scanSnapshot(row pgx.CollectableRow) (s Snapshot, err error) {
	var since *time.Time
	err = row.Scan(&s.Kind, &s.PID, &s.User, &s.Application, &s.Client, &s.State, &since, &s.Transactions, &s.End)
	if since != nil {
		t := Time(*since)
		s.Since = &t
	}
	return s, err
}

// Problems says for an administrator what is wrong, and what to type.
func (h *Health) Problems() []string {
	var list []string
	for _, s := range h.Snapshots {
		list = append(list, "an old snapshot of the database slows down all mail: "+s.String())
	}
	if h.IsBlind {
		list = append(list, fmt.Sprintf("role %s cannot see who keeps old snapshots open: let an administrator of the database type GRANT pg_read_all_stats TO %s", h.Role, h.Role))
	}
	// What a decision leaves behind, the next one on that row clears away: there
	// are a few thousand at most, of any number of objects.
	if h.DeadRows > 10_000+5*h.LiveRows {
		list = append(list, fmt.Sprintf("table usage has %d dead rows for %d live ones: an old snapshot kept them, or vacuum does not keep up: let its owner type VACUUM usage", h.DeadRows, h.LiveRows))
	}
	return append(list, h.Partitions()...)
}

// Partitions are the problems that have to do with partitions; never nil.
func (h *Health) Partitions() []string {
	list := []string{}
	for _, day := range h.MissingDays {
		list = append(list, "there is no partition for "+day+": does mailquotad run?")
	}
	return list
}

func (s *Snapshot) String() string {
	what := []string{s.Kind}
	if s.PID != nil {
		what = append(what, fmt.Sprintf("pid %d", *s.PID))
	}
	for _, f := range []struct {
		name  string
		value *string
	}{{"user ", s.User}, {"application ", s.Application}, {"client ", s.Client}, {"", s.State}} {
		if f.value != nil {
			what = append(what, f.name+Printable(*f.value))
		}
	}
	if s.Since != nil {
		what = append(what, "since "+time.Time(*s.Since).Local().Format("2006-01-02 15:04:05"))
	}
	what = append(what, fmt.Sprintf("%d transactions ago", s.Transactions))
	return strings.Join(what, ", ") + ": " + s.End
}
