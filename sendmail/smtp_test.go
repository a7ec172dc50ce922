package sendmail

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseCommand(t *testing.T) {
	for _, c := range []struct {
		line string
		want Command
	}{
		{"MAIL FROM:<s@x>", Command{Verb: Mail, Address: "s@x"}},
		{"mail from:<s@x> SIZE=100 BODY=8BITMIME", Command{Verb: Mail, Address: "s@x"}},
		{"MAIL FROM: <s@x>", Command{Verb: Mail, Address: "s@x"}},
		{"MAIL FROM:s@x SIZE=1", Command{Verb: Mail, Address: "s@x"}},
		{"MAIL FROM:<>", Command{Verb: Mail}},
		{"MAIL", Command{Verb: Mail}},
		{"MAIL FROM:", Command{Verb: Mail}},
		{"MAIL FROM:<@r1,@r2:s@x>", Command{Verb: Mail, Address: "s@x"}},
		{`MAIL FROM:<"a>b \" c"@x> SIZE=1`, Command{Verb: Mail, Address: `a>b " c@x`}},
		{"MAIL FROM:<j\xc3\xb6rg@x> SMTPUTF8", Command{Verb: Mail, Address: "j\xc3\xb6rg@x"}},
		{"MAIL FROM:<" + strings.Repeat("x", 5000), Command{Verb: Mail, Address: strings.Repeat("x", maxSender)}},
		{"RCPT TO:<a@x>", Command{Verb: Rcpt, Address: "a@x"}},
		{"\t rCpT\tTO:<a@x>", Command{Verb: Rcpt, Address: "a@x"}},
		{"RCPT TO:<a@x> notify=failure,Success", Command{Verb: Rcpt, Address: "a@x", Report: true}},
		{"RCPT TO:<a@x> NOTIFY=NEVER", Command{Verb: Rcpt, Address: "a@x"}},
		{`RCPT TO:<"x> NOTIFY=SUCCESS`, Command{Verb: Rcpt, Address: "x> NOTIFY=SUCCESS", Report: true}}, // unsure counts high
		{"RCPT\vTO:<a@x>", Command{Verb: Rcpt, Address: "a@x"}},
		{"RCPTTO:<a@x>", Command{}},
		{"\xe2\x84\xaaRCPT", Command{}},
		{"DATA", Command{Verb: Data}},
		{"DATA \t", Command{Verb: Data}},
		{"DATA x", Command{Verb: Plain}},
		{"data ", Command{Verb: Data}},
		{"BDAT 100", Command{Verb: Bdat, Size: 100}},
		{"bdat  0 last ", Command{Verb: Bdat, Last: true}},
		{"BDAT", Command{Verb: Bdat, Size: -1}},
		{"BDAT +1", Command{Verb: Bdat, Size: -1}},
		{"BDAT -0", Command{Verb: Bdat, Size: -1}},
		{"BDAT 0x10", Command{Verb: Bdat, Size: -1}},
		{"BDAT 1_0", Command{Verb: Bdat, Size: -1}},
		{"BDAT 9223372036854775808", Command{Verb: Bdat, Size: -1}},
		{"BDAT 1 LAST LAST", Command{Verb: Bdat, Size: -1}},
		{"BDAT 1LAST", Command{Verb: Bdat, Size: -1}},
		{"EHLO x", Command{Verb: Ehlo}},
		{"HELO x", Command{Verb: Plain}},
		{"RSET", Command{Verb: Rset}},
		{"starttls", Command{Verb: StartTLS}},
		{"XCLIENT NAME=x", Command{}},
		{"", Command{}},
	} {
		got, ok := ParseCommand([]byte(c.line))
		if diff := cmp.Diff(c.want, got); !ok || diff != "" {
			t.Errorf("%q: %v\n%s", c.line, ok, diff)
		}
	}
	for _, line := range []string{"NOOP\x00", "RCPT\r TO:<a@x>", "NOOP\nRCPT TO:<a@x>"} {
		if got, ok := ParseCommand([]byte(line)); ok {
			t.Errorf("%q is taken for %+v", line, got)
		}
	}
}

// TestGoAhead: each MTA that speaks SMTP has its words.
func TestGoAhead(t *testing.T) {
	for _, p := range profiles {
		n, code := ReplyLen([]byte(p.GoAhead + "\r\n"))
		if p.Parse([]string{"sendmail", "-bs"}).Mode == SMTP && (code != 354 || n != len(p.GoAhead)+2) {
			t.Errorf("%s: %q", p.Name, p.GoAhead)
		}
	}
}

