package sendmail

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// scan is Scan in an empty environment.
func scan(p *Profile, c Call, message io.Reader) (Envelope, error) {
	return p.Scan(c, func(string) (string, bool) { return "", false }, message)
}

func TestScan(t *testing.T) {
	for _, c := range []struct {
		name, argv, message string
		want                Envelope
	}{
		{"report fields", "sendmail a@x", "X-PHP-Originating-Script: 1001:x.php(3) : eval()'d code\nMessage-ID:\n <1@x>\nSubject: =?utf-8?Q?a?=\r\n\tb\n\nSubject: body\n",
			Envelope{Recipients: 1, PHPScript: "1001:x.php(3) : eval()'d code", MessageID: "<1@x>", Subject: "=?utf-8?Q?a?=\tb", Addresses: []string{"a@x"}}},
		{"whose mail Sieve redirects", "sendmail -i a@x", "X-Sieve-Redirected-From: dave@box.test\nSubject: s\nX-sieve-redirected-from: forged@x\n\n",
			Envelope{Recipients: 1, Subject: "s", RedirectedFrom: "dave@box.test", Addresses: []string{"a@x"}}},
		{"header alone, without -t, counts nobody", "sendmail a@x", "To: b@x, c@x\n\n", Envelope{Recipients: 1, Addresses: []string{"a@x"}}},
		{"the first of several counts", "sendmail a@x", "Subject: one\nSubject: two\n\n", Envelope{Recipients: 1, Subject: "one", Addresses: []string{"a@x"}}},
		{"several From_ lines", "sendmail -t", "From a\n>From b\nTo: a@x\n\n", Envelope{Recipients: 1, Addresses: []string{"a@x"}}},
		{"dot as the first line", "sendmail -t", ".\nTo: a@x\n\n", Envelope{}},
		{"dots ignored, but no header", "sendmail -t -i", ".\nTo: a@x\n\n", Envelope{}},
		{"continuation of nothing", "sendmail -t", " x\nTo: a@x\n\n", Envelope{}},
		{"folded after any field", "sendmail -t", "To:\n a@x,\n\tb@x\nX: y\n c@x\nCc: d@x\n", Envelope{Recipients: 3, Addresses: []string{"a@x", "b@x", "d@x"}}},
		{"empty Resent-To", "sendmail -t", "Resent-To:\nTo: a@x\n\n", Envelope{}},
		{"8-bit field name ends the header", "sendmail -t", "T\xf6: a@x\nTo: b@x\n\n", Envelope{}},
	} {
		got, err := scan(&postfix, postfix.Parse(strings.Fields(c.argv)), strings.NewReader(c.message))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
}

// count is how many recipients a profile makes of a list.
func count(p *Profile, list string) int {
	t := tally{p: p}
	t.list(list, 0)
	return t.n
}

func TestCountAddresses(t *testing.T) {
	for _, c := range []struct {
		list  string
		count int
	}{
		{"", 0}, {" ", 0}, {",", 0}, {",,;", 0}, {"a", 1}, {"a b", 2}, {"a@x b@x", 2}, {"a@x, b@x", 2}, {"a@x,b@x,", 2},
		{"john@x.example <john@x.example>", 1}, {"a@x b@x <c@x>", 1}, {"<a@x><b@x>", 2}, {"<a@x> b@x", 2}, {"a@x, John <b@x>, c@x", 3},
		{"undisclosed-recipients:;", 0}, {"all: a@x, b@x; c@x", 3}, {"all: John <a@x>, b@x;", 2}, {"one: a@x;, two: b@x;", 2},
		{"Re: John <a@x>", 2}, {`"Doe, John" <a@x>`, 1}, {`"a,b"@x`, 1}, {`a\,b@x`, 1}, {"(a, b) c@x (d, (e), f)", 1}, {"(unclosed, a@x", 0},
		{"<@r1,@r2:a@x>", 1}, {"a@[1.2.3.4], b@x", 2}, {"a . b @ x", 1}, {`"unclosed, a@x`, 1}, {"<>", 0}, {"a@x>, b@x>", 1}, {"a@x, b@x> c@x", 2}, {"a; b", 2},
		{"=?utf-8?Q?a=2Cb?= <a@x>", 1}, {"J\xc3\xb6rg <a@x>", 1}, {"a@x\x00b@x", 1},
	} {
		if got := count(&postfix, c.list); got != c.count {
			t.Errorf("%q: %d addresses, want %d", c.list, got, c.count)
		}
	}
}

// TestListsCountRight: addresses put together in all the ways that RFC 5322
// gives are counted as many as they are.
func TestListsCountRight(t *testing.T) {
	phrase := rapid.SampledFrom([]string{"", "Joe ", "Joe User ", `"Doe, \"J\" (x)" `, "joe@x.example ", "=?utf-8?Q?a=2C?= ", "(c, c) ", "J. "})
	comment := rapid.SampledFrom([]string{"", "", " ", "\n ", " (a, <b>, (c))", "\r\n\t"})
	local := rapid.SampledFrom([]string{"a", "a.b", `"a,b"`, `"a b"`, `a\,b`, "a+b"})
	domain := rapid.SampledFrom([]string{"x.example", "[127.0.0.1]", "x"})
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 20).Draw(t, "addresses")
		list := comment.Draw(t, "start")
		for i := range n {
			if i > 0 {
				list += "," + comment.Draw(t, "after comma")
			}
			bare := local.Draw(t, "local") + "@" + domain.Draw(t, "domain")
			if rapid.Bool().Draw(t, "brackets") {
				list += phrase.Draw(t, "phrase") + "<" + bare + ">"
			} else {
				list += bare
			}
			list += comment.Draw(t, "after")
		}
		if rapid.Bool().Draw(t, "group") {
			list = "team: " + list + ";"
		}
		if got := count(&postfix, list); got != n {
			t.Fatalf("%q: %d addresses, want %d", list, got, n)
		}
		message := "To: " + strings.ReplaceAll(list, "\r\n\t", "\r\n\t") + "\n\nbody\n"
		e, err := scan(&postfix, Call{Mode: Submit, FromHeader: true}, strings.NewReader(message))
		if err != nil || e.Recipients != n {
			t.Fatalf("%q: %d recipients (%v), want %d", message, e.Recipients, err, n)
		}
	})
}

