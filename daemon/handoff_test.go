package daemon

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sendmail-wrapper/config"
	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/submit"
	"sendmail-wrapper/wire"
)

// sendsBy starts a daemon, and mailquota-submit, whose real sendmail is a shell script.
func sendsBy(t *testing.T, script string, change func(*config.Daemon)) (r *running, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "") // a short path: sun_path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "submit")
	r = start(t, func(c *config.Daemon) {
		c.FirstUserUID, c.SubmitSocket = 1000, socket
		if change != nil {
			change(c)
		}
	})
	if script == "" {
		return r, dir
	}
	program := filepath.Join(dir, "sendmail")
	if err := os.WriteFile(program, []byte("#!/bin/sh\ncd "+dir+"\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go submit.New(uint32(os.Getuid()), func(string) (string, error) { return program, nil }, zerolog.New(r.log)).Serve(l)
	return r, dir
}

// handOver asks as a user, with the words of a command line.
func (r *running) handOver(t *testing.T, uid uint32, change func(*wire.Request), argv ...string) *wire.Reply {
	t.Helper()
	content, err := sealed("To: a@outside.example\nSubject: s\n\nbody\n")
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	request := &wire.Request{Op: wire.OpSubmit, Profile: "postfix", Argv: append([]string{"sendmail"}, argv...), HandOff: true}
	if change != nil {
		change(request)
	}
	return r.submit(&origin.Peer{PID: os.Getpid(), UID: uid}, request, content, func() {})
}

// TestHandOver: what is accepted is sent with its trace field, and the caller has the output and
// the status; what surely was not queued is given back before he has them.
func TestHandOver(t *testing.T) {
	// It exits with the number that stands before the "@" of the last recipient.
	r, dir := sendsBy(t, `printf '%s|' "$@" >argv; cat >message; echo out; echo err >&2; for last; do :; done; exit "${last%@*}"`, nil)
	for _, c := range []struct {
		name    string
		change  func(*wire.Request)
		argv    []string
		want    *wire.Reply
		said    string // the command line
		charged int
	}{
		{"sent", nil, []string{"-fs@x", "-C/x", "0@x"}, &wire.Reply{Verdict: wire.VerdictHanded, Stdout: []byte("out\n"), Stderr: []byte("err\n")}, "-fs@x|-F|", 1},
		{"refused by the mail server", nil, []string{"-fs@x", "75@x"}, &wire.Reply{Verdict: wire.VerdictHanded, Exit: 75, Stdout: []byte("out\n"), Stderr: []byte("err\n")}, "-fs@x|-F|", 0},
		{"where that is not sure", func(r *wire.Request) { r.Profile = "exim" }, []string{"-fs@x", "1@x"}, &wire.Reply{Verdict: wire.VerdictHanded, Exit: 1, Stdout: []byte("out\n"), Stderr: []byte("err\n")}, "-fs@x|-F|", 1},
		{"where errors are printed", func(r *wire.Request) { r.Profile = "exim" }, []string{"-oep", "-fs@x", "1@x"}, &wire.Reply{Verdict: wire.VerdictHanded, Exit: 1, Stdout: []byte("out\n"), Stderr: []byte("err\n")}, "-fs@x|-F|", 0},
		{"no recipients", nil, []string{"-fs@x"}, nil, "", 0},
		{"NAME", func(r *wire.Request) { r.Hints = []string{"NAME=Mr X"} }, []string{"-fs@x", "0@x"}, nil, "-fs@x|-FMr X|--|0@x|", 1},
		{"too long", func(r *wire.Request) { r.Truncated = true }, []string{"-fs@x", "0@x"}, &wire.Reply{Verdict: wire.VerdictRefuse, Exit: 69, Code: wire.CodeTooLong}, "", 0},
		{"a word that no program can have", nil, []string{"-fs@x", strings.Repeat("a", 32*os.Getpagesize())}, &wire.Reply{Verdict: wire.VerdictError}, "", 0},
		{"no login", nil, []string{"0@x"}, &wire.Reply{Verdict: wire.VerdictError, Text: "uid 54321 has no login name in /etc/passwd: say who sends, with -f ADDRESS"}, "", 0},
		{"a server that does not", func(r *wire.Request) { r.Profile = "dma" }, []string{"-fs@x", "0@x"},
			&wire.Reply{Verdict: wire.VerdictError, Text: "mail cannot be handed over to dma: hand-off is for postfix, exim, exim-add-arguments and sendmail"}, "", 0},
		{"a dialogue", nil, []string{"-bs"}, &wire.Reply{Verdict: wire.VerdictError, Text: "this command line submits no message"}, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			os.Remove(filepath.Join(dir, "argv"))
			before := r.charged(t)
			reply := r.handOver(t, 54321, c.change, c.argv...)
			if c.want != nil && (reply.Verdict != c.want.Verdict || reply.Exit != c.want.Exit || string(reply.Stdout) != string(c.want.Stdout) || string(reply.Stderr) != string(c.want.Stderr) ||
				c.want.Code != "" && reply.Code != c.want.Code || c.want.Text != "" && reply.Text != c.want.Text) {
				t.Errorf("got %+v, want %+v", reply, c.want)
			}
			argv, _ := os.ReadFile(filepath.Join(dir, "argv"))
			if !strings.HasPrefix(string(argv), c.said) || c.want != nil && c.said == "" && argv != nil {
				t.Errorf("called with %q, want %q", argv, c.said)
			}
			if c.said != "" {
				message, _ := os.ReadFile(filepath.Join(dir, "message"))
				if want := "X-Mail-Trace: " + reply.ID + "\nTo: a@outside.example\nSubject: s\n\nbody\n"; string(message) != want {
					t.Errorf("message %q, want %q", message, want)
				}
			}
			if n := r.charged(t) - before; n != c.charged {
				t.Errorf("%d charged, want %d", n, c.charged)
			}
		})
	}
	if reply := r.handOver(t, 0, nil, "a@x"); reply.Verdict != wire.VerdictAccept {
		t.Errorf("root: %+v", reply)
	}
}

