package notify

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/trace"
)

// Told is what somebody is told: the JSON of web hook and program, and what
// templates read. All texts in it are one printable line each.
type Told struct {
	ID     string          `json:"id"` // the same at each try
	Kind   quota.EventKind `json:"kind"`
	Host   string          `json:"host"` // that tells
	Time   time.Time       `json:"time"`
	Event  *Event          `json:"event,omitempty"`
	Digest *Summary        `json:"digest,omitempty"`
}

// Event is one event with all that is known of it.
type Event struct {
	Object       string     `json:"object"`
	Subscription string     `json:"subscription,omitempty"` // that it is, or is in
	Plan         string     `json:"plan,omitempty"`
	Limit        string     `json:"limit"`
	Max          int64      `json:"max"`
	Used         int64      `json:"used"`
	Since        time.Time  `json:"since"`
	FreeAt       *time.Time `json:"free_at"` // when one more fits; null: it does, or it never will
	Message      *Message   `json:"message"` // the first one; null: its row is gone
	Above        []Level    `json:"above"`   // objects that the object is in, nearest first
	Commands     []string   `json:"commands"`
}

// Percent is how much of the limit was used.
func (e *Event) Percent() int64 {
	if e.Max <= 0 {
		return 100
	}
	return 100 * e.Used / e.Max
}

// Level is an object above with one of its limits.
type Level struct {
	Object string `json:"object"`
	Limit  string `json:"limit"`
	Max    int64  `json:"max"`
	Used   int64  `json:"used"`
}

// Message is a message and what sent it.
type Message struct {
	ID         uuid.UUID         `json:"id"`
	Time       time.Time         `json:"time"`
	Host       string            `json:"host"`
	User       string            `json:"user,omitempty"`
	Mailbox    string            `json:"mailbox,omitempty"`
	Program    string            `json:"program"` // php-fpm, cron, …
	Script     string            `json:"script,omitempty"`
	Include    string            `json:"include,omitempty"`
	Crontab    string            `json:"crontab,omitempty"`
	Site       string            `json:"site,omitempty"`
	Client     string            `json:"client,omitempty"`
	URI        string            `json:"uri,omitempty"`
	Proof      map[string]string `json:"proof"` // claimed, system or kernel, by the names above
	Sender     string            `json:"sender"`
	Recipients int64             `json:"recipients"`
	Subject    string            `json:"subject,omitempty"`
	To         []string          `json:"to,omitempty"` // the first ones

	subscription quota.ID
}

// content reads what a notice tells.
func (d *Deliverer) content(ctx context.Context, n *notice) (*Told, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	told := &Told{ID: n.messageID(), Host: d.Config.Host, Time: n.madeAt}
	if n.since != nil && n.period != nil {
		var err error
		told.Kind = Digest
		told.Digest, err = d.summary(ctx, *n.since, *n.period)
		return told, err
	}
	e, err := d.event(ctx, *n.eventID)
	if err != nil {
		return nil, err
	}
	if e.Message == nil && time.Since(n.madeAt) < bookTime {
		return nil, errNotBooked
	}
	if n.channel == Customer {
		e.hide()
	}
	told.Kind, told.Event = e.kind, &e.Event
	return told, nil
}

// loaded is an Event with what only this package needs.
type loaded struct {
	Event
	kind         quota.EventKind
	subscription quota.ID // 0: none
	parents      []quota.Object
}

// isProved tells whether a fact is no mere claim of the sender's.
func (m *Message) isProved(fact string) bool {
	return m.Proof[fact] == origin.System.String() || m.Proof[fact] == origin.Kernel.String()
}

// hide takes out what is not the customer's.
func (e *loaded) hide() {
	e.Plan, e.Commands = "", nil
	var own []Level
	for _, l := range e.Above {
		if l.Object != "server" {
			own = append(own, l)
		}
	}
	e.Above = own
	if m := e.Message; m != nil && m.subscription != e.subscription {
		e.Message = nil
	}
}

