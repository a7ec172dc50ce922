package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"sendmail-wrapper/config"
	"sendmail-wrapper/origin"
	"sendmail-wrapper/wrapper"
)

// setupState says what other programs do not tell mailquotad: as a problem what
// was set up and does not work, as a hint what could be set up. It asks nothing
// that takes long, since status runs every minute on some hosts.
func (a *app) setupState(ctx context.Context) (problems, hints []string) {
	problems, hints = fpmState(runningFPM(), reachable)
	if err := a.loadConfig(); err != nil {
		return problems, hints // status says so already
	}
	problemsApache, hintsApache := apacheState(ctx, a.config)
	problems, hints = append(problems, problemsApache...), append(hints, hintsApache...)
	problemsPostfix, hintsPostfix := postfixState(ctx, a.config, a.configPath)
	problems, hints = append(problems, problemsPostfix...), append(hints, hintsPostfix...)
	if conf, _ := wrapper.LoadConfig(a.wrapperConf()); conf.HandOff && !isActive(ctx, submitSocket) {
		problems = append(problems, "mail of users is refused: "+submitSocket+" is not active: systemctl enable --now "+submitSocket)
	}
	if _, err := os.Stat(networkFile); err == nil {
		for _, f := range a.networkFindings(ctx) {
			if f.State == isWrong {
				problems = append(problems, f.Text+": "+f.Command)
			}
		}
	}
	return problems, hints
}

// apacheState asks Apache where it was set up.
func apacheState(ctx context.Context, c *config.Daemon) (problems, hints []string) {
	layout, err := findApache()
	switch url := c.ApacheStatus; {
	case url != "":
		if err := askApache(ctx, url, c.ApacheStatusKey); err != nil {
			problems = append(problems, "apache-status does not answer: "+err.Error()+": mailctl setup apache")
		}
	case err == nil && installed(layout.unit):
		hints = append(hints, "Apache does not tell the request of mail that mod_php and CGI programs send: mailctl setup apache")
	}
	return problems, hints
}

// hasPostfix tells whether Postfix is installed.
func hasPostfix() bool {
	_, err := exec.LookPath("postconf")
	return err == nil
}

// postfixState plans the set-up again: what would change is missing.
func postfixState(ctx context.Context, c *config.Daemon, configPath string) (problems, hints []string) {
	if !hasPostfix() {
		return nil, nil
	}
	p, err := planPostfix(ctx, c, configPath, &postfixOptions{})
	if err != nil && strings.Contains(err.Error(), "/main.cf: No such file") {
		return nil, nil // Debian's "No configuration"
	}
	if err != nil {
		return []string{"whether Postfix asks mailquotad cannot be told: " + err.Error() + ": mailctl setup postfix --dry-run"}, nil
	}
	if !bytes.Contains(p.main.before, []byte(mailquotaPolicy)) && !bytes.Contains(p.master.before, []byte(policyWord)) {
		hints = append(hints, "mail that comes to Postfix by SMTP is not counted: mailctl setup postfix")
		if now, _ := setting(p.main.before, "header_checks"); c.TraceHeader != "" && !logsHeader(now.value, c.TraceHeader) {
			hints = append(hints, "Postfix does not log "+c.TraceHeader+", so that mailctl trace knows no queue id for sure: mailctl setup postfix")
		}
		return nil, hints
	}
	for _, e := range p.edits() {
		if e.changes() {
			problems = append(problems, fmt.Sprintf("%s is not as mailctl setup postfix made it%s: mailctl setup postfix --dry-run", e.path, firstMissing(e)))
		}
	}
	if err := askPolicy(ctx, p.address); err != nil {
		problems = append(problems, err.Error())
	}
	switch {
	case p.unitsWrong(ctx):
		problems = append(problems, policyUnit+" or "+transportSocket+" is not as mailctl setup postfix left it: mailctl setup postfix")
	case p.transport == "":
		hints = append(hints, "what Postfix sends on for aliases, .forward files and lists is not counted: mailctl setup postfix --forwards")
	}
	return problems, hints
}

// firstMissing names a line that an edit would write.
func firstMissing(e *edit) string {
	there := lines(e.before)
	for _, line := range lines(e.after) {
		if !slices.Contains(there, line) {
			return ", it lacks: " + strings.TrimSpace(line)
		}
	}
	return ""
}

// installed tells whether a unit is there to be started at boot.
func installed(unit string) bool {
	_, err := os.Lstat("/etc/systemd/system/multi-user.target.wants/" + unit)
	return err == nil
}

// logsHeader looks into the files of header_checks for a line about the header.
// Of other kinds of maps nothing is said.
func logsHeader(setting, field string) bool {
	for name := range strings.FieldsFuncSeq(setting, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
		file, ok := checksFile(name)
		if !ok {
			return true
		}
		text, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(text), field) {
			return true
		}
	}
	return false
}

// fpmState tells of the masters that run. A pool counts as silent if its status is
// nowhere; PHP before 8.0 cannot have one and is not spoken of.
func fpmState(masters []*fpmMaster, reach func(socket string) error) (problems, hints []string) {
	silent, shut, first := 0, 0, ""
	for _, m := range masters {
		pools, err := origin.ReadPools(m.Config)
		if err != nil {
			hints = append(hints, err.Error())
			continue
		}
		silentHere := 0
		for _, p := range pools {
			socket := p.Options["pm.status_listen"]
			if socket == "" {
				silentHere++
				continue
			}
			// Of another's socket nothing was promised.
			if strings.HasPrefix(socket, fpmDir+"/") {
				if err := reach(socket); err != nil {
					if shut++; first == "" {
						first = "pool " + p.Name + ": " + err.Error()
					}
				}
			}
		}
		if silentHere > 0 && !olderThan8(m.Program, m.Config) {
			silent += silentHere
		}
	}
	if shut > 0 {
		problems = append(problems, fmt.Sprintf("mailquotad cannot reach the status of %d pools of php-fpm: %s: mailctl setup fpm says of each", shut, first))
	}
	if silent > 0 {
		hints = append(hints, fmt.Sprintf("%d pools of php-fpm do not tell which script they run: mailctl setup fpm", silent))
	}
	return problems, hints
}

// olderThan8 goes by the names that packages give to programs and directories of
// PHP before 8.0, php-fpm7.4 and php74: to start PHP takes too long here.
func olderThan8(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		for _, word := range []string{"php/5.", "php/7.", "php-fpm5", "php-fpm7", "php5", "php7"} {
			if strings.Contains(name, word) {
				return true
			}
		}
		return false
	})
}
