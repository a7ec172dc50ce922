package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSample: the file that is installed says what the defaults are, for every
// key.
func TestSample(t *testing.T) {
	if got, err := Load("mailquotad.conf"); err != nil || !cmp.Equal(got, Default()) {
		t.Errorf("as it is installed: %v, %+v", err, got)
	}
	content, err := os.ReadFile("mailquotad.conf")
	if err != nil {
		t.Fatal(err)
	}
	setting := regexp.MustCompile(`(?m)^#([a-z-]+) = `)
	var found []string
	for _, m := range setting.FindAllStringSubmatch(string(content), -1) {
		found = append(found, m[1])
	}
	if diff := cmp.Diff(keys(), found); diff != "" {
		t.Errorf("keys of the sample:\n%s", diff)
	}
	path := filepath.Join(t.TempDir(), "mailquotad.conf")
	if err := os.WriteFile(path, setting.ReplaceAll(content, []byte("$1 = ")), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Host, want.NotifyFrom = "mail1.example", "mailquota@mail1.example"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("with the keys of the sample:\n%s", diff)
	}
}

// TestBad: each file of testdata/bad gives the errors beside it.
func TestBad(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.conf")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		want, err := os.ReadFile(strings.TrimSuffix(file, ".conf") + ".error")
		if err != nil {
			t.Fatal(err)
		}
		_, err = Load(file)
		if err == nil {
			t.Errorf("%s: no error", file)
			continue
		}
		if diff := cmp.Diff(strings.TrimSpace(string(want)), err.Error()); diff != "" {
			t.Errorf("%s:\n%s", file, diff)
		}
	}
}

// TestDetailsDays: where the file does not say, they are no more than retention-days.
func TestDetailsDays(t *testing.T) {
	for text, want := range map[string]int{"": 31, "retention-days = 7": 7, "retention-days = 90": 31, "details-days = 1": 1, "retention-days = 90\ndetails-days = 90": 90} {
		path := filepath.Join(t.TempDir(), "mailquotad.conf")
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if d, err := Load(path); err != nil || d.DetailsDays != want {
			t.Errorf("%q: %d, %v, want %d", text, d.DetailsDays, err, want)
		}
	}
}

