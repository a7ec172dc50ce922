package wrapper

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"sendmail-wrapper/wire"
)

// tester is a *testing.T or a *rapid.T.
type tester interface {
	Helper()
	Fatal(...any)
}

// talk calls the wrapper with -bs, writes all of the input, and returns what it
// said and what the MTA got.
func (h *host) talk(t tester, wrong string, input io.Reader, argv ...string) (o outcome, got served) {
	t.Helper()
	cmd := h.command(append([]string{"sendmail"}, argv...)...)
	return h.finish(t, cmd, wrong, input)
}

func (h *host) finish(t tester, cmd *exec.Cmd, wrong string, input io.Reader) (o outcome, got served) {
	t.Helper()
	os.Remove(h.path("record"))
	cmd.Env = append(cmd.Env, "TEST_MTA="+wrong)
	cmd.Stdin = input
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	o = outcome{exit: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
	if content, err := os.ReadFile(h.path("record")); err == nil {
		if err := json.Unmarshal(content, &got); err != nil {
			t.Fatal(err)
		}
	}
	return o, got
}

// direct talks to the MTA without a wrapper.
func (h *host) direct(t tester, wrong, input string) (o outcome, got served) {
	t.Helper()
	cmd := h.command("sendmail", "-bs")
	cmd.Path = h.path("real")
	return h.finish(t, cmd, wrong, strings.NewReader(input))
}

const message = "Subject: s\r\n\r\ntext\r\n..dots\r\n.\r\n"

// TestDialogue: below the limits, a client sees what he would see without the
// wrapper, and the MTA gets the same commands and messages.
func TestDialogue(t *testing.T) {
	h := newHost(t)
	h.answer(t, accept)
	for _, c := range []struct{ name, wrong, input string }{
		{"Symfony", "", "HELO [127.0.0.1]\r\nMAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n" + message + "QUIT\r\n"},
		{"three messages", "", "HELO x\r\n" + strings.Repeat("MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n"+message, 3) + "QUIT\r\n"},
		{"LF alone", "", "HELO x\nMAIL FROM:<>\nRCPT TO:<a@x>\nDATA\nSubject: s\n\n..\n.\nQUIT\n"},
		{"no QUIT", "", "HELO x\r\nMAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n" + message},
		{"recipient refused", "", "MAIL FROM:<s@x>\r\nRCPT TO:<refused@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n" + message + "QUIT\r\n"},
		{"all recipients refused", "", "MAIL FROM:<s@x>\r\nRCPT TO:<refused@x>\r\nDATA\r\nRSET\r\nNOOP\r\nQUIT\r\n"},
		{"sender refused", "", "MAIL FROM:<refused@x>\r\nRCPT TO:<a@x>\r\nDATA\r\nQUIT\r\n"},
		{"reset", "", "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nRSET\r\nDATA\r\nMAIL FROM:<t@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n" + message + "QUIT\r\n"},
		{"other commands", "", "EHLO\tx\r\nVRFY a\r\nHELP\r\nNONSENSE\r\n\r\n  NOOP\r\nETRN x\r\nAUTH PLAIN AGEAYg==\r\nXCLIENT ADDR=1\r\nQUIT\r\nMAIL FROM:<late@x>\r\n"},
		{"empty message", "", "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n.\r\nQUIT\r\n"},
		{"nothing", "", ""},
		{"greeting that refuses", "greets 554", "QUIT\r\n"},
		{"greeting of two lines", "greets in two lines", "QUIT\r\n"},
		{"no greeting", "dies at once", "QUIT\r\n"},
		{"early end", "says 421 and ends", "HELO x\r\nHELP\r\n"},
		{"early death", "dies", "HELO x\r\nHELP\r\n"},
		{"two replies", "replies twice", "HELO x\r\nHELP\r\nNOOP\r\nQUIT\r\n"},
		{"any bytes", "", "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n" + "\x00\xff\r \r\r\n" + strings.Repeat("long", 100_000) + "\r\n.\r\nQUIT\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			want, wantGot := h.direct(t, c.wrong, c.input)
			o, got := h.talk(t, c.wrong, strings.NewReader(c.input), "-bs")
			want.stdout = strings.ReplaceAll(want.stdout, "250-8BITMIME\r\n250 STARTTLS", "250 8BITMIME")
			if diff := cmp.Diff(want, o, cmp.AllowUnexported(outcome{})); diff != "" {
				t.Error(diff)
			}
			for i := range wantGot.Messages { // line ends are made alike
				content := bytes.ReplaceAll(wantGot.Messages[i].Content, []byte("\r\n"), []byte("\n"))
				wantGot.Messages[i].Content = bytes.ReplaceAll(content, []byte("\n"), []byte("\r\n"))
			}
			for _, commands := range []*[]string{&wantGot.Commands, &got.Commands} {
				for i, line := range *commands { // DATA is ours
					if strings.TrimSpace(line) == "DATA" {
						(*commands)[i] = "DATA\r\n"
					}
				}
			}
			if diff := cmp.Diff(wantGot, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestDialogueCounts: what mailquotad is asked.
func TestDialogueCounts(t *testing.T) {
	h := newHost(t, "max-message-size = 1000")
	h.answer(t, accept)
	type question struct {
		Sender     string
		Recipients int
		Truncated  bool
		Message    string
	}
	for _, c := range []struct {
		name, input string
		want        []question
	}{
		{"recipients that the MTA took", "MAIL FROM:<s@x> SIZE=5\r\nRCPT TO:<a@x>\r\nRCPT TO:<refused@x>\r\nrcpt to:<b@x>\r\nDATA\r\n" + message, []question{{"s@x", 2, false, "Subject: s\r\n\r\ntext\r\n..dots\r\n"}}},
		{"the null sender", "MAIL FROM:<>\r\nRCPT TO:<a@x>\r\nDATA\r\n.\r\n", []question{{"", 1, false, ""}}},
		{"a report", "MAIL FROM:<s@x>\r\nRCPT TO:<a@x> NOTIFY=FAILURE,SUCCESS ORCPT=x\r\nRCPT TO:<b@x> NOTIFY=NEVER\r\nDATA\r\n.\r\n", []question{{"s@x", 3, false, ""}}},
		{"a refused MAIL within", "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nMAIL FROM:<t@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n.\r\n", []question{{"s@x", 2, false, ""}}},
		{"a new transaction", "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nRSET\r\nMAIL FROM:<t@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n.\r\n", []question{{"t@x", 1, false, ""}}},
		{"a command of another name", "MAIL FROM:<s@x>\r\nXRCPT <a@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n.\r\n", []question{{"s@x", 2, false, ""}}},
		{"no recipient", "MAIL FROM:<s@x>\r\nRCPT TO:<refused@x>\r\nDATA\r\n", nil},
		{"no end", "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\nSubject: s\r\n", nil},
		{"half an end", "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\nSubject: s\r\n.", nil},
		{"too long", "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n" + strings.Repeat("x", 2000) + "\r\n.\r\n", []question{{"s@x", 1, true, ""}}},
		{"BDAT", "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nBDAT 5\r\n.\r\nQUBDAT 4 LAST\r\nIT\r\n", []question{{"s@x", 1, false, "..\r\nQUIT\r\n"}}},
		{"BDAT without an end of line", "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nBDAT 3 last\r\na\nb", []question{{"s@x", 1, false, "a\r\nb\r\n"}}},
		{"BDAT given up", "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nBDAT 3\r\na\nbRSET\r\nMAIL FROM:<t@x>\r\nRCPT TO:<a@x>\r\nBDAT 0 LAST\r\n", []question{{"t@x", 1, false, ""}}},
		{"DATA after BDAT", "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nBDAT 3\r\na\r\nDATA\r\nBDAT 2 LAST\r\nb\n", []question{{"s@x", 1, false, "a\r\nb\r\n"}}},
		{"BDAT without recipient", "MAIL FROM:<s@x>\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, got := h.talk(t, "", strings.NewReader("EHLO x\r\n"+c.input+"QUIT\r\n"), "-bs")
			var have []question
			for len(h.asks) > 0 {
				a := <-h.asks
				have = append(have, question{a.request.Sender, a.request.Recipients, a.request.Truncated, string(a.message)})
			}
			if diff := cmp.Diff(c.want, have); diff != "" {
				t.Errorf("%s%s", diff, o.stdout)
			}
			queued := 0
			for _, q := range c.want {
				if !q.Truncated {
					queued++
				}
			}
			if len(got.Messages) != queued {
				t.Errorf("%d messages queued, want %d", len(got.Messages), queued)
			}
		})
	}
}

// TestDialogueRefused: a message past the limit is refused in its place, and the
// session goes on.
func TestDialogueRefused(t *testing.T) {
	h := newHost(t)
	limit := &wire.Reply{Verdict: wire.VerdictRefuse, Exit: 69, Code: "452 4.7.1", Text: "alice: limit reached"}
	h.decide(t, func(r *wire.Request, _ []byte) *wire.Reply {
		if strings.HasPrefix(r.Sender, "over") {
			return limit
		}
		return accept
	})
	send := func(sender string) string {
		return "MAIL FROM:<" + sender + ">\r\nRCPT TO:<a@x>\r\nDATA\r\n" + message
	}
	o, got := h.talk(t, "", strings.NewReader("HELO x\r\n"+send("1@x")+send("over@x")+send("over@x")+"RSET\r\n"+send("2@x")+
		"MAIL FROM:<over@x>\r\nRCPT TO:<a@x>\r\nBDAT 2 LAST\r\nx\nDATA\r\n"+send("3@x")+"QUIT\r\n"), "-bs")
	taken, refused := "250 2.1.0 sender\r\n250 2.1.5 recipient\r\n354 End data with <CR><LF>.<CR><LF>\r\n", "452 4.7.1 alice: limit reached\r\n"
	want := "220 mta\r\n250 HELO\r\n" + taken + "250 queued as 1\r\n" + taken + refused + taken + refused + "250 reset\r\n" + taken + "250 queued as 2\r\n" +
		"250 2.1.0 sender\r\n250 2.1.5 recipient\r\n" + refused + "503 need RCPT\r\n" + taken + "250 queued as 3\r\n221 bye\r\n"
	if o.stdout != want || o.exit != 0 || o.stderr != "" {
		t.Errorf("%+v\nwant %s", o, want)
	}
	var senders []string
	for _, m := range got.Messages {
		senders = append(senders, m.Sender)
	}
	if diff := cmp.Diff([]string{"FROM:<1@x>", "FROM:<2@x>", "FROM:<3@x>"}, senders); diff != "" {
		t.Error(diff)
	}
}

// TestSmuggling: nothing that a client sends as content becomes a command for the
// MTA, and each message that the MTA queues was asked for.
func TestSmuggling(t *testing.T) {
	h := newHost(t)
	h.answer(t, accept)
	for _, end := range []string{"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r\n", "\r.\r", "\n.\r", "\r\n.\r", "\r\r\n.\r\n", "\r\n\x00.\r\n", "\r\n.\x00\r\n", "\r\n.\r\r\n", "\r\n.\r\r\r\n",
		"\r\n. \r\n", "\n\r.\r\n", "\r\n.." + strings.Repeat("\r", 3000) + "\n", "\r\n." + strings.Repeat("\r", 3000) + "\n", "\x85.\x85"} {
		smuggled := "MAIL FROM:<admin@x>\r\nRCPT TO:<victim@x>\r\nDATA\r\nsmuggled\r\n.\r\n"
		for _, crlf := range []string{"", "CRLF: yes\r\n"} {
			o, got := h.talk(t, "", strings.NewReader("HELO x\r\nMAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n"+crlf+"text"+end+smuggled+"QUIT\r\n"), "-bs")
			if len(h.asks) != len(got.Messages) {
				t.Errorf("%q: %d messages queued, %d asked for\n%s", end, len(got.Messages), len(h.asks), o.stdout)
			}
			for _, m := range got.Messages {
				if a := <-h.asks; "FROM:<"+a.request.Sender+">" != m.Sender || a.request.Recipients != len(m.Recipients) {
					t.Errorf("%q: asked for %s and %d recipients, queued %s and %d", end, a.request.Sender, a.request.Recipients, m.Sender, len(m.Recipients))
				}
			}
		}
	}
}

// TestNotPassedOn: commands that are answered by us.
func TestNotPassedOn(t *testing.T) {
	h := newHost(t)
	h.answer(t, accept)
	o, got := h.talk(t, "", strings.NewReader("STARTTLS\r\nNOOP "+strings.Repeat("x", 5000)+"\r\nNOOP "+strings.Repeat("x", 500_000)+
		"RCPT TO:<a@x>\r\nNOOP \x00\r\nNOOP a\rRCPT TO:<a@x>\r\nBDAT x\r\nBDAT -1\r\nBDAT\r\nBDAT 99999999999999999999 LAST\r\nBDAT 1 LAST x\r\nstarttls \r\nNOOP\r\r\nQUIT\r\n"), "-bs")
	want := "220 mta\r\n502 5.5.1 Error: command not implemented\r\n" + strings.Repeat("500 5.5.2 Error: command line too long\r\n", 2) +
		strings.Repeat("500 5.5.2 Error: NUL or CR in a command\r\n", 2) + strings.Repeat("501 5.5.4 Syntax: BDAT count [LAST]\r\n", 5) +
		"502 5.5.1 Error: command not implemented\r\n250 NOOP\r\n221 bye\r\n"
	if o.stdout != want {
		t.Errorf("%s\nwant\n%s", o.stdout, want)
	}
	if diff := cmp.Diff([]string{"NOOP\r\r\n", "QUIT\r\n"}, got.Commands); diff != "" {
		t.Error(diff)
	}
}

// TestDialogueUnavailable: mailquotad is away, or the message cannot be held.
func TestDialogueUnavailable(t *testing.T) {
	input := "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n" + strings.Repeat("x", 3000) + "\r\n.\r\nQUIT\r\n"
	for _, c := range []struct {
		conf, ulimit, code string
		queued             int
		logged             bool
	}{
		{"", "-c 0", "250 queued", 1, true},
		{`on-unavailable = "refuse"`, "-c 0", "451 4.3.0 mail cannot be counted now", 0, true},
		{"max-message-size = 1000", "-c 0", "552 5.3.4 the message is longer", 0, true},
		{"", "-f 1", "451 4.3.0 message is longer than the file size limit", 0, false},
	} {
		h := newHost(t, c.conf)
		cmd := h.command("bash", "-c", `ulimit `+c.ulimit+`; exec -a sendmail "$SELF" -bs`)
		self, err := os.Readlink("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		cmd.Path, cmd.Env = "/bin/bash", append(cmd.Env, "SELF="+self)
		o, got := h.finish(t, cmd, "", strings.NewReader(input))
		if !strings.Contains(o.stdout, "\r\n"+c.code) || !strings.HasSuffix(o.stdout, "221 bye\r\n") || c.ulimit == "-c 0" && len(got.Messages) != c.queued {
			t.Errorf("%+v %+v, want %s", o, got, c.code)
		}
		if c.logged {
			if line := h.logged(t); !strings.Contains(line, "mailquotad") || !strings.Contains(line, `"-bs"`) {
				t.Errorf("syslog: %s", line)
			}
		}
	}
}

// TestHostileMTA: whatever the MTA does, the session ends, and nothing is left
// behind.
func TestHostileMTA(t *testing.T) {
	h := newHost(t)
	h.answer(t, accept)
	send := "HELO x\r\nMAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 100_000) + ".\r\n"
	for _, c := range []struct {
		wrong, input, stdout string
		exit                 int
	}{
		{"dies in the content", send + "QUIT\r\n", "354 End data with <CR><LF>.<CR><LF>\r\n452 disk full\r\n", 4},
		{"talks in the content", send + "QUIT\r\n", "250-talk", -1},
		{"refuses DATA", send + "QUIT\r\n", "354 End data with <CR><LF>.<CR><LF>\r\n451 not now\r\n221 bye\r\n", 0},
		{"wants data", "HELO x\r\nHELP\r\nRCPT TO:<a@x>\r\n.\r\nQUIT\r\n", "250 HELO\r\n421 4.3.0 Error: lost track of the transaction\r\n", 5},
		{"never ends a line", "QUIT\r\n", "xxxx", -1},
		{"killed", "QUIT\r\n", "220 mta\r\n221 bye\r\n", -1},
	} {
		began := time.Now()
		o, _ := h.talk(t, c.wrong, strings.NewReader(c.input), "-bs")
		if !strings.Contains(o.stdout, c.stdout) || c.exit >= 0 && o.exit != c.exit {
			t.Errorf("%s: exit %d, %.1000s", c.wrong, o.exit, o.stdout)
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("%s took %v", c.wrong, took)
		}
	}
}

// TestKilledMTA: a signal that ends the real sendmail ends the wrapper, and
// leaves no trace of Go's.
func TestKilledMTA(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGSEGV, syscall.SIGPIPE} {
		h := newHost(t)
		h.write(t, "conf", `real-sendmail = "`+h.path("dies")+`"`)
		h.write(t, "dies", "#!/bin/sh\nkill -"+strconv.Itoa(int(signal))+" $$\n")
		if err := os.Chmod(h.path("dies"), 0o755); err != nil {
			t.Fatal(err)
		}
		out, err := h.command("sendmail", "-bs").CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != signal || len(out) > 0 {
			t.Errorf("%v: %v, %s", signal, err, out)
		}
	}
}

// live is a dialogue in lockstep.
type live struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (h *host) live(t *testing.T, wrong string, stderr *os.File) *live {
	t.Helper()
	l := &live{t: t, cmd: h.command("sendmail", "-bs")}
	l.cmd.Env = append(l.cmd.Env, "TEST_MTA="+wrong)
	l.cmd.Stderr = stderr
	var err error
	if l.in, err = l.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	l.out = bufio.NewReader(out)
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l.want("220 mta")
	return l
}

func (l *live) want(reply string) {
	l.t.Helper()
	if line, err := l.out.ReadString('\n'); err != nil || line != reply+"\r\n" {
		l.t.Fatalf("got %q, %v, want %q", line, err, reply)
	}
}

func (l *live) say(line, reply string) {
	l.t.Helper()
	if _, err := io.WriteString(l.in, line+"\r\n"); err != nil {
		l.t.Fatal(err)
	}
	l.want(reply)
}

// TestLockstep: each reply is there before the next command, and a session whose
// client waits ends with the real sendmail.
func TestLockstep(t *testing.T) {
	h := newHost(t)
	h.answer(t, accept)
	l := h.live(t, "says 421 and ends", os.Stderr)
	l.say("HELO x", "250 HELO")
	l.say("MAIL FROM:<s@x>", "250 2.1.0 sender")
	l.say("RCPT TO:<a@x>", "250 2.1.5 recipient")
	l.say("DATA", "354 End data with <CR><LF>.<CR><LF>")
	l.say("x\r\n.", "250 queued as 1")
	l.say("HELP", "421 going down")
	if _, err := l.out.ReadByte(); err != io.EOF { // though our end is still open
		t.Errorf("after the end: %v", err)
	}
	if err := l.cmd.Wait(); l.cmd.ProcessState.ExitCode() != 6 {
		t.Errorf("%v", err)
	}
}

// TestSignals: a signal to the wrapper ends the real sendmail, too, and a message
// that was not complete is not queued.
func TestSignals(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGKILL} {
		h := newHost(t)
		h.answer(t, accept)
		// The real sendmail has inherited standard error: at its end both have gone.
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		l := h.live(t, "", w)
		w.Close()
		l.say("MAIL FROM:<s@x>", "250 2.1.0 sender")
		l.say("RCPT TO:<a@x>", "250 2.1.5 recipient")
		l.say("DATA", "354 End data with <CR><LF>.<CR><LF>")
		if err := l.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		l.cmd.Wait()
		if status := l.cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != s {
			t.Errorf("%v: %v", s, l.cmd.ProcessState)
		}
		stderr, err := io.ReadAll(r)
		r.Close()
		content, recordErr := os.ReadFile(h.path("record"))
		var got served
		if err := errors.Join(err, recordErr, json.Unmarshal(content, &got)); err != nil || len(stderr) > 0 {
			t.Fatalf("%v: %v, %s", s, err, stderr)
		}
		if len(got.Messages) > 0 || len(h.asks) > 0 {
			t.Errorf("%v: %+v, asked %d times", s, got, len(h.asks))
		}
	}
}

// TestClientGone: a client that reads no more ends the session.
func TestClientGone(t *testing.T) {
	h := newHost(t)
	h.answer(t, accept)
	cmd := h.command("sendmail", "-bs")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	r.Close()
	io.WriteString(in, "NOOP\r\nNOOP\r\n")
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("%v", err)
	}
}

// TestInetd: a socket of the internet makes root's call a mail server, which is
// not ours to count.
func TestInetd(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	h := newHost(t)
	fds, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	listener := os.NewFile(uintptr(fds), "listener")
	defer listener.Close()
	if err := errors.Join(unix.Bind(fds, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fds, 1)); err != nil {
		t.Fatal(err)
	}
	address, err := unix.Getsockname(fds)
	if err != nil {
		t.Fatal(err)
	}
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(client, address); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(client, []byte("STARTTLS\r\nQUIT\r\n")); err != nil {
		t.Fatal(err)
	}
	conn, _, err := unix.Accept(fds)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fds)
	stdin := os.NewFile(uintptr(conn), "connection")
	o, got := h.talk(t, "", stdin, "-bs")
	stdin.Close()
	unix.Close(client)
	if diff := cmp.Diff([]string{"STARTTLS\r\n", "QUIT\r\n"}, got.Commands); diff != "" {
		t.Errorf("%+v\n%s", o, diff)
	}
}

// TestDialogueMemory: content is in the memfd, and not in the program, also where
// it is longer than what is held.
func TestDialogueMemory(t *testing.T) {
	h := newHost(t, "max-message-size = 20000000")
	h.answer(t, refuse)
	line := strings.Repeat("x", 98) + "\r\n"
	for _, c := range []struct {
		command, content string
		size             int
	}{
		{"DATA\r\n", line, 25_000_000},
		{"DATA\r\n", strings.Repeat("\n", 100), 15_000_000},
		{"DATA\r\n", strings.Repeat("\r", 100), 15_000_000},
		{"DATA\r\n", strings.Repeat("x", 100), 15_000_000},
		{"BDAT 15000005\r\n", line, 15_000_000},
	} {
		cmd := h.command("sendmail", "-bs")
		cmd.Env = append(cmd.Env, "TEST_STATUS="+h.path("status"))
		input := "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\n" + c.command + strings.Repeat(c.content, c.size/len(c.content)) + "\r\n.\r\nQUIT\r\n"
		h.finish(t, cmd, "", strings.NewReader(input))
		if peak := peakOf(t, h); peak > 16<<10 {
			t.Errorf("%.10q: %d KiB resident at the most", c.content, peak)
		}
	}
}

// TestChunks: a dialogue means the same however it is cut into pieces.
func TestChunks(t *testing.T) {
	h := newHost(t)
	h.answer(t, accept)
	command := rapid.SampledFrom([]string{"HELO x\r\n", "EHLO x\r\n", "MAIL FROM:<s@x>\r\n", "MAIL FROM:<s@x>\n", "RCPT TO:<a@x>\r\n", "RCPT TO:<a@x>\r\n", "RCPT TO:<refused@x>\r\n", "RSET\r\n", "NOOP\r\n",
		"HELP\r\n", "NONSENSE\r\n", "STARTTLS\r\n", "BDAT 8 LAST\r\n", "BDAT 4\r\n", "DATA\r\n", "DATA\n", "text\r\n", ".\r\n", ".\n", "..\r\n", "\r\n", "\n", "\r", "x"})
	rapid.Check(t, func(t *rapid.T) {
		input := "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n" + strings.Join(rapid.SliceOfN(command, 0, 40).Draw(t, "dialogue"), "")
		cuts := rapid.SliceOfN(rapid.IntRange(1, 60), 1, 5).Draw(t, "pieces")
		whole, wholeGot := h.talk(t, "", strings.NewReader(input), "-bs")
		asked := len(h.asks)
		cut, cutGot := h.talk(t, "", &pieces{rest: input, cuts: cuts}, "-bs")
		if diff := cmp.Diff(whole, cut, cmp.AllowUnexported(outcome{})); diff != "" {
			t.Fatalf("%q: %s", input, diff)
		}
		if diff := cmp.Diff(wholeGot, cutGot); diff != "" {
			t.Fatalf("%q: %s", input, diff)
		}
		if len(wholeGot.Messages) != asked || len(h.asks) != 2*asked {
			t.Fatalf("%q: %d messages, %d asked", input, len(wholeGot.Messages), asked)
		}
		for len(h.asks) > 0 {
			<-h.asks
		}
	})
}

// pieces is a reader that gives a few bytes at a time.
type pieces struct {
	rest string
	cuts []int
	n    int
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.rest == "" {
		return 0, io.EOF
	}
	n := copy(b, p.rest[:min(len(p.rest), p.cuts[p.n%len(p.cuts)])])
	p.rest, p.n = p.rest[n:], p.n+1
	return n, nil
}

// FuzzDialogue: whatever a client sends, the session ends, and the MTA has got what
// mailquotad was asked about: that message, from that sender, to so many recipients
// at the most.
func FuzzDialogue(f *testing.F) {
	h := newHost(f, "max-message-size = 10000")
	h.decide(f, func(r *wire.Request, _ []byte) *wire.Reply {
		if r.Recipients%3 == 0 || r.Truncated {
			return &wire.Reply{Verdict: wire.VerdictRefuse, Exit: 69, Code: "452 4.7.1", Text: "limit reached"}
		}
		return accept
	})
	f.Add("EHLO x\r\nMAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n"+message+"QUIT\r\n", "-bs")
	f.Add("MAIL FROM:<s@x>\nRCPT TO:<a@x>\nRCPT TO:<a@x>\nRCPT TO:<a@x>\nDATA\nx\n.\nRSET\nMAIL FROM:<s@x>\nRCPT TO:<a@x>\nBDAT 3\nabcBDAT 0 LAST\n", "-bs")
	f.Add("MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\nx\r\n.\r\nRSET\r\nMAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\nx\n.\n.\r\n", "-bS")
	f.Fuzz(func(t *testing.T, input, mode string) {
		h.write(t, "conf", strings.Join(append(h.conf, `mta = "exim"`), "\n"))
		if mode != "-bS" {
			mode = "-bs"
			h.write(t, "conf", strings.Join(h.conf, "\n"))
		}
		o, got := h.talk(t, "", strings.NewReader(input), mode)
		if strings.Contains(o.stderr, "goroutine") {
			t.Fatalf("%q: %s", input, o.stderr)
		}
		var passed []asked
		for len(h.asks) > 0 {
			if a := <-h.asks; a.request.Recipients%3 != 0 && !a.request.Truncated {
				passed = append(passed, a)
			}
		}
		if len(got.Messages) > len(passed) || mode == "-bs" && len(got.Messages) != len(passed) {
			t.Fatalf("%q: %d messages queued, %d accepted", input, len(got.Messages), len(passed))
		}
		for i, m := range got.Messages {
			content := strings.TrimPrefix(strings.ReplaceAll("\n"+string(passed[i].message), "\n.", "\n"), "\n")
			if len(m.Recipients) > passed[i].request.Recipients || string(m.Content) != content {
				t.Errorf("%q: queued %+v, asked about %+v %q", input, m, passed[i].request, content)
			}
		}
	})
}

// TestManySessions: sessions at the same time do not disturb each other.
func TestManySessions(t *testing.T) {
	h := newHost(t)
	h.answer(t, accept)
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			cmd := h.command("sendmail", "-bs")
			cmd.Env = append(cmd.Env, "TEST_RECORD=/dev/null")
			cmd.Stdin = strings.NewReader(strings.Repeat("MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n"+message, 5) + "QUIT\r\n")
			out, err := cmd.Output()
			if err != nil || strings.Count(string(out), "queued") != 5 {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wait.Wait()
	if len(h.asks) != 100 {
		t.Errorf("asked %d times", len(h.asks))
	}
}
