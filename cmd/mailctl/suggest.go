package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
)

// suggesting is what suggest-limits is asked for.
type suggesting struct {
	class    string
	plan     string
	since    string
	headroom string
	rule     report.Rule
	apply    bool
	outliers bool
	yes      bool
}

func (a *app) suggestLimits() *cobra.Command {
	var s suggesting
	c := &cobra.Command{
		Use: "suggest-limits", Short: "suggest default limits from what was sent", Args: cobra.NoArgs,
		Long: "suggest-limits finds for each object of a class the most that it tried to send in any hour and any day, and suggests\n" +
			"for each plan a default that fits nearly all of them: the percentile of these peaks, with some headroom. Objects that\n" +
			"sent nothing do not count, nor do plans whose mode is off, unless --plan names one. Peaks are exact as long as the rows\n" +
			"of messages are kept; before, they come from sums of whole hours.\n\n" +
			"It changes nothing, unless --apply is given with --yes: then it sets these defaults on the plans, all or none, and\n" +
			"with --outliers also limits of their own on the objects that would have been refused something.",
		Example: "  mailctl suggest-limits\n  mailctl suggest-limits --class mailbox --plan gold --since 14d\n" +
			"  mailctl suggest-limits --percentile 95 --headroom 100%\n  mailctl suggest-limits --apply --outliers --yes",
		RunE: func(c *cobra.Command, _ []string) error { return a.suggest(c.Context(), &s) },
	}
	f := c.Flags()
	f.StringVar(&s.class, "class", "subscription", "`class` of the objects: subscription, domain, mailbox, user")
	f.StringVar(&s.plan, "plan", "", "of this `plan` only")
	f.StringVar(&s.since, "since", "7d", "from this `time` on, as in reports")
	f.Float64Var(&s.rule.Percentile, "percentile", 99, "so many `percent` of the objects fit")
	f.StringVar(&s.headroom, "headroom", "50%", "so much more than they sent, in `percent`")
	f.BoolVar(&s.rule.Round, "round", true, "round up")
	f.BoolVar(&s.apply, "apply", false, "set the suggestions as the plans' defaults")
	f.BoolVar(&s.outliers, "outliers", false, "with --apply: set limits of their own on the objects above them, too")
	f.BoolVar(&s.yes, "yes", false, "with --apply: really")
	a.addWhy(c)
	var words []string
	for _, class := range classesBelow {
		words = append(words, class.String())
	}
	offerFor(c, "class", words...)
	return c
}

func (a *app) suggest(ctx context.Context, s *suggesting) error {
	now := time.Now()
	class, since, err := s.check(now)
	if err != nil {
		return err
	}
	if err := a.connect(ctx); err != nil {
		return err
	}
	if s.plan != "" {
		if _, err := a.store.Find(ctx, quota.Object{Class: quota.Plan, Name: s.plan}); err != nil {
			return err
		}
	}
	peaks, err := report.MeasurePeaks(ctx, a.pool, class, since, a.progress)
	if err != nil {
		return err
	}
	if err := a.enough(s, peaks, since, now); err != nil {
		return err
	}
	list, err := report.Suggest(ctx, a.pool, class, s.plan, peaks, s.rule)
	if err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(list)
	} else {
		a.printSuggestions(list, class)
	}
	if err != nil || !s.apply || len(list) == 0 {
		return err
	}
	return a.applySuggestions(ctx, s, list, class, since)
}

// check reads the options.
func (s *suggesting) check(now time.Time) (class quota.Class, since time.Time, err error) {
	usage := func(format string, args ...any) (quota.Class, time.Time, error) {
		return 0, time.Time{}, &failure{exUsage, fmt.Sprintf(format, args...), ""}
	}
	if class, err = admin.Governs(quota.Object{Class: quota.Server}, s.class); err != nil || s.class == "" {
		return usage("--class: must be one of subscription, domain, mailbox, user")
	}
	s.plan = bare(quota.Plan, s.plan)
	if since, err = parseTime(s.since, now); err != nil {
		return 0, since, err
	}
	if since.IsZero() || since.After(now) {
		return usage("--since %q: must be a time that is past", s.since)
	}
	if p := s.rule.Percentile; !(p > 0 && p <= 100) {
		return usage("--percentile %g: must be a number above 0, 100 at most", p)
	}
	percent, err := strconv.ParseFloat(strings.TrimSuffix(s.headroom, "%"), 64)
	if err != nil || !(percent >= 0 && percent <= 10000) {
		return usage("--headroom %q: must be 0%% to 10000%%", s.headroom)
	}
	s.rule.Headroom = percent / 100
	if !s.apply && (s.outliers || s.yes) {
		return usage("--outliers and --yes have a meaning with --apply only")
	}
	return class, since, nil
}

