package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
)

// historyColumns are what history can count by.
var historyColumns = []string{"hour", "day"}

func (a *app) reportHistory() *cobra.Command {
	by := ""
	c := a.newQuery(&cobra.Command{
		Use: "history OBJECT", Short: "what an object sent, by hour or day",
		Long: "history shows what was sent of an object, a row for each hour or day (UTC) in which anything was: by hour where --since is\n" +
			"no more than three days ago, else by day.",
		Example: "  mailctl report history subscription:acme\n  mailctl report history user:alice --by day --since 31d\n  mailctl report history server --csv",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: offerInTurn(offerObjects(charged)),
	}, 0, "only the newest `rows`", func(ctx context.Context, q *query) error {
		list, _, err := a.totals(ctx, q, by)
		if err != nil {
			return err
		}
		return a.history(q, list)
	})
	byColumn(c, &by, "", historyColumns)
	return sinceAgo(c, "24h")
}

// mostHours is how long hours are shown, where nobody says by what.
const mostHours = 3*24*time.Hour + time.Minute

// totals reads what an object, or all, sent.
func (a *app) totals(ctx context.Context, q *query, by string) (list []report.Total, hours bool, err error) {
	switch {
	case by == "":
		hours = !q.filter.Since.IsZero() && time.Since(q.filter.Since) <= mostHours
	default:
		if err := mustBeOneOf(by, historyColumns); err != nil {
			return nil, false, err
		}
		hours = by == "hour"
	}
	f := q.filter
	if len(q.args) == 1 {
		o, err := object(q.args[0])
		if err != nil {
			return nil, false, err
		}
		if err := a.restrict(ctx, &f, o); err != nil {
			return nil, false, err
		}
	}
	list, err = a.readTotals(ctx, f, hours)
	if q.limit > 0 {
		list = list[max(len(list)-q.limit, 0):]
	}
	return list, hours, err
}

// restrict lets only what is of an object through a filter. It must exist.
func (a *app) restrict(ctx context.Context, f *report.Filter, o quota.Object) error {
	if !a.ordinary(ctx) {
		if _, err := a.store.Find(ctx, o); err != nil {
			return err
		}
	}
	switch o.Class {
	case quota.Plan:
		f.Plan = o.Name
	case quota.Subscription:
		f.Subscription = o.Name
	case quota.Domain:
		f.Domain = o.Name
	case quota.Mailbox:
		f.Mailbox = o.Name
	case quota.User:
		f.User = o.Name
		if a.config != nil { // a customer has the users of one subscription only
			f.Host = a.config.Host
		}
		if name, host, ok := strings.Cut(o.Name, "@"); ok {
			f.User, f.Host = name, host
		}
	}
	return nil
}

// bar is how long the longest bar of history is.
const bar = 30

func (a *app) history(q *query, list []report.Total) error {
	s := sheet{header: []string{"from", "accepted", "recipients", "refused", "observed", ""}, none: "nothing was sent"}
	if q.csv {
		s.header = s.header[:5]
	}
	var most int64 = 1
	for _, t := range list {
		most = max(most, t.Messages+t.Refused)
	}
	for _, t := range list {
		row := []any{t.At, t.Messages, t.Recipients, t.Refused, t.Observed}
		if !q.csv {
			accepted, all := int(t.Messages*bar/most), int((t.Messages+t.Refused)*bar/most)
			row = append(row, strings.Repeat("█", accepted)+strings.Repeat("░", all-accepted)+" ")
		}
		s.rows = append(s.rows, row)
	}
	return a.show(q, list, s)
}

func (a *app) reportTrend() *cobra.Command {
	by := ""
	c := a.newQuery(&cobra.Command{
		Use: "trend [OBJECT]", Short: "how much was sent over time, as a plot",
		Long: "trend plots on a terminal the messages that were let through, of an object or of all, by hour or day (UTC): by hour where --since is\n" +
			"no more than three days ago, else by day. Elsewhere it writes the table of report history.",
		Example: "  mailctl report trend\n  mailctl report trend subscription:acme --since 31d",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: offerInTurn(offerObjects(charged)),
	}, 0, "only the newest `rows`", func(ctx context.Context, q *query) error {
		list, hours, err := a.totals(ctx, q, by)
		switch {
		case err != nil:
			return err
		case len(list) == 0 || a.json || q.csv || !report.IsTerminal(a.stdout):
			return a.history(q, list)
		}
		return report.Plot(a.stdout, list, hours)
	})
	byColumn(c, &by, "", historyColumns)
	return sinceAgo(c, "31d")
}
