package origin

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestKinds(t *testing.T) {
	h := newHost(t)
	home := h.dir + "/home/alice"
	write(t, home+"/mod.py", "", 0o644, alice)
	write(t, home+"/own/tool", "", 0o755, alice)
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	write(t, home+"/own/tool", string(program), 0o755, alice)
	claim := func(s string) Fact { return Fact{s, Claimed} }
	system := func(s string) Fact { return Fact{s, System} }
	anacron := h.program("anacron", 0, "/usr/sbin/anacron", "-d", "-q", "-s")
	local := h.other("/usr/lib/postfix/sbin/local", 0, 102, 0)
	mail := h.program("mail", alice)
	su := h.other("/usr/bin/su", 0, 0, 0)
	sudo := h.other("/usr/bin/sudo", bob, 0, 0)
	tests := []struct {
		name   string
		claims Claims
		hops   []hop
		want   Origin // of alice
	}{
		{"anacron, a job of root that became alice", Claims{}, []hop{anacron, sh("-c", next), h.program("mail", 0), as(alice, sendmail)},
			Origin{Kind: Anacron, KindProof: System, Crontab: system(anacrontab + ":2 1 5 daily " + next)}},
		{"anacron, no line matches", Claims{}, []hop{anacron, h.program("mail", 0, "sh", "-c", "other"), as(alice, sendmail)},
			Origin{Kind: Anacron, KindProof: System, Crontab: claim("other")}},
		{"anacron below cron", Claims{}, []hop{h.cron(), anacron, sh("-c", next), h.program("mail", 0), as(alice, sendmail)},
			Origin{Kind: Anacron, KindProof: System, Crontab: system(anacrontab + ":2 1 5 daily " + next)}},
		{"cron below anacron", Claims{}, []hop{anacron, h.cron(), h.program("mail", alice, "sh", "-c", "x"), sendmail},
			Origin{Kind: Cron, KindProof: System, Crontab: claim("x")}},
		{"local(8)", Claims{}, []hop{local, h.program("perl", alice, "perl", "/x/y.pl"), sendmail},
			Origin{Kind: Pipe, KindProof: System, Script: claim("/x/y.pl")}},
		{"another of Postfix", Claims{}, []hop{h.other("/usr/lib/postfix/sbin/qmgr", 0, 0, 0), mail, sendmail}, Origin{Kind: Program, KindProof: Claimed}},
		{"local(8), the uid of another than postfix", Claims{}, []hop{h.other("/usr/lib/postfix/sbin/local", 0, bob, 0), mail, sendmail},
			Origin{Kind: Program, KindProof: Claimed}},
		{"Exim", Claims{}, []hop{h.program("exim4", 0), h.program("exim4", alice), h.program("mail", alice), sendmail},
			Origin{Kind: Pipe, KindProof: System}},
		{"Exim that alice called", Claims{}, []hop{h.other("/usr/sbin/exim4", alice, 0, 0), mail, sendmail}, Origin{Kind: Program, KindProof: Claimed}},
		{"root's script that became alice", Claims{}, []hop{h.cron(), h.program("perl", 0, "perl", "-w", "/root/job"), su, as(alice, sendmail)},
			Origin{Kind: Cron, KindProof: System, Script: system("/root/job"), Crontab: claim("perl -w /root/job"), Login: system("root")}},
		{"bob's script that became alice", Claims{}, []hop{h.cron(), h.program("perl", bob, "perl", "-w", "/root/job"), sendmail},
			Origin{UID: bob, User: "bob", Kind: Cron, KindProof: System, Script: claim("/root/job"), Crontab: claim("perl -w /root/job")}},
		{"sudo", Claims{Env: map[string]string{"SUDO_USER": "root"}}, []hop{sudo, mail, sendmail},
			Origin{Kind: Program, KindProof: Claimed, Login: system("bob")}},
		{"sudo su", Claims{}, []hop{sudo, su, mail, sendmail}, Origin{Kind: Program, KindProof: Claimed, Login: system("bob")}},
		{"su by root", Claims{}, []hop{su, mail, sendmail}, Origin{Kind: Program, KindProof: Claimed, Login: system("root")}},
		{"su of alice to alice", Claims{}, []hop{sudo, h.other("/usr/bin/su", alice, 0, 0), mail, sendmail},
			Origin{Kind: Program, KindProof: Claimed, Login: system("bob")}},
		{"sudo above cron", Claims{}, []hop{sudo, h.cron(), h.program("mail", alice, "sh", "-c", "x"), sendmail},
			Origin{Kind: Cron, KindProof: System, Crontab: claim("x")}},
		{"another setuid program", Claims{}, []hop{h.other("/usr/sbin/mail", bob, 0, 0), mail, sendmail}, Origin{Kind: Program, KindProof: Claimed}},
		{"SUDO_USER alone", Claims{Env: map[string]string{"SUDO_USER": "bob"}}, []hop{mail, sendmail},
			Origin{Kind: Program, KindProof: Claimed, Login: claim("bob")}},
		{"SUDO_USER, herself", Claims{Env: map[string]string{"SUDO_USER": "alice"}}, []hop{mail, sendmail}, Origin{Kind: Program, KindProof: Claimed}},
		{"python -m", Claims{}, []hop{in(home, h.program("python3", alice, "python3", "-m", "mod")), sendmail},
			Origin{Kind: Program, KindProof: Claimed, Script: claim(home + "/mod.py")}},
		{"python -m of a package", Claims{}, []hop{in(home, h.program("python3", alice, "python3", "-um", "http.server")), sendmail},
			Origin{Kind: Program, KindProof: Claimed, Script: claim("-m http.server")}},
		{"below timeout", Claims{}, []hop{h.program("perl", alice, "perl", "/x.pl"), h.program("timeout", alice), sendmail},
			Origin{Kind: Program, KindProof: Claimed, Script: claim("/x.pl")}},
		{"program of her own", Claims{}, []hop{{Path: home + "/own/tool", Args: []string{"sshd"}, UID: alice}, sendmail},
			Origin{Kind: Program, KindProof: Claimed, Script: claim(home + "/own/tool")}},
		{"user namespace", Claims{}, []hop{mail, {Args: []string{"sendmail"}, UID: alice, UserNS: true}},
			Origin{Kind: Program, KindProof: Claimed, Container: Fact{"user namespace", Kernel}}},
		{"user namespace below FPM", Claims{}, []hop{h.fpm(), h.program("php-fpm8.2", alice, "php-fpm: pool x"), {Args: []string{"x"}, UID: alice, UserNS: true}},
			Origin{Kind: PHPFPM, KindProof: System, Site: system("a.example"), Container: Fact{"user namespace", Kernel}}},
		{"pid namespace", Claims{}, []hop{{Args: []string{"x"}, UID: alice, PIDNS: true}, sendmail},
			Origin{Kind: Program, KindProof: Claimed, Container: Fact{"pid namespace", Kernel}}},
		{"cron of a container's root", Claims{}, []hop{{Path: h.cron().Path, Args: h.cron().Args, PIDNS: true}, h.program("mail", alice, "sh", "-c", aliceLine), sendmail},
			Origin{Kind: Cron, KindProof: Claimed, Container: Fact{"pid namespace", Kernel}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.want.UID == 0 {
				test.want.UID, test.want.User = alice, "alice"
			}
			if diff := cmp.Diff(test.want, find(t, h.finder, test.claims, test.hops...)); diff != "" {
				t.Errorf("origin (-want +got):\n%s", diff)
			}
		})
	}
}

