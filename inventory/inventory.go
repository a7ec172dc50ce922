// Package inventory reads what others say of a server's customers: a panel's
// files, the web server's, passwd(5), a table, or what mailctl export wrote. Each
// reader makes one [Inventory] of it, or an [*Error] that says where the input is
// wrong. Readers ask nobody but the [System] that they are given; package admin
// puts an Inventory into the database.
//
// # Said and not said
//
// A source speaks of some objects, and of some properties of these. What it does
// not speak of stays as it is in the database. So a property is said or not, and
// one that is said may be nothing: to be inherited, or none.
//
// # Facts and wishes
//
// JSON and CSV are an administrator's wishes: what they say replaces what was.
// The other sources are facts of a server ([Inventory.Observed]), from which what
// is not known is filled in: they never replace what an administrator set.
package inventory

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sendmail-wrapper/quota"
)

// Inventory is what one source says.
type Inventory struct {
	Objects    []Object // no two of one Key
	Exceptions []Exception
	Observed   bool     // read from a server, not written by an administrator
	Notes      []string // what was left out, and why
}

// Ref names an object.
type Ref struct {
	Class quota.Class
	Name  string // of a user: his login
	Host  string // of a user
	UID   int64  // of a user
}

// Key is the same for two Refs of one object: a user's login may change.
func (r Ref) Key() Ref {
	if r.Class == quota.User {
		r.Name = ""
	}
	return r
}

// String is as people write the object.
func (r Ref) String() string {
	o := quota.Object{Class: r.Class, Name: r.Name}
	if r.Class == quota.User {
		o.Name += "@" + r.Host
	}
	return o.String()
}

// Text is a property that may not be said, or be nothing: "".
type Text struct {
	Said  bool
	Value string
}

// Say is a Text that is said.
func Say(s string) Text { return Text{true, s} }

// Object is one object with its properties.
type Object struct {
	Ref
	Parent       string // plan of a subscription, subscription of a domain or user, domain of a mailbox; "": not said
	Contact      Text   // of a subscription
	DocumentRoot Text   // of a domain
	Mode         Text
	Senders      Text    // that were added to it, sorted, a space between two; of no server and no plan
	Limits       []Limit // sorted; only those that are said
	Line         int     // where it is in the source; 0: it has no lines
}

// Limit is one limit of an object.
type Limit struct {
	For   quota.Class // whose mail it governs: the object's own class, or one for which it is a default
	Limit quota.Limit
	Value *int64 // nil: inherited
}

func compareLimits(a, b Limit) int {
	return cmp.Or(cmp.Compare(a.For, b.For), cmp.Compare(a.Limit, b.Limit))
}

// Exception is a rule besides the limits. See quota.Exception.
type Exception struct {
	Kind    quota.ExceptionKind
	Object  Ref // Class 0: one of the next three instead
	Network netip.Prefix
	Script  string
	Crontab string
	Limit   quota.Limit
	Value   int64
	Until   time.Time
	Why     string
	Line    int
}

// Key is the same for two exceptions that do the same.
func (e Exception) Key() Exception {
	e.Object, e.Until, e.Why, e.Line = e.Object.Key(), e.Until.UTC().Truncate(time.Microsecond), "", 0
	return e
}

// Subject is whose mail it is of, as people write it.
func (e Exception) Subject() string {
	switch {
	case e.Network.IsValid():
		return "network:" + e.Network.String()
	case e.Script != "":
		return "script:" + e.Script
	case e.Crontab != "":
		return "crontab:" + e.Crontab
	}
	return e.Object.String()
}

// Error says where the input is wrong. Line and Column count from 1; 0 is not
// known.
type Error struct {
	File         string
	Line, Column int
	Text         string
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	for _, n := range []int{e.Line, e.Column} {
		if n > 0 {
			fmt.Fprintf(&b, ":%d", n)
		}
	}
	return b.String() + ": " + e.Text
}

// builder gathers what a source says of an object in several places.
type builder struct {
	inv *Inventory
	at  map[Ref]int
}

func newBuilder() *builder { return &builder{new(Inventory), make(map[Ref]int)} }

// put adds what a source says. The error is a contradiction to what it said before.
func (b *builder) put(o Object) error {
	key := o.Key()
	i, known := b.at[key]
	if !known {
		slices.SortFunc(o.Limits, compareLimits)
		b.at[key] = len(b.inv.Objects)
		b.inv.Objects = append(b.inv.Objects, o)
		return nil
	}
	was := &b.inv.Objects[i]
	differs := func(what, is, before string) error {
		return fmt.Errorf("%s: %s %q, but line %d says %q", o.Ref, what, is, was.Line, before)
	}
	if o.Name != was.Name {
		return differs("uid", o.Name, was.Name)
	}
	if o.Parent != "" && was.Parent != "" && o.Parent != was.Parent {
		return differs(ParentClass(o.Class).String(), o.Parent, was.Parent)
	}
	was.Parent = cmp.Or(was.Parent, o.Parent)
	for _, p := range []struct {
		name    string
		is, was *Text
	}{{"contact", &o.Contact, &was.Contact}, {"document root", &o.DocumentRoot, &was.DocumentRoot}, {"mode", &o.Mode, &was.Mode}} {
		if p.is.Said && p.was.Said && *p.is != *p.was {
			return differs(p.name, p.is.Value, p.was.Value)
		}
		if p.is.Said {
			*p.was = *p.is
		}
	}
	for _, l := range o.Limits {
		at, found := slices.BinarySearchFunc(was.Limits, l, compareLimits)
		if !found {
			was.Limits = slices.Insert(was.Limits, at, l)
		} else if before := ValueText(was.Limits[at].Value); before != ValueText(l.Value) {
			return differs(l.Limit.String(), ValueText(l.Value), before)
		}
	}
	return nil
}

// ParentClass is the class of the objects to which those of a class belong.
func ParentClass(c quota.Class) quota.Class {
	switch c {
	case quota.Subscription:
		return quota.Plan
	case quota.Domain, quota.User:
		return quota.Subscription
	case quota.Mailbox:
		return quota.Domain
	}
	return 0
}

// ValueText is the value of a limit as people write it; "" is none.
func ValueText(v *int64) string {
	switch {
	case v == nil:
		return ""
	case *v == quota.Unlimited:
		return "unlimited"
	}
	return fmt.Sprint(*v)
}
