package origin

import (
	"os"
	"testing"
	"time"
)

func TestUnits(t *testing.T) {
	const id = "3f0c1a2b4c5d6e7f3f0c1a2b4c5d6e7f3f0c1a2b4c5d6e7f3f0c1a2b4c5d6e7f"
	tests := []struct {
		text      string
		service   service
		unit      Fact
		session   uint32 // 0: none
		container string
	}{
		{"0::/system.slice/cron.service\n", cronService, Fact{"cron.service", Kernel}, 0, ""},
		{"9:memory:/\n1:name=systemd:/\n0::/system.slice/cron.service\n", cronService, Fact{"cron.service", Kernel}, 0, ""},
		{"2:cpu:/x\n1:name=systemd:/system.slice/crond.service\n", cronService, Fact{"crond.service", Kernel}, 0, ""},
		{"0::/system.slice/anacron.service\n", anacronService, Fact{"anacron.service", Kernel}, 0, ""},
		{"0::/system.slice/atd.service\n", atService, Fact{"atd.service", Kernel}, 0, ""},
		{"0::/system.slice/php8.2-fpm.service\n", fpmService, Fact{"php8.2-fpm.service", Kernel}, 0, ""},
		{"0::/system.slice/plesk-php82-fpm.service\n", fpmService, Fact{"plesk-php82-fpm.service", Kernel}, 0, ""},
		{"0::/system.slice/system-php\\x2dfpm.slice/php-fpm@alice.service\n", fpmService, Fact{"php-fpm@alice.service", Kernel}, 0, ""},
		{"0::/web.slice/web-a.slice/php-fpm.service\n", fpmService, Fact{"php-fpm.service", Kernel}, 0, ""},
		{"0::/system.slice/apache2.service\n", webService, Fact{"apache2.service", Kernel}, 0, ""},
		{"0::/system.slice/httpd.service/sub\n", webService, Fact{"httpd.service", Kernel}, 0, ""},
		{"0::/system.slice/fcgiwrap.service\n", cgiService, Fact{"fcgiwrap.service", Kernel}, 0, ""},
		{"0::/system.slice/system-postfix.slice/postfix@-.service\n", mailService, Fact{"postfix@-.service", Kernel}, 0, ""},
		{"0::/system.slice/exim4.service\n", mailService, Fact{"exim4.service", Kernel}, 0, ""},
		{"0::/system.slice/ssh.service\n", loginService, Fact{"ssh.service", Kernel}, 0, ""},
		{"0::/system.slice/system-getty.slice/getty@tty1.service\n", loginService, Fact{"getty@tty1.service", Kernel}, 0, ""},
		{"0::/system.slice/backup.service\n", systemdService, Fact{"backup.service", Kernel}, 0, ""},
		{"0::/system.slice/_cpu.service\n", systemdService, Fact{"cpu.service", Kernel}, 0, ""},
		{"0::/system.slice/run-u6.service\n", systemdService, Fact{"run-u6.service", Kernel}, 0, ""},
		{"0::/system.slice/system-foo.slice/foo@bar.service\n", systemdService, Fact{"foo@bar.service", Kernel}, 0, ""},
		{"0::/system.slice/run-r1.scope\n", noService, Fact{"run-r1.scope", Kernel}, 0, ""},
		{"0::/init.scope\n", noService, Fact{"init.scope", Kernel}, 0, ""},
		// A user names units of his own manager, and groups below a unit of his, as he likes.
		{"0::/user.slice/user-1001.slice/user@1001.service/app.slice/cron.service\n", noService,
			Fact{"user@1001.service/app.slice/cron.service", Claimed}, 0, ""},
		{"0::/user.slice/user-1001.slice/user@1001.service/system.slice/docker-" + id + ".scope\n", noService,
			Fact{"user@1001.service/system.slice/docker-" + id + ".scope", Claimed}, 0, ""},
		{"0::/user.slice/user-1001.slice/user@1001.service\n", noService, Fact{"user@1001.service", Kernel}, 0, ""},
		{"0::/system.slice/a.service/cron.service\n", systemdService, Fact{"a.service", Kernel}, 0, ""},
		{"0::/system.slice/a.service/docker-" + id + ".scope\n", systemdService, Fact{"a.service", Kernel}, 0, ""},
		{"0::/system.slice/x/cron.service\n", noService, Fact{}, 0, ""},
		{"0::/../cron.service\n", noService, Fact{}, 0, ""},
		{"5:pids:/a:name=systemd:/system.slice/cron.service\n", noService, Fact{}, 0, ""},
		{"", noService, Fact{}, 0, ""},
		{"0::/\n", noService, Fact{}, 0, ""},
		{"0::/user.slice/user-1001.slice/session-3.scope\n", noService, Fact{"session-3.scope", Kernel}, 1001, ""},
		{"0::/user.slice/user-1001.slice/session-c12.scope/sub\n", noService, Fact{"session-c12.scope", Kernel}, 1001, ""},
		{"0::/user.slice/user-1001.slice/user@1001.service/session-3.scope\n", noService, Fact{"user@1001.service/session-3.scope", Claimed}, 0, ""},
		{"0::/user.slice/user-x.slice/session-3.scope\n", noService, Fact{"session-3.scope", Kernel}, 0, ""},
		{"0::/system.slice/docker-" + id + ".scope\n", noService, Fact{"docker-" + id + ".scope", Kernel}, 0, "docker 3f0c1a2b4c5d"},
		{"0::/system.slice/docker-" + id + ".scope/system.slice/cron.service\n", noService, Fact{"docker-" + id + ".scope", Kernel}, 0, "docker 3f0c1a2b4c5d"},
		{"0::/machine.slice/libpod-" + id + ".scope/container\n", noService, Fact{"libpod-" + id + ".scope", Kernel}, 0, "podman 3f0c1a2b4c5d"},
		{"0::/machine.slice/libpod-conmon-" + id + ".scope\n", noService, Fact{"libpod-conmon-" + id + ".scope", Kernel}, 0, ""},
		{"0::/kubepods.slice/kubepods-pod1.slice/crio-" + id + ".scope\n", noService, Fact{"crio-" + id + ".scope", Kernel}, 0, "cri-o 3f0c1a2b4c5d"},
		{`0::/machine.slice/machine-web\x2d1.scope/payload` + "\n", noService, Fact{`machine-web\x2d1.scope`, Kernel}, 0, "machine web-1"},
		{"0::/machine.slice/systemd-nspawn@web.service/payload\n", systemdService, Fact{"systemd-nspawn@web.service", Kernel}, 0, "machine web"},
		{"0::/lxc.payload.web/system.slice/cron.service\n", noService, Fact{}, 0, "lxc web"},
		{"0::/lxc/web/init\n", noService, Fact{}, 0, "lxc web"},
		{"0::/docker/" + id + "\n", noService, Fact{}, 0, "docker 3f0c1a2b4c5d"},
		{"0::/kubepods/burstable/pod1/" + id + "\n", noService, Fact{}, 0, "kubernetes 3f0c1a2b4c5d"},
		{"0::/docker\n", noService, Fact{}, 0, ""},
	}
	c := call{finder: newFinder(t.TempDir())}
	for _, test := range tests {
		path := parseCgroup([]byte(test.text))
		u := unitOf(path)
		if got := u.service(); got != test.service {
			t.Errorf("service of %q = %d, want %d", test.text, got, test.service)
		}
		if got := c.unit(u); got != test.unit {
			t.Errorf("unit of %q = %q %s, want %q %s", test.text, got.Value, got.Proof, test.unit.Value, test.unit.Proof)
		}
		if uid, ok := sessionUID(path); ok != (test.session != 0) || ok && uid != test.session {
			t.Errorf("session of %q = %d, %v, want %d", test.text, uid, ok, test.session)
		}
		if got := containerOf(path); got != test.container {
			t.Errorf("container of %q = %q, want %q", test.text, got, test.container)
		}
	}
}