// The chain is told nearest first, up to the daemon, with the uids of each.
func TestChain(t *testing.T) {
	h := newHost(t)
	got := findAll(t, h.finder, Claims{}, h.cron(), h.other("/usr/bin/sudo", bob, 0, 0), h.program("mail", alice), sendmail)
	want := []Process{
		{UID: alice, EUID: alice, Program: self},
		{UID: alice, EUID: alice, Program: h.dir + "/usr/sbin/mail"},
		{UID: bob, EUID: 0, Program: h.dir + "/usr/bin/sudo"},
		{UID: 0, EUID: 0, Program: h.dir + "/usr/sbin/cron"},
	}
	for i := range got.Chain {
		if got.Chain[i].PID <= 0 {
			t.Errorf("process %d has the pid %d", i, got.Chain[i].PID)
		}
		got.Chain[i].PID = 0
	}
	if diff := cmp.Diff(want, got.Chain); diff != "" {
		t.Errorf("chain (-want +got):\n%s", diff)
	}
	nested := h.dir + "/home/alice/nested.sh"
	write(t, nested, "[ $1 = 0 ] || { /bin/sh $0 $(($1 - 1)); exit; }\n"+next+"\n", 0o755, alice)
	if got := findAll(t, h.finder, Claims{}, sh(nested, strconv.Itoa(MaxChain)), as(alice, sendmail)); len(got.Chain) != MaxChain {
		t.Errorf("of a chain longer than %d %d processes are told", MaxChain, len(got.Chain))
	}
}

// The interpreters of Debian, not one that only root may run.
const interpreters = "/usr/bin:/bin:/usr/local/bin"

