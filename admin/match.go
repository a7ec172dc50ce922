package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/quota"
)

// Pattern says which objects of a class: all whose names match.
type Pattern struct {
	quota.Object        // of the name, * is any characters and ? is any one
	Plan         string // only those of this plan; "" is all
	Of           string // only those of this subscription; "" is all
}

// IsPattern tells whether an object's name stands for several: no name has * or ?
// in it.
func IsPattern(o quota.Object) bool { return strings.ContainsAny(o.Name, "*?") }

// Matched are objects that a Pattern has found.
type Matched struct {
	Class quota.Class
	Names []string // as on the command line
	ids   []quota.ID
}

// matchSQL finds the objects of a class by name, host, plan and subscription.
var matchSQL = map[quota.Class]string{
	quota.Plan: `SELECT id, name FROM plan WHERE removed_at IS NULL AND name LIKE $1 AND $2 = $2 AND $3::bigint = 0 AND $4::bigint = 0 ORDER BY name`,
	quota.Subscription: `SELECT id, name FROM subscription s
 WHERE removed_at IS NULL AND name LIKE $1 AND $2 = $2 AND $3::bigint IN (0, plan_id) AND $4::bigint IN (0, id) ORDER BY name`,
	quota.Domain: `SELECT o.id, o.name FROM domain o JOIN subscription s ON s.id = o.subscription_id
 WHERE o.removed_at IS NULL AND o.name LIKE $1 AND $2 = $2 AND $3::bigint IN (0, s.plan_id) AND $4::bigint IN (0, s.id) ORDER BY o.name`,
	quota.Mailbox: `SELECT o.id, o.address FROM mailbox o JOIN domain d ON d.id = o.domain_id JOIN subscription s ON s.id = d.subscription_id
 WHERE o.removed_at IS NULL AND o.address LIKE $1 AND $2 = $2 AND $3::bigint IN (0, s.plan_id) AND $4::bigint IN (0, s.id) ORDER BY d.name, o.address`,
	quota.User: `SELECT o.id, CASE WHEN h.name = $2 THEN o.name ELSE o.name || '@' || h.name END
  FROM system_user o JOIN host h ON h.id = o.host_id JOIN subscription s ON s.id = o.subscription_id
 WHERE o.removed_at IS NULL AND (o.name LIKE $1 OR o.name || '@' || h.name LIKE $1) AND $3::bigint IN (0, s.plan_id) AND $4::bigint IN (0, s.id)
 ORDER BY h.name, o.name`,
}