// TestHugeFields: however long a field is, memory is bounded, the time is
// linear, and what is not kept is still counted.
func TestHugeFields(t *testing.T) {
	call := Call{Mode: Submit, FromHeader: true}
	for _, c := range []struct {
		name, message string
		least         int
	}{
		{"a To of 1 MB", "To: " + strings.Repeat("a@x.example, ", 80_000) + "\n\n", 80_000},
		{"no newline at all", strings.Repeat("x", 8<<20), 0},
		{"one name of 8 MB", strings.Repeat("x", 8<<20) + ": y\n\n", 0},
		{"one field of 8 MB", "X: " + strings.Repeat("y", 8<<20) + "\nTo: a@x\n\n", 1},
		{"brackets that close nothing", "To: " + strings.Repeat(">", 8<<20) + "\nCc: a@x\n\n", 1},
		{"brackets that open nothing", "To: " + strings.Repeat("<", 8<<20) + "\nCc: a@x\n\n", 1},
		{"groups", "To: " + strings.Repeat(":;", 4<<20) + "\nCc: a@x\n\n", 1},
		{"comments", "To: " + strings.Repeat("(", 8<<20) + "\nCc: a@x\n\n", 1},
	} {
		began := time.Now()
		e, err := scan(&postfix, call, strings.NewReader(c.message))
		if err != nil || e.Recipients < c.least {
			t.Errorf("%s: %d recipients (%v), want at least %d", c.name, e.Recipients, err, c.least)
		}
		// Quadratic time would be hours.
		if took := time.Since(began); took > time.Minute {
			t.Errorf("%s took %v", c.name, took)
		}
	}
	bytes := testing.AllocsPerRun(1, func() { scan(&postfix, call, strings.NewReader("X: "+strings.Repeat("y", 4<<20)+"\n\n")) })
	if bytes > 100 {
		t.Errorf("%v allocations for a field that nobody reads", bytes)
	}
}

