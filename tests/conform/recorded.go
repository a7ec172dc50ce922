package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// outputBound is how much of standard output and error was recorded.
const outputBound = 600

// The machine that cases.json was recorded on had another uid for alice.
var otherUID = regexp.MustCompile(`\b1000\b`)

// sameAsRecorded says in what a result differs from cases.json, "" in nothing.
// Versions and configurations may differ from those of the recording, so this is
// for the reader to know, and no failure.
func (c *caller) sameAsRecorded(r *result, o *observed) string {
	if want := fmt.Sprint(o.Exit); r.exit != want {
		return fmt.Sprintf("exit %s, was %s", r.exit, want)
	}
	bound := func(text string) string { return text[:min(len(text), outputBound)] }
	was := c.mta.masked(&result{stdout: otherUID.ReplaceAllString(o.Stdout, "1001"), stderr: otherUID.ReplaceAllString(o.Stderr, "1001")})
	is := c.mta.masked(&result{stdout: bound(r.stdout), stderr: bound(r.stderr)})
	for _, out := range []struct{ name, got, want string }{{"stdout", is.stdout, was.stdout}, {"stderr", is.stderr, was.stderr}} {
		got, want := out.got, out.want
		// Something at the bound may be cut differently.
		if n := min(len(got), len(want)); n > outputBound/2 {
			got, want = got[:n], want[:n]
		}
		if got != want {
			return fmt.Sprintf("%s %q, was %q", out.name, firstUnlike(got, want), firstUnlike(want, got))
		}
	}
	if len(r.queued) != len(o.Messages) {
		return fmt.Sprintf("%d messages, were %d", len(r.queued), len(o.Messages))
	}
	var got, want []string
	for i, m := range r.queued {
		was := o.Messages[i]
		line := func(sender string, recipients []string, afterDot bool) string {
			return fmt.Sprintf("from %q to %q, text after a dot: %v", sender, slices.Sorted(slices.Values(recipients)), afterDot)
		}
		got = append(got, line(m.sender, m.recipients, strings.Contains(m.content, "AFTERDOT")))
		want = append(want, line(was.Sender, was.Recipients, was.HasAfterDot))
	}
	slices.Sort(got)
	slices.Sort(want)
	for i := range got {
		if got[i] != want[i] {
			return got[i] + ", was " + want[i]
		}
	}
	return ""
}

// firstUnlike is the first line of a that is not so in b.
func firstUnlike(a, b string) string {
	x, y := strings.SplitAfter(a, "\n"), strings.SplitAfter(b, "\n")
	for i, line := range x {
		if i >= len(y) || line != y[i] {
			return shorten(line)
		}
	}
	return ""
}
