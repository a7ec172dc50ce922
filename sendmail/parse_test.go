package sendmail

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParsePostfix(t *testing.T) {
	for _, c := range []struct {
		argv string
		want Call
	}{
		{"", Call{}},
		{"sendmail -t -i", Call{Mode: Submit, FromHeader: true, IgnoreDots: true, Operands: []string{}}},
		{"/usr/sbin/sendmail -t", Call{Mode: Submit, FromHeader: true, Operands: []string{}}},
		{"/usr/bin/mailq", Call{}},
		{"newaliases", Call{}},
		{"mailq -bm a@x", Call{Mode: Submit, Operands: []string{"a@x"}}},
		{"sendmail -bp -bm a@x", Call{Mode: Submit, Operands: []string{"a@x"}}},
		{"sendmail -bm -bp a@x", Call{}},
		{"sendmail -bv a@x b@x", Call{Mode: Probe, Operands: []string{"a@x", "b@x"}}},
		{"sendmail -bv -bm a@x", Call{Mode: Probe, Operands: []string{"a@x"}}},
		{"sendmail -bv -t", Call{}},
		{"sendmail -bs", Call{Mode: SMTP, Operands: []string{}}},
		{"sendmail -bs -t", Call{}},
		{"sendmail -bd", Call{}},
		{"sendmail -b", Call{}},
		{"sendmail -f", Call{}},
		{"sendmail -fa@x -G b@x", Call{Mode: Submit, Sender: "a@x", SenderSet: true, Gateway: true, Operands: []string{"b@x"}}},
		{"sendmail -r a@x b@x", Call{Mode: Submit, Sender: "a@x", SenderSet: true, Operands: []string{"b@x"}}},
		{"sendmail -q30m a@x", Call{}},
		{"sendmail -qRx.example", Call{}},
		{"sendmail -q -bm a@x", Call{Mode: Submit, Operands: []string{"a@x"}}},
		{"sendmail -tq a@x", Call{}},
		{"sendmail -V += a@x", Call{Mode: Submit, Operands: []string{"+=", "a@x"}}},
		{"sendmail -V+= a@x", Call{Mode: Submit, Operands: []string{"a@x"}}},
		{"sendmail -V envelope a@x", Call{Mode: Submit, Operands: []string{"a@x"}}},
		{"sendmail a@x -bp", Call{Mode: Submit, Operands: []string{"a@x", "-bp"}}},
		{"sendmail -- -bp", Call{Mode: Submit, Operands: []string{"-bp"}}},
		{"sendmail -:", Call{}},
	} {
		got := postfix.Parse(strings.Fields(c.argv))
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s:\n%s", c.argv, diff)
		}
	}
}

func TestProfileByName(t *testing.T) {
	if p, err := ProfileByName("postfix"); err != nil || p != &postfix {
		t.Errorf("%v, %v", p, err)
	}
	if _, err := ProfileByName("qmail"); err == nil || !strings.Contains(err.Error(), "postfix") {
		t.Errorf("%v, want an error that names the profiles there are", err)
	}
}

// longOption is a word of so many options as a request has room for.
func longOption(letters string) []string {
	return []string{"sendmail", "-" + strings.Repeat(letters, 5<<19/len(letters)), "a@x"}
}

// TestParseLong: what a long word costs hangs on its length, and not on how many options
// it holds.
func TestParseLong(t *testing.T) {
	none := func(string) (string, bool) { return "", false }
	for _, p := range append(profiles, eximAddArguments()) {
		for _, letters := range []string{"i", "ti", "v", "Nx", "fx"} {
			argv := longOption(letters)
			if n := testing.AllocsPerRun(1, func() { p.Parse(argv) }); n > 50 {
				t.Errorf("%s, -%s…: Parse allocates %.0f times", p.Name, letters, n)
			}
			if n := testing.AllocsPerRun(1, func() { p.HandOver(argv, none, alice) }); n > 100 {
				t.Errorf("%s, -%s…: HandOver allocates %.0f times", p.Name, letters, n)
			}
		}
	}
	if call := postfix.Parse(longOption("ti")); !call.FromHeader || !call.IgnoreDots || len(call.Operands) != 1 {
		t.Errorf("%+v", call)
	}
}

func BenchmarkParse(b *testing.B) {
	argv := []string{"/usr/sbin/sendmail", "-t", "-i", "-f", "user@outside.example"}
	for _, p := range profiles {
		b.Run(p.Name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Parse(argv)
			}
		})
	}
}

func BenchmarkParseLong(b *testing.B) {
	argv := longOption("ti")
	for _, p := range profiles {
		b.Run(p.Name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(5 << 19)
			for b.Loop() {
				p.Parse(argv)
			}
		})
	}
}
