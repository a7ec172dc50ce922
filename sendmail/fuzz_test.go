package sendmail

import (
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// FuzzParse: whatever the command line is, each profile says something about it,
// and operands are words of it, in their order.
func FuzzParse(f *testing.F) {
	for _, argv := range []string{
		"sendmail\x00-t\x00-i\x00-fa@x", "sendmail\x00-V\x00+=\x00a@x", "sendmail\x00-oMr\x00x\x00-oB\x005\x00a@x",
		"sendmail\x00-iF\x00n\x00-C\x00-q\x00a@x", "rmail\x00--x\x00-\x00a@x", "/x/mailq\x00-bm\x00-b",
	} {
		f.Add(argv)
	}
	f.Fuzz(func(t *testing.T, joined string) {
		argv := strings.Split(joined, "\x00")
		for _, p := range profiles {
			for _, p := range []*Profile{p, p.Under(func(string) (string, bool) { return "", true })} {
				c := p.Parse(argv)
				if c.Mode > BatchSMTP {
					t.Errorf("%s: mode %d", p.Name, c.Mode)
				}
				rest := argv[1:]
				for _, o := range c.Operands {
					for len(rest) > 0 && rest[0] != o {
						rest = rest[1:]
					}
					if len(rest) == 0 {
						t.Fatalf("%s: operands %q of %q", p.Name, c.Operands, argv)
					}
					rest = rest[1:]
				}
			}
		}
	})
}

// FuzzScan: whatever the header is, a profile counts the same however the
// message comes, not more than there are bytes, and not less than what stands at
// its beginning.
func FuzzScan(f *testing.F) {
	for _, message := range []string{
		"To: a@x, b@x\nSubject: s\n\nbody\n", "From x\nResent-To: <a@x>\r\n\r\n", "X: y\r\nTo: a@x,\nb@x\r\n\r\n", "To\n : g: a;, (b) <@r:c@x>",
		"Message: x\nT\x00o: \"a, b\r\n\tc\" <a@x>\r\r\n.\n", "To:\r\r\r\x00\r\r\r\r",
	} {
		f.Add(message, "a@x", true)
	}
	f.Fuzz(func(t *testing.T, message, operand string, dots bool) {
		for _, p := range profiles {
			call := Call{Mode: Submit, FromHeader: true, IgnoreDots: dots, Operands: []string{operand}}
			whole, err := scan(p, call, strings.NewReader(message))
			if err != nil {
				t.Fatal(err)
			}
			bytewise, err := scan(p, call, iotest.OneByteReader(strings.NewReader(message)))
			if err != nil || !cmp.Equal(whole, bytewise) {
				t.Errorf("%s: read at once %+v, byte by byte %+v (%v)", p.Name, whole, bytewise, err)
			}
			// A CR is two bytes to Exim.
			if whole.Recipients < 0 || whole.Recipients > 2*len(message)+len(operand)+2 {
				t.Errorf("%s: %d recipients in %d bytes", p.Name, whole.Recipients, len(message))
			}
			if len(whole.Addresses) > MaxAddresses || slices.ContainsFunc(whole.Addresses, func(a string) bool { return len(a) > MaxAddress }) {
				t.Errorf("%s: addresses beyond their bounds: %q", p.Name, whole.Addresses)
			}
			if p.machine != nil || strings.Contains(strings.ToLower(message), "resent") {
				continue // may refuse all, or count other fields
			}
			call.Operands = nil
			more, err := scan(p, call, strings.NewReader("Bcc: 1@known.example,\n\t<2@known.example>\nX: y\n"+message))
			if err != nil || more.Recipients < 2 {
				t.Errorf("%s: %d recipients (%v), want two at least", p.Name, more.Recipients, err)
			}
		}
	})
}
