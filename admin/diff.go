package admin

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"sendmail-wrapper/inventory"
	"sendmail-wrapper/quota"
)

// Change is what an import makes of one object: properties as the audit shows
// them.
type Change struct {
	Object string `json:"object"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// Conflict is what stands against an import.
type Conflict struct {
	Line   int    `json:"line,omitempty"`
	Object string `json:"object"`
	Text   string `json:"text"`
	Hint   string `json:"hint,omitempty"`
}

// Difference is what an import changes.
type Difference struct {
	Added     []Change   `json:"added"`
	Changed   []Change   `json:"changed"`
	Kept      []Change   `json:"kept"` // set here, and the source's differs: Before is what stays, After what the source says
	Same      int        `json:"same"`
	Conflicts []Conflict `json:"conflicts"`
}

// work is what a Difference comes to in the database.
type work struct {
	added, changed []inventory.Object // with all their properties
	limits         []inventory.Object // those whose limits are to be written
	senders        []inventory.Object // those whose senders are
	exceptions     []inventory.Exception
}

func (w *work) total() int {
	return len(w.added) + len(w.changed) + len(w.limits) + len(w.senders) + len(w.exceptions)
}

// compare finds what has to be done so that all that wanted says is so.
type compare struct {
	host            string // users of this host are shown without it
	observed        bool
	current, wanted map[inventory.Ref]*inventory.Object
	diff            *Difference
	work            work
}

// difference compares what there is with what a source says.
func difference(current, wanted *inventory.Inventory, host string, now time.Time) (*Difference, *work) {
	c := &compare{host: host, observed: wanted.Observed, current: byKey(current.Objects),
		diff: &Difference{Added: []Change{}, Changed: []Change{}, Kept: []Change{}, Conflicts: []Conflict{}}}
	objects := wanted.Objects
	if wanted.Observed {
		objects = adopt(c.current, objects)
	}
	c.wanted = byKey(objects)
	for i := range objects {
		if was := c.current[objects[i].Key()]; was != nil {
			c.change(was, &objects[i])
		} else {
			c.add(objects[i])
		}
	}
	known := make(map[inventory.Exception]bool, len(current.Exceptions))
	for _, x := range current.Exceptions {
		known[x.Key()] = true
	}
	for _, x := range wanted.Exceptions {
		c.except(x, known, now)
	}
	return c.diff, &c.work
}

func byKey(objects []inventory.Object) map[inventory.Ref]*inventory.Object {
	m := make(map[inventory.Ref]*inventory.Object, len(objects))
	for i := range objects {
		m[objects[i].Key()] = &objects[i]
	}
	return m
}

// adopt gives what a server's files say of a user to the subscription that he has
// here: one of his own name since his first mail, or where an administrator put him.
// A domain that has stayed behind stays.
func adopt(current map[inventory.Ref]*inventory.Object, objects []inventory.Object) []inventory.Object {
	renamed := make(map[string]string)
	for _, o := range objects {
		was := current[o.Key()]
		if o.Class != quota.User || was == nil || was.Parent == o.Parent || renamed[o.Parent] != "" {
			continue
		}
		if o.Parent == o.Name || current[inventory.Ref{Class: quota.Subscription, Name: o.Parent}] == nil {
			renamed[o.Parent] = was.Parent
		}
	}
	if len(renamed) == 0 {
		return objects
	}
	objects = slices.Clone(objects)
	for i := range objects {
		o := &objects[i]
		name := &o.Parent
		if o.Class == quota.Subscription {
			name = &o.Name
		}
		was := current[o.Key()]
		stays := o.Class == quota.Mailbox || o.Class == quota.Domain && was != nil && was.Parent == o.Parent
		if to := renamed[*name]; to != "" && !stays {
			*name = to
		}
	}
	return objects
}

// name is an object as it is written on this host.
func (c *compare) name(r inventory.Ref) string {
	if r.Class == quota.User && r.Host == c.host {
		return quota.Object{Class: r.Class, Name: r.Name}.String()
	}
	return r.String()
}

func (c *compare) conflict(line int, r inventory.Ref, hint, format string, args ...any) {
	c.diff.Conflicts = append(c.diff.Conflicts, Conflict{line, c.name(r), fmt.Sprintf(format, args...), hint})
}

// add takes in an object that is not there yet.
func (c *compare) add(o inventory.Object) {
	if err := checkName(quota.Object{Class: o.Class, Name: o.Name}); err != nil {
		c.conflict(o.Line, o.Ref, "", "%s", err)
		return
	}
	if o.Class == quota.Subscription && o.Parent == "" {
		o.Parent = quota.DefaultPlan
	}
	if o.Class == quota.User && (o.Host == "" || len(o.Host) > 253 || strings.ContainsFunc(o.Host, unprintable)) {
		c.conflict(o.Line, o.Ref, "", "%q is no name of a host", o.Host)
		return
	}
	if !c.belongs(&o) || !c.fits(&o) {
		return
	}
	var texts []string
	for _, p := range properties(&o) {
		if p.value != "" {
			texts = append(texts, p.text())
		}
	}
	c.diff.Added = append(c.diff.Added, Change{Object: c.name(o.Ref), After: strings.Join(texts, ", ")})
	c.work.added = append(c.work.added, o)
	if len(o.Limits) > 0 {
		c.work.limits = append(c.work.limits, o)
	}
	if o.Senders.Value != "" {
		c.work.senders = append(c.work.senders, o)
	}
}

// belongs tells whether there is what an object belongs to.
func (c *compare) belongs(o *inventory.Object) bool {
	class := inventory.ParentClass(o.Class)
	if class == 0 {
		return true
	}
	if o.Parent == "" {
		c.conflict(o.Line, o.Ref, "", "is new here: say of which %s it is", class)
		return false
	}
	parent := inventory.Ref{Class: class, Name: o.Parent}
	if c.current[parent] == nil && c.wanted[parent] == nil {
		hint := fmt.Sprintf("mailctl %s add %s", class, o.Parent)
		if class == quota.Domain {
			hint += " --subscription NAME"
		}
		c.conflict(o.Line, o.Ref, hint, "there is no %s %s", class, o.Parent)
		return false
	}
	return true
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// fits tells whether the texts of an object can be what they are to be.
func (c *compare) fits(o *inventory.Object) bool {
	if root := o.DocumentRoot.Value; root != "" && (root[0] != '/' || len(root) > 4096 || strings.ContainsFunc(root, unprintable)) {
		c.conflict(o.Line, o.Ref, "", "document root %q is no absolute path", root)
		return false
	}
	if err := checkContact(o.Contact.Value); err != nil {
		c.conflict(o.Line, o.Ref, "", "%s", err)
		return false
	}
	for _, address := range strings.Fields(o.Senders.Value) {
		if _, err := ParseSender(address); err != nil {
			c.conflict(o.Line, o.Ref, "", "sender %s", err)
			return false
		}
	}
	return true
}

// change takes in what a source says of an object that is there.
func (c *compare) change(was, said *inventory.Object) {
	is := *was
	is.Line = said.Line
	if c.observed {
		c.observe(was, said, &is)
	} else {
		is.Name = said.Name
		if said.Parent != "" {
			is.Parent = said.Parent
		}
		for _, p := range []struct{ is, said *inventory.Text }{{&is.Contact, &said.Contact}, {&is.DocumentRoot, &said.DocumentRoot}, {&is.Mode, &said.Mode}, {&is.Senders, &said.Senders}} {
			if p.said.Said {
				*p.is = *p.said
			}
		}
		is.Limits = overlay(was.Limits, said.Limits)
	}
	if is.Class == quota.Domain && is.Parent != was.Parent {
		c.conflict(is.Line, is.Ref, fmt.Sprintf("mailctl domain set %s --subscription %s", is.Name, is.Parent), "belongs to subscription %s, not %s", was.Parent, is.Parent)
		return
	}
	if is.Parent != was.Parent && !c.belongs(&is) || !c.fits(&is) {
		return
	}
	var before, after []string
	old, limits := properties(was), false
	for _, p := range properties(&is) {
		o := property{p.name, "", p.limit}
		if at := slices.IndexFunc(old, func(o property) bool { return o.name == p.name }); at >= 0 {
			o = old[at]
		}
		if o.value != p.value {
			before, after = append(before, o.text()), append(after, p.text())
			limits = limits || p.limit
		}
	}
	if len(after) == 0 {
		c.diff.Same++
		return
	}
	c.diff.Changed = append(c.diff.Changed, Change{c.name(was.Ref), strings.Join(before, ", "), strings.Join(after, ", ")})
	c.work.changed = append(c.work.changed, is)
	if limits {
		c.work.limits = append(c.work.limits, is)
	}
	if is.Senders.Value != was.Senders.Value {
		c.work.senders = append(c.work.senders, is)
	}
}

// observe fills in what a server's files say and nobody has set. A login is as the
// server says.
func (c *compare) observe(was, said, is *inventory.Object) {
	is.Name = said.Name
	if is.Class == quota.Domain && said.Parent != "" {
		is.Parent = said.Parent
	}
	if !said.DocumentRoot.Said || said.DocumentRoot.Value == was.DocumentRoot.Value {
		return
	}
	if was.DocumentRoot.Value == "" {
		is.DocumentRoot = said.DocumentRoot
		return
	}
	c.diff.Kept = append(c.diff.Kept, Change{c.name(was.Ref), "document root " + was.DocumentRoot.Value, "document root " + said.DocumentRoot.Value})
}

// overlay is limits with others set over them.
func overlay(limits, over []inventory.Limit) []inventory.Limit {
	limits = slices.Clone(limits)
	for _, l := range over {
		at := slices.IndexFunc(limits, func(o inventory.Limit) bool { return o.For == l.For && o.Limit == l.Limit })
		if at < 0 {
			limits = append(limits, l)
		} else {
			limits[at] = l
		}
	}
	return limits
}

// property is one property as text; "" is nothing.
type property struct {
	name, value string
	limit       bool
}

func (p property) text() string {
	switch {
	case p.value != "":
		return p.name + " " + p.value
	case p.limit:
		return p.name + " unset"
	case p.name == "mode":
		return "mode inherit"
	}
	return "no " + p.name
}

// properties of an object in the order in which they are shown.
func properties(o *inventory.Object) []property {
	var list []property
	switch o.Class {
	case quota.User:
		list = append(list, property{"login", o.Name, false}, property{"uid", fmt.Sprint(o.UID), false}, property{"subscription", o.Parent, false})
	case quota.Domain:
		list = append(list, property{"subscription", o.Parent, false}, property{"document root", o.DocumentRoot.Value, false})
	case quota.Subscription:
		list = append(list, property{"plan", o.Parent, false}, property{"contact", o.Contact.Value, false})
	}
	list = append(list, property{"mode", o.Mode.Value, false}, property{"senders", o.Senders.Value, false})
	for _, l := range o.Limits {
		name := l.Limit.String()
		if l.For != o.Class {
			name += " for " + l.For.String()
		}
		list = append(list, property{name, inventory.ValueText(l.Value), true})
	}
	return list
}

// except takes in an exception.
func (c *compare) except(x inventory.Exception, known map[inventory.Exception]bool, now time.Time) {
	wrong := func(format string, args ...any) {
		c.diff.Conflicts = append(c.diff.Conflicts, Conflict{x.Line, x.Subject(), fmt.Sprintf(format, args...), ""})
	}
	key := x.Object.Key()
	switch {
	case known[x.Key()]:
		c.diff.Same++
		return
	case !x.Until.IsZero() && !x.Until.After(now):
		c.diff.Kept = append(c.diff.Kept, Change{x.Subject(), "no " + string(x.Kind), exceptionText(x) + ", which is over"})
		return
	case x.Object.Class != 0 && c.current[key] == nil && c.wanted[key] == nil:
		wrong("%s of an object that is not there", x.Kind)
		return
	case len(x.Why) > 4096 || strings.ContainsFunc(x.Why, unicode.IsControl):
		wrong("a text that is too long, or has control characters")
		return
	case x.Network.IsValid() && x.Network.Bits() == 0:
		wrong("is everybody: mailctl whitelist add %s --yes", x.Subject())
		return
	}
	subject := Subject{Object: quota.Object{Class: key.Class, Name: key.Name}, Script: x.Script, Crontab: x.Crontab, Network: x.Network}
	if err := subject.check(x.Kind); err != nil {
		wrong("%s", err)
		return
	}
	known[x.Key()] = true
	c.diff.Added = append(c.diff.Added, Change{Object: x.Subject(), After: exceptionText(x)})
	c.work.exceptions = append(c.work.exceptions, x)
}

func exceptionText(x inventory.Exception) string {
	text := string(x.Kind)
	if x.Kind == quota.Raise {
		text += " " + x.Limit.String() + " " + inventory.ValueText(&x.Value)
	}
	if !x.Until.IsZero() {
		text += " until " + x.Until.UTC().Format(time.RFC3339)
	}
	return text
}
