// Package report reads message rows for an administrator: single messages, who
// sent most, and who tried to send more than he may.
//
// Everything is read day by day, single messages in pages of a few thousand, each
// in a snapshot of its own: one that stays open for the time of a long report
// would keep PostgreSQL from cleaning up the counters, and slow down all mail.
//
// Sums by hour and day are made by the daemons (RollUp); what is counted is read
// from them as far as whole hours and days go, and the rest from messages, exact to
// the microsecond. An index on messages by user, subscription or domain would take a
// third off the rate at which mail is decided (docs/performance.md).
package report

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/trace"
)

// Filter says which messages are wanted. A zero field lets all through.
type Filter struct {
	Since, Until time.Time // Since ≤ time < Until
	User         string    // login name
	Subscription string
	Domain       string
	Script       string // a part of the path
	Crontab      string // a part of the line
	Site         string
	Client       string // address of the web request's client
	Kind         string
	Mailbox      string // address
	Plan         string // that their subscription has now
	Host         string
	Refused      bool // refused ones only

	SubscriptionID quota.ID // the one subscription, whatever the others let through: of a customer
	UserID         quota.ID // the same of the one system user
	tried          bool     // those that were refused, or would have been
}

// bounds are Since and Until, with times beyond all rows where they are zero.
func (f *Filter) bounds() (since, until time.Time) {
	since, until = f.Since, f.Until
	if until.IsZero() {
		until = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if since.IsZero() {
		since = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return since, until
}

// Message is one row, with names in the place of numbers. Its JSON is the
// interface of mailctl report messages --json.
type Message struct {
	ID           uuid.UUID         `json:"id"`
	Time         Time              `json:"time"`
	Host         string            `json:"host"`
	UID          *int64            `json:"uid"`
	User         *string           `json:"user"`
	Subscription *string           `json:"subscription"`
	Domain       *string           `json:"domain"`
	Mailbox      *string           `json:"mailbox"`
	Kind         string            `json:"kind"`
	Script       *string           `json:"script"`
	Crontab      *string           `json:"crontab"`
	Site         *string           `json:"site"`
	Sender       string            `json:"sender"`
	Recipients   int               `json:"recipients"`
	Size         int64             `json:"size"`
	Decision     string            `json:"decision"`    // accepted, refused; observed: accepted by mode observe, else refused
	RefusedBy    *string           `json:"refused_by"`  // "subscription:alice messages/hour", or the reason where no limit refused it
	RefusedWhy   *string           `json:"refused_why"` // the line that the caller was given
	GivenBack    *Time             `json:"given_back"`  // when its charge was, as the mail server refused it after all
	Include      *string           `json:"include"`
	DocumentRoot *string           `json:"document_root"`
	Method       *string           `json:"method"`
	URI          *string           `json:"uri"`
	Client       *string           `json:"client"`
	Unit         *string           `json:"unit"`
	Login        *string           `json:"login"`
	Container    *string           `json:"container"`
	Via          *string           `json:"via"`
	Chain        []origin.Process  `json:"chain"`      // the caller first; empty where it is not known
	MessageID    *string           `json:"message_id"` // null, as the next two, where it is not kept
	Subject      *string           `json:"subject"`    // decoded (RFC 2047), as far as its charset is known
	To           []string          `json:"to"`         // the first recipients of the envelope
	Proof        map[string]string `json:"proof"`      // known fact → kernel, system, claimed
}

// Time is written in UTC, with microseconds always, so that texts sort as times.
type Time time.Time

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) { return json.Marshal(t.String()) }

// String is RFC 3339.
func (t Time) String() string { return time.Time(t).UTC().Format("2006-01-02T15:04:05.000000Z") }

// where are the conditions of a filter, for alias m, and their arguments. The
// objects of a name are all that ever had it, also removed ones.
func (f *Filter) where() (conditions string, args []any) {
	since, until := f.bounds()
	args = []any{since, until}
	conditions = "m.at >= $1 AND m.at < $2"
	add := func(condition string, value any) {
		args = append(args, value)
		conditions += " AND " + strings.ReplaceAll(condition, "?", "$"+strconv.Itoa(len(args)))
	}
	for _, c := range []struct{ condition, value string }{
		{"m.user_id IN (SELECT id FROM system_user WHERE name = ?)", f.User},
		{"m.subscription_id IN (SELECT id FROM subscription WHERE name = ?)", f.Subscription},
		{"m.domain_id IN (SELECT id FROM domain WHERE name = ?)", strings.ToLower(f.Domain)},
		{"strpos(m.script, ?) > 0", f.Script},
		{"strpos(m.crontab, ?) > 0", f.Crontab},
		{"m.site = ?", f.Site},
		{"m.facts->'client'->>0 = ?", f.Client},
		{"m.kind = ?", f.Kind},
		{"m.mailbox_id IN (SELECT id FROM mailbox WHERE address = ?)", strings.ToLower(f.Mailbox)},
		{"m.subscription_id IN (SELECT s.id FROM subscription s JOIN plan p ON p.id = s.plan_id WHERE p.name = ?)", f.Plan},
		{"m.host_id IN (SELECT id FROM host WHERE name = ?)", f.Host},
	} {
		if c.value != "" {
			add(c.condition, c.value)
		}
	}
	if f.SubscriptionID != 0 {
		add("m.subscription_id = ?", int64(f.SubscriptionID))
	}
	if f.UserID != 0 {
		add("m.user_id = ?", int64(f.UserID))
	}
	if f.Refused {
		conditions += " AND m.decision = 2"
	}
	if f.tried {
		conditions += " AND m.decision <> 1"
	}
	return conditions, args
}

// pageSize and keysSize are how many rows one snapshot reads, and how many keys.
const pageSize, keysSize = 5000, 10_000

// key is where a message stands among those of a day.
type key struct {
	at int64 // microseconds since 1970
	id uuid.UUID
}

// Messages calls each with the messages that a filter lets through, newest last:
// by time, those of one time by id. If limit is not 0, these are the newest ones
// only. What comes in meanwhile, or goes with its day, may be among them or not.
//
// No index has this order. So the keys of a day, 24 bytes each, are read in the
// order of the one there is, which holds them all, and sorted here; then their
// rows, a page at a time, by key. Each step costs the same at the end of a day as
// at its beginning.
func Messages(ctx context.Context, pool *pgxpool.Pool, f Filter, limit int, each func(*Message) error) error {
	list, err := days(ctx, pool, f)
	if err != nil {
		return err
	}
	known := names{}
	if limit == 0 {
		for _, day := range list {
			keys, err := allOfDay(ctx, pool, &day)
			if err != nil {
				return err
			}
			if err := known.read(ctx, pool, &day, keys, each); err != nil {
				return err
			}
		}
		return nil
	}
	keys := make([][]key, len(list))
	for i, day := range slices.Backward(list) {
		if keys[i], err = newestOfDay(ctx, pool, &day, limit); err != nil {
			return err
		}
		if limit -= len(keys[i]); limit == 0 {
			break
		}
	}
	for i, day := range list {
		if err := known.read(ctx, pool, &day, keys[i], each); err != nil {
			return err
		}
	}
	return nil
}

func allOfDay(ctx context.Context, pool *pgxpool.Pool, day *Filter) ([]key, error) {
	conditions, args := day.where()
	sql := fmt.Sprintf(`SELECT m.at, m.id FROM messages m WHERE %s AND (m.id, m.at) > ($%d, $%d) ORDER BY m.id, m.at LIMIT %d`,
		conditions, len(args)+1, len(args)+2, keysSize)
	var pages [][]key
	var last key
	for {
		page, err := readKeys(ctx, pool, sql, append(slices.Clip(args), last.id, time.UnixMicro(last.at)))
		if err != nil {
			return nil, err
		}
		pages = append(pages, page)
		if len(page) < keysSize {
			break
		}
		last = page[len(page)-1]
	}
	keys := slices.Concat(pages...)
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(cmp.Compare(a.at, b.at), bytes.Compare(a.id[:], b.id[:]))
	})
	return keys, nil
}

