package report

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
)

// Names of the objects of rows m, also of removed ones. Each is looked up by key,
// whatever the planner thinks of it: a join would read a table of all customers
// for a few groups.
const (
	userName         = `(SELECT name FROM system_user WHERE id = m.user_id)`
	subscriptionName = `(SELECT name FROM subscription WHERE id = m.subscription_id)`
	domainName       = `(SELECT name FROM domain WHERE id = m.domain_id)`
	hostName         = `(SELECT name FROM host WHERE id = m.host_id)`
)

// refuserName is the name of the object whose limit refused a message.
const refuserName = `CASE m.refused_object >> 40
       WHEN 1 THEN (SELECT name FROM system_user WHERE id = m.refused_object)
       WHEN 2 THEN (SELECT address FROM mailbox WHERE id = m.refused_object)
       WHEN 3 THEN (SELECT name FROM domain WHERE id = m.refused_object)
       WHEN 4 THEN (SELECT name FROM subscription WHERE id = m.refused_object)
       WHEN 6 THEN '' END`

// days splits a filter by the days (UTC) for which there are rows.
func days(ctx context.Context, pool *pgxpool.Pool, f Filter) ([]Filter, error) {
	rows, err := pool.Query(ctx, `SELECT to_date(right(c.relname, 8), 'YYYYMMDD') FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'messages'::regclass AND c.relname ~ '^messages_[0-9]{8}$' ORDER BY 1`)
	if err != nil {
		return nil, fmt.Errorf("list the days: %w", err)
	}
	dates, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
	if err != nil {
		return nil, fmt.Errorf("list the days: %w", err)
	}
	var list []Filter
	for _, day := range dates {
		d := f
		if d.Since.Before(day) {
			d.Since = day
		}
		if next := day.AddDate(0, 0, 1); d.Until.IsZero() || d.Until.After(next) {
			d.Until = next
		}
		if d.Since.Before(d.Until) {
			list = append(list, d)
		}
	}
	return list, nil
}

// Attempt is a group of refused messages: those of one source that one limit,
// or one reason, refused.
type Attempt struct {
	RefusedBy  string  `json:"refused_by"`
	User       *string `json:"user"`
	Kind       string  `json:"kind"`
	Script     *string `json:"script"`
	Crontab    *string `json:"crontab"`
	Attempts   int64   `json:"attempts"`
	Recipients int64   `json:"recipients"`
	First      Time    `json:"first"`
	Last       Time    `json:"last"`
}

// key is what tells groups of attempts apart.
func (a *Attempt) key() [5]string {
	return [5]string{a.RefusedBy, orNull(a.User), a.Kind, orNull(a.Script), orNull(a.Crontab)}
}

// orNull makes NULL a text that no column holds.
func orNull(s *string) string {
	if s == nil {
		return "\x00"
	}
	return *s
}

// Attempts returns who tried to send more than he may, most attempts first, at
// most limit of them.
func Attempts(ctx context.Context, pool *pgxpool.Pool, f Filter, limit int) ([]Attempt, error) {
	f.Refused = true
	list, err := days(ctx, pool, f)
	if err != nil {
		return nil, err
	}
	groups := map[[5]string]*Attempt{}
	for _, day := range list {
		attempts, err := attemptsOfDay(ctx, pool, &day)
		if err != nil {
			return nil, err
		}
		for i := range attempts {
			a := &attempts[i]
			g := groups[a.key()]
			if g == nil {
				groups[a.key()] = a
				continue
			}
			g.Attempts += a.Attempts
			g.Recipients += a.Recipients
			g.First, g.Last = earliest(g.First, a.First), latest(g.Last, a.Last)
		}
	}
	return first(groups, limit, func(a, b *Attempt) int {
		return cmp.Or(cmp.Compare(b.Attempts, a.Attempts), time.Time(b.Last).Compare(time.Time(a.Last)))
	}), nil
}

