package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sendmail-wrapper/report"
)

// query is what all reports are asked for.
type query struct {
	filter       report.Filter
	since, until string
	limit        int
	csv          bool
	watch        time.Duration
	args         []string
}

// defaultWatch is how often --watch asks where it says no other time, leastWatch
// how often it may.
const defaultWatch, leastWatch = 2 * time.Second, 100 * time.Millisecond

// newQuery gives a report its options; run follows once they are understood.
func (a *app) newQuery(c *cobra.Command, defaultLimit int, limitHelp string, run func(ctx context.Context, q *query) error) *cobra.Command {
	q := &query{}
	f := c.Flags()
	f.StringVar(&q.since, "since", "", "from this `time` on: 2026-11-23, \"2026-11-23 14:00\" (local), or 24h, 7d ago")
	f.StringVar(&q.until, "until", "", "before this `time`")
	for _, o := range []struct {
		value      *string
		name, help string
	}{
		{&q.filter.User, "user", "of this login `name`"},
		{&q.filter.Subscription, "subscription", "of this subscription `name`"},
		{&q.filter.Domain, "domain", "of this domain `name`"},
		{&q.filter.Mailbox, "mailbox", "of this mailbox `address`"},
		{&q.filter.Plan, "plan", "of subscriptions that are on this plan `name` now"},
		{&q.filter.Host, "host", "of this mail host, by `name`"},
		{&q.filter.Script, "script", "of scripts with this `text` in their path"},
		{&q.filter.Crontab, "crontab", "of cron jobs with this `text` in their line"},
		{&q.filter.Site, "site", "of this FPM pool or virtual host, by `name`"},
		{&q.filter.Client, "client", "of web requests from this `address`"},
		{&q.filter.Kind, "kind", "of this `kind` of program: php-fpm, cron, …"},
	} {
		f.StringVar(o.value, o.name, "", o.help)
	}
	f.BoolVar(&q.filter.Refused, "refused", false, "refused ones only")
	f.IntVar(&q.limit, "limit", defaultLimit, limitHelp)
	f.BoolVar(&q.csv, "csv", false, "write CSV for spreadsheets")
	f.DurationVar(&q.watch, "watch", 0, "show it again and again, each such `time`")
	f.Lookup("watch").NoOptDefVal = defaultWatch.String()
	offerFor(c, "kind", report.Kinds...)
	if c.Args == nil {
		c.Args = cobra.NoArgs
	}
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		switch {
		case q.limit < 1 && f.Changed("limit"):
			return &failure{exUsage, fmt.Sprintf("--limit %d: must be a number above 0", q.limit), ""}
		case a.json && q.csv:
			return &failure{exUsage, "--json and --csv: one of them", ""}
		case f.Changed("watch") && (a.json || q.csv):
			return &failure{exUsage, "--watch is for people: not with --json or --csv", ""}
		case f.Changed("watch") && q.watch < leastWatch:
			return &failure{exUsage, fmt.Sprintf("--watch=%s: must be %s or more", q.watch, leastWatch), ""}
		}
		if err := q.parseTimes(time.Now()); err != nil {
			return err
		}
		q.args = args
		if !slices.Contains(forCustomers, c.Name()) || !a.ordinary(c.Context()) {
			if err := a.connect(c.Context()); err != nil {
				return err
			}
		}
		if q.watch > 0 {
			return a.watch(c.Context(), q, run)
		}
		return run(c.Context(), q)
	}
	return c
}

// sinceAgo has a report begin so long ago, unless --since says another time.
func sinceAgo(c *cobra.Command, ago string) *cobra.Command {
	f := c.Flags().Lookup("since")
	mustBeDefined(f.Value.Set(ago))
	f.DefValue = ago
	return c
}

// parseTimes reads --since and --until as of now.
func (q *query) parseTimes(now time.Time) (err error) {
	if q.filter.Since, err = parseTime(q.since, now); err != nil {
		return err
	}
	if q.filter.Until, err = parseTime(q.until, now); err != nil {
		return err
	}
	if !q.filter.Until.IsZero() && !q.filter.Since.Before(q.filter.Until) {
		return &failure{exUsage, fmt.Sprintf("--since %s is not before --until %s", q.since, q.until), ""}
	}
	return nil
}

func (a *app) report() *cobra.Command {
	attempts, top := a.reportAttempts(), a.reportTop()
	return group("report", "summary, attempts to send more than allowed, senders, history, messages", attempts.Example+"\n"+top.Example,
		a.reportSummary(), attempts, top, a.reportMessages(), a.ranking("scripts", "script"), a.ranking("cron", "crontab"), a.ranking("sites", "site"),
		a.reportHistory(), a.reportTrend())
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