// newestWindow is the first time of a day in which the newest messages are looked
// for; each next one is four times as long.
const newestWindow = time.Minute

// newestOfDay returns the keys of the last messages of a day, newest last. Windows
// of time, found by the index on it, let those of a busy day come without the
// rest of it.
func newestOfDay(ctx context.Context, pool *pgxpool.Pool, day *Filter, limit int) (keys []key, err error) {
	window := *day
	window.Since = earlier(day.Until, time.Now()).Add(-newestWindow)
	for long := newestWindow; ; long *= 4 {
		if window.Since.Before(day.Since) {
			window.Since = day.Since
		}
		conditions, args := window.where()
		sql := fmt.Sprintf(`SELECT m.at, m.id FROM messages m WHERE %s ORDER BY m.at DESC, m.id DESC LIMIT %d`, conditions, limit-len(keys))
		some, err := readKeys(ctx, pool, sql, args)
		if err != nil {
			return nil, err
		}
		if keys = append(keys, some...); len(keys) == limit || window.Since.Equal(day.Since) {
			slices.Reverse(keys)
			return keys, nil
		}
		window.Until = window.Since
		window.Since = window.Until.Add(-4 * long)
	}
}

func readKeys(ctx context.Context, pool *pgxpool.Pool, sql string, args []any) (keys []key, err error) {
	// Planned each time, for this page: PostgreSQL's plan for any page takes few rows
	// to come after a key, and reads and sorts all that do.
	rows, err := pool.Query(ctx, sql, append([]any{pgx.QueryExecModeCacheDescribe}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("find messages: %w", err)
	}
	var at time.Time
	var id uuid.UUID
	_, err = pgx.ForEachRow(rows, []any{&at, &id}, func() error {
		keys = append(keys, key{at.UnixMicro(), id})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find messages: %w", err)
	}
	return keys, nil
}

// pageSQL has each row looked up by key, whatever the planner thinks of it: for
// id = ANY it may read the whole partition, for each page. $3 and $4 leave out
// those of other days. Details have the id and the time of their message, and so has
// what was given back.
const pageSQL = `SELECT m.id, m.at, m.uid, m.kind, m.script, m.crontab, m.site, m.sender, m.recipients, m.size, m.decision, m.refused_limit, m.refused_why,
       m.kind_proof, m.script_proof, m.crontab_proof, m.site_proof, m.host_id, m.user_id, m.subscription_id, m.domain_id, m.mailbox_id, m.refused_object,
       m.facts, d.message_id, d.subject, d.recipients, (SELECT returned_at FROM returned WHERE id = k.id AND at = k.at)
  FROM unnest($1::uuid[], $2::timestamptz[]) WITH ORDINALITY k (id, at, n),
       LATERAL (SELECT * FROM messages WHERE id = k.id AND at = k.at AND at >= $3 AND at < $4 LIMIT 1) m
  LEFT JOIN LATERAL (SELECT * FROM details WHERE id = k.id AND at = k.at AND at >= $3 AND at < $4 LIMIT 1) d ON true
 ORDER BY k.n`

// stored is a message whose objects have no names yet.
type stored struct {
	Message
	host                                quota.ID
	user, subscription, domain, mailbox *quota.ID
	refuser                             *quota.ID // the object whose limit refused it
	limit                               *int16    // of refuser
}

// read calls each with the messages of some keys of a day.
func (n names) read(ctx context.Context, pool *pgxpool.Pool, day *Filter, keys []key, each func(*Message) error) error {
	ids, times := make([]pgtype.UUID, 0, pageSize), make([]time.Time, 0, pageSize)
	for some := range slices.Chunk(keys, pageSize) {
		ids, times = ids[:0], times[:0]
		for _, k := range some {
			ids, times = append(ids, pgtype.UUID{Bytes: k.id, Valid: true}), append(times, time.UnixMicro(k.at))
		}
		rows, err := pool.Query(ctx, pageSQL, ids, times, day.Since, day.Until)
		if err != nil {
			return fmt.Errorf("read messages: %w", err)
		}
		page, err := pgx.CollectRows(rows, scanStored)
		if err != nil {
			return fmt.Errorf("read messages: %w", err)
		}
		if err := n.learn(ctx, pool, page); err != nil {
			return err
		}
		for i := range page {
			if err := each(n.apply(&page[i])); err != nil {
				return err
			}
		}
	}
	return nil
}

// decisions are the words for messages.decision.
var decisions = map[int16]string{1: "accepted", 2: "refused", 3: "observed"}

func scanStored(row pgx.CollectableRow) (s stored, err error) {
	var at time.Time
	var decision int16
	var proofs [4]*int16
	var facts []byte
	var givenBack *time.Time
	err = row.Scan(&s.ID, &at, &s.UID, &s.Kind, &s.Script, &s.Crontab, &s.Site, &s.Sender, &s.Recipients, &s.Size, &decision, &s.limit, &s.RefusedWhy,
		&proofs[0], &proofs[1], &proofs[2], &proofs[3], &s.host, &s.user, &s.subscription, &s.domain, &s.mailbox, &s.refuser,
		&facts, &s.MessageID, &s.Subject, &s.To, &givenBack)
	if err != nil {
		return s, err
	}
	s.GivenBack = (*Time)(givenBack)
	s.Time, s.Decision = Time(at), decisions[decision]
	s.Proof = map[string]string{}
	if s.UID != nil {
		s.Proof["uid"] = origin.Kernel.String()
	}
	for i, name := range []string{"kind", "script", "crontab", "site"} {
		if p := proofs[i]; p != nil {
			s.Proof[name] = origin.Proof(*p).String()
		}
	}
	if s.Subject != nil {
		*s.Subject = trace.DecodeSubject(*s.Subject)
	}
	return s, s.setFacts(facts)
}

func refusedBy(id quota.ID, name string, limit int16) string {
	if limit < 0 || limit >= quota.NumLimits {
		return ""
	}
	return quota.Object{Class: id.Class(), Name: name}.String() + " " + quota.Limit(limit).String()
}