// A timer counts if it is root's, has the name of the service, and starts no other.
func TestTimers(t *testing.T) {
	root := t.TempDir()
	etc, run, lib := root+"/etc/systemd/system/", root+"/run/systemd/transient/", root+"/usr/lib/systemd/system/"
	write(t, etc+"backup.timer", "[Timer]\nOnCalendar=daily\n", 0o644, 0)
	write(t, run+"run-r1.timer", "", 0o644, 0)
	write(t, etc+"foo@.timer", "[Timer]\nUnit=\n", 0o644, 0)
	write(t, etc+"other.timer", "[Timer]\n Unit = real.service\n", 0o644, 0)
	write(t, etc+"same.timer", "[Timer]\nUnit=same.service\n", 0o644, 0)
	write(t, lib+"dropped.timer", "[Timer]\n", 0o644, 0)
	write(t, etc+"dropped.timer.d/x.conf", "[Timer]\nUnit=real.service\n", 0o644, 0)
	write(t, lib+"masked.timer", "[Timer]\n", 0o644, 0)
	if err := os.Symlink("/dev/null", etc+"masked.timer"); err != nil {
		t.Fatal(err)
	}
	write(t, etc+"open.timer", "", 0o666, 0)
	write(t, etc+"hers.timer", "", 0o644, alice)
	timers := timers{root: root}
	for service, want := range map[string]string{
		"backup.service": "backup.timer", "run-r1.service": "run-r1.timer", "foo@bar.service": "foo@bar.timer", "same.service": "same.timer",
		"other.service": "", "real.service": "", "dropped.service": "", "masked.service": "", "open.service": "", "hers.service": "", "none.service": "",
	} {
		if got := timers.of(service); got != want {
			t.Errorf("timer of %s is %q, want %q", service, got, want)
		}
	}
	// What was found is kept for a while.
	if err := os.Remove(etc + "backup.timer"); err != nil {
		t.Fatal(err)
	}
	if got := timers.of("backup.service"); got != "backup.timer" {
		t.Errorf("files are looked at in each call: %q", got)
	}
	k := timers.known["backup.service"]
	k.checked = time.Now().Add(-time.Minute)
	timers.known["backup.service"] = k
	if got := timers.of("backup.service"); got != "" {
		t.Errorf("the timer that was removed is still %q", got)
	}
}