const eventSQL = `SELECT e.kind, e.object_id, e.limit_no, e.max, e.used, e.opened_at, e.message_id,
       coalesce(u.name || CASE WHEN h.name = $2 THEN '' ELSE '@' || h.name END, m.address, CASE WHEN d.id = e.object_id THEN d.name END,
         CASE WHEN s.id = e.object_id THEN s.name END, p.name, ''),
       coalesce(CASE WHEN d.id <> e.object_id THEN d.name END, ''), coalesce(s.name, ''), coalesce(s.id, 0), coalesce(p.name, '')
  FROM event e
  LEFT JOIN system_user u ON u.id = e.object_id
  LEFT JOIN host h ON h.id = u.host_id
  LEFT JOIN mailbox m ON m.id = e.object_id
  LEFT JOIN domain d ON d.id = coalesce(m.domain_id, e.object_id)
  LEFT JOIN subscription s ON s.id = coalesce(u.subscription_id, d.subscription_id, e.object_id)
  LEFT JOIN plan p ON p.id = coalesce(s.plan_id, e.object_id)
 WHERE e.id = $1`

// event reads an event, its message, and how its object and those above are now.
func (d *Deliverer) event(ctx context.Context, id int64) (*loaded, error) {
	e := &loaded{}
	var objectID quota.ID
	var limit int16
	var message uuid.UUID
	var name, domain string
	err := d.Pool.QueryRow(ctx, eventSQL, id, d.Config.Host).Scan(&e.kind, &objectID, &limit, &e.Max, &e.Used, &e.Since, &message,
		&name, &domain, &e.Subscription, &e.subscription, &e.Plan)
	if err != nil {
		return nil, fmt.Errorf("read event %d: %w", id, err)
	}
	object := quota.Object{Class: objectID.Class(), Name: name}
	if domain != "" {
		e.parents = append(e.parents, quota.Object{Class: quota.Domain, Name: domain})
	}
	if e.Subscription != "" && object.Class != quota.Subscription {
		e.parents = append(e.parents, quota.Object{Class: quota.Subscription, Name: e.Subscription})
	}
	if object.Class != quota.Server {
		e.parents = append(e.parents, quota.Object{Class: quota.Server})
	}
	e.Object, e.Limit = printable(object.String()), quota.Limit(limit).String()
	e.Subscription, e.Plan = printable(e.Subscription), printable(e.Plan)
	if e.Message, err = d.message(ctx, message, e.Since); err != nil {
		return nil, err
	}
	if err := d.usage(ctx, e, object); err != nil {
		return nil, err
	}
	e.Commands = commands(e, object, d.Config.Host)
	return e, nil
}

