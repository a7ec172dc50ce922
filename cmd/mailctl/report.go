package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sendmail-wrapper/report"
)

// peopleRows is how many rows of messages people see, unless they ask for more.
const peopleRows = 100

// query is what all reports are asked for.
type query struct {
	filter       report.Filter
	since, until string
	limit        int
}

// newQuery gives a report its options; run follows once they are understood.
func (a *app) newQuery(c *cobra.Command, defaultLimit int, limitHelp string, run func(ctx context.Context, q *query) error) *cobra.Command {
	q := &query{}
	f := c.Flags()
	f.StringVar(&q.since, "since", "", "from this `time` on: 2026-11-23, \"2026-11-23 14:00\" (local), or 24h, 7d ago")
	f.StringVar(&q.until, "until", "", "before this `time`")
	f.StringVar(&q.filter.User, "user", "", "of this login `name`")
	f.StringVar(&q.filter.Subscription, "subscription", "", "of this subscription `name`")
	f.StringVar(&q.filter.Domain, "domain", "", "of this domain `name`")
	f.StringVar(&q.filter.Script, "script", "", "of scripts with this `text` in their path")
	f.StringVar(&q.filter.Crontab, "crontab", "", "of cron jobs with this `text` in their line")
	f.StringVar(&q.filter.Site, "site", "", "of this FPM pool or virtual host, by `name`")
	f.StringVar(&q.filter.Client, "client", "", "of web requests from this `address`")
	f.StringVar(&q.filter.Kind, "kind", "", "of this `kind` of program: php-fpm, cron, …")
	f.BoolVar(&q.filter.Refused, "refused", false, "refused ones only")
	f.IntVar(&q.limit, "limit", defaultLimit, limitHelp)
	offerFor(c, "kind", report.Kinds...)
	c.Args = cobra.NoArgs
	c.RunE = func(c *cobra.Command, _ []string) (err error) {
		if q.filter.Since, err = parseTime(q.since, time.Now()); err != nil {
			return err
		}
		if q.filter.Until, err = parseTime(q.until, time.Now()); err != nil {
			return err
		}
		if q.limit < 1 && f.Changed("limit") {
			return &failure{exUsage, fmt.Sprintf("--limit %d: must be a number above 0", q.limit), ""}
		}
		if err := a.connect(c.Context()); err != nil {
			return err
		}
		return run(c.Context(), q)
	}
	return c
}

func (a *app) report() *cobra.Command {
	attempts := a.newQuery(&cobra.Command{
		Use: "attempts", Short: "who tried to send more than he may, and by what",
		Example: "  mailctl report attempts --since 24h\n  mailctl report attempts --subscription acme --json",
	}, 50, "most `rows`", a.attempts)
	by := report.TopColumns[0]
	top := a.newQuery(&cobra.Command{
		Use: "top", Short: "who sent most",
		Example: "  mailctl report top\n  mailctl report top --by user --since 7d\n  mailctl report top --by crontab --json",
	}, 20, "most `rows`", func(ctx context.Context, q *query) error { return a.top(ctx, q, by) })
	top.Flags().StringVar(&by, "by", by, "count by this `column`: "+strings.Join(report.TopColumns, ", "))
	offerFor(top, "by", report.TopColumns...)
	messages := a.newQuery(&cobra.Command{
		Use: "messages", Short: "each message, newest last",
		Long: "messages shows each message, newest last: by time, those of one time by id. With --json it writes one object a line:\n" +
			"all of them, unless --limit says how many of the newest.",
		Example: "  mailctl report messages --user alice\n  mailctl report messages --refused --since 24h --json",
	}, 0, fmt.Sprintf("only the newest `rows` (default: all with --json, else %d)", peopleRows), a.messages)
	return group("report", "messages, senders, and attempts to send more than allowed", attempts.Example+"\n"+top.Example,
		attempts, top, messages, a.ranking("scripts", "script"), a.ranking("cron", "crontab"), a.ranking("sites", "site"))
}

func (a *app) attempts(ctx context.Context, q *query) error {
	list, err := report.Attempts(ctx, a.pool, q.filter, q.limit)
	if err != nil {
		return err
	}
	if a.json {
		if list == nil {
			list = []report.Attempt{}
		}
		return a.printJSON(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(a.stderr, "nobody tried to send more than he may")
		return nil
	}
	var rows [][]any
	for _, t := range list {
		rows = append(rows, []any{t.Attempts, t.RefusedBy, t.User, t.Kind, source(t.Script, t.Crontab), t.First, t.Last})
	}
	report.Table(a.stdout, []string{"attempts", "refused by", "user", "kind", "script or cron job", "first", "last"}, rows)
	return nil
}

func (a *app) top(ctx context.Context, q *query, by string) error {
	if !slices.Contains(report.TopColumns, by) {
		return &failure{exUsage, fmt.Sprintf("--by %s: must be one of %s", by, strings.Join(report.TopColumns, ", ")), ""}
	}
	list, err := report.Top(ctx, a.pool, q.filter, by, q.limit)
	if err != nil {
		return err
	}
	if a.json {
		if list == nil {
			list = []report.Sender{}
		}
		return a.printJSON(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(a.stderr, "nothing was sent")
		return nil
	}
	var rows [][]any
	for _, s := range list {
		rows = append(rows, []any{s.Recipients, s.Messages, s.Refused, s.Name, s.First, s.Last})
	}
	report.Table(a.stdout, []string{"recipients", "messages", "refused", by, "first", "last"}, rows)
	return nil
}

func (a *app) messages(ctx context.Context, q *query) error {
	limit := q.limit
	if a.json {
		out := bufio.NewWriter(a.stdout)
		e := encoder(out)
		err := report.Messages(ctx, a.pool, q.filter, limit, func(m *report.Message) error { return e.Encode(m) })
		return errors.Join(err, out.Flush())
	}
	if limit == 0 {
		limit = peopleRows
	}
	var rows [][]any
	err := report.Messages(ctx, a.pool, q.filter, limit, func(m *report.Message) error {
		why := ""
		if m.RefusedBy != nil {
			why = *m.RefusedBy
		}
		rows = append(rows, []any{m.Time, m.User, m.Kind, source(m.Script, m.Crontab), m.Sender, int64(m.Recipients), m.Decision, why})
		return nil
	})
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		fmt.Fprintln(a.stderr, "no such messages")
		return nil
	}
	report.Table(a.stdout, []string{"time", "user", "kind", "script or cron job", "sender", "recipients", "decision", "refused by"}, rows)
	if len(rows) == limit {
		fmt.Fprintf(a.stderr, "the newest %d; more: --limit NUMBER\n", limit)
	}
	return nil
}

// source names what sent a message: the crontab line where there is one.
func source(script, crontab *string) *string {
	if crontab != nil {
		return crontab
	}
	return script
}

// parseTime reads a time as people write it: a day, a minute, RFC 3339, or how
// long ago. Empty is the zero time.
func parseTime(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n < 100000 {
			return now.Add(-time.Duration(n) * 24 * time.Hour), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02", "2006-01-02 15:04", "2006-01-02 15:04:05"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, &failure{exUsage, fmt.Sprintf("%q is no time: write 2026-11-23, \"2026-11-23 14:00\", 2026-11-23T14:00:00Z, 24h or 7d", s), ""}
}