func lookPath(name string) (path string, err error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(interpreters) {
		if path, err = exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}

// Real interpreters, as they are started, and what /proc shows of them then; PHP and
// Node in tests/t-15-callers.
func TestInterpreters(t *testing.T) {
	h := newHost(t)
	dir := h.dir + "/home/alice/real"
	lines := map[string]string{
		"x.pl": `system("$ENV{` + selfVar + `}")`,
		"x.py": "import os, subprocess\nsubprocess.run([os.environ['" + selfVar + "']])\n",
		"x.sh": next,
		"s.pl": "#!/usr/bin/perl -w\nsystem(\"$ENV{" + selfVar + "}\")",
		"s.py": "#!/usr/bin/env -S python3 -u\nimport os, subprocess\nsubprocess.run([os.environ['" + selfVar + "']])\n",
		"s.sh": "#!/bin/sh -e\n" + next,
	}
	for name, text := range lines {
		write(t, dir+"/"+name, text, 0o755, alice)
	}
	if err := os.Symlink("real/s.sh", h.dir+"/home/alice/link"); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		command string // in /home/alice
		kind    Kind
		script  string
	}{
		{"perl -w real/x.pl", Program, "x.pl"},
		{"perl -Mstrict -I lib ./real/x.pl a b", Program, "x.pl"},
		{"python3 -u real/x.py", Program, "x.py"},
		{"python3 -W ignore real/../real/x.py", Program, "x.py"},
		{"real/s.pl", Program, "s.pl"},
		{"real/s.py", Program, "s.py"},
		{"real/s.sh", Shell, "s.sh"},
		{"./link", Shell, "s.sh"},
		{"sh -e link", Shell, "s.sh"},
		{"bash --norc real/x.sh", Shell, "x.sh"},
		{"perl -w <x.pl", Program, "x.pl"},
		{"sh -s a <x.sh", Shell, "x.sh"},
	}
	for _, test := range tests {
		t.Run(test.command, func(t *testing.T) {
			command, input, piped := strings.Cut(test.command, " <")
			if piped {
				input = dir + "/" + input
			}
			args := strings.Fields(command)
			path, err := lookPath(args[0])
			if err != nil {
				t.Fatal(err) // tests/deps installs them
			}
			got := find(t, h.finder, Claims{}, hop{Path: path, Args: args, UID: alice, Dir: h.dir + "/home/alice", Input: input, Foreign: true}, sendmail)
			if got.Kind != test.kind || got.Script != (Fact{dir + "/" + test.script, Claimed}) {
				t.Errorf("%s %q %s, want %s %q", got.Kind, got.Script.Value, got.Script.Proof, test.kind, test.script)
			}
		})
	}
}

// A caller that is stopped while he is looked at, and one whose pid is another's
// by now.
func TestStoppedAndReused(t *testing.T) {
	h := newHost(t)
	c, _ := start(t, h.cron(), h.program("mail", alice, "sh", "-c", aliceLine), sendmail)
	p, err := PeerOf(c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := syscall.Kill(p.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if got := h.finder.Find(p, Claims{}); got.Kind != Cron || got.UID != alice || got.Crontab.Proof != System {
		t.Errorf("a stopped caller: %+v", got)
	}
	if err := syscall.Kill(p.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}

	conn, cmd := start(t, hop{Args: []string{"sendmail"}, UID: bob})
	ended, err := PeerOf(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer ended.Close()
	cmd.Process.Kill()
	cmd.Wait()
	ended.PID = p.PID // as if the kernel had given it to alice's process
	if diff := cmp.Diff(Origin{UID: bob, User: "bob", Kind: Unknown}, h.finder.Find(ended, Claims{})); diff != "" {
		t.Errorf("an ended caller with another's pid (-want +got):\n%s", diff)
	}
}

// su and cron by other names: what counts is the file that runs.
func TestLinkedNames(t *testing.T) {
	h := newHost(t)
	for name, target := range map[string]string{"cron": "/usr/bin/su", "sudo": "/usr/sbin/mail", "php-fpm8.2": "/usr/bin/sudo"} {
		link := filepath.Join(t.TempDir(), name)
		if err := os.Symlink(h.dir+target, link); err != nil {
			t.Fatal(err)
		}
		forged := hop{Path: link, Args: []string{"php-fpm: master process (" + h.dir + fpmConf + ")"}, Name: name, UIDs: []int{alice, 0, 0}}
		got := find(t, h.finder, Claims{}, forged, h.program("mail", alice, "sh", "-c", aliceLine), sendmail)
		if diff := cmp.Diff(Origin{UID: alice, User: "alice", Kind: Program, KindProof: Claimed}, got); diff != "" {
			t.Errorf("%s by the name of %s (-want +got):\n%s", target, name, diff)
		}
	}
}
