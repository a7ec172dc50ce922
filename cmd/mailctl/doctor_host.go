package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/origin"
)

// limitsSetSQL counts the objects on which a limit is a number.
const limitsSetSQL = `SELECT count(*) FROM limits
WHERE greatest(messages_hour, messages_day, recipients_hour, recipients_day, recipients_message) >= 0`

// hostFindings are about the kernel's settings that others' mail hangs on.
func (a *app) hostFindings(context.Context) (list []finding) {
	// A hard link keeps the program of an old mail server, setgid and all, after its update
	// (proc_sys_fs(5)); nobody may make one to another's setgid file where this is 1.
	text, err := os.ReadFile("/proc/sys/fs/protected_hardlinks")
	switch value := strings.TrimSpace(string(text)); {
	case err != nil:
		list = append(list, finding{Check: "hard-links", State: isUnknown, Severity: lowSeverity, Text: err.Error()})
	case value == "0":
		list = append(list, finding{Check: "hard-links", State: isOpen, Severity: mediumSeverity,
			Text:    "every user may keep programs of the mail server by a hard link, past their update: fs.protected_hardlinks is 0",
			Command: "sysctl -w fs.protected_hardlinks=1, and the same in /etc/sysctl.d"})
	default:
		list = append(list, finding{Check: "hard-links", State: isFine, Text: "nobody can keep old programs of the mail server by a hard link"})
	}
	// adjtimex(2): the state is TIME_ERROR while the clock is not synchronized.
	var t unix.Timex
	if state, err := unix.Adjtimex(&t); err == nil && state == unix.TIME_ERROR && t.Status&unix.STA_UNSYNC != 0 {
		list = append(list, finding{Check: "clock-sync", State: isOpen, Severity: lowSeverity, Text: "the clock of this host is not synchronized", Command: "timedatectl set-ntp true"})
	} else if err == nil {
		list = append(list, finding{Check: "clock-sync", State: isFine, Text: "the clock of this host is synchronized"})
	}
	return list
}

// phpFindings are about PHP: who may run scripts as another, what tells the script, and
// which program mail() calls.
func (a *app) phpFindings(context.Context) (list []finding) {
	masters := runningFPM()
	if len(masters) > 0 {
		problems, hints := fpmState(masters, reachable)
		list = allOf("fpm-status", "PHP-FPM tells which script it runs", problems, lowSeverity, hints, lowSeverity)
		var doors []finding
		for _, m := range masters {
			pools, err := origin.ReadPools(m.Config)
			if err != nil {
				doors = append(doors, finding{Check: "fpm-listen", State: isUnknown, Severity: mediumSeverity, Text: err.Error()})
			}
			for i := range pools {
				if f, open := poolDoor(&pools[i]); open {
					doors = append(doors, f)
				}
			}
		}
		if len(doors) == 0 {
			doors = []finding{{Check: "fpm-listen", State: isFine, Text: "only the web server can have pools of PHP-FPM run scripts"}}
		}
		list = append(list, doors...)
	}
	return append(list, mailPrograms(masters)...)
}

// poolDoor tells whether every user of this host can have a pool run a script: he
// sends mail as the pool's user, then, and it is counted to that one. Of TCP,
// listen.allowed_clients asks for addresses only.
func poolDoor(p *origin.Pool) (f finding, open bool) {
	listen, at := p.Options["listen"], fmt.Sprintf("%s:%d", p.File, p.Line)
	f = finding{Check: "fpm-listen", State: isOpen, Severity: mediumSeverity}
	switch {
	case listen == "":
		return f, false // php-fpm does not start with it
	case !strings.HasPrefix(listen, "/"):
		f.Text = fmt.Sprintf("pool %s (%s) listens at %s: any user of this host sends mail as its user", p.Name, at, listen)
		f.Command = fmt.Sprintf("set listen = /run/php/%s.sock, listen.owner and listen.mode = 0660 there, and in the web server", p.Name)
		return f, true
	}
	st, err := os.Stat(listen)
	if err != nil || st.Mode().Perm()&0o002 == 0 {
		return f, false
	}
	// A directory above it may shut out others.
	for dir := filepath.Dir(listen); dir != "/"; dir = filepath.Dir(dir) {
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm()&0o001 == 0 {
			return f, false
		}
	}
	f.Text = fmt.Sprintf("pool %s (%s) has a socket that everybody may connect to: any user of this host sends mail as its user", p.Name, at)
	f.Command = "set listen.mode = 0660 there, with listen.owner or listen.group of the web server"
	return f, true
}

// phpSettings are where distributions and panels have settings of PHP.
var phpSettings = []string{"/etc/php/*/*/php.ini", "/etc/php/*/*/conf.d/*.ini", "/etc/php.ini", "/etc/php.d/*.ini",
	"/opt/plesk/php/*/etc/php.ini", "/opt/cpanel/ea-php*/root/etc/php.ini", "/opt/remi/php*/root/etc/php.ini", "/opt/alt/php*/etc/php.ini"}

// mailPrograms look which program mail() of PHP calls: one that is not sendmail goes
// past the wrapper.
func mailPrograms(masters []*fpmMaster) (list []finding) {
	php := len(masters) > 0
	check := func(where, value string) {
		words := strings.Fields(strings.Trim(value, `"' `))
		if len(words) == 0 || isWrapper(words[0]) {
			return
		}
		list = append(list, finding{Check: "sendmail-path", State: isOpen, Severity: highSeverity,
			Text:    fmt.Sprintf("mail() of PHP calls %s, which is not sendmail-wrapper (sendmail_path in %s)", words[0], where),
			Command: "set sendmail_path = \"/usr/sbin/sendmail -t -i\" there"})
	}
	for _, pattern := range phpSettings {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			f, err := os.Open(file)
			if err != nil {
				continue
			}
			php = true
			for lines := bufio.NewScanner(f); lines.Scan(); {
				key, value, ok := strings.Cut(lines.Text(), "=")
				if ok && strings.TrimSpace(key) == "sendmail_path" {
					check(file, value)
				}
			}
			f.Close()
		}
	}
	for _, m := range masters {
		pools, _ := origin.ReadPools(m.Config) // phpFindings says what is wrong
		for i := range pools {
			for _, key := range []string{"php_admin_value[sendmail_path]", "php_value[sendmail_path]"} {
				if value, ok := pools[i].Options[key]; ok {
					check(pools[i].File+":"+strconv.Itoa(pools[i].Line), value)
				}
			}
		}
	}
	if len(list) == 0 && php {
		list = []finding{{Check: "sendmail-path", State: isFine, Text: "mail() of PHP calls sendmail-wrapper"}}
	}
	return list
}

// isWrapper tells whether a name leads to the wrapper: by a link, or, as packaging/rpm/names
// has it, by being a hard link to it.
func isWrapper(path string) bool {
	to, err := filepath.EvalSymlinks(path)
	if err == nil && filepath.Base(to) == "sendmail-wrapper" {
		return true
	}
	return sameFile(path, "/usr/sbin/sendmail-wrapper")
}
