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
	userName = `(SELECT name FROM system_user WHERE id = m.user_id)`
	hostName = `(SELECT name FROM host WHERE id = m.host_id)`
)

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

// countsSQL are the counts of a group of rows m of a part.
const countsSQL = `coalesce(sum(m.messages) FILTER (WHERE m.decision <> 2), 0)::bigint AS messages,
       coalesce(sum(m.recipients) FILTER (WHERE m.decision <> 2), 0)::bigint AS recipients,
       coalesce(sum(m.messages) FILTER (WHERE m.decision = 2), 0)::bigint AS refused,
       coalesce(sum(m.messages) FILTER (WHERE m.decision = 3), 0)::bigint AS observed,
       min(m.first) AS first, max(m.last) AS last`

// Counts are the sums of a group of messages.
type Counts struct {
	Messages   int64 `json:"messages"`   // let through, as recipients
	Recipients int64 `json:"recipients"` // of these
	Refused    int64 `json:"refused"`    // messages
	Observed   int64 `json:"observed"`   // of those let through: would have been refused, but for mode observe
	First      Time  `json:"first"`
	Last       Time  `json:"last"`
}

func (c *Counts) add(o *Counts) {
	c.Messages += o.Messages
	c.Recipients += o.Recipients
	c.Refused += o.Refused
	c.Observed += o.Observed
	c.First, c.Last = earliest(c.First, o.First), latest(c.Last, o.Last)
}

// into are what countsSQL is scanned into.
func (c *Counts) into() []any {
	return []any{&c.Messages, &c.Recipients, &c.Refused, &c.Observed, (*time.Time)(&c.First), (*time.Time)(&c.Last)}
}

// Attempt is a group of messages that were refused, or would have been: those of
// one source that one limit, or one reason, refused.
type Attempt struct {
	RefusedBy  string  `json:"refused_by"`
	User       *string `json:"user"`
	Kind       string  `json:"kind"`
	Script     *string `json:"script"`
	Crontab    *string `json:"crontab"`
	Attempts   int64   `json:"attempts"`
	Observed   int64   `json:"observed"` // of these: let through by mode observe
	Recipients int64   `json:"recipients"`
	First      Time    `json:"first"`
	Last       Time    `json:"last"`

	user, refuser quota.ID // 0: none
	limit         int16    // of refuser; -1: none
}

func (a *Attempt) add(o *Attempt) {
	a.Attempts += o.Attempts
	a.Observed += o.Observed
	a.Recipients += o.Recipients
	a.First, a.Last = earliest(a.First, o.First), latest(a.Last, o.Last)
}

// attemptIDs is what tells groups of attempts apart before they have names.
type attemptIDs struct {
	user, refuser                 quota.ID
	limit                         int16
	reason, kind, script, crontab string
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
	f.tried = true
	all := map[attemptIDs]*Attempt{}
	err := eachGroup(ctx, pool, f, byDay, 0, attemptsSQL, scanAttempt, func(a Attempt) {
		k := attemptIDs{a.user, a.refuser, a.limit, a.RefusedBy, a.Kind, orNull(a.Script), orNull(a.Crontab)}
		if met := all[k]; met != nil {
			met.add(&a)
			return
		}
		all[k] = &a
	})
	if err != nil {
		return nil, fmt.Errorf("read attempts: %w", err)
	}
	most := func(a, b *Attempt) int {
		return cmp.Or(cmp.Compare(b.Attempts, a.Attempts), time.Time(b.Last).Compare(time.Time(a.Last)), cmp.Compare(a.refuser, b.refuser), cmp.Compare(a.user, b.user))
	}
	list := first(all, spare*limit, most)
	known := names{}
	var ids []quota.ID
	for i := range list {
		ids = append(ids, list[i].user, list[i].refuser)
	}
	if err := known.lookUp(ctx, pool, ids); err != nil {
		return nil, err
	}
	named := map[[5]string]*Attempt{}
	for i := range list {
		a := &list[i]
		a.User = known.of(&a.user)
		if refuser := known.of(&a.refuser); refuser != nil && a.limit >= 0 {
			a.RefusedBy = refusedBy(a.refuser, *refuser, a.limit)
		}
		if met := named[a.key()]; met != nil {
			met.add(a)
			continue
		}
		named[a.key()] = a
	}
	return first(named, limit, most), nil
}

// spare is how many times as many groups get names as are asked for: those of one
// name, such as of a user who was removed and came back, are shown as one.
const spare = 4

func attemptsSQL(source, conditions string) string {
	return `SELECT m.refused_object, m.refused_limit, m.reason, m.user_id, m.kind, nullif(m.script, ''), nullif(m.crontab, ''), sum(m.messages)::bigint AS attempts,
       coalesce(sum(m.messages) FILTER (WHERE m.decision = 3), 0)::bigint AS observed, sum(m.recipients)::bigint AS recipients, min(m.first) AS first, max(m.last) AS last
  FROM ` + source + ` m WHERE ` + conditions + `
 GROUP BY m.refused_object, m.refused_limit, m.reason, m.user_id, m.kind, m.script, m.crontab`
}

func scanAttempt(row pgx.CollectableRow) (a Attempt, err error) {
	return a, row.Scan(&a.refuser, &a.limit, &a.RefusedBy, &a.user, &a.Kind, &a.Script, &a.Crontab, &a.Attempts, &a.Observed, &a.Recipients,
		(*time.Time)(&a.First), (*time.Time)(&a.Last))
}

