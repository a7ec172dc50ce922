package origin

import (
	"path/filepath"
	"slices"
	"strings"
)

// service is a kind of daemon of root that starts programs as other users, or
// of unit that holds them.
type service uint8

const (
	noService service = iota
	cronService
	anacronService
	atService
	fpmService
	webService
	cgiService // a gateway that runs nothing but CGI programs
	mailService
	loginService   // sshd, getty: told by the unit only
	systemdService // any other service of the system: told by the unit only
)

func isRoot(uid uint32) bool { return uid == 0 }

// serviceOf names the service that a process is: by its executable, which is to
// be believed only of a process that does not run as the caller. root stands
// before every path in tests.
func serviceOf(root string, users *userTable, p *process) service {
	if !slices.Contains(p.uids[:], 0) {
		return noService
	}
	s := serviceOfExe(strings.TrimPrefix(p.exe(), root))
	// Two give up root for a uid of their own now and then, and keep the right to
	// take it back: atd (atd.c, PRIV_START), and local(8) and pipe(8) of Postfix
	// (set_eugid.c), which are 0 in the real and saved uid then.
	var own string
	switch s {
	case noService:
		return noService
	case atService:
		own = "daemon"
	case mailService:
		own = "postfix"
	}
	uid, known := users.lookup(own)
	switch {
	case !p.uids.all(func(u uint32) bool { return u == 0 || known && u == uid }),
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
	case base == "anacron" && systemDir:
		return anacronService
	case strings.HasPrefix(base, "php-fpm"):
		return fpmService
	case base == "apache2" || base == "httpd" || strings.HasPrefix(base, "httpd-"):
		return webService
	case (base == "local" || base == "pipe" || base == "spawn") && isPostfixDir(dir),
		(base == "exim4" || base == "exim" || base == "smtpd") && systemDir,
		base == "sendmail.sendmail" && systemDir, exe == "/usr/lib/sm.bin/sendmail", exe == "/usr/libexec/sm.bin/sendmail":
		return mailService
	}
	return noService
}

// isPostfixDir knows daemon_directory of Debian, Red Hat and SUSE.
func isPostfixDir(dir string) bool {
	switch dir {
	case "/usr/lib/postfix/sbin/", "/usr/libexec/postfix/", "/usr/lib/postfix/bin/", "/usr/lib/postfix/":
		return true
	}
	return false
}

// title returns what setproctitle wrote, or argv[0].
func title(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}
