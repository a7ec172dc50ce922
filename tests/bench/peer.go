package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// program is another policy server, as the distribution packages it.
type program struct {
	name    string
	pkg     string // of the distribution
	state   string // protocol_state at which it counts
	address string // where it listens; a path is below the directory of all
	file    string // its configuration: $LIMIT is messages an hour, $DIR and $SOCKETS (of PostgreSQL) are directories
	command string // starts it: $CONFIG is that file, $PID one for its process id
	forks   bool   // into the background
	keeps   bool   // its rows are in the database "ratelimit"
}

// Each counts a mailbox's messages of an hour, nothing else, and writes no line
// of log for a message: the least that it can be told to do.
var (
	// It counts recipients, at RCPT only, and looks at each connection of the last delay_to_close seconds at each turn,
	// also at those that are gone (policyd.py): of earlier rounds there shall be none.
	policydRateLimit = &program{name: "policyd-rate-limit", pkg: "policyd-rate-limit", state: atRecipient, address: "ratelimit.policy", keeps: true,
		file: `backend: 2
pgsql_config: {database: "ratelimit", user: "mailquota", host: "$SOCKETS"}
limits: [[$LIMIT, 3600]]
fail_action: "452 4.7.1 rate limit reached"
SOCKET: "$DIR/ratelimit.policy"
pidfile: "$DIR/ratelimit.pid"
user: "root"
group: "root"
debug: False
delay_to_close: 10
`,
		command: "policyd-rate-limit --file $CONFIG"}
	postfwd1 = &program{name: "postfwd1", pkg: "postfwd", state: atEndOfMessage, address: "127.0.0.1:10040", file: postfwdRule, forks: true,
		command: "postfwd1 --norulelog --daemon --file=$CONFIG --pidfile=$PID --user=postfw --group=postfw --port=10040"}
	// A child serves one connection, and there are to be enough of them from the start.
	postfwd2 = &program{name: "postfwd2", pkg: "postfwd", state: atEndOfMessage, address: "127.0.0.1:10045", file: postfwdRule, forks: true,
		command: "postfwd2 --norulelog --daemon --file=$CONFIG --pidfile=$PID --user=postfw --group=postfw --port=10045 --min_servers=70 --max_servers=100"}
	programs = []*program{policydRateLimit, postfwd1, postfwd2}
)

const postfwdRule = "id=LIMIT; protocol_state==END-OF-MESSAGE; action=rcpt(sasl_username/$LIMIT/3600/452 4.7.1 limit reached)\n"

// peer is such a program that runs. It is a unit of systemd, so that all its
// processes are known: their time, and whom to kill.
type peer struct {
	*program
	unit    string
	command []string // starts it
}

// peer returns the running program, starting it if need be. Of one program there
// is one at a time.
func (b *bench) peer(ctx context.Context, p *program, limit int) (*daemon, error) {
	for _, d := range b.daemons {
		if d.key == p.name {
			return d, nil
		}
	}
	if p.keeps {
		if err := b.rateLimitDatabase(ctx); err != nil {
			return nil, err
		}
	}
	address := p.address
	if !strings.Contains(address, ":") {
		address = filepath.Join(b.dir, address)
	}
	config, pid := filepath.Join(b.dir, p.name+".yaml"), "/run/"+p.name+".pid"
	fill := strings.NewReplacer("$LIMIT", strconv.Itoa(limit), "$DIR", b.dir, "$SOCKETS", b.cluster.SocketDir, "$CONFIG", config, "$PID", pid)
	if err := os.WriteFile(config, []byte(fill.Replace(p.file)), 0o644); err != nil {
		return nil, err
	}
	unit := "peer-" + p.name
	start := []string{"systemd-run", "--quiet", "--collect", "--unit=" + unit}
	if p.forks {
		start = append(start, "--property=Type=forking", "--property=PIDFile="+pid)
	}
	start = append(start, strings.Fields(fill.Replace(p.command))...)
	d := &daemon{key: p.name, policy: address, peer: &peer{p, unit, start}}
	if err := d.peer.start(ctx, address); err != nil {
		return nil, err
	}
	b.daemons = append(b.daemons, d)
	return d, nil
}

// rateLimitDatabase makes the database of policyd-rate-limit, in the cluster
// that is mailquotad's, too. It makes its table itself.
func (b *bench) rateLimitDatabase(ctx context.Context) error {
	if b.databases["ratelimit"] {
		return nil
	}
	err := b.exec(ctx, "postgres", "postgres", `CREATE DATABASE ratelimit OWNER mailquota`)
	b.databases["ratelimit"] = err == nil
	return err
}

