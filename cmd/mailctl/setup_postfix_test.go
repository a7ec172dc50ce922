package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sendmail-wrapper/config"
)

const testQuestion = "check_policy_service { inet:127.0.0.1:10031, timeout=10s, { default_action = 421 4.3.5 mail cannot be counted now; try again later } }"

// mainCases are texts of main.cf, and lines that must be in them after the set-up.
var mainCases = []struct {
	text      string
	transport string
	want      []string
}{
	{"", "", []string{"mailquota_policy = " + testQuestion, "smtpd_recipient_restrictions = $mailquota_policy", "smtpd_end_of_data_restrictions = $mailquota_policy", "enable_long_queue_ids = yes"}},
	{"smtpd_recipient_restrictions = permit_mynetworks, reject\n", "", []string{"smtpd_recipient_restrictions = $mailquota_policy, permit_mynetworks, reject"}},
	{"smtpd_recipient_restrictions =\n  permit_mynetworks,\n# why\n\n\treject\nmyhostname = a\n", "", []string{"smtpd_recipient_restrictions =", "  $mailquota_policy, permit_mynetworks,", "# why", "\treject"}},
	{"smtpd_recipient_restrictions=\n", "", []string{"smtpd_recipient_restrictions=$mailquota_policy,"}},
	{"smtpd_recipient_restrictions = \n# none\nmyhostname = a\n", "", []string{"smtpd_recipient_restrictions = $mailquota_policy,"}},
	{"smtpd_end_of_data_restrictions = a\nsmtpd_end_of_data_restrictions = b\n", "", []string{"smtpd_end_of_data_restrictions = a", "smtpd_end_of_data_restrictions = $mailquota_policy, b"}},
	{"# smtpd_recipient_restrictions = x\n x = y\n", "", []string{"smtpd_recipient_restrictions = $mailquota_policy"}},
	{"enable_long_queue_ids = no\nx = y\n", "", []string{"# mailctl setup postfix: enable_long_queue_ids = no", "enable_long_queue_ids = yes"}},
	{"enable_long_queue_ids = yes\n", "", nil},
	{"smtp_destination_concurrency_limit = 3\nsmtp_tls_security_level = may\n", "smtp", []string{"mailquota_destination_concurrency_limit = $smtp_destination_concurrency_limit", "default_transport = mailquota"}},
	{"default_transport =\n  slow:[relay.example]:25\nx = y\nslow_destination_rate_delay = 1s\n", "slow:[relay.example]:25",
		[]string{"# mailctl setup postfix: default_transport =", "# mailctl setup postfix:   slow:[relay.example]:25", "mailquota-slow_destination_rate_delay = $slow_destination_rate_delay", "default_transport = mailquota-slow:[relay.example]:25"}},
	{"mailquota_destination_rate_delay = 1s\nsmtp_destination_rate_delay = 2s\nmailquota_recipient_limit = $smtp_recipient_limit\n", "smtp", []string{"mailquota_destination_rate_delay = 1s", "default_transport = mailquota"}},
	{"x = y", "", []string{"x = y"}},
	{"x = 1\nsmtpd_recipient_restrictions =\n  reject", "", []string{"  $mailquota_policy, reject"}},
	{"x = 1\ndefault_transport = slow", "slow", []string{"# mailctl setup postfix: default_transport = slow"}},
	{"x = y\n# the end", "", []string{"# the end"}},
	{"slow-1_recipient_limit = 7\ndefault_transport = slow-1\n", "slow-1", []string{"mailquota-slow-1_recipient_limit = 7", "default_transport = mailquota-slow-1"}},
}

// setUpMain makes the set-up in a main.cf that may have one already.
func setUpMain(text string, w mainSettings) []byte {
	rest, place := withoutOurs([]byte(text), postfixChecks, true)
	return mainWith(rest, place, w)
}

