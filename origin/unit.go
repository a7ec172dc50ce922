package origin

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// unit is the unit of systemd that a control group is, or lies in.
type unit struct {
	name  string // of the system's manager: "cron.service", "session-4.scope"; "" if there is none
	below string // path of the control group below it, which whoever runs the unit may have named
}

// unitOf finds the unit in the path of a control group: its first part that is no
// slice. Only root makes units and slices of the system's manager; groups below a
// unit can be its user's, who names them as he likes (user@UID.service, and all
// with Delegate=, systemd.resource-control(5)).
func unitOf(path string) unit {
	rest, ok := strings.CutPrefix(path, "/")
	for ok && rest != "" {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		switch {
		case strings.HasSuffix(part, ".slice"):
		case strings.HasSuffix(part, ".service"), strings.HasSuffix(part, ".scope"):
			// A name that means something else in a control group gets a "_" (cgroup-util.c, cg_escape).
			return unit{name: strings.TrimPrefix(part, "_"), below: rest}
		default:
			return unit{}
		}
	}
	return unit{}
}

// ofUser reports whether the unit is the manager of a user's own units.
func (u unit) ofUser() bool {
	return strings.HasPrefix(u.name, "user@") && strings.HasSuffix(u.name, ".service")
}

// service says what kind of service a unit is.
func (u unit) service() service {
	name, isService := strings.CutSuffix(u.name, ".service")
	if !isService || u.ofUser() {
		return noService
	}
	name, _, _ = strings.Cut(name, "@")
	switch name {
	case "cron", "crond", "cronie":
		return cronService
	case "anacron":
		return anacronService
	case "atd":
		return atService
	case "apache2", "httpd", "lighttpd", "lsws", "lshttpd":
		return webService
	case "fcgiwrap":
		return cgiService
	case "postfix", "exim", "exim4", "sendmail", "opensmtpd", "smtpd", "dovecot":
		return mailService
	case "ssh", "sshd", "dropbear", "getty", "serial-getty", "console-getty", "container-getty":
		return loginService
	}
	if strings.Contains(name, "php") && strings.HasSuffix(name, "fpm") {
		return fpmService
	}
	return systemdService
}

// unit returns the fact. What lies below a user's manager is named by him.
func (c *call) unit(u unit) Fact {
	switch {
	case u.name == "":
		return Fact{}
	case u.ofUser() && u.below != "":
		value := u.name + "/" + u.below
		if timer := c.claims.Env["TRIGGER_UNIT"]; strings.HasSuffix(timer, ".timer") {
			value += " (" + timer + ")"
		}
		return Fact{Value: value, Proof: Claimed}
	}
	if u.service() == systemdService {
		if timer := c.finder.timers.of(u.name); timer != "" {
			return Fact{Value: u.name + " (" + timer + ")", Proof: System}
		}
	}
	return Fact{Value: u.name, Proof: Kernel}
}

// session returns whose login session a control group is
// (/user.slice/user-UID.slice/session-ID.scope, systemd-logind.service(8)).
func sessionUID(path string) (uint32, bool) {
	rest, ok := strings.CutPrefix(path, "/user.slice/user-")
	if !ok {
		return 0, false
	}
	number, rest, ok := strings.Cut(rest, ".slice/session-")
	if !ok {
		return 0, false
	}
	scope, _, _ := strings.Cut(rest, "/")
	uid, valid := parseUID(number)
	return uid, valid && strings.HasSuffix(scope, ".scope")
}

// Where units of the system's manager are, the first of a name counts
// (systemd.unit(5), "Unit File Load Path").
var unitDirs = []string{
	"/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient", "/run/systemd/generator.early",
	"/etc/systemd/system", "/run/systemd/system", "/run/systemd/generator",
	"/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system", "/run/systemd/generator.late",
}

const (
	maxUnitFile  = 64 << 10        // bytes
	timerRecheck = 5 * time.Second // look at the files again after this
	cachedTimers = 4096
)

// timers finds the timer of the same name that starts a service.
type timers struct {
	root string // before every path; "" but in tests

	mu    sync.Mutex
	known map[string]timerOf // by the service's name
}

type timerOf struct {
	name    string // "" if there is none
	checked time.Time
}

// of returns the timer of a service's own name that starts it, "" if there is
// none. The environment's TRIGGER_UNIT is not asked: it is the caller's, and where
// a service has two timers systemd 252 names the wrong one.
func (t *timers) of(service string) string {
	t.mu.Lock()
	k, ok := t.known[service]
	t.mu.Unlock()
	if ok && time.Since(k.checked) < timerRecheck {
		return k.name
	}
	base := strings.TrimSuffix(service, ".service")
	names := []string{base + ".timer"}
	if template, _, isInstance := strings.Cut(base, "@"); isInstance {
		names = append(names, template+"@.timer")
	}
	found := timerOf{checked: time.Now()}
	for _, file := range names {
		if t.starts(file, service) {
			found.name = names[0]
			break
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil || len(t.known) >= cachedTimers {
		t.known = make(map[string]timerOf)
	}
	t.known[service] = found
	return found.name
}

// starts reports whether there is a timer's file, and neither it nor what is
// dropped in beside it names another unit than the service.
func (t *timers) starts(file, service string) bool {
	there := false
	for _, dir := range unitDirs {
		path := t.root + dir + "/" + file
		if _, err := os.Lstat(path); err == nil && !there {
			if there = true; !t.agrees(path, service) {
				return false
			}
		}
		dropIns, _ := filepath.Glob(path + ".d/*.conf")
		for _, path := range dropIns {
			if !t.agrees(path, service) {
				return false
			}
		}
	}
	return there
}

func (t *timers) agrees(path, service string) bool {
	text, st, err := readRegular(path, maxUnitFile) // a masked unit is a link to /dev/null: an error
	if err != nil {
		return false
	}
	sys := st.Sys().(*syscall.Stat_t)
	if sys.Uid != 0 || sys.Mode&0o022 != 0 {
		return false
	}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, "=")
		if value = strings.TrimSpace(value); strings.TrimSpace(key) == "Unit" && value != "" && value != service {
			return false
		}
	}
	return true
}
