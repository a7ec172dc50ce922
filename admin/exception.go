package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/quota"
)

// Exception is one as it is listed.
type Exception struct {
	ID      int64               `json:"id"`
	Kind    quota.ExceptionKind `json:"kind"`
	Subject string              `json:"subject"`
	Removed bool                `json:"removed"` // its object is no more
	Limit   *string             `json:"limit"`   // of a raise
	Value   *int64              `json:"value"`   // of a raise; -1 is unlimited
	Made    time.Time           `json:"made"`
	Until   *time.Time          `json:"until"` // null: until it is removed
	Ended   bool                `json:"ended"`
	By      string              `json:"by"`
	Why     *string             `json:"why"`

	limit *quota.Limit
}

// nullTime is a time as the database has it: the zero one is NULL.
func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// Raise gives a limit of an object another value until a time. A raise of the limit
// that holds is changed, and before says what it was.
func (a *Admin) Raise(ctx context.Context, o quota.Object, l quota.Limit, value int64, until time.Time) (before string, err error) {
	id, err := a.findCharged(ctx, o)
	if err != nil {
		return "", err
	}
	err = a.change(ctx, "exception raise", o, func(tx pgx.Tx) (string, string, error) {
		var err error
		before, err = a.put(ctx, tx, []any{quota.Raise, id, nil, nil, nil, int16(l)}, &value, until)
		return before, held{limit: &l, value: &value, until: nullTime(until)}.text(), err
	})
	return before, err
}

// findCharged finds an object of which something is counted.
func (a *Admin) findCharged(ctx context.Context, o quota.Object) (quota.ID, error) {
	if o.Class == quota.Plan {
		return 0, &Error{fmt.Sprintf("%s is charged nothing: a plan holds the defaults of its subscriptions", o), "mailctl limit set " + o.String() + " LIMIT NUMBER"}
	}
	return a.find(ctx, o)
}

// Grant lets an object send so much more than its limits allow, once.
func (a *Admin) Grant(ctx context.Context, o quota.Object, g quota.Grant) error {
	if n := g.Messages + g.Recipients; n < 1 || n > quota.MaxGrant {
		return &Error{fmt.Sprintf("an allowance is a number from 1 to %d", quota.MaxGrant), ""}
	}
	id, err := a.findCharged(ctx, o)
	if err != nil {
		return err
	}
	return a.change(ctx, "exception grant", o, func(tx pgx.Tx) (string, string, error) {
		before, err := a.store.Grant(ctx, tx, id, g)
		return before, g.String(), err
	})
}

// Reset has the limits of an object begin anew. It returns what was used.
func (a *Admin) Reset(ctx context.Context, o quota.Object) (before string, err error) {
	id, err := a.findCharged(ctx, o)
	if err != nil {
		return "", err
	}
	err = a.change(ctx, "exception reset", o, func(tx pgx.Tx) (string, string, error) {
		before, err = a.store.Forgive(ctx, tx, id)
		return before, "0", err
	})
	return before, err
}

// heldSQL finds the exceptions of a kind, a subject and, of a raise, a limit that
// hold: one at most, unless an import brought more.
const heldSQL = ` FROM exception WHERE kind = $1 AND (object_id = $2 OR network = $3 OR script = $4 OR crontab = $5)
 AND limit_no IS NOT DISTINCT FROM $6 AND (until IS NULL OR until > clock_timestamp())`

// held is what an exception does to its subject.
type held struct {
	id    int64
	limit *quota.Limit
	value *int64
	until *time.Time
}

func scanHeld(row pgx.CollectableRow) (h held, err error) {
	err = row.Scan(&h.id, &h.limit, &h.value, &h.until)
	return h, err
}