func TestFieldName(t *testing.T) {
	for name, want := range map[string]bool{
		"X-Mail-Trace": true, "x-t": true, "X-a.b/c": true, "X-" + strings.Repeat("a", 62): true, "X-" + strings.Repeat("a", 63): false,
		"X-": false, "X": false, "Subject": false, "Mail-Trace": false, "X-a:": false, "X-a b": false, "X-a\n": false, "X-ä": false, "X-\x7f": false, "X-\xff": false,
	} {
		if got := isFieldName(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestRecipient(t *testing.T) {
	for address, want := range map[string]bool{
		"root": true, "ops@example.com": true, "a.b+c@example.com": true, "www-data": true, "o'hara@example.com": true,
		"": false, "-C/etc/x": false, "-t": false, "-t@example.com": false, "|/bin/sh": false, "/var/mail/x": false, ":include:/etc/passwd": false,
		"a b": false, "a@b@c": false, "a@": false, "@b": false, "a@b\nBcc: c@d": false, "Ops <ops@example.com>": false, "a,b": false,
		"\"a b\"@example.com": false, "a@[127.0.0.1]": false, "a%b@example.com": false, strings.Repeat("a", 300): false,
	} {
		if got := IsRecipient(address); got != want {
			t.Errorf("%q: %v", address, got)
		}
	}
}

func TestLocalURL(t *testing.T) {
	for url, want := range map[string]bool{
		"http://127.0.0.1:981/server-status": true, "http://[::1]:1/": true, "http://127.0.0.1:1023": true, "http://127.0.0.1:981/s?auto": true,
		"http://127.0.0.1:1024/": false, "http://127.0.0.1:0/": false, "http://127.0.0.1/": false, "http://127.0.0.1:65617/": false, "http://127.0.0.1:+80/": false,
		"http://localhost:981/": false, "http://127.0.0.2:981/": false, "http://0.0.0.0:981/": false, "http://[::]:981/": false, "http://[::1%25lo]:981/": false,
		"http://127.0.0.1:981@192.0.2.1:80/": false, "http://root@127.0.0.1:981/": false, "https://127.0.0.1:981/": false, "127.0.0.1:981": false,
		"//127.0.0.1:981/": false, "http://127.0.0.1:981/#x": false, "http://127.0.0.1:http/": false, "unix:/run/x": false, "http://127.0.0.1:981 /": false,
	} {
		if got := isLocalURL(url); got != want {
			t.Errorf("%q: %v", url, got)
		}
	}
}

func TestLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:10031": true, "127.255.0.1:1": true, "[::1]:65535": true, "[::ffff:127.0.0.1]:25": true,
		"127.0.0.1": false, "127.0.0.1:": false, "127.0.0.1:0": false, "127.0.0.1:65536": false, "127.0.0.1:smtp": false, "127.0.0.1:-1": false,
		":10031": false, "0.0.0.0:10031": false, "[::]:10031": false, "192.0.2.1:10031": false, "localhost:10031": false, "[::1%lo]:10031": false,
		"::1:10031": false, "127.0.0.1:10031 ": false, "inet:127.0.0.1:10031": false, "/run/x": false,
	} {
		if got := isLoopback(address); got != want {
			t.Errorf("%q: %v", address, got)
		}
	}
}

func TestLogin(t *testing.T) {
	for name, want := range map[string]bool{
		"postfix": true, "Debian-exim": true, "www-data": true, "_mlmmj": true, "a.b": true, "web1$": true, "käthe": true, "0x1": true,
		"": false, "0": false, "1000": false, "a:b": false, "a b": false, "a\n": false, "a\x00": false, "a\x7f": false, "a/b": false, " ": false,
	} {
		if got := isLogin(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func TestSecretInOpenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mailquotad.conf")
	text := "database = \"postgres://mailquotad:secret@db.example/q\"\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil { // whatever the umask
		t.Fatal(err)
	}
	_, err := Load(path)
	if err == nil || !strings.Contains(err.Error(), "mailquotad.conf:1: database holds a password") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	d, err := Load(path)
	if err != nil || d.Private() || d.DatabaseOwner != "" {
		t.Errorf("%v, %+v", err, d)
	}
}

// TestMissingFile: the one that is always read need not be there; one that
// somebody named must be, or a typing mistake would go unseen.
func TestMissingFile(t *testing.T) {
	d, err := load("/nonexistent/mailquotad.conf", true)
	if err != nil || !cmp.Equal(d, Default()) || !d.Private() {
		t.Errorf("%v, %+v", err, d)
	}
	if _, err := Load("/nonexistent/mailquotad.conf"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that was named: %v", err)
	}
}

// TestKeys: keys() and the manual have what the struct has.
func TestKeys(t *testing.T) {
	manual, err := os.ReadFile("../man/mailquotad.conf.5")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys() {
		if !strings.Contains(string(manual), ".It Cm "+key+"\n") {
			t.Errorf("mailquotad.conf(5) does not explain %s", key)
		}
	}
	source, err := os.ReadFile("config.go")
	if err != nil {
		t.Fatal(err)
	}
	tags := regexp.MustCompile("`toml:\"([a-z-]+)\"`").FindAllStringSubmatch(string(source), -1)
	var named []string
	for _, m := range tags {
		named = append(named, m[1])
	}
	if !slices.Equal(named, keys()) {
		t.Errorf("keys() are %v, the struct has %v", keys(), named)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("calls = 3\nhost = \"x\"\n")
	f.Add("database = \"postgres://\"\n[x]\n")
	path := filepath.Join(f.TempDir(), "mailquotad.conf")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := Load(path)
		if err == nil && (d.Calls < 1 || d.RetentionDays < 2 || d.Socket == "" || d.DetailsDays < 1 || d.DetailsDays > d.RetentionDays) {
			t.Errorf("%+v", d)
		}
	})
}
