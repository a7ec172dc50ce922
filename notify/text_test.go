package notify

import (
	"io"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sendmail-wrapper/quota"
)

// TestHostileNames: what strangers can name begins no header, no line of the body
// and no command; commands are read by a shell as they are meant.
func TestHostileNames(t *testing.T) {
	printed := "/home/alice/a'; touch x; rm -rf / #$(id)`id`"
	hostileName(t, printed, "script:"+printed)
	// A block of what the mail shows would hold nobody.
	hostileName(t, "/home/alice/a'; touch x\n\nWhat you can do\n  rm -rf / #$(id)`id`\x1b[2J\u202e", "user:alice")
}

// hostileName has mail of a script refused, and reads what the administrator is
// proposed to block.
func hostileName(t *testing.T, path, blocked string) {
	t.Helper()
	w := newWorld(t)
	evil := spam
	evil.Origin.Script.Value = path
	evil.Details.Subject = "=?utf-8?q?a=0ABcc:_evil@outside.example?="
	w.exec(`UPDATE subscription SET name = $1`, "al\nBcc: evil@outside.example\n\nice'ü "+strings.Repeat("x", 300))
	w.record(w.refusal("subscription:"+w.text(`SELECT name FROM subscription`), quota.EventRefused, evil))
	w.deliverAll()
	text := w.mails()["root"]
	m, err := mail.ReadMessage(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Header) != 9 || m.Header["Bcc"] != nil {
		t.Errorf("header %v", m.Header)
	}
	for line := range strings.Lines(text) {
		if len(line) > 999 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(body), "\nWhat you can do") != 1 || strings.ContainsAny(string(body), "\x1b\u202e") {
		t.Errorf("body:\n%s", body)
	}
	found := false
	for line := range strings.Lines(string(body)) {
		line = strings.TrimSpace(line)
		words, is := strings.CutPrefix(line, "mailctl block add ")
		if !is {
			continue
		}
		found = true
		out, err := exec.Command("sh", "-c", "printf '%s|' "+words).Output()
		if want := blocked + "|"; err != nil || string(out) != want {
			t.Errorf("%s is read as %q, %v, want %q", words, out, err, want)
		}
	}
	if !found {
		t.Errorf("no command in:\n%s", body)
	}
}

