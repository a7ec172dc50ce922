package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// What systemd holds open for mailctl setup postfix.
const (
	// policyUnit keeps policyAddress open, so that no user takes it while mailquotad restarts.
	policyUnit    = "mailquotad-policy.socket"
	daemonService = "mailquotad.service"

	transportSocket  = "mailquota-transport.socket"
	transportService = "mailquota-transport.service"
	transportProgram = "/usr/sbin/mailquota-transport"
	// systemd.unit(5): files there add to a unit, and stay when the package is upgraded.
	socketDropIn  = "/etc/systemd/system/" + transportSocket + ".d/mailctl-setup-postfix.conf"
	serviceDropIn = "/etc/systemd/system/" + transportService + ".d/mailctl-setup-postfix.conf"
)

// planUnits plans what mailquota-transport's units need to stand in front of the
// transport of that name, where they do not fit as they are.
func (p *postfixPlan) planUnits(name string) {
	private := filepath.Join(p.queue, "private")
	switch {
	case private != "/var/spool/postfix/private": // as the unit has it
		p.socket.after = fmt.Appendf(nil, "[Unit]\nConditionPathIsDirectory=\nConditionPathIsDirectory=%s\n[Socket]\nListenStream=\nListenStream=%s\n", private, filepath.Join(private, p.transport))
	case name != "smtp":
		p.socket.after = fmt.Appendf(nil, "[Socket]\nListenStream=%s\n", filepath.Join(private, p.transport))
	}
	if p.address != policyAddress {
		p.service.after = fmt.Appendf(nil, "[Service]\nExecStart=\nExecStart=%s --mailquotad %s\n", transportProgram, p.address)
	}
}

// unitsWrong tells whether a socket of systemd is not open that should be, or the other
// way round. One that an administrator opened without the set-up is his.
func (p *postfixPlan) unitsWrong(ctx context.Context) bool {
	return p.transportWrong(ctx) || p.policyWrong(ctx)
}

func (p *postfixPlan) transportWrong(ctx context.Context) bool {
	if p.transport == "" {
		return p.hadTransport && isActive(ctx, transportSocket)
	}
	return !isActive(ctx, transportSocket) || !isEnabled(ctx, transportSocket)
}

func (p *postfixPlan) policyWrong(ctx context.Context) bool {
	if p.remove {
		return isOurs(p.daemon.before, "policy-listen") && isActive(ctx, policyUnit)
	}
	return !p.listens && !(isActive(ctx, policyUnit) && isEnabled(ctx, policyUnit))
}

func isActive(ctx context.Context, unit string) bool {
	_, err := command(ctx, "systemctl", "is-active", "--quiet", unit)
	return err == nil
}

// restartDaemon gives mailquotad its port by systemd, or takes it away. A socket cannot be opened for a service that runs, and
// callers start that again at any moment. So once enabled the socket is wanted by the service, whose restart then opens it,
// in one transaction, between stop and start. Callers wait meanwhile. (systemctl makes two transactions of two names.)
func (p *postfixPlan) restartDaemon(ctx context.Context, listen bool) error {
	restart := []string{"restart", daemonService}
	steps := [][]string{restart}
	switch {
	case p.listens: // at a port that is not the unit's
	case !listen:
		steps = [][]string{{"disable", "--now", policyUnit}, {"try-restart", daemonService}}
	default:
		steps = [][]string{{"enable", policyUnit}, restart}
	}
	for _, args := range steps {
		if out, err := command(ctx, "systemctl", args...); err != nil {
			return fmt.Errorf("systemctl %s: %s", strings.Join(args, " "), out)
		}
	}
	if listen && !p.listens && !isActive(ctx, policyUnit) {
		return fmt.Errorf("%s could not be opened: systemctl status %s", policyUnit, policyUnit)
	}
	return nil
}

func (p *postfixPlan) unitsChange() bool { return p.socket.changes() || p.service.changes() }

func (p *postfixPlan) changeTransport(ctx context.Context) error {
	run := func(args ...string) error {
		if out, err := command(ctx, "systemctl", args...); err != nil {
			return fmt.Errorf("systemctl %s: %s", strings.Join(args, " "), out)
		}
		return nil
	}
	if p.unitsChange() {
		// A socket unit opens what is new in it when it starts, and does not while its service
		// runs. It removes sockets that it knows, so it stops before it is another one.
		if err := run("stop", transportService, transportSocket); err != nil {
			return err
		}
	}
	for _, e := range []*edit{p.socket, p.service} {
		if e.after != nil {
			if err := os.MkdirAll(filepath.Dir(e.path), 0o755); err != nil {
				return err
			}
		}
		if err := e.apply(); err != nil {
			return err
		}
		if e.after == nil {
			_ = os.Remove(filepath.Dir(e.path)) // unless there is a file in it
		}
	}
	if p.unitsChange() || p.cutShort {
		if err := run("daemon-reload"); err != nil {
			return err
		}
	}
	if p.transport == "" {
		if p.hadTransport || p.cutShort {
			return run("disable", "--now", transportSocket, transportService)
		}
		return nil
	}
	if err := run("enable", "--now", transportSocket); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(p.queue, "private", p.transport)); err != nil {
		return fmt.Errorf("%s does not make its socket: %w", transportSocket, err)
	}
	return nil
}
