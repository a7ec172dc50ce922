package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/inventory"
	"sendmail-wrapper/quota"
)

// chunk is how many rows one statement writes: few enough to show progress and to
// stay far from its time-out, many enough that the round trip does not count.
const chunk = 10_000

// givenSQL begins each statement that writes objects: the rows of one chunk.
const givenSQL = `WITH w AS (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[])
  w(name, parent, contact, document_root, mode, host, uid)) `

var addSQL = map[quota.Class]string{
	quota.Plan: `INSERT INTO plan (name, mode) SELECT name, nullif(mode, '') FROM w`,
	quota.Subscription: `INSERT INTO subscription (plan_id, name, contact, mode) SELECT p.id, w.name, nullif(w.contact, ''), nullif(w.mode, '')
  FROM w JOIN plan p ON p.name = w.parent AND p.removed_at IS NULL`,
	quota.Domain: `INSERT INTO domain (subscription_id, name, document_root, mode) SELECT s.id, w.name, nullif(w.document_root, ''), nullif(w.mode, '')
  FROM w JOIN subscription s ON s.name = w.parent AND s.removed_at IS NULL`,
	quota.Mailbox: `INSERT INTO mailbox (domain_id, address, mode) SELECT d.id, w.name, nullif(w.mode, '')
  FROM w JOIN domain d ON d.name = w.parent AND d.removed_at IS NULL`,
	quota.User: `INSERT INTO system_user (subscription_id, uid, host_id, name, mode) SELECT s.id, w.uid, h.id, w.name, nullif(w.mode, '')
  FROM w JOIN subscription s ON s.name = w.parent AND s.removed_at IS NULL JOIN host h ON h.name = w.host`,
}

var changeSQL = map[quota.Class]string{
	quota.Server: `UPDATE server SET mode = nullif(w.mode, '') FROM w`,
	quota.Plan:   `UPDATE plan o SET mode = nullif(w.mode, '') FROM w WHERE o.name = w.name AND o.removed_at IS NULL`,
	quota.Subscription: `UPDATE subscription o SET plan_id = p.id, contact = nullif(w.contact, ''), mode = nullif(w.mode, '')
  FROM w JOIN plan p ON p.name = w.parent AND p.removed_at IS NULL WHERE o.name = w.name AND o.removed_at IS NULL`,
	quota.Domain:  `UPDATE domain o SET document_root = nullif(w.document_root, ''), mode = nullif(w.mode, '') FROM w WHERE o.name = w.name AND o.removed_at IS NULL`,
	quota.Mailbox: `UPDATE mailbox o SET mode = nullif(w.mode, '') FROM w WHERE o.address = w.name AND o.removed_at IS NULL`,
	quota.User: `UPDATE system_user o SET name = w.name, subscription_id = s.id, mode = nullif(w.mode, '')
  FROM w JOIN subscription s ON s.name = w.parent AND s.removed_at IS NULL JOIN host h ON h.name = w.host
 WHERE o.host_id = h.id AND o.uid = w.uid AND o.removed_at IS NULL`,
}

// joinSQL finds the object of a row w.
var joinSQL = map[quota.Class]string{
	0:                  `CROSS JOIN (SELECT NULL::bigint AS id) o`, // of an exception: none
	quota.Server:       `CROSS JOIN server o`,
	quota.Plan:         `JOIN plan o ON o.name = w.name AND o.removed_at IS NULL`,
	quota.Subscription: `JOIN subscription o ON o.name = w.name AND o.removed_at IS NULL`,
	quota.Domain:       `JOIN domain o ON o.name = w.name AND o.removed_at IS NULL`,
	quota.Mailbox:      `JOIN mailbox o ON o.address = w.name AND o.removed_at IS NULL`,
	quota.User:         `JOIN host h ON h.name = w.host JOIN system_user o ON o.host_id = h.id AND o.uid = w.uid AND o.removed_at IS NULL`,
}

// downwards is the order in which objects can be made.
var downwards = []quota.Class{quota.Server, quota.Plan, quota.Subscription, quota.User, quota.Domain, quota.Mailbox}

// writer writes the work of one import.
type writer struct {
	a      *Admin
	tx     pgx.Tx
	action string
	done   func(rows int)
}