// The unit of a service with a timer is as sure as the file; TRIGGER_UNIT is the
// caller's word, and told of his own units only.
func TestUnitWithTimer(t *testing.T) {
	f := newFinder(t.TempDir())
	write(t, f.root+"/etc/systemd/system/backup.timer", "", 0o644, 0)
	c := call{finder: f, claims: Claims{Env: map[string]string{"TRIGGER_UNIT": "forged.timer"}}}
	for path, want := range map[string]Fact{
		"/system.slice/backup.service":                                      {"backup.service (backup.timer)", System},
		"/system.slice/x.service":                                           {"x.service", Kernel},
		"/user.slice/user-1001.slice/user@1001.service/app.slice/x.service": {"user@1001.service/app.slice/x.service (forged.timer)", Claimed},
	} {
		if got := c.unit(unitOf(path)); got != want {
			t.Errorf("unit of %s: %q %s, want %q %s", path, got.Value, got.Proof, want.Value, want.Proof)
		}
	}
}

// What kind a control group makes of a caller who has nothing above him.
func TestKindsOfUnits(t *testing.T) {
	tests := []struct {
		cgroup string
		kind   Kind
		proof  Proof
	}{
		{"/system.slice/cron.service", Cron, Kernel},
		{"/system.slice/anacron.service", Anacron, Kernel},
		{"/system.slice/system-postfix.slice/postfix@-.service", Pipe, Kernel},
		{"/system.slice/backup.service", Systemd, Kernel},
		{"/system.slice/ssh.service", Shell, Kernel},
		{"/user.slice/user-54321.slice/session-1.scope", Shell, Kernel},
		{"/user.slice/user-54322.slice/session-1.scope", Unknown, 0}, // another's session
		{"/user.slice/user-54321.slice/user@54321.service/app.slice/cron.service", Systemd, Claimed},
		{"/user.slice/user-54321.slice/user@54321.service/session-1.scope", Unknown, 0},
		{"/", Unknown, 0},
	}
	for _, test := range tests {
		self := openProcess(os.Getpid())
		if self == nil {
			t.Fatal("this process is not in /proc")
		}
		c := call{finder: newFinder(t.TempDir()), users: new(userTable), chain: []*process{self}, own: 1, origin: Origin{UID: alice}}
		c.describeIn(test.cgroup)
		self.close()
		if c.origin.Kind != test.kind || c.origin.KindProof != test.proof {
			t.Errorf("called in %s: %s %s, want %s %s", test.cgroup, c.origin.Kind, c.origin.KindProof, test.kind, test.proof)
		}
	}
}