// mostConnections is how many a peer must be ready for.
const mostConnections = 64

// start starts it, and waits until it answers on as many connections as it will
// have: postfwd2 makes a process for each.
func (p *peer) start(ctx context.Context, address string) error {
	if out, err := exec.CommandContext(ctx, p.command[0], p.command[1:]...).CombinedOutput(); err != nil {
		return p.failed(fmt.Errorf("start %s: %w\n%s", p.name, err, out))
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var connections []net.Conn
	defer func() {
		for _, c := range connections {
			c.Close()
		}
	}()
	for len(connections) < mostConnections {
		c, err := net.Dial(network(address), address)
		switch {
		case err == nil:
			connections = append(connections, c)
		case ctx.Err() != nil:
			return p.failed(fmt.Errorf("%s does not listen: %w", p.name, err))
		default:
			time.Sleep(10 * time.Millisecond)
		}
	}
	for _, c := range connections {
		until, _ := ctx.Deadline()
		c.SetDeadline(until)
		// A state at which nobody counts.
		_, err := io.WriteString(c, "request=smtpd_access_policy\nprotocol_state=VRFY\n\n")
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, len(answerAccepted)))
		}
		if err != nil {
			return p.failed(fmt.Errorf("%s does not answer: %w", p.name, err))
		}
	}
	return nil
}

// forget clears the counts of earlier measurements, where they would slow down
// the next one: policyd-rate-limit counts a mailbox's rows each time.
func (d *daemon) forget(ctx context.Context, b *bench) error {
	if d.peer == nil || !d.peer.keeps {
		return nil
	}
	return b.exec(ctx, "mailquota", "ratelimit", `TRUNCATE mail_count`)
}

// prove: one that keeps rows has as many as messages were accepted since it
// forgot.
func (p *peer) prove(ctx context.Context, g *generator) error {
	if !p.keeps {
		return nil
	}
	rows, err := g.bench.ask(ctx, "ratelimit", `SELECT count(*) FROM mail_count`)
	if err == nil && rows != g.accepted {
		err = fmt.Errorf("%d answers, but %d rows", g.accepted, rows)
	}
	return err
}

// used is the processor time of all its processes, also of those that have ended
// (cgroup v2, cpu.stat).
func (p *peer) used() time.Duration {
	text, err := os.ReadFile("/sys/fs/cgroup/system.slice/" + p.unit + ".service/cpu.stat")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), "\n")
	us, _ := strconv.ParseInt(strings.TrimPrefix(first, "usage_usec "), 10, 64)
	return time.Duration(us) * time.Microsecond
}

// kill ends all its processes at once, with no time to save anything.
func (p *peer) kill() error {
	if out, err := exec.Command("systemctl", "kill", "--kill-whom=all", "--signal=KILL", p.unit).CombinedOutput(); err != nil {
		return fmt.Errorf("kill %s: %w\n%s", p.name, err, out)
	}
	p.end()
	return nil
}

// end returns when it has ended. A unit that is gone already is an error of
// systemctl's, not ours.
func (p *peer) end() { exec.Command("systemctl", "stop", p.unit).Run() }

// failed adds the end of its log to an error.
func (p *peer) failed(err error) error {
	text, _ := exec.Command("journalctl", "--quiet", "--no-pager", "--output=cat", "--lines=20", "--unit="+p.unit).Output()
	return fmt.Errorf("%w\n%s", err, strings.TrimSpace(string(text)))
}

// peerSettings are those of the peers, and what they are beside.
func peerSettings(m machine) []setting {
	var list []setting
	for _, p := range programs {
		version, _ := exec.Command("dpkg-query", "--show", "--showformat=${Version}", p.pkg).Output()
		list = append(list, setting{p.name, string(version), p.command, p.file})
	}
	ours := "# A message is charged to mailbox, domain, subscription and server, with limits of messages and recipients\n" +
		"# an hour and a day each, and has a row of its own. But for log-level, nothing is set that matters here.\nlog-level = \"warn\"\n"
	database := ""
	for _, name := range slices.Sorted(maps.Keys(m.Settings)) {
		database += name + " = " + m.Settings[name] + "\n"
	}
	return append(list, setting{"mailquotad", m.Commit, "mailquotad --config $CONFIG", ours},
		setting{"postgres", m.PostgreSQL, "postgres -D $DIR/data", database})
}