func TestMainWith(t *testing.T) {
	for _, c := range mainCases {
		with := setUpMain(c.text, mainSettings{question: testQuestion, transport: c.transport})
		for _, want := range c.want {
			if !strings.Contains("\n"+string(with)+"\n", "\n"+want+"\n") {
				t.Errorf("%q: no line %q in:\n%s", c.text, want, with)
			}
		}
		for _, name := range policyRestrictions {
			if p, _ := setting(with, name); p.value != policyWord && !strings.HasPrefix(p.value, policyWord+",") {
				t.Errorf("%q: %s = %s", c.text, name, p.value)
			}
		}
		if got, _ := withoutOurs(with, postfixChecks, true); string(got) != c.text {
			t.Errorf("%q comes back as %q", c.text, got)
		}
	}
}

// TestMainChosen: what an administrator has set for our transport holds.
func TestMainChosen(t *testing.T) {
	with := setUpMain("mailquota_destination_rate_delay = 1s\nsmtp_destination_rate_delay = 2s\n", mainSettings{question: testQuestion, transport: "smtp"})
	if p, _ := setting(with, "mailquota_destination_rate_delay"); p.value != "1s" {
		t.Errorf("%q holds of\n%s", p.value, with)
	}
}

// TestMainPlace: the block stays where it is, whatever others write behind it.
func TestMainPlace(t *testing.T) {
	w := mainSettings{question: testQuestion, transport: "smtp"}
	text := append(mainWith([]byte("a = 1\n"), 6, w), "b = 2\nsmtpd_end_of_data_restrictions = reject_x\ndefault_transport = smtp\n"...)
	rest, place := withoutOurs(text, postfixChecks, true)
	got := mainWith(rest, place, w)
	if again, place := withoutOurs(got, postfixChecks, true); !bytes.Equal(again, rest) || place != len("a = 1\n") {
		t.Errorf("at %d: %s", place, again)
	}
	for _, want := range []string{"a = 1\n# BEGIN ", "# END mailctl setup postfix\nb = 2\nsmtpd_end_of_data_restrictions = $mailquota_policy, reject_x\n# mailctl setup postfix: default_transport = smtp\n"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

// TestMainEdited: what others did to main.cf after the set-up stays when ours goes, and
// ours is found wherever it is.
func TestMainEdited(t *testing.T) {
	with := func(text, transport string) string {
		return string(mainWith([]byte(text), len(text), mainSettings{question: testQuestion, transport: transport}))
	}
	for _, c := range []struct{ name, text, want string }{
		{"a line behind", with("a = 1\n", "") + "b = 2\n", "a = 1\nb = 2\n"},
		{"in our block, as postconf -e does", strings.Replace(with("a = 1\n", ""), "smtpd_end_of_data_restrictions = $mailquota_policy", "smtpd_end_of_data_restrictions = $mailquota_policy, reject_x", 1),
			"a = 1\nsmtpd_end_of_data_restrictions = reject_x\n"},
		{"a value of ours replaced", strings.Replace(with("default_transport = slow\nx = 1\n", "slow"), "default_transport = mailquota-slow", "default_transport = other", 1),
			"x = 1\ndefault_transport = other\n"},
		{"a copy of ours replaced", strings.Replace(with("smtp_recipient_limit = 1\nsmtp_destination_rate_delay = 1s\n", "smtp"), "mailquota_destination_rate_delay = $smtp_destination_rate_delay", "mailquota_destination_rate_delay = 2s", 1),
			"smtp_recipient_limit = 1\nsmtp_destination_rate_delay = 1s\nmailquota_destination_rate_delay = 2s\n"},
		{"the block's end is lost", strings.Replace(with("a = 1\n", "smtp"), postfixEnd+"\n", "", 1), "a = 1\nenable_long_queue_ids = yes\n"},
		{"moved behind", "smtpd_recipient_restrictions = permit_mynetworks, $mailquota_policy, reject\n", "smtpd_recipient_restrictions = permit_mynetworks, reject\n"},
		{"a name that begins as ours", "x = $mailquota_policy_of_mine, y\n", "x = $mailquota_policy_of_mine, y\n"},
		{"an older set-up", "a = 1\nheader_checks = regexp:" + postfixChecks + "\n", "a = 1\n"},
	} {
		if got, _ := withoutOurs([]byte(c.text), postfixChecks, true); string(got) != c.want {
			t.Errorf("%s: %q, want %q, of\n%s", c.name, got, c.want, c.text)
		}
	}
}

var masterCases = []struct {
	text, want string
	left       string
}{
	{"smtp inet n - y - - smtpd\n", "smtp inet n - y - - smtpd\n", ""},
	{"submission inet n - y - - smtpd\n  -o syslog_name=postfix/submission\n#  -o smtpd_recipient_restrictions=x\n  -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject\nsmtp unix - - y - - smtp\n",
		"submission inet n - y - - smtpd\n  -o syslog_name=postfix/submission\n#  -o smtpd_recipient_restrictions=x\n  -o smtpd_recipient_restrictions=$mailquota_policy,permit_sasl_authenticated,reject\nsmtp unix - - y - - smtp\n", ""},
	{"smtps inet n - y - - smtpd -o smtpd_recipient_restrictions= -o smtpd_end_of_data_restrictions=a\n",
		"smtps inet n - y - - smtpd -o smtpd_recipient_restrictions=$mailquota_policy, -o smtpd_end_of_data_restrictions=$mailquota_policy,a\n", ""},
	{"smtps inet n - y - - smtpd\n\t-o { smtpd_recipient_restrictions = a, b }\n\t-o { smtpd_end_of_data_restrictions = }\n",
		"smtps inet n - y - - smtpd\n\t-o { smtpd_recipient_restrictions = $mailquota_policy, a, b }\n\t-o { smtpd_end_of_data_restrictions = $mailquota_policy,}\n", ""},
	{"smtps inet n - y - - smtpd -osmtpd_recipient_restrictions=$mua\n", "smtps inet n - y - - smtpd -osmtpd_recipient_restrictions=$mailquota_policy,$mua\n", ""},
	{"127.0.0.1:10025 inet n - n - - smtpd\n    -o content_filter=\n    -o smtpd_recipient_restrictions=permit_mynetworks,reject\n# next\nsmtp unix - - y - - smtp\n",
		"127.0.0.1:10025 inet n - n - - smtpd\n    -o content_filter=\n    -o smtpd_recipient_restrictions=permit_mynetworks,reject\n  -o mailquota_policy=\n# next\nsmtp unix - - y - - smtp\n", "127.0.0.1:10025"},
	{"localhost:10026 inet n - n - - smtpd\n -o smtpd_authorized_xforward_hosts=127.0.0.0/8\n", "localhost:10026 inet n - n - - smtpd\n -o smtpd_authorized_xforward_hosts=127.0.0.0/8\n  -o mailquota_policy=\n", "localhost:10026"},
	{"submission inet n - n - - smtpd\n -o content_filter=\n", "submission inet n - n - - smtpd\n -o content_filter=\n", ""},
	{"filter unix - n n - - pipe\n -o smtpd_recipient_restrictions=x argv=/x\n", "filter unix - n n - - pipe\n -o smtpd_recipient_restrictions=x argv=/x\n", ""},
	{"26 inet n - n - - smtpd\n -o mailquota_policy=\n", "26 inet n - n - - smtpd\n -o mailquota_policy=\n", "26"},
	{" stray\nbroken\n", " stray\nbroken\n", ""},
}

func TestMasterWith(t *testing.T) {
	for _, c := range masterCases {
		got, left := masterWith([]byte(c.text))
		if string(got) != c.want || strings.Join(left, " ") != c.left {
			t.Errorf("%q: %q, left %q", c.text, got, left)
		}
		if back := masterWithout(got); string(back) != c.text {
			t.Errorf("%q comes back as %q", c.text, back)
		}
	}
	// postconf -P and -M -e write a service on lines of their own form.
	got := masterWithout([]byte("127.0.0.1:10025 inet n - n - - smtpd -o content_filter= -o mailquota_policy=\n"))
	if want := "127.0.0.1:10025 inet n - n - - smtpd -o content_filter=\n"; string(got) != want {
		t.Errorf("%q", got)
	}
}

// TestExpandedBeforeFilter: services are named whose filter gets mail with its aliases expanded.
func TestExpandedBeforeFilter(t *testing.T) {
	const master = "smtp inet n - y - - smtpd\npickup unix n - y 60 1 pickup\n127.0.0.1:10025 inet n - n - - smtpd\n -o content_filter=\nsmtp unix - - y - - smtp\n"
	for _, c := range []struct{ main, master, want string }{
		{"", master, ""},
		{"content_filter = amavis:[127.0.0.1]:10024\n", master, "smtp pickup"},
		{"content_filter = amavis:[127.0.0.1]:10024\nreceive_override_options = no_header_body_checks, no_address_mappings\n", master, ""},
		{"content_filter = a:b\nreceive_override_options = no_address_mappings\n", "smtp inet n - y - - smtpd -o receive_override_options=\n", "smtp"},
		{"", "587 inet n - y - - smtpd\n -o content_filter=a:b\n588 inet n - y - - smtpd\n -o content_filter=a:b\n -o receive_override_options=no_address_mappings\n", "587"},
	} {
		if got := strings.Join(expandedBeforeFilter([]byte(c.main), []byte(c.master)), " "); got != c.want {
			t.Errorf("%q, %q: %q, want %q", c.main, c.master, got, c.want)
		}
	}
}

func TestTrustsXCLIENT(t *testing.T) {
	const master = "smtp inet n - y - - smtpd\n127.0.0.1:10588 inet n - y - - smtpd -o smtpd_authorized_xclient_hosts=127.0.0.1\n" +
		"589 inet n - y - - smtpd -o smtpd_authorized_xclient_hosts=192.0.2.1\nsmtp unix - - y - - smtp\n"
	for main, want := range map[string]string{"": "127.0.0.1:10588", "smtpd_authorized_xclient_hosts = localhost\n": "smtp 127.0.0.1:10588"} {
		if got := strings.Join(trustsXCLIENT([]byte(main), []byte(master)), " "); got != want {
			t.Errorf("%q: %q, want %q", main, got, want)
		}
	}
}

// TestPostfixState: a Postfix of which nothing can be told is a problem, and none at all is not.
func TestPostfixState(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	c := config.Default()
	if problems, hints := postfixState(t.Context(), &c, filepath.Join(dir, "mailquotad.conf")); problems != nil || hints != nil {
		t.Errorf("no Postfix: %q, %q", problems, hints)
	}
	for says, want := range map[string]int{
		"postconf: fatal: open /etc/postfix/main.cf: Permission denied":         1,
		"postconf: fatal: open /etc/postfix/main.cf: No such file or directory": 0,
	} {
		if err := os.WriteFile(filepath.Join(dir, "postconf"), []byte("#!/bin/sh\necho '"+says+"' >&2; exit 1\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		problems, hints := postfixState(t.Context(), &c, filepath.Join(dir, "mailquotad.conf"))
		if len(problems) != want || want > 0 && !strings.Contains(problems[0], says) || hints != nil {
			t.Errorf("%s: %q, %q", says, problems, hints)
		}
	}
}

// FuzzMain: whatever main.cf is, the set-up can be taken out again, and made twice
// is made once.
func FuzzMain(f *testing.F) {
	for _, c := range mainCases {
		f.Add(c.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "mailquota") || strings.Contains(text, gaveWay[:12]) {
			return
		}
		w := mainSettings{question: testQuestion, transport: "smtp"}
		with := setUpMain(text, w)
		want := text
		if text != "" && text[len(text)-1] != '\n' && blockPlace([]byte(text)) == len(text) {
			want += "\n" // the one that is not as it was
		}
		if back, _ := withoutOurs(with, postfixChecks, true); string(back) != want {
			t.Fatalf("%q comes back as %q from\n%s", text, back, with)
		}
		if again := setUpMain(string(with), w); !bytes.Equal(again, with) {
			t.Fatalf("%q: made twice is\n%s\nand once\n%s", text, again, with)
		}
	})
}

// FuzzMaster: as FuzzMain, of master.cf.
func FuzzMaster(f *testing.F) {
	for _, c := range masterCases {
		f.Add(c.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "mailquota") || text != "" && !strings.HasSuffix(text, "\n") {
			return
		}
		with, _ := masterWith([]byte(text))
		back := masterWithout(with)
		if string(back) != text {
			t.Fatalf("%q comes back as %q from\n%q", text, back, with)
		}
		if again, _ := masterWith(back); !bytes.Equal(again, with) {
			t.Fatalf("%q: made twice is\n%s\nand once\n%s", text, again, with)
		}
	})
}
