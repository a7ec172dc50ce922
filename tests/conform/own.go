package main

import (
	"fmt"
	"strings"
)

const (
	plain   = "Subject: s\n\nBEFOREDOT\n"
	dotted  = "Subject: s\n\nBEFOREDOT\n.\nAFTERDOT\n"
	smtpAll = "postfix exim sendmail nullmailer" // that speak SMTP with -bs
)

// ownCases are those that were not recorded: calls of programs in the field, rows
// that complete the recorded ones (their numbers are free there), SMTP
// dialogues, large ones.
func ownCases() []testCase {
	call := func(id, title, stdin string, args ...string) testCase {
		return testCase{ID: id, Title: title, Argv: append([]string{"sendmail"}, args...), Stdin: stdin}
	}
	named := func(name string, c testCase) testCase {
		c.Argv[0] = name
		return c
	}
	with := func(c testCase, env ...string) testCase {
		c.Env = map[string]string{}
		for _, e := range env {
			name, value, _ := strings.Cut(e, "=")
			c.Env[name] = value
		}
		return c
	}
	forOnly := func(mtas string, c testCase) testCase {
		c.only = mtas
		return c
	}
	cases := []testCase{
		call("09", "-f ''", plain, "-f", "", "a@x.y"),
		call("14", "-f without a domain", plain, "-f", "webmaster", "a@x.y"),
		call("16", "Debian's cron", plain, "-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root"),
		call("16b", "cron, MAILTO with a comma", plain, "-FCronDaemon", "-i", "-B8BITMIME", "-oem", "a@x.y,b@x.y"),
		call("21", "-t and an argument that the header names", "To: a@x.y, b@x.y\n\nBEFOREDOT\n", "-t", "a@x.y"),
		call("23", "-t after a recipient", "To: h@x.y\n\nBEFOREDOT\n", "a@x.y", "-t"),
		call("28", "dot", dotted, "a@x.y"),
		call("28i", "dot, -i", dotted, "-i", "a@x.y"),
		call("35", "dot without newline at the end", "Subject: s\n\nBEFOREDOT\n.", "a@x.y"),
		call("37", "no recipient but in the header", "To: a@x.y\n\nBEFOREDOT\n"),
		call("40", "-t Resent-To", "Resent-To: r@x.y\nTo: a@x.y\n\nBEFOREDOT\n", "-t"),
		call("42", "-t two Resent blocks", "Resent-To: r1@x.y\nResent-From: f@x.y\nResent-To: r2@x.y\nResent-From: g@x.y\nTo: a@x.y\n\nBEFOREDOT\n", "-t"),
		call("49", "-t folded", "To: a@x.y,\n b@x.y,\n\tc@x.y\n\nBEFOREDOT\n", "-t"),
		call("54", "-t From_ line first", "From joe Thu Jan  1 00:00:00 1970\nTo: a@x.y\n\nBEFOREDOT\n", "-t"),
		call("56", "-t no header first", "not a header\nTo: a@x.y\n\nBEFOREDOT\n", "-t"),
		call("61", "-t two To fields", "To: a@x.y\nTo: b@x.y\n\nBEFOREDOT\n", "-t"),
		call("63", "-t semicolon", "To: a@x.y; b@x.y\n\nBEFOREDOT\n", "-t"),
		call("68", "-bp", "", "-bp"),
		call("75", "-d attached", plain, "-d1.1", "a@x.y"),
		call("77", "-q30m", "", "-q30m"),
		call("80", "-R hdrs", plain, "-R", "hdrs", "a@x.y"),
		call("82", "-V +=", plain, "-V", "+=", "a@x.y"),
		call("82b", "-V+=", plain, "-V+=", "-f", "s@x.y", "a@x.y"),
		call("89", "-B 7BIT", plain, "-B", "7BIT", "a@x.y"),
		call("94", "-m", plain, "-m", "a@x.y"),
		call("96", "-e m", plain, "-e", "m", "a@x.y"),
		call("96q", "-oeq, bad address", "To: a@x.y, <b@\n\nBEFOREDOT\n", "-oeq", "-t"),
		call("96p", "-oep, no recipient", plain, "-oep", "-t"),
		call("96e", "-oee, no recipient", plain, "-oee", "-t"),
		call("101", "-C a file that is not there", plain, "-C", "/nonexistent/file", "a@x.y"),
		call("103", "-X a file", plain, "-X", "scratch/log", "a@x.y"),
		call("108", "-O another queue", plain, "-O", "QueueDirectory=scratch", "a@x.y"),
		call("115", "-t -bm", "To: a@x.y\n\nBEFOREDOT\n", "-t", "-bm"),
		call("117", "git send-email", plain, "-f", "s@x.y", "-i", "a@x.y", "b@x.y"),
		{ID: "120", Title: "regular file", Argv: []string{"sendmail", "-t", "-i"}, Stdin: "To: a@x.y\nCc: b@x.y\n\nBEFOREDOT\n", Is: file},
		with(call("122", "sender by environment", plain, "a@x.y"), "EMAIL=env@e.e", "MAILUSER=mu", "MAILHOST=mh.e", "LOGNAME=bob", "USER=bob"),
		with(call("122b", "sender by environment, -f", plain, "-f", "s@x.y", "a@x.y"), "EMAIL=env@e.e", "NULLMAILER_USER=nu", "QMAILUSER=q"),
		with(call("122c", "NAME, TZ, odd bytes in the environment", plain, "a@x.y"), "NAME=Full (Name", "TZ=Asia/Tokyo", "X=\xff\xfe"),
		call("129", "argument with 8-bit local part", plain, "j\xc3\xb6rg@x.y"),
		forOnly("postfix exim sendmail msmtp nullmailer dma", call("134", "-t header field of 110 KB", "To: a@x.y\nX-Long: "+strings.Repeat("x", 110_000)+"\n\nBEFOREDOT\n", "-t")), // OpenSMTPD hangs up, which may or may not kill its client
		call("136", "-t 300 recipients on one line", "To: "+addresses(300, ", ")+"\n\nBEFOREDOT\n", "-t"),
		call("141", "-bH", "", "-bH"),
		call("143", "-if", plain, "-if", "s@x.y", "a@x.y"),
		call("148", "-ti with dot", "To: a@x.y\n\nBEFOREDOT\n.\nAFTERDOT\n", "-ti"),

		// The same and more, by argv[0].
		named("/usr/sbin/sendmail", call("n1", "whole path", plain, "-i", "a@x.y")),
		named("send-mail", call("n2", "send-mail", plain, "a@x.y")),
		named("newaliases", call("n3", "newaliases", "")),
		named("purgestat", call("n4", "purgestat", "")),
		named("rmail", call("n5", "rmail, two hops", "From a@p.q Thu Jan  1 00:00:00 1970 remote from r\n>From b@p.q Thu Jan  1 00:00:00 1970 remote from s\nSubject: s\n\nBEFOREDOT\n", "a@x.y", "b@x.y")),
		named("x", call("n6", "another name", plain, "a@x.y")),

		// What programs in the field run.
		call("f1", "Symfony's sendmail -t", plain, "-i", "-fs@x.y", "a@x.y", "b@x.y"),
		call("f2", "mutt", plain, "-oem", "-oi", "-f", "s@x.y", "--", "a@x.y", "b@x.y"),
		call("f3", "mutt with DSN", plain, "-oem", "-oi", "-f", "s@x.y", "-N", "failure", "-R", "hdrs", "--", "a@x.y"),
		call("f4", "cronie", "From: \"(Cron Daemon)\" <alice>\nTo: alice\nSubject: s\n\nBEFOREDOT\n", "-FCronDaemon", "-i", "-odi", "-oem", "-oi", "-t", "-f", "alice"),
		call("f5", "systemd-cron", plain, "-i", "-B", "8BITMIME", "root"),
		call("f6", "logwatch", "To: a@x.y\nTo: b@x.y\nSubject: s\n\nBEFOREDOT\n", "-t"),
		call("f7", "Dovecot's null sender", plain, "-i", "-f", "<>", "--", "a@x.y"),
		call("f8", "PHP's mail() with headers in CRLF", "To: a@x.y\r\nSubject: s\r\nX-PHP-Originating-Script: 1001:contact.php\r\nBcc: b@x.y,\r\n c@x.y\r\n\r\nBEFOREDOT\r\n", "-t", "-i"),
		call("f9", "undisclosed recipients and Bcc in CRLF", "To: undisclosed-recipients:;\r\nBcc: a@x.y, b@x.y\r\n\r\nBEFOREDOT\r\n", "-t", "-i"),
		call("f10", "content filter", plain, "-G", "-i", "-f", "s@x.y", "a@x.y"),
		call("f11", "rmail of Sendmail", plain, "-G", "-oee", "-odi", "-oi", "-pUUCP:r", "-fs@x.y", "a@x.y"),

		// Odd messages.
		call("m1", "nothing but a dot", ".\n", "a@x.y"),
		call("m2", "header only", "To: a@x.y\nSubject: BEFOREDOT\n", "-t"),
		call("m3", "CR alone", "To: a@x.y\rCc: b@x.y\n\nBEFOREDOT\r.\rAFTER\n", "-t"),
		call("m4", "CRLF and LF", "To: a@x.y,\r\n b@x.y\nCc: c@x.y\r\n\nBEFOREDOT\r\n.\r\nAFTERDOT\n", "-t"),
		call("m5", "NUL in the header", "To: a@x.y\nX: a\x00b\nCc: b@x.y\n\nBEFOREDOT\n", "-t"),
		call("m6", "dots doubled", "Subject: s\n\n..\n...x\n.x\nBEFOREDOT\n", "a@x.y"),
		call("m7", "dot, CR, text", "Subject: s\n\nBEFOREDOT\n.\rx\n.\r\r\nAFTERDOT\n", "a@x.y"),
		call("m8", "all bytes", "Subject: s\n\n"+allBytes()+"\n", "-i", "a@x.y"),
		call("m9", "space lines in the header", "To: a@x.y\n \n\t\nCc: b@x.y\n\nBEFOREDOT\n", "-t"),
		call("m10", "folded field first", " folded\nTo: a@x.y\n\nBEFOREDOT\n", "-t"),
		call("m11", "colon alone", ": x\nTo: a@x.y\n\nBEFOREDOT\n", "-t"),
		call("m12", "field names in the body", "To: a@x.y\n\nBcc: b@x.y\nBEFOREDOT\n", "-t"),
		call("m13", "Text: as a field", "To: a@x.y\nText: x\nCc: b@x.y\n\nBEFOREDOT\n", "-t"),
		call("m14", "name of a field longer than 100", "To: a@x.y\n"+strings.Repeat("X", 120)+": y\nCc: b@x.y\n\nBEFOREDOT\n", "-t"),
		call("m15", "line of 1,200 characters in the body", "To: a@x.y\n\n"+strings.Repeat("x", 1200)+"\nBEFOREDOT\n", "-t"),
		call("m16", "address over two lines", "To: a\n @x.y, \"b\n c\"@x.y\n\nBEFOREDOT\n", "-t"),
		call("m17", "nested comments and groups", "To: (a (b, c) d) a@x.y, G: b@x.y, H <c@x.y>;, d@x.y (x\n y)\n\nBEFOREDOT\n", "-t"),
		call("m18", "quoted pairs", "To: \"a\\\"b, c\" <a@x.y>, (\\), b@x.y) c@x.y\n\nBEFOREDOT\n", "-t"),
		call("m19", "unclosed quote", "To: \"a <a@x.y>, b@x.y\nCc: c@x.y\n\nBEFOREDOT\n", "-t"),
		call("m20", "unclosed comment", "To: a@x.y, (b@x.y, c@x.y\nCc: d@x.y\n\nBEFOREDOT\n", "-t"),
		call("m21", "empty members", "To: , a@x.y,, <>, b@x.y,\nCc:\nBcc: \n\nBEFOREDOT\n", "-t"),
		call("m22", "angles in a row", "To: <a@x.y> <b@x.y>, <<c@x.y>>\n\nBEFOREDOT\n", "-t"),
		call("m23", "Resent-Sender only", "Resent-Sender: r@x.y\nTo: a@x.y\n\nBEFOREDOT\n", "-t"),
		call("m24", "Resent-To after To", "To: a@x.y\nResent-To: r@x.y\nResent-Cc: s@x.y\nResent-Bcc: t@x.y\n\nBEFOREDOT\n", "-t", "u@x.y"),
		call("m25", "Bcc with an argument, no -t", "To: a@x.y\nBcc: b@x.y\n\nBEFOREDOT\n", "-i", "c@x.y"),
		call("m26", "no -t, no recipient, Bcc", "Bcc: b@x.y\n\nBEFOREDOT\n", "-i"),
		call("m27", "-t, header without end", "To: a@x.y\nCc: b@x.y", "-t"),
		call("m28", "From_ lines in a row", "From a Thu Jan  1 00:00:00 1970\nFrom b Thu Jan  1 00:00:00 1970\nTo: a@x.y\n\nBEFOREDOT\n", "-t"),
		call("m31", "DEL in the name of a field", "X\x7f: y\nTo: a@x.y, b@x.y\n\nBEFOREDOT\n", "-t"),
		call("m29", "Return-Receipt-To", "Return-Receipt-To: r@x.y\nDisposition-Notification-To: d@x.y\nTo: a@x.y\n\nBEFOREDOT\n", "-t"),
		call("m30", "8-bit in the header", "To: J\xf6rg <a@x.y>, \xc3\xb6@x.y\nCc: b@x.y\n\nBEFOREDOT\n", "-t"),

		// Options together.
		call("p1", "-f at the end without a value", plain, "a@x.y", "-f"),
		call("p2", "-f without a value", plain, "-f"),
		call("p3", "options between recipients", plain, "a@x.y", "-i", "b@x.y", "-fs@x.y", "c@x.y"),
		call("p4", "-- twice", plain, "-i", "--", "--", "a@x.y"),
		call("p5", "-N never", plain, "-N", "never", "a@x.y"),
		call("p6", "-N success", plain, "-N", "success", "-f", "s@x.y", "a@x.y", "b@x.y"),
		call("p7", "-N success,delay,failure -R full -V id", plain, "-N", "success,delay,failure", "-R", "full", "-V", "QQ314159", "a@x.y"),
		call("p8", "-v -f", plain, "-v", "-f", "s@x.y", "a@x.y"),
		call("p9", "-bv two", "", "-bv", "a@x.y", "b@x.y"),
		call("p10", "-bv -f", "", "-bv", "-f", "s@x.y", "a@x.y"),
		call("p11", "-bm -bs", "HELO h\r\nQUIT\r\n", "-bm", "-bs"),
		call("p12", "-bs -bm", plain, "-bs", "-bm", "a@x.y"),
		call("p13", "-oQ, -oMr, -oMs", plain, "-oMr", "local", "-oMs", "h.x", "a@x.y"),
		call("p14", "-tq", "To: a@x.y\n\nBEFOREDOT\n", "-tq"),
		call("p15", "-qRx -t", "To: a@x.y\n\nBEFOREDOT\n", "-qRx", "-t"),
		call("p16", "source routes and percent", plain, "<@r1,@r2:a@x.y>", "b%x.y@z", "c!d"),
		call("p17", "-F '' -f ''", plain, "-F", "", "-f", "", "a@x.y"),
		call("p18", "-fa -fb -r c", plain, "-fa@x.y", "-r", "c@x.y", "a@x.y"),
		call("p19", "-f with an address after it", plain, "-f", "s@x.y a@x.y", "b@x.y"),
		call("p20", "long options", plain, "--from=s@x.y", "--", "a@x.y"),
		call("p21", "--read-recipients", "To: a@x.y\n\nBEFOREDOT\n", "--read-recipients"),
		call("p22", "--read-envelope-from", "From: Hdr <h@x.y>\nTo: a@x.y\n\nBEFOREDOT\n", "--read-envelope-from", "-t"),
		call("p23", "a recipient twice", plain, "a@x.y", "a@x.y", "A@X.Y"),
		call("p24", "a comment as a recipient", plain, "(nobody)", "a@x.y"),
		call("p25", "an empty group as a recipient", plain, "g:;", "a@x.y"),
		call("p26", "-t, argument with a comma", "To: a@x.y\n\nBEFOREDOT\n", "-t", "b@x.y,c@x.y"),
		call("p27", "-t, only arguments", plain, "-t", "b@x.y"),
		call("p28", "--account", plain, "-a", "default", "a@x.y"),

		// Large ones.
		call("l1", "5 MB in lines", "To: a@x.y\n\n"+strings.Repeat(strings.Repeat("y", 75)+"\n", 5<<20/76), "-t", "-i"),
		call("l2", "3 MB in one line", "To: a@x.y\n\n"+strings.Repeat("y", 3<<20)+"\n", "-t", "-i"),
		call("l3", "900 recipients in the header", "To: "+addresses(900, ",\n ")+"\n\nBEFOREDOT\n", "-t"),
		call("l4", "900 recipients as arguments", plain, strings.Split(addresses(900, " "), " ")...),
		call("l5", "3,000 fields", "To: a@x.y\n"+strings.Repeat("X-A: b\n", 3000)+"Cc: b@x.y\n\nBEFOREDOT\n", "-t"),

		forOnly("exim", call("X10", "-bS, two messages", batch, "-bS")),
		forOnly("exim", named("rsmtp", call("X11", "rsmtp", batch))),
		forOnly("exim", call("X12", "-bS, a bad one between", "MAIL FROM:<s@x.y>\nRCPT TO:<a@x.y>\nDATA\nSubject: s\n\nBEFOREDOT\n.\nMAIL FROM:<s2@x.y>\nRCPT TO:<b@@x.y>\nDATA\nSubject: t\n\nx\n.\n", "-bS")),
		forOnly("exim", call("X13", "-bS, RSET, dots", "HELO h\nMAIL FROM:<s@x.y>\nRCPT TO:<a@x.y>\nRSET\nMAIL FROM:<s2@x.y>\nRCPT TO:<b@x.y>\nRCPT TO:<c@x.y>\nDATA\nSubject: t\n\n..\n..x\nBEFOREDOT\n.\nQUIT\n", "-bS")),
		forOnly("exim", call("X14", "-bS, cut off in a message", "MAIL FROM:<s@x.y>\nRCPT TO:<a@x.y>\nDATA\nSubject: s\n\nBEFOREDOT\n", "-bS")),
		forOnly("exim", call("X15", "-bnq", plain, "-bnq", "a@x.y")),
		forOnly("exim", call("X16", "-odf -oMr -oMt", plain, "-odq", "-oMr", "p", "-oMt", "i", "a@x.y")),
	}
	cases = append(cases, headers()...)
	for _, d := range dialogues() {
		cases = append(cases, forOnly(smtpAll, d))
	}
	return cases
}