// write does the work. What grows the epoch comes last: from then on all others
// who change something wait for the end of the import.
func (w *writer) write(ctx context.Context, work *work, diff *Difference, current map[inventory.Ref]*inventory.Object) error {
	steps := []func() error{
		func() error { return w.hold(ctx, work, current) },
		func() error { return w.hosts(ctx, work.added) },
	}
	add := func(classes ...quota.Class) {
		for _, class := range classes {
			steps = append(steps, func() error { return w.objects(ctx, addSQL[class], ofClass(work.added, class)) })
		}
	}
	add(quota.Plan, quota.Subscription, quota.User)
	steps = append(steps, func() error { return w.audit(ctx, diff) })
	add(quota.Domain, quota.Mailbox)
	for _, class := range downwards {
		steps = append(steps,
			func() error { return w.objects(ctx, changeSQL[class], ofClass(work.changed, class)) },
			func() error { return w.limits(ctx, class, ofClass(work.limits, class)) },
			func() error { return w.senders(ctx, class, ofClass(work.senders, class)) })
	}
	steps = append(steps, func() error { return w.exceptions(ctx, work.exceptions) })
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func ofClass(objects []inventory.Object, class quota.Class) (list []inventory.Object) {
	for _, o := range objects {
		if o.Class == class {
			list = append(list, o)
		}
	}
	return list
}

// column is one property of all rows.
func column[T, V any](rows []T, value func(T) V) []V {
	list := make([]V, len(rows))
	for i, r := range rows {
		list[i] = value(r)
	}
	return list
}

// exec writes rows; each must have come to something.
func (w *writer) exec(ctx context.Context, rows int, sql string, args ...any) error {
	tag, err := w.tx.Exec(ctx, sql, args...)
	if err == nil && tag.RowsAffected() != int64(rows) {
		err = fmt.Errorf("%d rows written instead of %d", tag.RowsAffected(), rows)
	}
	return err
}

// hold keeps what new objects come under from being removed, as hold of one does.
func (w *writer) hold(ctx context.Context, work *work, current map[inventory.Ref]*inventory.Object) error {
	parents := make(map[quota.Class]map[string]bool)
	for _, o := range slices.Concat(work.added, work.changed) {
		class := inventory.ParentClass(o.Class)
		if class == 0 || current[inventory.Ref{Class: class, Name: o.Parent}] == nil {
			continue
		}
		if parents[class] == nil {
			parents[class] = make(map[string]bool)
		}
		parents[class][o.Parent] = true
	}
	for _, class := range downwards {
		var names []string
		for name := range parents[class] {
			names = append(names, name)
		}
		slices.Sort(names)
		for part := range slices.Chunk(names, chunk) {
			sql := fmt.Sprintf(`SELECT FROM %s WHERE name = ANY($1) AND removed_at IS NULL ORDER BY id FOR SHARE`, tableOf[class])
			if err := w.exec(ctx, len(part), sql, part); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *writer) hosts(ctx context.Context, added []inventory.Object) error {
	var names []string
	for _, o := range added {
		if o.Class == quota.User && !slices.Contains(names, o.Host) {
			names = append(names, o.Host)
		}
	}
	_, err := w.tx.Exec(ctx, `INSERT INTO host (name) SELECT n FROM unnest($1::text[]) n WHERE NOT EXISTS (SELECT FROM host WHERE name = n)`, names)
	return err
}

func (w *writer) objects(ctx context.Context, sql string, objects []inventory.Object) error {
	type object = inventory.Object
	for part := range slices.Chunk(objects, chunk) {
		err := w.exec(ctx, len(part), givenSQL+sql,
			column(part, func(o object) string { return o.Name }), column(part, func(o object) string { return o.Parent }),
			column(part, func(o object) string { return o.Contact.Value }), column(part, func(o object) string { return o.DocumentRoot.Value }),
			column(part, func(o object) string { return o.Mode.Value }), column(part, func(o object) string { return o.Host }),
			column(part, func(o object) int64 { return o.UID }))
		if err != nil {
			return err
		}
		w.done(len(part))
	}
	return nil
}

// limitsRow is a row of limits, with the object that it belongs to.
type limitsRow struct {
	inventory.Ref
	class  int16
	values [quota.NumLimits]*int64
}

func limitsRows(objects []inventory.Object) (rows []limitsRow) {
	for _, o := range objects {
		first := len(rows)
		for _, l := range o.Limits {
			at := first + slices.IndexFunc(rows[first:], func(r limitsRow) bool { return r.class == int16(l.For) })
			if at < first {
				at = len(rows)
				rows = append(rows, limitsRow{Ref: o.Ref, class: int16(l.For)})
			}
			rows[at].values[l.Limit] = l.Value
		}
	}
	return rows
}

func (w *writer) limits(ctx context.Context, class quota.Class, objects []inventory.Object) error {
	columns := strings.Join(limitColumns[:], ", ")
	sql := fmt.Sprintf(`INSERT INTO limits (owner_id, class, %[1]s) SELECT o.id, w.class, w.%[2]s
  FROM unnest($1::text[], $2::text[], $3::bigint[], $4::smallint[], $5::integer[], $6::integer[], $7::integer[], $8::integer[], $9::integer[])
       w(name, host, uid, class, %[1]s) %[3]s
    ON CONFLICT (owner_id, class) DO UPDATE SET (%[1]s) = ROW(excluded.%[4]s)`,
		columns, strings.Join(limitColumns[:], ", w."), joinSQL[class], strings.Join(limitColumns[:], ", excluded."))
	for part := range slices.Chunk(objects, chunk) {
		rows := limitsRows(part)
		args := []any{column(rows, func(r limitsRow) string { return r.Name }), column(rows, func(r limitsRow) string { return r.Host }),
			column(rows, func(r limitsRow) int64 { return r.UID }), column(rows, func(r limitsRow) int16 { return r.class })}
		for l := range quota.NumLimits {
			args = append(args, column(rows, func(r limitsRow) *int64 { return r.values[l] }))
		}
		if err := w.exec(ctx, len(rows), sql, args...); err != nil {
			return err
		}
		w.done(len(part))
	}
	return nil
}

// senders writes which ones the objects have; those that stay keep their time.
func (w *writer) senders(ctx context.Context, class quota.Class, objects []inventory.Object) error {
	type object = inventory.Object
	given := `WITH w AS (SELECT o.id, string_to_array(w.senders, ' ') AS senders
  FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) w(name, host, uid, senders) ` + joinSQL[class] + `) `
	for part := range slices.Chunk(objects, chunk) {
		args := []any{column(part, func(o object) string { return o.Name }), column(part, func(o object) string { return o.Host }),
			column(part, func(o object) int64 { return o.UID }), column(part, func(o object) string { return o.Senders.Value })}
		for _, sql := range []string{
			`DELETE FROM sender s USING w WHERE s.object_id = w.id AND s.address <> ALL (w.senders)`,
			`INSERT INTO sender (object_id, address) SELECT id, unnest(senders) FROM w ON CONFLICT DO NOTHING`,
		} {
			if _, err := w.tx.Exec(ctx, given+sql, args...); err != nil {
				return err
			}
		}
		w.done(len(part))
	}
	return nil
}

func (w *writer) exceptions(ctx context.Context, exceptions []inventory.Exception) error {
	type exception = inventory.Exception
	for _, class := range append([]quota.Class{0}, downwards...) {
		list := slices.DeleteFunc(slices.Clone(exceptions), func(x exception) bool { return x.Object.Class != class })
		for part := range slices.Chunk(list, chunk) {
			err := w.exec(ctx, len(part), `INSERT INTO exception (object_id, kind, network, script, crontab, limit_no, value, until, actor, why)
SELECT o.id, w.kind, nullif(w.network, '')::cidr, nullif(w.script, ''), nullif(w.crontab, ''), w.limit_no, w.value, w.until, $12, nullif(w.why, '')
  FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::smallint[], $9::bigint[], $10::timestamptz[], $11::text[])
       w(name, host, uid, kind, network, script, crontab, limit_no, value, until, why) `+joinSQL[class],
				column(part, func(x exception) string { return x.Object.Name }), column(part, func(x exception) string { return x.Object.Host }),
				column(part, func(x exception) int64 { return x.Object.UID }), column(part, func(x exception) string { return string(x.Kind) }),
				column(part, network), column(part, func(x exception) string { return x.Script }),
				column(part, func(x exception) string { return x.Crontab }), column(part, limitNo),
				column(part, raiseValue), column(part, until), column(part, func(x exception) string { return x.Why }), w.a.actor)
			if err != nil {
				return err
			}
			w.done(len(part))
		}
	}
	return nil
}

func network(x inventory.Exception) string {
	if !x.Network.IsValid() {
		return ""
	}
	return x.Network.String()
}

func limitNo(x inventory.Exception) *int16 {
	if x.Kind != quota.Raise {
		return nil
	}
	n := int16(x.Limit)
	return &n
}

func raiseValue(x inventory.Exception) *int64 {
	if x.Kind != quota.Raise {
		return nil
	}
	return &x.Value
}

func until(x inventory.Exception) *time.Time {
	if x.Until.IsZero() {
		return nil
	}
	return &x.Until
}

// audit writes a row each object.
func (w *writer) audit(ctx context.Context, diff *Difference) error {
	for part := range slices.Chunk(slices.Concat(diff.Added, diff.Changed), chunk) {
		err := w.exec(ctx, len(part), `INSERT INTO audit (host, actor, action, object, before, after, why)
SELECT $1, $2, $3, w.object, nullif(w.before, ''), nullif(w.after, ''), nullif($4, '') FROM unnest($5::text[], $6::text[], $7::text[]) w(object, before, after)`,
			w.a.host, w.a.actor, w.action, w.a.why, column(part, func(c Change) string { return c.Object }),
			column(part, func(c Change) string { return c.Before }), column(part, func(c Change) string { return c.After }))
		if err != nil {
			return err
		}
	}
	return nil
}