// charged is how many messages count: accepted, and not given back.
func (r *running) charged(t *testing.T) (n int) {
	t.Helper()
	if err := r.owner.QueryRow(t.Context(), `SELECT count(*) FROM messages m WHERE decision <> 2 AND NOT EXISTS (SELECT 1 FROM returned r WHERE r.id = m.id)`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestHandOverAway: without mailquota-submit nothing is sent, and nothing is charged.
func TestHandOverAway(t *testing.T) {
	r, _ := sendsBy(t, "", nil)
	reply := r.handOver(t, 54321, nil, "-fs@x", "a@x")
	if reply.Verdict != wire.VerdictRefuse || reply.Exit != 69 || reply.Code != wire.CodeFault || r.charged(t) != 0 {
		t.Errorf("%+v, %d charged", reply, r.charged(t))
	}
	if reply := r.handOver(t, 54321, nil, "-G", "-fs@x", "a@x"); reply.Exit != 75 {
		t.Errorf("relayed: %+v", reply)
	}
}

// TestHandOverUnknown: what may have been sent stays charged.
func TestHandOverUnknown(t *testing.T) {
	r, _ := sendsBy(t, `kill -9 $$`, nil)
	reply := r.handOver(t, 54321, nil, "-fs@x", "a@x")
	if reply.Verdict != wire.VerdictRefuse || !strings.Contains(reply.Text, "may have been sent") || r.charged(t) != 1 {
		t.Errorf("%+v, %d charged", reply, r.charged(t))
	}
}

// TestHandOverExact: 400 calls at once, 8 at a time, of a user with a limit of 100.
func TestHandOverExact(t *testing.T) {
	r, dir := sendsBy(t, `cat >"m.$$"`, nil)
	r.handOver(t, 54321, nil, "-fs@x", "a@x")
	r.sql(t, `INSERT INTO limits (owner_id, class, messages_hour) SELECT id, 1, 100 FROM system_user WHERE uid = 54321`)
	var mu sync.Mutex
	verdicts := map[wire.Verdict]int{wire.VerdictHanded: 1}
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			for range 50 {
				reply := r.handOver(t, 54321, nil, "-fs@x", "a@x")
				mu.Lock()
				verdicts[reply.Verdict]++
				mu.Unlock()
			}
		})
	}
	calls.Wait()
	sent, err := filepath.Glob(filepath.Join(dir, "m.*"))
	if err != nil || len(sent) != 100 || verdicts[wire.VerdictHanded] != 100 || verdicts[wire.VerdictRefuse] != 301 || r.charged(t) != 100 {
		t.Errorf("%d sent, %v, %d charged", len(sent), verdicts, r.charged(t))
	}
}

