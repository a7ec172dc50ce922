package sendmail

import (
	"strings"
	"testing"
	"time"
)

// TestEnvironment: what variables change.
func TestEnvironment(t *testing.T) {
	for _, c := range []struct {
		profile string
		argv    string
		stdin   string
		env     map[string]string
		want    int // -1 for a call that is not to be passed on
		sender  string
	}{
		{"dma", "sendmail a@x -F b@x,c@x", "\n", nil, 1, "alice"},
		{"dma", "sendmail a@x -F b@x,c@x", "\n", map[string]string{"POSIXLY_CORRECT": ""}, 3, "alice"},
		{"msmtp", "sendmail a@x -F b@x,c@x", "\n", map[string]string{"POSIXLY_CORRECT": "1"}, 4, "alice"},
		{"opensmtpd", "sendmail a@x -F b@x,c@x", "\n", map[string]string{"POSIXLY_CORRECT": "1"}, 4, "alice"},
		{"nullmailer", "sendmail -F b@x a@x", "\n", map[string]string{"POSIXLY_CORRECT": "1"}, 1, "alice"},

		{"dma", "sendmail a@x", "\n", map[string]string{"EMAIL": "e@x", "USER": "u"}, 1, "e@x"},
		{"dma", "sendmail -fs@x a@x", "\n", map[string]string{"EMAIL": "e@x"}, 1, "s@x"},
		{"dma", "sendmail a@x", "\n", map[string]string{"EMAIL": ""}, 1, "alice"},
		{"dma", "sendmail a@x", "\n", map[string]string{"EMAIL": "e\n@x"}, -1, ""},
		{"dma", "sendmail a@x", "\n", map[string]string{"USER": "u\n"}, 1, "alice"},
		{"dma", "sendmail a@x", "\n", map[string]string{"EMAIL": strings.Repeat("e", maxHint)}, -1, ""}, // who knows what was behind it
		{"msmtp", "sendmail a@x", "\n", map[string]string{"EMAIL": "e@x"}, 1, "alice"},
		{"msmtp", "sendmail a@x", "\n", map[string]string{"EMAIL": "e@x>\nRCPT TO:<b@x"}, -1, ""},
		{"msmtp", "sendmail a@x", "\n", map[string]string{"USER": "u>\nRCPT TO:<b@x"}, -1, ""},
		{"msmtp", "sendmail a@x", "\n", map[string]string{"LOGNAME": "u>\nRCPT TO:<b@x"}, -1, ""},
		{"opensmtpd", "sendmail a@x", "\n", map[string]string{"EMAIL": "e\n", "USER": "u\n", "LOGNAME": "u\n"}, 1, "alice"},

		{"nullmailer", "sendmail a@x", "\n", map[string]string{"LOGNAME": "l", "USER": "u"}, 1, "u"},
		{"nullmailer", "sendmail a@x", "\n", map[string]string{"USER": "u", "MAILUSER": "m", "NULLMAILER_USER": "", "HOSTNAME": "h"}, 1, "m@h"},
		{"nullmailer", "sendmail -fs@x a@x", "\n", map[string]string{"NULLMAILER_USER": "n", "NULLMAILER_HOST": "h"}, 1, "s@x"},
		{"nullmailer", "sendmail -fs@x a@x", "\n", map[string]string{"NULLMAILER_SUSER": "n"}, 1, "n@x"},
		{"nullmailer", "sendmail a@x", "Return-Path: <r@x>\n\n", map[string]string{"NULLMAILER_USER": "n"}, 1, "r@x"},
		{"nullmailer", "sendmail a@x", "Return-Path: <r@x>\n\n", map[string]string{"NULLMAILER_USER": "n", "NULLMAILER_FLAGS": "s"}, 1, "n"},
		{"nullmailer", "sendmail a@x", "From: <f\n\n", nil, 0, "alice"},
		{"nullmailer", "sendmail a@x", "From: <f\n\n", map[string]string{"NULLMAILER_FLAGS": "tf"}, 1, "alice"},
		{"nullmailer", "sendmail a@x", "\n", map[string]string{"MAILHOST": "h\nb@x\nc@x"}, -1, ""},
		{"nullmailer", "sendmail -t", "\n", map[string]string{"NULLMAILER_SUSER": "u\nb@x"}, -1, ""},
		{"postfix", "sendmail a@x", "\n", map[string]string{"EMAIL": "e\n", "USER": "u\n", "MAILHOST": "h\n"}, 1, "alice"},
	} {
		p, err := ProfileByName(c.profile)
		if err != nil {
			t.Fatal(err)
		}
		env := func(name string) (string, bool) { value, set := c.env[name]; return value, set }
		e, err := p.Scan(p.Under(env).Parse(strings.Fields(c.argv)), env, strings.NewReader(c.stdin))
		if err != nil {
			t.Fatal(err)
		}
		if e.LineBreaks {
			e.Recipients = -1
		}
		if !e.SenderSet {
			e.Sender = "alice"
		}
		if e.Recipients != c.want || c.want > 0 && e.Sender != c.sender {
			t.Errorf("%s: %s %q %q: %d recipients of %q, want %d of %q", c.profile, c.argv, c.stdin, c.env, e.Recipients, e.Sender, c.want, c.sender)
		}
	}
}

// TestMachinesStayLinear: however a header is made, the machines read it in time
// that grows with its length only.
func TestMachinesStayLinear(t *testing.T) {
	call := Call{Mode: Submit, FromHeader: true}
	for _, p := range profiles {
		if p.machine == nil {
			continue
		}
		for _, unit := range []string{
			"a ", "a,", "a, ", "a\n ", "<", ">", "(", ")", "(a) ", `"`, `\`, ":", ";", "a:", ":;", "a:;", "a b: ", "a b <", "a<a>", "<@a", "@", ".", "a.", "\n ", "\r", "\nTo: a, <", "\nTo:", "\x00",
		} {
			began := time.Now()
			if _, err := scan(p, call, strings.NewReader("To: "+strings.Repeat(unit, 1<<20/len(unit))+"\n\n")); err != nil {
				t.Errorf("%s, %q: %v", p.Name, unit, err)
			}
			// Quadratic time would be an hour.
			if took := time.Since(began); took > time.Minute {
				t.Errorf("%s, %q: %v", p.Name, unit, took)
			}
		}
	}
}
