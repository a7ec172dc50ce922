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
	db    database
	store *quota.Store
	host  string
	actor string
	why   string
}

// database is a pool, or the transaction that several changes share.
type database interface {
	Begin(context.Context) (pgx.Tx, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// New returns the means to change the objects of a database from a host; why is
// kept with each change.
func New(pool *pgxpool.Pool, store *quota.Store, host, why string) *Admin {
	return &Admin{db: pool, store: store, host: host, actor: actor(), why: why}
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

// missingError is an *Error that says of which object it is.
type missingError struct {
	mendable *Error
	of       *quota.NotFoundError
}

func (e *missingError) Error() string   { return e.mendable.Text }
func (e *missingError) Unwrap() []error { return []error{e.mendable, e.of} }

func missing(o quota.Object, text string) error {
	return &missingError{&Error{text, "mailctl " + o.Class.String() + " list"}, &quota.NotFoundError{Object: o}}
}

// find returns the id of an object that must be there.
func (a *Admin) find(ctx context.Context, o quota.Object) (quota.ID, error) {
	id, err := a.store.Find(ctx, o)
	var none *quota.NotFoundError
	if errors.As(err, &none) {
		return 0, missing(o, none.Error())
	}
	return id, err
}

// together makes all changes that do makes with b, or none. It may run do more
// than once.
func (a *Admin) together(ctx context.Context, do func(b *Admin) error) error {
	return a.transaction(ctx, func(tx pgx.Tx) error {
		b := *a
		b.db = tx
		return do(&b)
	})
}

// attempts bounds how often a transaction is tried that came to a deadlock.
const attempts = 5

// transaction runs do in a transaction, or in the one that a is part of. Whoever
// changes a limit or an object holds the row epoch until his end, so two who
// change several things, or take one name, can wait for each other. PostgreSQL
// ends one of them then (deadlock_detected), and it starts again.
func (a *Admin) transaction(ctx context.Context, do func(tx pgx.Tx) error) error {
	_, part := a.db.(pgx.Tx)
	for n := 1; ; n++ {
		err := pgx.BeginFunc(ctx, a.db, do)
		var pg *pgconn.PgError
		if part || n == attempts || !errors.As(err, &pg) || pg.Code != "40P01" {
			return err
		}
	}
}

// change runs one change and its audit row in one transaction. do returns what
// was before and after, as the audit shows it.
func (a *Admin) change(ctx context.Context, action string, o quota.Object, do func(tx pgx.Tx) (before, after string, err error)) error {
	err := a.transaction(ctx, func(tx pgx.Tx) error {
		before, after, err := do(tx)
		if err != nil {
			return err
		}
		return a.note(ctx, tx, action, o.String(), before, after)
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

// note writes the row of the audit that belongs to a change.
func (a *Admin) note(ctx context.Context, tx pgx.Tx, action, object, before, after string) error {
	_, err := tx.Exec(ctx, `INSERT INTO audit (host, actor, action, object, before, after, why)
		VALUES ($1, $2, $3, $4, nullif($5, ''), nullif($6, ''), nullif($7, ''))`, a.host, a.actor, action, object, before, after, a.why)
	return err
}

// hold keeps an object from being removed until the transaction is over: what
// comes under it would be lost to sight otherwise. The foreign key alone would
// let that happen, as a removed row is still there.
func hold(ctx context.Context, tx pgx.Tx, o quota.Object, id quota.ID) error {
	err := tx.QueryRow(ctx, fmt.Sprintf(`SELECT FROM %s WHERE id = $1 AND removed_at IS NULL FOR SHARE`, tableOf[o.Class]), id).Scan()
	if errors.Is(err, pgx.ErrNoRows) {
		return missing(o, "there is no "+named(o))
	}
	return err
}

// checkName refuses names that could not be written in OBJECT, that would deceive
// who reads them, or that stand for several objects (see IsPattern).
func checkName(o quota.Object) error {
	bad := func(allowed string) error {
		return &Error{fmt.Sprintf("%q cannot be the name of a %s: %s", o.Name, o.Class, allowed), ""}
	}
	if o.Name == "" || len(o.Name) > 254 || strings.ContainsFunc(o.Name, func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }) {
		return bad("use 1 to 254 printable characters without spaces")
	}
	if IsPattern(o) {
		return bad("* and ? stand for any characters")
	}
	switch o.Class {
	case quota.Domain:
		if strings.ContainsAny(o.Name, "@/:") || strings.HasPrefix(o.Name, ".") || strings.HasSuffix(o.Name, ".") ||
			strings.Contains(o.Name, "..") || !strings.Contains(o.Name, ".") {
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
