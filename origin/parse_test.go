package origin

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func statLine(comm string) string {
	return "42 (" + comm + ") S 7 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 12345 1000 1 18446744073709551615\n"
}

func TestParseStat(t *testing.T) {
	for _, comm := range []string{"sh", "a b", ") S 1 1", "x) R 99 (", "", "line\nend"} {
		got, ok := parseStat([]byte(statLine(comm)))
		if want := (statFields{comm: comm, ppid: 7, start: 12345}); !ok || got != want {
			t.Errorf("parseStat with name %q = %v, %v, want %v", comm, got, ok, want)
		}
	}
	for _, text := range []string{"", "42", "42 (sh", ") (", "42 (sh) S", "42 (sh) S x" + strings.Repeat(" 1", 30), "42 (sh) S -1" + strings.Repeat(" 1", 30)} {
		if got, ok := parseStat([]byte(text)); ok {
			t.Errorf("parseStat(%q) = %v, want none", text, got)
		}
	}
}

func TestParseStatus(t *testing.T) {
	tests := []struct {
		text string
		want identity
		ok   bool
	}{
		{"Name:\tsh\nPPid:\t7\nUid:\t1001\t0\t0\t1001\nGid:\t1\t1\t1\t1\n", identity{7, uids{1001, 0, 0, 1001}}, true},
		{"Name:\tx\\nUid:\\t0\nPPid:\t0\nUid:\t1\t2\t3\t4294967295\n", identity{0, uids{1, 2, 3, 4294967295}}, true},
		{"PPid:\t7\nUid:\t1\t1\t1\t1\nUid:\t0\t0\t0\t0\n", identity{}, false},
		{"PPid:\t7\nPPid:\t8\nUid:\t1\t1\t1\t1\n", identity{}, false},
		{"PPid:\t7\nUid:\t1\t1\t1\n", identity{}, false},
		{"PPid:\t7\nUid:\t1\t1\t1\tx\n", identity{}, false},
		{"PPid:\t-7\nUid:\t1\t1\t1\t1\n", identity{}, false},
		{"PPid:\t7\n", identity{}, false},
		{"", identity{}, false},
	}
	for _, test := range tests {
		got, ok := parseStatus([]byte(test.text))
		if ok != test.ok || ok && got != test.want {
			t.Errorf("parseStatus(%q) = %v, %v, want %v, %v", test.text, got, ok, test.want, test.ok)
		}
	}
}

