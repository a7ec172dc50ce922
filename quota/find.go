package quota

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// NotFoundError says that there is no such object.
type NotFoundError struct{ Object Object }

func (e *NotFoundError) Error() string {
	if e.Object.Class == User {
		name, host, other := strings.Cut(e.Object.Name, "@")
		if !other {
			host = "this host"
		}
		return "no system user " + name + " of " + host + " has called sendmail yet"
	}
	return "there is no " + strings.Replace(e.Object.String(), ":", " ", 1)
}

var findSQL = map[Class]string{
	User: `SELECT id FROM system_user WHERE host_id = (SELECT id FROM host WHERE name = $2) AND name = $1 AND removed_at IS NULL
 ORDER BY id DESC LIMIT 1`,
	Mailbox:      `SELECT id FROM mailbox WHERE address = $1 AND removed_at IS NULL`,
	Domain:       `SELECT id FROM domain WHERE name = $1 AND removed_at IS NULL`,
	Subscription: `SELECT id FROM subscription WHERE name = $1 AND removed_at IS NULL`,
	Plan:         `SELECT id FROM plan WHERE name = $1 AND removed_at IS NULL`,
}

// Find returns the ID of an object. "user:NAME" is a user of this store's host,
// "user:NAME@HOST" of another. The error is a *NotFoundError if there is none.
func (s *Store) Find(ctx context.Context, o Object) (ID, error) {
	if o.Class == Server {
		return ServerID, nil
	}
	arguments := []any{o.Name}
	if o.Class == User {
		name, host, other := strings.Cut(o.Name, "@")
		if !other {
			host = s.host
		}
		arguments = []any{name, host}
	}
	var id ID
	err := s.pool.QueryRow(ctx, findSQL[o.Class], arguments...).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, &NotFoundError{o}
	}
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", o, err)
	}
	return id, nil
}
