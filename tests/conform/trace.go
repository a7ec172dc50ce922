package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sendmail-wrapper/sendmail"
)

// traceName is the name of the field that the wrapper puts into each message, as
// mailquotad is configured by default.
const traceName = "X-Mail-Trace"

// traceLine is a line of a queue file with that field. Before it may be what a mail
// server notes about a field.
var traceLine = regexp.MustCompile(`^(?:\d{3}. |\?\?)?` + traceName + `: ([0-9a-f-]{36})\r?\n$`)

// withoutTrace is a result through the wrapper without the trace field in each
// message, and what is wrong with that, "" if nothing: it must be where
// sendmail.Profile.Trace says, with the id of a row, or nowhere if that says nothing.
func (c *caller) withoutTrace(tc *testCase, direct, r *result, sum charged) (without *result, wrong string) {
	env := func(name string) (string, bool) { return lookup(tc, name) }
	call := c.profile.Under(env).Parse(tc.Argv)
	input := tc.Stdin[tc.Offset:]
	dialogue := call.Mode == sendmail.SMTP || call.Mode == sendmail.BatchSMTP
	if dialogue {
		input = firstContent(input)
	}
	text, at := c.profile.Trace(call, []byte(input[:min(len(input), sendmail.TraceHead)]), traceName+": ID")
	copied := *r
	copied.queued = slices.Clone(r.queued)
	var seen []string
	for i := range copied.queued {
		m := &copied.queued[i]
		lines := slices.Collect(strings.Lines(m.content))
		found := slices.IndexFunc(lines, traceLine.MatchString)
		switch {
		case found < 0 && text == "":
			continue
		case found < 0:
			return r, "a message without " + traceName
		case text == "":
			return r, traceName + " where none is sure"
		}
		id := traceLine.FindStringSubmatch(lines[found])[1]
		if !slices.Contains(sum.ids, id) || dialogue && slices.Contains(seen, id) {
			return r, fmt.Sprintf("%s says %s, the rows are %q", traceName, id, sum.ids)
		}
		seen = append(seen, id)
		end := found + 1
		if c.mta.emptyLine && (strings.HasSuffix(text, "\n\n") || strings.HasSuffix(text, "\n\r\n")) {
			if end == len(lines) || lines[end] != "\n" {
				return r, "no empty line behind " + traceName
			}
			end++
		}
		if above := aboveTrace(lines[:found], input[at:]); above != "" {
			return r, traceName + " is below " + shorten(above)
		}
		m.content = strings.Join(slices.Concat(lines[:found], lines[end:]), "")
	}
	sortQueued(copied.queued)
	for i := range min(len(direct.queued), len(copied.queued)) {
		if c.mta.sizes != nil && text != "" {
			c.mta.sizes(&direct.queued[i], &copied.queued[i], traceLen+strings.Count(text, "\n")-1)
		}
	}
	return &copied, ""
}

// traceLen is how long a line with the field is, with LF.
const traceLen = len(traceName) + len(": 00000000-0000-0000-0000-000000000000\n")

// resize changes a number in the envelope, as by says, if it is the one that direct
// has with the trace field. The pattern has it as its first group.
func resize(pattern *regexp.Regexp, direct, traced *message, by func(int) int) {
	number := func(m *message) int {
		if found := pattern.FindStringSubmatch(m.envelope); found != nil {
			if n, err := strconv.Atoi(found[1]); err == nil {
				return n
			}
		}
		return -1
	}
	if number(traced) == by(number(direct)) {
		traced.envelope = pattern.ReplaceAllLiteralString(traced.envelope, pattern.FindString(direct.envelope))
	}
}

// firstContent is the content of the first message in a dialogue, as it goes to the
// MTA, and what follows.
func firstContent(dialogue string) string {
	_, content, _ := strings.Cut(strings.ReplaceAll(dialogue, "\r\n", "\n"), "\nDATA\n")
	return strings.ReplaceAll(content, "\n", "\r\n")
}

// aboveTrace is the first line of the queue file that is one of the message's header.
func aboveTrace(queued []string, message string) string {
	for line := range strings.Lines(message) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			break
		}
		if len(line) < 4 || !strings.Contains(line, ":") {
			continue
		}
		for _, q := range queued {
			if strings.HasSuffix(strings.TrimRight(q, "\r\n"), line) {
				return q
			}
		}
	}
	return ""
}
