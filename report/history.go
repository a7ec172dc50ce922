package report

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Total is what was sent in an hour or a day.
type Total struct {
	At Time `json:"at"` // its beginning
	Counts
}

// Totals returns what was sent in each hour or day (UTC) of a filter's time in which
// anything was, oldest first.
func Totals(ctx context.Context, pool *pgxpool.Pool, f Filter, hours bool) ([]Total, error) {
	unit, g := "day", byDay
	if hours {
		unit, g = "hour", byHour
	}
	sql := func(source, conditions string) string {
		begin := `date_trunc('` + unit + `', m.at, 'UTC')`
		if source != rowsSQL && g == byHour {
			begin = "m.at" // the parts are no finer
		}
		return `SELECT ` + begin + ` AS k, ` + countsSQL + ` FROM ` + source + ` m WHERE ` + conditions + ` GROUP BY 1 ORDER BY 1`
	}
	list := []Total{}
	scan := func(row pgx.CollectableRow) (t Total, err error) {
		return t, row.Scan(append([]any{(*time.Time)(&t.At)}, t.into()...)...)
	}
	err := eachGroup(ctx, pool, f, g, classOf(&f, ""), sql, scan, func(t Total) {
		if n := len(list) - 1; n >= 0 && time.Time(list[n].At).Equal(time.Time(t.At)) {
			list[n].add(&t.Counts)
			return
		}
		list = append(list, t)
	})
	if err != nil {
		return nil, fmt.Errorf("count by %s: %w", unit, err)
	}
	return list, nil
}

// WithGaps adds the hours or days between the first and the last in which nothing
// was sent, for a plot.
func WithGaps(list []Total, hours bool) []Total {
	step := day
	if hours {
		step = hour
	}
	var all []Total
	for _, t := range list {
		for n := len(all); n > 0 && time.Time(t.At).Sub(time.Time(all[n-1].At)) > step; n = len(all) {
			all = append(all, Total{At: Time(time.Time(all[n-1].At).Add(step))})
		}
		all = append(all, t)
	}
	return all
}