// TestTemplates: the administrator's take the place of the built-in ones, unless
// they are broken.
func TestTemplates(t *testing.T) {
	w := newWorld(t)
	if err := os.Mkdir(w.Config.NotifyTemplates, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ text, want string }{
		{"Subject: mine {{.Kind}}\n\nof {{.Event.Object}} {{when .Event.FreeAt}}", "Subject: mine refused"},
		{"Subject: mine {{.Colour}}\n\nx", "Subject: [mailquota] Mail refused"},
		{"Subject: mine {{\n\nx", "Subject: [mailquota] Mail refused"},
		{"no subject\n\nx", "Subject: [mailquota] Mail refused"},
		{"Subject: two\nBcc: x@y\n\nx", "Subject: [mailquota] Mail refused"},
		{"Subject: long\n\n{{range .Event.Commands}}" + strings.Repeat("x", 200<<10) + "{{end}}", "Subject: [mailquota] Mail refused"},
		{"", "Subject: [mailquota] Mail refused"},
	} {
		if err := os.WriteFile(filepath.Join(w.Config.NotifyTemplates, "event.txt"), []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		w.recorder = NewRecorder(w.Pool, w.Store, w.recorder.log)
		w.exec(`UPDATE event SET closed_at = now()`)
		w.record(w.refusal("user:alice", quota.EventRefused, spam))
		w.log.Reset()
		w.deliverAll()
		if mail := w.mails()["root"]; !strings.Contains(mail, "\n"+c.want) {
			t.Errorf("%.60q: no %q in:\n%s", c.text, c.want, mail)
		}
		if broken := strings.Contains(w.log.String(), "event.txt"); broken != strings.Contains(c.want, "[mailquota]") {
			t.Errorf("%.60q: log %s", c.text, w.log)
		}
		bad := 0
		for _, r := range w.tryTemplates() {
			bad++
			if r.Target != "event.txt" {
				t.Errorf("%+v", r)
			}
		}
		if (bad == 1) != strings.Contains(c.want, "[mailquota]") {
			t.Errorf("%.60q: %d broken templates are found", c.text, bad)
		}
	}
}

// TestCommands: what is to be blocked is the narrowest that is known.
func TestCommands(t *testing.T) {
	subscription := quota.Object{Class: quota.Subscription, Name: "al ice"}
	for _, c := range []struct {
		m      *Message
		object quota.Object
		want   string
	}{
		{nil, quota.Object{Class: quota.Server}, "mailctl why server; mailctl report messages --refused --since 1h; mailctl exception raise server messages/hour +10 --for 2h"},
		{nil, subscription, "block add 'subscription:al ice';"},
		{&Message{User: "alice", Host: "host1"}, subscription, "--subscription 'al ice'; mailctl block add user:alice;"},
		{&Message{User: "alice", Host: "host2"}, subscription, "block add user:alice@host2;"},
		{&Message{Mailbox: "a@alice.example"}, subscription, "block add mailbox:a@alice.example;"},
		{&Message{User: "alice", Script: "/a b", Proof: map[string]string{"script": "system"}}, subscription, "block add 'script:/a b';"},
		{&Message{User: "alice", Script: "/x", Crontab: "cron.d/x:1 echo 'a'", Proof: map[string]string{"script": "system", "crontab": "kernel"}}, subscription, `block add 'crontab:cron.d/x:1 echo '\''a'\''';`},
		{&Message{User: "alice", Host: "host1", Script: "/home/bob/x", Crontab: "bob:x", Proof: map[string]string{"script": "claimed", "crontab": "claimed"}}, subscription, "block add user:alice;"},
		{&Message{Mailbox: "a@alice.example", User: "alice", Host: "host1", Script: "/home/bob/x"}, subscription, "block add mailbox:a@alice.example;"},
		{nil, quota.Object{Class: quota.User, Name: "alice"}, "mailctl why user:alice; mailctl report messages --refused --since 1h --user alice; "},
		{nil, quota.Object{Class: quota.User, Name: "alice@host2"}, "mailctl why user:alice@host2; mailctl report messages --refused --since 1h --user alice --host host2; "},
	} {
		e := &loaded{Event: Event{Limit: "messages/hour", Max: 10, Message: c.m}}
		if got := strings.Join(commands(e, c.object, "host1"), "; "); !strings.Contains(got, c.want) {
			t.Errorf("%+v of %s: %s, want %s", c.m, c.object, got, c.want)
		}
	}
}

func TestSubjectField(t *testing.T) {
	for in, want := range map[string]string{
		"plain text":  "plain text",
		"a\nBcc: x@y": "=?utf-8?q?a=EF=BF=BDBcc:_x@y?=",
		"ü":           "=?utf-8?q?=C3=BC?=",
		"\xff\x00":    "=?utf-8?q?=EF=BF=BD=EF=BF=BD?=",
	} {
		if got := subjectField(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	for line := range strings.Lines(subjectField(strings.Repeat("ü", 500))) {
		if len(line) > 78 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
}

// FuzzLetter: whatever subject and body are, the header is ours and the body whole.
func FuzzLetter(f *testing.F) {
	f.Add("subject", "body\n")
	f.Add("a\r\nBcc: x@y\n\nz", "\x00\n.\n")
	f.Add("\xff\u2028=?utf-8?q?a?=", strings.Repeat("ü", 1000))
	f.Fuzz(func(t *testing.T, subject, body string) {
		l := letter{to: "root", subject: subject, body: body, id: "1"}
		text, err := l.message("a@b.example", time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		m, err := mail.ReadMessage(strings.NewReader(string(text)))
		if err != nil || len(m.Header) != 9 {
			t.Fatalf("%v, %v", err, m)
		}
		var r io.Reader = m.Body
		if m.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
			r = quotedprintable.NewReader(r)
		}
		got, err := io.ReadAll(r)
		if want := strings.ToValidUTF8(body, "\uFFFD"); err != nil || strings.ReplaceAll(string(got), "\r\n", "\n") != strings.ReplaceAll(want, "\r\n", "\n") {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	})
}
