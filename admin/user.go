package admin

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"strconv"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/quota"
)

// AddUser makes known a login of this host, under a subscription: by default
// the one of his own name.
func (a *Admin) AddUser(ctx context.Context, name, subscription string) error {
	o := quota.Object{Class: quota.User, Name: name}
	uid, ok := lookup(name)
	if !ok {
		return &Error{fmt.Sprintf("there is no login %s on this host", name), "getent passwd " + name}
	}
	if _, err := a.store.Find(ctx, o); err == nil {
		return &Error{fmt.Sprintf("%s exists already", named(o)), fmt.Sprintf("mailctl user set %s --subscription NAME", name)}
	}
	if subscription == "" {
		if _, _, _, err := a.store.EnsureUser(ctx, uid, name); err != nil {
			return err
		}
		return a.change(ctx, "user add", o, func(pgx.Tx) (string, string, error) {
			return "", fmt.Sprintf("uid %d, subscription %s", uid, name), nil
		})
	}
	parent := quota.Object{Class: quota.Subscription, Name: subscription}
	parentID, err := a.find(ctx, parent)
	if err != nil {
		return err
	}
	return a.change(ctx, "user add", o, func(tx pgx.Tx) (string, string, error) {
		if err := hold(ctx, tx, parent, parentID); err != nil {
			return "", "", err
		}
		_, err := tx.Exec(ctx, `INSERT INTO host (name) VALUES ($1) ON CONFLICT (name) DO NOTHING`, a.host)
		if err != nil {
			return "", "", err
		}
		_, err = tx.Exec(ctx, `INSERT INTO system_user (subscription_id, uid, host_id, name) SELECT $1, $2, id, $4 FROM host WHERE name = $3`,
			parentID, int64(uid), a.host, name)
		return "", fmt.Sprintf("uid %d, subscription %s", uid, subscription), err
	})
}

// SetUser puts a system user under another subscription.
func (a *Admin) SetUser(ctx context.Context, name, subscription string) error {
	o := quota.Object{Class: quota.User, Name: name}
	id, err := a.find(ctx, o)
	if err != nil {
		return err
	}
	return a.move(ctx, o, id, quota.Object{Class: quota.Subscription, Name: subscription})
}

// Register makes the subscription and system user of a login name of this host
// as its first mail would, so that limits can be set before. It does nothing for
// other objects, and tells whether it did something.
func (a *Admin) Register(ctx context.Context, o quota.Object) (bool, error) {
	if o.Class != quota.User && o.Class != quota.Subscription {
		return false, nil
	}
	var missing *quota.NotFoundError
	if _, err := a.store.Find(ctx, o); err == nil || !errors.As(err, &missing) {
		return false, err
	}
	uid, ok := lookup(o.Name)
	if !ok {
		return false, nil
	}
	_, _, created, err := a.store.EnsureUser(ctx, uid, o.Name)
	if err != nil || !created {
		return false, err
	}
	registered := quota.Object{Class: quota.User, Name: o.Name}
	return true, a.change(ctx, "user add", registered, func(pgx.Tx) (string, string, error) {
		return "", fmt.Sprintf("uid %d", uid), nil
	})
}

// lookup finds the uid of a login name of this host.
func lookup(name string) (uid uint32, ok bool) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(n), err == nil
}