func attemptsOfDay(ctx context.Context, pool *pgxpool.Pool, f *Filter) ([]Attempt, error) {
	conditions, args := f.where()
	rows, err := pool.Query(ctx, `SELECT m.refused_object, m.refused_limit, `+refuserName+`, m.reason, `+userName+`, m.kind, m.script, m.crontab,
       m.attempts, m.recipients, m.first, m.last
  FROM (SELECT m.refused_object, m.refused_limit, CASE WHEN m.refused_object IS NULL THEN m.refused_why END AS reason,
               m.user_id, m.kind, m.script, m.crontab, count(*) AS attempts, sum(m.recipients)::bigint AS recipients, min(m.at) AS first, max(m.at) AS last
          FROM messages m WHERE `+conditions+`
         GROUP BY m.refused_object, m.refused_limit, reason, m.user_id, m.kind, m.script, m.crontab) m`, args...)
	if err != nil {
		return nil, fmt.Errorf("read attempts: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (a Attempt, err error) {
		var object *quota.ID
		var number *int16
		var refuser, reason *string
		var first, last time.Time
		err = row.Scan(&object, &number, &refuser, &reason, &a.User, &a.Kind, &a.Script, &a.Crontab, &a.Attempts, &a.Recipients, &first, &last)
		if object != nil && number != nil && refuser != nil {
			a.RefusedBy = refusedBy(*object, *refuser, *number)
		} else if reason != nil {
			a.RefusedBy = *reason
		}
		a.First, a.Last = Time(first), Time(last)
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("read attempts: %w", err)
	}
	return list, nil
}

// Sender is what one source sent.
type Sender struct {
	Name       *string `json:"name"` // null: not known
	Messages   int64   `json:"messages"`
	Recipients int64   `json:"recipients"`
	Refused    int64   `json:"refused"` // messages that were not let through
	First      Time    `json:"first"`
	Last       Time    `json:"last"`
}

// TopColumns are what Top can count by.
var TopColumns = []string{"script", "crontab", "user", "subscription", "domain", "site", "sender", "kind", "host"}

// topSQL are for each of these what tells senders apart in rows m, and its name.
var topSQL = map[string]struct{ column, name string }{
	"script": {"script", "m.script"}, "crontab": {"crontab", "m.crontab"}, "site": {"site", "m.site"}, "sender": {"sender", "m.sender"},
	"kind": {"kind", "m.kind"}, "user": {"user_id", userName}, "subscription": {"subscription_id", subscriptionName},
	"domain": {"domain_id", domainName}, "host": {"host_id", hostName},
}

// Top returns who sent most, by one of TopColumns, at most limit of them.
// Messages and recipients are those let through.
func Top(ctx context.Context, pool *pgxpool.Pool, f Filter, by string, limit int) ([]Sender, error) {
	if _, ok := topSQL[by]; !ok {
		return nil, fmt.Errorf("cannot count by %q: there are %s", by, strings.Join(TopColumns, ", "))
	}
	list, err := days(ctx, pool, f)
	if err != nil {
		return nil, err
	}
	groups := map[string]*Sender{}
	for _, day := range list {
		senders, err := sendersOfDay(ctx, pool, &day, by)
		if err != nil {
			return nil, err
		}
		for i := range senders {
			s := &senders[i]
			g := groups[orNull(s.Name)]
			if g == nil {
				groups[orNull(s.Name)] = s
				continue
			}
			g.Messages += s.Messages
			g.Recipients += s.Recipients
			g.Refused += s.Refused
			g.First, g.Last = earliest(g.First, s.First), latest(g.Last, s.Last)
		}
	}
	return first(groups, limit, func(a, b *Sender) int {
		return cmp.Or(cmp.Compare(b.Recipients, a.Recipients), cmp.Compare(b.Refused, a.Refused), cmp.Compare(orNull(a.Name), orNull(b.Name)))
	}), nil
}

func sendersOfDay(ctx context.Context, pool *pgxpool.Pool, f *Filter, by string) ([]Sender, error) {
	conditions, args := f.where()
	column, name := topSQL[by].column, topSQL[by].name
	rows, err := pool.Query(ctx, `SELECT `+name+`, m.messages, m.recipients, m.refused, m.first, m.last
  FROM (SELECT m.`+column+`, count(*) FILTER (WHERE m.decision = 1) AS messages, coalesce(sum(m.recipients) FILTER (WHERE m.decision = 1), 0)::bigint AS recipients,
               count(*) FILTER (WHERE m.decision = 2) AS refused, min(m.at) AS first, max(m.at) AS last
          FROM messages m WHERE `+conditions+` GROUP BY m.`+column+`) m`, args...)
	if err != nil {
		return nil, fmt.Errorf("read senders: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Sender, err error) {
		var first, last time.Time
		err = row.Scan(&s.Name, &s.Messages, &s.Recipients, &s.Refused, &first, &last)
		s.First, s.Last = Time(first), Time(last)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("read senders: %w", err)
	}
	return list, nil
}

// first returns the first groups in an order, at most limit of them.
func first[K comparable, G any](groups map[K]*G, limit int, compare func(a, b *G) int) []G {
	list := make([]G, 0, len(groups))
	for _, g := range groups {
		list = append(list, *g)
	}
	slices.SortFunc(list, func(a, b G) int { return compare(&a, &b) })
	return list[:min(limit, len(list))]
}

func earliest(a, b Time) Time {
	if time.Time(b).Before(time.Time(a)) {
		return b
	}
	return a
}

func latest(a, b Time) Time {
	if time.Time(b).After(time.Time(a)) {
		return b
	}
	return a
}
