package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"

	"sendmail-wrapper/origin"
)

// TestFPMEdits: testdata/fpm/*.txtar are files of pools as they were and, below the
// name of the same file with .want, as setup fpm leaves them. --remove gives the
// first ones back, byte for byte.
func TestFPMEdits(t *testing.T) {
	statusPath := regexp.MustCompile(`(?m)^pm\.status_path = (/mailquota-status-[A-Z2-7]{26})$`)
	paths := make(map[string]bool)
	cases, err := filepath.Glob("testdata/fpm/*.txtar")
	if err != nil || len(cases) == 0 {
		t.Fatal("no cases", err)
	}
	for _, name := range cases {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		want := make(map[string]string)
		before := make(map[string]string)
		for _, f := range archive.Files {
			text := strings.ReplaceAll(string(f.Data), "$DIR", dir)
			if file, ok := strings.CutSuffix(f.Name, ".want"); ok {
				want[file] = text
				continue
			}
			before[f.Name] = text
			if err := os.WriteFile(filepath.Join(dir, f.Name), []byte(text), 0o640); err != nil {
				t.Fatal(err)
			}
		}
		run := func(remove bool) {
			m := planned(t, filepath.Join(dir, "php-fpm.conf"))
			edits, err := m.edits(remove)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, e := range edits {
				if err := e.apply(); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
		}
		compare := func(when string, want map[string]string) {
			for file, text := range before {
				if w, ok := want[file]; ok {
					text = w
				}
				got, err := os.ReadFile(filepath.Join(dir, file))
				for _, path := range statusPath.FindAllSubmatch(got, -1) {
					if when == "set up" && paths[string(path[1])] {
						t.Errorf("%s: two pools with %s", name, path[1])
					}
					paths[string(path[1])] = true
				}
				if err != nil || string(statusPath.ReplaceAll(got, []byte("pm.status_path = /mailquota-status-RANDOM"))) != text {
					t.Errorf("%s: %s %s: %v\n%s\nwant:\n%s", name, file, when, err, got, text)
				}
			}
		}
		run(false)
		compare("set up", want)
		run(false)
		compare("set up twice", want)
		run(true)
		compare("removed", nil)
		run(true)
		compare("removed twice", nil)
	}
}

// planned is a master of PHP 8.2 that does not run.
func planned(t *testing.T, config string) *fpmMaster {
	pools, err := origin.ReadPools(config)
	if err != nil {
		t.Fatal(err)
	}
	m := &fpmMaster{Config: config, Version: "8.2"}
	taken := make(map[string]bool)
	for _, p := range pools {
		taken[p.Options["listen"]], taken[p.Options["pm.status_listen"]] = true, true
	}
	for _, p := range pools {
		m.Pools = append(m.Pools, m.plan(&p, taken))
	}
	return m
}

func TestFPMPlan(t *testing.T) {
	for _, c := range []struct {
		name, version string
		options       map[string]string
		state, socket string
	}{
		{"a", "8.2", nil, poolNew, "/run/mailquota-fpm/8.2-a.sock"},
		{"a", "7.4", nil, poolLeft, ""},
		{"a", "10.0", nil, poolNew, "/run/mailquota-fpm/10.0-a.sock"},
		{"a", "8.2", map[string]string{"listen.mode": "0660"}, poolNew, "/run/mailquota-fpm/8.2-a.sock"},
		{"a", "8.2", map[string]string{"listen.mode": "0600"}, poolLeft, ""},
		{"a", "8.2", map[string]string{"listen.mode": "0600", "listen.acl_users": "www-data"}, poolNew, "/run/mailquota-fpm/8.2-a.sock"},
		{"a", "8.2", map[string]string{"listen.mode": "rw"}, poolLeft, ""},
		{"a", "8.2", map[string]string{"pm.status_listen": "127.0.0.1:9001"}, poolOwn, "127.0.0.1:9001"},
		{"a", "8.2", map[string]string{"pm.status_listen": "/run/mailquota-fpm/8.1-a.sock"}, poolSet, "/run/mailquota-fpm/8.1-a.sock"},
		{strings.Repeat("a", 100), "8.2", nil, poolLeft, ""},
		{"a/b", "8.2", nil, poolLeft, ""},
	} {
		m := &fpmMaster{Config: "/etc/php-fpm.conf", Version: c.version}
		p := m.plan(&origin.Pool{Name: c.name, Options: c.options}, map[string]bool{})
		if p.State != c.state || p.Socket != c.socket || (p.State == poolLeft) != (p.Why != "") {
			t.Errorf("%s, PHP %s, %v: %+v", c.name, c.version, c.options, p)
		}
	}
	// Two masters of one version have two sockets for pools of one name.
	taken := make(map[string]bool)
	a := (&fpmMaster{Config: "/a", Version: "8.2"}).plan(&origin.Pool{Name: "www"}, taken)
	b := (&fpmMaster{Config: "/b", Version: "8.2"}).plan(&origin.Pool{Name: "www"}, taken)
	if a.State != poolNew || b.State != poolNew || a.Socket == b.Socket || strings.Contains(b.listen, "www") {
		t.Errorf("%+v %+v", a, b)
	}
}

func TestForeignLineInBlock(t *testing.T) {
	for _, text := range []string{
		"[a]\n" + strings.Replace(fpmBlock("/run/mailquota-fpm/a", true), "; END", "user = x\n; END", 1),
		"[a]\n; BEGIN mailctl setup fpm\npm.status_path = /mailquota-status-A\n",
	} {
		if rest, n, err := withoutBlocks([]byte(text), ";", "fpm", ourFPMLine); err == nil {
			t.Errorf("%q: %q, %d", text, rest, n)
		}
	}
}

// TestReplaceFile: what is not the content stays.
func TestReplaceFile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	path, link := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 57, 48, 0, 0, 4, 0, 0, 0, 255, 255, 255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255}
	hasACL := unix.Setxattr(path, "system.posix_acl_access", acl, 0) == nil
	if err := os.Chown(path, 12, 34); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", link); err != nil {
		t.Fatal(err)
	}
	e, err := readEdit(link)
	if err != nil {
		t.Fatal(err)
	}
	e.after = []byte("new")
	for _, want := range []string{"new", "old"} {
		if want == "new" {
			err = e.apply()
		} else {
			err = e.undo()
		}
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Uid != 12 || st.Gid != 34 {
			t.Errorf("%s: %v, owner %d:%d", want, err, st.Uid, st.Gid)
		}
		got := make([]byte, 100)
		if n, err := unix.Getxattr(path, "system.posix_acl_access", got); hasACL && (err != nil || string(got[:n]) != string(acl)) {
			t.Errorf("%s: list %v, %v", want, got[:max(n, 0)], err)
		}
		if text, err := os.ReadFile(link); err != nil || string(text) != want {
			t.Errorf("%s: %q, %v", want, text, err)
		}
	}
	// What another has written since is not ours to undo.
	if err := e.apply(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := e.undo(); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(path); string(text) != "other" {
		t.Errorf("%q", text)
	}
}

