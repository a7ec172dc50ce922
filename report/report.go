// Package report reads message rows for an administrator: single messages, who
// sent most, and who tried to send more than he may.
//
// Rows are read in pages of a few thousand, and sums made day by day, each in a
// snapshot of its own: one that stays open for the time of a long report would
// keep PostgreSQL from cleaning up the counters, and slow down all mail.
// Conditions on the time leave out the partitions of other days.
package report

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
)

// Filter says which messages are wanted. A zero field lets all through.
type Filter struct {
	Since, Until time.Time // Since ≤ time < Until
	User         string    // login name
	Subscription string
	Domain       string
	Script       string // a part of the path
	Refused      bool   // refused ones only
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
	Decision     string            `json:"decision"`    // accepted, refused
	RefusedBy    *string           `json:"refused_by"`  // "subscription:alice messages/hour", or the reason where no limit refused it
	RefusedWhy   *string           `json:"refused_why"` // the line that the caller was given
	Proof        map[string]string `json:"proof"`       // known fact → kernel, system, claimed
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
	since, until := f.Since, f.Until
	if until.IsZero() {
		until = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if since.IsZero() {
		since = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	}
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
	} {
		if c.value != "" {
			add(c.condition, c.value)
		}
	}
	if f.Refused {
		conditions += " AND m.decision = 2"
	}
	return conditions, args
}

// names joins rows m with the names of their objects, also of removed ones.
const names = `
  LEFT JOIN system_user u ON u.id = m.user_id
  LEFT JOIN subscription s ON s.id = m.subscription_id
  LEFT JOIN domain d ON d.id = m.domain_id
`

// refuserName is the name of the object whose limit refused a message.
const refuserName = `CASE m.refused_object >> 40
       WHEN 1 THEN (SELECT name FROM system_user WHERE id = m.refused_object)
       WHEN 2 THEN (SELECT address FROM mailbox WHERE id = m.refused_object)
       WHEN 3 THEN (SELECT name FROM domain WHERE id = m.refused_object)
       WHEN 4 THEN (SELECT name FROM subscription WHERE id = m.refused_object)
       WHEN 6 THEN '' END`

// pageSize is how many rows one snapshot reads.
const pageSize = 5000

// Messages calls each with the messages that a filter lets through, newest
// last: with the newest ones only, if limit is not 0.
func Messages(ctx context.Context, pool *pgxpool.Pool, f Filter, limit int, each func(*Message) error) error {
	if limit > 0 {
		list, err := newest(ctx, pool, &f, limit)
		if err != nil {
			return err
		}
		for i := range list {
			if err := each(&list[i]); err != nil {
				return err
			}
		}
		return nil
	}
	conditions, args := f.where()
	var last *Message
	for {
		after, now := "", args
		if last != nil {
			after = fmt.Sprintf(" AND (m.at, m.id) > ($%d, $%d)", len(args)+1, len(args)+2)
			// And by the time alone: only that leaves partitions out.
			after += fmt.Sprintf(" AND m.at >= $%d", len(args)+1)
			now = append(slices.Clip(args), time.Time(last.Time), last.ID)
		}
		page, err := readPage(ctx, pool, conditions+after, "m.at, m.id", pageSize, now)
		if err != nil {
			return err
		}
		for i := range page {
			if err := each(&page[i]); err != nil {
				return err
			}
		}
		if len(page) < pageSize {
			return nil
		}
		last = &page[len(page)-1]
	}
}

// newest returns the last messages, newest last.
func newest(ctx context.Context, pool *pgxpool.Pool, f *Filter, limit int) ([]Message, error) {
	conditions, args := f.where()
	var list []Message
	for len(list) < limit {
		before, now := "", args
		if n := len(list); n > 0 {
			before = fmt.Sprintf(" AND (m.at, m.id) < ($%d, $%d) AND m.at <= $%d", len(args)+1, len(args)+2, len(args)+1)
			now = append(slices.Clip(args), time.Time(list[n-1].Time), list[n-1].ID)
		}
		size := min(limit-len(list), pageSize)
		page, err := readPage(ctx, pool, conditions+before, "m.at DESC, m.id DESC", size, now)
		if err != nil {
			return nil, err
		}
		list = append(list, page...)
		if len(page) < size {
			break
		}
	}
	slices.Reverse(list)
	return list, nil
}

// readPage looks for the rows of a page first, and then for their names, so that
// no others are joined.
func readPage(ctx context.Context, pool *pgxpool.Pool, conditions, order string, size int, args []any) ([]Message, error) {
	rows, err := pool.Query(ctx, `SELECT m.id, m.at, h.name, m.uid, u.name, s.name, d.name, b.address, m.kind, m.script, m.crontab, m.site,
       m.sender, m.recipients, m.size, m.decision, m.refused_object, m.refused_limit, `+refuserName+`, m.refused_why,
       m.kind_proof, m.script_proof, m.crontab_proof, m.site_proof
  FROM (SELECT * FROM messages m WHERE `+conditions+` ORDER BY `+order+` LIMIT `+strconv.Itoa(size)+`) m`+names+`
  LEFT JOIN mailbox b ON b.id = m.mailbox_id
  JOIN host h ON h.id = m.host_id
 ORDER BY `+order, args...)
	if err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}
	page, err := pgx.CollectRows(rows, scanMessage)
	if err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}
	return page, nil
}

func scanMessage(row pgx.CollectableRow) (m Message, err error) {
	var at time.Time
	var decision int16
	var refusedObject *quota.ID
	var refusedLimit *int16
	var refuser *string
	var proofs [4]*int16
	err = row.Scan(&m.ID, &at, &m.Host, &m.UID, &m.User, &m.Subscription, &m.Domain, &m.Mailbox, &m.Kind, &m.Script, &m.Crontab, &m.Site,
		&m.Sender, &m.Recipients, &m.Size, &decision, &refusedObject, &refusedLimit, &refuser, &m.RefusedWhy,
		&proofs[0], &proofs[1], &proofs[2], &proofs[3])
	if err != nil {
		return m, err
	}
	m.Time, m.Decision = Time(at), "accepted"
	if decision == 2 {
		m.Decision, m.RefusedBy = "refused", m.RefusedWhy
		if refusedObject != nil && refusedLimit != nil && refuser != nil {
			by := refusedBy(*refusedObject, *refuser, *refusedLimit)
			m.RefusedBy = &by
		}
	}
	m.Proof = map[string]string{}
	if m.UID != nil {
		m.Proof["uid"] = origin.Kernel.String()
	}
	for i, name := range []string{"kind", "script", "crontab", "site"} {
		if p := proofs[i]; p != nil {
			m.Proof[name] = origin.Proof(*p).String()
		}
	}
	return m, nil
}

func refusedBy(id quota.ID, name string, limit int16) string {
	if limit < 0 || limit >= quota.NumLimits {
		return ""
	}
	return quota.Object{Class: id.Class(), Name: name}.String() + " " + quota.Limit(limit).String()
}
