package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Audit is a row of the audit.
type Audit struct {
	At     time.Time `json:"time"`
	Host   string    `json:"host"`
	Actor  string    `json:"by"`
	Action string    `json:"action"`
	Object string    `json:"object"`
	Before *string   `json:"before"`
	After  *string   `json:"after"`
	Why    *string   `json:"why"`
}

// AuditFilter says which rows; what is empty does not matter.
type AuditFilter struct {
	Object        string    // a user of this host with or without @HOST: rows have either
	Actor, Action string    // Action: a part of it
	Since, Until  time.Time // Until itself is not in it
	Limit         int       // only the newest
}

// AuditRows lists changes, newest last.
func (a *Admin) AuditRows(ctx context.Context, f AuditFilter) ([]Audit, error) {
	other := f.Object
	if strings.HasPrefix(f.Object, "user:") {
		if login, ok := strings.CutSuffix(f.Object, "@"+a.host); ok {
			other = login
		} else if !strings.Contains(f.Object, "@") {
			other += "@" + a.host
		}
	}
	rows, err := a.db.Query(ctx, `SELECT at, host, actor, action, object, before, after, why FROM audit
 WHERE ($1 = '' OR left(object, 200) IN (left($1, 200), left($7, 200)) AND object IN ($1, $7)) AND ($2 = '' OR actor = $2) AND ($3 = '' OR strpos(action, $3) > 0)
   AND ($4::timestamptz IS NULL OR at >= $4) AND ($5::timestamptz IS NULL OR at < $5)
 ORDER BY at DESC, id DESC LIMIT $6`, f.Object, f.Actor, f.Action, nullTime(f.Since), nullTime(f.Until), f.Limit, other)
	if err != nil {
		return nil, fmt.Errorf("list audit: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Audit])
	if err != nil {
		return nil, fmt.Errorf("list audit: %w", err)
	}
	slices.Reverse(list)
	return list, nil
}
