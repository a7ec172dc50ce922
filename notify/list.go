package notify

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
)

// Notice is a notice as it is listed.
type Notice struct {
	ID      int64           `json:"id"`
	Time    time.Time       `json:"time"` // when it was made
	Kind    quota.EventKind `json:"kind"`
	Object  string          `json:"object,omitempty"` // of an event
	Limit   string          `json:"limit,omitempty"`  // the same
	Channel string          `json:"channel"`
	Target  string          `json:"target"`
	State   State           `json:"state"`
	SentAt  *time.Time      `json:"sent_at"`
	NextTry *time.Time      `json:"next_try"`
	Tries   int             `json:"failed_tries"`
	Error   string          `json:"error,omitempty"` // of the last try that failed
}

// State is what became of a notice.
type State string

const (
	Sent    State = "sent"
	Waiting State = "waiting"
	GivenUp State = "given up"
)

const listSQL = `SELECT n.id, n.made_at, coalesce(e.kind, 'digest'), coalesce(e.object_id, 0),
       ` + nameSQL + `, coalesce(e.limit_no, -1),
       n.channel, n.target, n.sent_at, CASE WHEN n.sent_at IS NULL AND n.due_at < 'infinity' THEN n.due_at END, n.tries, coalesce(n.error, '')
  FROM (SELECT * FROM notice ORDER BY id DESC LIMIT $2) n
  LEFT JOIN (SELECT object_id AS refused_object, * FROM event) e ON e.id = n.event_id
 ORDER BY n.id`

// List returns the newest notices, newest last. The names of users of other hosts
// than this have theirs behind an @.
func List(ctx context.Context, pool *pgxpool.Pool, host string, limit int) ([]Notice, error) {
	rows, err := pool.Query(ctx, listSQL, host, limit)
	if err != nil {
		return nil, fmt.Errorf("list notices: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (n Notice, err error) {
		var id quota.ID
		var name string
		var limit int16
		err = row.Scan(&n.ID, &n.Time, &n.Kind, &id, &name, &limit, &n.Channel, &n.Target, &n.SentAt, &n.NextTry, &n.Tries, &n.Error)
		if id != 0 {
			n.Object, n.Limit = printable(quota.Object{Class: id.Class(), Name: name}.String()), quota.Limit(limit).String()
		}
		switch {
		case n.SentAt != nil:
			n.State = Sent
		case n.NextTry != nil:
			n.State = Waiting
		default:
			n.State = GivenUp
		}
		return n, err
	})
	if err != nil {
		return nil, fmt.Errorf("list notices: %w", err)
	}
	return list, nil
}

// Health is what is wrong with the notifications.
type Health struct {
	GivenUp int  // notices of the last three days
	Late    int  // those that have been waiting for more than an hour
	Runs    bool // a deliverer, on some host
}

// CheckHealth looks at the notices, and whether somebody delivers them.
func CheckHealth(ctx context.Context, pool *pgxpool.Pool) (h Health, err error) {
	err = pool.QueryRow(ctx, `SELECT count(*) FILTER (WHERE due_at = 'infinity' AND made_at > now() - interval '3 days'),
       count(*) FILTER (WHERE due_at < 'infinity' AND made_at < now() - interval '1 hour'),
       EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
         AND classid::bigint << 32 | objid::bigint = $1 AND objsubid = 1 AND granted)
  FROM notice WHERE sent_at IS NULL`, int64(leaderLock)).Scan(&h.GivenUp, &h.Late, &h.Runs)
	if err != nil {
		return h, fmt.Errorf("look at the notifications: %w", err)
	}
	return h, nil
}