// Group is what one source sent, or tried to.
type Group struct {
	Name *string `json:"name"` // null: not known
	Counts

	key groupKey
}

// groupKey is the id of an object or host, or a text; neither: not known.
type groupKey struct {
	id   quota.ID
	text string
}

// groupSQL are for each column by which messages can be counted what tells groups
// apart in rows m: a text, or the id of an object or host.
var groupSQL = map[string]struct {
	sql  string
	isID bool
}{
	"server": {"'server'", false}, "plan": {"coalesce((SELECT plan_id FROM subscription WHERE id = m.subscription_id), 0)", true},
	"subscription": {"m.subscription_id", true}, "domain": {"m.domain_id", true}, "mailbox": {"m.mailbox_id", true}, "user": {"m.user_id", true},
	"host": {"m.host_id", true}, "script": {"m.script", false}, "crontab": {"m.crontab", false}, "site": {"m.site", false}, "sender": {"m.sender", false},
	"kind": {"m.kind", false}, "hour": {`to_char(date_trunc('hour', m.at, 'UTC') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')`, false},
}

// TopColumns are what Top can count by, AttemptColumns what TopAttempts can.
var (
	TopColumns     = []string{"script", "crontab", "user", "subscription", "domain", "mailbox", "plan", "site", "sender", "kind", "host", "hour"}
	AttemptColumns = []string{"server", "plan", "subscription", "domain", "mailbox", "user", "script", "crontab", "site", "hour", "host"}
)

// objectColumns are the columns that tell objects apart, of those groups that need
// no more than one.
var objectColumns = map[string]string{"server": "", "hour": "", "plan": "subscription_id", "subscription": "subscription_id", "domain": "domain_id",
	"mailbox": "mailbox_id", "user": "user_id", "host": "host_id"}

// grains are how fine the columns are that are finer than a day's sums.
var grains = map[string]grain{"hour": byHour, "sender": byRow}

// Top returns who sent most, by one of TopColumns, at most limit of them.
func Top(ctx context.Context, pool *pgxpool.Pool, f Filter, by string, limit int) ([]Group, error) {
	if !slices.Contains(TopColumns, by) {
		return nil, fmt.Errorf("cannot count by %q: there are %s", by, strings.Join(TopColumns, ", "))
	}
	return groups(ctx, pool, f, by, limit, func(a, b *Group) int {
		return cmp.Or(cmp.Compare(b.Recipients, a.Recipients), cmp.Compare(b.Refused, a.Refused), cmp.Compare(orNull(a.Name), orNull(b.Name)))
	})
}

// TopAttempts returns who tried most often to send more than he may, by one of
// AttemptColumns, at most limit of them. Recipients are those of what mode observe let
// through.
func TopAttempts(ctx context.Context, pool *pgxpool.Pool, f Filter, by string, limit int) ([]Group, error) {
	if !slices.Contains(AttemptColumns, by) {
		return nil, fmt.Errorf("cannot count by %q: there are %s", by, strings.Join(AttemptColumns, ", "))
	}
	f.tried = true
	return groups(ctx, pool, f, by, limit, func(a, b *Group) int {
		return cmp.Or(cmp.Compare(b.Refused+b.Observed, a.Refused+a.Observed), cmp.Compare(orNull(a.Name), orNull(b.Name)))
	})
}

func groups(ctx context.Context, pool *pgxpool.Pool, f Filter, by string, limit int, compare func(a, b *Group) int) ([]Group, error) {
	column := groupSQL[by]
	sql := func(source, conditions string) string {
		id, text := "0::bigint", column.sql
		if column.isID {
			id, text = column.sql+"::bigint", "''"
		}
		return `SELECT ` + id + ` AS id, ` + text + ` AS name, ` + countsSQL + ` FROM ` + source + ` m WHERE ` + conditions + ` GROUP BY 1, 2`
	}
	all := map[groupKey]*Group{}
	class := 0
	if needed, ok := objectColumns[by]; ok {
		class = classOf(&f, needed)
	}
	err := eachGroup(ctx, pool, f, grains[by], class, sql, scanGroup, func(g Group) {
		if met := all[g.key]; met != nil {
			met.add(&g.Counts)
			return
		}
		all[g.key] = &g
	})
	if err != nil {
		return nil, fmt.Errorf("count by %s: %w", by, err)
	}
	list := first(all, spare*limit, func(a, b *Group) int { return cmp.Or(compare(a, b), cmp.Compare(a.key.id, b.key.id)) })
	if err := nameGroups(ctx, pool, list); err != nil {
		return nil, err
	}
	named := map[string]*Group{}
	for i := range list {
		if met := named[orNull(list[i].Name)]; met != nil {
			met.add(&list[i].Counts)
			continue
		}
		named[orNull(list[i].Name)] = &list[i]
	}
	return first(named, limit, compare), nil
}

func nameGroups(ctx context.Context, pool *pgxpool.Pool, list []Group) error {
	known := names{}
	var ids []quota.ID
	for i := range list {
		if id := list[i].key.id; id != 0 {
			ids = append(ids, id)
		}
	}
	if err := known.lookUp(ctx, pool, ids); err != nil {
		return err
	}
	for i := range list {
		g := &list[i]
		switch {
		case g.key.id != 0:
			g.Name = known.of(&g.key.id)
		case g.key.text != "":
			g.Name = &g.key.text
		}
	}
	return nil
}

func scanGroup(row pgx.CollectableRow) (g Group, err error) {
	return g, row.Scan(append([]any{&g.key.id, &g.key.text}, g.into()...)...)
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
