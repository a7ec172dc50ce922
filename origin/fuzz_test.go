package origin

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzProc(f *testing.F) {
	f.Add([]byte(statLine(") R 1 (")))
	f.Add([]byte("Name:\tx\nPPid:\t7\nUid:\t1\t0\t0\t1\n"))
	f.Add([]byte("9:memory:/\n0::/user.slice/user-1001.slice/session-3.scope\n"))
	f.Add([]byte("php\x00-d\x00a=b\x00x.php\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if st, ok := parseStat(b); ok && (st.ppid < 0 || !strings.Contains(string(b), "("+st.comm+")")) {
			t.Errorf("parseStat(%q) = %+v", b, st)
		}
		if st, ok := parseStatus(b); ok && st.ppid < 0 {
			t.Errorf("parseStatus(%q) = %+v", b, st)
		}
		path := parseCgroup(b)
		u := unitOf(path)
		if u.name != "" && !strings.HasPrefix(path, "/") || u.service() != noService && !strings.HasSuffix(u.name, ".service") {
			t.Errorf("unit of %q is %+v", path, u)
		}
		if _, ok := sessionUID(path); ok && u.service() != noService {
			t.Errorf("%q is a session and a service", path)
		}
		if name := containerOf(path); name != "" && u.ofUser() {
			t.Errorf("%q is the container %q, as a user says", path, name)
		}
		for _, arg := range parseCmdline(b) {
			if strings.Contains(arg, "\x00") {
				t.Errorf("parseCmdline(%q) has an argument %q", b, arg)
			}
		}
	})
}

func FuzzScriptOf(f *testing.F) {
	f.Add("php\x00-qd\x00a=b\x00-f\x00x.php")
	f.Add("bash\x00+o\x00x\x00--rcfile=a\x00-c\x00y")
	f.Add("perl\x00-MFoo\x00-I\x00lib\x00x.pl")
	f.Add("node\x00--eval\x001")
	f.Add("python3\x00-W")
	f.Add("busybox")
	f.Fuzz(func(t *testing.T, text string) {
		args := strings.Split(text, "\x00")
		for _, lang := range []language{noLanguage, langPHP, langPHPCGI, langShell, langOther} {
			script, inline := scriptOf(lang, args)
			if inline && script != "" || !strings.Contains(text, strings.TrimPrefix(script, moduleFlag)) {
				t.Errorf("scriptOf(%d, %q) = %q, %v", lang, args, script, inline)
			}
		}
		base := scriptBase(text)
		if strings.ContainsAny(base, "/\x00") || base == ".." || !strings.Contains(text, base) {
			t.Errorf("scriptBase(%q) = %q", text, base)
		}
	})
}

func FuzzCrontab(f *testing.F) {
	f.Add("A=B\n* * * * * echo \\% \\\\ %in\n@reboot x\n\"q\" = 1\n", false)
	f.Add("17 * * * * root run-parts /etc\n@daily bob", true)
	f.Add("'", false)
	f.Fuzz(func(t *testing.T, text string, system bool) {
		lines := strings.Split(text, "\n")
		for _, job := range parseCrontab("f", text, system) {
			if job.line < 1 || job.line > len(lines) || !strings.Contains(lines[job.line-1], job.command) {
				t.Errorf("parseCrontab(%q) = %+v", text, job)
			}
			if strings.Join(strings.Fields(job.schedule), " ") != job.schedule && !strings.ContainsAny(job.schedule, "\v\f\r\u0085\u00a0") {
				t.Errorf("parseCrontab(%q) has the schedule %q", text, job.schedule)
			}
			if system == (job.user == "") || !job.runs(unescapePercent(job.command, true)) {
				t.Errorf("parseCrontab(%q) = %+v", text, job)
			}
		}
	})
}

func FuzzAnacrontab(f *testing.F) {
	f.Add("SHELL=/bin/sh\n1\t5\tcron.daily\trun-parts --report /etc/cron.daily\n")
	f.Add("@monthly 15 a \\\n b\\\n\n# x\\\n1 2 3 4")
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Split(text, "\n")
		for _, job := range parseAnacrontab("f", text) {
			if job.line < 1 || job.line > len(lines) || job.command == "" || !job.runs(job.command) {
				t.Errorf("parseAnacrontab(%q) = %+v", text, job)
			}
		}
	})
}

func FuzzFPMConfig(f *testing.F) {
	f.Add("[global]\ninclude=/a\n[p]\nuser = \"x;\" ; c\n[$pool]\nuser=$pool")
	f.Add("[p]\nuser='\ninclude=rel")
	f.Fuzz(func(t *testing.T, text string) {
		c := fpmConfig{current: -1}
		c.read = func(string) (string, error) { return text, nil }
		c.glob = func(p string) ([]string, error) { return nil, errors.New("none") }
		_ = c.load("/x", 0)
		seen := map[string]bool{}
		for _, p := range c.pools {
			if p.name == "" || seen[p.name] || strings.EqualFold(p.name, "global") {
				t.Errorf("pools of %q: %+v", text, c.pools)
			}
			seen[p.name] = true
		}
	})
}

func FuzzSubuid(f *testing.F) {
	f.Add("alice:x:1001:1::/:/\n", "alice:100000:65536\n1002:4294967295:2\n")
	f.Add("root:x:0:0", "root:1:1\n0:1:1")
	f.Fuzz(func(t *testing.T, passwd, subuid string) {
		names, uids, _ := parsePasswd(passwd)
		for name := range uids {
			if name == "" {
				t.Errorf("parsePasswd(%q) has an empty name", passwd)
			}
		}
		for uid, name := range names {
			if _, ok := uids[name]; !ok {
				t.Errorf("parsePasswd(%q): uid %d is %q, who is nobody", passwd, uid, name)
			}
		}
		for _, r := range parseSubuid(subuid, uids) {
			if r.owner < firstUser || r.count == 0 {
				t.Errorf("parseSubuid(%q) = %+v", subuid, r)
			}
		}
	})
}

func FuzzClean(f *testing.F) {
	f.Add("a\xff\x00b")
	f.Add(strings.Repeat("é", maxValue))
	f.Fuzz(func(t *testing.T, value string) {
		c := call{origin: Origin{Script: Fact{value, Claimed}}}
		c.clean()
		if got := c.origin.Script.Value; !utf8.ValidString(got) || strings.Contains(got, "\x00") || len(got) > 3*maxValue {
			t.Errorf("clean(%q) = %q", value, got)
		}
	})
}
