package inventory

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"sendmail-wrapper/quota"
)

// format is the version of the format, which docs/import.md describes.
const format = 1

// Beginning is how each file of this format begins that WriteJSON has written.
const Beginning = `{"format":`

// An object of JSON has its class for the name of its name. What is absent is not
// said; null is nothing.
type (
	jsonServer struct {
		Mode   Text       `json:"mode,omitzero"`
		Limits jsonLevels `json:"limits,omitzero"`
	}
	jsonPlan struct {
		Plan   string     `json:"plan"`
		Mode   Text       `json:"mode,omitzero"`
		Limits jsonLevels `json:"limits,omitzero"`
	}
	jsonSubscription struct {
		Subscription string      `json:"subscription"`
		Plan         string      `json:"plan,omitempty"`
		Contact      Text        `json:"contact,omitzero"`
		Mode         Text        `json:"mode,omitzero"`
		Senders      jsonSenders `json:"senders,omitzero"`
		Limits       jsonLimits  `json:"limits,omitzero"`
	}
	jsonDomain struct {
		Domain       string      `json:"domain"`
		Subscription string      `json:"subscription,omitempty"`
		DocumentRoot Text        `json:"document_root,omitzero"`
		Mode         Text        `json:"mode,omitzero"`
		Senders      jsonSenders `json:"senders,omitzero"`
		Limits       jsonLimits  `json:"limits,omitzero"`
	}
	jsonMailbox struct {
		Mailbox string      `json:"mailbox"`
		Mode    Text        `json:"mode,omitzero"`
		Senders jsonSenders `json:"senders,omitzero"`
		Limits  jsonLimits  `json:"limits,omitzero"`
	}
	jsonUser struct {
		User         string      `json:"user"`
		UID          *int64      `json:"uid"`
		Host         string      `json:"host,omitempty"`
		Subscription string      `json:"subscription,omitempty"`
		Mode         Text        `json:"mode,omitzero"`
		Senders      jsonSenders `json:"senders,omitzero"`
		Limits       jsonLimits  `json:"limits,omitzero"`
	}
	jsonException struct {
		Kind    string       `json:"kind"`
		Object  string       `json:"object,omitempty"`
		UID     *int64       `json:"uid,omitempty"` // of a user
		Network netip.Prefix `json:"network,omitzero"`
		Script  string       `json:"script,omitempty"`
		Crontab string       `json:"crontab,omitempty"`
		Limit   string       `json:"limit,omitempty"`
		Value   *int64       `json:"value,omitempty"`
		Until   time.Time    `json:"until,omitzero"`
		Why     string       `json:"why,omitempty"`
	}
	jsonSenders Text                  // an array of addresses
	jsonLimits  map[string]*int64     // by name of the limit; -1 is unlimited
	jsonLevels  map[string]jsonLimits // by class that they govern
)

// MarshalJSON writes null for nothing.
func (t Text) MarshalJSON() ([]byte, error) {
	if t.Value == "" {
		return []byte("null"), nil
	}
	var b bytes.Buffer
	err := writeValue(&b, t.Value)
	return b.Bytes(), err
}

// UnmarshalJSON is called for what is there, null too.
func (t *Text) UnmarshalJSON(b []byte) error {
	*t = Say("")
	if string(b) == "null" {
		return nil
	}
	if err := json.Unmarshal(b, &t.Value); err != nil {
		return err
	}
	if t.Value == "" {
		return errors.New(`write null instead of ""`)
	}
	return nil
}

// MarshalJSON writes null for none.
func (s jsonSenders) MarshalJSON() ([]byte, error) {
	if s.Value == "" {
		return []byte("null"), nil
	}
	var b bytes.Buffer
	err := writeValue(&b, strings.Split(s.Value, " "))
	return b.Bytes(), err
}

// UnmarshalJSON is called for what is there, null too.
func (s *jsonSenders) UnmarshalJSON(b []byte) error {
	var list []string
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	for i, address := range list {
		if address == "" || strings.ContainsFunc(address, unicode.IsSpace) {
			return fmt.Errorf("senders: %q is no address", address)
		}
		list[i] = strings.ToLower(address)
	}
	slices.Sort(list)
	*s = jsonSenders(Say(strings.Join(slices.Compact(list), " ")))
	return nil
}

// sections are the arrays of a file, in their order.
var sections = []struct {
	name  string
	class quota.Class // 0: exceptions
}{{"plans", quota.Plan}, {"subscriptions", quota.Subscription}, {"domains", quota.Domain}, {"mailboxes", quota.Mailbox}, {"users", quota.User}, {"exceptions", 0}}

