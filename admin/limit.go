package admin

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/quota"
)

// MaxLimit is the highest number that a limit can be.
const MaxLimit = math.MaxInt32

var limitColumns = [quota.NumLimits]string{"messages_hour", "messages_day", "recipients_hour", "recipients_day", "recipients_message"}

// Governs returns the class that a limit set on an object governs: the object's
// own class, or the class for which it is a default on a plan or the server. A
// plan has no limits of its own: without a class it is the subscription's.
func Governs(o quota.Object, forClass string) (quota.Class, error) {
	switch {
	case forClass == "" && o.Class == quota.Plan:
		return quota.Subscription, nil
	case forClass == "":
		return o.Class, nil
	case o.Class != quota.Plan && o.Class != quota.Server:
		return 0, &Error{fmt.Sprintf("%s has limits of its own only", o), "defaults for a class are set on the server or a plan: mailctl limit set server messages/hour 100 --for " + forClass}
	}
	for c := quota.User; c <= quota.Subscription; c++ {
		if c.String() == forClass {
			return c, nil
		}
	}
	return 0, &Error{fmt.Sprintf("%q is no class with defaults: write subscription, domain, mailbox or user", forClass), ""}
}

// ParseValue reads the value of a limit: a number from 0 (no mail) to MaxLimit,
// or "unlimited".
func ParseValue(s string) (int64, error) {
	if s == "unlimited" {
		return quota.Unlimited, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > MaxLimit {
		return 0, &Error{fmt.Sprintf("%q is no limit: write a number from 0 to %d, or unlimited", s, MaxLimit), "to have it inherited again: mailctl limit unset OBJECT LIMIT"}
	}
	return n, nil
}

func valueText(v *int32) string {
	switch {
	case v == nil:
		return "unset"
	case *v == quota.Unlimited:
		return "unlimited"
	}
	return strconv.Itoa(int(*v))
}

// SetLimit sets one limit of an object for a class (see Governs), or takes it
// away if value is nil; it returns what was before, as text. It holds from the
// next message on, on all hosts.
func (a *Admin) SetLimit(ctx context.Context, o quota.Object, class quota.Class, l quota.Limit, value *int64) (before string, err error) {
	id, err := a.find(ctx, o)
	if err != nil {
		return "", err
	}
	action, column := "limit set", limitColumns[l]
	if value == nil {
		action = "limit unset"
	}
	var now *int32
	if value != nil {
		n := int32(*value)
		now = &n
	}
	err = a.change(ctx, action, o, func(tx pgx.Tx) (string, string, error) {
		var was *int32
		err := tx.QueryRow(ctx, fmt.Sprintf(`SELECT %s FROM limits WHERE owner_id = $1 AND class = $2 FOR UPDATE`, column), id, class).Scan(&was)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return "", "", err
		}
		what := l.String()
		if class != o.Class {
			what += " for " + class.String()
		}
		before = valueText(was)
		_, err = tx.Exec(ctx, fmt.Sprintf(`INSERT INTO limits (owner_id, class, %[1]s) VALUES ($1, $2, $3)
			ON CONFLICT (owner_id, class) DO UPDATE SET %[1]s = $3`, column), id, class, now)
		return what + " " + before, what + " " + valueText(now), err
	})
	return before, err
}

// SetLimits are the limits set on one object for one class.
type SetLimits struct {
	Object string           `json:"object"`
	For    string           `json:"for"`    // class governed
	Limits map[string]int64 `json:"limits"` // by name; -1 is unlimited; only those that are set
}

// Limits lists the limits that are set, on all objects or on one.
func (a *Admin) Limits(ctx context.Context, of *quota.Object) ([]SetLimits, error) {
	only := quota.ID(0)
	if of != nil {
		var err error
		if only, err = a.find(ctx, *of); err != nil {
			return nil, err
		}
	}
	rows, err := a.db.Query(ctx, `SELECT l.owner_id, o.name, l.class, l.messages_hour, l.messages_day, l.recipients_hour, l.recipients_day, l.recipients_message
  FROM limits l JOIN (
       SELECT id, '' AS name FROM server
       UNION ALL SELECT id, name FROM plan WHERE removed_at IS NULL
       UNION ALL SELECT id, name FROM subscription WHERE removed_at IS NULL
       UNION ALL SELECT id, name FROM domain WHERE removed_at IS NULL
       UNION ALL SELECT id, address FROM mailbox WHERE removed_at IS NULL
       UNION ALL SELECT u.id, u.name || '@' || h.name FROM system_user u JOIN host h ON h.id = u.host_id WHERE u.removed_at IS NULL) o ON o.id = l.owner_id
 WHERE num_nonnulls(l.messages_hour, l.messages_day, l.recipients_hour, l.recipients_day, l.recipients_message) > 0 AND ($1::bigint = 0 OR l.owner_id = $1)
 ORDER BY l.owner_id >> 40 DESC, o.name, l.class DESC`, only)
	if err != nil {
		return nil, fmt.Errorf("list limits: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s SetLimits, err error) {
		var id quota.ID
		var name string
		var class int16
		var values [quota.NumLimits]*int32
		err = row.Scan(&id, &name, &class, &values[0], &values[1], &values[2], &values[3], &values[4])
		s = SetLimits{quota.Object{Class: id.Class(), Name: name}.String(), quota.Class(class).String(), map[string]int64{}}
		for l, v := range values {
			if v != nil {
				s.Limits[quota.Limit(l).String()] = int64(*v)
			}
		}
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("list limits: %w", err)
	}
	return found, nil
}
