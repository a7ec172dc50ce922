package sendmail

import (
	"errors"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// handing are the profiles whose command lines can be handed over.
var handing = []*Profile{&postfix, &exim, eximAddArguments(), &sendmail8}

var alice = Submitter{Sender: "alice", FullName: "Alice A"}

func TestHandOver(t *testing.T) {
	with := func(name, value string) Env {
		return func(n string) (string, bool) { return value, n == name }
	}
	for _, c := range []struct {
		p    *Profile
		argv string // words divided by "|"
		env  Env
		want string
	}{
		{&postfix, "sendmail|-t|-i", nil, "-falice|-FAlice A|-t|-i|--"},
		{&postfix, "/x/send-mail|-f|Bob <b@x>|-oem|-oi|a@x", nil, "-fBob <b@x>|-FAlice A|-i|--|a@x"},
		{&postfix, "mailq|-bm|-F|Me|a@x", nil, "-falice|-FMe|--|a@x"},
		{&postfix, "sendmail|-f||a@x", nil, "-f||-FAlice A|--|a@x"},
		{&postfix, "sendmail|-bv|-oQ/tmp|a@x", nil, "-falice|-FAlice A|-bv|--|a@x"},
		{&postfix, "sendmail|-C/tmp|-O|x=y|-L|tag|-A|c|-N|success|-R|hdrs|-V|env|-B8BITMIME|a@x|-C/y", nil,
			"-falice|-FAlice A|-Nsuccess|-Rhdrs|-Venv|-B8BITMIME|--|a@x|-C/y"},
		{&postfix, "sendmail|-V|+=|a@x", nil, "-falice|-FAlice A|-XV|--|+=|a@x"},
		{&postfix, "sendmail|-tVab", nil, "-falice|-FAlice A|-t|--"}, // -Vab alone is VERP
		{&postfix, "sendmail|-v|-G|a@x", nil, "-falice|-FAlice A|-G|-v|--|a@x"},
		{&postfix, "sendmail|-vv|a@x", nil, "-falice|-FAlice A|--|a@x"},
		{&postfix, "sendmail|a@x", with("MAIL_VERBOSE", "1"), "-falice|-FAlice A|-v|--|a@x"},
		{&postfix, "sendmail|a@x", with("NAME", "Mr X"), "-falice|-FMr X|--|a@x"},
		{&postfix, "sendmail|-f|-C/x|a@x", nil, "-f-C/x|-FAlice A|--|a@x"},

		{&exim, "sendmail|-t|-i", nil, "-falice|-FAlice A|-t|-i|--"},
		{&exim, "exim|-C|/tmp/x|-D=y|-oMr|smtp|-oMa|1.2.3.4|-odf|-d+all|-oee|-f|s@x|a@x|-oMs", nil, "-fs@x|-FAlice A|-oee|--|a@x|-oMs"},
		{&exim, "rmail|a@x", nil, "-falice|-FAlice A|-i|-oee|--|a@x"},
		{&exim, "sendmail|-E1a-2b-3c|a@x", nil, "-falice|-FAlice A|-oep|--|a@x"},
		{&exim, "sendmail|-G|-bnq|-v|-ti|--|-C/x", nil, "-falice|-FAlice A|-ti|--|-C/x"},
		{&exim, "sendmail|a@x", with("NAME", "Mr X"), "-falice|-FAlice A|--|a@x"},

		{&sendmail8, "sendmail|-oi|-t", nil, "-falice|-FAlice A|-oi|-t|--"},
		{&sendmail8, "sendmail|-X/tmp/log|-Cx.cf|-oQ/tmp|-OQueueDirectory=/tmp|-d0|-Am|-M|x|-f|s@x|a@x", nil, "-fs@x|--|a@x"},
		{&sendmail8, "sendmail|-f|a@x,b@x|c@x", nil, "-falice|-FAlice A|--|c@x"}, // a list of senders is none
		{&sendmail8, "sendmail|-odi|-OIgnoreDots=true|-e|p|a@x|--b", nil, "-falice|-FAlice A|-i|-ep|--|a@x|--b"},
		{&sendmail8, "sendmail|-fs@x|a@x", with("NAME", "Mr X"), "-fs@x|-FMr X|--|a@x"},
	} {
		env := c.env
		if env == nil {
			env = with("", "")
		}
		got, err := c.p.HandOver(strings.Split(c.argv, "|"), env, alice)
		if diff := cmp.Diff(append([]string{"sendmail"}, strings.Split(c.want, "|")...), got); err != nil || diff != "" {
			t.Errorf("%s: %s: %v\n%s", c.p.Name, c.argv, err, diff)
		}
	}
}

func TestHandOverNot(t *testing.T) {
	none := func(string) (string, bool) { return "", false }
	for _, c := range []struct {
		p          *Profile
		argv, want string
	}{
		{&dma, "sendmail|a@x", "mail cannot be handed over to dma"},
		{&postfix, "sendmail|-bs", "submits no message"},
		{&postfix, "mailq", "submits no message"},
		{&postfix, "sendmail|a\x00b", "NUL"},
		{&postfix, "sendmail|" + strings.Repeat("a", maxWord+1), "an argument of " + strconv.Itoa(maxWord+1) + " bytes is longer than a program can have"},
		{&exim, "sendmail|-f" + strings.Repeat("a", maxWord-1) + "|a@x", "an argument of"}, // with -f
		{&sendmail8, "sendmail|-" + strings.Repeat("i", maxHanded/8) + "|a@x", "the command line is longer than a program can have"},
	} {
		if got, err := c.p.HandOver(strings.Split(c.argv, "|"), none, alice); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %.50s: %.50q, %v; want %q", c.p.Name, c.argv, got, err, c.want)
		}
	}
	longest := strings.Repeat("a", maxWord)
	if got, err := postfix.HandOver([]string{"sendmail", longest}, none, alice); err != nil || got[len(got)-1] != longest {
		t.Errorf("the longest word there is: %v", err)
	} else if err := exec.Command("true", longest).Run(); err != nil {
		t.Errorf("run with it: %v", err)
	} else if err := exec.Command("true", longest+"a").Run(); !errors.Is(err, syscall.E2BIG) {
		t.Errorf("run with a longer one: %v, want E2BIG", err)
	}
	for _, p := range profiles {
		if got := slices.Contains(handing, p); got != p.HandsOver() {
			t.Errorf("%s hands over: %v", p.Name, !got)
		}
	}
}