// WriteJSON writes an Inventory, an object a line: in the same order always, so
// that two exports can be compared.
func (inv *Inventory) WriteJSON(w io.Writer) error {
	b := bufio.NewWriter(w)
	objects := slices.Clone(inv.Objects)
	slices.SortStableFunc(objects, func(a, b Object) int {
		return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	exceptions := slices.Clone(inv.Exceptions)
	slices.SortStableFunc(exceptions, func(a, b Exception) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Subject(), b.Subject()), cmp.Compare(a.Object.UID, b.Object.UID), cmp.Compare(a.Limit, b.Limit),
			cmp.Compare(a.Value, b.Value), a.Until.Compare(b.Until), cmp.Compare(a.Why, b.Why))
	})
	fmt.Fprintf(b, "%s%d", Beginning, format)
	for i := range objects {
		if objects[i].Class == quota.Server {
			b.WriteString(",\n\"server\":")
			if err := writeValue(b, objects[i].json()); err != nil {
				return err
			}
		}
	}
	for _, s := range sections {
		var values []any
		for i := range objects {
			if objects[i].Class == s.class {
				values = append(values, objects[i].json())
			}
		}
		for i := range exceptions {
			if s.class == 0 {
				values = append(values, exceptions[i].json())
			}
		}
		fmt.Fprintf(b, ",\n%q:[", s.name)
		for i, v := range values {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteByte('\n')
			if err := writeValue(b, v); err != nil {
				return err
			}
		}
		b.WriteString("\n]")
	}
	b.WriteString("}\n")
	return b.Flush()
}

