package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/wire"
	"sendmail-wrapper/wrapper"
)

// ---- mail server and names ----

func (s *setupRun) lookMTA(ctx context.Context) (stepReport, error) {
	var m mtaSetup
	if _, err := s.call(ctx, &m, "setup", "mta", "--dry-run"); err != nil {
		if _, there := os.Stat("/usr/sbin/sendmail"); errors.Is(there, fs.ErrNotExist) {
			return stepReport{}, &failure{exWrong, "there is no mail server: no /usr/sbin/sendmail", "apt-get install postfix, or dnf install postfix"}
		}
		return stepReport{}, err
	}
	names, err := readNames(ctx)
	if err != nil {
		return stepReport{}, err
	}
	free := free(names)
	r := stepReport{State: stepSo, Text: fmt.Sprintf("%s is %s; calls of %s come to sendmail-wrapper", m.Program, m.MTA, namesOf(names))}
	if len(free) > 0 {
		r = stepReport{State: stepPlanned, Text: fmt.Sprintf("%s is %s; take over %s, and with it all other names of that program", m.Program, m.MTA, namesOf(free))}
	} else if m.MTA != m.Was {
		r = stepReport{State: stepPlanned, Text: fmt.Sprintf("%s is %s, and wrapper.conf says %s: write it there", m.Program, m.MTA, m.Was)}
	}
	return r, nil
}

// takeNames says what the program is first: from the moment when the names are
// taken the wrapper reads calls as that program does.
func (s *setupRun) takeNames(ctx context.Context) (stepReport, error) {
	var m mtaSetup
	if _, err := s.call(ctx, &m, "setup", "mta"); err != nil {
		return stepReport{}, err
	}
	if out, err := command(ctx, namesProgram, "take"); err != nil {
		return stepReport{}, &failure{exWrong, lastLine(out), namesProgram + " show"}
	}
	names, err := readNames(ctx)
	if err != nil {
		return stepReport{}, err
	}
	if free := free(names); len(free) > 0 {
		return stepReport{}, &failure{exWrong, fmt.Sprintf("%s is %s: %s", free[0].name, free[0].state, free[0].why), namesProgram + " show"}
	}
	return stepReport{Text: fmt.Sprintf("%s is %s; calls of %s come to sendmail-wrapper", m.Program, m.MTA, namesOf(names))}, nil
}

// mta is the profile of the mail server.
func (s *setupRun) mta() string {
	conf, _ := wrapper.LoadConfig(s.wrapperConf()) // what is wrong there mailctl status says
	return conf.Profile.Name
}

// ---- mode ----

// isNew tells whether nobody has decided anything in the database yet: then nothing
// shall be refused before somebody does.
func (s *setupRun) isNew(ctx context.Context) (bool, string, error) {
	a := s.fresh()
	defer a.close()
	if err := a.connect(ctx); err != nil {
		return false, "", err
	}
	var untouched bool
	var mode *quota.Mode
	err := a.pool.QueryRow(ctx, `SELECT mode, mode IS NULL AND NOT EXISTS (SELECT FROM limits)
   AND NOT EXISTS (SELECT FROM audit WHERE object = 'server' AND action = 'mode set') FROM server`).Scan(&mode, &untouched)
	if err != nil {
		return false, "", fmt.Errorf("look for the mode: %w", err)
	}
	if mode == nil {
		return untouched, string(quota.Enforce), nil
	}
	return false, string(*mode), nil
}

func (s *setupRun) lookMode(ctx context.Context) (stepReport, error) {
	first, mode, err := s.isNew(ctx)
	if err != nil && !s.options.dryRun {
		return stepReport{}, err
	}
	if err != nil || first { // --dry-run, and no database yet
		return stepReport{State: stepPlanned, Text: "mode observe: what limits would refuse is recorded, and nothing is refused"}, nil
	}
	return stepReport{State: stepSo, Text: "the server's mode stays " + mode}, nil
}

func (s *setupRun) setMode(ctx context.Context) (stepReport, error) {
	if _, err := s.call(ctx, nil, "mode", "set", "server", string(quota.Observe), "--why", "mailctl setup"); err != nil {
		return stepReport{}, err
	}
	return stepReport{Text: "the server's mode is observe: what limits would refuse is recorded, and nothing is refused"}, nil
}

