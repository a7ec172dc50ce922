package origin

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// What alice may name as she likes proves nothing.
func TestForgeries(t *testing.T) {
	h := newHost(t)
	forged := []hop{
		h.program("cron", alice, "/usr/sbin/CRON", "-f"),
		{Args: []string{"/usr/sbin/CRON", "-f"}, UID: alice, Name: "cron"},
		h.program("atd", alice, "atd"),
		h.program("apache2", alice, "/usr/sbin/apache2", "-k", "start"),
		h.program("php-fpm8.2", alice, "php-fpm: master process ("+h.dir+fpmConf+")"),
		{Args: []string{"php-fpm: pool bob1"}, UID: alice, Name: "php-fpm8.2"},
		h.program("php-fpm8.2", alice, "php-fpm: pool bob1"),
		// Her subordinate uids are hers too.
		h.program("cron", 1000005, "/usr/sbin/CRON", "-f"),
		h.program("php-fpm8.2", 1000005, "php-fpm: master process ("+h.dir+fpmConf+")"),
		// A program of root by another name, as sudo and su are when she names them.
		{Args: []string{"/usr/sbin/CRON", "-f"}, Name: "cron"},
		{Args: []string{"php-fpm: master process (" + h.dir + fpmConf + ")"}, Name: "php-fpm8.2"},
		h.program("mail", 0, "php-fpm: master process ("+h.dir+fpmConf+")"),
		h.program("anacron", alice, "/usr/sbin/anacron"),
		{Path: h.dir + "/usr/lib/postfix/sbin/local", Args: []string{"local", "-t", "unix"}, UID: alice},
		h.program("exim4", 1000005, "exim4", "-bd"),
		{Path: h.dir + "/usr/bin/sudo", Args: []string{"sudo", "-u", "alice"}, UID: alice, Name: "sudo"},
		// The uid of a login, where it has not been set, is what the process writes.
		{Args: []string{"/usr/sbin/CRON"}, UID: alice, Login: fmt.Sprint(bob)},
	}
	claims := Claims{
		PHPScript: "54322:passwd",
		Env: map[string]string{"SCRIPT_FILENAME": "/home/bob/x.php", "HTTP_HOST": "bob.example",
			"TRIGGER_UNIT": "backup.timer", "SUDO_USER": "bob", "DOCUMENT_ROOT": "/home/bob"},
	}
	for i, forgery := range forged {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			uid := forgery.UID
			if uid == 0 {
				uid = alice
			}
			got := find(t, h.finder, claims, forgery, as(uid, h.program("mail", uid, "sh", "-c", aliceLine)), sendmail)
			if got.UID != alice || got.User != "alice" {
				t.Errorf("caller %d %s, want alice", got.UID, got.User)
			}
			switch got.Kind {
			case Cron, Anacron, At, PHPFPM, ModPHP, Pipe, Systemd:
				t.Errorf("kind %s", got.Kind)
			}
			if got.KindProof != Claimed {
				t.Errorf("kind %s is %s", got.Kind, got.KindProof)
			}
			for name, f := range got.Facts() {
				if f.Proof > Claimed {
					t.Errorf("%s %q is %s", name, f.Value, f.Proof)
				}
			}
			if got.Crontab != (Fact{}) {
				t.Errorf("crontab %q of no cron", got.Crontab.Value)
			}
		})
	}
}

func TestRootIsNeverProved(t *testing.T) {
	h := newHost(t)
	got := find(t, h.finder, Claims{}, h.cron(), h.program("mail", 0), sendmail)
	if got.Kind != Cron || got.KindProof != Claimed || got.Crontab.Proof != Claimed || got.User != "root" {
		t.Errorf("root below a process of root: %+v", got)
	}
}

func TestRangeOfRootStays(t *testing.T) {
	h := newHost(t)
	if got := find(t, h.finder, Claims{}, h.program("mail", 2000007), sendmail); got.UID != 2000007 || got.User != "#2000007" {
		t.Errorf("a container's uid is %d %s", got.UID, got.User)
	}
}

// A caller that has ended, reaped or not, leaves its uid and nothing else.
func TestCallerGone(t *testing.T) {
	h := newHost(t)
	want := Origin{UID: alice, User: "alice", Kind: Unknown}
	for _, when := range []string{"before PeerOf", "zombie after PeerOf", "reaped after PeerOf"} {
		t.Run(when, func(t *testing.T) {
			c, cmd := start(t, hop{Args: []string{"sendmail"}, UID: alice})
			fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			end := func(reap bool) {
				cmd.Process.Kill()
				if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err != nil {
					t.Fatal(err)
				}
				if reap {
					cmd.Wait()
				}
			}
			if when == "before PeerOf" {
				end(true)
			}
			p, err := PeerOf(c)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if when != "before PeerOf" {
				end(when == "reaped after PeerOf")
			}
			if p.Alive() {
				t.Error("Alive is true")
			}
			if got := h.finder.Find(p, Claims{}); !cmp.Equal(got, want) {
				t.Errorf("origin %+v, want %+v", got, want)
			}
		})
	}
}

// Kernels before 6.5 give no pidfd of the peer; one is opened by its pid.
func TestOpenByNumber(t *testing.T) {
	h := newHost(t)
	_, cmd := start(t, h.program("mail", alice))
	p := &Peer{PID: cmd.Process.Pid, UID: alice, pidfd: -1}
	p.openByNumber()
	defer p.Close()
	if !p.known() {
		t.Error("a running process is not known")
	}
	other := &Peer{PID: cmd.Process.Pid, UID: bob, pidfd: -1}
	other.openByNumber()
	defer other.Close()
	if other.known() || other.Alive() {
		t.Error("a process of another user passes as the peer")
	}
}

// The daemon runs as a system user: with two capabilities it knows as much as
// root, without them less, and it never fails.
func TestPrivileges(t *testing.T) {
	h := newHost(t)
	tests := []struct {
		name string
		caps []uintptr
		want Origin
	}{
		{"with capabilities", []uintptr{unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH}, Origin{Kind: Cron, KindProof: System}},
		{"without", nil, Origin{Kind: Program, KindProof: Claimed}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir, err := os.MkdirTemp(filepath.Dir(self), "daemon")
			if err == nil {
				err = os.Chmod(dir, 0o777)
			}
			if err != nil {
				t.Fatal(err)
			}
			daemon := exec.Command(self)
			daemon.Env = []string{daemonVar + "=" + h.dir, socketVar + "=" + dir + "/s"}
			daemon.Stderr = os.Stderr
			daemon.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: test.caps}
			out, err := daemon.StdoutPipe()
			if err == nil {
				err = daemon.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			ready := make([]byte, len("ready\n"))
			if _, err := io.ReadFull(out, ready); err != nil {
				t.Fatal(err)
			}
			t.Setenv(socketVar, dir+"/s")
			chain := startable([]hop{h.cron(), h.program("mail", alice, "mail"), sendmail})
			if err := chain.Start(); err != nil {
				t.Fatal(err)
			}
			var got Origin
			if err := json.NewDecoder(out).Decode(&got); err != nil {
				t.Error(err)
			}
			if err := daemon.Wait(); err != nil {
				t.Error(err)
			}
			if err := chain.Wait(); err != nil {
				t.Error(err)
			}
			test.want.UID, test.want.User = alice, "alice"
			got.Crontab, got.Chain = Fact{}, nil
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("origin (-want +got):\n%s", diff)
			}
		})
	}
}