const batch = "MAIL FROM:<s@x.y>\nRCPT TO:<a@x.y>\nDATA\nSubject: s\n\nBEFOREDOT\n.\n" +
	"MAIL FROM:<s2@x.y>\nRCPT TO:<b@x.y>\nRCPT TO:<c@x.y>\nDATA\nSubject: t\n\nBEFOREDOT\n.\nQUIT\n"

const asctime = "From joe Thu Jan  1 00:00:00 1970"

// headers are messages that begin in odd ways, which the trace field must not change.
func headers() (cases []testCase) {
	long := "To: a@x.y\n" + strings.Repeat("X-Long: "+strings.Repeat("x", 500)+"\n", 64)
	for i, c := range []struct {
		title, stdin string
		t            bool // -t
	}{
		{"text at once", "no header\nTo: b@x.y\n\nBEFOREDOT\n", false},
		{"text at once, -t", "no header\nTo: b@x.y\n\nBEFOREDOT\n", true},
		{"text at once, CRLF", "no header\r\nTo: b@x.y\r\n\r\nBEFOREDOT\r\n", false},
		{"text without a line end", "BEFOREDOT", false},
		{"empty line first", "\nTo: b@x.y\n\nBEFOREDOT\n", false},
		{"empty line first, CRLF", "\r\nTo: b@x.y\r\n\r\nBEFOREDOT\r\n", false},
		{"nothing", "", false},
		{"a line end", "\n", false},
		{"white space first", "  indented\n\tand again\nTo: b@x.y\n\nBEFOREDOT\n", false},
		{"tab first, CRLF", "\tTo: b@x.y\r\n\r\nBEFOREDOT\r\n", false},
		{"white space first, -t", " x\nTo: a@x.y\n\nBEFOREDOT\n", true},
		{"a line of white space first", " \nTo: a@x.y\n\nBEFOREDOT\n", true},
		{"From_ line, CRLF", asctime + "\r\nTo: a@x.y,\r\n b@x.y\r\n\r\nBEFOREDOT\r\n", true},
		{"From_ line without a date", "From joe\nTo: a@x.y\n\nBEFOREDOT\n", true},
		{"From_ line with another date", "From joe 5 Jan 97 12:35\nTo: a@x.y\n\nBEFOREDOT\n", true},
		{">From_ line", ">" + asctime + "\nTo: a@x.y\n\nBEFOREDOT\n", true},
		{"From_ line in lower case", "from joe\nTo: a@x.y\n\nBEFOREDOT\n", true},
		{"two From_ lines", asctime + "\n" + asctime + "\nTo: a@x.y\n\nBEFOREDOT\n", true},
		{"From_ line, then white space", asctime + "\n folded\nTo: a@x.y\n\nBEFOREDOT\n", true},
		{"From_ line, then text", asctime + "\nBEFOREDOT\n", false},
		{"From_ line, then nothing", asctime + "\n", false},
		{"From_ line in CRLF, header in LF", asctime + "\r\nTo: a@x.y\nCc: b@x.y\n\nBEFOREDOT\n", true},
		{"From_ line in LF, header in CRLF", asctime + "\nTo: a@x.y\r\nCc: b@x.y\r\n\r\nBEFOREDOT\r\n", true},
		{"From_ line with NUL and CR", "From joe\x00 Thu\rJan  1 00:00:00 1970\nTo: a@x.y\n\nBEFOREDOT\n", true},
		{"From_ line of 3,000 bytes", "From " + strings.Repeat("j", 3000) + " Thu Jan  1 00:00:00 1970\nTo: a@x.y\n\nBEFOREDOT\n", true},
		{"CRLF first, then LF", "To: a@x.y\r\nCc: b@x.y\n\nBEFOREDOT\n", true},
		{"LF first, then CRLF", "To: a@x.y\nCc: b@x.y\r\n\r\nBEFOREDOT\r\n", true},
		{"CR alone in the first line", "Subject: a\rTo: b@x.y\r\nCc: a@x.y\r\n\r\nBEFOREDOT\r\n", true},
		{"CR first", "\rTo: b@x.y\nCc: a@x.y\n\nBEFOREDOT\n", true},
		{"NUL first", "\x00 To: b@x.y\nCc: a@x.y\n\nBEFOREDOT\n", true},
		{"vertical tab first", "\vTo: b@x.y\nCc: a@x.y\n\nBEFOREDOT\n", true},
		{"such a field before", traceName + ": forged\nTo: a@x.y\n" + traceName + ":\n forged again\n\nBEFOREDOT\n", true},
		{"Resent- fields first", "Resent-To: a@x.y\nResent-From: f@x.y\nResent-Date: Thu, 1 Jan 1970 00:00:00 +0000\nTo: b@x.y\nResent-To: c@x.y\n\nBEFOREDOT\n", true},
		{"Received first", "Return-Path: <r@x.y>\nReceived: from h by i; Thu, 1 Jan 1970 00:00:00 +0000\nTo: a@x.y\n\nBEFOREDOT\n", true},
		{"unknown fields only", "X-A: b\nX-B: c\n\nBEFOREDOT\n", false},
		{"header without end", "X-A: b", false},
		{"header of 32 KB", long + "X-Pad: " + strings.Repeat("x", 120) + "\n\nBEFOREDOT\n", true},
		{"header of 33 KB", long + "X-Pad: " + strings.Repeat("x", 800) + "\n\nBEFOREDOT\n", true},
	} {
		argv := []string{"sendmail", "-i", "c@x.y"}
		if c.t {
			argv = []string{"sendmail", "-i", "-t"}
		}
		cases = append(cases, testCase{ID: fmt.Sprintf("h%d", i+1), Title: c.title, Argv: argv, Stdin: c.stdin})
	}
	return cases
}

