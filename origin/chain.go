package origin

import (
	"path/filepath"
	"slices"
	"strings"
)

// readChain opens a process and its ancestors, nearest first, up to the first
// ancestor at which it is told to stop. It ends before where a process cannot be
// seen or has ended. The caller closes them all.
//
// A parent is opened by the pid that its child names, and believed only if the
// child names it still after that: had the parent ended, and its pid gone to
// another process before it was opened, the child would have a new parent.
func readChain(pid int, stop func(ancestor *process) bool) []*process {
	var chain []*process
	p := openProcess(pid)
	for p != nil {
		stat, ok := p.stat()
		var parent *process
		if ok && len(chain) < maxChain-1 {
			parent = openProcess(stat.ppid)
		}
		status, okStatus := p.status()
		if !ok || !okStatus {
			p.close()
			if parent != nil {
				parent.close()
			}
			return chain
		}
		p.start, p.uids = stat.start, status.uids
		chain = append(chain, p)
		if len(chain) > 1 && stop(p) {
			if parent != nil {
				parent.close()
			}
			return chain
		}
		if parent != nil && status.ppid != stat.ppid {
			parent.close()
			parent = nil
		}
		p = parent
	}
	return chain
}

func closeChain(chain []*process) {
	for _, p := range chain {
		p.close()
	}
}

// steadyExe returns the executable of a process, and fills in its arguments, if
// its uids were the same before and after: so that they cannot be those of a
// program that a setuid one has just turned itself into.
func (p *process) steadyExe() (string, bool) {
	exe := p.exe()
	p.cmdline()
	status, ok := p.status()
	return exe, ok && exe != "" && status.uids == p.uids
}

func isRoot(uid uint32) bool { return uid == 0 }

// service is a kind of daemon of root that starts programs as other users.
type service uint8

const (
	noService service = iota
	cronService
	atService
	fpmService
	webService
	cgiService // a gateway that runs nothing but CGI programs
)

// serviceOf names the service that a process is: by its executable, which is to
// be believed only of a process that does not run as the caller. root stands
// before every path in tests.
func serviceOf(root string, daemonUID uint32, p *process) service {
	if !p.uids.all(isRoot) {
		// atd gives up root for the uid of daemon now and then (atd.c, PRIV_START).
		if !slices.Contains(p.uids[:], 0) || !p.uids.all(func(uid uint32) bool { return uid == 0 || uid == daemonUID }) {
			return noService
		}
	}
	s := serviceOfExe(strings.TrimPrefix(p.exe(), root))
	switch {
	case s == noService,
		s != atService && !p.uids.all(isRoot),
		s == fpmService && !strings.HasPrefix(title(p.cmdline()), fpmMasterTitle):
		return noService
	}
	if _, ok := p.steadyExe(); !ok {
		return noService
	}
	return s
}

func serviceOfExe(exe string) service {
	dir, base := filepath.Split(exe)
	systemDir := dir == "/usr/sbin/" || dir == "/usr/bin/" || dir == "/sbin/"
	switch {
	case base == "atd" && systemDir:
		return atService
	case (base == "cron" || base == "crond") && systemDir:
		return cronService
	case strings.HasPrefix(base, "php-fpm"):
		return fpmService
	case base == "apache2" || base == "httpd" || strings.HasPrefix(base, "httpd-"):
		return webService
	}
	return noService
}

// title returns what setproctitle wrote, or argv[0].
func title(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// serviceOfCgroup names the service whose control group that is. Only the units
// of the system manager count: in its own slice a user names units as he likes.
func serviceOfCgroup(path string) service {
	unit, ok := systemUnit(path)
	if !ok {
		return noService
	}
	name, _, _ := strings.Cut(strings.TrimSuffix(unit, ".service"), "@")
	switch {
	case name == "cron" || name == "crond":
		return cronService
	case name == "atd":
		return atService
	case strings.Contains(name, "php") && strings.HasSuffix(name, "fpm"):
		return fpmService
	case name == "apache2" || name == "httpd":
		return webService
	case name == "fcgiwrap":
		return cgiService
	}
	return noService
}

// systemUnit returns the service of a control group's path below /system.slice,
// which may lie in a slice of a template.
func systemUnit(path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, "/system.slice/")
	for ok {
		var part string
		part, rest, ok = strings.Cut(rest, "/")
		if strings.HasSuffix(part, ".service") {
			return part, true
		}
		ok = ok && strings.HasSuffix(part, ".slice")
	}
	return "", false
}

// sessionUID returns whose login session a control group is
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