// ---- services ----

// units that run on every host, in the order in which they start.
func (s *setupRun) units() ([]string, error) {
	a := s.fresh()
	if err := a.loadConfig(); err != nil {
		return nil, err
	}
	units := []string{"mailquotad.socket", daemonService, "mailquota-notify.service"}
	if a.config.Private() {
		units = append([]string{unit}, units...)
	}
	return units, nil
}

func (s *setupRun) lookUnits(ctx context.Context) (stepReport, error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return stepReport{}, &failure{exWrong, "systemd does not run this host", "start mailquotad and mailctl notify run by what does"}
	}
	units, err := s.units()
	if err != nil {
		return stepReport{}, err
	}
	missing := slices.DeleteFunc(slices.Clone(units), func(u string) bool { return isActive(ctx, u) && isEnabled(ctx, u) })
	if len(missing) > 0 {
		return stepReport{State: stepPlanned, Text: "start, now and at each boot: " + strings.Join(missing, ", ")}, nil
	}
	if why := s.outdated(); why != "" {
		return stepReport{State: stepPlanned, Text: "restart mailquotad, for which callers wait: " + why}, nil
	}
	return stepReport{State: stepSo, Text: "running, and enabled: " + strings.Join(units, ", ")}, nil
}

// outdated says why mailquotad has to be restarted, "" if it has not.
func (s *setupRun) outdated() string {
	d, err := s.askDaemon()
	if err != nil {
		return "it does not answer"
	}
	if info, err := os.Stat(s.configPath); err == nil && info.ModTime().After(d.Started) {
		return "its configuration has changed"
	}
	if d.Version != version {
		return "it is version " + d.Version
	}
	return ""
}

func (s *setupRun) askDaemon() (*daemonState, error) {
	reply, err := s.fresh().ask(&wire.Request{Op: wire.OpStatus})
	if err != nil {
		return nil, err
	}
	var d daemonState
	return &d, json.Unmarshal(reply.Body, &d)
}

func (s *setupRun) startUnits(ctx context.Context) (stepReport, error) {
	units, err := s.units()
	if err != nil {
		return stepReport{}, err
	}
	if out, err := command(ctx, "systemctl", "daemon-reload"); err != nil {
		return stepReport{}, &failure{exWrong, "systemctl daemon-reload: " + out, ""}
	}
	steps := [][]string{append([]string{"enable", "--now"}, units...)}
	if isActive(ctx, daemonService) && s.outdated() != "" {
		steps = append(steps, []string{"restart", daemonService, "mailquota-notify.service"})
	}
	for _, args := range steps {
		if out, err := command(ctx, "systemctl", args...); err != nil {
			return stepReport{}, &failure{exWrong, fmt.Sprintf("systemctl %s: %s", strings.Join(args, " "), lastLine(out)), "journalctl -u mailquotad -u mailquota-postgresql"}
		}
	}
	var d *daemonState
	if !await(ctx, func() bool { d, err = s.askDaemon(); return err == nil && d.Database == "ok" }) {
		if err == nil {
			err = errors.New("mailquotad is without its database: " + d.Database)
		}
		return stepReport{}, &failure{exUnavailable, err.Error(), "journalctl -u mailquotad"}
	}
	return stepReport{Text: "running, and started at each boot: " + strings.Join(units, ", ")}, nil
}

// ---- import ----

// sources are what import reads, of what there is on this host: panels first, as
// they know most.
func sources() (names []string) {
	there := func(paths ...string) bool {
		return slices.ContainsFunc(paths, func(path string) bool { _, err := os.Stat(path); return err == nil })
	}
	names = []string{"passwd"}
	if there("/etc/userdomains") && there("/etc/trueuserdomains") {
		names = append(names, "cpanel")
	}
	if there("/etc/virtual/domainowners") {
		names = append(names, "directadmin")
	}
	if there(apacheConfigs...) {
		names = append(names, "apache")
	}
	if len(fpmMasters("")) > 0 {
		names = append(names, "fpm")
	}
	return names
}

// imported is the body of import --json, as far as it is read here.
type imported struct {
	Added, Changed, Kept, Conflicts []json.RawMessage
	Same                            int
}

