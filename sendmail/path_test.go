package sendmail

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParsePath(t *testing.T) {
	for _, c := range []struct {
		line, keyword, address string
		parameters             []Parameter
		ok                     bool
	}{
		{"MAIL FROM:<a@x> SIZE=9 body=8bitmime SMTPUTF8", "FROM", "a@x", []Parameter{{"SIZE", "9"}, {"BODY", "8bitmime"}, {"SMTPUTF8", ""}}, true},
		{"mail from: <>", "FROM", "", nil, true},
		{"RCPT TO:<>", "TO", "", nil, false},
		{"RCPT TO:a@x", "TO", "a@x", nil, true},
		{"RCPT TO:<@r,@s:a@x>", "TO", "a@x", nil, true},
		{"RCPT TO:<@r>", "TO", "", nil, false},
		{`RCPT TO:<"a > b\""@[127.0.0.1]> X=1`, "TO", `"a > b\""@[127.0.0.1]`, []Parameter{{"X", "1"}}, true},
		{"RCPT TO:<b\xc3\xbcro@\xc3\xbc.example>", "TO", "b\xc3\xbcro@\xc3\xbc.example", nil, true},
		{"RCPT TO:<postmaster>", "TO", "postmaster", nil, true},
		{"RCPT FROM:<a@x>", "TO", "", nil, false},
		{"RCPT", "TO", "", nil, false},
		{"RCPT TO:<a@x>b", "TO", "", nil, false},
		{"RCPT TO:<a@x", "TO", "", nil, false},
		{"RCPT TO:<a@>", "TO", "a@", nil, false},
		{"RCPT TO:<a@x,b@y>", "TO", "a@x,b@y", nil, false},
		{"RCPT TO:<\"a\tb\"@x>", "TO", "\"a\tb\"@x", nil, false},
		{"RCPT TO:<" + strings.Repeat("a", 257) + ">", "TO", strings.Repeat("a", 257), nil, false},
	} {
		address, parameters, ok := ParsePath([]byte(c.line), c.keyword)
		if diff := cmp.Diff(c.parameters, parameters); ok != c.ok || address != c.address || ok && diff != "" {
			t.Errorf("%s: %q, %v, %v", c.line, address, parameters, ok)
		}
	}
}

// FuzzParsePath: what is an address is one recipient of a command line that is handed over, or
// the mail server's profile says that it is not.
func FuzzParsePath(f *testing.F) {
	for _, line := range []string{"RCPT TO:<a@x> A=B", `RCPT TO:<"a,b"@x>`, "RCPT TO:<@r:-C/x>", "RCPT TO: a@[::1]", `RCPT TO:<"\"a">`} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		address, _, ok := ParsePath(line, "TO")
		if !ok {
			return
		}
		if again, _, ok := ParsePath([]byte("RCPT TO:<"+address+">"), "TO"); !ok || again != address {
			t.Errorf("%q again is %q, %v", address, again, ok)
		}
		for _, p := range handing {
			if !p.IsOneRecipient(address) {
				continue
			}
			argv := []string{"sendmail", "-i", "-f", "<>", "--", address}
			handed, err := p.HandOver(argv, func(string) (string, bool) { return "", false }, alice)
			if err != nil {
				t.Errorf("%s: %q: %v", p.Name, address, err)
				continue
			}
			e, err := scan(p, p.Parse(handed), strings.NewReader("S: x\n\n"))
			if err != nil || e.Recipients != 1 || e.Sender != "" {
				t.Errorf("%s: %q counts as %+v, %v", p.Name, address, e, err)
			}
		}
	})
}