// dialogues are SMTP sessions, as clients of the field have them and worse.
func dialogues() []testCase {
	session := func(id, title string, lines ...string) testCase {
		return testCase{ID: id, Title: title, Argv: []string{"sendmail", "-bs"}, Stdin: strings.Join(lines, "\r\n") + "\r\n", Is: lockstep}
	}
	transaction := func(sender, recipient string) []string {
		return []string{"MAIL FROM:<" + sender + ">", "RCPT TO:<" + recipient + ">", "DATA", "Subject: s", "", "BEFOREDOT", "."}
	}
	many := []string{"HELO [127.0.0.1]"}
	for i := range 20 {
		many = append(many, transaction("s@x.y", fmt.Sprintf("a%d@x.y", i))...)
	}
	crowd := []string{"EHLO h", "MAIL FROM:<s@x.y>"}
	for _, a := range strings.Split(addresses(120, " "), " ") {
		crowd = append(crowd, "RCPT TO:<"+a+">")
	}
	return []testCase{
		session("s1", "Symfony: HELO, two messages", append(append(append([]string{"HELO [127.0.0.1]"}, transaction("s@x.y", "a@x.y")...), transaction("s@x.y", "b@x.y")...), "QUIT")...),
		session("s2", "EHLO, message, QUIT", append(append([]string{"EHLO h"}, transaction("s@x.y", "a@x.y")...), "QUIT")...),
		session("s3", "twenty messages", append(many, "QUIT")...),
		session("s4", "RSET in the middle", "EHLO h", "MAIL FROM:<s@x.y>", "RCPT TO:<a@x.y>", "RSET", "MAIL FROM:<t@x.y>", "RCPT TO:<b@x.y>", "DATA", "Subject: s", "", "BEFOREDOT", ".", "QUIT"),
		session("s5", "no QUIT", append([]string{"EHLO h"}, transaction("s@x.y", "a@x.y")...)...),
		session("s6", "cut off in the message", "EHLO h", "MAIL FROM:<s@x.y>", "RCPT TO:<a@x.y>", "DATA", "Subject: s", "", "BEFOREDOT"),
		session("s7", "dots", "EHLO h", "MAIL FROM:<s@x.y>", "RCPT TO:<a@x.y>", "DATA", "Subject: s", "", "..", "...x", "..x", "BEFOREDOT", ".", "NOOP", "QUIT"),
		session("s8", "a recipient refused among two", "EHLO h", "MAIL FROM:<s@x.y>", "RCPT TO:<a@@x.y>", "RCPT TO:<b@x.y>", "DATA", "Subject: s", "", "BEFOREDOT", ".", "QUIT"),
		session("s9", "commands out of order", "EHLO h", "RCPT TO:<a@x.y>", "DATA", "MAIL FROM:<s@x.y>", "MAIL FROM:<t@x.y>", "DATA", "NONSENSE", "VRFY a@x.y", "EXPN a", "HELP", "NOOP", "QUIT"),
		session("s10", "parameters", "EHLO h", "MAIL FROM:<s@x.y> SIZE=100 BODY=8BITMIME", "RCPT TO:<a@x.y>", "DATA", "Subject: s", "", "BEFOREDOT \xe4", ".", "QUIT"),
		session("s11", "a report asked for", "EHLO h", "MAIL FROM:<s@x.y> RET=HDRS ENVID=x", "RCPT TO:<a@x.y> NOTIFY=FAILURE,DELAY ORCPT=rfc822;a@x.y", "DATA", "Subject: s", "", "BEFOREDOT", ".", "QUIT"),
		session("s12", "null sender", "EHLO h", "MAIL FROM:<>", "RCPT TO:<a@x.y>", "DATA", "Subject: s", "", "BEFOREDOT", ".", "QUIT"),
		session("s13", "lower case, spaces", "ehlo h", "mail from: <s@x.y>", "rcpt to: <a@x.y>", "data", "Subject: s", "", "BEFOREDOT", ".", "quit"),
		session("s14", "120 recipients", append(crowd, "DATA", "Subject: s", "", "BEFOREDOT", ".", "QUIT")...),
		session("s15", "no greeting of the client", append(transaction("s@x.y", "a@x.y"), "QUIT")...),
		session("s16", "EHLO twice", append(append([]string{"EHLO h", "MAIL FROM:<s@x.y>", "RCPT TO:<x@x.y>", "EHLO i"}, transaction("t@x.y", "a@x.y")...), "QUIT")...),
		session("s17", "empty message", "EHLO h", "MAIL FROM:<s@x.y>", "RCPT TO:<a@x.y>", "DATA", ".", "QUIT"),
		session("s18", "1 MB", "EHLO h", "MAIL FROM:<s@x.y>", "RCPT TO:<a@x.y>", "DATA", "Subject: s", "", strings.Repeat(strings.Repeat("y", 75)+"\r\n", 1<<20/77)+"BEFOREDOT", ".", "QUIT"),
		session("s19", "ETRN", "EHLO h", "ETRN x.y", "QUIT"),
		session("s20", "a long command", "EHLO "+strings.Repeat("h", 1500), "MAIL FROM:<"+strings.Repeat("s", 1200)+"@x.y>", "QUIT"),
		session("s21", "same recipient twice", "EHLO h", "MAIL FROM:<s@x.y>", "RCPT TO:<a@x.y>", "RCPT TO:<a@x.y>", "DATA", "Subject: s", "", "BEFOREDOT", ".", "QUIT"),
		session("s22", "BDAT", "EHLO h", "MAIL FROM:<s@x.y>", "RCPT TO:<a@x.y>", "BDAT 25 LAST", "Subject: s\r\n\r\nBEFOREDOT", "QUIT"),
		{ID: "s23", Title: "all at once, LF only", Argv: []string{"sendmail", "-bs"}, Stdin: "HELO h\nMAIL FROM:<s@x.y>\nRCPT TO:<a@x.y>\nDATA\nSubject: s\n\nBEFOREDOT\n.\nQUIT\n", Is: lockstep},
		session("s25", "STARTTLS", "EHLO h", "STARTTLS"),
		session("s26", "BDAT in two chunks, and one for nobody", "EHLO h", "MAIL FROM:<s@x.y>", "RCPT TO:<a@x.y>", "BDAT 14", "Subject: s\r\n", "BDAT 11 LAST", "BEFOREDOT", "BDAT 3 LAST", "x", "QUIT"),
		session("s27", "text at once", "EHLO h", "MAIL FROM:<s@x.y>", "RCPT TO:<a@x.y>", "DATA", "no header", "BEFOREDOT", ".", "QUIT"),
		session("s28", "From_ line", "EHLO h", "MAIL FROM:<s@x.y>", "RCPT TO:<a@x.y>", "DATA", asctime, "Subject: s", "", "BEFOREDOT", ".", "QUIT"),
		session("s29", "white space first", "EHLO h", "MAIL FROM:<s@x.y>", "RCPT TO:<a@x.y>", "DATA", " folded", "Subject: s", "", "BEFOREDOT", ".", "QUIT"),
		session("s30", "empty line first", "EHLO h", "MAIL FROM:<s@x.y>", "RCPT TO:<a@x.y>", "DATA", "", "BEFOREDOT", ".", "QUIT"),
		{ID: "s24", Title: "nothing at all", Argv: []string{"sendmail", "-bs"}, Stdin: ""},
	}
}

// addresses returns a1@x.y to an@x.y.
func addresses(n int, sep string) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("a%d@x.y", i+1)
	}
	return strings.Join(list, sep)
}

// allBytes is each byte once but those that end a line.
func allBytes() string {
	b := []byte{}
	for i := 1; i < 256; i++ {
		if i != '\n' && i != '\r' {
			b = append(b, byte(i))
		}
	}
	return string(b)
}
