package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/quota"
)

// AddPlan makes a plan; mode may be nil.
func (a *Admin) AddPlan(ctx context.Context, name string, mode *quota.Mode) error {
	o := quota.Object{Class: quota.Plan, Name: name}
	if err := checkName(o); err != nil {
		return err
	}
	return a.change(ctx, "plan add", o, func(tx pgx.Tx) (string, string, error) {
		_, err := tx.Exec(ctx, `INSERT INTO plan (name, mode) VALUES ($1, $2)`, name, mode)
		return "", "mode " + ModeText(mode), err
	})
}

// SetPlan renames a plan, and sets its mode if setMode is true; nil is what is to
// stay, or the mode that is inherited.
func (a *Admin) SetPlan(ctx context.Context, name string, newName *string, setMode bool, mode *quota.Mode) error {
	o := quota.Object{Class: quota.Plan, Name: name}
	id, err := a.find(ctx, o)
	if err != nil {
		return err
	}
	return a.together(ctx, func(b *Admin) error {
		if setMode {
			if _, err := b.SetMode(ctx, o, mode); err != nil {
				return err
			}
		}
		return b.rename(ctx, o, id, newName)
	})
}

// tables and name columns of the classes.
var (
	tableOf  = map[quota.Class]string{quota.Plan: "plan", quota.Subscription: "subscription", quota.Domain: "domain", quota.Mailbox: "mailbox", quota.User: "system_user"}
	columnOf = map[quota.Class]string{quota.Plan: "name", quota.Subscription: "name", quota.Domain: "name", quota.Mailbox: "address"}
)

// rename gives an object another name, unless that is nil; its limits, usage and
// messages stay.
func (a *Admin) rename(ctx context.Context, o quota.Object, id quota.ID, name *string) error {
	if name == nil {
		return nil
	}
	to := quota.Object{Class: o.Class, Name: *name}
	if err := checkName(to); err != nil {
		return err
	}
	if isBuiltIn(o) {
		return &Error{fmt.Sprintf("%s cannot be renamed: new system users come under it", named(o)), ""}
	}
	err := a.change(ctx, o.Class.String()+" set", o, func(tx pgx.Tx) (string, string, error) {
		_, err := tx.Exec(ctx, fmt.Sprintf(`UPDATE %s SET %s = $2 WHERE id = $1`, tableOf[o.Class], columnOf[o.Class]), id, to.Name)
		return o.Name, to.Name, err
	})
	var e *Error
	if errors.As(err, &e) { // the name that exists is the new one
		return &Error{fmt.Sprintf("%s exists already", named(to)), fmt.Sprintf("mailctl %s show %s", to.Class, to.Name)}
	}
	return err
}

func isBuiltIn(o quota.Object) bool {
	return o.Class == quota.Plan && (o.Name == quota.DefaultPlan || o.Name == quota.SystemPlan)
}

// move puts an object under another parent: a subscription under a plan, a
// domain or a user under a subscription.
func (a *Admin) move(ctx context.Context, o quota.Object, id quota.ID, parent quota.Object) error {
	parentID, err := a.find(ctx, parent)
	if err != nil {
		return err
	}
	table, column, parentTable := tableOf[o.Class], parent.Class.String()+"_id", tableOf[parent.Class]
	return a.change(ctx, o.Class.String()+" set", o, func(tx pgx.Tx) (string, string, error) {
		if err := hold(ctx, tx, parent, parentID); err != nil {
			return "", "", err
		}
		var was string
		err := tx.QueryRow(ctx, fmt.Sprintf(`SELECT p.name FROM %s o JOIN %s p ON p.id = o.%s WHERE o.id = $1 FOR UPDATE OF o`, table, parentTable, column), id).Scan(&was)
		if err == nil {
			_, err = tx.Exec(ctx, fmt.Sprintf(`UPDATE %s SET %s = $2 WHERE id = $1`, table, column), id, parentID)
		}
		return parent.Class.String() + " " + was, parent.Class.String() + " " + parent.Name, err
	})
}

// AddDomain makes a domain of a subscription. documentRoot, where not empty, is
// the directory whose scripts send its mail.
func (a *Admin) AddDomain(ctx context.Context, name, subscription, documentRoot string) error {
	o := quota.Object{Class: quota.Domain, Name: strings.ToLower(name)}
	if err := checkName(o); err != nil {
		return err
	}
	if err := checkDocumentRoot(documentRoot); err != nil {
		return err
	}
	parent := quota.Object{Class: quota.Subscription, Name: subscription}
	owner, err := a.find(ctx, parent)
	if err != nil {
		return err
	}
	return a.change(ctx, "domain add", o, func(tx pgx.Tx) (string, string, error) {
		if err := hold(ctx, tx, parent, owner); err != nil {
			return "", "", err
		}
		_, err := tx.Exec(ctx, `INSERT INTO domain (subscription_id, name, document_root) VALUES ($1, $2, nullif($3, ''))`, owner, o.Name, documentRoot)
		return "", "subscription " + subscription, err
	})
}

func checkDocumentRoot(path string) error {
	if path != "" && !strings.HasPrefix(path, "/") {
		return &Error{fmt.Sprintf("document root %q is no absolute path", path), ""}
	}
	return nil
}