func (h held) text() string {
	until := "until removed"
	if h.until != nil {
		until = "until " + h.until.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	if h.limit == nil {
		return until
	}
	n := int32(*h.value)
	return fmt.Sprintf("%s %s %s", *h.limit, valueText(&n), until)
}

// textOf joins what several do, in their order.
func textOf(list []held) string {
	slices.SortFunc(list, func(x, y held) int { return cmp.Compare(x.id, y.id) })
	var texts []string
	for _, h := range list {
		texts = append(texts, h.text())
	}
	return strings.Join(texts, "; ")
}

// put makes an exception; where some hold by heldSQL it changes the first and
// deletes the others, and before says what they were.
func (a *Admin) put(ctx context.Context, tx pgx.Tx, args []any, value *int64, until time.Time) (before string, err error) {
	// Two at the same time do not both find it missing.
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "exception "+fmt.Sprint(args...)); err != nil {
		return "", err
	}
	rows, _ := tx.Query(ctx, `SELECT id, limit_no, value, until`+heldSQL+` ORDER BY id FOR UPDATE`, args...) // the error is the rows', too
	list, err := pgx.CollectRows(rows, scanHeld)
	switch {
	case err != nil:
	case len(list) == 0:
		_, err = tx.Exec(ctx, `INSERT INTO exception (kind, object_id, network, script, crontab, limit_no, value, until, actor, why)
 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, nullif($10, ''))`, append(args, value, nullTime(until), a.actor, a.why)...)
	default:
		_, err = tx.Exec(ctx, `UPDATE exception SET value = $2, until = $3, actor = $4, why = coalesce(nullif($5, ''), why) WHERE id = $1`,
			list[0].id, value, nullTime(until), a.actor, a.why)
	}
	for _, more := range list[min(len(list), 1):] {
		if err == nil {
			_, err = tx.Exec(ctx, `DELETE FROM exception WHERE id = $1`, more.id)
		}
	}
	return textOf(list), err
}

// subjectArgs are those of heldSQL.
func (a *Admin) subjectArgs(ctx context.Context, kind quota.ExceptionKind, s Subject) ([]any, error) {
	args := []any{kind, nil, nil, nil, nil, nil}
	switch {
	case s.Script != "":
		args[3] = s.Script
	case s.Crontab != "":
		args[4] = s.Crontab
	case s.Network.IsValid():
		args[2] = s.Network
	default:
		id, err := a.find(ctx, s.Object)
		if err != nil {
			return nil, err
		}
		args[1] = id
	}
	return args, nil
}

// AddException blocks a subject, or puts it into the white list. If it is there
// already, it gets another end, and before says which it had.
func (a *Admin) AddException(ctx context.Context, kind quota.ExceptionKind, s Subject, until time.Time) (before string, err error) {
	args, err := a.subjectArgs(ctx, kind, s)
	if err != nil {
		return "", err
	}
	action := string(kind) + " add"
	err = a.transaction(ctx, func(tx pgx.Tx) (err error) {
		if before, err = a.put(ctx, tx, args, nil, until); err != nil {
			return err
		}
		return a.note(ctx, tx, action, s.String(), before, held{until: nullTime(until)}.text())
	})
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", action, s, err)
	}
	return before, nil
}

// RemoveSubject takes away the block of a subject, or its entry in the white list.
func (a *Admin) RemoveSubject(ctx context.Context, kind quota.ExceptionKind, s Subject) error {
	args, err := a.subjectArgs(ctx, kind, s)
	if err != nil {
		return err
	}
	action := string(kind) + " remove"
	err = a.transaction(ctx, func(tx pgx.Tx) error {
		rows, _ := tx.Query(ctx, `DELETE`+heldSQL+` RETURNING id, limit_no, value, until`, args...) // the error is the rows', too
		list, err := pgx.CollectRows(rows, scanHeld)
		if err == nil && len(list) == 0 {
			state := "is not blocked"
			if kind == quota.Whitelist {
				state = "is not in the white list"
			}
			return &Error{fmt.Sprintf("%s %s", s, state), fmt.Sprintf("mailctl %s list", kind)}
		}
		if err != nil {
			return err
		}
		return a.note(ctx, tx, action, s.String(), textOf(list), "")
	})
	if err != nil && !errors.As(err, new(*Error)) {
		return fmt.Errorf("%s %s: %w", action, s, err)
	}
	return err
}

