package wrapper

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"sendmail-wrapper/wire"
)

// handing is a host where mailquotad sends.
func handing(t testing.TB, conf ...string) *host {
	t.Helper()
	return newHost(t, append(conf, `hand-off = "mailquotad"`)...)
}

// asUser is a call of the wrapper by somebody who is not root of the host.
func (h *host) asUser(argv ...string) *exec.Cmd {
	cmd := h.command(argv...)
	one := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: one, GidMappings: one}
	return cmd
}

var sent = &wire.Reply{Verdict: wire.VerdictHanded, ID: "the-id"}

// TestHanded: what the real sendmail has said and its exit status are the caller's, and it is
// not executed here.
func TestHanded(t *testing.T) {
	for _, c := range []struct {
		name  string
		reply *wire.Reply
		conf  string
		argv  []string
		want  outcome
	}{
		{"sent", sent, "", []string{"sendmail", "a@x"}, outcome{}},
		{"its output", &wire.Reply{Verdict: wire.VerdictHanded, Exit: 75, Stdout: []byte("out\n"), Stderr: bytes.Repeat([]byte("e"), wire.MaxOutput)}, "", []string{"sendmail", "a@x"},
			outcome{exit: 75, stdout: "out\n", stderr: strings.Repeat("e", wire.MaxOutput)}},
		{"relayed", sent, "", []string{"sendmail", "-G", "a@x"}, outcome{}},
		{"relayed, its status", &wire.Reply{Verdict: wire.VerdictHanded, Exit: 65}, "", []string{"sendmail", "-G", "a@x"}, outcome{exit: 65}},
		{"refused", refuse, "", []string{"sendmail", "a@x"}, outcome{exit: 69, stderr: "sendmail: alice: limit reached\n"}},
		{"refused, relayed", refuse, "", []string{"sendmail", "-G", "a@x"}, outcome{exit: 75, stderr: "sendmail: alice: limit reached\n"}},
		{"unavailable", &wire.Reply{Verdict: wire.VerdictUnavailable, Text: "no database"}, `on-unavailable = "accept"`, []string{"sendmail", "a@x"},
			outcome{exit: 69, stderr: "sendmail: mail cannot be counted now, so it is refused; try again later (no database)\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := handing(t, c.conf)
			h.answer(t, c.reply)
			cmd := h.asUser(c.argv...)
			cmd.Stdin = strings.NewReader("Subject: s\n\n.\nrest")
			if diff := cmp.Diff(c.want, h.run(t, cmd), cmp.AllowUnexported(outcome{})); diff != "" {
				t.Error(diff)
			}
			if a := <-h.asks; !a.request.HandOff || !strings.HasPrefix(string(a.message), "Subject: s\n\n.\n") {
				t.Errorf("%+v", a)
			}
		})
	}
}

