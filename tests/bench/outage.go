package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// snapshot is one idle transaction that keeps what was dead since alive.
func snapshot() block {
	before := "before it, 64 callers, 50 mailboxes"
	f := []figure{{name: before, unit: "decisions/s"}}
	for _, name := range []string{"its seconds 1 and 2", "its seconds 3 and 4", "its seconds 5 and 6", "2 seconds after it"} {
		f = append(f, figure{name, "decisions/s", before})
	}
	f = append(f, figure{name: "table usage before it", unit: "kB"}, figure{"table usage after it", "kB", "table usage before it"})
	return block{name: "an open snapshot", once: true, experiments: []experiment{{f,
		func(ctx context.Context, b *bench) ([]sample, error) { return b.underSnapshot(ctx) }}}}
}

func (b *bench) underSnapshot(ctx context.Context) ([]sample, error) {
	database, err := b.database(ctx, "snapshot", 50)
	if err != nil {
		return nil, err
	}
	d, err := b.daemon(ctx, database, "one", "")
	if err != nil {
		return nil, err
	}
	idle, err := pgx.Connect(ctx, b.as("postgres", database))
	if err != nil {
		return nil, err
	}
	defer idle.Close(context.Background())
	g, err := b.begin(load{daemons: []*daemon{d}, callers: 64, mailbox: uniform(50)})
	if err != nil {
		return nil, err
	}
	defer g.end()
	var list []sample
	phase := func() {
		if err == nil {
			var p *phase
			if p, err = g.phase(ctx, 2*time.Second); err == nil {
				list = append(list, p.sample())
			}
		}
	}
	if _, err := g.phase(ctx, settling); err != nil {
		return nil, err
	}
	phase()
	sizeBefore, err := b.usageSize(ctx, database)
	if err != nil {
		return nil, err
	}
	if _, err := idle.Exec(ctx, `BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM host`); err != nil {
		return nil, err
	}
	for range 3 {
		phase()
	}
	if _, e := idle.Exec(ctx, `COMMIT`); e != nil {
		return nil, fmt.Errorf("the snapshot did not last: %w", e)
	}
	phase()
	sizeAfter, e := b.usageSize(ctx, database)
	if err == nil {
		err = e
	}
	if e := g.end(); err == nil {
		err = e
	}
	if err == nil {
		err = g.prove(ctx)
	}
	if err != nil {
		return nil, d.failed(err)
	}
	return append(list, sample{value: sizeBefore}, sample{value: sizeAfter}), nil
}

func (b *bench) usageSize(ctx context.Context, database string) (kb float64, err error) {
	n, err := b.ask(ctx, database, `SELECT pg_total_relation_size('usage') / 1024`)
	return float64(n), err
}

// outage is a database that is stopped in the middle of the load, and comes back.
func outage() block {
	before := "database up, 64 callers, 50 mailboxes"
	return block{name: "on the journal", once: true, experiments: []experiment{{[]figure{
		{name: before, unit: "decisions/s"},
		{name: "longest wait for an answer as it stops", unit: "ms"},
		{"database down, by the journal", "decisions/s", before},
		{"booked on its return", "messages/s", before},
		{name: "until all is booked, from its return", unit: "ms"},
	}, func(ctx context.Context, b *bench) ([]sample, error) { return b.throughOutage(ctx) }}}}
}

func (b *bench) throughOutage(ctx context.Context) ([]sample, error) {
	database, err := b.database(ctx, "outage", 50)
	if err != nil {
		return nil, err
	}
	d, err := b.daemon(ctx, database, "one", "")
	if err != nil {
		return nil, err
	}
	g, err := b.begin(load{daemons: []*daemon{d}, callers: 64, mailbox: uniform(50)})
	if err != nil {
		return nil, err
	}
	defer g.end()
	if _, err := g.phase(ctx, settling); err != nil {
		return nil, err
	}
	up, err := g.phase(ctx, b.period())
	if err != nil {
		return nil, err
	}
	stopped := make(chan error, 1)
	go func() { stopped <- b.server.Stop() }()
	// Longer than the decision-timeout, after which the daemon goes on without.
	turn, err := g.phase(ctx, 7*time.Second)
	if e := <-stopped; e != nil {
		return nil, e
	}
	down := turn
	if err == nil {
		down, err = g.journal(ctx, b.period())
	}
	if e := g.end(); err == nil {
		err = e
	}
	journal, e := d.status()
	if err == nil {
		err = e
	}
	if err == nil && journal.Journal.Messages == 0 {
		err = fmt.Errorf("%d answers, and nothing is in the journal", g.accepted)
	}
	if e := b.startServer(ctx); err == nil {
		err = e
	}
	if err != nil {
		return nil, d.failed(err)
	}
	took, err := d.awaitBooked(ctx)
	if err == nil {
		err = g.prove(ctx)
	}
	if err != nil {
		return nil, d.failed(err)
	}
	booked := fmt.Sprintf("%d messages", journal.Journal.Messages)
	return []sample{up.sample(), {value: float64(turn.gap.Milliseconds())}, down.sample(),
		{value: float64(journal.Journal.Messages) / took.Seconds(), note: booked}, {value: float64(took.Milliseconds())}}, nil
}

// journal is a phase without PostgreSQL, whose time can't be taken.
func (g *generator) journal(ctx context.Context, d time.Duration) (*phase, error) {
	before := usedByDaemons(g.daemons)
	p, err := g.phase(ctx, d)
	if err == nil {
		each := float64((usedByDaemons(g.daemons) - before).Microseconds()) / float64(p.answers)
		p.cpu = &cpu{Daemon: each, Generator: p.cpu.Generator}
	}
	return p, err
}

// awaitBooked waits until nothing is in the journal.
func (d *daemon) awaitBooked(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	for {
		s, err := d.status()
		switch {
		case err != nil:
			return 0, err
		case s.Journal.Failed > 0:
			return 0, fmt.Errorf("%d messages could not be booked", s.Journal.Failed)
		case s.Journal.Messages == 0:
			return time.Since(start), nil
		case time.Since(start) > 5*time.Minute:
			return 0, fmt.Errorf("%d messages are not booked after %s", s.Journal.Messages, time.Since(start))
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-d.done:
			return 0, fmt.Errorf("mailquotad ended")
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}
