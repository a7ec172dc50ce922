package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// reason is why something differs with the wrapper, and is to. There are at most
// five: what needs more of them is no drop-in. docs/conformance.md has them and
// the table below; a test compares.
type reason int

const (
	report reason = iota
	high
	dialogue
	copied
	traced
)

var reasons = [...]string{
	report:   "A report of success is a message to the sender, and whom that is says `-f`: it is charged as one recipient more.",
	high:     "Unsure counts high: the mail server takes less, or nothing, by its configuration, its version, the caller's rights, or an error at which it gives up.",
	dialogue: "An SMTP dialogue is passed on when it was counted: a command at a time, content when it is complete, without STARTTLS and BDAT.",
	copied:   "Standard input is a copy in memory, a regular file, also where the caller's is a unix socket, which Sendmail puts into its trace header.",
	traced:   "A message is longer by one line, `X-Mail-Trace`, and so is what the mail server says of sizes and lines.",
}

// difference on purpose: of a mail server, cases with spaces between, or "" for
// all; of all ways to give standard input, or one.
type difference struct {
	mta, cases string
	way        stdin
	why        reason
	more       int            // recipients that are charged beyond those that are queued
	lines      *regexp.Regexp // of what is seen, those that are not compared; nil: all are
}

var differences = []difference{
	{mta: "postfix", cases: "79 109 p6 p7 p8", why: report, more: 1},
	{mta: "postfix", cases: "101 134 h25", why: high, more: 1},
	{mta: "postfix", cases: "s22 s26", why: dialogue, lines: regexp.MustCompile(`queued as ID`)}, // with BDAT it says how many bytes

	{mta: "exim", cases: "75 83 84 99 100 101 f10 f11 m22 p19 p24 p25 X12", why: high, more: 1},
	{mta: "exim", cases: "96q 110", why: high, more: 2},
	{mta: "exim", cases: "144 s2 s4 s5 s7 s8 s9 s10 s11 s12 s13 s14 s16 s17 s18 s19 s20 s21 s27 s28 s29 s30", why: dialogue, lines: regexp.MustCompile(`250-STARTTLS`)},
	{mta: "exim", cases: "s6 s22 s25 s26", why: dialogue, lines: regexp.MustCompile(`.`)},
	{mta: "exim", cases: "X14", why: dialogue, lines: regexp.MustCompile(`rror (was )?detected in line`)}, // of the message that was cut off, or before it
	{mta: "exim", cases: "79 109 f3 p5 p6 p7 p8", why: traced, lines: regexp.MustCompile(` S=\d+`)},
	{mta: "exim", cases: "X12", why: traced, lines: regexp.MustCompile(`started in line|rror (was )?detected in line`)},
	{mta: "exim", cases: "h9", why: traced, lines: regexp.MustCompile(`-body_linecount`)}, // of two lines in its body the first is continued by the other

	{mta: "sendmail", cases: "79 p6 p7", why: report, more: 1},
	{mta: "sendmail", cases: "82 82b 86 96q 101 102 103 104 105 106 108 110 m5 m13 m19 p24 p25 s21", why: high, more: 1},
	{mta: "sendmail", cases: "m20", why: high, more: 2},
	{mta: "sendmail", cases: "65 144 145 146", way: pipe, why: dialogue, lines: regexp.MustCompile(`.`)}, // it hangs up on who does not wait
	{mta: "sendmail", cases: "65 144 145 146", way: socket, why: dialogue, lines: regexp.MustCompile(`.`)},
	{mta: "sendmail", cases: "s6 s22 s23 s25 s26", why: dialogue, lines: regexp.MustCompile(`.`)},
	{mta: "sendmail", cases: "99", why: traced, lines: regexp.MustCompile(`X-Mail-Trace`)}, // with -d it prints the header
	{mta: "sendmail", cases: "99", way: socket, why: traced, lines: regexp.MustCompile(`X-Mail-Trace|UNIX: localhost|alice@localhost|envelope: "\$slocalhost`)},
	{mta: "sendmail", way: socket, why: copied, lines: regexp.MustCompile(`UNIX: localhost|alice@localhost|envelope: "\$slocalhost|Received-From-MTA`)},

	{mta: "opensmtpd", cases: "149", why: high, more: 1},

	{mta: "msmtp", cases: "79 80 101 f3 p5", why: high, more: 1},
	{mta: "msmtp", cases: "p6", why: high, more: 2},
	{mta: "msmtp", cases: "75 99 109 p8", why: traced, lines: regexp.MustCompile(`X-Mail-Trace`)},
	{mta: "msmtp", cases: "102 103", why: traced, lines: regexp.MustCompile(`mailsize=`)},

	{mta: "nullmailer", cases: "s6 s22 s25 s26", why: dialogue, lines: regexp.MustCompile(`.`)},

	{mta: "dma", cases: "50 127 f8 l2 m4 m15 h13 h24 h30", why: high, more: 1},
	{mta: "dma", cases: "25 49 110 116 m5 m16 p4 p24 p25", why: high, more: 2},
	{mta: "dma", cases: "m21 p13 p16", why: high, more: 3},
	{mta: "dma", cases: "l3", why: high, more: 899},
}

func (d *difference) is(mta, id string, way stdin) bool {
	return d.mta == mta && (d.cases == "" || slices.Contains(strings.Fields(d.cases), id)) && (d.way == "" || d.way == way)
}

// markdown is a row of the table in docs/conformance.md.
func (d *difference) markdown() string {
	cases, what := d.cases, fmt.Sprintf("charged %d more", d.more)
	if cases == "" {
		cases = "all"
	}
	if d.way != "" {
		cases += " (" + string(d.way) + ")"
	}
	switch {
	case d.lines == nil:
	case d.lines.String() == ".":
		what = "what is seen"
	default:
		what = "lines with `" + strings.ReplaceAll(d.lines.String(), "|", "`, `") + "`"
	}
	return fmt.Sprintf("| %s | %s | %s | %d |", d.mta, cases, what, d.why+1)
}
