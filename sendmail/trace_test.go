package sendmail

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const asctime = "From joe Thu Jan  1 00:00:00 1970"

// TestTrace: where the field goes; "X\n" is the field, "-" none.
func TestTrace(t *testing.T) {
	const all = "postfix exim sendmail opensmtpd msmtp nullmailer dma"
	for _, c := range []struct{ name, mtas, argv, before, want, after string }{
		{"a field first", all, "-t", "", "X\n", "To: a@x\n\nx\n"},
		{"… in CRLF", "postfix exim", "-t", "", "X\r\n", "To: a@x\r\n\r\nx\r\n"},
		{"… in CRLF", "sendmail opensmtpd msmtp nullmailer dma", "-t", "", "X\n", "To: a@x\r\n\r\nx\r\n"},
		{"CR before CR LF", "postfix exim", "-t", "", "X\r\n", "To: a@x\r\r\n\n"},
		{"CR in the first line", "exim", "-t", "", "X\n", "To: a@x\rCc: b@x\n\n"},
		{"Resent- fields", all, "-t", "", "X\n", "Resent-To: a@x\nTo: a@x\n\n"},
		{"such a field", all, "-t", "", "X\n", "X: y\nTo: a@x\n\n"},
		{"text at once", "postfix exim sendmail msmtp nullmailer dma", "a@x", "", "X\n", "text\n"},
		{"text without a line end", "postfix exim sendmail msmtp nullmailer dma", "a@x", "", "X\n", "text"},
		{"no field that makes a header", "opensmtpd", "a@x", "", "-", "X-A: b\n\nTo: a@x\n"},
		{"text at once", "opensmtpd", "a@x", "", "-", "text\n"},
		{"empty line first", "postfix exim", "a@x", "", "X\r\n", "\r\ntext\r\n"},
		{"empty line first", "sendmail msmtp nullmailer dma", "a@x", "", "X\n", "\ntext\n"},
		{"nothing", "postfix exim sendmail msmtp nullmailer dma", "a@x", "", "X\n", ""},
		{"white space first", "postfix exim sendmail", "a@x", "", "X\n\n", "\ttext\n"},
		{"white space first in CRLF", "postfix exim", "a@x", "", "X\r\n\r\n", " text\r\n"},
		{"white space first", "opensmtpd msmtp nullmailer dma", "a@x", "", "-", " To: a@x\nSubject: s\n\n"},
		{"a CR first", all, "a@x", "", "-", "\rTo: a@x\nSubject: s\n\n"},
		{"a NUL in the first line", all, "a@x", "", "-", "To: a@x\x00\nSubject: s\n\n"},
		{"VT first", all, "a@x", "", "-", "\vTo: a@x\nSubject: s\n\n"},
		{"From_ line", "postfix exim sendmail opensmtpd nullmailer", "-t", asctime + "\n", "X\n", "To: a@x\n\n"},
		{"From_ line in CRLF", "postfix exim", "-t", asctime + "\r\n", "X\r\n", "To: a@x\r\n\r\n"},
		{"From_ line", "msmtp dma", "-t", "", "-", asctime + "\nTo: a@x\n\n"},
		{"From_ line in lower case", "msmtp dma", "-t", "", "-", "from joe\nTo: a@x\n\n"},
		{"From_ line without a date", "postfix sendmail opensmtpd nullmailer", "-t", "From joe\n", "X\n", "To: a@x\n\n"},
		{"From_ line without a date", "exim", "-t", "", "-", "From joe\nTo: a@x\n\n"},
		{"From_ line in lower case", "opensmtpd", "-t", "from joe\n", "X\n", "To: a@x\n\n"},
		{"two From_ lines", "postfix exim opensmtpd nullmailer", "-t", asctime + "\n" + asctime + "\n", "X\n", "To: a@x\n\n"},
		{"two From_ lines", "sendmail", "-t", asctime + "\n", "X\n", asctime + "\nTo: a@x\n\n"},
		{">From_ line", "postfix nullmailer", "-t", ">From joe\n", "X\n", "To: a@x\n\n"},
		{">From_ line", "msmtp dma", "-t", "", "-", ">From joe\nTo: a@x\n\n"},
		{">From_ line", "exim sendmail opensmtpd", "-t", "", "X\n", ">From joe\nTo: a@x\n\n"},
		{">>From_ line", "postfix", "-t", ">>From joe\n", "X\n", "To: a@x\n\n"},
		{"From_ line, then white space", "postfix exim sendmail opensmtpd nullmailer", "-t", "", "-", asctime + "\n folded\nTo: a@x\n\n"},
		{"From_ line, then nothing", "postfix exim sendmail nullmailer", "a@x", asctime + "\n", "X\n", ""},
		{"From_ line without its end", "postfix exim sendmail nullmailer", "a@x", "", "-", asctime},
		{"From_ line with NUL", "postfix exim sendmail opensmtpd nullmailer", "a@x", "", "-", "From joe\x00\nTo: a@x\n\n"},
		{"From_ line with CR", "postfix exim sendmail opensmtpd nullmailer", "a@x", "", "-", "From joe\rx\nTo: a@x\n\n"},
		{"From_ lines with two ends", "postfix exim", "a@x", "", "-", asctime + "\r\n" + asctime + "\nTo: a@x\n\n"},
		{"a long From_ line", "postfix", "a@x", "", "-", "From " + strings.Repeat("j", 998) + "\nTo: a@x\n\n"},
		{"a first line beyond what is seen", all, "a@x", "", "-", "To: " + strings.Repeat("j", TraceHead) + "\n\n"},
		{"a long header", "postfix exim opensmtpd msmtp nullmailer dma", "a@x", "", "X\n", strings.Repeat("To: a@x\n", TraceHead/8) + "\n"},
		{"near MaxHeadersLength", "sendmail", "a@x", "", "-", strings.Repeat("To: a@x\n", 32000/8+1) + "\nx\n"},
		{"a long header beyond what is seen", "sendmail", "a@x", "", "-", strings.Repeat("To: a@x\n", TraceHead/8) + "\n"},
		{"a header far from it", "sendmail", "a@x", "", "X\n", strings.Repeat("To: a@x\n", 3000) + "\n" + strings.Repeat("x", TraceHead)},
		{"a probe", "postfix", "-bv a@x", "", "-", "To: a@x\n\n"},
		{"nothing to submit", "postfix exim sendmail msmtp nullmailer dma", "-bp", "", "-", "To: a@x\n\n"},
		{"a dialogue", "postfix exim", "-bs", "", "X\r\n", "To: a@x\r\n\r\n"},
		{"a dialogue", "sendmail nullmailer", "-bs", "", "X\n", "To: a@x\r\n\r\n"},
		{"a dialogue with a From_ line", "postfix exim sendmail nullmailer", "-bs", "", "-", asctime + "\r\nTo: a@x\r\n\r\n"},
		{"a dialogue with white space first", "postfix exim sendmail nullmailer", "-bs", "", "-", " x\r\nTo: a@x\r\n\r\n"},
		{"a batch", "exim", "-bS", "", "X\r\n", "To: a@x\r\n\r\n"},
	} {
		for name := range strings.FieldsSeq(c.mtas) {
			p, err := ProfileByName(name)
			if err != nil {
				t.Fatal(err)
			}
			call := p.Parse(append([]string{"sendmail"}, strings.Fields(c.argv)...))
			if call.Mode == Other && c.argv != "-bp" {
				t.Fatalf("%s, %s: %+v", c.name, name, call)
			}
			message := c.before + c.after
			text, at := p.Trace(call, []byte(message[:min(len(message), TraceHead)]), "X")
			if text == "" && at == 0 {
				text = "-"
			}
			if text != c.want || at != int64(len(c.before)) {
				t.Errorf("%s, %s: %q at %d, want %q at %d", c.name, name, text, at, c.want, len(c.before))
			}
		}
	}
}

