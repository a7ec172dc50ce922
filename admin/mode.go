package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/quota"
)

// SetMode says what limits do to mail of an object and of all below it (see
// quota.Mode); nil has it inherited again. It returns what was set before.
func (a *Admin) SetMode(ctx context.Context, o quota.Object, mode *quota.Mode) (before string, err error) {
	id, err := a.find(ctx, o)
	if err != nil {
		return "", err
	}
	table, there := "server", ""
	if o.Class != quota.Server {
		table, there = tableOf[o.Class], " AND removed_at IS NULL" // it may have been removed meanwhile
	}
	err = a.change(ctx, "mode set", o, func(tx pgx.Tx) (string, string, error) {
		var was *quota.Mode
		err := tx.QueryRow(ctx, fmt.Sprintf(`SELECT mode FROM %s WHERE id = $1%s FOR UPDATE`, table, there), id).Scan(&was)
		if errors.Is(err, pgx.ErrNoRows) {
			return "", "", missing(o, "there is no "+named(o))
		}
		if err == nil {
			_, err = tx.Exec(ctx, fmt.Sprintf(`UPDATE %s SET mode = $2 WHERE id = $1`, table), id, mode)
		}
		before = ModeText(was)
		return before, ModeText(mode), err
	})
	return before, err
}

// ModeText is how a mode that is set, or not, is written.
func ModeText(mode *quota.Mode) string {
	if mode == nil {
		return "inherit"
	}
	return string(*mode)
}

// SetModeOf is an object on which a mode is set.
type SetModeOf struct {
	Object string     `json:"object"`
	Mode   quota.Mode `json:"mode"`
}

// Modes lists the objects on which a mode is set, the server first.
func (a *Admin) Modes(ctx context.Context) ([]SetModeOf, error) {
	rows, err := a.db.Query(ctx, `SELECT o.id, o.name, o.mode FROM (
       SELECT id, '' AS name, mode FROM server WHERE mode IS NOT NULL
       UNION ALL SELECT id, name, mode FROM plan WHERE mode IS NOT NULL AND removed_at IS NULL
       UNION ALL SELECT id, name, mode FROM subscription WHERE mode IS NOT NULL AND removed_at IS NULL
       UNION ALL SELECT id, name, mode FROM domain WHERE mode IS NOT NULL AND removed_at IS NULL
       UNION ALL SELECT id, address, mode FROM mailbox WHERE mode IS NOT NULL AND removed_at IS NULL
       UNION ALL SELECT u.id, u.name || '@' || h.name, u.mode FROM system_user u JOIN host h ON h.id = u.host_id WHERE u.mode IS NOT NULL AND u.removed_at IS NULL) o
 ORDER BY o.id >> 40 DESC, o.name`)
	if err != nil {
		return nil, fmt.Errorf("list modes: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m SetModeOf, err error) {
		var id quota.ID
		var name string
		err = row.Scan(&id, &name, &m.Mode)
		m.Object = quota.Object{Class: id.Class(), Name: name}.String()
		return m, err
	})
	if err != nil {
		return nil, fmt.Errorf("list modes: %w", err)
	}
	return list, nil
}
