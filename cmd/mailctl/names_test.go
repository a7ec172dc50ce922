package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadNames(t *testing.T) {
	got := foundNames(parseNames("/usr/sbin/sendmail taken /usr/sbin/exim4\n/usr/lib/sendmail taken /usr/sbin/exim4\n" +
		"/usr/bin/mailq free /usr/sbin/exim4\n/usr/sbin/rmail broken - there is no /usr/sbin/rmail.real\n"))
	want := []finding{
		{Check: "names", State: isOpen, Severity: highSeverity, Command: namesProgram + " take",
			Text: "/usr/bin/mailq is /usr/sbin/exim4 itself: mail that is given to it is not counted"},
		{Check: "names", State: isWrong, Severity: highSeverity, Command: namesProgram + " repair",
			Text: "/usr/sbin/rmail: there is no /usr/sbin/rmail.real"},
		{Check: "names", State: isFine, Text: "/usr/sbin/sendmail, /usr/lib/sendmail: the wrapper, before /usr/sbin/exim4"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