// usage says when the object may send again, and how those above are.
func (d *Deliverer) usage(ctx context.Context, e *loaded, object quota.Object) error {
	for i, o := range append([]quota.Object{object}, e.parents...) {
		list, err := d.Store.Usage(ctx, []quota.Object{o})
		if missing := (*quota.NotFoundError)(nil); errors.As(err, &missing) {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		if i == 0 {
			e.FreeAt = list[0].Limits[e.Limit].FreeAt
			continue
		}
		for l := quota.Limit(0); l < quota.RecipientsMessage; l++ {
			if u := list[0].Limits[l.String()]; u.Limit != nil {
				e.Above = append(e.Above, Level{printable(o.String()), l.String(), *u.Limit, u.Used})
			}
		}
	}
	return nil
}

// messageSQL bounds the time, so that only the partitions near it are looked into.
const messageSQL = `SELECT m.at, h.name, coalesce(u.name, ''), coalesce(b.address, ''), m.kind, coalesce(m.script, ''), coalesce(m.crontab, ''), coalesce(m.site, ''),
       m.kind_proof, m.script_proof, m.crontab_proof, m.site_proof, coalesce(m.subscription_id, 0),
       m.sender, m.recipients, coalesce(d.subject, ''), d.recipients,
       m.facts->'include'->>0, m.facts->'include'->>1, m.facts->'client'->>0, m.facts->'client'->>1, m.facts->'uri'->>0, m.facts->'uri'->>1
  FROM messages m
  JOIN host h ON h.id = m.host_id
  LEFT JOIN system_user u ON u.id = m.user_id
  LEFT JOIN mailbox b ON b.id = m.mailbox_id
  LEFT JOIN details d ON d.id = m.id AND d.at = m.at
 WHERE m.id = $1 AND m.at BETWEEN $2 AND $3`

// message reads a message; nil if there is no row.
func (d *Deliverer) message(ctx context.Context, id uuid.UUID, at time.Time) (*Message, error) {
	m := &Message{ID: id, Proof: map[string]string{}}
	var proofs [4]*int16
	var facts [3][2]*string
	err := d.Pool.QueryRow(ctx, messageSQL, id, at.Add(-time.Hour), at.Add(time.Hour)).Scan(&m.Time, &m.Host, &m.User, &m.Mailbox,
		&m.Program, &m.Script, &m.Crontab, &m.Site, &proofs[0], &proofs[1], &proofs[2], &proofs[3], &m.subscription,
		&m.Sender, &m.Recipients, &m.Subject, &m.To, &facts[0][0], &facts[0][1], &facts[1][0], &facts[1][1], &facts[2][0], &facts[2][1])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read message %s: %w", id, err)
	}
	for i, name := range []string{"program", "script", "crontab", "site"} {
		if p := proofs[i]; p != nil {
			m.Proof[name] = origin.Proof(*p).String()
		}
	}
	for i, f := range []struct {
		name string
		to   *string
	}{{"include", &m.Include}, {"client", &m.Client}, {"uri", &m.URI}} {
		if value, proof := facts[i][0], facts[i][1]; value != nil && proof != nil {
			*f.to, m.Proof[f.name] = *value, printable(*proof)
		}
	}
	m.Subject = trace.DecodeSubject(m.Subject)
	for _, text := range []*string{&m.Host, &m.User, &m.Mailbox, &m.Program, &m.Script, &m.Include, &m.Crontab, &m.Site, &m.Client, &m.URI, &m.Sender, &m.Subject} {
		*text = printable(*text)
	}
	for i, address := range m.To {
		m.To[i] = printable(address)
	}
	return m, nil
}

// commands are what an administrator may want to type now, ready for a shell.
func commands(e *loaded, object quota.Object, host string) (list []string) {
	name := object.String()
	add := func(words ...string) { list = append(list, shellLine(words)) }
	add("mailctl", "why", name)
	switch object.Class {
	case quota.User: // reports take the host apart
		login, at, isRemote := strings.Cut(object.Name, "@")
		words := []string{"mailctl", "report", "messages", "--refused", "--since", "1h", "--user", login}
		if isRemote {
			words = append(words, "--host", at)
		}
		add(words...)
	case quota.Mailbox, quota.Domain, quota.Subscription:
		add("mailctl", "report", "messages", "--refused", "--since", "1h", "--"+object.Class.String(), object.Name)
	default:
		add("mailctl", "report", "messages", "--refused", "--since", "1h")
	}
	if target := culprit(e.Message, object, host); target != "" {
		add("mailctl", "block", "add", target)
	}
	add("mailctl", "exception", "raise", name, e.Limit, "+"+strconv.FormatInt(max(e.Max, 1), 10), "--for", "2h")
	return list
}

// culprit is what to block, the narrowest that is known: "" where that would be the
// server. A script or cron job that was only claimed is not proposed: it may be
// another customer's, whom the sender wants to be blocked; nor one whose name is not
// shown as it is, since a block of what is shown would hold nobody.
func culprit(m *Message, object quota.Object, host string) string {
	switch {
	case m != nil && m.Crontab != "" && m.isProved("crontab") && isShown(m.Crontab):
		return "crontab:" + m.Crontab
	case m != nil && m.Script != "" && m.isProved("script") && isShown(m.Script):
		return "script:" + m.Script
	case m != nil && m.Mailbox != "":
		return "mailbox:" + m.Mailbox
	case m != nil && m.User != "" && m.Host != host:
		return "user:" + m.User + "@" + m.Host
	case m != nil && m.User != "":
		return "user:" + m.User
	case object.Class != quota.Server:
		return object.String()
	}
	return ""
}

// isShown tells whether printable left a text as it was.
func isShown(text string) bool { return !strings.ContainsRune(text, unicode.ReplacementChar) }