// harmless are the options that the user may give who runs the real sendmail for others:
// the whole list, again, of forms where "*" is any value.
var harmless = map[string][]string{
	"postfix":  {"-f*", "-F*", "-t", "-i", "-G", "-bv", "-v", "-B*", "-N*", "-R*", "-V*", "-XV*"},
	"exim":     {"-f*", "-F*", "-t", "-ti", "-i", "-ee", "-em", "-ew", "-ep", "-eq", "-oee", "-oem", "-oew", "-oep", "-oeq", "-N", "-h*"},
	"sendmail": {"-f*", "-F*", "-t", "-i", "-oi*", "-G", "-n", "-e*", "-oe*", "-B*", "-N*", "-R*", "-V*", "-h*"},
}

// checkHandedOver checks one command line: what is handed over means the same, and has no
// option that is not harmless.
func checkHandedOver(t *testing.T, p *Profile, argv []string, env Env) {
	t.Helper()
	call := p.Parse(argv)
	got, err := p.HandOver(argv, env, alice)
	if err != nil {
		if call.Mode == Submit && !strings.Contains(err.Error(), "NUL") && !strings.Contains(err.Error(), "would not mean the same") {
			t.Errorf("%s: %q: %v", p.Name, argv, err)
		}
		return
	}
	if got[0] != "sendmail" {
		t.Errorf("%s: %q: called %q", p.Name, argv, got[0])
	}
	dashes := slices.Index(got[1:], "--") + 1
	if dashes == 0 || !slices.Equal(got[dashes+1:], call.Operands) {
		t.Errorf("%s: %q: operands of %q, want %q", p.Name, argv, got, call.Operands)
	}
	for i := 1; i < dashes; i++ {
		if got[i] == "" && len(got[i-1]) == 2 { // its value
			continue
		}
		name := strings.TrimSuffix(p.Name, "-add-arguments")
		if !slices.ContainsFunc(harmless[name], func(form string) bool {
			form, any := strings.CutSuffix(form, "*")
			return got[i] == form || any && strings.HasPrefix(got[i], form)
		}) {
			t.Errorf("%s: %q: %q in %q", p.Name, argv, got[i], got)
		}
	}
	again := p.Parse(got)
	if !call.SenderSet {
		call.Sender, call.SenderSet = "alice", true
	}
	call.Gateway, again.Gateway = false, false // Exim: for trusted users
	call.Report, again.Report = false, false   // by MAIL_VERBOSE, too
	if diff := cmp.Diff(call, again); diff != "" {
		t.Errorf("%s: %q became %q:\n%s", p.Name, argv, got, diff)
	}
}

// TestHandOverObserved: what was observed of real servers is handed over, all but what
// the parser itself cannot tell, and counts the same.
func TestHandOverObserved(t *testing.T) {
	none := func(string) (string, bool) { return "", false }
	for _, o := range observations(t) {
		for _, p := range handing {
			checkHandedOver(t, p, o.Argv, none)
			call := p.Parse(o.Argv)
			if call.Mode != Submit && call.Mode != Probe {
				continue
			}
			was, err1 := scan(p, call, strings.NewReader(o.Stdin))
			argv, err2 := p.HandOver(o.Argv, none, alice)
			if err2 != nil {
				t.Errorf("%s %s: %v", p.Name, o.ID, err2)
				continue
			}
			is, err3 := scan(p, p.Parse(argv), strings.NewReader(o.Stdin))
			if err1 != nil || err3 != nil || is.Recipients > was.Recipients {
				t.Errorf("%s %s: %d recipients, handed over as %q %d (%v, %v)", p.Name, o.ID, was.Recipients, argv, is.Recipients, err1, err3)
			}
		}
	}
}

// FuzzHandOver: whatever the command line is.
func FuzzHandOver(f *testing.F) {
	for _, argv := range []string{
		"sendmail\x00-t\x00-i\x00-fa@x", "sendmail\x00-V\x00+=\x00a@x", "sendmail\x00-oMr\x00x\x00-oB\x005\x00a@x", "sendmail\x00-f\x00-C\x00a@x",
		"sendmail\x00-iF\x00n\x00-C\x00-q\x00a@x", "rmail\x00--x\x00-\x00a@x", "/x/mailq\x00-bm\x00-b", "s\x00-E\x00-em\x00--\x00-oQ/x", "s\x00-tVab\x00-e\x00-N\x00",
	} {
		f.Add(argv, "")
	}
	f.Fuzz(func(t *testing.T, joined, value string) {
		env := func(string) (string, bool) { return value, value != "" }
		for _, p := range handing {
			checkHandedOver(t, p, strings.Split(joined, "\x00"), env)
		}
	})
}