// handingOver makes n calls of one user at once, and returns when all are decided about.
func (r *running) handingOver(t *testing.T, n int) (replies chan *wire.Reply) {
	t.Helper()
	decided := make(chan struct{}, n)
	replies = make(chan *wire.Reply, n)
	for range n {
		r.working.Go(func() {
			content, err := sealed("x\n")
			if err != nil {
				t.Error(err)
				return
			}
			defer content.Close()
			request := &wire.Request{Op: wire.OpSubmit, Profile: "postfix", Argv: []string{"sendmail", "-fs@x", "a@x"}, HandOff: true}
			replies <- r.submit(&origin.Peer{PID: os.Getpid(), UID: 54321}, request, content, func() { decided <- struct{}{} })
		})
	}
	for range n {
		<-decided
	}
	return replies
}

// TestHandOverSlow: calls whose messages a slow mail server has keep nobody from being decided
// about, are bounded themselves, and end when the daemon stops.
func TestHandOverSlow(t *testing.T) {
	r, dir := sendsBy(t, `while [ ! -e go ]; do sleep 0.02; done; echo >>sent`, func(c *config.Daemon) { c.Calls = 2 })
	replies := r.handingOver(t, 2)
	if reply := r.handOver(t, 54321, nil, "-fs@x", "a@x"); reply.Verdict != wire.VerdictRefuse || !strings.Contains(reply.Text, "too many messages wait for the mail server") {
		t.Errorf("one more than may wait: %+v", reply)
	}
	if _, err := wire.Ask(r.socket, &wire.Request{Op: wire.OpStatus}, nil, 10*time.Second); err != nil {
		t.Error(err)
	}
	stopped := make(chan struct{})
	go func() {
		r.stop()
		close(stopped)
	}()
	os.WriteFile(filepath.Join(dir, "go"), nil, 0o600)
	<-stopped
	for range 2 {
		if reply := <-replies; reply.Verdict != wire.VerdictHanded {
			t.Errorf("%+v", reply)
		}
	}
	if content, err := os.ReadFile(filepath.Join(dir, "sent")); err != nil || len(content) != 2 {
		t.Errorf("%q sent, %v", content, err)
	}
}

// TestHandOverStop: a message that the mail server has not begun to take when a stop has no time
// left is given back, and its caller told; one that it has begun to take is waited for.
func TestHandOverStop(t *testing.T) {
	r, dir := sendsBy(t, `echo >>began; while [ ! -e go ]; do sleep 0.02; done`, nil)
	const places = 8 // of one user, in mailquota-submit
	replies := r.handingOver(t, places+1)
	for began := 0; began < places; time.Sleep(5 * time.Millisecond) {
		content, _ := os.ReadFile(filepath.Join(dir, "began"))
		began = len(content)
	}
	c := *r.config()
	c.RequestTimeout, c.DecisionTimeout = 0, config.Duration(3*time.Second)
	r.settings.Store(&settings{c, *r.Server.log()})
	stopped := make(chan struct{})
	go func() {
		r.stop()
		close(stopped)
	}()
	if reply := <-replies; reply.Verdict != wire.VerdictRefuse || !strings.Contains(reply.Text, "try again later") || r.charged(t) != places {
		t.Errorf("the one that waited: %+v, %d charged", reply, r.charged(t))
	}
	os.WriteFile(filepath.Join(dir, "go"), nil, 0o600)
	<-stopped
	for range places {
		if reply := <-replies; reply.Verdict != wire.VerdictHanded {
			t.Errorf("%+v", reply)
		}
	}
}

// TestGiveBackStop: what is to be given back when the last call ends at a stop is.
func TestGiveBackStop(t *testing.T) {
	r := start(t, nil)
	var charged []charge
	for range 30 {
		m := quota.Message{Origin: origin.Origin{UID: 54321, User: "someone"}, Recipients: 1}
		reply, at := r.decide(&m, false, time.Now())
		if reply.Verdict != wire.VerdictAccept {
			t.Fatalf("%+v", reply)
		}
		charged = append(charged, charge{id: m.ID, at: at})
	}
	r.working.Go(func() {
		for !strings.Contains(r.log.String(), "mailquotad stops") {
			time.Sleep(time.Millisecond)
		}
		for _, c := range charged {
			r.refusedByServer(c)
		}
	})
	r.stop()
	if n := r.charged(t); n != 0 {
		t.Errorf("%d of %d stay charged", n, len(charged))
	}
}
