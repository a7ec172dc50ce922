package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/sendmail"
)

// TestWebhook: signed, taken with 2xx only, redirects not followed, tried again.
func TestWebhook(t *testing.T) {
	w := newWorld(t)
	const key = "a key of some length"
	if err := os.WriteFile(w.Config.NotifyWebhookKey, []byte(key+"\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	status, seen := 0, 0
	var told Told
	server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		seen++
		body, _ := io.ReadAll(r.Body)
		at, signature, _ := strings.Cut(strings.TrimPrefix(r.Header.Get(SignatureHeader), "t="), ",v1=")
		mac := hmac.New(sha256.New, []byte(key))
		io.WriteString(mac, at+"."+string(body))
		if hex.EncodeToString(mac.Sum(nil)) != signature || r.Method != "POST" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %v", r.Method, r.Header)
		}
		if err := json.Unmarshal(body, &told); err != nil || strings.Count(string(body), `"kind"`) != 1 {
			t.Errorf("%v in %s", err, body)
		}
		out.Header().Set("Location", "/elsewhere")
		out.WriteHeader(status)
	}))
	defer server.Close()
	w.Config.NotifyAdmin, w.Config.NotifyWebhook = nil, server.URL
	w.record(w.refusal("subscription:alice", quota.EventRefused, spam))
	for i, c := range []struct {
		status int
		state  string
	}{{302, "waiting"}, {500, "waiting"}, {404, "waiting"}, {204, "sent"}} {
		status = c.status
		w.deliverAll()
		if seen != i+1 {
			t.Errorf("%d requests, want %d: a redirect was followed, or one notice posted twice", seen, i+1)
		}
		list, err := List(t.Context(), w.Pool, "host1", 10)
		if err != nil || len(list) != 1 {
			t.Fatalf("%v, %v", list, err)
		}
		n := list[0]
		if string(n.State) != c.state || n.Object != "subscription:alice" || n.Limit != "messages/hour" || n.Tries != min(i+1, 3) || c.state == "waiting" && !strings.Contains(n.Error, http.StatusText(c.status)) {
			t.Errorf("after %d: %+v", c.status, n)
		}
		w.exec(`UPDATE notice SET due_at = now()`)
	}
	if e := told.Event; told.Kind != quota.EventRefused || e.Object != "subscription:alice" || e.Message.Script != "/home/alice/www/x.php" || e.Message.Proof["script"] != "system" ||
		e.Message.Subject != "You won" || len(e.Message.To) != 2 || e.Max != 10 || len(e.Commands) != 4 {
		t.Errorf("%+v, %+v", told.Event, told.Event.Message)
	}
	for _, c := range []struct {
		key  string
		mode os.FileMode
		want string
	}{{key, 0o644, "everybody may use"}, {"short\n", 0o600, "has less than"}} {
		if err := os.WriteFile(w.Config.NotifyWebhookKey, []byte(c.key), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(w.Config.NotifyWebhookKey, c.mode); err != nil {
			t.Fatal(err)
		}
		if err := w.post(t.Context(), server.URL, w.sample(0, time.Now())); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("key %q with %v: %v", c.key, c.mode, err)
		}
	}
}