func TestSubuid(t *testing.T) {
	names, uids, full := parsePasswd("root:x:0:0:root:/root:/bin/sh\nalice:x:1001:1001:& A,room 5,,:/home/alice:/bin/sh\nalias:x:1001:1001:Alias:/:/\n" +
		"alice:x:1002:1:::\n#off:x:5:5::/:/\n+::::::\nbad:x:y:1::/:\nbob:x:1003:1003::/home/bob:/bin/sh\nshort:x:9\n")
	if diff := cmp.Diff(map[uint32]string{0: "root", 1001: "Alice A", 1002: "", 1003: ""}, full); diff != "" {
		t.Errorf("full names of passwd (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[uint32]string{0: "root", 1001: "alice", 1002: "alice", 1003: "bob"}, names); diff != "" {
		t.Errorf("names of passwd (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]uint32{"root": 0, "alice": 1001, "alias": 1001, "bob": 1003}, uids); diff != "" {
		t.Errorf("uids of passwd (-want +got):\n%s", diff)
	}
	// root's range is left out: a container's processes must not be root here.
	got := parseSubuid("alice:100000:65536\nroot:165536:65536\n1003:300000:10\nnobody-known:1:1\n\nbob:x:1\nbob:1\nbob:400000:0\n12:500000:5\n", uids)
	want := []uidRange{{1001, 100000, 65536}, {1003, 300000, 10}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(uidRange{})); diff != "" {
		t.Errorf("parseSubuid (-want +got):\n%s", diff)
	}
}

func TestParseCrontab(t *testing.T) {
	const text = `# comment
MAILTO=alice
 SHELL = /bin/bash
"QUOTED NAME" = x
NOT a job
*/5 * * * * php /home/alice/a.php
  0 4	* * 1-5   tar c . | sendmail bob@b.example%line one%line two
@reboot /home/alice/start A=B
0 0 1 1 * date +\%F > x
@daily
1 2 3 4 5
* * * * * X=1 run`
	want := []cronJob{
		{file: "f", line: 6, schedule: "*/5 * * * *", command: "php /home/alice/a.php"},
		{file: "f", line: 7, schedule: "0 4 * * 1-5", command: "tar c . | sendmail bob@b.example"},
		{file: "f", line: 8, schedule: "@reboot", command: "/home/alice/start A=B"},
		{file: "f", line: 9, schedule: "0 0 1 1 *", command: `date +\%F > x`},
		{file: "f", line: 12, schedule: "* * * * *", command: "X=1 run"},
	}
	if diff := cmp.Diff(want, parseCrontab("f", text, false), cmp.AllowUnexported(cronJob{})); diff != "" {
		t.Errorf("parseCrontab (-want +got):\n%s", diff)
	}
	if got, want := want[3].String(), "f:9 0 0 1 1 * date +%F > x"; got != want {
		t.Errorf("String = %q, want %q", got, want)
	}
	system := parseCrontab("f", "17 *\t* * *\troot    cd / && run-parts /etc/cron.hourly\n@hourly bob x\n* * * * * alice\n", true)
	want = []cronJob{
		{file: "f", line: 1, schedule: "17 * * * *", user: "root", command: "cd / && run-parts /etc/cron.hourly"},
		{file: "f", line: 2, schedule: "@hourly", user: "bob", command: "x"},
	}
	if diff := cmp.Diff(want, system, cmp.AllowUnexported(cronJob{})); diff != "" {
		t.Errorf("parseCrontab of a system file (-want +got):\n%s", diff)
	}
}

func TestJobRuns(t *testing.T) {
	tests := []struct{ line, command string }{
		{`echo a\\b`, `echo a\\b`}, // both readings of a doubled backslash
		{`echo a\\b`, `echo a\b`},
		{`echo 100\%`, `echo 100%`},
		{`echo \x\`, `echo \x\`},
		{`echo hi `, `echo hi `},
		{`echo hi`, ` echo hi`}, // of "* * * * * root  echo hi"
	}
	for _, test := range tests {
		if job := (cronJob{command: test.line}); !job.runs(test.command) {
			t.Errorf("job %q does not run %q", test.line, test.command)
		}
	}
	job := cronJob{command: "php  -q /x.php a"}
	if !job.becomes([]string{"php", "-q", "/x.php", "a"}) || job.becomes([]string{"php", "/x.php"}) || job.runs("php -q /x.php a") {
		t.Error("a job that replaced its shell is not told by its arguments")
	}
}

func TestFPMConfig(t *testing.T) {
	files := map[string]string{
		"/e/fpm.conf":   "; comment\n[global]\nuser = ignored\npid = /run/x\ninclude=/e/pool.d/*.conf\n[last]\nuser = carol ; note\n",
		"/e/pool.d/a":   "[alice1]\nuser = \"alice\"\nlisten = x\n[$odd]\nuser=$pool\n",
		"/e/pool.d/b":   "\n[ bob ]\nuser= 1003\nphp_admin_value[user] = x\n[nouser]\ngroup=x\n[alice1]\nuser = 'al;ice'\n",
		"/e/loop.conf":  "[a]\ninclude=/e/loop.conf\n",
		"/e/rel.conf":   "[a]\ninclude=pool.d/*.conf\n",
		"/e/gone.conf":  "include=/gone/*.conf\n[a]\nuser=x",
		"/e/empty.conf": "[a\n[]\n=\nuser=x\n",
	}
	load := func(path string) ([]fpmPool, error) {
		c := fpmConfig{current: -1}
		c.read = func(p string) (string, error) {
			if text, ok := files[p]; ok {
				return text, nil
			}
			return "", errors.New("no such file")
		}
		c.glob = func(p string) ([]string, error) {
			switch p {
			case "/e/pool.d/*.conf":
				return []string{"/e/pool.d/a", "/e/pool.d/b"}, nil
			case "/gone/*.conf":
				return nil, nil
			}
			return []string{p}, nil
		}
		err := c.load(path, 0)
		return c.pools, err
	}
	tests := []struct {
		path string
		want []fpmPool
		ok   bool
	}{
		{"/e/fpm.conf", []fpmPool{{name: "alice1", user: "al;ice", listen: "x"}, {name: "$odd", user: "$odd"}, {name: "bob", user: "1003"}, {name: "nouser"}, {name: "last", user: "carol"}}, true},
		{"/e/gone.conf", []fpmPool{{name: "a", user: "x"}}, true},
		{"/e/empty.conf", nil, true},
		{"/e/loop.conf", nil, false},
		{"/e/rel.conf", nil, false},
		{"/nowhere", nil, false},
	}
	for _, test := range tests {
		got, err := load(test.path)
		if (err == nil) != test.ok {
			t.Errorf("load(%s): error %v, want ok %v", test.path, err, test.ok)
		} else if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(fpmPool{})); test.ok && diff != "" {
			t.Errorf("load(%s) (-want +got):\n%s", test.path, diff)
		}
	}
}

func TestScriptOf(t *testing.T) {
	tests := []struct {
		args   string
		script string
		inline bool
	}{
		{"php x.php", "x.php", false},
		{"php8.2 -q -d a=b -c /etc/php.ini ../x.php -r y", "../x.php", false},
		{"php -dmemory_limit=1 -n -f x.php", "x.php", false},
		{"php -fx.php y", "x.php", false},
		{"php --file=x.php y", "x.php", false},
		{"php --define a=b x.php", "x.php", false},
		{"php -r mail(); x.php", "", true},
		{"php --run mail();", "", true},
		{"php -S localhost:80 -t /www router.php", "router.php", false},
		{"php -nq -- -x.php", "-x.php", false},
		{"php -", "", false},
		{"php", "", false},
		{"php -d", "", false},
		{"/bin/sh /home/a/job arg", "/home/a/job", false},
		{"sh -c x", "", true},
		{"sh -ec x", "", true},
		{"bash -x +o posix -o errexit s.sh", "s.sh", false},
		{"bash --rcfile f --norc s.sh", "s.sh", false},
		{"-bash", "", false},
		{"busybox sh s.sh", "s.sh", false},
		{"perl -w -MFoo -I lib x.pl", "x.pl", false},
		{"perl -ne print x", "", true},
		{"perl -i.e x.pl", "x.pl", false},
		{"python3.11 -u -W ignore x.py", "x.py", false},
		{"python3 -m http.server x.py", "-m http.server", false},
		{"python3 -Im news", "-m news", false},
		{"python3 --check-hash-based-pycs always -E x.py", "x.py", false},
		{"python3 -c pass x.py", "", true},
		{"perl -wT -CSD x.pl", "x.pl", false},
		{"perl -w -- x.pl", "x.pl", false},
		{"node --max-old-space-size=99 --flag x.js arg", "x.js", false},
		{"node --env-file .env --inspect x.js", "x.js", false},
		{"node --env-file=.env -r a x.js", "x.js", false},
		{"node -i x.js", "", false},
		{"bash -s x.sh", "", false},
		{"sh -es -- x.sh", "", false},
		{"ruby -rjson x.rb", "x.rb", false},
		{"node --require a x.js", "x.js", false},
		{"nodejs -e 1", "", true},
	}
	for _, test := range tests {
		args := strings.Split(test.args, " ")
		script, inline := scriptOf(languageOf(args[0]), args)
		if script != test.script || inline != test.inline {
			t.Errorf("scriptOf(%q) = %q, %v, want %q, %v", test.args, script, inline, test.script, test.inline)
		}
	}
	for program, want := range map[string]language{
		"/usr/bin/php8.2": langPHP, "/usr/sbin/php-fpm8.2": noLanguage, "/usr/bin/php-cgi8.2": langPHPCGI, "-zsh": langShell,
		"/usr/bin/dash": langShell, "python3": langOther, "mail": noLanguage, "phpmyadmin": noLanguage, "": noLanguage,
	} {
		if got := languageOf(program); got != want {
			t.Errorf("languageOf(%q) = %d, want %d", program, got, want)
		}
	}
}

func TestScriptBase(t *testing.T) {
	for field, want := range map[string]string{
		"1001:mail.php":                    "mail.php",
		" 33:a b.php\n":                    "a b.php",
		"1001:eval.php(2) : eval()'d code": "eval.php",
		"1001:eval.php(3) : eval()'d code(1) : eval()'d code": "eval.php",
		"1001:odd(1).php":                  "odd(1).php",
		"1001:../../etc/passwd":            "",
		"1001:..":                          "",
		"mail.php":                         "",
		"x:mail.php":                       "",
		"":                                 "",
		"1001:":                            "",
		"1001: : eval()'d code":            " : eval()'d code", // not a form of PHP: kept as a name
		"1001:" + strings.Repeat("x", 256): "",
	} {
		if got := scriptBase(field); got != want {
			t.Errorf("scriptBase(%q) = %q, want %q", field, got, want)
		}
	}
}

// Any command that a crontab can hold comes back from the line that holds it.
func TestCrontabRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		command := rapid.StringMatching(`[a-z/][ -\[\]-~]{0,40}`).Draw(t, "command")
		blank := rapid.SampledFrom([]string{" ", "\t", "  \t"}).Draw(t, "blank")
		when := rapid.SampledFrom([]string{"@daily", strings.Join([]string{"*", "1-2", "*/3", "Jan", "0"}, blank)}).Draw(t, "when")
		line := when + blank + strings.ReplaceAll(command, "%", `\%`)
		if rapid.Bool().Draw(t, "input") {
			line += "%standard%input"
		}
		jobs := parseCrontab("f", "A=B\n"+line+"\n", false)
		if len(jobs) != 1 || !jobs[0].runs(command) || jobs[0].line != 2 {
			t.Fatalf("parseCrontab(%q) = %v, want the command %q", line, jobs, command)
		}
		schedule := strings.Join(strings.Fields(when), " ")
		if want := fmt.Sprintf("f:2 %s %s", schedule, command); jobs[0].String() != want {
			t.Fatalf("String = %q, want %q", jobs[0].String(), want)
		}
	})
}
