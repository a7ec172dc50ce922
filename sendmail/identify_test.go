package sendmail

import (
	"strings"
	"testing"
	"testing/iotest"
)

func TestIdentify(t *testing.T) {
	fill := strings.Repeat("\x00\x7fELF", 100_000)
	for _, c := range []struct{ name, program, want, err string }{
		{"postfix", fill + "mail_version=3.7.11\x00" + fill, "postfix", ""},
		{"at the end", fill + "nullmailer-inject", "nullmailer", ""},
		{"across two reads", strings.Repeat("x", 256<<10-5) + "submit.cf" + fill, "sendmail", ""},
		{"across two later reads", strings.Repeat("x", 512<<10-longestSignature-5) + "submit.cf" + fill, "sendmail", ""},
		{"exim", "extract_addresses_remove_arguments", "exim", ""},
		{"unknown", fill, "", "/p is of no mail server that is known; write the mail server"},
		{"empty", "", "", "/p is of no mail server that is known"},
		{"two", "submit.cf" + fill + "smtpd.sock", "", "/p could be of any of sendmail opensmtpd;"},
		{"script", "#! /usr/bin/perl -w\nexec 'postdrop', 'submit.cf'", "", `/p is a script ("/usr/bin/perl -w"); write`},
		{"words of a script further on", fill + "#!/bin/sh DragonFly Mail Agent", "dma", ""},
	} {
		got, err := Identify("/p", strings.NewReader(c.program))
		if got != c.want || (err != nil) != (c.err != "") || err != nil && !strings.HasPrefix(err.Error(), c.err) {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
	if _, err := Identify("/p", iotest.ErrReader(iotest.ErrTimeout)); err == nil || err.Error() != "/p: timeout" {
		t.Errorf("a program that cannot be read: %v", err)
	}
	for i := range signatures {
		if word := signatures[i].word; len(word) > longestSignature {
			t.Errorf("longestSignature is less than %q", word)
		}
	}
}
