package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"time"
)

// bench is one run.
type bench struct {
	wanted   *regexp.Regexp // names of the figures to measure
	rounds   int
	seconds  int // of one measurement
	out      io.Writer
	failures []string
	place
}

// period is how long one measurement takes.
func (b *bench) period() time.Duration { return time.Duration(b.seconds) * time.Second }

// figure is what one row of the table tells.
type figure struct {
	name      string
	unit      string
	reference string // name of another figure of the same block, or ""
}

// sample is the value of a figure in one round.
type sample struct {
	value   float64
	ratio   float64    // to the reference, where both were measured pair by pair; else 0
	latency *histogram // nil: not measured
	cpu     *cpu       // of one message; nil: not measured
	note    string
}

// experiment is what is measured in one go: figures that take turns are
// experiments of one block.
type experiment struct {
	figures []figure
	measure func(ctx context.Context, b *bench) ([]sample, error) // one for each figure
}

// derived is a figure that is computed from the values of others of its block,
// round by round.
type derived struct {
	figure
	of      []string
	compute func(of []float64) float64
}

// block is a number of experiments that take turns. What it started is ended
// after it.
type block struct {
	name        string
	once        bool // in one round only: it takes long, or leaves its database changed
	experiments []experiment
	derived     []derived
}

// results are the samples of a block, by name of the figure, one each round.
type results map[string][]sample

// measure runs a block, and returns its rows.
func (b *bench) measure(ctx context.Context, k block) []row {
	chosen, need := b.chosen(k)
	if len(chosen) == 0 {
		return nil
	}
	rounds := b.rounds
	if k.once {
		rounds = 1
	}
	defer b.endDaemons()
	got, failed := results{}, map[string]bool{}
	for round := range rounds {
		for _, e := range chosen {
			if name := e.figures[0].name; !failed[name] && ctx.Err() == nil {
				failed[name] = !b.once(ctx, round, e, got)
			}
		}
	}
	for _, d := range k.derived {
		for round := range rounds {
			if of := values(got, d.of, round); need[d.name] && len(of) > 0 {
				got[d.name] = append(got[d.name], sample{value: d.compute(of)})
			}
		}
	}
	return rows(k, got)
}

// once measures one experiment in one round.
func (b *bench) once(ctx context.Context, round int, e experiment, got results) (ok bool) {
	samples, err := e.measure(ctx, b)
	if err == nil && len(samples) != len(e.figures) {
		err = fmt.Errorf("%d values for %d figures", len(samples), len(e.figures))
	}
	if err != nil {
		if ctx.Err() == nil {
			text := fmt.Sprintf("%s: %v", e.figures[0].name, err)
			b.failures = append(b.failures, text)
			b.say("FAILED %s", text)
		}
		return false
	}
	for i, f := range e.figures {
		got[f.name] = append(got[f.name], samples[i])
		b.say("%d/%d  %-62s %s %s %s", round+1, b.rounds, f.name, number(samples[i].value), f.unit, samples[i].note)
	}
	return true
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.out, time.Now().Format("15:04:05")+" "+format+"\n", args...)
}

// chosen are the experiments of a block that are wanted, with their references;
// need has the names of all figures that are.
func (b *bench) chosen(k block) (list []experiment, need map[string]bool) {
	need = map[string]bool{}
	for _, d := range k.derived {
		need[d.name] = b.wanted.MatchString(d.name)
	}
	for _, e := range k.experiments {
		for _, f := range e.figures {
			need[f.name] = b.wanted.MatchString(f.name)
		}
	}
	// A reference may have one of its own, and comes in any order.
	for range 3 {
		for _, e := range k.experiments {
			for _, f := range e.figures {
				need[f.reference] = need[f.reference] || need[f.name]
			}
		}
		for _, d := range k.derived {
			need[d.reference] = need[d.reference] || need[d.name]
			for _, name := range d.of {
				need[name] = need[name] || need[d.name]
			}
		}
	}
	for _, e := range k.experiments {
		if slices.ContainsFunc(e.figures, func(f figure) bool { return need[f.name] }) {
			list = append(list, e)
		}
	}
	return list, need
}

// values are those of some figures in one round; those that failed are left out.
func values(got results, names []string, round int) []float64 {
	var list []float64
	for _, name := range names {
		if samples := got[name]; round < len(samples) {
			list = append(list, samples[round].value)
		}
	}
	return list
}

// rows makes the rows of a block from its samples.
func rows(k block, got results) []row {
	var list []row
	add := func(f figure) {
		samples := got[f.name]
		if len(samples) == 0 {
			return
		}
		r := row{Block: k.name, Name: f.name, Unit: f.unit, Reference: f.reference}
		var ratios []float64
		for i, s := range samples {
			r.Rounds = append(r.Rounds, s.value)
			switch of := got[f.reference]; {
			case s.ratio != 0:
				ratios = append(ratios, s.ratio)
			case i < len(of) && of[i].value != 0:
				ratios = append(ratios, s.value/of[i].value)
			}
			if s.note != "" {
				r.Note = s.note
			}
		}
		r.Value, r.Min, r.Max = spread(r.Rounds)
		if len(ratios) > 0 {
			r.Ratio, r.RatioMin, r.RatioMax = spread(ratios)
		}
		r.Latency, r.CPU = medianLatency(samples), medianCPU(samples)
		list = append(list, r)
	}
	for _, e := range k.experiments {
		for _, f := range e.figures {
			add(f)
		}
	}
	for _, d := range k.derived {
		add(d.figure)
	}
	return list
}

// spread returns the median, the least and the most.
func spread[T cmp.Ordered](list []T) (median, least, most T) {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2], sorted[0], sorted[len(sorted)-1]
}

func medianLatency(samples []sample) *latency {
	var p50, p99, p999, most []float64
	for _, s := range samples {
		if s.latency != nil {
			p50, p99 = append(p50, s.latency.quantile(0.5)), append(p99, s.latency.quantile(0.99))
			p999, most = append(p999, s.latency.quantile(0.999)), append(most, s.latency.quantile(1))
		}
	}
	if len(p50) == 0 {
		return nil
	}
	middle := func(list []float64) float64 { m, _, _ := spread(list); return m }
	return &latency{P50: middle(p50), P99: middle(p99), P999: middle(p999), Max: middle(most)}
}

func medianCPU(samples []sample) *cpu {
	var postgres, daemon, generator []float64
	for _, s := range samples {
		if s.cpu != nil {
			postgres, daemon, generator = append(postgres, s.cpu.Postgres), append(daemon, s.cpu.Daemon), append(generator, s.cpu.Generator)
		}
	}
	if len(postgres) == 0 {
		return nil
	}
	middle := func(list []float64) float64 { m, _, _ := spread(list); return m }
	return &cpu{Postgres: middle(postgres), Daemon: middle(daemon), Generator: middle(generator)}
}
