package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sendmail-wrapper/report"
)

func (a *app) reportSummary() *cobra.Command {
	c := a.newQuery(&cobra.Command{
		Use: "summary", Short: "what was sent and refused, who tried to send more than he may, and whether he can send now",
		Long: "summary shows what was let through and refused, and which objects tried to send more than they may: those whose limit\n" +
			"refused messages, or would have in mode observe, and those that are blocked. An object is not sending if it is blocked, or one\n" +
			"of its limits or of what is above it is used up now.",
		Example: "  mailctl report summary\n  mailctl report summary --since 7d --json",
	}, 20, "most `objects`", a.summary)
	return sinceAgo(c, "24h")
}

func (a *app) summary(ctx context.Context, q *query) error {
	s, err := a.readSummary(ctx, q)
	if err != nil {
		return err
	}
	objects := sheet{header: []string{"attempts", "observed", "object", "status", "because of", "first", "last"}, none: "nobody tried to send more than he may"}
	for _, t := range s.Objects {
		status := "sending"
		if !t.Sending {
			status = "not sending"
		}
		objects.rows = append(objects.rows, []any{t.Attempts, t.Observed, t.Object, status, t.StoppedBy, t.First, t.Last})
	}
	if a.json || q.csv {
		return a.show(q, s, objects)
	}
	until := "now"
	if !q.filter.Until.IsZero() {
		until = localTime(s.Until)
	}
	fmt.Fprintf(a.stdout, "from      %s\nuntil     %s\naccepted  %d messages, %d recipients\nobserved  %d messages of these\nrefused   %d messages\n",
		localTime(s.Since), until, s.Counts.Messages, s.Counts.Recipients, s.Counts.Observed, s.Counts.Refused)
	for _, class := range s.Classes {
		fmt.Fprintf(a.stdout, "%s  %d tried to send more, %d of them not sending now\n", class.Class, class.Tried, class.Stopped)
	}
	return a.show(q, s, objects)
}

func (a *app) reportAttempts() *cobra.Command {
	by := ""
	c := a.newQuery(&cobra.Command{
		Use: "attempts", Short: "who tried to send more than he may, and by what",
		Long: "attempts shows who tried to send more than he may, a row for each source and what refused it, or, with --by, for each of what it\n" +
			"counts by. What mode observe let through is among the attempts, and counted in column observed.",
		Example: "  mailctl report attempts --since 24h\n  mailctl report attempts --by subscription --since 7d\n  mailctl report attempts --subscription acme --json",
	}, 50, "most `rows`", func(ctx context.Context, q *query) error {
		if by == "" {
			return a.attempts(ctx, q)
		}
		if err := a.connect(ctx); err != nil {
			return err
		}
		return a.attemptsBy(ctx, q, by)
	})
	byColumn(c, &by, "", report.AttemptColumns)
	return c
}

// byColumn gives a report the option --by.
func byColumn(c *cobra.Command, by *string, column string, columns []string) {
	c.Flags().StringVar(by, "by", column, "count by this `column`: "+strings.Join(columns, ", "))
	offerFor(c, "by", columns...)
}

func mustBeOneOf(by string, columns []string) error {
	if slices.Contains(columns, by) {
		return nil
	}
	return &failure{exUsage, fmt.Sprintf("--by %s: must be one of %s", by, strings.Join(columns, ", ")), ""}
}

func (a *app) attempts(ctx context.Context, q *query) error {
	list, err := a.readAttempts(ctx, q)
	if err != nil {
		return err
	}
	s := sheet{header: []string{"attempts", "observed", "refused by", "user", "kind", "script or cron job", "first", "last"}, none: "nobody tried to send more than he may"}
	for _, t := range list {
		s.rows = append(s.rows, []any{t.Attempts, t.Observed, t.RefusedBy, t.User, t.Kind, source(t.Script, t.Crontab), t.First, t.Last})
	}
	return a.show(q, list, s)
}

func (a *app) attemptsBy(ctx context.Context, q *query, by string) error {
	if err := mustBeOneOf(by, report.AttemptColumns); err != nil {
		return err
	}
	list, err := report.TopAttempts(ctx, a.pool, q.filter, by, q.limit)
	if err != nil {
		return err
	}
	s := sheet{header: []string{"attempts", "refused", "observed", by, "first", "last"}, none: "nobody tried to send more than he may"}
	for _, g := range list {
		s.rows = append(s.rows, []any{g.Refused + g.Observed, g.Refused, g.Observed, g.Name, g.First, g.Last})
	}
	return a.show(q, list, s)
}

func (a *app) reportTop() *cobra.Command {
	by := report.TopColumns[0]
	c := a.newQuery(&cobra.Command{
		Use: "top", Short: "who sent most",
		Example: "  mailctl report top\n  mailctl report top --by user --since 7d\n  mailctl report top --by crontab --json",
	}, 20, "most `rows`", func(ctx context.Context, q *query) error { return a.top(ctx, q, by) })
	byColumn(c, &by, by, report.TopColumns)
	return c
}

func (a *app) top(ctx context.Context, q *query, by string) error {
	if err := mustBeOneOf(by, report.TopColumns); err != nil {
		return err
	}
	list, err := report.Top(ctx, a.pool, q.filter, by, q.limit)
	if err != nil {
		return err
	}
	s := sheet{header: []string{"recipients", "messages", "refused", "observed", by, "first", "last"}, none: "nothing was sent"}
	for _, g := range list {
		s.rows = append(s.rows, []any{g.Recipients, g.Messages, g.Refused, g.Observed, g.Name, g.First, g.Last})
	}
	return a.show(q, list, s)
}
