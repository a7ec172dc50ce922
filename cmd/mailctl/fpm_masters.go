package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// fpmMaster is a PHP-FPM of this host: one that runs, or one that is installed.
type fpmMaster struct {
	Config  string     `json:"config"`
	Program string     `json:"program"`
	Version string     `json:"version"` // "8.2"
	PID     int        `json:"pid"`     // 0: it does not run
	Unit    string     `json:"unit"`    // of systemd, "" if it runs in none
	Pools   []*fpmPool `json:"pools"`
	Error   string     `json:"error"` // why it was left as it was; "" if nothing is wrong

	cutShort bool // an earlier run has perhaps written, and not reloaded
}

// installedFPM is where distributions and panels have configuration and program
// of PHP-FPM. The asterisk of both stands for the same.
var installedFPM = []struct{ config, program string }{
	{"/etc/php/*/fpm/php-fpm.conf", "/usr/sbin/php-fpm*"},                          // Debian, Ubuntu, Sury
	{"/etc/php-fpm.conf", "/usr/sbin/php-fpm"},                                     // RHEL, Fedora
	{"/etc/opt/remi/*/php-fpm.conf", "/opt/remi/*/root/usr/sbin/php-fpm"},          // Remi's collections
	{"/opt/cpanel/*/root/etc/php-fpm.conf", "/opt/cpanel/*/root/usr/sbin/php-fpm"}, // cPanel, EasyApache 4
	{"/opt/plesk/php/*/etc/php-fpm.conf", "/opt/plesk/php/*/sbin/php-fpm"},         // Plesk
	{"/opt/alt/*/etc/php-fpm.conf", "/opt/alt/*/usr/sbin/php-fpm"},                 // CloudLinux
	{"/usr/local/*/lib/php-fpm.conf", "/usr/local/*/sbin/php-fpm"},                 // DirectAdmin
	{"/usr/local/etc/php-fpm.conf", "/usr/local/sbin/php-fpm"},                     // built by hand
}

const fpmTitle = "php-fpm: master process ("

// fpmMasters finds those that run, and then those that are only installed, below
// the directory root: "" but for tests.
func fpmMasters(root string) []*fpmMaster {
	masters := runningFPM()
	for _, place := range installedFPM {
		configs, _ := filepath.Glob(root + place.config) // no pattern here is wrong
		before, after, _ := strings.Cut(place.config, "*")
		for _, config := range configs {
			name := strings.TrimSuffix(strings.TrimPrefix(config, root+before), after)
			program := root + strings.Replace(place.program, "*", name, 1)
			known := slices.ContainsFunc(masters, func(m *fpmMaster) bool { return m.Config == config })
			if _, err := os.Stat(program); err == nil && !known {
				masters = append(masters, &fpmMaster{Config: config, Program: program})
			}
		}
	}
	return masters
}

// isFPMDirNamed tells whether a pool below the directory root has a socket in fpmDir: also one
// of a PHP-FPM that was removed and left its configuration, which would not start without it
// when it comes back.
func isFPMDirNamed(root string) bool {
	for _, place := range installedFPM {
		for _, pools := range []string{"pool.d", "php-fpm.d"} {
			files, _ := filepath.Glob(filepath.Join(root+filepath.Dir(place.config), pools, "*.conf"))
			for _, file := range files {
				if text, err := os.ReadFile(file); err == nil && bytes.Contains(text, []byte(fpmDir+"/")) {
					return true
				}
			}
		}
	}
	return false
}