func (s *setupRun) lookImport(ctx context.Context) (stepReport, error) {
	names := sources()
	plan := stepReport{State: stepPlanned, Text: "import users and sites: " + strings.Join(names, ", ")}
	if _, _, err := s.isNew(ctx); err != nil && s.options.dryRun {
		return plan, nil // no database yet
	}
	text, notes, n, err := s.importAll(ctx, names, "--dry-run")
	if err != nil || n == 0 {
		return stepReport{State: stepSo, Text: text, Notes: notes}, err
	}
	plan.Text = "import users and sites: " + text
	return plan, nil
}

func (s *setupRun) doImport(ctx context.Context) (stepReport, error) {
	text, notes, _, err := s.importAll(ctx, sources(), "--why=mailctl setup")
	return stepReport{Text: text, Notes: notes}, err
}

// importAll imports from each source, and returns how many objects are new. Mail is
// counted without sites too, so one that cannot be read, or stands against what is
// here, is left to the administrator.
func (s *setupRun) importAll(ctx context.Context, names []string, option string) (text string, notes []string, n int, err error) {
	var texts []string
	for _, name := range names {
		var i imported
		_, err := s.call(ctx, &i, "import", name, option)
		switch {
		case err != nil && name == "passwd":
			return "", nil, 0, err
		case len(i.Conflicts) > 0:
			notes = append(notes, fmt.Sprintf("nothing of %s was imported, as it stands against what is here: mailctl import %s --dry-run", name, name))
		case err != nil:
			notes = append(notes, fmt.Sprintf("nothing of %s was imported: %v", name, err))
		case len(i.Added)+len(i.Changed) > 0:
			n += len(i.Added) + len(i.Changed)
			texts = append(texts, fmt.Sprintf("%s %d new, %d changed", name, len(i.Added), len(i.Changed)))
		default:
			texts = append(texts, fmt.Sprintf("%s %d as they should be", name, i.Same+len(i.Kept)))
		}
	}
	return strings.Join(texts, "; "), notes, n, nil
}

// ---- PHP-FPM, Apache, Postfix ----

func (s *setupRun) lookFPM(ctx context.Context) (stepReport, error) {
	if len(fpmMasters("")) == 0 {
		return stepReport{State: stepAbsent, Text: "there is no PHP-FPM here"}, nil
	}
	r, n, err := s.callFPM(ctx, "--dry-run")
	if _, err := user.Lookup(daemonUser); err != nil {
		r.Notes = nil // whether mailquotad reaches a socket cannot be told yet
	}
	if r.State = stepSo; n > 0 || wasCutShort(setupLock, "fpm") {
		r.State = stepPlanned
		r.Text = fmt.Sprintf("let %d pools of PHP-FPM tell mailquotad which script they run, and reload PHP-FPM", n)
	}
	return r, err
}

func (s *setupRun) doFPM(ctx context.Context) (stepReport, error) {
	r, _, err := s.callFPM(ctx)
	return r, err
}

// callFPM returns how many pools were changed, or would be.
func (s *setupRun) callFPM(ctx context.Context, options ...string) (r stepReport, n int, err error) {
	var f fpmSetup
	_, err = s.call(ctx, &f, append([]string{"setup", "fpm"}, options...)...)
	tell, own := 0, 0
	for _, m := range f.Masters {
		if m.Error != "" {
			return r, 0, &failure{exWrong, m.Config + " is left as it was: " + m.Error, "mailctl setup fpm --dry-run"}
		}
		for _, p := range m.Pools {
			switch p.State {
			case poolNew:
				n++
				tell++
			case poolRemoved:
				n++
			case poolSet:
				tell++
			case poolOwn:
				own++
			}
			if p.Why != "" {
				r.Notes = append(r.Notes, fmt.Sprintf("pool %s of %s: %s", p.Name, p.File, p.Why))
			}
		}
	}
	r.Text = fmt.Sprintf("%d pools tell which script they run, %d have a status of their own", tell, own)
	return r, n, err
}