// TestGivenUp: after a day no more is tried, and status says so.
func TestGivenUp(t *testing.T) {
	w := newWorld(t)
	w.Sendmail = func() (string, string, error) { return "/nonexistent/sendmail", "<>", nil }
	w.record(w.refusal("subscription:alice", quota.EventRefused, spam))
	w.deliverAll()
	w.exec(`UPDATE notice SET due_at = now(), made_at = now() - interval '2 hours'`)
	if h, err := CheckHealth(t.Context(), w.Pool); err != nil || h != (Health{Late: 1}) {
		t.Errorf("%+v, %v", h, err)
	}
	w.exec(`UPDATE notice SET made_at = now() - interval '23 hours 59 minutes 50 seconds'`)
	w.deliverAll()
	if got := w.text(`SELECT due_at || ' ' || tries || ' ' || error FROM notice`); got != "infinity 2 fork/exec /nonexistent/sendmail: no such file or directory" {
		t.Errorf("%s", got)
	}
	if h, err := CheckHealth(t.Context(), w.Pool); err != nil || h != (Health{GivenUp: 1}) {
		t.Errorf("%+v, %v", h, err)
	}
	w.deliverAll()
	conn, err := w.Pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Exec(t.Context(), `SELECT pg_advisory_lock($1)`, int64(leaderLock)); err != nil {
		t.Fatal(err)
	}
	if h, err := CheckHealth(t.Context(), w.Pool); err != nil || h != (Health{GivenUp: 1, Runs: true}) {
		t.Errorf("%+v, %v", h, err)
	}
}