// runningFPM reads the titles of root's processes. A master in a container shows
// paths of its own, which lead to other files here, or none: that one is its
// administrator's.
func runningFPM() (masters []*fpmMaster) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	parents := make(map[int]int)
	for _, dir := range dirs {
		// The title last, and of root's PHP-FPM only: it lies in memory of the process,
		// and a user could see to it that reading his never ends (userfaultfd(2)).
		program, err := os.Readlink(filepath.Join(dir, "exe"))
		program = strings.TrimSuffix(program, " (deleted)") // updated since
		if err != nil || !strings.HasPrefix(filepath.Base(program), "php-fpm") {
			continue
		}
		parent, roots := parentOf(dir)
		if !roots {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		title, _, _ := strings.Cut(string(cmdline), "\x00")
		config, master := strings.CutPrefix(title, fpmTitle)
		config, whole := strings.CutSuffix(config, ")")
		if err != nil || !master || !whole || !sameFile(config, filepath.Join(dir, "root", config)) {
			continue
		}
		m := &fpmMaster{Config: config, Program: program}
		m.PID, _ = strconv.Atoi(filepath.Base(dir))
		group, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if unit := filepath.Base(strings.TrimSpace(string(group))); strings.HasSuffix(unit, ".service") {
			m.Unit = unit
		}
		masters = append(masters, m)
		parents[m.PID] = parent
	}
	// A worker that has just been forked has its master's title still.
	return slices.DeleteFunc(masters, func(m *fpmMaster) bool { _, worker := parents[parents[m.PID]]; return worker })
}

// parentOf reads a process's parent, and whether all its uids are root's (PPid and
// Uid of proc_pid_status(5)).
func parentOf(dir string) (pid int, roots bool) {
	text, _ := os.ReadFile(filepath.Join(dir, "status"))
	_, rest, _ := strings.Cut(string(text), "\nPPid:\t")
	pid, _ = strconv.Atoi(firstLine(rest))
	return pid, strings.Contains(string(text), "\nUid:\t0\t0\t0\t0\n")
}

func sameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

var phpVersion = regexp.MustCompile(`^PHP (\d+\.\d+)\.`)

// readVersion asks the program for its version.
func (m *fpmMaster) readVersion(ctx context.Context) error {
	out, err := command(ctx, m.Program, "-v")
	if found := phpVersion.FindStringSubmatch(out); err == nil && found != nil {
		m.Version = found[1]
		return nil
	}
	return fmt.Errorf("%s -v: %v: %s", m.Program, err, firstLine(out))
}

// old: pm.status_listen is there since PHP 8.0.
func (m *fpmMaster) old() bool {
	major, _, _ := strings.Cut(m.Version, ".")
	n, err := strconv.Atoi(major)
	return err != nil || n < 8
}

// test lets PHP-FPM read its configuration.
func (m *fpmMaster) test(ctx context.Context) error {
	if out, err := command(ctx, m.Program, "-t", "-y", m.Config); err != nil {
		return fmt.Errorf("%s -t -y %s: %s", m.Program, m.Config, out)
	}
	return nil
}

func (m *fpmMaster) reload(ctx context.Context) error {
	if m.Unit == "" {
		return syscall.Kill(m.PID, syscall.SIGUSR2)
	}
	if out, err := command(ctx, "systemctl", "reload", m.Unit); err != nil {
		return fmt.Errorf("systemctl reload %s: %s", m.Unit, out)
	}
	return nil
}

// runs tells whether the process is there; one that has ended and is not yet
// waited for has no executable.
func (m *fpmMaster) runs() bool {
	_, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", m.PID))
	return err == nil
}

// revive starts a master that a reload has ended, with the old configuration.
func (m *fpmMaster) revive(ctx context.Context) error {
	if m.runs() {
		return m.reload(ctx)
	}
	if m.Unit == "" {
		return fmt.Errorf("the master of %s has ended: start it", m.Config)
	}
	return restart(ctx, m.Unit)
}

// restart starts a unit that may have been started too often of late, as systemd
// sees it (systemd.unit(5), StartLimitBurst=).
func restart(ctx context.Context, unit string) error {
	_, _ = command(ctx, "systemctl", "reset-failed", unit) // of one that is not known nothing is to be reset
	if out, err := command(ctx, "systemctl", "restart", unit); err != nil {
		return fmt.Errorf("systemctl restart %s: %s", unit, out)
	}
	return nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// await waits until done, for at most ten seconds: neither PHP-FPM nor Apache
// says when it has read its configuration again.
func await(ctx context.Context, done func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return done()
		}
	}
	return true
}
