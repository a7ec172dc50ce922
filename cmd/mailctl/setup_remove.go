package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"sendmail-wrapper/wrapper"
)

// ourUnits are all that the set-up may have started, in the order in which they end.
var ourUnits = []string{"mailquota-notify.service", daemonService, policyUnit, "mailquotad.socket", submitSocket, unit}

// removeAll undoes the steps, the last one first: who asks mailquotad goes before it.
// None of it needs the database.
func (s *setupRun) removeAll(ctx context.Context) error {
	if err := s.mayBeRemoved(); err != nil {
		return err
	}
	o := &s.options
	if !o.dryRun {
		if err := s.confirm(o.yes, "to undo what was set up in Postfix, Apache and PHP-FPM, and stop counting mail"); err != nil {
			return err
		}
	}
	steps := []struct {
		name string
		undo func(context.Context) (stepReport, error)
	}{
		{"postfix", s.removePostfix},
		{"apache", s.removeApache},
		{"fpm", s.removeFPM},
		{"services", s.stopUnits},
		{"database", func(context.Context) (stepReport, error) { return s.forgetDatabase(o.dryRun) }},
	}
	for _, step := range steps {
		r, err := step.undo(ctx)
		if err != nil {
			exit, hint := s.explain(err, nil)
			s.tell(step.name, stepReport{State: stepFailed, Text: err.Error()})
			if hint != "" {
				hint += "; then "
			}
			return &failure{exit, "stopped at " + step.name + ": " + err.Error(), hint + "mailctl setup --remove again goes on here"}
		}
		s.tell(step.name, r)
	}
	s.report.Next = []nextStep{
		{"", "/usr/sbin/sendmail stays sendmail-wrapper, which lets mail pass uncounted: removing the package, or install-by-hand --undo, gives the names back"},
		{"mailctl setup", "takes limits, counters and reports up again, which stay"},
	}
	if _, err := os.Stat(networkFile); err == nil {
		s.report.Next = append(s.report.Next, nextStep{"mailctl setup network --remove", "opens the network door, which stays as it is"})
	}
	if !s.json {
		for _, n := range s.report.Next {
			fmt.Fprintln(s.stdout, strings.TrimSpace(n.Command+" "+n.Why))
		}
	}
	return nil
}

// mayBeRemoved tells whether mail would still leave without mailquotad. Where the names of
// sendmail were given back, the wrapper is not asked.
func (s *setupRun) mayBeRemoved() error {
	path := s.wrapperConf()
	conf, _ := wrapper.LoadConfig(path) // lines that are wrong are as if they were not there
	if !conf.Accept && isWrapper("/usr/sbin/sendmail") {
		return &failure{exWrong, `on-unavailable = "refuse" in ` + path + ": without mailquotad no mail would leave", `set it to "accept" first`}
	}
	if conf.HandOff && isWrapper("/usr/sbin/sendmail") {
		return &failure{exWrong, "this host is locked down: mail leaves by mailquotad only", `mailctl harden --remove first, or set hand-off = "self" in ` + path}
	}
	for _, dir := range []string{"/etc/exim4", "/etc/exim", "/etc/exim.conf"} {
		if !hasExim() {
			break // what a removed one has left asks nobody
		}
		if file := asksMailquotad(dir); file != "" {
			return &failure{exWrong, file + " lets Exim ask mailquotad: without it mail by SMTP would wait", "take these lines out first (docs/smtp.md), and reload Exim"}
		}
	}
	return nil
}

// asksMailquotad finds a file of Exim's configuration that includes ours.
func asksMailquotad(dir string) (found string) {
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || isOldCopy(path) {
			return nil // what is not there, or not read, asks nobody
		}
		text, _ := os.ReadFile(path)
		for line := range bytes.Lines(text) {
			line = bytes.TrimSpace(line)
			if bytes.HasPrefix(line, []byte(".include")) && bytes.Contains(line, []byte("/mailquota-")) {
				found = path
				return fs.SkipAll
			}
		}
		return nil
	})
	return found
}