func (s *setupRun) lookApache(ctx context.Context) (stepReport, error) {
	layout, err := findApache()
	if err != nil {
		return stepReport{State: stepAbsent, Text: "there is no Apache here"}, nil
	}
	if !isActive(ctx, layout.unit) && !isEnabled(ctx, layout.unit) {
		return stepReport{State: stepAbsent, Text: "Apache is installed, and not used"}, nil
	}
	var p apacheSetup
	if _, err := s.call(ctx, &p, "setup", "apache", "--dry-run"); err != nil {
		return stepReport{}, err
	}
	if len(p.Files) > 0 || wasCutShort(setupLock, "apache") {
		return stepReport{State: stepPlanned, Text: "let Apache tell mailquotad, and nobody else, which request it serves, and reload it: " + strings.Join(p.Files, ", ")}, nil
	}
	return stepReport{State: stepSo, Text: p.URL + " tells which request is served"}, nil
}

func (s *setupRun) doApache(ctx context.Context) (stepReport, error) {
	var p apacheSetup
	_, err := s.call(ctx, &p, "setup", "apache")
	return stepReport{Text: p.URL + " tells which request is served"}, err
}

// postfixArgs is the command for Postfix. A set-up that is there without --forwards
// was its administrator's choice.
func (s *setupRun) postfixArgs(ctx context.Context) ([]string, error) {
	out, err := postconf(ctx, "config_directory")
	if err != nil {
		return nil, err
	}
	e, err := readEdit(filepath.Join(out[0], "main.cf"))
	if err != nil {
		return nil, err
	}
	if _, chosen := setting(e.before, mailquotaPolicy); chosen {
		return []string{"setup", "postfix"}, nil
	}
	return []string{"setup", "postfix", "--forwards"}, nil
}

func (s *setupRun) lookPostfix(ctx context.Context) (stepReport, error) {
	if mta := s.mta(); mta != "postfix" {
		text := "the mail server is " + mta + ": mail by SMTP is not counted"
		if strings.HasPrefix(mta, "exim") {
			text = "the mail server is Exim, which asks mailquotad about mail by SMTP with some lines in exim.conf: docs/smtp.md"
		}
		return stepReport{State: stepAbsent, Text: text}, nil
	}
	args, err := s.postfixArgs(ctx)
	if err != nil {
		return stepReport{}, err
	}
	var p postfixSetup
	if _, err := s.call(ctx, &p, append(args, "--dry-run")...); err != nil {
		return stepReport{}, err
	}
	if len(p.Files) > 0 || p.Units || wasCutShort(setupLock, "postfix") {
		return stepReport{State: stepPlanned, Text: fmt.Sprintf("let Postfix ask mailquotad about mail by SMTP and what is sent on, and reload it: %s (mailctl %s --dry-run shows it)",
			strings.Join(p.Files, ", "), strings.Join(args, " "))}, nil
	}
	return stepReport{State: stepSo, Text: "Postfix asks mailquotad", Notes: p.Notes}, nil
}

func (s *setupRun) doPostfix(ctx context.Context) (stepReport, error) {
	args, err := s.postfixArgs(ctx)
	if err != nil {
		return stepReport{}, err
	}
	var p postfixSetup
	if _, err := s.call(ctx, &p, append(args, "--yes")...); err != nil {
		return stepReport{}, err
	}
	return stepReport{Text: "Postfix asks mailquotad about mail by SMTP; changed: " + strings.Join(p.Files, ", "), Notes: p.Notes}, nil
}

// makeUser makes the service's user and directories, where no package has.
func makeUser(ctx context.Context) error {
	if _, err := user.Lookup(daemonUser); err == nil {
		if _, err := os.Stat("/run/mailquota"); err == nil {
			return nil
		}
	}
	for _, args := range [][]string{
		{"systemd-sysusers", "/usr/lib/sysusers.d/sendmail-wrapper.conf"},
		{"systemd-tmpfiles", "--create", "/usr/lib/tmpfiles.d/sendmail-wrapper.conf", fpmTmpfilesPackage},
	} {
		if out, err := command(ctx, args[0], args[1:]...); err != nil {
			return &failure{exWrong, strings.Join(args, " ") + ": " + out, "is all of sendmail-wrapper installed?"}
		}
	}
	return nil
}

// readLine reads a URL that is not to stand on the command line, where ps(1) shows it.
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if line = strings.TrimSpace(line); line == "" {
		return "", errors.Join(errors.New("there is no line with a URL on standard input"), err)
	}
	return line, nil
}
