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