// script writes a program of root's below a directory of root's.
func script(t *testing.T, text string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can make a program of root's")
	}
	path := filepath.Join(t.TempDir(), "told")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHook(t *testing.T) {
	t.Setenv("SECRET", "x")
	w := newWorld(t)
	out := filepath.Join(w.dir, "out")
	w.Config.NotifyAdmin, w.Config.NotifyHook = nil, script(t, "{ cat; env; pwd; } >"+out+"; test ! -e "+out+".no || { echo not now >&2; exit 3; }")
	w.record(w.refusal("subscription:alice", quota.EventRefused, spam))
	if err := os.WriteFile(out+".no", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.deliverAll()
	if got := w.text(`SELECT tries || ' ' || error FROM notice`); got != "1 "+w.Config.NotifyHook+": exit status 3: not now" {
		t.Errorf("%s", got)
	}
	if err := os.Remove(out + ".no"); err != nil {
		t.Fatal(err)
	}
	w.exec(`UPDATE notice SET due_at = now()`)
	w.deliverAll()
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(got); !strings.HasPrefix(text, `{"id":"notice-`) || strings.Contains(text, "SECRET") || !strings.Contains(text, "LANG=C.UTF-8") || !strings.HasSuffix(text, "\n/\n") {
		t.Errorf("%s", text)
	}
	if got := w.text(`SELECT (sent_at IS NOT NULL)::text FROM notice`); got != "true" {
		t.Errorf("sent: %s", got)
	}
}

// TestProgramOfOthers: what anybody but root can write to is not run.
func TestProgramOfOthers(t *testing.T) {
	path := script(t, "exit 0")
	if err := checkProgram(path); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want string
		do   func() error
		undo func() error
	}{
		{"does not belong to root", func() error { return os.Chown(path, 1, 0) }, func() error { return os.Chown(path, 0, 0) }},
		{"may write to " + path, func() error { return os.Chmod(path, 0o775) }, func() error { return os.Chmod(path, 0o755) }},
		{"may write to " + path, func() error { return os.Chmod(path, 0o757|os.ModeSticky) }, func() error { return os.Chmod(path, 0o755) }},
		{"is no program", func() error { return os.Chmod(path, 0o644) }, func() error { return os.Chmod(path, 0o755) }},
		{"may write to " + filepath.Dir(path) + ":", func() error { return os.Chmod(filepath.Dir(path), 0o777) }, func() error { return os.Chmod(filepath.Dir(path), 0o755) }},
		{"does not belong to root", func() error { return os.Chown(filepath.Dir(path), 1, 0) }, func() error { return os.Chown(filepath.Dir(path), 0, 0) }},
		{"no such file", func() error { return os.Rename(path, path+".x") }, func() error { return os.Rename(path+".x", path) }},
	} {
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		if err := checkProgram(path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q: %v", c.want, err)
		}
		if err := c.undo(); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := checkProgram(link); err != nil {
		t.Errorf("a link of root's: %v", err)
	}
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := checkProgram(link); err == nil {
		t.Error("a link to what everybody can write to")
	}
}

// TestLinkOnTheWay: neither a link of somebody else's is followed, nor one that is
// in a directory of his, although it begins and ends at root's.
func TestLinkOnTheWay(t *testing.T) {
	path := script(t, "exit 0")
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{dir + "/hook": "home/../home/l", home + "/l": path, dir + "/loop": "loop", dir + "/up": filepath.Dir(path)} {
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	for _, good := range []string{dir + "/hook", dir + "/up/" + filepath.Base(path)} {
		if err := checkProgram(good); err != nil {
			t.Errorf("all is root's: %v", err)
		}
	}
	if err := checkProgram(dir + "/loop"); err == nil || !strings.Contains(err.Error(), "too many links") {
		t.Errorf("a loop: %v", err)
	}
	for _, owned := range []string{home, home + "/l"} {
		if err := os.Lchown(owned, 1, 0); err != nil {
			t.Fatal(err)
		}
		if err := checkProgram(dir + "/hook"); err == nil || !strings.Contains(err.Error(), "does not belong to root: type chown -h root "+owned) {
			t.Errorf("%s is another's: %v", owned, err)
		}
		if err := os.Lchown(owned, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBoundOfPrograms: one that takes too long ends with all that it started.
func TestBoundOfPrograms(t *testing.T) {
	path := script(t, "sleep 60 & echo begun; wait")
	began := time.Now()
	err := runProgram(context.Background(), exec.Command(path), nil, 200*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "not done within 200ms: begun") || time.Since(began) > 10*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	// What leaves a process behind is done when it ends.
	path = script(t, "sleep 60 & exit 0")
	if err := runProgram(context.Background(), exec.Command(path), nil, time.Minute); err != nil || time.Since(began) > 20*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

// TestCommandLine: each mail server's sendmail takes ours for a submission with
// the null sender, to one recipient; dma has no null sender (cmd/mailctl).
func TestCommandLine(t *testing.T) {
	for _, name := range []string{"postfix", "exim", "exim-add-arguments", "sendmail", "opensmtpd", "msmtp", "nullmailer"} {
		p, err := sendmail.ProfileByName(name)
		if err != nil {
			t.Fatal(err)
		}
		call := p.Parse([]string{"sendmail", "-i", "-f", "<>", "--", "root@example.com"})
		e, err := p.Scan(call, func(string) (string, bool) { return "", false }, strings.NewReader("From: x@example.com\nTo: root@example.com\n\nx\n"))
		if err != nil || call.Mode != sendmail.Submit || e.Sender != "" || !e.SenderSet || e.Recipients != 1 {
			t.Errorf("%s: %+v, %+v, %v", name, call, e, err)
		}
	}
}

// TestTry: each channel is tried, and what is wrong is said.
func TestTry(t *testing.T) {
	w := newWorld(t)
	w.Config.NotifyCustomers, w.Config.NotifyWebhook, w.Config.NotifyHook = true, "http://127.0.0.1:1/", script(t, "exit 1")
	results, err := w.Try(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range results {
		state := "ok"
		if !r.OK {
			state = "failed"
		}
		got = append(got, r.Channel+" "+state)
	}
	if want := "admin ok, webhook failed, hook failed, customer ok"; strings.Join(got, ", ") != want {
		t.Errorf("%+v", results)
	}
	mail := w.mails()["root"]
	for _, want := range []string{"Subject: [mailquota] Test of the notifications of host1", "Subject: Test of the mail to customers of host1", "This is a test"} {
		if !strings.Contains(mail, want) {
			t.Errorf("no %q in %s", want, mail)
		}
	}
	if results, err := w.Try(t.Context(), Hook); err != nil || len(results) != 1 {
		t.Errorf("%+v, %v", results, err)
	}
	w.Config.NotifyAdmin, w.Config.NotifyWebhook, w.Config.NotifyHook = nil, "", ""
	if _, err := w.Try(t.Context(), ""); err == nil {
		t.Error("nobody is told, and that is no error")
	}
}