// like is a pattern as SQL has it.
var like = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`, `*`, `%`, `?`, `_`)

// Match finds the objects of a Pattern; there must be one.
func (a *Admin) Match(ctx context.Context, p Pattern) (*Matched, error) {
	var plan, of quota.ID
	for _, f := range []struct {
		id *quota.ID
		o  quota.Object
	}{{&plan, quota.Object{Class: quota.Plan, Name: p.Plan}}, {&of, quota.Object{Class: quota.Subscription, Name: p.Of}}} {
		if f.o.Name == "" {
			continue
		}
		if p.Class == quota.Plan {
			return nil, &Error{"plans belong to no plan and to no subscription", ""}
		}
		id, err := a.find(ctx, f.o)
		if err != nil {
			return nil, err
		}
		*f.id = id
	}
	rows, err := a.db.Query(ctx, matchSQL[p.Class], like.Replace(p.Name), a.host, plan, of)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", p.Object, err)
	}
	m := &Matched{Class: p.Class}
	var id quota.ID
	var name string
	_, err = pgx.ForEachRow(rows, []any{&id, &name}, func() error {
		m.ids, m.Names = append(m.ids, id), append(m.Names, name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", p.Object, err)
	}
	if len(m.ids) == 0 {
		return nil, &Error{fmt.Sprintf("no %s matches", p.Class), "mailctl " + p.Class.String() + " list"}
	}
	return m, nil
}

// matchedSQL begins each statement about objects that were matched: those of one
// chunk.
const matchedSQL = `WITH w AS (SELECT * FROM unnest($1::bigint[], $2::text[]) w(id, name)) `

// auditSQL writes a row of the audit for each object, joined with where it is
// kept what is to be changed.
const auditSQL = matchedSQL + `INSERT INTO audit (host, actor, action, object, before, after, why)
SELECT $3, $4, $5, $6 || ':' || w.name, %s, $7, nullif($8, '') FROM w LEFT JOIN %s`

// changeAll runs one change of many objects, with a row of the audit each, in one
// transaction. before is SQL for what was there, in from; do writes one chunk.
func (a *Admin) changeAll(ctx context.Context, action string, m *Matched, before, from, after string, do func(tx pgx.Tx, ids []quota.ID) error) error {
	err := a.transaction(ctx, func(tx pgx.Tx) error {
		at := 0
		for ids := range slices.Chunk(m.ids, chunk) {
			tag, err := tx.Exec(ctx, fmt.Sprintf(`SELECT FROM %s WHERE id = ANY($1) AND removed_at IS NULL ORDER BY id FOR UPDATE`, tableOf[m.Class]), ids)
			if err != nil {
				return err
			}
			if gone := len(ids) - int(tag.RowsAffected()); gone > 0 {
				return &Error{fmt.Sprintf("%d of them have just been removed: nothing was changed", gone), "try again"}
			}
			_, err = tx.Exec(ctx, fmt.Sprintf(auditSQL, before, from), ids, m.Names[at:at+len(ids)], a.host, a.actor, action, m.Class.String(), after, a.why)
			if err != nil {
				return err
			}
			at += len(ids)
		}
		for ids := range slices.Chunk(m.ids, chunk) { // last, as it holds the row epoch
			if err := do(tx, ids); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil || errors.As(err, new(*Error)) {
		return err
	}
	return fmt.Errorf("%s of %d objects: %w", action, len(m.ids), err)
}

// SetLimits sets one limit of many objects, or takes it away: see SetLimit.
func (a *Admin) SetLimits(ctx context.Context, m *Matched, class quota.Class, l quota.Limit, value *int64) error {
	action, column, what := "limit set", limitColumns[l], l.String()
	if class != m.Class {
		what += " for " + class.String()
	}
	var now *int32
	sql := fmt.Sprintf(`INSERT INTO limits (owner_id, class, %[1]s) SELECT unnest($1::bigint[]), $2, $3
    ON CONFLICT (owner_id, class) DO UPDATE SET %[1]s = excluded.%[1]s`, column)
	if value != nil {
		n := int32(*value)
		now = &n
	} else {
		action = "limit unset"
		sql = fmt.Sprintf(`UPDATE limits SET %s = $3::integer WHERE owner_id = ANY($1) AND class = $2`, column)
	}
	before := fmt.Sprintf(`'%[1]s ' || CASE WHEN l.%[2]s IS NULL THEN 'unset' WHEN l.%[2]s = %[3]d THEN 'unlimited' ELSE l.%[2]s::text END`, what, column, quota.Unlimited)
	from := fmt.Sprintf(`limits l ON l.owner_id = w.id AND l.class = %d`, class)
	return a.changeAll(ctx, action, m, before, from, what+" "+valueText(now), func(tx pgx.Tx, ids []quota.ID) error {
		_, err := tx.Exec(ctx, sql, ids, class, now)
		return err
	})
}

// SetModes sets the mode of many objects: see SetMode.
func (a *Admin) SetModes(ctx context.Context, m *Matched, mode *quota.Mode) error {
	table := tableOf[m.Class]
	return a.changeAll(ctx, "mode set", m, `coalesce(o.mode, 'inherit')`, table+` o ON o.id = w.id`, ModeText(mode), func(tx pgx.Tx, ids []quota.ID) error {
		_, err := tx.Exec(ctx, fmt.Sprintf(`UPDATE %s SET mode = $2 WHERE id = ANY($1)`, table), ids, mode)
		return err
	})
}