// SetDomain changes what is not nil; an empty documentRoot takes it away.
func (a *Admin) SetDomain(ctx context.Context, name string, newName, subscription, documentRoot *string) error {
	o := quota.Object{Class: quota.Domain, Name: strings.ToLower(name)}
	id, err := a.find(ctx, o)
	if err != nil {
		return err
	}
	if documentRoot != nil {
		if err := checkDocumentRoot(*documentRoot); err != nil {
			return err
		}
	}
	if newName != nil {
		lower := strings.ToLower(*newName)
		newName = &lower
	}
	return a.together(ctx, func(b *Admin) error {
		if subscription != nil {
			if err := b.move(ctx, o, id, quota.Object{Class: quota.Subscription, Name: *subscription}); err != nil {
				return err
			}
		}
		if documentRoot != nil {
			if err := b.setDocumentRoot(ctx, o, id, *documentRoot); err != nil {
				return err
			}
		}
		if newName != nil {
			if err := b.checkNoMailboxes(ctx, o, id); err != nil {
				return err
			}
		}
		return b.rename(ctx, o, id, newName)
	})
}

// checkNoMailboxes keeps the addresses of mailboxes in their domain.
func (a *Admin) checkNoMailboxes(ctx context.Context, domain quota.Object, id quota.ID) error {
	return pgx.BeginFunc(ctx, a.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT FROM domain WHERE id = $1 FOR UPDATE`, id); err != nil {
			return err
		}
		return checkChildren(ctx, tx, domain, id)
	})
}

func (a *Admin) setDocumentRoot(ctx context.Context, domain quota.Object, id quota.ID, path string) error {
	return a.change(ctx, "domain set", domain, func(tx pgx.Tx) (string, string, error) {
		var was string
		err := tx.QueryRow(ctx, `SELECT coalesce(document_root, '') FROM domain WHERE id = $1 FOR UPDATE`, id).Scan(&was)
		if err == nil {
			_, err = tx.Exec(ctx, `UPDATE domain SET document_root = nullif($2, '') WHERE id = $1`, id, path)
		}
		return "document root " + was, "document root " + path, err
	})
}

// AddMailbox makes a mailbox of the domain of its address, which must be there.
func (a *Admin) AddMailbox(ctx context.Context, address string) error {
	o := quota.Object{Class: quota.Mailbox, Name: strings.ToLower(address)}
	if err := checkName(o); err != nil {
		return err
	}
	_, domain, _ := strings.Cut(o.Name, "@")
	parent := quota.Object{Class: quota.Domain, Name: domain}
	domainID, err := a.find(ctx, parent)
	if err != nil {
		return err
	}
	return a.change(ctx, "mailbox add", o, func(tx pgx.Tx) (string, string, error) {
		if err := hold(ctx, tx, parent, domainID); err != nil {
			return "", "", err
		}
		_, err := tx.Exec(ctx, `INSERT INTO mailbox (domain_id, address) VALUES ($1, $2)`, domainID, o.Name)
		return "", "domain " + domain, err
	})
}

// SetMailbox gives a mailbox another local part.
func (a *Admin) SetMailbox(ctx context.Context, address, newAddress string) error {
	o := quota.Object{Class: quota.Mailbox, Name: strings.ToLower(address)}
	id, err := a.find(ctx, o)
	if err != nil {
		return err
	}
	_, was, _ := strings.Cut(o.Name, "@")
	if _, is, _ := strings.Cut(strings.ToLower(newAddress), "@"); is != was {
		return &Error{fmt.Sprintf("mailbox %s belongs to domain %s, and so must its new name", o.Name, was), "mailctl mailbox add " + newAddress}
	}
	newAddress = strings.ToLower(newAddress)
	return a.rename(ctx, o, id, &newAddress)
}

// children of each class: what must be gone before an object can be removed.
var children = map[quota.Class][]struct{ class, sql string }{
	quota.Plan: {{"subscription", `SELECT count(*) FROM subscription WHERE plan_id = $1 AND removed_at IS NULL`}},
	quota.Subscription: {
		{"user", `SELECT count(*) FROM system_user WHERE subscription_id = $1 AND removed_at IS NULL`},
		{"domain", `SELECT count(*) FROM domain WHERE subscription_id = $1 AND removed_at IS NULL`},
	},
	quota.Domain: {{"mailbox", `SELECT count(*) FROM mailbox WHERE domain_id = $1 AND removed_at IS NULL`}},
}

// Remove hides an object. Its message rows keep its name; the name is free. A
// system user who sends again is registered again.
func (a *Admin) Remove(ctx context.Context, o quota.Object) error {
	if isBuiltIn(o) {
		return &Error{fmt.Sprintf("%s cannot be removed: new system users come under it", named(o)), ""}
	}
	id, err := a.find(ctx, o)
	if err != nil {
		return err
	}
	return a.change(ctx, o.Class.String()+" remove", o, func(tx pgx.Tx) (string, string, error) {
		// The row first, so that nothing is put under it meanwhile: what refers
		// to it takes a share lock on it.
		if _, err := tx.Exec(ctx, fmt.Sprintf(`SELECT FROM %s WHERE id = $1 FOR UPDATE`, tableOf[o.Class]), id); err != nil {
			return "", "", err
		}
		if err := checkChildren(ctx, tx, o, id); err != nil {
			return "", "", err
		}
		_, err := tx.Exec(ctx, `DELETE FROM sender WHERE object_id = $1`, id)
		if err == nil {
			_, err = tx.Exec(ctx, fmt.Sprintf(`UPDATE %s SET removed_at = now() WHERE id = $1`, tableOf[o.Class]), id)
		}
		return o.Name, "", err
	})
}

// checkChildren refuses if something belongs to an object.
func checkChildren(ctx context.Context, tx pgx.Tx, o quota.Object, id quota.ID) error {
	for _, child := range children[o.Class] {
		var n int64
		if err := tx.QueryRow(ctx, child.sql, id).Scan(&n); err != nil {
			return err
		}
		if n > 0 {
			return &Error{fmt.Sprintf("%s still has %d of class %s", named(o), n, child.class), fmt.Sprintf("mailctl %s list, then move or remove them", child.class)}
		}
	}
	return nil
}