// TestHandedAway: without mailquotad nothing leaves, whatever on-unavailable says; and where
// it goes away after it was asked, nobody claims that nothing was sent.
func TestHandedAway(t *testing.T) {
	h := handing(t, `on-unavailable = "accept"`)
	dir, err := os.Open(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := h.asUser("sendmail", "a@x")
	cmd.Stdin = dir
	if o := h.run(t, cmd); o.exit != 74 || !strings.Contains(o.stderr, "cannot be read") {
		t.Errorf("%+v", o)
	}
	cmd = h.asUser("sendmail", "a@x")
	cmd.Stdin = strings.NewReader("x\n")
	if o := h.run(t, cmd); o.exit != 69 || o.called != nil || !strings.Contains(o.stderr, "so it is refused") {
		t.Errorf("%+v", o)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.path("socket"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer c.Close()
		if _, message, err := wire.ReadRequest(c); err == nil {
			message.Close()
		}
	}()
	cmd = h.asUser("sendmail", "a@x")
	cmd.Stdin = strings.NewReader("x\n")
	if o := h.run(t, cmd); o.exit != 69 || o.called != nil || !strings.Contains(o.stderr, "nobody knows whether the mail was sent") {
		t.Errorf("%+v", o)
	}
}

// TestHandedToRoot: a call of root's is as ever.
func TestHandedToRoot(t *testing.T) {
	if syscall.Getuid() != 0 {
		t.Fatal("the tests run as root")
	}
	h := handing(t)
	h.answer(t, accept)
	cmd := h.command("sendmail", "a@x")
	cmd.Stdin = strings.NewReader("x\n")
	if o := h.run(t, cmd); o.exit != realExit || o.called == nil {
		t.Errorf("%+v", o)
	}
	if a := <-h.asks; a.request.HandOff {
		t.Error("root's mail is handed over")
	}
	if o, got := h.talk(t, "", strings.NewReader("MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n"+message+"QUIT\r\n"), "-bs"); o.exit != 0 || len(got.Messages) != 1 {
		t.Errorf("%+v, %+v", o, got)
	}
}

// own has a dialogue with the wrapper's own server, and returns what it said after the
// greeting.
func (h *host) own(t tester, input io.Reader, argv ...string) outcome {
	t.Helper()
	o, _ := h.finish(t, h.asUser(append([]string{"sendmail"}, argv...)...), "", input)
	return o
}

// codes are those of the replies, of each the last line.
func codes(said string) string {
	var list []string
	for line := range strings.Lines(said) {
		if len(line) > 3 && line[3] == ' ' {
			list = append(list, line[:3])
		}
	}
	return strings.Join(list, " ")
}

func TestOwnDialogue(t *testing.T) {
	for _, c := range []struct {
		name, conf, input string
		codes             string
		argv              []string // of the last message, after "sendmail -i -f"
		content           string
	}{
		{"Symfony", "", "EHLO [127.0.0.1]\r\nMAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n" + message + "QUIT\r\n",
			"220 250 250 250 354 250 221", []string{"s@x", "-F", "", "--", "a@x"}, "Subject: s\n\ntext\n.dots\n"},
		{"all parameters", "", "EHLO x\r\nMAIL FROM:<s@x> SIZE=10 BODY=8BITMIME RET=HDRS ENVID=abc SMTPUTF8\r\nRCPT TO:<a@x> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a@x\r\nRCPT TO:<b@x> NOTIFY=success,failure\r\nDATA\r\nx\r\n.\r\n",
			"220 250 250 250 250 354 250", []string{"s@x", "-F", "", "-B8BITMIME", "-Rhdrs", "-Vabc", "-Nsuccess,failure", "--", "a@x", "b@x"}, "x\n"},
		{"other NOTIFY", "", "MAIL FROM:<s@x>\r\nRCPT TO:<a@x> NOTIFY=NEVER\r\nRCPT TO:<b@x>\r\nDATA\r\nx\r\n.\r\n",
			"220 250 250 452 354 250", []string{"s@x", "-F", "", "-Nnever", "--", "a@x"}, "x\n"},
		{"null sender, LF alone", "", "MAIL FROM:<>\nRCPT TO:a@x\nDATA\nx\n..\n.\nQUIT\n",
			"220 250 250 354 250 221", []string{"<>", "-F", "", "--", "a@x"}, "x\n.\n"},
		{"operands that look like options", "", "MAIL FROM:<-C/x>\r\nRCPT TO:<-C/x>\r\nRCPT TO:<--@x>\r\nDATA\r\n.\r\n",
			"220 250 250 250 354 250", []string{"-C/x", "-F", "", "--", "-C/x", "--@x"}, ""},
		{"quotes", "", "MAIL FROM:<\"a b\"@x>\r\nRCPT TO:<\"a,b\"@x>\r\nRCPT TO:<@r:c@x>\r\nDATA\r\n.\r\n",
			"220 250 250 250 354 250", []string{`"a b"@x`, "-F", "", "--", `"a,b"@x`, "c@x"}, ""},
		{"no addresses", "", "MAIL FROM:<a,b@x>\r\nMAIL FROM:<s@x\r\nMAIL s@x\r\nMAIL FROM:<s@x>x\r\nMAIL FROM:<s@x>\r\nRCPT TO:<>\r\nRCPT TO:<a@x,b@x>\r\nRCPT TO:<a b@x>\r\nRCPT TO:<\"a@x>\r\nRCPT TO:<g:a@x;>\r\nRCPT TO:<a@x> X=1\r\nDATA\r\n",
			"220 501 501 501 501 250 501 501 501 501 501 555 554", nil, ""},
		{"order", "", "RCPT TO:<a@x>\r\nDATA\r\nMAIL FROM:<s@x>\r\nMAIL FROM:<t@x>\r\nDATA\r\nRSET\r\nDATA\r\nMAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nHELO x\r\nDATA\r\n",
			"220 503 503 250 503 554 250 503 250 250 250 503", nil, ""},
		{"others", "", "NOOP\r\nVRFY x\r\nHELP\r\nEXPN x\r\nETRN x\r\nAUTH PLAIN x\r\nSTARTTLS\r\n\r\nDATA x\r\nXCLIENT A=1\r\nno\x00op\r\n" + strings.Repeat("x", 5000) + "\r\nQUIT\r\nNOOP\r\n",
			"220 250 252 214 502 502 502 502 502 503 502 500 500 221", nil, ""},
		{"chunks", "", "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nBDAT 6\r\nx\r\n..\rBDAT 5 LAST\r\n\n.\nQU" + "NOOP\r\nBDAT x\r\n",
			"220 250 250 250 250 250 501", []string{"s@x", "-F", "", "--", "a@x"}, "x\n..\n.\nQU\n"},
		{"DATA after BDAT", "", "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nBDAT 1\r\nxDATA\r\nRSET\r\nBDAT 1 LAST\r\nx",
			"220 250 250 250 503 250 503", nil, ""},
		{"too long", "max-message-size = 10", "EHLO x\r\nMAIL FROM:<s@x> SIZE=11\r\nMAIL FROM:<s@x> SIZE=x\r\n", "220 250 552 501", nil, ""},
		{"ends in mid content", "", "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\nx\r\n", "220 250 250 354", nil, ""},
		{"three messages", "", strings.Repeat("MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n"+message, 3),
			"220 250 250 354 250 250 250 354 250 250 250 354 250", []string{"s@x", "-F", "", "--", "a@x"}, "Subject: s\n\ntext\n.dots\n"},
		{"Exim has no DSN here", `mta = "exim"`, "MAIL FROM:<s@x> RET=FULL\r\nMAIL FROM:<s@x> SMTPUTF8\r\nMAIL FROM:<s@x>\r\nRCPT TO:<a@x> NOTIFY=NEVER\r\nRCPT TO:<a@x>\r\nDATA\r\n.\r\n",
			"220 555 555 250 555 250 354 250", []string{"s@x", "-F", "", "-oep", "--", "a@x"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := handing(t, c.conf)
			h.answer(t, sent)
			o := h.own(t, strings.NewReader(c.input), "-bs")
			if got := codes(o.stdout); got != c.codes || o.exit != 0 || o.stderr != "" {
				t.Errorf("%s, want %s: %+v", got, c.codes, o)
			}
			var last asked
			for len(h.asks) > 0 {
				last = <-h.asks
			}
			if c.argv == nil {
				if last.request != nil {
					t.Errorf("sent: %q", last.request.Argv)
				}
				return
			}
			if last.request == nil {
				t.Fatal("nothing was sent")
			}
			want := append([]string{"sendmail", "-i", "-f"}, c.argv...)
			if diff := cmp.Diff(want, last.request.Argv); diff != "" || !last.request.HandOff {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.content, string(last.message)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestOwnReplies: what becomes of a message is the reply to it, and the session goes on.
func TestOwnReplies(t *testing.T) {
	for _, c := range []struct {
		reply *wire.Reply
		want  string
	}{
		{sent, "250 2.0.0 Ok: the-id"},
		{&wire.Reply{Verdict: wire.VerdictHanded, Exit: 75, Stderr: []byte("warning\nsendmail: fatal: file too \x1b[big\n\n")}, "451 4.3.0 sendmail: fatal: file too ?[big"},
		{&wire.Reply{Verdict: wire.VerdictHanded, Exit: 1, Stdout: []byte("no such user\n")}, "554 5.0.0 no such user"},
		{&wire.Reply{Verdict: wire.VerdictHanded, Exit: 65}, "554 5.0.0 the mail server has refused it, with exit status 65"},
		{&wire.Reply{Verdict: wire.VerdictRefuse, Exit: 69, Code: "452 4.7.1", Text: "alice: limit"}, "452 4.7.1 alice: limit"},
		{&wire.Reply{Verdict: wire.VerdictUnavailable, Text: "no database"}, "451 4.3.0 mail cannot be counted now, so it is refused; try again later (no database)"},
		{accept, "451 4.3.0 mailquotad has not sent it, but left it to root"},
	} {
		h := handing(t)
		h.answer(t, c.reply)
		o := h.own(t, strings.NewReader("MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n"+message+"NOOP\r\nQUIT\r\n"), "-bs")
		if !strings.HasSuffix(o.stdout, "\r\n"+c.want+"\r\n250 2.0.0 Ok\r\n221 2.0.0 Bye\r\n") || o.exit != 0 {
			t.Errorf("%+v, want %s", o, c.want)
		}
	}
}

// TestOwnBatch: -bS of Exim's says nothing, and ends at the first error.
func TestOwnBatch(t *testing.T) {
	transaction := "MAIL FROM:<s@x>\nRCPT TO:<a@x>\nDATA\nx\n.\n"
	for _, c := range []struct {
		name, input string
		reply       *wire.Reply
		sent, exit  int
		stdout      string
	}{
		{"two messages", "HELO x\n" + transaction + transaction + "QUIT\nMAIL FROM:<s@x>\n", sent, 2, 0, ""},
		{"refused", transaction, &wire.Reply{Verdict: wire.VerdictRefuse, Code: "452 4.7.1", Text: "alice: limit reached"}, 1, 2, "452 4.7.1 alice: limit reached\nTransaction started in line 0\nError detected in line 5\n"},
		{"an error in the second", transaction + "RCPT TO:<a@x>\n", sent, 1, 1, "503 5.5.1 Error: need MAIL command\nTransaction started in line 5\nError detected in line 6\n"},
		{"nothing", "", sent, 0, 0, ""},
		{"no QUIT", transaction + "RSET\nNOOP\n", sent, 1, 0, ""},
		{"QUIT in a transaction", "MAIL FROM:<s@x>\nRCPT TO:<a@x>\nQUIT\n", sent, 0, 0, ""},
		{"given up by RSET", "MAIL FROM:<s@x>\nRCPT TO:<a@x>\nRSET\n", sent, 0, 0, ""},
		{"chunks", "MAIL FROM:<s@x>\nRCPT TO:<a@x>\nBDAT 2\nx\nBDAT 2 LAST\nx\n", sent, 1, 0, ""},
		{"ends behind MAIL", transaction + "MAIL FROM:<s@x>\n", sent, 1, 1, abandoned(5, 6)},
		{"ends behind RCPT", transaction + "MAIL FROM:<s@x>\nRCPT TO:<a@x>\n", sent, 1, 1, abandoned(5, 7)},
		{"ends in a command", transaction + "MAIL FROM:<s@x>\nRCPT TO:<a@x>\nDATA", sent, 1, 1, abandoned(5, 7)},
		{"ends in DATA", "MAIL FROM:<s@x>\nRCPT TO:<a@x>\nDATA\nx\n", sent, 0, 2, abandoned(0, 3)},
		{"ends in BDAT", "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nBDAT 100 LAST\r\nshort", sent, 0, 2, abandoned(0, 3)},
		{"ends in the second BDAT", transaction + "MAIL FROM:<s@x>\nRCPT TO:<a@x>\nBDAT 2\nx\nBDAT 2 LAST\nx", sent, 1, 1, abandoned(5, 9)},
		{"ends between two BDAT", transaction + "MAIL FROM:<s@x>\nRCPT TO:<a@x>\nBDAT 2\nx\n", sent, 1, 1, abandoned(5, 8)},
		{"ends in BDAT of no transaction", "BDAT 100 LAST\nshort", sent, 0, 2, abandoned(0, 1)},
	} {
		h := handing(t, `mta = "exim"`)
		h.answer(t, c.reply)
		o := h.own(t, strings.NewReader(c.input), "-bS")
		text, _, _ := strings.Cut(o.stdout, "\n")
		if o.exit != c.exit || o.stdout != c.stdout || !strings.Contains(o.stderr, text) || (o.stderr == "") != (c.exit == 0) || len(h.asks) != c.sent {
			t.Errorf("%s: %d asked, %+v", c.name, len(h.asks), o)
		}
	}
}

// abandoned is what is printed of a batch that ends in a transaction.
func abandoned(began, ended int) string {
	return fmt.Sprintf("421 4.3.0 Error: message abandoned\nTransaction started in line %d\nError detected in line %d\n", began, ended)
}

// TestOwnTimeout: a client of a dialogue may not take as long as he likes between two commands, and the
// writer of a batch may.
func TestOwnTimeout(t *testing.T) {
	for _, c := range []struct {
		option, stdout string
		sent           int
	}{
		{"-bs", "421 4.4.2 Error: timeout exceeded\r\n", 1},
		{"-bS", "", 2},
	} {
		h := handing(t, `mta = "exim"`)
		h.answer(t, sent)
		cmd := h.asUser("sendmail", c.option)
		cmd.Env = append(cmd.Env, "TEST_TIMEOUT=300ms")
		input, client, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer client.Close()
			io.WriteString(client, "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n"+message+"MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\n")
			time.Sleep(time.Second)
			io.WriteString(client, "DATA\r\n"+message+"QUIT\r\n")
		}()
		o, _ := h.finish(t, cmd, "", input)
		input.Close()
		if o.exit != 0 || !strings.HasSuffix(o.stdout, c.stdout) || c.option == "-bS" && o.stdout != "" || o.stderr != "" || len(h.asks) != c.sent {
			t.Errorf("%s: %d asked, %+v", c.option, len(h.asks), o)
		}
	}
}

// TestOwnContent: whatever the content is, and in whatever pieces it comes, it is handed over as
// it was meant, and is no command.
func TestOwnContent(t *testing.T) {
	h := handing(t)
	h.answer(t, sent)
	line := rapid.StringMatching(`[.a\x00\xff\t ]{0,5}`)
	rapid.Check(t, func(t *rapid.T) {
		lines := rapid.SliceOfN(line, 0, 10).Draw(t, "lines")
		var input, want strings.Builder
		input.WriteString("MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\n")
		end := "\r\n"
		if rapid.Bool().Draw(t, "LF") {
			end = "\n"
		}
		for _, l := range lines {
			want.WriteString(l + "\n")
		}
		if rapid.Bool().Draw(t, "BDAT") {
			content := strings.Join(append(lines, ""), end)
			cut := rapid.IntRange(0, len(content)).Draw(t, "cut")
			input.WriteString("BDAT " + strconv.Itoa(cut) + "\r\n" + content[:cut] + "BDAT " + strconv.Itoa(len(content)-cut) + " LAST\r\n" + content[cut:])
		} else {
			input.WriteString("DATA\r\n")
			for _, l := range lines {
				if strings.HasPrefix(l, ".") {
					l = "." + l
				}
				input.WriteString(l + end)
			}
			input.WriteString("." + end)
		}
		input.WriteString("QUIT\r\n")
		o := h.own(t, strings.NewReader(input.String()), "-bs")
		if got := string((<-h.asks).message); got != want.String() || !strings.HasSuffix(o.stdout, "221 2.0.0 Bye\r\n") {
			t.Fatalf("%q, want %q: %s", got, want.String(), o.stdout)
		}
	})
}
