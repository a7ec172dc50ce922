package sendmail

import (
	"strconv"
	"strings"
	"testing"
)

// TestCalls: calls that testdata does not hold, each with what the servers do by
// their sources. A want is "profile:recipients", "-" for a call that submits
// nothing, "!" for one that is not to be passed on, and the sender behind another colon where it is not the login name.
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
		{"NUL in a list, a bracket behind it", []string{"sendmail", "-t"}, "Bcc: a@x b@x c@x\x00 x <d@x>\n\n", "postfix:9 sendmail:1"},
		{"NUL in a list, a group behind it", []string{"sendmail", "-t"}, "Bcc: a@x, b@x, c@x\x00: d@x;\n\n", "postfix:10"},
		{"Resent-Bcc only", []string{"sendmail", "-t"}, "To: a@x\nResent-Bcc: b@x, c@x\n\n", "postfix:2 exim:2 sendmail:2"},
		{"words, after a bracket", []string{"sendmail", "A <a@x>", "b@x", "a@x b@x"}, "\n", "sendmail:3"},
		{"bytes over 127 in a name", []string{"sendmail", "-t"}, "T\xf6: a@x\nTo: b@x, c@x\n\n", "postfix:0 exim:2 sendmail:0"},
		{"folded before the colon", []string{"sendmail", "-t"}, "To\n : a@x, b@x\n\n", "postfix:0 exim:2 sendmail:0"},
		{"CR before the colon", []string{"sendmail", "-t"}, "To\r: a@x, b@x\n\n", "postfix:0 exim:2 sendmail:2"},
		{"far from the colon", []string{"sendmail", "-t"}, "To" + strings.Repeat(" ", 100_000) + ": a@x, b@x\n\n", "exim:2"},
		{"a name without end", []string{"sendmail", "-t"}, strings.Repeat("X", 100_000) + ": x\nTo: a@x, b@x\n\n", "exim:2"},
		{"LF among CR LF", []string{"sendmail", "-t"}, "X: y\r\nTo: a@x,\nb@x\r\n\r\n", "postfix:1 exim:2 sendmail:1"},
		{"LF before an empty line", []string{"sendmail", "-t"}, "X: y\r\nTo: a@x,\n\r\nCc: b@x\r\n\r\n", "postfix:1 exim:2 sendmail:1"},
		{"CR LF among LF", []string{"sendmail", "-t"}, "X: y\nTo: a@x,\r\n b@x\r\n\r\nCc: c@x\n", "postfix:2 exim:2 sendmail:2"},
		{"CR alone", []string{"sendmail", "-t"}, "To: a@x,\rb@x\n\n", "postfix:2 exim:2 sendmail:2"},
		{"DEL in a name", []string{"sendmail", "-t"}, "X\x7f: y\nTo: a@x, b@x\n\n", "postfix:0 exim:1 sendmail:2"},
		{"DEL in a name, one recipient", []string{"sendmail", "-t"}, "X\x7f: y\nTo: a@x\n\n", "postfix:0 exim:1 sendmail:2"},
		{"Resent- behind a long name", []string{"sendmail", "-t"}, "To: a@x, b@x\n" + strings.Repeat("X", 3000) + ": y\nResent-To: c@x\n\n", "postfix:2 exim:1"},
		{"dash dash", []string{"sendmail", "-t"}, "--x: y\nTo: a@x, b@x\n\n", "postfix:2 exim:2 sendmail:0"},

		// OpenSMTPD, msmtp, nullmailer, dma: the command line.
		{"options behind an operand", []string{"sendmail", "a@x", "-F", "b@x,c@x"}, s, "opensmtpd:1 msmtp:1 nullmailer:4 dma:1"},
		{"options behind --", []string{"sendmail", "a@x", "--", "-F", "b@x"}, s, "opensmtpd:3 msmtp:3 nullmailer:4 dma:3"},
		{"--from=", []string{"sendmail", "--from=", "a@x"}, s, "opensmtpd:- msmtp:1:<> nullmailer:- dma:-"},
		{"--from, short", []string{"sendmail", "--fr", "s@x", "a@x"}, s, "msmtp:1:s@x"},
		{"a long option that several have", []string{"sendmail", "--tls-c", "x", "a@x"}, s, "msmtp:-"},
		{"a long option with a value that it has not", []string{"sendmail", "--read-recipients=x", "a@x"}, s, "msmtp:-"},
		{"a long option with a value of its own", []string{"sendmail", "--tls", "off", "a@x"}, s, "msmtp:2"},
		{"--domain=", []string{"sendmail", "--domain=", "a@x"}, s, "msmtp:1"},
		{"--pretend", []string{"sendmail", "--pretend", "a@x"}, s, "msmtp:-"},
		{"--read-envelope-from", []string{"sendmail", "--read-env", "a@x"}, "From: Joe <f@x>\n\n", "msmtp:1:f@x"},
		{"--read-envelope-from and --from", []string{"sendmail", "--read-env", "-ff@x", "a@x"}, s, "msmtp:-"},
		{"-bi anywhere", []string{"sendmail", "--", "a@x", "-bit"}, s, "opensmtpd:- dma:2"},
		{"-b and anything", []string{"sendmail", "-bs", "a@x"}, s, "opensmtpd:1 msmtp:- dma:1"},
		{"another name", []string{"/usr/sbin/sendmail.real", "a@x"}, s, "opensmtpd:- msmtp:1 nullmailer:1 dma:1"},
		{"send-mail", []string{"/usr/sbin/send-mail", "a@x"}, s, "opensmtpd:1 msmtp:1 nullmailer:1 dma:1"},
		{"sender with a name", []string{"sendmail", "-f", "Joe <s@x>", "a@x"}, s, "opensmtpd:-"},
		{"sender with one bracket", []string{"sendmail", "-f", "<s@x", "-f", "<t@x>", "a@x"}, s, "opensmtpd:1:t@x"},
		{"-Ap", []string{"sendmail", "-A", "p"}, "", "dma:-"},
		{"-q before a dash", []string{"sendmail", "-q", "-t"}, "To: a@x\n\n", "nullmailer:1 dma:-"},
		{"-h with a word", []string{"sendmail", "-help", "a@x"}, s, "nullmailer:1 dma:1 msmtp:1"},
		{"--bm", []string{"sendmail", "--bp", "--bm", "a@x"}, s, "nullmailer:1 dma:-"},
		{"a dash ends options", []string{"sendmail", "-", "-n", "a@x"}, s, "nullmailer:-"},
		{"a dash for each program", []string{"sendmail", "-", "-", "-a@x"}, s, "nullmailer:1"},
		{"options of inject", []string{"sendmail", "--", "-ahvb", "a@x"}, "To: b@x\n\n", "nullmailer:2"},
		{"inject: header only", []string{"sendmail", "--", "--use-header", "a@x"}, "To: b@x, c@x\n\n", "nullmailer:2"},
		{"inject: operands only", []string{"sendmail", "-t", "--", "-a", "a@x"}, "To: b@x, c@x\n\n", "nullmailer:1"},
		{"inject: the last -f", []string{"sendmail", "--", "-f", "<", "-f", "s@x", "a@x"}, s, "nullmailer:1:s@x"},
		{"nobody but in the header", []string{"sendmail"}, "To: a@x\n\n", "opensmtpd:0 msmtp:0 nullmailer:1 dma:0"},

		// … line breaks.
		{"a line break in a recipient", []string{"sendmail", "a@x>\r\nRCPT TO:<b@x"}, s, "opensmtpd:! msmtp:1 nullmailer:- dma:!"},
		{"a transaction in a recipient", []string{"sendmail", "a@x>" + strings.Repeat("\nRCPT TO:<b@x>", 50) + "\nDATA"}, s, "opensmtpd:! msmtp:1 dma:!"},
		{"a quoted line break", []string{"sendmail", "\"a@x\nb@x\nc\"@x"}, s, "opensmtpd:! nullmailer:3 dma:!"},
		{"a line break in the name", []string{"sendmail", "-F", "x\n.\n", "a@x"}, s, "postfix:1 exim:1 sendmail:1 opensmtpd:! msmtp:! nullmailer:1 dma:1"},
		{"line breaks in the sender", []string{"sendmail", "-f", "s@h\na@x\nb@x", "c@x"}, s, "opensmtpd:! msmtp:! nullmailer:! dma:!"},
		{"sender that ends a line", []string{"sendmail", "-rs@x\n", "a@x"}, s, "opensmtpd:! nullmailer:! dma:!"},
		{"sender for inject that ends a line", []string{"sendmail", "--", "-f\"s\nt\"@x", "a@x"}, s, "nullmailer:-"},
		{"a line break in -N", []string{"sendmail", "-N", "never\nRCPT TO:<b@x>", "a@x"}, s, "opensmtpd:! msmtp:! nullmailer:1 dma:1"},
		{"a line break in -R", []string{"sendmail", "-Rfull\nRCPT TO:<b@x>", "a@x"}, s, "opensmtpd:! msmtp:- nullmailer:1 dma:1"},
		{"a line break in -V", []string{"sendmail", "-V", "id\nRCPT TO:<b@x>", "a@x"}, s, "opensmtpd:! msmtp:- nullmailer:1 dma:1"},
		{"a line break in --domain", []string{"sendmail", "--domain=x\nRCPT TO:<b@x>", "a@x"}, s, "msmtp:!"},
		{"a CR in a recipient", []string{"sendmail", "a@x\rb"}, s, "opensmtpd:- msmtp:1 dma:1"},

		// … the header.
		{"line without a colon", []string{"sendmail", "-t"}, "To: a@x\nno field\nCc: b@x\n\n", "opensmtpd:0 msmtp:2 nullmailer:1 dma:2"},
		{"line without a colon, and no header", []string{"sendmail", "a@x"}, "no field\n", "opensmtpd:1 msmtp:1 nullmailer:1 dma:1"},
		{"From_ line in the header", []string{"sendmail", "-t"}, "To: a@x\nFrom joe\nCc: b@x\n\n", "opensmtpd:2 msmtp:2 nullmailer:1 dma:2"},
		{"at the very end", []string{"sendmail", "-t"}, "Bcc: b@x\nTo: a@x\n", "opensmtpd:1 msmtp:2 nullmailer:2 dma:1"},
		{"at the very end, in brackets", []string{"sendmail", "-t"}, "To: <a@x>", "opensmtpd:1 msmtp:1 nullmailer:1 dma:1"},
		{"body with CR LF", []string{"sendmail", "-t"}, "To: a@x\r\n\r\nTo: b@x\r\nbye\r\n", "opensmtpd:1 msmtp:1 nullmailer:1 dma:2"},
		{"continuations", []string{"sendmail", "-t"}, "To: a@x,\n b@x,\n\tc@x\n\n", "opensmtpd:3 msmtp:3 nullmailer:3 dma:3"},
		{"continuation without a comma", []string{"sendmail", "-t"}, "To: a@x\n b@x\n\n", "opensmtpd:0 msmtp:1 nullmailer:2 dma:1"},
		{"continuation that makes it wrong", []string{"sendmail", "-t"}, "To: a@x,\n )\n\n", "opensmtpd:0 nullmailer:0 dma:1"},
		{"a dot where -oi may ignore it", []string{"sendmail", "-t", "-oi"}, "To: a@x\n.\nTo: b@x, )\n\n", "dma:1"},
		{"NUL in a list", []string{"sendmail", "-t"}, "To: a@x\x00, b@x\n\n", "msmtp:2 nullmailer:1 dma:1"},
		{"NUL in the last line", []string{"sendmail", "a@x"}, "X: x\x00y\n", "opensmtpd:0 msmtp:1 nullmailer:1 dma:1"},
		{"NUL at the beginning of it", []string{"sendmail", "a@x"}, "X: x\n\x00y\n", "opensmtpd:1"},
		{"NUL before the last line", []string{"sendmail", "a@x"}, "X: x\x00y\nZ: z\n", "opensmtpd:1"},
		{"a line that a NUL has cut goes on", []string{"sendmail", "a@x"}, "To: \x00b@x\nbody\n", "opensmtpd:1"},
		{"NUL in a body", []string{"sendmail", "a@x"}, "\nx\x00y\n", "opensmtpd:1 msmtp:1 nullmailer:1 dma:1"}, // which opensmtpd refuses
		{"two in From", []string{"sendmail", "-t"}, "From: f@x, g@x\nTo: a@x\n\n", "opensmtpd:1:g@x msmtp:2 nullmailer:1 dma:1"},
		{"Return-Path beats -f", []string{"sendmail", "-fs@x", "a@x"}, "Return-Path: <r@x>\n\n", "opensmtpd:1:s@x msmtp:1:s@x nullmailer:1:r@x dma:1:s@x"},
		{"Return-Path and -f ''", []string{"sendmail", "-f", "", "a@x"}, "Return-Path: <r@x>\n\n", "nullmailer:1:<>"},
		{"first block of Resent", []string{"sendmail", "-t"}, "Resent-To: a@x\nReceived: x\nResent-Cc: b@x\nTo: c@x, d@x\n\n", "opensmtpd:2 msmtp:1 nullmailer:2 dma:2"},
		{"Resent forgets operands", []string{"sendmail", "-t", "o@x"}, "Resent-Date: x\nTo: c@x\n\n", "opensmtpd:2 msmtp:1 nullmailer:0 dma:2"},
		{"a bad Reply-To", []string{"sendmail", "a@x"}, "Reply-To: <b\n\n", "opensmtpd:1 msmtp:1 nullmailer:0 dma:1"},
		{"a long line", []string{"sendmail", "-t"}, "To: a@x\nX: " + strings.Repeat("x", 1000) + "\n\n", "opensmtpd:1 msmtp:1 nullmailer:1 dma:0"},

		// … lists.
		{"brackets without an end", []string{"sendmail", "-t"}, "To: a@x, <b@x, c@x\n\n", "opensmtpd:3 msmtp:2 nullmailer:0 dma:3"},
		{"bracket without a beginning", []string{"sendmail", "-t"}, "To: a@x, b@x>\n\n", "opensmtpd:0 msmtp:2 nullmailer:0 dma:0"},
		{"quoted comma", []string{"sendmail", "-t"}, "To: \"a,b\"@x\n\n", "opensmtpd:0 msmtp:1 nullmailer:1 dma:1"},
		{"domain literal", []string{"sendmail", "-t"}, "To: a@[127.0.0.1]\n\n", "opensmtpd:1 msmtp:1 nullmailer:0 dma:1"},
		{"two without a comma", []string{"sendmail", "-t"}, "To: <a@x><b@x> c@x\n\n", "opensmtpd:0 msmtp:3 nullmailer:3 dma:3"},
		{"nested comments", []string{"sendmail", "-t"}, "To: ((n) k) a@x (b (c) d)\n\n", "opensmtpd:1 nullmailer:1 dma:1"},
		{"group", []string{"sendmail", "-t"}, "To: t: a@x, B <b@x>;, c@x\n\n", "opensmtpd:3 msmtp:3 nullmailer:3 dma:3"},
		{"group without an end", []string{"sendmail", "-t"}, "To: t: a@x, b@x\n\n", "opensmtpd:2 msmtp:2 nullmailer:0 dma:2"},
		{"twice", []string{"sendmail", "-t", "a@x"}, "To: a@x, a@x\nCc: A@x\n\n", "opensmtpd:4 msmtp:4 nullmailer:4 dma:2"},
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
			switch {
			case call.Mode == Other:
				got = "-"
			case e.LineBreaks:
				got = "!"
			}
			if got != parts[1] {
				t.Errorf("%s, %s: %s, want %s", c.name, p.Name, got, parts[1])
			}
			sender := "alice"
			if len(parts) == 3 {
				sender = parts[2]
			}
			if call.Mode != Other && !e.LineBreaks {
				checkSender(t, &e, sender)
			}
		}
	}
}