func TestDiff(t *testing.T) {
	for _, c := range []struct{ before, after, want string }{
		{"a\nb\n", "a\nb\n", ""},
		{"1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\n5\nx\n6\n7\n8\n9\n", "@@ -3,6 +3,7 @@\n 3\n 4\n 5\n+x\n 6\n 7\n 8\n"},
		{"a\nb\n", "b\n", "@@ -1,2 +1,1 @@\n-a\n b\n"},
		{"a\n", "", "@@ -1,1 +0,0 @@\n-a\n"},
		{"1\n2\n3\n4\n5\n6\n7\n8\n9\n", "x\n2\n3\n4\n5\n6\n7\n8\ny\n", "@@ -1,4 +1,4 @@\n-1\n+x\n 2\n 3\n 4\n@@ -6,4 +6,4 @@\n 6\n 7\n 8\n-9\n+y\n"},
		{"1\n2\n3\n4\n5\n6\n", "x\n2\n3\n4\n5\ny\n6\n", "@@ -1,6 +1,7 @@\n-1\n+x\n 2\n 3\n 4\n 5\n+y\n 6\n"},
	} {
		e := &edit{path: "/f", before: []byte(c.before), after: []byte(c.after)}
		want := c.want
		if want != "" {
			want = "--- /f\n+++ /f\n" + want
		}
		if got := e.diff(); got != want {
			t.Errorf("%q → %q:\n%s", c.before, c.after, got)
		}
	}
}

