package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// ending is the end of an exception, as its options say.
type ending struct{ forTime, until string }

func (e *ending) add(c *cobra.Command) {
	c.Flags().StringVar(&e.forTime, "for", "", "for this `time`: 90m, 2h, 7d")
	c.Flags().StringVar(&e.until, "until", "", "until this `time`: 18:00, 2026-11-30, \"2026-11-30 14:00\" (local)")
}

// longest is the longest --for.
const longest = 3650 * 24 * time.Hour

// parse returns the zero time where there is no end.
func (e *ending) parse(c *cobra.Command, now time.Time) (time.Time, error) {
	switch given := c.Flags().Changed; {
	case given("for") && given("until"):
		return time.Time{}, &failure{exUsage, "--for and --until both say when it ends: give one of them", ""}
	case given("for"):
		d, err := parseSpan(e.forTime)
		if err != nil {
			return time.Time{}, err
		}
		return now.Add(d), nil
	case given("until"):
		return parseEnd(e.until, now)
	}
	return time.Time{}, nil
}

func parseSpan(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		d = time.Duration(min(max(n, 0), 100_000)) * 24 * time.Hour
	}
	if err != nil || d <= 0 || d > longest {
		return 0, &failure{exUsage, fmt.Sprintf("--for %.60q is no time: write 90m, 2h or 7d, at most 3650d", s), ""}
	}
	return d, nil
}

// parseEnd reads a time that is to come.
func parseEnd(s string, now time.Time) (time.Time, error) {
	if t, err := time.ParseInLocation("15:04", s, time.Local); err == nil {
		l := now.Local()
		end := time.Date(l.Year(), l.Month(), l.Day(), t.Hour(), t.Minute(), 0, 0, time.Local)
		if !end.After(now) {
			end = time.Date(l.Year(), l.Month(), l.Day()+1, t.Hour(), t.Minute(), 0, 0, time.Local)
		}
		return end, nil
	}
	end, err := time.Time{}, error(nil)
	if _, span := time.ParseDuration(s); span != nil && !strings.HasSuffix(s, "d") {
		end, err = parseTime(s, now)
	}
	if err != nil || end.IsZero() {
		return time.Time{}, &failure{exUsage, fmt.Sprintf("--until %.60q is no time: write 18:00, 2026-11-30, \"2026-11-30 14:00\" or 2026-11-30T14:00:00Z", s), "for a span: --for 2h"}
	}
	if !end.After(now) {
		return time.Time{}, &failure{exUsage, fmt.Sprintf("--until %s is over: it is %s now", s, now.Local().Format("2006-01-02 15:04:05")), ""}
	}
	return end, nil
}

// untilText is an end for people: "2026-11-28 18:00 (in 2 h)".
func untilText(until *time.Time, now time.Time) string {
	if until == nil || until.IsZero() {
		return "removed"
	}
	at := until.Local().Format("2006-01-02 15:04:05")
	switch left := until.Sub(now); {
	case left <= 0:
		return at + " (over)"
	case left < 2*time.Minute:
		return fmt.Sprintf("%s (in %d s)", at, int(left.Seconds()))
	case left < 2*time.Hour:
		return fmt.Sprintf("%s (in %d min)", at, int(left.Minutes()))
	case left < 48*time.Hour:
		return fmt.Sprintf("%s (in %d h)", at, int(left.Hours()))
	default:
		return fmt.Sprintf("%s (in %d days)", at, int(left.Hours()/24))
	}
}
