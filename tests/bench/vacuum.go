package main

import (
	"context"
	"time"
)

// vacuum is ten million messages without a pause: the counters must not grow,
// and the rate must not sink.
func vacuum() block {
	first := "first minute"
	return block{name: "ten million messages, 256 callers, 10,000 mailboxes", once: true, experiments: []experiment{{[]figure{
		{name: first, unit: "decisions/s"},
		{"last minute", "decisions/s", first},
		{name: "table usage after the first minute", unit: "kB"},
		{"table usage at the end", "kB", "table usage after the first minute"},
		{name: "dead rows of usage at the end", unit: "rows"},
		{name: "autovacuums of usage", unit: "times"},
		{name: "autovacuums of messages", unit: "times"},
	}, func(ctx context.Context, b *bench) ([]sample, error) { return b.vacuum(ctx) }}}}
}

func (b *bench) vacuum(ctx context.Context) ([]sample, error) {
	const messages = 10_000_000
	database, err := b.database(ctx, "vacuum", 10_000)
	if err != nil {
		return nil, err
	}
	d, err := b.daemon(ctx, database, "one", "")
	if err != nil {
		return nil, err
	}
	g, err := b.begin(load{daemons: []*daemon{d}, callers: 256, attempts: messages, mailbox: uniform(10_000)})
	if err != nil {
		return nil, err
	}
	defer g.end()
	first, err := g.phase(ctx, time.Minute)
	if err != nil {
		return nil, d.failed(err)
	}
	sizeAtFirst, err := b.usageSize(ctx, database)
	if err != nil {
		return nil, err
	}
	last := first
	for answered := first.answers; !g.ended(); {
		p, err := g.phase(ctx, time.Minute)
		if g.ended() {
			break // in what was no whole minute
		}
		if err != nil {
			return nil, d.failed(err)
		}
		last = p
		answered += p.answers
		b.say("%d of %d messages, %.0f/s", answered, messages, p.rate())
	}
	if err := g.end(); err != nil {
		return nil, d.failed(err)
	}
	if err := g.prove(ctx); err != nil {
		return nil, err
	}
	list := []sample{first.sample(), last.sample(), {value: sizeAtFirst}}
	size, err := b.usageSize(ctx, database)
	if err != nil {
		return nil, err
	}
	list = append(list, sample{value: size})
	for _, sql := range []string{
		`SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'usage'`,
		`SELECT autovacuum_count FROM pg_stat_user_tables WHERE relname = 'usage'`,
		`SELECT sum(autovacuum_count)::bigint FROM pg_stat_user_tables WHERE relname LIKE 'messages_%'`,
	} {
		n, err := b.ask(ctx, database, sql)
		if err != nil {
			return nil, err
		}
		list = append(list, sample{value: float64(n)})
	}
	return list, nil
}