func TestReplyLen(t *testing.T) {
	for _, c := range []struct {
		said    string
		n, code int
	}{
		{"", 0, 0},
		{"250 ok", 0, 0},
		{"250 ok\r\n", 8, 250},
		{"250 ok\n", 7, 250},
		{"250\r\n", 5, 250},
		{"250-one\r\n250 two\r\n421 more\r\n", 18, 250},
		{"250-one\r\n250-two\r\n", 0, 0},
		{"some noise\r\n\r\n354 go\r\n", 22, 354},
		{"25\r\n+25 x\r\n", 0, 0},
		{"452-a\r\n554 b\r\n", 14, 554},
	} {
		if n, code := ReplyLen([]byte(c.said)); n != c.n || code != c.code {
			t.Errorf("%q: %d bytes, code %d; want %d, %d", c.said, n, code, c.n, c.code)
		}
	}
}

func TestWithoutStartTLS(t *testing.T) {
	for _, c := range []struct{ reply, want string }{
		{"250-x\r\n250-STARTTLS\r\n250 DSN\r\n", "250-x\r\n250 DSN\r\n"},
		{"250-x\r\n250-DSN\r\n250 starttls\r\n", "250-x\r\n250 DSN\r\n"},
		{"250-x\r\n250 STARTTLS\r\n", "250 x\r\n"},
		{"250-x\r\n250-STARTTLS x\r\n250-STARTTLS\r\n250 STARTTLS\n", "250 x\r\n"},
		{"250-STARTTLS\r\n250 DSN\r\n", "250-STARTTLS\r\n250 DSN\r\n"}, // a host of that name
		{"250-x\r\n250 STARTTLSX\r\n", "250-x\r\n250 STARTTLSX\r\n"},
		{"250 x\r\n", "250 x\r\n"},
		{"x\r\n250 STARTTLS\r\n", "x\r\n250 STARTTLS\r\n"},
		{"", ""},
	} {
		if got := string(WithoutStartTLS([]byte(c.reply))); got != c.want {
			t.Errorf("%q: got %q, want %q", c.reply, got, c.want)
		}
	}
}

func TestContent(t *testing.T) {
	for _, c := range []struct {
		name, input string
		crlf        bool
		want, rest  string // rest "-": there is no end
	}{
		{"CR LF", "a\r\n\r\nb\r\n.\r\nQUIT", false, "a\r\n\r\nb\r\n", "QUIT"},
		{"LF", "a\n\nb\n.\nQUIT", false, "a\r\n\r\nb\r\n", "QUIT"},
		{"LF first, where CR LF rules", "a\n.\nQUIT", true, "a\r\n", "QUIT"},
		{"nothing", ".\r\n", false, "", ""},
		{"nothing, where CR LF rules", ".\n", true, "", ""},
		{"doubled dots stay", "..\r\n..a\r\n.b\r\n.\r\n", false, "..\r\n..a\r\n.b\r\n", ""},
		{"CRs before the end", "a\r\r\n.\r\r\r\nb", false, "a\r\r\n", "b"},
		{"CRs before the end, where CR LF rules", "a\r\n.\r\r\nb\r\n.\r\n", true, "a\r\n..\r\r\nb\r\n", ""},
		{"LF among CR LF", "a\r\nb\n.\nc\n.\r\nd\r\n.\nQ\r\n.\r\nR", true, "a\r\nb\n..\nc\n..\r\nd\r\n..\nQ\r\n", "R"},
		{"LF among CR LF, where LF ends a line", "a\r\nb\n.\nc", false, "a\r\nb\r\n", "c"},
		{"CR ends nothing", "a\r.\r\nb\r\n\r.\r\n.\rc\r\n.\r\n", false, "a\r.\r\nb\r\n\r.\r\n.\rc\r\n", ""},
		{"NUL is not space", ".\x00\r\n.\r\n", false, ".\x00\r\n", ""},
		{"many CRs", "." + strings.Repeat("\r", maxCRs+1) + "\n.\n", false, ".." + strings.Repeat("\r", maxCRs+1) + "\n", ""},
		{"no end", "a\r\n.\r", false, "a\r\n", "-"},
	} {
		for _, size := range []int{1, 2, 3, 7, len(c.input)} {
			content := Content{CRLF: c.crlf}
			var got []byte
			rest, end := []byte(c.input), false
			for used := 0; len(rest) > 0 && !end; rest = rest[used:] {
				got, used, end = content.Data(got, rest[:min(size, len(rest))])
			}
			if string(got) != c.want || end != (c.rest != "-") || end && string(rest) != c.rest {
				t.Errorf("%s, %d bytes at a time: got %q, rest %q (%v)", c.name, size, got, rest, end)
			}
		}
	}
	for _, c := range []struct{ input, want string }{
		{"", ""}, {"a", "a\r\n"}, {"a\n", "a\r\n"}, {"a\r\n", "a\r\n"}, {"a\r", "a\r\n"}, {".", "..\r\n"}, {".\r\n", "..\r\n"}, {"a\n.\n..\r\n", "a\r\n..\r\n...\r\n"}, {"\r.\r", "\r.\r\n"},
	} {
		for size := 1; size < 4; size++ {
			var content Content
			var got []byte
			for rest := []byte(c.input); len(rest) > 0; rest = rest[min(size, len(rest)):] {
				got = content.Chunk(got, rest[:min(size, len(rest))])
			}
			if got = content.End(got); string(got) != c.want {
				t.Errorf("chunks of %d of %q: got %q, want %q", size, c.input, got, c.want)
			}
		}
	}
}