// FuzzTrace: whatever the message is, the field is a line of its own in the header,
// and the same recipients and claims are found with it and without.
func FuzzTrace(f *testing.F) {
	for _, message := range []string{
		"To: a@x\nSubject: s\n\nbody\n", asctime + "\r\nResent-To: <a@x>\r\n\r\n", ">From x\n>From y\nTo: a@x", " x\nTo: a@x\n\n", "\r\nTo: a@x", "To: a@x\rCc: b@x\r\n\r\n",
		"from x\nFrom: a@x\n", "\x00\nTo: a@x\n", asctime + "\n To: a@x\n",
	} {
		f.Add(message)
	}
	f.Fuzz(func(t *testing.T, message string) {
		head := []byte(message[:min(len(message), TraceHead)])
		for _, p := range profiles {
			call := Call{Mode: Submit, FromHeader: true}
			text, at := p.Trace(call, head, "X-Mail-Trace: id")
			if text == "" {
				continue
			}
			if at < 0 || at > int64(len(head)) || at > 0 && head[at-1] != '\n' {
				t.Fatalf("%s: at %d of %q", p.Name, at, message)
			}
			without, err1 := scan(p, call, strings.NewReader(message))
			with, err2 := scan(p, call, strings.NewReader(message[:at]+text+message[at:]))
			if err1 == nil && err2 != nil && !errors.Is(err2, ErrHeaderTooLong) { // so it may be, with the field
				t.Fatalf("%s: %q is not read with the field: %v", p.Name, message, err2)
			}
			if err1 != nil || err2 != nil {
				continue
			}
			if diff := cmp.Diff(without, with); diff != "" {
				t.Errorf("%s: %q: %s", p.Name, message, diff)
			}
		}
	})
}

