package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
)

// ForCustomer returns the means by which a customer, named by his subscription,
// changes what is his own; login is the one of its users who does.
func ForCustomer(pool *pgxpool.Pool, store *quota.Store, host, name, login string) *Admin {
	return &Admin{db: pool, store: store, host: host, actor: "customer " + name, why: "asked by user " + login}
}

// SetOwnLimit is SetLimit for a customer: on domains and mailboxes of his
// subscription, not over what an administrator set there, and not above the default
// that he set for all. What is above them holds whatever he sets.
func (a *Admin) SetOwnLimit(ctx context.Context, subscription quota.ID, o quota.Object, l quota.Limit, value *int64) (before string, err error) {
	if o.Class != quota.Domain && o.Class != quota.Mailbox {
		return "", &Error{fmt.Sprintf("you can set limits of your domains and mailboxes, not of a %s", o.Class), ""}
	}
	notYours := &Error{fmt.Sprintf("%s is not yours, or is not known", named(o)), ""}
	id, err := a.store.Find(ctx, o)
	if errors.As(err, new(*quota.NotFoundError)) {
		return "", notYours
	}
	if err != nil {
		return "", err
	}
	err = a.transaction(ctx, func(tx pgx.Tx) error {
		// Held, so that it cannot come to another customer meanwhile.
		err := tx.QueryRow(ctx, `SELECT FROM domain d WHERE d.id = coalesce((SELECT domain_id FROM mailbox WHERE id = $1 AND removed_at IS NULL), $1)
  AND d.subscription_id = $2 AND d.removed_at IS NULL FOR SHARE`, id, subscription).Scan()
		if errors.Is(err, pgx.ErrNoRows) {
			return notYours
		}
		if err != nil {
			return fmt.Errorf("find the customer of %s: %w", o, err)
		}
		if err := a.mayReplace(ctx, tx, id, o, l); err != nil {
			return err
		}
		if err := a.mayBe(ctx, tx, subscription, o, l, value); err != nil {
			return err
		}
		b := *a
		b.db = tx
		before, err = b.SetLimit(ctx, o, o.Class, l, value)
		return err
	})
	return before, err
}

// mayReplace refuses where a limit is set by somebody else. Who set it stands in
// the last row of the audit that made it what it is; where none did, as of an object
// that had another name, it was not he for sure.
func (a *Admin) mayReplace(ctx context.Context, tx pgx.Tx, id quota.ID, o quota.Object, l quota.Limit) error {
	var now *int32
	// With a row to lock, nobody sets one meanwhile.
	_, err := tx.Exec(ctx, `INSERT INTO limits (owner_id, class) VALUES ($1, $2) ON CONFLICT DO NOTHING`, id, o.Class)
	if err != nil {
		return fmt.Errorf("hold limits of %s: %w", o, err)
	}
	err = tx.QueryRow(ctx, fmt.Sprintf(`SELECT %s FROM limits WHERE owner_id = $1 AND class = $2 FOR UPDATE`, limitColumns[l]), id, o.Class).Scan(&now)
	if err != nil {
		return fmt.Errorf("read limits of %s: %w", o, err)
	}
	if now == nil {
		return nil
	}
	var actor, after string
	err = tx.QueryRow(ctx, `SELECT actor, after FROM audit WHERE object = $1 AND action = 'limit set' AND starts_with(after, $2) ORDER BY id DESC LIMIT 1`,
		o.String(), l.String()+" ").Scan(&actor, &after)
	switch {
	case err != nil && !errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("read who set limits of %s: %w", o, err)
	case err != nil || actor != a.actor || after != l.String()+" "+valueText(now):
		return &Error{fmt.Sprintf("%s of %s was set by the administrator: ask him", l, named(o)), ""}
	}
	return nil
}

// mayBe refuses a value above the default that the plan or the server has for such
// objects: that, too, is set by the administrator.
func (a *Admin) mayBe(ctx context.Context, tx pgx.Tx, subscription quota.ID, o quota.Object, l quota.Limit, value *int64) error {
	if value == nil {
		return nil
	}
	// Held, so that the subscription gets no stricter plan meanwhile. A default that
	// is lowered later does not lower what was set below the old one.
	var plan quota.ID
	err := tx.QueryRow(ctx, `SELECT plan_id FROM subscription WHERE id = $1 FOR SHARE`, subscription).Scan(&plan)
	if err != nil {
		return fmt.Errorf("read the plan of %s: %w", o, err)
	}
	var most int64
	err = tx.QueryRow(ctx, fmt.Sprintf(`SELECT coalesce((SELECT %[1]s FROM limits WHERE owner_id = $1 AND class = $3),
  (SELECT %[1]s FROM limits WHERE owner_id = $2 AND class = $3), -1)`, limitColumns[l]), plan, quota.ServerID, o.Class).Scan(&most)
	switch {
	case err != nil:
		return fmt.Errorf("read the default of %s: %w", o, err)
	case most != quota.Unlimited && (*value > most || *value == quota.Unlimited):
		return &Error{fmt.Sprintf("%s of %s can be %d at most, as the administrator set it", l, named(o), most), ""}
	}
	return nil
}
