package report

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
)

// Summary is what happened in a time, in a few lines.
type Summary struct {
	Since   Time           `json:"since"`
	Until   Time           `json:"until"`
	Counts  Counts         `json:"sent"`
	Classes []ClassSummary `json:"classes"` // those of which any object tried
	Objects []Tried        `json:"objects"` // that tried to send more than they may, most attempts first
}

// ClassSummary is how many objects of a class tried to send more than they may,
// and how many of these can send nothing now.
type ClassSummary struct {
	Class   string `json:"class"`
	Tried   int    `json:"tried"`
	Stopped int    `json:"not_sending"`
}

// Tried is an object whose limit refused messages, or would have, or that is
// blocked.
type Tried struct {
	Object    string  `json:"object"`
	Attempts  int64   `json:"attempts"`
	Observed  int64   `json:"observed"` // of these: let through by mode observe
	First     Time    `json:"first"`
	Last      Time    `json:"last"`
	Sending   bool    `json:"sending"`    // now
	StoppedBy *string `json:"stopped_by"` // the limit that is used up, or the block, of it or of what is above it

	id quota.ID
}

// Summarize sums up a filter's time; of the objects it returns at most limit.
func Summarize(ctx context.Context, pool *pgxpool.Pool, store *quota.Store, f Filter, limit int) (*Summary, error) {
	s := &Summary{Classes: []ClassSummary{}}
	since, until := f.bounds()
	s.Since, s.Until = Time(since), Time(until)
	tried, err := s.read(ctx, pool, f)
	if err != nil {
		return nil, fmt.Errorf("sum up: %w", err)
	}
	stopped, err := store.Stopped(ctx, slices.Collect(maps.Keys(tried)))
	if err != nil {
		return nil, err
	}
	for class := quota.Server; class > 0; class-- {
		c := ClassSummary{Class: class.String()}
		for id := range tried {
			if id.Class() == class {
				c.Tried++
				if stopped[id] != "" {
					c.Stopped++
				}
			}
		}
		if c.Tried > 0 {
			s.Classes = append(s.Classes, c)
		}
	}
	s.Objects = first(tried, limit, func(a, b *Tried) int {
		return cmp.Or(cmp.Compare(b.Attempts, a.Attempts), cmp.Compare(a.id, b.id))
	})
	known := names{}
	ids := make([]quota.ID, len(s.Objects))
	for i := range s.Objects {
		ids[i] = s.Objects[i].id
	}
	if err := known.lookUp(ctx, pool, ids); err != nil {
		return nil, err
	}
	for i := range s.Objects {
		t := &s.Objects[i]
		o := quota.Object{Class: t.id.Class()}
		if name := known.of(&t.id); name != nil {
			o.Name = *name
		}
		t.Object, t.Sending = o.String(), true
		if why := stopped[t.id]; why != "" {
			t.Sending, t.StoppedBy = false, &why
		}
	}
	return s, nil
}

// read adds up all messages, and returns the objects that refused some.
func (s *Summary) read(ctx context.Context, pool *pgxpool.Pool, f Filter) (map[quota.ID]*Tried, error) {
	all := func(source, conditions string) string {
		return `SELECT ` + countsSQL + ` FROM ` + source + ` m WHERE ` + conditions + ` HAVING count(*) > 0`
	}
	err := eachGroup(ctx, pool, f, byDay, classOf(&f, ""), all, func(row pgx.CollectableRow) (c Counts, err error) { return c, row.Scan(c.into()...) }, func(c Counts) {
		if time.Time(s.Counts.First).IsZero() {
			s.Counts = c
			return
		}
		s.Counts.add(&c)
	})
	if err != nil {
		return nil, err
	}
	objects := func(source, conditions string) string {
		return `SELECT m.refused_object, ` + countsSQL + ` FROM ` + source + ` m WHERE ` + conditions + ` AND m.refused_object <> 0 GROUP BY 1`
	}
	type group struct {
		id quota.ID
		Counts
	}
	scan := func(row pgx.CollectableRow) (g group, err error) {
		return g, row.Scan(append([]any{&g.id}, g.into()...)...)
	}
	tried := map[quota.ID]*Tried{}
	f.tried = true
	err = eachGroup(ctx, pool, f, byDay, 0, objects, scan, func(g group) {
		t := tried[g.id]
		if t == nil {
			t = &Tried{id: g.id, First: g.First, Last: g.Last}
			tried[g.id] = t
		}
		t.Attempts += g.Refused + g.Observed
		t.Observed += g.Observed
		t.First, t.Last = earliest(t.First, g.First), latest(t.Last, g.Last)
	})
	return tried, err
}
