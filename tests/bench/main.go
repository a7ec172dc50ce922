// Command bench is make bench: how fast the service is, each figure beside its
// reference in the same run.
//
// It makes a PostgreSQL cluster as mailctl database init would, on a real disk
// and durable, starts the real mailquotad on it, and asks that through its
// sockets. What is compared takes turns, A B A B …, so that both meet the machine
// in the same mood; the value is the median of the rounds, the ratio the median
// of the rounds' ratios. Each figure proves that it measured what it says: as
// many rows in the database as answers, no answer but the one expected. A figure
// that cannot prove it fails, and so does the program. It never judges a speed.
//
// docs/performance.md says what each figure is.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
)

const usage = `usage: bench [-rows REGEXP] [-quick] [-long | -peers]   (by make bench and make bench-peers; where bin/ is)
       bench markdown FILE                              the table of a build/bench.json, for docs/performance.md
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	rows := flags.String("rows", "", "only figures whose name this matches, and their references")
	quick := flags.Bool("quick", false, "one round instead of five")
	long := flags.Bool("long", false, "also what takes many minutes")
	beside := flags.Bool("peers", false, "instead of all else, mailquotad beside other policy servers: in a throw-away server of layer peers")
	flags.Parse(args)
	switch {
	case flags.NArg() == 3 && flags.Arg(0) == "ask": // a process of block wire
		return askMany(flags.Arg(1), flags.Arg(2))
	case flags.NArg() == 5 && flags.Arg(0) == "master": // processes of block lookups
		return playMaster(flags.Args()[1:])
	case flags.NArg() == 4 && flags.Arg(0) == "worker":
		return playWorker(flags.Args()[1:])
	case flags.NArg() == 2 && flags.Arg(0) == "markdown":
		return printMarkdown(flags.Arg(1))
	case flags.NArg() > 0:
		flags.Usage()
		os.Exit(2)
	}
	wanted, err := regexp.Compile(*rows)
	if err != nil {
		return fmt.Errorf("-rows: %w", err)
	}
	b := &bench{wanted: wanted, rounds: 5, seconds: 2, out: os.Stderr}
	if *quick {
		b.rounds = 1
	}
	return b.run(ctx, *long, *beside)
}

// all is everything that is measured, in order.
func all(long bool) []block {
	blocks := []block{decisions(), texts(), objects(), events(), reads(), hosts(), wires(), lookups(), snapshot(), outage(), exactness(), memory(), calls(), fairness()}
	if long {
		blocks = append(blocks, vacuum())
	}
	return blocks
}

func (b *bench) run(ctx context.Context, long, beside bool) (err error) {
	if err := b.open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	report := report{Machine: b.machine(ctx), Rounds: b.rounds, Seconds: b.seconds}
	blocks, path := all(long), "build/bench.json"
	if beside {
		blocks, path, report.Settings = peers(), "build/bench-peers.json", peerSettings(report.Machine)
	}
	for _, block := range blocks {
		report.Rows = append(report.Rows, b.measure(ctx, block)...)
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
	}
	report.Failures = b.failures
	report.print(os.Stdout)
	if err := report.write(path); err != nil {
		return err
	}
	if n := len(b.failures); n > 0 {
		return errors.New(many(n, "measurement") + " failed")
	}
	return nil
}

func (r *report) write(path string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
