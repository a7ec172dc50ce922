package admin

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/quota"
)

// Plan is a service plan.
type Plan struct {
	Name          string      `json:"plan"`
	Mode          *quota.Mode `json:"mode"` // null: inherited
	Subscriptions int64       `json:"subscriptions"`
}

// Subscription is what a customer has.
type Subscription struct {
	Name    string      `json:"subscription"`
	Plan    string      `json:"plan"`
	Mode    *quota.Mode `json:"mode"`    // null: inherited; of the others alike
	Contact *string     `json:"contact"` // null: its customer is not told of anything
	Users   int64       `json:"users"`
	Domains int64       `json:"domains"`
}

// Domain belongs to a subscription.
type Domain struct {
	Name         string      `json:"domain"`
	Subscription string      `json:"subscription"`
	Mode         *quota.Mode `json:"mode"`
	DocumentRoot *string     `json:"document_root"`
	Mailboxes    int64       `json:"mailboxes"`
}

// Mailbox belongs to the domain of its address.
type Mailbox struct {
	Address      string      `json:"mailbox"`
	Domain       string      `json:"domain"`
	Subscription string      `json:"subscription"`
	Mode         *quota.Mode `json:"mode"`
}

// User is a system user of a host.
type User struct {
	Name         string      `json:"user"`
	Host         string      `json:"host"`
	UID          int64       `json:"uid"`
	Subscription string      `json:"subscription"`
	Plan         string      `json:"plan"`
	Mode         *quota.Mode `json:"mode"`
}

// Plans lists the plans, or the one of a name.
func (a *Admin) Plans(ctx context.Context, name string) ([]Plan, error) {
	return list[Plan](ctx, a, quota.Object{Class: quota.Plan, Name: name}, `SELECT p.name, p.mode,
  (SELECT count(*) FROM subscription s WHERE s.plan_id = p.id AND s.removed_at IS NULL)
  FROM plan p WHERE p.removed_at IS NULL AND ($1 = '' OR p.name = $1) ORDER BY p.name`)
}

// Subscriptions lists the subscriptions, or the one of a name.
func (a *Admin) Subscriptions(ctx context.Context, name string) ([]Subscription, error) {
	return list[Subscription](ctx, a, quota.Object{Class: quota.Subscription, Name: name}, `SELECT s.name, p.name, s.mode, s.contact,
  (SELECT count(*) FROM system_user u WHERE u.subscription_id = s.id AND u.removed_at IS NULL),
  (SELECT count(*) FROM domain d WHERE d.subscription_id = s.id AND d.removed_at IS NULL)
  FROM subscription s JOIN plan p ON p.id = s.plan_id WHERE s.removed_at IS NULL AND ($1 = '' OR s.name = $1) ORDER BY s.name`)
}

// Domains lists the domains, or the one of a name.
func (a *Admin) Domains(ctx context.Context, name string) ([]Domain, error) {
	return list[Domain](ctx, a, quota.Object{Class: quota.Domain, Name: strings.ToLower(name)}, `SELECT d.name, s.name, d.mode, d.document_root,
  (SELECT count(*) FROM mailbox m WHERE m.domain_id = d.id AND m.removed_at IS NULL)
  FROM domain d JOIN subscription s ON s.id = d.subscription_id WHERE d.removed_at IS NULL AND ($1 = '' OR d.name = $1) ORDER BY d.name`)
}

// Mailboxes lists the mailboxes, or the one of an address.
func (a *Admin) Mailboxes(ctx context.Context, address string) ([]Mailbox, error) {
	return list[Mailbox](ctx, a, quota.Object{Class: quota.Mailbox, Name: strings.ToLower(address)}, `SELECT m.address, d.name, s.name, m.mode
  FROM mailbox m JOIN domain d ON d.id = m.domain_id JOIN subscription s ON s.id = d.subscription_id
 WHERE m.removed_at IS NULL AND ($1 = '' OR m.address = $1) ORDER BY d.name, m.address`)
}

// Users lists the system users of all hosts, or those of a name, or the one of
// NAME@HOST.
func (a *Admin) Users(ctx context.Context, name string) ([]User, error) {
	return list[User](ctx, a, quota.Object{Class: quota.User, Name: name}, `SELECT u.name, h.name, u.uid, s.name, p.name, u.mode
  FROM system_user u JOIN host h ON h.id = u.host_id JOIN subscription s ON s.id = u.subscription_id JOIN plan p ON p.id = s.plan_id
 WHERE u.removed_at IS NULL AND ($1 = '' OR u.name IN ($1, regexp_replace($1, '@[^@]*$', '')) AND $1 IN (u.name, u.name || '@' || h.name))
 ORDER BY h.name, u.name, u.uid`)
}

// list reads objects; of a name that is given there must be one.
func list[T any](ctx context.Context, a *Admin, o quota.Object, sql string) ([]T, error) {
	rows, err := a.db.Query(ctx, sql, o.Name)
	if err != nil {
		return nil, fmt.Errorf("list %ss: %w", o.Class, err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	if err != nil {
		return nil, fmt.Errorf("list %ss: %w", o.Class, err)
	}
	if o.Name != "" && len(found) == 0 {
		return nil, missing(o, "there is no "+named(o))
	}
	return found, nil
}