func TestSetLine(t *testing.T) {
	for _, c := range []struct{ text, line, want string }{
		{"", "k = 1\n", "k = 1\n"},
		{"a = 1", "k = 1\n", "a = 1\nk = 1\n"},
		{"#k = 0\na = 1\n", "k = 1\n", "#k = 0\nk = 1\na = 1\n"},
		{"k = 0\n#k = 0\n", "k = 1\n", "k = 1\n#k = 0\n"},
		{"a = 1\nk = 0\nb = 1\n", "", "a = 1\nb = 1\n"},
		{"a = 1\n", "", "a = 1\n"},
	} {
		if got := string(setLine([]byte(c.text), "k", c.line)); got != c.want {
			t.Errorf("%q, %q: %q", c.text, c.line, got)
		}
	}
}

// TestFPMState: a socket of ours that is shut is a problem, no socket is a hint,
// another's is neither.
func TestFPMState(t *testing.T) {
	config := filepath.Join(t.TempDir(), "php-fpm.conf")
	text := "[a]\nuser=a\n[b]\npm.status_listen = /run/mailquota-fpm/b\n[c]\npm.status_listen = /run/mailquota-fpm/c\n[d]\npm.status_listen = /run/d\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	problems, hints := fpmState([]*fpmMaster{{Config: config}}, func(socket string) error {
		if strings.HasSuffix(socket, "c") {
			return nil
		}
		return os.ErrPermission
	})
	if len(problems) != 1 || !strings.Contains(problems[0], "status of 1 pools of php-fpm: pool b: permission denied") {
		t.Errorf("problems %q", problems)
	}
	if len(hints) != 1 || !strings.HasPrefix(hints[0], "1 pools of php-fpm do not tell") {
		t.Errorf("hints %q", hints)
	}
	if _, hints := fpmState([]*fpmMaster{{Config: config, Program: "/usr/sbin/php-fpm7.4"}}, func(string) error { return nil }); len(hints) != 0 {
		t.Errorf("PHP 7.4: hints %q", hints)
	}
}

func TestInstalledFPM(t *testing.T) {
	root := t.TempDir()
	for _, file := range []string{"/etc/php/8.2/fpm/php-fpm.conf", "/usr/sbin/php-fpm8.2", "/etc/php/8.3/fpm/php-fpm.conf",
		"/opt/cpanel/ea-php82/root/etc/php-fpm.conf", "/opt/cpanel/ea-php82/root/usr/sbin/php-fpm", "/etc/opt/remi/php81/php-fpm.conf",
		"/opt/remi/php81/root/usr/sbin/php-fpm", "/opt/plesk/php/8.1/etc/php-fpm.conf", "/opt/plesk/php/8.1/sbin/php-fpm"} {
		if err := os.MkdirAll(filepath.Dir(root+file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, m := range fpmMasters(root) {
		if m.PID == 0 && strings.HasPrefix(m.Config, root) {
			got = append(got, strings.TrimPrefix(m.Program, root))
		}
	}
	want := "/usr/sbin/php-fpm8.2 /opt/remi/php81/root/usr/sbin/php-fpm /opt/cpanel/ea-php82/root/usr/sbin/php-fpm /opt/plesk/php/8.1/sbin/php-fpm"
	if strings.Join(got, " ") != want {
		t.Errorf("%q", got)
	}
}

func TestHeaderCheck(t *testing.T) {
	if got := headerCheck("X-Mail-Trace"); got != "/^X-Mail-Trace: [0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/ INFO\n" {
		t.Error(got)
	}
	for setting, want := range map[string]string{"regexp:/etc/a": "/etc/a", "pcre:/etc/a": "/etc/a", "hash:/etc/a": "", "": "",
		"regexp:/etc/a, pcre:/etc/b": "", "regexp:/a regexp:/b": "", "pipemap:{pcre:/a}": "", "regexp:{{/a/ INFO}}": ""} {
		if got, _ := checksFile(setting); got != want {
			t.Errorf("%q: %q", setting, got)
		}
	}
}
