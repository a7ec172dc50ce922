package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// calls are whole calls of sendmail, in a throw-away server.
func calls() block {
	dial, dialLogged, real := "a program that only dials", "the same beside journald", "the real sendmail"
	return block{name: "one call of sendmail", once: true, experiments: []experiment{{[]figure{
		{name: dial, unit: "ms"}, {"wrapper without a daemon", "ms", dial},
		{name: dialLogged, unit: "ms"}, {"wrapper without a daemon, journald taking its line", "ms", dialLogged},
		{name: real, unit: "ms"}, {"sendmail through the wrapper", "ms", real},
		{name: "resident memory of the wrapper with a message of 25 MB, beside it", unit: "MB"},
	}, func(ctx context.Context, b *bench) ([]sample, error) { return b.callsInServer(ctx) }}}}
}

// steps prepare the throw-away server, and then print the result of command call.
var steps = []string{
	`systemctl stop mailquotad.socket mailquotad.service
	 echo 'on-unavailable = "refuse"' >>/etc/sendmail-wrapper/wrapper.conf
	 systemctl stop systemd-journald-dev-log.socket systemd-journald.socket systemd-journald.service
	 exec /tmp/call dial /tmp/small`,
	`systemctl start systemd-journald-dev-log.socket systemd-journald.socket systemd-journald.service
	 exec /tmp/call dial /tmp/small`,
	// What was queued is held, so that no delivery runs beside the next call.
	`systemctl start mailquotad.socket mailquotad.service
	 postconf -e "header_checks = regexp:{ { /^Subject:/ HOLD } }"
	 postfix reload
	 exec /tmp/call send /tmp/small`,
	`systemctl stop mailquotad.socket mailquotad.service
	 mkdir -p /run/mailquota
	 exec /tmp/call memory /tmp/large`,
}

func (b *bench) callsInServer(ctx context.Context) (list []sample, err error) {
	name := fmt.Sprintf("bench-%d", os.Getpid())
	defer exec.Command("tests/server", "down", name).Run()
	if err := upServer(ctx, name); err != nil {
		return nil, err
	}
	if _, err := inServer(ctx, name, `printf 'Subject: small\n\nbody\n' >/tmp/small
		{ printf 'Subject: large\n\n'; head -c 18750000 /dev/urandom | base64; } >/tmp/large`); err != nil {
		return nil, err
	}
	for i, step := range steps {
		out, err := inServer(ctx, name, step)
		if err != nil {
			return nil, fmt.Errorf("step %d: %w", i+1, err)
		}
		if i == len(steps)-1 {
			var mb float64
			err = json.Unmarshal(out, &mb)
			list = append(list, sample{value: mb})
		} else {
			var p pairs
			err = json.Unmarshal(out, &p)
			list = append(list, sample{value: p.Reference},
				sample{value: p.Measured, ratio: p.Ratio, note: fmt.Sprintf("median of %d pairs, middle half %.2f–%.2f", p.Pairs, p.Low, p.High)})
		}
		if err != nil {
			return nil, fmt.Errorf("step %d said %q: %w", i+1, out, err)
		}
	}
	return list, nil
}

// upServer boots a throw-away server, with the commands call and dial in its /tmp.
func upServer(ctx context.Context, name string) error {
	if os.Geteuid() != 0 {
		return errors.New("the throw-away server needs root")
	}
	own, err := os.Executable()
	if err != nil {
		return err
	}
	for _, command := range [][]string{
		{"tests/server", "up", name},
		{"bash", "-c", `tar -C "$1" -c call dial | tests/server run "$2" -- tar -C /tmp -x`, "bash", filepath.Dir(own), name},
	} {
		if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%q: %w\n%s", command, err, out)
		}
	}
	return nil
}

// inServer runs a script in it, and returns its standard output.
func inServer(ctx context.Context, name, script string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "tests/server", "run", name, "--", "bash", "-c", "{ "+script+"\n} 2>/tmp/stderr || { cat /tmp/stderr >&2; exit 1; }")
	out, err := cmd.Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		return nil, fmt.Errorf("%w\n%s", err, failed.Stderr)
	}
	return out, err
}

// pairs is what command call prints; its own source says more.
type pairs struct {
	Pairs     int     `json:"pairs"`
	Measured  float64 `json:"measured"`
	Reference float64 `json:"reference"`
	Ratio     float64 `json:"ratio"`
	Low       float64 `json:"low"`
	High      float64 `json:"high"`
}