// TestEndlessHeader: a header that goes on for ever is read to a bound, whether
// in one line or in many.
func TestEndlessHeader(t *testing.T) {
	call := Call{Mode: Submit, FromHeader: true}
	for _, unit := range []string{"y", "y\n ", "y\nX: ", "y\nTo: a@x, "} {
		endless := io.MultiReader(strings.NewReader("X: "), &repeated{unit: unit})
		if _, err := scan(&postfix, call, endless); err != ErrHeaderTooLong {
			t.Errorf("%q: %v", unit, err)
		}
		if _, err := scan(&postfix, Call{Mode: Submit}, io.MultiReader(strings.NewReader("X: "), &repeated{unit: unit})); err != nil && err != ErrHeaderTooLong {
			t.Errorf("%q without -t: %v", unit, err)
		}
	}
}

// TestWorkIsBounded: of a message without end each profile reads the header and a
// buffer, or where there is no end of the header, 16 MiB; and where the header may
// be all of the message, in memory that does not grow with it.
func TestWorkIsBounded(t *testing.T) {
	const buffers = 256 << 10
	const whole = 32 << 20
	read := func(p *Profile, fromHeader bool, message io.Reader) (int64, error) {
		in := io.LimitedReader{R: message, N: whole}
		_, err := scan(p, Call{Mode: Submit, FromHeader: fromHeader, Operands: []string{"a@x"}}, &in)
		return whole - in.N, err
	}
	for _, p := range profiles {
		for _, fromHeader := range []bool{false, true} {
			n, err := read(p, fromHeader, io.MultiReader(strings.NewReader("To: b@x\n"), &repeated{unit: strings.Repeat("\n", 4096)}))
			if err != nil || n > buffers {
				t.Errorf("%s, -t %v, a body of line breaks: %d bytes read (%v)", p.Name, fromHeader, n, err)
			}
			for _, unit := range []string{"\r\n", "X: y\n", "\x00", " "} {
				before := allocated()
				n, err := read(p, fromHeader, io.MultiReader(strings.NewReader("X: y\r\n"), &repeated{unit: strings.Repeat(unit, 4096)}))
				used := allocated() - before
				switch {
				case p.AllHeader && (err != nil || n > buffers && used > 1<<20):
					t.Errorf("%s, -t %v, %q: %d bytes of memory for %d bytes (%v)", p.Name, fromHeader, unit, used, n, err)
				case !p.AllHeader && n > maxRecipientHeader:
					t.Errorf("%s, -t %v, %q: %d bytes read", p.Name, fromHeader, unit, n)
				case !p.AllHeader && n == maxRecipientHeader && err != ErrHeaderTooLong:
					t.Errorf("%s, -t %v, %q: %v", p.Name, fromHeader, unit, err)
				}
			}
		}
	}
}

// allocated is how much memory has been asked for since the start.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// repeated is a reader that never ends.
type repeated struct {
	unit string
	at   int
}

func (r *repeated) Read(b []byte) (int, error) {
	for n := 0; n < len(b); {
		k := copy(b[n:], r.unit[r.at:])
		n, r.at = n+k, (r.at+k)%len(r.unit)
	}
	return len(b), nil
}

// TestReportEnv: MAIL_VERBOSE has Postfix mail a report, as -v does.
func TestReportEnv(t *testing.T) {
	verbose := func(name string) (string, bool) { return "", name == "MAIL_VERBOSE" }
	for _, c := range []struct {
		argv  string
		count int
	}{{"sendmail a@x", 2}, {"sendmail -bv a@x", 1}, {"sendmail -t", 0}} {
		e, err := postfix.Scan(postfix.Parse(strings.Fields(c.argv)), verbose, strings.NewReader("Subject: s\n\n"))
		if err != nil || e.Recipients != c.count {
			t.Errorf("%s: %d recipients (%v), want %d", c.argv, e.Recipients, err, c.count)
		}
	}
}

func BenchmarkScan(b *testing.B) {
	var message strings.Builder
	message.WriteString("X-PHP-Originating-Script: 1001:x.php\nTo: ")
	for i := range 50 {
		fmt.Fprintf(&message, "User %d <user%d@outside.example>,\n ", i, i)
	}
	message.WriteString("\nSubject: news\n\nbody\n")
	for _, p := range profiles {
		b.Run(p.Name, func(b *testing.B) {
			for b.Loop() {
				if _, err := scan(p, Call{Mode: Submit, FromHeader: true}, strings.NewReader(message.String())); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