// enough refuses to suggest anything from less than a day, in which not everybody
// has had his busy hour, unless a shorter time was asked for: then it is of the hour only.
func (a *app) enough(s *suggesting, peaks *report.Peaks, since, now time.Time) error {
	const day = 24 * time.Hour
	asked, there := now.Sub(since), now.Sub(peaks.First)
	switch {
	case peaks.First.IsZero():
		return &failure{exRefused, "nobody of this class sent anything since " + since.Format("2006-01-02 15:04"), ""}
	case asked < day:
		s.rule.HoursOnly = true
		fmt.Fprintln(a.stderr, a.warning("these are the peaks of "+hours(asked)+" only: not everybody has had his busy hour in it, and of a day they say nothing"))
	case there < day:
		return &failure{exRefused, "there are messages of " + hours(there) + " only: a suggestion needs those of a day",
			fmt.Sprintf("ask again tomorrow, or for less: mailctl suggest-limits --since %dh", there/time.Hour+1)}
	}
	if peaks.Sums && !a.json {
		fmt.Fprintln(a.stderr, "some of the time is known by the hour only: a peak across two hours may have been higher")
	}
	return nil
}

func hours(d time.Duration) string {
	if d < time.Hour {
		return "less than an hour"
	}
	return fmt.Sprintf("%d h", d/time.Hour)
}

// mostOutliers is how many of a limit are shown.
const mostOutliers = 10

func (a *app) printSuggestions(list []report.PlanSuggestion, class quota.Class) {
	if len(list) == 0 {
		fmt.Fprintln(a.stderr, "nobody sent anything under these plans")
		return
	}
	var rows [][]any
	for _, p := range list {
		for _, l := range p.Limits {
			now := "unset"
			if l.Now != nil {
				now = number(l.Now)
			}
			rows = append(rows, []any{p.Plan, l.Limit, p.Objects, l.Median, l.P95, l.P99, l.Max, now, l.Suggestion, l.Above})
		}
	}
	report.Table(a.stdout, []string{"plan", "limit", class.String() + "s", "median", "95%", "99%", "highest", "now", "suggestion", "above"}, rows)
	for _, p := range list {
		for _, l := range p.Limits {
			if len(l.Outliers) == 0 {
				continue
			}
			fmt.Fprintf(a.stdout, "\nabove %d %s under plan %s; limits of their own that would fit:\n", l.Suggestion, l.Limit, report.Printable(p.Plan))
			for _, o := range l.Outliers[:min(len(l.Outliers), mostOutliers)] {
				fmt.Fprintf(a.stdout, "  mailctl limit set %s %s %d\n", typed(o.Object), l.Limit, o.Suggestion)
			}
			if more := len(l.Outliers) - mostOutliers; more > 0 {
				fmt.Fprintf(a.stdout, "  … and %d more: --json has them all\n", more)
			}
		}
	}
}

// applySuggestions sets what was suggested.
func (a *app) applySuggestions(ctx context.Context, s *suggesting, list []report.PlanSuggestion, class quota.Class, since time.Time) error {
	changes, err := suggestedChanges(list, class, s.outliers)
	if err != nil {
		return err
	}
	if !s.yes {
		return &failure{exUsage, fmt.Sprintf("nothing is changed: %d limits would be set", len(changes)), "the same with --yes sets them"}
	}
	if a.why == "" {
		a.why = fmt.Sprintf("suggested from the peaks since %s: percentile %g, headroom %g%%", since.Format("2006-01-02 15:04"), s.rule.Percentile, s.rule.Headroom*100)
	}
	ad, err := a.admin(ctx)
	if err != nil {
		return err
	}
	if err := ad.ChangeLimits(ctx, changes); err != nil {
		return err
	}
	return a.done("set %d limits; mailctl limit show has them", len(changes))
}

func suggestedChanges(list []report.PlanSuggestion, class quota.Class, outliers bool) (changes []admin.LimitChange, err error) {
	for _, p := range list {
		for _, s := range p.Limits {
			l, err := quota.ParseLimit(s.Limit)
			if err != nil {
				return nil, err
			}
			changes = append(changes, admin.LimitChange{Object: quota.Object{Class: quota.Plan, Name: p.Plan}, Class: class, Limit: l, Value: s.Suggestion})
			if !outliers {
				continue
			}
			for _, o := range s.Outliers {
				of, err := quota.ParseObject(o.Object)
				if err != nil {
					return nil, err
				}
				changes = append(changes, admin.LimitChange{Object: of, Class: class, Limit: l, Value: o.Suggestion})
			}
		}
	}
	return changes, nil
}
