package main

import (
	"context"
	"fmt"
	"slices"
)

// Names of figures that others refer to.
const (
	pgbenchBest      = "pgbench, best of all"
	pgbenchAlone     = "pgbench, latency of one client"
	pgbenchPipelined = "pgbench pipelined, best of all"
)

// asked is a figure of decisions a second, on the daemons of some hosts.
func asked(f figure, database string, mailboxes, callers int, hosts []string, more string, access func() load) experiment {
	f.unit = "decisions/s"
	return experiment{[]figure{f}, func(ctx context.Context, b *bench) ([]sample, error) {
		name, err := b.database(ctx, database, mailboxes)
		if err != nil {
			return nil, err
		}
		l := access()
		l.callers = callers
		for _, host := range hosts {
			d, err := b.daemon(ctx, name, host, more)
			if err != nil {
				return nil, err
			}
			l.daemons = append(l.daemons, d)
		}
		p, err := b.rate(ctx, l)
		if err != nil {
			return nil, err
		}
		return []sample{p.sample()}, nil
	}}
}

// many is "1 caller", "64 callers".
func many(n int, what string) string {
	if n > 1 {
		what += "s"
	}
	return fmt.Sprint(n, " ", what)
}

var oneHost = []string{"one"}

// anyOf is access to any of n mailboxes, fewOf to some of n at a time.
func anyOf(n int) func() load { return func() load { return load{mailbox: uniform(n)} } }

func fewOf(n, at int) func() load { return func() load { return load{mailbox: moving(n, at)} } }

// decisions is pgbench and the daemon beside each other: as many clients as
// callers one after the other, so that little time lies between.
func decisions() block {
	k := block{name: "decisions"}
	var plain, pipelined []string
	daemon := func(database string, mailboxes, callers int) {
		name := thousands(fmt.Sprint(mailboxes)) + " mailboxes, " + many(callers, "caller")
		k.experiments = append(k.experiments, asked(figure{name: name, reference: pgbenchBest}, database, mailboxes, callers, oneHost, "", anyOf(mailboxes)))
	}
	for _, n := range []int{1, 16, 64} {
		wide, narrow := pgbench("wide", n, false), pgbench("narrow", n, false)
		k.experiments, plain = append(k.experiments, wide, narrow), append(plain, wide.figures[0].name, narrow.figures[0].name)
		daemon("hot", 50, n)
		daemon("many", 100_000, n)
	}
	daemon("hot", 50, 256)
	daemon("many", 100_000, 256)
	k.experiments = append(k.experiments, asked(figure{name: "50 mailboxes, 64 callers, with a log line each", reference: "50 mailboxes, 64 callers"},
		"hot", 50, 64, []string{"logging"}, "log-level = \"info\"\n", anyOf(50)))
	for _, n := range []int{1, 16, 64} {
		wide, narrow := pgbench("wide", n, true), pgbench("narrow", n, true)
		k.experiments, pipelined = append(k.experiments, wide, narrow), append(pipelined, wide.figures[0].name, narrow.figures[0].name)
	}
	k.derived = []derived{
		{figure{name: pgbenchBest, unit: "tx/s"}, plain, slices.Max[[]float64]},
		{figure{name: pgbenchPipelined, unit: "tx/s", reference: pgbenchBest}, pipelined, slices.Max[[]float64]},
		{figure{name: pgbenchAlone, unit: "ms"}, plain[:2], func(of []float64) float64 { return milliseconds(slices.Max(of)) }},
		{figure{name: "50 mailboxes, mean latency of one caller", unit: "ms", reference: pgbenchAlone}, []string{"50 mailboxes, 1 caller"},
			func(of []float64) float64 { return milliseconds(of[0]) }},
		{figure{name: "50 mailboxes, 64 callers, to pgbench pipelined", unit: "decisions/s", reference: pgbenchPipelined}, []string{"50 mailboxes, 64 callers"},
			func(of []float64) float64 { return of[0] }},
	}
	return k
}

// objects is the same load on databases of several sizes.
func objects() block {
	k := block{name: "number of objects, 64 callers"}
	add := func(f figure, database string, n int, access func() load) {
		k.experiments = append(k.experiments, asked(f, database, n, 64, oneHost, "", access))
	}
	ten, fifty, hundred := "10 mailboxes in all", "50 mailboxes in all", "100,000 mailboxes, any"
	add(figure{name: ten}, "ten", 10, fewOf(10, 10))
	add(figure{name: "10 of 10,000 mailboxes at a time", reference: ten}, "medium", 10_000, fewOf(10_000, 10))
	add(figure{name: "10 of 1,000,000 mailboxes at a time", reference: ten}, "million", 1_000_000, fewOf(1_000_000, 10))
	add(figure{name: fifty}, "hot", 50, fewOf(50, 50))
	add(figure{name: "50 of 1,000,000 mailboxes at a time", reference: fifty}, "million", 1_000_000, fewOf(1_000_000, 50))
	add(figure{name: hundred}, "many", 100_000, anyOf(100_000))
	add(figure{name: "10,000 mailboxes, any", reference: hundred}, "medium", 10_000, anyOf(10_000))
	add(figure{name: "1,000,000 mailboxes, any", reference: hundred}, "million", 1_000_000, anyOf(1_000_000))
	return k
}

const oldMessages, oldDays = 10_000_000, 7

// events is the same load with and without ten million rows of messages.
func events() block {
	without := "10,000 mailboxes, no earlier messages"
	with := asked(figure{name: "10,000 mailboxes, 10,000,000 earlier messages", reference: without}, "archive", 10_000, 64, oneHost, "", anyOf(10_000))
	measure := with.measure
	with.measure = func(ctx context.Context, b *bench) ([]sample, error) {
		if _, err := b.archive(ctx); err != nil {
			return nil, err
		}
		return measure(ctx, b)
	}
	return block{name: "earlier messages, 64 callers", experiments: []experiment{
		asked(figure{name: without}, "medium", 10_000, 64, oneHost, "", anyOf(10_000)), with}}
}

// archive is a database with oldMessages, loaded once.
func (b *bench) archive(ctx context.Context) (string, error) {
	if b.databases["archive"] {
		return "archive", nil
	}
	name, err := b.database(ctx, "archive", 10_000)
	if err == nil {
		err = b.loadMessages(ctx, name, oldMessages, oldDays, 10_000)
	}
	if err != nil {
		return "", err
	}
	if n, err := b.ask(ctx, name, `SELECT count(*) FROM messages`); err != nil || n != oldMessages {
		return "", fmt.Errorf("%d messages loaded, %v", n, err)
	}
	return name, nil
}

// hosts is one daemon and three on one database.
func hosts() block {
	k := block{name: "hosts on one database"}
	three := []string{"one", "two", "three"}
	for _, callers := range []int{64, 256} {
		one := fmt.Sprintf("1 host, %d callers, 100,000 mailboxes", callers)
		k.experiments = append(k.experiments,
			asked(figure{name: one}, "many", 100_000, callers, oneHost, "", anyOf(100_000)),
			asked(figure{name: fmt.Sprintf("3 hosts, %d callers in all, 100,000 mailboxes", callers), reference: one}, "many", 100_000, callers, three, "", anyOf(100_000)))
	}
	one := "1 host, 64 callers, 50 mailboxes"
	k.experiments = append(k.experiments,
		asked(figure{name: one}, "hot", 50, 64, oneHost, "", anyOf(50)),
		asked(figure{name: "3 hosts, 64 callers in all, 50 mailboxes", reference: one}, "hot", 50, 64, three, "", anyOf(50)))
	return k
}
