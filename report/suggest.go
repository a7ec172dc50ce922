package report

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
)

// Rule says how a limit follows from peaks.
type Rule struct {
	Percentile float64 // of the objects' peaks, above 0, to 100
	Headroom   float64 // so much more: 0.5 is half as much again
	Round      bool    // up to a number that is easily kept in mind
	HoursOnly  bool    // no limits of a day: less than one was measured
}

// leastSuggested is the lowest limit that is suggested: those who hardly send
// anything are no measure for the day on which they do.
const leastSuggested = 10

// limit is what a rule makes of a peak.
func (r Rule) limit(peak int64) int64 {
	n := int64(math.Ceil(float64(peak) * (1 + r.Headroom)))
	if r.Round {
		n = roundUp(n)
	}
	return min(max(n, leastSuggested), math.MaxInt32)
}

// roundUp is the next of 10, 12, 15, 20, 25, 30, 40, 50, 60, 80 and these with
// zeros behind.
func roundUp(n int64) int64 {
	steps := [...]int64{10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100}
	unit := int64(1)
	for n > unit*steps[len(steps)-1] {
		unit *= 10
	}
	for _, s := range steps {
		if n <= unit*s {
			return unit * s
		}
	}
	return n
}

// percentile is the value that p percent of sorted ones do not exceed: the
// nearest rank.
func percentile(sorted []int64, p float64) int64 {
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Suggestion is a default limit of a plan for each object of a class.
type Suggestion struct {
	Limit      string    `json:"limit"`
	Median     int64     `json:"median"`
	P95        int64     `json:"p95"`
	P99        int64     `json:"p99"`
	Max        int64     `json:"max"`
	Suggestion int64     `json:"suggestion"`
	Now        *int64    `json:"now"`      // what is set now, -1 is unlimited; null: nothing
	Above      int       `json:"above"`    // objects that it would have refused something
	Outliers   []Outlier `json:"outliers"` // these, highest peak first
}

// Outlier is an object whose peak is above the suggestion for its plan, and a
// limit of its own that would fit.
type Outlier struct {
	Object     string `json:"object"`
	Peak       int64  `json:"peak"`
	Suggestion int64  `json:"suggestion"`
}

// PlanSuggestion are the suggestions for a plan; objects are those that sent.
type PlanSuggestion struct {
	Plan    string       `json:"plan"`
	Class   string       `json:"class"`
	Objects int          `json:"objects"`
	Limits  []Suggestion `json:"limits"` // one for each limit that has a window, and was measured
}

// measured is an object that sent, and which limits of its own it has: its plan's
// defaults do not matter for these.
type measured struct {
	name string
	peak Peak
	own  [len(windowed)]bool
}

// suggest makes the suggestions of a plan from its objects, which are one at least.
func (r Rule) suggest(plan string, class quota.Class, objects []measured, now [len(windowed)]*int64) PlanSuggestion {
	p := PlanSuggestion{Plan: plan, Class: class.String(), Objects: len(objects)}
	peaks := make([]int64, len(objects))
	for i, l := range windowed {
		if r.HoursOnly && (l == quota.MessagesDay || l == quota.RecipientsDay) {
			continue
		}
		for n := range objects {
			peaks[n] = objects[n].peak[i]
		}
		slices.Sort(peaks)
		s := Suggestion{Limit: l.String(), Median: percentile(peaks, 50), P95: percentile(peaks, 95), P99: percentile(peaks, 99), Max: peaks[len(peaks)-1],
			Suggestion: r.limit(percentile(peaks, r.Percentile)), Now: now[i], Outliers: []Outlier{}}
		for _, o := range objects {
			if o.peak[i] > s.Suggestion && !o.own[i] {
				s.Outliers = append(s.Outliers, Outlier{quota.Object{Class: class, Name: o.name}.String(), o.peak[i], r.limit(o.peak[i])})
			}
		}
		slices.SortFunc(s.Outliers, func(a, b Outlier) int { return cmp.Or(cmp.Compare(b.Peak, a.Peak), cmp.Compare(a.Object, b.Object)) })
		s.Above = len(s.Outliers)
		p.Limits = append(p.Limits, s)
	}
	return p
}

// ownersSQL finds, for each class, name and plan of objects by id, as limit set
// takes the name. Plans in which nothing is refused anyway are asked for by name.
var ownersSQL = map[quota.Class]string{
	quota.Subscription: `SELECT o.id, o.name, o.plan_id FROM subscription o WHERE o.id = ANY($1) AND o.removed_at IS NULL`,
	quota.Domain:       `SELECT o.id, o.name, s.plan_id FROM domain o JOIN subscription s ON s.id = o.subscription_id WHERE o.id = ANY($1) AND o.removed_at IS NULL`,
	quota.Mailbox: `SELECT o.id, o.address, s.plan_id FROM mailbox o JOIN domain d ON d.id = o.domain_id JOIN subscription s ON s.id = d.subscription_id
 WHERE o.id = ANY($1) AND o.removed_at IS NULL`,
	quota.User: `SELECT o.id, o.name || '@' || h.name, s.plan_id FROM system_user o JOIN host h ON h.id = o.host_id JOIN subscription s ON s.id = o.subscription_id
 WHERE o.id = ANY($1) AND o.removed_at IS NULL`,
}

// Suggest makes suggestions for a plan, or, if it has no name, for each plan whose
// mode is not off and of which somebody sent, by name.
func Suggest(ctx context.Context, pool *pgxpool.Pool, class quota.Class, plan string, peaks *Peaks, r Rule) ([]PlanSuggestion, error) {
	ids := make([]quota.ID, 0, len(peaks.Of))
	for id := range peaks.Of {
		ids = append(ids, id)
	}
	rows, err := pool.Query(ctx, `SELECT o.id, o.name, p.id, p.name, l.messages_hour IS NOT NULL, l.messages_day IS NOT NULL, l.recipients_hour IS NOT NULL, l.recipients_day IS NOT NULL
  FROM (`+ownersSQL[class]+`) o (id, name, plan_id) JOIN plan p ON p.id = o.plan_id LEFT JOIN limits l ON l.owner_id = o.id AND l.class = $2
 WHERE p.name = $3 OR $3 = '' AND p.mode IS DISTINCT FROM 'off'`, ids, class, plan)
	if err != nil {
		return nil, fmt.Errorf("read who is under which plan: %w", err)
	}
	type named struct {
		id   quota.ID
		name string
	}
	objects := map[named][]measured{}
	var id quota.ID
	var p named
	var o measured
	_, err = pgx.ForEachRow(rows, []any{&id, &o.name, &p.id, &p.name, &o.own[0], &o.own[1], &o.own[2], &o.own[3]}, func() error {
		o.peak = peaks.Of[id]
		objects[p] = append(objects[p], o)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read who is under which plan: %w", err)
	}
	list := []PlanSuggestion{}
	for p, of := range objects {
		now, err := setNow(ctx, pool, p.id, class)
		if err != nil {
			return nil, err
		}
		list = append(list, r.suggest(p.name, class, of, now))
	}
	slices.SortFunc(list, func(a, b PlanSuggestion) int { return cmp.Compare(a.Plan, b.Plan) })
	return list, nil
}

// setNow are the defaults that a plan has.
func setNow(ctx context.Context, pool *pgxpool.Pool, plan quota.ID, class quota.Class) (now [len(windowed)]*int64, err error) {
	rows, err := pool.Query(ctx, `SELECT messages_hour, messages_day, recipients_hour, recipients_day FROM limits WHERE owner_id = $1 AND class = $2`, plan, class)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&now[0], &now[1], &now[2], &now[3]}, func() error { return nil })
	}
	if err != nil {
		return now, fmt.Errorf("read a plan's limits: %w", err)
	}
	return now, nil
}
