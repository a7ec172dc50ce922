package admin

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/config"
	"sendmail-wrapper/quota"
)

// AddSubscription makes a subscription under a plan. contact, where not empty, is
// the address to which its customer gets notifications.
func (a *Admin) AddSubscription(ctx context.Context, name, plan, contact string) error {
	o := quota.Object{Class: quota.Subscription, Name: name}
	if err := checkName(o); err != nil {
		return err
	}
	if err := checkContact(contact); err != nil {
		return err
	}
	parent := quota.Object{Class: quota.Plan, Name: plan}
	planID, err := a.find(ctx, parent)
	if err != nil {
		return err
	}
	return a.change(ctx, "subscription add", o, func(tx pgx.Tx) (string, string, error) {
		if err := hold(ctx, tx, parent, planID); err != nil {
			return "", "", err
		}
		_, err := tx.Exec(ctx, `INSERT INTO subscription (plan_id, name, contact) VALUES ($1, $2, nullif($3, ''))`, planID, name, contact)
		after := "plan " + plan
		if contact != "" {
			after += ", " + contactText(contact)
		}
		return "", after, err
	})
}

// SetSubscription changes what is not nil; an empty contact takes it away.
func (a *Admin) SetSubscription(ctx context.Context, name string, newName, plan, contact *string) error {
	o := quota.Object{Class: quota.Subscription, Name: name}
	id, err := a.find(ctx, o)
	if err != nil {
		return err
	}
	return a.together(ctx, func(b *Admin) error {
		if plan != nil {
			if err := b.move(ctx, o, id, quota.Object{Class: quota.Plan, Name: *plan}); err != nil {
				return err
			}
		}
		if contact != nil {
			if err := b.setContact(ctx, o, id, *contact); err != nil {
				return err
			}
		}
		return b.rename(ctx, o, id, newName)
	})
}

func (a *Admin) setContact(ctx context.Context, o quota.Object, id quota.ID, contact string) error {
	if err := checkContact(contact); err != nil {
		return err
	}
	return a.change(ctx, "subscription set", o, func(tx pgx.Tx) (string, string, error) {
		var was string
		err := tx.QueryRow(ctx, `SELECT coalesce(contact, '') FROM subscription WHERE id = $1 FOR UPDATE`, id).Scan(&was)
		if err == nil {
			_, err = tx.Exec(ctx, `UPDATE subscription SET contact = nullif($2, '') WHERE id = $1`, id, contact)
		}
		return contactText(was), contactText(contact), err
	})
}

// checkContact refuses what notifications would not be sent to.
func checkContact(contact string) error {
	if contact != "" && (!strings.Contains(contact, "@") || !config.IsRecipient(contact)) {
		return &Error{fmt.Sprintf("contact %.300q is no address", contact), "write it like office@shop.example; '' for none"}
	}
	return nil
}

func contactText(contact string) string {
	if contact == "" {
		return "no contact"
	}
	return "contact " + contact
}
