package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// exactness is three hosts that race for limits of all levels: a check, with
// its figures.
func exactness() block {
	k := block{name: "exactness, 3 hosts × 256 callers", once: true}
	for _, c := range []struct {
		what   string
		server int
	}{{"limits below the server bind", 2_000_000_000}, {"the server's limit binds, too", 10_000}} {
		k.experiments = append(k.experiments, experiment{
			[]figure{{name: "accepted, " + c.what, unit: "messages"}, {name: "rate, " + c.what, unit: "decisions/s"}},
			func(ctx context.Context, b *bench) ([]sample, error) { return b.exact(ctx, c.server) }})
	}
	return k
}

// Of 50 mailboxes, 1 to 20 (subscription 1) have a limit each, 21 to 40
// (subscription 2) one for each of their domains, 41 to 50 (subscription 3) one
// for all.
const (
	ofMailbox      = 300  // messages/hour
	ofDomain       = 3000 // messages, as recipients/hour
	ofSubscription = 4000 // messages, as recipients/day
	attemptsByHost = 20_000
)

var bindingLimits = []string{
	fmt.Sprintf(`INSERT INTO limits (owner_id, class, messages_hour) SELECT 2::bigint << 40 | n, 2, %d FROM generate_series(1, 20) n
		ON CONFLICT (owner_id, class) DO UPDATE SET messages_hour = excluded.messages_hour`, ofMailbox),
	fmt.Sprintf(`INSERT INTO limits (owner_id, class, recipients_hour) SELECT 3::bigint << 40 | n, 3, %d FROM generate_series(3, 4) n`, ofDomain),
	fmt.Sprintf(`INSERT INTO limits (owner_id, class, recipients_day) VALUES (4::bigint << 40 | 3, 4, %d)`, ofSubscription),
}

func (b *bench) exact(ctx context.Context, server int) ([]sample, error) {
	database, err := b.database(ctx, fmt.Sprintf("exact%d", server), 50)
	if err != nil {
		return nil, err
	}
	err = b.exec(ctx, "mailquota", database, append(bindingLimits,
		fmt.Sprintf(`UPDATE limits SET messages_day = %d WHERE owner_id = 6::bigint << 40 AND class = 6`, server))...)
	if err != nil {
		return nil, err
	}
	l := load{callers: 3 * 256, mailbox: uniform(50), attempts: 3 * attemptsByHost, refusals: true, byObject: 50}
	for _, host := range []string{"one", "two", "three"} {
		d, err := b.daemon(ctx, database, host, "")
		if err != nil {
			return nil, err
		}
		l.daemons = append(l.daemons, d)
	}
	g, err := b.begin(l)
	if err != nil {
		return nil, err
	}
	p, err := g.phase(ctx, 5*time.Minute)
	if e := g.end(); err == nil {
		err = e
	}
	if err == nil && g.accepted+g.refused != l.attempts {
		err = fmt.Errorf("%d answers to %d attempts", g.accepted+g.refused, l.attempts)
	}
	if err == nil {
		err = g.prove(ctx)
	}
	if err != nil {
		return nil, l.daemons[0].failed(err)
	}
	if err := g.proveExact(ctx, server); err != nil {
		return nil, fmt.Errorf("FAIL: %w", err)
	}
	if err := b.checkDatabase(ctx, l.daemons[0]); err != nil {
		return nil, fmt.Errorf("FAIL: %w", err)
	}
	return []sample{{value: float64(g.accepted), note: fmt.Sprintf("PASS: %d refused; mailctl database check finds nothing", g.refused)}, p.sample()}, nil
}

// proveExact: each object has accepted as much as its limits and those above it
// let through, not one more, and the rows say the same as the answers. Every
// refusal needs a full object above the mailbox, and all messages cost the same,
// so the most that is possible does not depend on their order.
func (g *generator) proveExact(ctx context.Context, server int) error {
	sum := func(first, last int) (n int64) {
		for m := first; m <= last; m++ {
			n += g.by[m]
		}
		return n
	}
	type object struct {
		name     string
		accepted int64
		limit    int
	}
	var binding []object
	for m := 1; m <= 20; m++ {
		binding = append(binding, object{fmt.Sprint("mailbox ", m), sum(m, m), ofMailbox})
	}
	binding = append(binding, object{"domain 3", sum(21, 30), ofDomain}, object{"domain 4", sum(31, 40), ofDomain}, object{"subscription 3", sum(41, 50), ofSubscription})
	most := 0
	for _, o := range binding {
		most += o.limit
	}
	for _, o := range binding {
		if o.accepted > int64(o.limit) || server > most && o.accepted < int64(o.limit) {
			return fmt.Errorf("%s accepted %d at a limit of %d", o.name, o.accepted, o.limit)
		}
	}
	if most = min(most, server); g.accepted != int64(most) {
		return fmt.Errorf("%d accepted, %d are possible", g.accepted, most)
	}
	rows, err := g.bench.acceptedByMailbox(ctx, g.daemons[0].database)
	if err != nil {
		return err
	}
	for m, accepted := range g.by[1:] {
		if rows[m+1] != accepted {
			return fmt.Errorf("mailbox %d: %d accepted by the answers, %d by the rows", m+1, accepted, rows[m+1])
		}
	}
	return nil
}

func (b *bench) acceptedByMailbox(ctx context.Context, database string) (map[int]int64, error) {
	conn, err := pgx.Connect(ctx, b.as("postgres", database))
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.Background())
	rows, err := conn.Query(ctx, `SELECT (mailbox_id - (2::bigint << 40))::integer, count(*) FROM messages WHERE decision = 1 GROUP BY 1`)
	if err != nil {
		return nil, err
	}
	accepted := map[int]int64{}
	var mailbox int
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&mailbox, &n}, func() error {
		accepted[mailbox] = n
		return nil
	})
	return accepted, err
}

func (b *bench) checkDatabase(ctx context.Context, d *daemon) error {
	out, err := exec.CommandContext(ctx, filepath.Join(b.bin, "mailctl"), "--config", d.config, "database", "check").CombinedOutput()
	if err != nil {
		return fmt.Errorf("mailctl database check: %w\n%s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
