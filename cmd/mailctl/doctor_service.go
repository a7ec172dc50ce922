package main

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/config"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
	"sendmail-wrapper/wire"
	"sendmail-wrapper/wrapper"
)

// What mailquotad and its database need, to be looked at by mailctl doctor.

func (a *app) askStatus() (*wire.Reply, error) { return a.ask(&wire.Request{Op: wire.OpStatus}) }

// daemonFindings are about mailquotad: whether it answers, at a socket that everybody
// reaches, with the rights that it needs, and will after the next boot.
func (a *app) daemonFindings(ctx context.Context) (list []finding) {
	if err := a.loadConfig(); err != nil {
		return []finding{{Check: "configuration", State: isWrong, Severity: highSeverity, Text: err.Error(), Command: "man 5 mailquotad.conf"}}
	}
	list = append(list, finding{Check: "configuration", State: isFine, Text: a.configPath + " is understood"})
	daemon, err := a.daemonAnswer()
	if err != nil {
		leaves := "leaves uncounted"
		if conf, _ := wrapper.LoadConfig(a.wrapperConf()); !conf.Accept {
			leaves = "is refused"
		}
		list = append(list, finding{Check: "mailquotad", State: isWrong, Severity: highSeverity,
			Text: fmt.Sprintf("%v: mail %s (on-unavailable)", err, leaves), Command: "systemctl start " + strings.Join(daemonUnits(), " ")})
	} else {
		list = append(list, allOf("mailquotad", "mailquotad "+daemon.Version+" answers", daemon.problems(), mediumSeverity, nil, "")...)
		list = append(list, socketFinding(a.config.Socket))
		list = append(list, capabilityFinding(ctx)...)
	}
	return append(list, a.bootFinding())
}

// daemonUnits are what mailquotad is started by, in that order: systemctl gives them to
// systemd one by one, and no socket is opened for a service that runs already.
func daemonUnits() (units []string) {
	if _, err := os.Lstat("/etc/systemd/system/sockets.target.wants/" + policyUnit); err == nil {
		units = append(units, policyUnit)
	}
	return append(units, "mailquotad.socket", "mailquotad.service")
}

// socketFinding looks whether each user reaches the socket: he may write to it, and
// pass through each directory above it.
func socketFinding(path string) finding {
	f := finding{Check: "socket", State: isFine, Text: "every user reaches " + path}
	wrong := func(text, command string) finding {
		return finding{Check: "socket", State: isWrong, Severity: highSeverity, Text: text, Command: command}
	}
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return wrong(err.Error(), "systemctl restart mailquotad.socket")
	case st.Mode().Type() != fs.ModeSocket:
		return wrong(path+" is no socket", "systemctl restart mailquotad.socket")
	case st.Mode().Perm()&0o006 != 0o006:
		return wrong(fmt.Sprintf("%s has mode %04o: not every user may ask, and mail of the others goes by on-unavailable", path, st.Mode().Perm()), "chmod 666 "+path)
	}
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		switch {
		case err != nil:
			return wrong(err.Error(), "")
		case st.Mode().Perm()&0o001 == 0:
			return wrong(fmt.Sprintf("%s has mode %04o: not every user reaches the socket below it", dir, st.Mode().Perm()), "chmod o+x "+dir)
		case st.Mode().Perm()&0o022 != 0 && st.Mode()&fs.ModeSticky == 0:
			return wrong(fmt.Sprintf("%s has mode %04o: others can put a socket of their own in the place of mailquotad's", dir, st.Mode().Perm()), "chmod go-w "+dir)
		}
	}
	return f
}

// needed are the capabilities by which mailquotad finds out who calls (docs/origin.md).
var needed = []struct {
	name string
	bit  int
}{{"CAP_SYS_PTRACE", unix.CAP_SYS_PTRACE}, {"CAP_DAC_READ_SEARCH", unix.CAP_DAC_READ_SEARCH}}

// capabilityFinding looks at those that mailquotad has.
func capabilityFinding(ctx context.Context) []finding {
	out, err := command(ctx, "systemctl", "show", "-P", "MainPID", "mailquotad.service")
	pid := strings.TrimSpace(out)
	if err != nil || pid == "" || pid == "0" {
		return nil // somebody runs it by hand
	}
	text, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return []finding{{Check: "capabilities", State: isUnknown, Severity: lowSeverity, Text: err.Error()}}
	}
	_, rest, _ := strings.Cut(string(text), "\nCapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	have, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil {
		return []finding{{Check: "capabilities", State: isUnknown, Severity: lowSeverity, Text: "capabilities of mailquotad: " + err.Error()}}
	}
	var missing []string
	for _, c := range needed {
		if have&(1<<c.bit) == 0 {
			missing = append(missing, c.name)
		}
	}
	if len(missing) > 0 {
		return []finding{{Check: "capabilities", State: isWrong, Severity: mediumSeverity,
			Text:    "mailquotad runs without " + strings.Join(missing, " and ") + ", so it counts, but cannot name scripts and jobs",
			Command: "systemctl cat mailquotad, and take out what removes them"}}
	}
	return []finding{{Check: "capabilities", State: isFine, Text: "mailquotad may see who calls"}}
}

