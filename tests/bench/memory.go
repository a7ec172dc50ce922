package main

import (
	"context"
	"math/rand/v2"
	"time"
)

// memory is what the daemon holds.
func memory() block {
	return block{name: "memory of the daemon", once: true, experiments: []experiment{{[]figure{
		{name: "resident, idle", unit: "MB"},
		{name: "resident, at most with 256 callers, 50 mailboxes", unit: "MB"},
		{name: "resident, at most with 256 callers who touch 1,000,000 mailboxes", unit: "MB"},
		{name: "resident, right after that", unit: "MB"},
		{name: "1,000,000 mailboxes, one after the other, 256 callers", unit: "decisions/s"},
	}, func(ctx context.Context, b *bench) ([]sample, error) { return b.memory(ctx) }}}}
}

func (b *bench) memory(ctx context.Context) ([]sample, error) {
	const many = 1_000_000
	hot, err := b.database(ctx, "hot", 50)
	if err != nil {
		return nil, err
	}
	d, err := b.daemon(ctx, hot, "memory", "")
	if err != nil {
		return nil, err
	}
	idle, err := memoryOf(d.process.Pid, "VmRSS")
	if err != nil {
		return nil, err
	}
	if _, err := b.rate(ctx, load{daemons: []*daemon{d}, callers: 256, mailbox: uniform(50)}); err != nil {
		return nil, err
	}
	busy, err := memoryOf(d.process.Pid, "VmHWM")
	if err != nil {
		return nil, err
	}
	million, err := b.database(ctx, "million", many)
	if err != nil {
		return nil, err
	}
	big, err := b.daemon(ctx, million, "memory", "")
	if err != nil {
		return nil, err
	}
	next := 0
	l := load{daemons: []*daemon{big}, callers: 256, attempts: many, mailbox: func(*rand.Rand) int { next++; return next }}
	g, err := b.begin(l)
	if err != nil {
		return nil, err
	}
	p, err := g.phase(ctx, 10*time.Minute)
	if e := g.end(); err == nil {
		err = e
	}
	if err == nil {
		err = g.prove(ctx)
	}
	if err != nil {
		return nil, big.failed(err)
	}
	most, err := memoryOf(big.process.Pid, "VmHWM")
	if err != nil {
		return nil, err
	}
	after, err := memoryOf(big.process.Pid, "VmRSS")
	return []sample{{value: idle}, {value: busy}, {value: most}, {value: after}, p.sample()}, err
}