func FuzzParseCommand(f *testing.F) {
	f.Add([]byte("MAIL FROM:<s@x> SIZE=1"))
	f.Add([]byte("RCPT TO:<a@x> NOTIFY=SUCCESS"))
	f.Add([]byte("BDAT 5 LAST"))
	f.Fuzz(func(t *testing.T, line []byte) {
		c, ok := ParseCommand(line)
		if ok == bytes.ContainsAny(line, "\x00\r\n") {
			t.Errorf("ok is %v", ok)
		}
		if len(c.Address) > min(len(line), maxSender) || c.Size < -1 || c.Last && c.Verb != Bdat {
			t.Errorf("%+v", c)
		}
		// What Exim takes for a recipient (smtp_in.c: a prefix "rcpt to:") we do, too.
		if ok && len(line) > 7 && strings.EqualFold(string(line[:8]), "rcpt to:") && c.Verb != Rcpt {
			t.Errorf("%+v", c)
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add([]byte("250-x\r\n250 STARTTLS\r\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		n, code := ReplyLen(said)
		if n == 0 {
			return
		}
		if n > len(said) || said[n-1] != '\n' || code < 0 || code > 999 {
			t.Fatalf("%d bytes, code %d", n, code)
		}
		kept := WithoutStartTLS(bytes.Clone(said[:n]))
		if again, _ := ReplyLen(kept); again == 0 {
			t.Errorf("%q is no reply any more", said[:n])
		}
	})
}

// FuzzContent: whatever a client sends, in whatever pieces, no line of it is a lone
// dot for an MTA that ends lines at LF and drops CRs, nor for one that ends them at
// CR LF only; and the message is what it was.
func FuzzContent(f *testing.F) {
	f.Add([]byte("a\r\n..b\r\n.\r\nQUIT\r\n"), true, uint8(3))
	f.Add([]byte("a\n.\n"), false, uint8(1))
	f.Add([]byte("a\r\nb\n.\r\n.\r\r\n.\r.\n.\r\n"), true, uint8(2))
	f.Fuzz(func(t *testing.T, input []byte, crlf bool, size uint8) {
		whole := Content{CRLF: crlf}
		got, used, end := whole.Data(nil, input)
		cut := Content{CRLF: crlf}
		var pieces []byte
		for rest := input[:used]; len(rest) > 0; {
			var n int
			pieces, n, _ = cut.Data(pieces, rest[:min(int(size)+1, len(rest))])
			rest = rest[n:]
		}
		if !bytes.Equal(got, pieces) || whole != cut {
			t.Fatalf("%q at once gives %q, in pieces %q", input, got, pieces)
		}
		var chunks Content
		chunked := chunks.End(chunks.Chunk(nil, input))
		for _, content := range [][]byte{got, chunked} {
			for line := range bytes.SplitAfterSeq(content, []byte("\n")) {
				if bytes.HasSuffix(line, []byte("\n")) && string(bytes.TrimRight(line, "\r\n")) == "." {
					t.Fatalf("%q gives %q, which has a lone dot", input, content)
				}
			}
		}
		if end && len(got) > 0 && !bytes.HasSuffix(got, []byte("\r\n")) {
			t.Fatalf("%q gives %q", input, got)
		}
		// Read as Postfix does, the message is the same, but where LF ends no line.
		if end && !whole.strict {
			if diff := cmp.Diff(asPostfix(input[:used]), asPostfix(append(got, ".\r\n"...))); diff != "" {
				t.Fatal(diff)
			}
		}
		if !bytes.Contains(input, []byte("\r")) {
			if want := strings.ReplaceAll(string(input), "\n", "\r\n"); want != strings.ReplaceAll("\r\n"+string(chunked), "\r\n..", "\r\n.")[2:] && want+"\r\n" != strings.ReplaceAll("\r\n"+string(chunked), "\r\n..", "\r\n.")[2:] {
				t.Fatalf("chunks of %q give %q", input, chunked)
			}
		}
	})
}

// asPostfix reads content to its end as smtpd(8) does (smtp_get, data_cmd).
func asPostfix(content []byte) (lines []string) {
	for line := range strings.SplitSeq(string(content), "\n") {
		line = strings.TrimRight(line, "\r")
		if line == "." {
			return lines
		}
		lines = append(lines, strings.TrimPrefix(line, "."))
	}
	return append(lines, "no end")
}

func BenchmarkContent(b *testing.B) {
	line := []byte(strings.Repeat("x", 76) + "\r\n")
	input := bytes.Repeat(line, 1000)
	out := make([]byte, 0, 2*len(input))
	b.SetBytes(int64(len(input)))
	for b.Loop() {
		var c Content
		c.Data(out, input)
	}
}