// TestAddresses: the recipients that the report names.
func TestAddresses(t *testing.T) {
	const all = "postfix exim sendmail opensmtpd msmtp nullmailer dma"
	many := strings.Repeat("a@x, ", 3) + "b" + strings.Repeat("x", 300) + "@x"
	for _, c := range []struct {
		name, mtas, argv, message string
		want                      []string
	}{
		{"operands", all, "a@x b@x a@x", "To: c@x\n\n", []string{"a@x", "b@x"}},
		{"operands with names", "postfix exim sendmail msmtp nullmailer dma", "Joe_<a@x>", "", []string{"a@x"}},
		{"the header", all, "-t", "To: Joe <a@x>, b@x (B)\nCc: \"C, D\" <c@x>;\nBcc: g: d@x;\n\nTo: e@x\n", []string{"a@x", "b@x", "c@x", "d@x"}},
		{"folded, in CRLF", "postfix exim sendmail opensmtpd msmtp nullmailer", "-t", "To: a@x,\r\n b@x\r\n\r\n", []string{"a@x", "b@x"}},
		{"both", "postfix sendmail opensmtpd msmtp nullmailer dma", "-t a@x", "To: a@x, b@x\n\n", []string{"a@x", "b@x"}},
		{"both", "exim", "-t a@x", "To: a@x, b@x\n\n", []string{"b@x"}},
		{"resent", "postfix sendmail msmtp", "-t a@x", "Resent-To: b@x\nTo: c@x\n\n", []string{"a@x", "b@x"}},
		{"resent", "exim nullmailer", "-t a@x", "Resent-To: b@x\nTo: c@x\n\n", []string{"b@x"}},
		{"resent", "opensmtpd dma", "-t a@x", "Resent-To: b@x\nTo: c@x\n\n", []string{"a@x", "c@x"}},
		{"without -t", "nullmailer", "", "To: a@x\n\n", []string{"a@x"}},
		{"a long address", all, "-t", "To: " + many + "\n\n", []string{"a@x", ("b" + strings.Repeat("x", 300))[:MaxAddress]}},
		{"many", "postfix", "-t", "To: " + strings.Repeat("a", 21) + strings.Repeat(",a", 30) + "\n\n", []string{strings.Repeat("a", 21), "a"}},
		{"bare", "postfix", "-t", "To: <>, undisclosed-recipients:;\n\n", nil},
	} {
		for name := range strings.FieldsSeq(c.mtas) {
			p, err := ProfileByName(name)
			if err != nil {
				t.Fatal(err)
			}
			argv := strings.Fields("sendmail " + c.argv)
			for i := range argv {
				argv[i] = strings.ReplaceAll(argv[i], "_", " ")
			}
			call := p.Parse(argv)
			got, err := scan(p, call, strings.NewReader(c.message))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got.Addresses); diff != "" {
				t.Errorf("%s, %s: %s", c.name, name, diff)
			}
		}
	}
	list := strings.Repeat("a", 9)
	for i := range 100 {
		list += "," + strings.Repeat("b", i+1) + "@x"
	}
	got, err := scan(&postfix, Call{Mode: Submit, FromHeader: true}, strings.NewReader("To: "+list+"\n\n"))
	if err != nil || len(got.Addresses) != MaxAddresses || got.Recipients != 101 {
		t.Errorf("%d of %d addresses (%v)", len(got.Addresses), got.Recipients, err)
	}
}
