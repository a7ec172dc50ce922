// Package admin is what an administrator changes: plans, subscriptions,
// domains, mailboxes, system users and their limits.
//
// Each change is one transaction together with its row in the audit table:
// who, what, before, after, why. Nothing that message rows name is deleted:
// what is removed is hidden, and its name is free again. Nothing is removed
// that something else still belongs to.
//
// An error that the administrator can mend is an *[Error], whose hint says what
// to type.
package admin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
)

// Admin changes objects on behalf of one administrator.
type Admin struct {
	pool  *pgxpool.Pool
	store *quota.Store
	host  string
	actor string
	why   string
}

// New returns the means to change the objects of a database from a host; why is
// kept with each change.
func New(pool *pgxpool.Pool, store *quota.Store, host, why string) *Admin {
	return &Admin{pool: pool, store: store, host: host, actor: actor(), why: why}
}

// actor is who stands behind the call: root's name tells nothing where sudo does.
func actor() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "uid " + strconv.Itoa(os.Getuid())
}

// Error is a change that cannot be made, or an object that is not there.
type Error struct {
	Text string
	Hint string // what to type next, may be empty
}

func (e *Error) Error() string { return e.Text }

// named is an object in an error's text: "subscription alice".
func named(o quota.Object) string { return strings.Replace(o.String(), ":", " ", 1) }

// find returns the id of an object that must be there.
func (a *Admin) find(ctx context.Context, o quota.Object) (quota.ID, error) {
	id, err := a.store.Find(ctx, o)
	var missing *quota.NotFoundError
	if errors.As(err, &missing) {
		return 0, &Error{missing.Error(), "mailctl " + o.Class.String() + " list"}
	}
	return id, err
}

// change runs one change and its audit row in one transaction. do returns what
// was before and after, as the audit shows it.
func (a *Admin) change(ctx context.Context, action string, o quota.Object, do func(tx pgx.Tx) (before, after string, err error)) error {
	err := pgx.BeginFunc(ctx, a.pool, func(tx pgx.Tx) error {
		before, after, err := do(tx)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO audit (host, actor, action, object, before, after, why)
			VALUES ($1, $2, $3, $4, nullif($5, ''), nullif($6, ''), nullif($7, ''))`, a.host, a.actor, action, o.String(), before, after, a.why)
		return err
	})
	var mendable *Error
	var pg *pgconn.PgError
	switch {
	case err == nil || errors.As(err, &mendable):
		return err
	case errors.As(err, &pg) && pg.Code == "23505": // unique_violation
		return &Error{fmt.Sprintf("%s exists already", named(o)), fmt.Sprintf("mailctl %s show %s", o.Class, o.Name)}
	}
	return fmt.Errorf("%s %s: %w", action, o, err)
}

// checkName refuses names that could not be written in OBJECT, or that would
// deceive who reads them.
func checkName(o quota.Object) error {
	bad := func(allowed string) error {
		return &Error{fmt.Sprintf("%q cannot be the name of a %s: %s", o.Name, o.Class, allowed), ""}
	}
	if o.Name == "" || len(o.Name) > 254 || strings.ContainsFunc(o.Name, func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }) {
		return bad("use 1 to 254 printable characters without spaces")
	}
	switch o.Class {
	case quota.Domain:
		if strings.ContainsAny(o.Name, "@/:") || strings.HasPrefix(o.Name, ".") || !strings.Contains(o.Name, ".") {
			return bad("write it like shop.example")
		}
	case quota.Mailbox:
		local, domain, ok := strings.Cut(o.Name, "@")
		if !ok || local == "" || !strings.Contains(domain, ".") || strings.Contains(domain, "@") {
			return bad("write it like info@shop.example")
		}
	case quota.User:
		if strings.ContainsAny(o.Name, ":/") {
			return bad("use a login name")
		}
	}
	return nil
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