// bootFinding looks whether all is started at the next boot.
func (a *app) bootFinding() finding {
	units := []string{"sockets.target.wants/mailquotad.socket", "multi-user.target.wants/mailquotad.service", "multi-user.target.wants/mailquota-notify.service"}
	if a.config.Private() {
		units = append(units, "multi-user.target.wants/mailquota-postgresql.service")
	}
	if conf, _ := wrapper.LoadConfig(a.wrapperConf()); conf.HandOff {
		units = append(units, "sockets.target.wants/"+submitSocket)
	}
	var missing []string
	for _, unit := range units {
		if _, err := os.Lstat("/etc/systemd/system/" + unit); err != nil {
			missing = append(missing, filepath.Base(unit))
		}
	}
	if len(missing) > 0 {
		return finding{Check: "boot", State: isWrong, Severity: highSeverity, Text: "not started at the next boot: " + strings.Join(missing, ", "),
			Command: "systemctl enable " + strings.Join(missing, " ")}
	}
	return finding{Check: "boot", State: isFine, Text: "all is started at the next boot"}
}

// clockBound is by how much the clocks of host and database may differ: the windows
// go by the database's, and messages are shown by it.
const clockBound = 2 * time.Second

// databaseFindings are about the database: reached, of this version, kept up, and with no
// more rights than are needed.
func (a *app) databaseFindings(ctx context.Context) (list []finding) {
	if a.loadConfig() != nil {
		return nil
	}
	if err := a.connect(ctx); err != nil {
		_, hint := a.explain(err, nil)
		return []finding{{Check: "database", State: isWrong, Severity: highSeverity, Text: err.Error(), Command: hint}}
	}
	health, err := report.CheckHealth(ctx, a.pool)
	if err != nil {
		return []finding{a.unlooked("database", highSeverity, err)}
	}
	list = allOf("database", "the database answers, and keeps up", health.Problems(), mediumSeverity, nil, "")

	var super, owner bool
	var now time.Time
	err = a.pool.QueryRow(ctx, `SELECT r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolbypassrls,
  EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relowner = r.oid), clock_timestamp()
FROM pg_roles r WHERE r.rolname = current_user`).Scan(&super, &owner, &now)
	switch {
	case err != nil:
		return append(list, a.unlooked("database-rights", mediumSeverity, err))
	case super || owner:
		list = append(list, finding{Check: "database-rights", State: isWrong, Severity: mediumSeverity,
			Text: "mailquotad's role in the database may do more than count: it is a superuser, or owns the tables", Command: "name the role mailquotad in database of " + a.configPath})
	default:
		list = append(list, finding{Check: "database-rights", State: isFine, Text: "mailquotad's role may count, and no more"})
	}
	if off := time.Since(now).Abs(); off > clockBound {
		list = append(list, finding{Check: "clock", State: isWrong, Severity: mediumSeverity,
			Text: fmt.Sprintf("the clocks of this host and of the database differ by %s: limits go by the database's", off.Round(time.Second)), Command: "timedatectl set-ntp true, on both"})
	} else {
		list = append(list, finding{Check: "clock", State: isFine, Text: "host and database have the same time"})
	}
	return list
}

// roomFindings look whether journal and database can grow.
func (a *app) roomFindings(context.Context) (list []finding) {
	if a.loadConfig() != nil {
		return nil // daemonFindings says why
	}
	dirs := []string{filepath.Dir(a.config.Journal)}
	if a.config.Private() {
		dirs = append(dirs, config.PrivateDataDir)
	}
	seen := map[uint64]bool{}
	for _, dir := range dirs {
		var st unix.Stat_t
		var fs unix.Statfs_t
		if err := cmp.Or(unix.Stat(dir, &st), unix.Statfs(dir, &fs)); err != nil {
			list = append(list, finding{Check: "room", State: isWrong, Severity: highSeverity, Text: dir + ": " + err.Error(), Command: "systemd-tmpfiles --create"})
			continue
		}
		if seen[uint64(st.Dev)] {
			continue
		}
		seen[uint64(st.Dev)] = true
		free, total := fs.Bavail*uint64(fs.Bsize), fs.Blocks*uint64(fs.Bsize)
		if free < 200<<20 || free < total/50 {
			list = append(list, finding{Check: "room", State: isWrong, Severity: highSeverity,
				Text: fmt.Sprintf("only %d MB are free for %s: when it is full, mail cannot be counted", free>>20, dir), Command: "make room there"})
			continue
		}
		list = append(list, finding{Check: "room", State: isFine, Text: fmt.Sprintf("%d MB are free for %s", free>>20, dir)})
	}
	return list
}

// limitFindings say where nothing is refused.
func (a *app) limitFindings(ctx context.Context) []finding {
	ad, err := a.admin(ctx)
	if err != nil {
		return nil // databaseFindings says why
	}
	modes, err := ad.Modes(ctx)
	if err != nil {
		return []finding{a.unlooked("limits", lowSeverity, err)}
	}
	for _, m := range modes {
		if m.Object == (quota.Object{Class: quota.Server}).String() && m.Mode != quota.Enforce {
			return []finding{{Check: "limits", State: isOpen, Severity: lowSeverity,
				Text: "nothing is refused yet: the server's mode is " + string(m.Mode), Command: "mailctl suggest-limits, then: mailctl mode set server enforce"}}
		}
	}
	var limits int
	if err := a.pool.QueryRow(ctx, limitsSetSQL).Scan(&limits); err != nil {
		return []finding{a.unlooked("limits", lowSeverity, err)}
	}
	if limits == 0 {
		return []finding{{Check: "limits", State: isOpen, Severity: mediumSeverity, Text: "no limit is set, so nothing is refused", Command: "mailctl suggest-limits"}}
	}
	return []finding{{Check: "limits", State: isFine, Text: "limits are set, and enforced"}}
}

// uidOf is the number of a login.
func uidOf(name string) (uint32, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(uid), err
}
