package origin

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const (
	aliceLine = "php -q /home/alice/news.php"
	bobLine   = "/home/bob/one"
	fpmConf   = "/etc/php/fpm.conf"
)

// host is a root directory with what a Finder reads, and with this binary as
// cron, atd, apache2 and php-fpm. Alice has one cron job, bob two; alice has one
// pool of FPM, bob two.
type host struct {
	dir    string
	finder *Finder
}

var testHost = sync.OnceValues(func() (*host, error) {
	h := &host{dir: filepath.Dir(self) + "/host"}
	h.finder = newFinder(h.dir)
	h.finder.cgroup = "/"
	files := map[string]string{
		"/etc/passwd":                     "root:x:0:0::/:/\ndaemon:x:1:1::/:/\npostfix:x:102:102::/:/\nwww-data:x:33:33::/:/\nalice:x:54321:1::/:/\nbob:x:54322:1::/:/\n",
		"/etc/subuid":                     "alice:1000000:65536\nroot:2000000:65536\n",
		"/etc/crontab":                    "# system\n* * * * * root cd / && su bob\n0 0 * * * bob " + bobLine + "\n",
		"/etc/cron.d/x":                   "SHELL=/bin/sh\n@daily www-data true\n",
		"/var/spool/cron/crontabs/alice":  "MAILTO=x\n\n*/5 * * * * " + aliceLine + "\n",
		"/var/spool/cron/crontabs/bob":    "@hourly /home/bob/two\n",
		"/var/spool/cron/crontabs/nobody": "",
		anacrontab:                        "SHELL=/bin/sh\n1\t5\tdaily\t" + next + "\n@monthly 15 rest\\\n true\n",
		fpmConf:                           "[global]\ninclude=" + h.dir + "/etc/php/pool.d/*.conf\n",
		"/etc/php/pool.d/alice.conf":      "[a.example]\nuser = alice\n",
		"/etc/php/pool.d/bob.conf":        "[bob1]\nuser = bob\n[bob2]\nuser = 54322\n",
		"/home/web/mail.php":              "<?php\n",
		"/home/alice/news.php":            "<?php\n",
	}
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(h.dir+name), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(h.dir+name, []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	for name, uid := range map[string]int{"alice": alice, "bob": bob} {
		if err := os.Chown(h.dir+"/var/spool/cron/crontabs/"+name, uid, uid); err != nil {
			return nil, err
		}
	}
	for _, program := range []string{
		"/usr/sbin/cron", "/usr/sbin/anacron", "/usr/sbin/atd", "/usr/sbin/apache2", "/usr/sbin/php-fpm8.2", "/usr/sbin/php-cgi8.2",
		"/usr/sbin/php8.2", "/usr/sbin/mail", "/usr/sbin/perl", "/usr/sbin/python3", "/usr/sbin/timeout", "/usr/sbin/exim4",
		"/usr/bin/su", "/usr/bin/sudo", "/usr/lib/postfix/sbin/local", "/usr/lib/postfix/sbin/qmgr",
	} {
		err := os.MkdirAll(filepath.Dir(h.dir+program), 0o755)
		if err == nil {
			err = os.Link(self, h.dir+program)
		}
		if err != nil {
			return nil, err
		}
	}
	// Crontabs count as what cron had read only when they are older than this.
	time.Sleep(crontabSlack + 100*time.Millisecond)
	return h, nil
})

func newHost(t testing.TB) *host {
	t.Helper()
	h, err := testHost()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// program is a hop that is one of the host's executables.
func (h *host) program(name string, uid int, args ...string) hop {
	if len(args) == 0 {
		args = []string{name}
	}
	return hop{Path: h.dir + "/usr/sbin/" + name, Args: args, UID: uid}
}

// other is program for one that is not in /usr/sbin, with the uids of a process
// of root's that has changed them.
func (h *host) other(path string, real, effective, saved int, args ...string) hop {
	if len(args) == 0 {
		args = []string{filepath.Base(path)}
	}
	return hop{Path: h.dir + path, Args: args, UIDs: []int{real, effective, saved}}
}

func (h *host) cron() hop   { return h.program("cron", 0, "/usr/sbin/CRON", "-f") }
func (h *host) apache() hop { return h.program("apache2", 0) }
func (h *host) fpm() hop {
	return h.program("php-fpm8.2", 0, "php-fpm: master process ("+h.dir+fpmConf+")")
}

func as(uid int, hop hop) hop {
	hop.UID = uid
	return hop
}

// in starts a program in a directory.
func in(dir string, hop hop) hop {
	hop.Dir = dir
	return hop
}

var sendmail = hop{Args: []string{"sendmail", "-t", "-i"}}

func TestFind(t *testing.T) {
	h := newHost(t)
	spool, crontab := "/var/spool/cron/crontabs/", "/etc/crontab"
	home := h.dir + "/home/alice"
	claim := func(s string) Fact { return Fact{s, Claimed} }
	system := func(s string) Fact { return Fact{s, System} }
	tests := []struct {
		name   string
		claims Claims
		hops   []hop
		want   Origin // UID 0 means alice's
	}{
		{"cron, the only job", Claims{}, []hop{h.cron(), h.program("mail", alice, "sh", "-c", aliceLine), sendmail},
			Origin{Kind: Cron, KindProof: System, Crontab: system(spool + "alice:3 */5 * * * * " + aliceLine)}},
		{"cron, not the only job", Claims{}, []hop{h.cron(), h.program("mail", alice, "sh", "-c", "something else"), sendmail},
			Origin{Kind: Cron, KindProof: System, Crontab: claim("something else")}},
		{"cron's own mail about the only job", Claims{}, []hop{h.cron(), as(alice, hop{Args: []string{"/usr/sbin/sendmail", "-FCronDaemon"}})},
			Origin{Kind: Cron, KindProof: System, Crontab: system(spool + "alice:3 */5 * * * * " + aliceLine)}},
		{"cron's own mail about one of two", Claims{}, []hop{h.cron(), as(bob, hop{Args: []string{"/usr/sbin/sendmail", "-FCronDaemon"}})},
			Origin{UID: bob, Kind: Cron, KindProof: System}},
		{"cron, a shell that became the only job", Claims{},
			[]hop{h.cron(), as(alice, h.program("php8.2", alice, "php", "-q", "/home/alice/news.php")), sh("-c", next), sendmail},
			Origin{Kind: Cron, KindProof: System, Crontab: system(spool + "alice:3 */5 * * * * " + aliceLine), Script: claim("/home/alice/news.php")}},
		{"cron, one of two jobs", Claims{}, []hop{h.cron(), h.program("mail", bob, "sh", "-c", bobLine), sendmail},
			Origin{UID: bob, Kind: Cron, KindProof: System, Crontab: claim(crontab + ":3 0 0 * * * " + bobLine)}},
		{"cron, no line matches", Claims{}, []hop{h.cron(), as(alice, sh("-c", next)), sendmail},
			Origin{Kind: Cron, KindProof: System, Crontab: claim(next)}},
		{"cron, root's job that became bob", Claims{}, []hop{h.cron(), sh("-c", next), h.program("mail", 0), as(bob, sendmail)},
			Origin{UID: bob, Kind: Cron, KindProof: System, Crontab: system(next)}},
		{"cron, bob's job that became alice", Claims{}, []hop{h.cron(), h.program("mail", 0, "mail"), as(alice, sendmail)},
			Origin{Kind: Cron, KindProof: System, Crontab: claim("mail")}},
		{"at job", Claims{}, []hop{h.program("atd", 0), h.program("mail", alice), sendmail}, Origin{Kind: At, KindProof: System}},
		{"fpm, the only pool", Claims{PHPScript: "1001:mail.php"},
			[]hop{h.fpm(), in(h.dir+"/home/web", h.program("php-fpm8.2", alice, "php-fpm: pool bob1")), sh("-c", next), sendmail},
			Origin{Kind: PHPFPM, KindProof: System, Site: system("a.example"), Script: claim(h.dir + "/home/web/mail.php")}},
		{"fpm, one of two pools", Claims{PHPScript: "1001:mail.php"},
			[]hop{h.fpm(), in("/", h.program("php-fpm8.2", bob, "php-fpm: pool bob2")), sendmail},
			Origin{UID: bob, Kind: PHPFPM, KindProof: System, Site: claim("bob2"), Script: claim("mail.php")}},
		{"fpm, another's pool", Claims{}, []hop{h.fpm(), h.program("php-fpm8.2", bob, "php-fpm: pool a.example"), sendmail},
			Origin{UID: bob, Kind: PHPFPM, KindProof: System}},
		{"fpm, a program of its own", Claims{},
			[]hop{h.fpm(), h.program("php-fpm8.2", alice, "php-fpm: pool a.example"), in(home, h.program("php8.2", alice, "php", "./news.php")), sendmail},
			Origin{Kind: PHPFPM, KindProof: System, Site: system("a.example"), Script: claim(home + "/news.php")}},
		{"fpm, sudo to another", Claims{},
			[]hop{h.fpm(), h.program("php-fpm8.2", 0, "php-fpm: pool a.example"), as(bob, sendmail)},
			Origin{UID: bob, Kind: PHPFPM, KindProof: System}},
		{"mod_php", Claims{PHPScript: "54321:mail.php", Env: map[string]string{"HTTP_HOST": "A.Example:8080"}},
			[]hop{h.apache(), in(h.dir+"/home/web", h.program("apache2", 33)), sh("-c", next), sendmail},
			Origin{UID: 33, Kind: ModPHP, KindProof: System, Site: claim("a.example"), Script: claim(h.dir + "/home/web/mail.php")}},
		{"cgi without suexec", Claims{Env: map[string]string{"GATEWAY_INTERFACE": "CGI/1.1", "SCRIPT_FILENAME": "/x/y.cgi"}},
			[]hop{h.apache(), h.program("apache2", 33), h.program("mail", 33), sendmail},
			Origin{UID: 33, Kind: CGI, KindProof: System, Script: claim("/x/y.cgi")}},
		{"suexec, php-cgi", Claims{Env: map[string]string{"SCRIPT_FILENAME": "/x/y.php", "SERVER_NAME": "a.example"}},
			[]hop{h.apache(), h.program("mail", 0), h.program("php-cgi8.2", alice), sendmail},
			Origin{Kind: PHPCGI, KindProof: System, Site: claim("a.example"), Script: claim("/x/y.php")}},
		{"suexec, perl", Claims{}, []hop{h.apache(), h.program("mail", 0), h.program("perl", alice, "perl", "/x/y.pl"), sendmail},
			Origin{Kind: CGI, KindProof: System, Script: claim("/x/y.pl")}},
		{"php-cli", Claims{}, []hop{in(home, h.program("php8.2", alice, "php", "-d", "a=b", "../alice/news.php")), sh("-c", next), sendmail},
			Origin{Kind: PHPCLI, KindProof: Claimed, Script: claim(home + "/news.php")}},
		{"php -r", Claims{}, []hop{h.program("php8.2", alice, "php", "-r", "mail();"), sendmail}, Origin{Kind: PHPCLI, KindProof: Claimed}},
		{"another program", Claims{}, []hop{h.program("mail", alice), sendmail}, Origin{Kind: Program, KindProof: Claimed}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.want.UID == 0 {
				test.want.UID = alice
			}
			test.want.User = map[uint32]string{alice: "alice", bob: "bob", 33: "www-data"}[test.want.UID]
			if diff := cmp.Diff(test.want, find(t, h.finder, test.claims, test.hops...)); diff != "" {
				t.Errorf("origin (-want +got):\n%s", diff)
			}
		})
	}
}

// A detached process has lost its chain: nothing above it can be read.
func TestOrphan(t *testing.T) {
	h := newHost(t)
	orphan := hop{Args: []string{"sendmail"}, Orphan: true}
	got := find(t, h.finder, Claims{}, h.cron(), h.program("mail", alice), h.program("mail", alice), orphan)
	if want := (Origin{UID: alice, User: "alice", Kind: Unknown}); !cmp.Equal(got, want) {
		t.Errorf("orphan: %+v, want %+v", got, want)
	}
}

// A real shell between, as popen(3) starts it, and one that runs a script.
func TestShells(t *testing.T) {
	h := newHost(t)
	script, outer := h.dir+"/home/alice/job.sh", h.dir+"/home/alice/outer.sh"
	for path, text := range map[string]string{script: next, outer: "/bin/sh -c '" + next + "'; true"} {
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		hops []hop
		want Origin
	}{
		{"script", []hop{in(h.dir+"/home", as(alice, sh("alice/job.sh"))), sendmail},
			Origin{Kind: Shell, KindProof: Claimed, Script: Fact{script, Claimed}}},
		{"script below atd", []hop{h.program("atd", 0), as(alice, sh(script)), sendmail},
			Origin{Kind: At, KindProof: System, Script: Fact{script, Claimed}}},
		{"command", []hop{as(alice, sh("-c", next)), sendmail}, Origin{Kind: Shell, KindProof: Claimed}},
		{"script whose popen made a shell", []hop{as(alice, sh(outer)), sendmail},
			Origin{Kind: Shell, KindProof: Claimed, Script: Fact{outer, Claimed}}},
		{"php-cgi below suexec", []hop{h.apache(), h.program("php-cgi8.2", alice), sh("-c", next), sendmail},
			Origin{Kind: PHPCGI, KindProof: System}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.want.UID, test.want.User = alice, "alice"
			if diff := cmp.Diff(test.want, find(t, h.finder, Claims{}, test.hops...)); diff != "" {
				t.Errorf("origin (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLongArguments(t *testing.T) {
	h := newHost(t)
	got := find(t, h.finder, Claims{}, h.program("php8.2", alice, "php", "/"+strings.Repeat("x", 50_000)), sendmail)
	if n := len(got.Script.Value); n != maxValue {
		t.Errorf("a script's name of 50 kB became %d bytes", n)
	}
}

func TestUserOf(t *testing.T) {
	dir := t.TempDir()
	passwd := "root:x:0:0::/:/bin/sh\ntoor:x:0:0::/:/bin/sh\nalice:x:1001:1001::/:/bin/sh\nalice:x:7:7::/:/bin/sh\n"
	if err := os.MkdirAll(dir+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/etc/passwd", []byte(passwd), 0o644); err != nil {
		t.Fatal(err)
	}
	f := newFinder(dir)
	for _, c := range []struct {
		login, name string // "": none
		uid         uint32
	}{{"root", "root", 0}, {"toor", "root", 0}, {"alice", "alice", 1001}, {"Alice", "", 0}, {"1001", "", 0}, {"#1001", "", 0}, {"", "", 0}} {
		if uid, name, known := f.UserOf(c.login); uid != c.uid || name != c.name || known != (c.name != "") {
			t.Errorf("%q: %d, %q, %v", c.login, uid, name, known)
		}
	}
}

func TestClean(t *testing.T) {
	c := call{origin: Origin{Script: Fact{"/a\xff\x00b", Claimed}, Site: Fact{"", Claimed}}}
	c.clean()
	if want := (Fact{"/a\ufffd\ufffdb", Claimed}); c.origin.Script != want || c.origin.Site != (Fact{}) {
		t.Errorf("clean made %q and %v", c.origin.Script.Value, c.origin.Site)
	}
}

func BenchmarkFind(b *testing.B) {
	h := newHost(b)
	c, _ := start(b, h.cron(), h.program("php8.2", alice, "php", "-q", "/home/alice/news.php"), h.program("mail", alice, "sh", "-c", "x"), sendmail)
	p, err := PeerOf(c)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	reportCPU(b, func() {
		if o := h.finder.Find(p, Claims{}); o.Kind != Cron || o.Crontab.Proof != System {
			b.Fatalf("origin %+v", o)
		}
	})
}

// reportCPU measures a call. On a machine that others use too, the time of the processor
// tells more.
func reportCPU(b *testing.B, call func()) {
	var before, after unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &before)
	for b.Loop() {
		call()
	}
	unix.Getrusage(unix.RUSAGE_SELF, &after)
	cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/op")
}