// RemoveException takes away the exception of an id, whatever it is, and returns it.
func (a *Admin) RemoveException(ctx context.Context, id int64) (removed Exception, err error) {
	err = a.transaction(ctx, func(tx pgx.Tx) error {
		b := *a
		b.db = tx
		list, err := b.exceptions(ctx, `e.id = $1`, id)
		if err == nil && len(list) == 0 {
			return &Error{fmt.Sprintf("there is no exception %d", id), "mailctl exception list"}
		}
		if err != nil {
			return err
		}
		removed = list[0]
		tag, err := tx.Exec(ctx, `DELETE FROM exception WHERE id = $1`, id)
		if err == nil && tag.RowsAffected() == 0 { // somebody else was first
			return &Error{fmt.Sprintf("there is no exception %d", id), "mailctl exception list"}
		}
		if err != nil {
			return err
		}
		return a.note(ctx, tx, "exception remove", removed.Subject, removed.text(), "")
	})
	return removed, err
}

// text is what the audit says of one.
func (e *Exception) text() string {
	return fmt.Sprintf("%s %s", e.Kind, held{limit: e.limit, value: e.Value, until: e.Until}.text())
}

// Exceptions lists those of a kind ("": of all kinds) that hold; with all, also
// those that have ended and are not yet deleted.
func (a *Admin) Exceptions(ctx context.Context, kind quota.ExceptionKind, all bool) ([]Exception, error) {
	return a.exceptions(ctx, `($1 = '' OR e.kind = $1) AND ($2 OR e.until IS NULL OR e.until > clock_timestamp())`, string(kind), all)
}

func (a *Admin) exceptions(ctx context.Context, where string, args ...any) ([]Exception, error) {
	rows, err := a.db.Query(ctx, `SELECT e.id, e.kind, e.object_id, coalesce(p.name, s.name, d.name, m.address, u.name || '@' || h.name, ''),
       num_nonnulls(p.removed_at, s.removed_at, d.removed_at, m.removed_at, u.removed_at) > 0,
       coalesce('network:' || e.network::text, 'script:' || e.script, 'crontab:' || e.crontab, ''),
       e.limit_no, e.value, e.made_at, e.until, coalesce(e.until <= clock_timestamp(), false), e.actor, e.why
  FROM exception e LEFT JOIN plan p ON p.id = e.object_id LEFT JOIN subscription s ON s.id = e.object_id
  LEFT JOIN domain d ON d.id = e.object_id LEFT JOIN mailbox m ON m.id = e.object_id
  LEFT JOIN system_user u ON u.id = e.object_id LEFT JOIN host h ON h.id = u.host_id
 WHERE `+where+` ORDER BY e.id`, args...)
	if err != nil {
		return nil, fmt.Errorf("list exceptions: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e Exception, err error) {
		var object *quota.ID
		var name string
		err = row.Scan(&e.ID, &e.Kind, &object, &name, &e.Removed, &e.Subject, &e.limit, &e.Value, &e.Made, &e.Until, &e.Ended, &e.By, &e.Why)
		if object != nil {
			e.Subject = quota.Object{Class: object.Class(), Name: name}.String()
		}
		if e.limit != nil {
			l := e.limit.String()
			e.Limit = &l
		}
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("list exceptions: %w", err)
	}
	return list, nil
}

// RaisedBy is the value that a limit in force has with so much more.
func (a *Admin) RaisedBy(ctx context.Context, o quota.Object, l quota.Limit, more int64) (int64, error) {
	if _, err := a.findCharged(ctx, o); err != nil {
		return 0, err
	}
	usage, err := a.store.Usage(ctx, []quota.Object{o})
	if err != nil {
		return 0, err
	}
	now := usage[0].Limits[l.String()].Limit
	if now == nil {
		return 0, &Error{fmt.Sprintf("%s of %s is unlimited: there is nothing to raise", l, o), "mailctl limit show " + o.String()}
	}
	if *now+more > MaxLimit {
		return 0, &Error{fmt.Sprintf("%d + %d is more than %d", *now, more, MaxLimit), ""}
	}
	return *now + more, nil
}