// hasExim tells whether Exim is installed.
func hasExim() bool {
	_, err4 := exec.LookPath("exim4")
	_, err := exec.LookPath("exim")
	return err == nil || err4 == nil
}

// isOldCopy tells whether a file is what an editor or a package manager keeps of another one.
func isOldCopy(path string) bool {
	return strings.Contains(path, ".dpkg-") ||
		slices.ContainsFunc([]string{"~", ".bak", ".rpmsave", ".rpmnew"}, func(end string) bool { return strings.HasSuffix(path, end) })
}

// removal is the command that undoes a part.
func (s *setupRun) removal(part string) []string {
	args := []string{"setup", part, "--remove"}
	if s.options.dryRun {
		args = append(args, "--dry-run")
	}
	return args
}

// removed is what became of a part whose files were changed, or would be.
func (s *setupRun) removed(files []string, nothing string) stepReport {
	switch {
	case len(files) == 0:
		return stepReport{State: stepSo, Text: nothing}
	case s.options.dryRun:
		return stepReport{State: stepPlanned, Text: "take out of " + strings.Join(files, ", ")}
	}
	return stepReport{State: stepUndone, Text: strings.Join(files, ", ")}
}

func (s *setupRun) removePostfix(ctx context.Context) (stepReport, error) {
	gone := !hasPostfix() // its files may have stayed, and ours in them
	if files, _ := filepath.Glob(filepath.Join(postfixDir, "ma*.cf")); gone && files == nil {
		return stepReport{State: stepAbsent, Text: "there is no Postfix here"}, nil
	}
	if _, err := postconf(ctx, "config_directory"); !gone && err != nil && strings.Contains(err.Error(), "/main.cf: No such file") {
		return stepReport{State: stepAbsent, Text: "Postfix has no configuration here"}, nil // Debian's
	}
	var p postfixSetup
	_, err := s.call(ctx, &p, s.removal("postfix")...)
	r := s.removed(p.Files, "nothing of it is in Postfix")
	switch {
	case gone && len(p.Files) == 0:
		r = stepReport{State: stepAbsent, Text: "there is no Postfix here"}
	case gone:
		r.Text += "; there is no Postfix here any more, and its files had it still"
	}
	return r, err
}

func (s *setupRun) removeApache(ctx context.Context) (stepReport, error) {
	if _, err := findApache(); err != nil {
		return stepReport{State: stepAbsent, Text: "there is no Apache here"}, nil
	}
	var p apacheSetup
	_, err := s.call(ctx, &p, s.removal("apache")...)
	return s.removed(p.Files, "nothing of it is in Apache"), err
}

func (s *setupRun) removeFPM(ctx context.Context) (stepReport, error) {
	if len(fpmMasters("")) == 0 {
		if !s.options.dryRun && !isFPMDirNamed("") {
			if err := remove(fpmTmpfiles); err != nil {
				return stepReport{}, err
			}
		}
		return stepReport{State: stepAbsent, Text: "there is no PHP-FPM here"}, nil
	}
	r, n, err := s.callFPM(ctx, s.removal("fpm")[2:]...)
	r.Text = fmt.Sprintf("out of %d pools", n)
	switch {
	case n == 0:
		r.State, r.Text = stepSo, "nothing of it is in a pool"
	case s.options.dryRun:
		r.State = stepPlanned
	default:
		r.State = stepUndone
	}
	return r, err
}

func (s *setupRun) stopUnits(ctx context.Context) (stepReport, error) {
	units := slices.DeleteFunc(slices.Clone(ourUnits), func(u string) bool { return !isActive(ctx, u) && !isEnabled(ctx, u) })
	r := s.removed(units, "none runs")
	if len(units) == 0 || s.options.dryRun {
		return r, nil
	}
	// Sockets go before the service ends, or a call would start it again.
	if out, err := command(ctx, "systemctl", append([]string{"disable", "--now"}, units...)...); err != nil {
		return r, &failure{exWrong, "systemctl disable --now " + strings.Join(units, " ") + ": " + lastLine(out), "systemctl --failed"}
	}
	return r, nil
}
