package sendmail

import (
	"strconv"
	"strings"
	"testing"
)

// TestCalls: calls that testdata does not hold, each with what the servers do by
// their sources. A want is "profile:recipients", "-" for a call that submits
// nothing, and the sender behind another colon where it is not the login name.
func TestCalls(t *testing.T) {
	const s = "Subject: s\n\nbody\n"
	for _, c := range []struct {
		name  string
		argv  []string
		stdin string
		want  string
	}{
		// The command line.
		{"null sender", []string{"sendmail", "-f", "", "a@x"}, s, "postfix:1:<> exim:1:<> sendmail:1:<>"},
		{"unqualified sender", []string{"sendmail", "-f", "webmaster", "a@x"}, s, "postfix:1:webmaster exim:1:webmaster sendmail:1:webmaster"},
		{"route as sender", []string{"sendmail", "-f", "@r1,@r2:a@x", "b@x"}, s, "exim:1:@r1,@r2:a@x"},
		{"cron", []string{"/usr/sbin/sendmail", "-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root"}, s, "postfix:1 exim:1 sendmail:1"},
		{"git", []string{"sendmail", "-f", "s@x", "-i", "a@x", "b@x"}, s, "postfix:2:s@x exim:2:s@x sendmail:2:s@x"},
		{"joined -if", []string{"sendmail", "-if", "s@x", "a@x"}, s, "postfix:1:s@x exim:- sendmail:1:s@x"},
		{"-t behind an operand", []string{"sendmail", "a@x", "-t"}, "To: h@x\n\n", "postfix:2 exim:2 sendmail:2"},
		{"two dashes and more", []string{"sendmail", "--help", "a@x"}, s, "postfix:- exim:- sendmail:1"},
		{"--version and recipients", []string{"sendmail", "--version", "a@x"}, s, "postfix:- exim:1 sendmail:1"},
		{"-bV and recipients", []string{"sendmail", "-bV", "a@x"}, s, "exim:1"},
		{"-bnq and recipients", []string{"sendmail", "-bnq", "a@x"}, s, "exim:1"},
		{"-ba", []string{"sendmail", "-ba", "a@x"}, s, "postfix:- exim:- sendmail:1"},
		{"-bp behind -bm", []string{"sendmail", "-bm", "-bp", "a@x"}, s, "postfix:- exim:- sendmail:-"},
		{"-bm behind -bp", []string{"sendmail", "-bp", "-bm", "a@x"}, s, "postfix:1 exim:- sendmail:1"},
		{"-bp", []string{"sendmail", "-bp"}, "", "postfix:- exim:- sendmail:-"},
		{"-bv of two", []string{"sendmail", "-bv", "a@x", "b@x"}, "", "postfix:2 exim:- sendmail:-"},
		{"-R hdrs", []string{"sendmail", "-R", "hdrs", "a@x"}, s, "postfix:1 exim:- sendmail:1"},
		{"-V +=", []string{"sendmail", "-V", "+=", "a@x"}, s, "postfix:2 exim:- sendmail:1"},
		{"-q30m", []string{"sendmail", "-q30m"}, "", "postfix:- exim:- sendmail:-"},
		{"-q -bm", []string{"sendmail", "-q", "-bm", "a@x"}, s, "postfix:1 exim:- sendmail:-"},
		{"-oMr takes a word", []string{"sendmail", "-oMr", "local", "a@x"}, s, "exim:1"},
		{"-oM of another kind", []string{"sendmail", "-oMz", "local", "a@x"}, s, "exim:-"},
		{"-oB and a number", []string{"sendmail", "-oB", "5", "a@x"}, s, "exim:1"},
		{"-oB and no number", []string{"sendmail", "-oB", "a@x"}, s, "exim:1"},
		{"-B without a value", []string{"sendmail", "-t", "-B"}, "To: a@x\n\n", "postfix:- exim:1 sendmail:-"},
		{"-C before an option", []string{"sendmail", "-C", "-i", "a@x"}, s, "postfix:1 exim:1 sendmail:1"},
		{"-C before an option, behind joined ones", []string{"sendmail", "-iF", "n", "-C", "-f", "a@x"}, s, "sendmail:1"},
		{"-d before an operand, behind joined ones", []string{"sendmail", "-iF", "n", "-d", "a@x", "b@x"}, s, "sendmail:1"},
		{"-bs and -bS", []string{"sendmail", "-bs", "-bm"}, "", "exim:0"},
		{"rsmtp", []string{"/usr/sbin/rsmtp"}, "", "exim:0"},
		{"rsmtp -t", []string{"rsmtp", "-t"}, "", "exim:-"},
		{"runq a@x", []string{"runq", "a@x"}, s, "postfix:1 exim:- sendmail:1"},
		{"purgestat -bm", []string{"purgestat", "-bm", "a@x"}, s, "sendmail:1"},

		// Reports and bounces.
		{"-N never", []string{"sendmail", "-N", "never", "a@x"}, s, "postfix:1 sendmail:1"},
		{"-N SUCCESS", []string{"sendmail", "-N", "delay,SUCCESS", "a@x"}, s, "postfix:2 sendmail:2"},
		{"-v twice", []string{"sendmail", "-vv", "a@x"}, s, "postfix:1"},
		{"no recipients, to nobody", []string{"sendmail", "-t", "-f", ""}, s, "postfix:0:<> exim:0:<> sendmail:0:<>"},
		{"no recipients, -oep", []string{"sendmail", "-t", "-oep"}, s, "exim:0"},
		{"no recipients, -oee", []string{"sendmail", "-t", "-oep", "-oee"}, s, "exim:1"},
		{"comment as operand", []string{"sendmail", "(nobody)"}, s, "postfix:1 exim:1 sendmail:1"},

		// -t.
		{"with an operand of the header", []string{"sendmail", "-t", "a@x"}, "To: a@x, b@x\n\n", "postfix:3 exim:1 exim-add-arguments:3 sendmail:2"},
		{"with another operand", []string{"sendmail", "-t", "c@x"}, "To: a@x, b@x\n\n", "postfix:3 exim:2 exim-add-arguments:3 sendmail:3"},
		{"with an operand in other letters", []string{"sendmail", "-t", "a@X"}, "To: a@x\n\n", "postfix:2 exim:1 sendmail:2"},
		{"with all operands of the header", []string{"sendmail", "-t", "a@x"}, "To: Joe <a@x>\n\n", "postfix:2 exim:1 sendmail:1"},
		{"folded", []string{"sendmail", "-t"}, "To: a@x,\n b@x,\n\tc@x\n\n", "postfix:3 exim:3 sendmail:3"},
		{"two To", []string{"sendmail", "-t"}, "To: a@x\nTo: b@x\n\n", "postfix:2 exim:2 sendmail:2"},
		{"Resent-To", []string{"sendmail", "-t"}, "Resent-To: r@x\nTo: a@x, b@x\n\n", "postfix:1 exim:1 sendmail:1"},
		{"Resent-To last", []string{"sendmail", "-t"}, "To: a@x, b@x\nResent-To: r@x\n\n", "postfix:1 exim:1 sendmail:1"},
		{"two blocks of Resent", []string{"sendmail", "-t"}, "Resent-To: r@x\nResent-From: f@x\nResent-To: q@x\nTo: a@x\n\n", "postfix:2 exim:2 sendmail:2"},
		{"Resent-Anything", []string{"sendmail", "-t"}, "Resent-X: r@x\nTo: a@x, b@x\n\n", "postfix:2 exim:1 sendmail:2"},
		{"From_ line", []string{"sendmail", "-t"}, "From joe@x Thu Jan  1 00:00:00 1970\nTo: a@x\n\n", "postfix:1 exim:1:joe@x sendmail:1"},
		{"From_ line of UUCP", []string{"sendmail", "-t"}, "From joe Fri, 7 Jan 97 14:00:00 GMT\nTo: a@x\n\n", "postfix:1 exim:1:joe sendmail:1"},
		{"From_ line and -f", []string{"sendmail", "-t", "-fs@x"}, "From joe@x Thu Jan  1 00:00:00 1970\nTo: a@x\n\n", "postfix:1:s@x exim:1:s@x sendmail:1:s@x"},
		{"two From_ lines", []string{"sendmail", "-t"}, "From a Thu Jan  1 00:00:00 1970\nFrom b@x Thu Jan  1 00:00:00 1970\nTo: a@x, b@x\n\n", "postfix:2 exim:2:b@x sendmail:0"},
		{"folded From_ line", []string{"sendmail", "-t"}, "From a Thu Jan  1 00:00:00 1970\n x\nTo: a@x, b@x\n\n", "postfix:0 exim:2:a sendmail:0"},
		{"semicolon", []string{"sendmail", "-t"}, "To: a@x; b@x\n\n", "postfix:2 exim:1 sendmail:1"},
		{"only an empty group", []string{"sendmail", "-t"}, "To: nobody:;\n\n", "postfix:0 exim:1 sendmail:1"},
		{"300 recipients", []string{"sendmail", "-t"}, "To: " + strings.Repeat("a@x,", 299) + "b@x\n\n", "postfix:300 exim:300 sendmail:2"},
		{"long header", []string{"sendmail", "-t"}, "X: " + strings.Repeat("x", 110_000) + "\nTo: a@x\n\n", "postfix:1 exim:1 sendmail:1"},

		// What makes a line a field.
		{"NUL in a name", []string{"sendmail", "-t"}, "T\x00o: a@x\nCc: b@x\n\n", "postfix:0 exim:1 sendmail:2"},
		{"bytes over 127 in a name", []string{"sendmail", "-t"}, "T\xf6: a@x\nTo: b@x, c@x\n\n", "postfix:0 exim:2 sendmail:0"},
		{"folded before the colon", []string{"sendmail", "-t"}, "To\n : a@x, b@x\n\n", "postfix:0 exim:2 sendmail:0"},
		{"CR before the colon", []string{"sendmail", "-t"}, "To\r: a@x, b@x\n\n", "postfix:0 exim:2 sendmail:2"},
		{"far from the colon", []string{"sendmail", "-t"}, "To" + strings.Repeat(" ", 100_000) + ": a@x, b@x\n\n", "exim:2"},
		{"a name without end", []string{"sendmail", "-t"}, strings.Repeat("X", 100_000) + ": x\nTo: a@x, b@x\n\n", "exim:2"},
		{"LF among CR LF", []string{"sendmail", "-t"}, "X: y\r\nTo: a@x,\nb@x\r\n\r\n", "postfix:1 exim:2 sendmail:1"},
		{"LF before an empty line", []string{"sendmail", "-t"}, "X: y\r\nTo: a@x,\n\r\nCc: b@x\r\n\r\n", "postfix:1 exim:2 sendmail:1"},
		{"CR LF among LF", []string{"sendmail", "-t"}, "X: y\nTo: a@x,\r\n b@x\r\n\r\nCc: c@x\n", "postfix:2 exim:2 sendmail:2"},
		{"CR alone", []string{"sendmail", "-t"}, "To: a@x,\rb@x\n\n", "postfix:2 exim:2 sendmail:2"},
		{"dash dash", []string{"sendmail", "-t"}, "--x: y\nTo: a@x, b@x\n\n", "postfix:2 exim:2 sendmail:0"},
	} {
		for _, want := range strings.Fields(c.want) {
			parts := strings.SplitN(want, ":", 3)
			p, err := ProfileByName(parts[0])
			if err != nil {
				t.Fatal(err)
			}
			call := p.Parse(c.argv)
			e, err := scan(p, call, strings.NewReader(c.stdin))
			if err != nil {
				t.Fatal(err)
			}
			got := strconv.Itoa(e.Recipients)
			if call.Mode == Other {
				got = "-"
			}
			if got != parts[1] {
				t.Errorf("%s, %s: %s, want %s", c.name, p.Name, got, parts[1])
			}
			sender := "alice"
			if len(parts) == 3 {
				sender = parts[2]
			}
			if call.Mode != Other {
				checkSender(t, &e, sender)
			}
		}
	}
}
