package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sendmail-wrapper/sendmail"
)

// Paths of the program that is compared, and of the wrapper in its place.
const (
	realProgram = "/usr/sbin/sendmail.real"
	wrapper     = "/usr/sbin/sendmail"
)

// verdict is how a case compares.
type verdict int

const (
	alike verdict = iota
	onPurpose
	unlike
)

// comparison is what came of all cases.
type comparison struct {
	cases, calls             [3]int // by verdict
	asRecorded, observations int
	purposes                 map[*difference][]string // cases that do differ as it says
}

// compareAll makes the calls of the cases without and with the wrapper, and says
// what differs: a line for each, or, with all, all that was seen.
func compareAll(c *caller, cases []testCase, all bool) (ok bool, err error) {
	n := comparison{purposes: map[*difference][]string{}}
	for i := range cases {
		worst := alike
		for j, way := range c.ways(&cases[i]) {
			v, err := c.compare(&cases[i], way, j == 0, all, &n)
			if err != nil {
				return false, err
			}
			n.calls[v]++
			worst = max(worst, v)
		}
		n.cases[worst]++
	}
	stale := 0
	if !all {
		for i := range differences {
			d := &differences[i]
			for _, id := range strings.Fields(d.cases) {
				if d.mta == c.mta.name && !slices.Contains(n.purposes[d], id) {
					fmt.Printf("%s %s: is said to differ, and is alike\n", c.mta.name, id)
					stale++
				}
			}
		}
	}
	fmt.Printf("%s: %d cases, %d alike, %d differ on purpose, %d differ; %d calls, %d alike; %d of %d as recorded\n", c.mta.name,
		len(cases), n.cases[alike], n.cases[onPurpose], n.cases[unlike], n.calls[alike]+n.calls[onPurpose]+n.calls[unlike], n.calls[alike], n.asRecorded, n.observations)
	return n.cases[unlike]+stale == 0, nil
}

// compare makes the call of a case in one way. The first way shows also what the
// real program alone changes from run to run, and since the recording.
func (c *caller) compare(tc *testCase, way stdin, first, all bool, n *comparison) (verdict, error) {
	direct, err := c.call(realProgram, tc, way)
	if err != nil {
		return unlike, err
	}
	if first {
		again, err := c.call(realProgram, tc, way)
		if err != nil {
			return unlike, err
		}
		if what := c.difference(direct, again, nil); what != "" {
			return unlike, fmt.Errorf("%s %s/%s: twice the real program, and no pattern says that this varies: %s", c.mta.name, tc.ID, way, what)
		}
	}
	if o, ok := tc.Observed[c.mta.name]; ok && first {
		n.observations++
		if what := c.sameAsRecorded(direct, &o); what == "" {
			n.asRecorded++
		} else {
			fmt.Printf("%s %s: not as recorded: %s\n", c.mta.name, tc.ID, what)
		}
	}
	if _, err := c.charge.sinceLast(); err != nil {
		return unlike, err
	}
	wrapped, err := c.call(wrapper, tc, way)
	if err != nil {
		return unlike, err
	}
	sum, err := c.charge.sinceLast()
	if err != nil {
		return unlike, err
	}
	if all {
		fmt.Printf("--- %s %s/%s %s: %q\n%s--- through the wrapper, charged %+v:\n%s", c.mta.name, tc.ID, way, tc.Title, tc.Argv,
			c.mta.masked(direct), sum, c.mta.masked(wrapped))
	}
	result := alike
	say := func(what string) {
		result = unlike
		fmt.Printf("%s %s/%s: %s (%s)\n", c.mta.name, tc.ID, way, what, tc.Title)
	}
	wrapped, what := c.withoutTrace(tc, direct, wrapped, sum)
	if what != "" {
		say(what)
	}
	more := 0
	what = c.difference(direct, wrapped, nil)
	for i := range differences {
		d := &differences[i]
		if !d.is(c.mta.name, tc.ID, way) {
			continue
		}
		more += d.more
		if d.more > 0 || d.lines != nil && what != "" && c.difference(direct, wrapped, d.lines) == "" {
			result = onPurpose
			n.purposes[d] = append(n.purposes[d], tc.ID)
			if d.lines != nil {
				what = ""
			}
		}
	}
	if what != "" {
		say(what)
	}
	if what := c.chargeDiffers(tc, wrapped, sum, more); what != "" {
		say(what)
	}
	return result, nil
}

// ways returns the ways to give a case its standard input, its own first.
func (c *caller) ways(tc *testCase) []stdin {
	list := []stdin{pipe, file, socket}
	if c.profile.Parse(tc.Argv).Mode == sendmail.SMTP {
		list = []stdin{lockstep, pipe, socket}
		if c.mta.hasty && tc.Observed == nil {
			return list[:1]
		}
	}
	own := tc.Is
	if !slices.Contains(list, own) {
		own = pipe
	}
	list = slices.DeleteFunc(list, func(is stdin) bool { return is == own })
	return append([]stdin{own}, list...)
}

// String is all that was seen, for people and to compare.
func (r *result) String() string {
	s := strings.Builder{}
	fmt.Fprintf(&s, "exit %s\n", r.exit)
	lines := func(what, text string) {
		for line := range strings.Lines(text) {
			fmt.Fprintf(&s, "%s: %s\n", what, strconv.Quote(line))
		}
	}
	lines("stdout", r.stdout)
	lines("stderr", r.stderr)
	lines("files", r.files)
	for i, m := range r.queued {
		fmt.Fprintf(&s, "message %d: from %q to %q\n", i+1, m.sender, m.recipients)
		lines(fmt.Sprintf("message %d: envelope", i+1), m.envelope)
		lines(fmt.Sprintf("message %d: content", i+1), m.content)
	}
	return s.String()
}

// difference says in what two results differ but for what varies, and but for
// lines that are not compared; "" in nothing.
func (c *caller) difference(a, b *result, except *regexp.Regexp) string {
	lines := func(r *result) []string {
		return slices.DeleteFunc(strings.Split(c.mta.masked(r).String(), "\n"), func(line string) bool {
			return except != nil && except.MatchString(line)
		})
	}
	x, y := lines(a), lines(b)
	for i := range max(len(x), len(y)) {
		switch {
		case i >= len(x):
			return "more: " + shorten(y[i])
		case i >= len(y):
			return "less: " + shorten(x[i])
		case x[i] != y[i]:
			return shorten(x[i]) + " becomes " + shorten(y[i])
		}
	}
	return ""
}

func shorten(line string) string {
	if len(line) > 160 {
		return line[:160] + " …"
	}
	return line
}

// chargeDiffers compares what was charged with what is queued, and so many
// recipients more. A call that submits one message is one message with the
// bounces that it causes; nothing is charged for nobody.
func (c *caller) chargeDiffers(tc *testCase, r *result, sum charged, more int) string {
	messages, recipients := 0, 0
	for _, m := range r.queued {
		messages++
		recipients += len(m.recipients)
	}
	if mode := c.profile.Parse(tc.Argv).Mode; mode != sendmail.SMTP && mode != sendmail.BatchSMTP {
		messages = min(messages, 1)
	}
	if recipients+more == sum.recipients && (messages == sum.messages || more > 0) {
		return ""
	}
	why := ""
	if sum.refused != "" {
		why = ", refused: " + sum.refused
	}
	return fmt.Sprintf("charged %d messages, %d recipients; queued %d, %d%s", sum.messages, sum.recipients, messages, recipients, why)
}