// writeValue leaves <, > and & as they are, and no line break behind. What a
// terminal might obey, it writes as \u….
func writeValue(w io.Writer, v any) error {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	b := bytes.TrimSuffix(text.Bytes(), []byte("\n"))
	if bytes.ContainsFunc(b, unprintable) {
		var safe []byte
		for _, r := range string(b) {
			if !unprintable(r) {
				safe = utf8.AppendRune(safe, r)
				continue
			}
			for _, unit := range utf16.AppendRune(nil, r) {
				safe = fmt.Appendf(safe, `\u%04x`, unit)
			}
		}
		b = safe
	}
	_, err := w.Write(b)
	return err
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

func (o *Object) json() any {
	own, levels := jsonLimits{}, jsonLevels{}
	for _, l := range o.Limits {
		own[l.Limit.String()] = l.Value
		level := levels[l.For.String()]
		if level == nil {
			level = jsonLimits{}
			levels[l.For.String()] = level
		}
		level[l.Limit.String()] = l.Value
	}
	if len(own) == 0 {
		own, levels = nil, nil
	}
	switch o.Class {
	case quota.Server:
		return jsonServer{o.Mode, levels}
	case quota.Plan:
		return jsonPlan{o.Name, o.Mode, levels}
	case quota.Subscription:
		return jsonSubscription{o.Name, o.Parent, o.Contact, o.Mode, jsonSenders(o.Senders), own}
	case quota.Domain:
		return jsonDomain{o.Name, o.Parent, o.DocumentRoot, o.Mode, jsonSenders(o.Senders), own}
	case quota.Mailbox:
		return jsonMailbox{o.Name, o.Mode, jsonSenders(o.Senders), own}
	}
	return jsonUser{o.Name, &o.UID, o.Host, o.Parent, o.Mode, jsonSenders(o.Senders), own}
}

func (x *Exception) json() any {
	j := jsonException{Kind: string(x.Kind), Network: x.Network, Script: x.Script, Crontab: x.Crontab, Until: x.Until, Why: x.Why}
	if x.Object.Class != 0 {
		j.Object = x.Object.String()
	}
	if x.Object.Class == quota.User {
		j.UID = &x.Object.UID
	}
	if x.Kind == quota.Raise {
		j.Limit, j.Value = x.Limit.String(), &x.Value
	}
	return j
}

func (j jsonServer) object(string) (Object, error) {
	o := Object{Ref: Ref{Class: quota.Server}, Mode: j.Mode}
	return o, o.levels(j.Limits)
}

func (j jsonPlan) object(string) (Object, error) {
	o := Object{Ref: Ref{Class: quota.Plan, Name: j.Plan}, Mode: j.Mode}
	return o, o.levels(j.Limits)
}

func (j jsonSubscription) object(string) (Object, error) {
	o := Object{Ref: Ref{Class: quota.Subscription, Name: j.Subscription}, Parent: j.Plan, Contact: j.Contact, Mode: j.Mode, Senders: Text(j.Senders)}
	return o, o.limits(o.Class, j.Limits)
}

func (j jsonDomain) object(string) (Object, error) {
	o := Object{Ref: Ref{Class: quota.Domain, Name: strings.ToLower(j.Domain)}, Parent: j.Subscription, DocumentRoot: j.DocumentRoot, Mode: j.Mode, Senders: Text(j.Senders)}
	return o, o.limits(o.Class, j.Limits)
}

func (j jsonMailbox) object(string) (Object, error) {
	o := Object{Ref: Ref{Class: quota.Mailbox, Name: strings.ToLower(j.Mailbox)}, Mode: j.Mode, Senders: Text(j.Senders)}
	_, o.Parent, _ = strings.Cut(o.Name, "@")
	return o, o.limits(o.Class, j.Limits)
}

func (j jsonUser) object(host string) (Object, error) {
	if j.UID == nil || *j.UID < 0 || *j.UID > math.MaxUint32 {
		return Object{}, fmt.Errorf("uid of user %q: a number from 0 to %d must be given", j.User, uint32(math.MaxUint32))
	}
	o := Object{Ref: Ref{quota.User, j.User, cmp.Or(j.Host, host), *j.UID}, Parent: j.Subscription, Mode: j.Mode, Senders: Text(j.Senders)}
	return o, o.limits(o.Class, j.Limits)
}

func (o *Object) levels(levels jsonLevels) error {
	for name, limits := range levels {
		class := quota.User
		for ; class < quota.Plan && class.String() != name; class++ {
		}
		if class == quota.Plan && o.Class == quota.Server && name == o.Class.String() {
			class = quota.Server
		}
		if class == quota.Plan {
			return fmt.Errorf("%s: %q is no class with defaults", o.Ref, name)
		}
		if err := o.limits(class, limits); err != nil {
			return err
		}
	}
	return nil
}

func (o *Object) limits(class quota.Class, limits jsonLimits) error {
	for name, value := range limits {
		l, err := quota.ParseLimit(name)
		if err != nil {
			return err
		}
		if value != nil && (*value < quota.Unlimited || *value > math.MaxInt32) {
			return fmt.Errorf("%s %s: %d is no limit: write a number from 0 to %d, -1 for unlimited, or null", o.Ref, l, *value, math.MaxInt32)
		}
		o.Limits = append(o.Limits, Limit{class, l, value})
	}
	return nil
}

func (j jsonException) exception(host string) (x Exception, err error) {
	x = Exception{Kind: quota.ExceptionKind(j.Kind), Network: j.Network, Script: j.Script, Crontab: j.Crontab, Until: j.Until.UTC(), Why: j.Why}
	subjects := 0
	for _, there := range []bool{j.Object != "", j.Network.IsValid(), j.Script != "", j.Crontab != ""} {
		if there {
			subjects++
		}
	}
	switch {
	case !slices.Contains([]quota.ExceptionKind{quota.Raise, quota.Block, quota.Whitelist}, x.Kind):
		return x, fmt.Errorf("kind %q: write raise, block or whitelist", j.Kind)
	case subjects != 1:
		return x, errors.New("an exception has one of object, network, script and crontab")
	case (x.Kind == quota.Raise) != (j.Limit != "") || (x.Kind == quota.Raise) != (j.Value != nil):
		return x, errors.New("a raise has limit and value, others have none")
	case x.Kind == quota.Raise && j.Object == "":
		return x, errors.New("a raise is of an object")
	}
	if j.Value != nil {
		if x.Value = *j.Value; x.Value < quota.Unlimited || x.Value > math.MaxInt32 {
			return x, fmt.Errorf("value %d: write a number from 0 to %d, or -1 for unlimited", x.Value, math.MaxInt32)
		}
		if x.Limit, err = quota.ParseLimit(j.Limit); err != nil {
			return x, err
		}
	}
	if j.Object == "" {
		return x, nil
	}
	o, err := quota.ParseObject(j.Object)
	if err != nil {
		return x, err
	}
	x.Object = Ref{Class: o.Class, Name: o.Name}
	if (o.Class == quota.User) != (j.UID != nil) {
		return x, errors.New("uid is given of a user, and of nobody else")
	}
	if o.Class == quota.User {
		login, at, ok := strings.Cut(o.Name, "@")
		if !ok {
			at = host
		}
		x.Object.Name, x.Object.Host, x.Object.UID = login, at, *j.UID
	}
	return x, nil
}
