package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// questions are what an administrator asks, of one customer and of all.
var questions = []string{
	"usage subscription:customer7",
	"limit show subscription:customer7",
	"subscription show customer7",
	"report attempts --since 7d",
	"report top --by subscription --since 7d",
	"report top --by domain --since 24h",
	"report messages --subscription customer7 --since 1h",
	"__complete limit set subscription:cust",
}

// reads is how long each question takes, with ten million messages of a week: of
// mailctl as a program, from its start to its end, while the daemon runs that
// keeps the sums.
func reads() block {
	k := block{name: "mailctl, 10,000,000 messages of 7 days"}
	for _, question := range questions {
		k.experiments = append(k.experiments, experiment{[]figure{{name: "mailctl " + question, unit: "ms"}},
			func(ctx context.Context, b *bench) ([]sample, error) { return b.question(ctx, question) }})
	}
	return k
}

// question asks as often as there is time for, three times at least.
func (b *bench) question(ctx context.Context, question string) ([]sample, error) {
	database, err := b.archive(ctx)
	if err != nil {
		return nil, err
	}
	d, err := b.daemon(ctx, database, "one", "")
	if err != nil {
		return nil, err
	}
	if err := b.awaitSums(ctx, database); err != nil {
		return nil, d.failed(err)
	}
	took := &histogram{}
	for end, n := time.Now().Add(b.period()), 0; n < 3 || time.Now().Before(end); n++ {
		var stdout, stderr bytes.Buffer
		cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "mailctl"), append([]string{"--config", d.config}, strings.Fields(question)...)...)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		began := time.Now()
		err := cmd.Run()
		took.add(time.Since(began))
		if err != nil {
			return nil, fmt.Errorf("%w: %s", err, stderr.Bytes())
		}
		// Nobody of the archive was refused anything.
		if stdout.Len() == 0 && !strings.Contains(question, "attempts") {
			return nil, fmt.Errorf("no answer: %s", stderr.Bytes())
		}
	}
	return []sample{{value: took.quantile(0.5), latency: took}}, nil
}

// awaitSums waits until the daemon has summed up each day that is over.
func (b *bench) awaitSums(ctx context.Context, database string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for {
		left, err := b.ask(ctx, database, `SELECT count(*) FROM (SELECT to_date(right(c.relname, 8), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC' AS at
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'messages'::regclass) day
 WHERE at + interval '26 hours' < now() AND NOT EXISTS (SELECT FROM summed s WHERE s.span = 'day' AND s.at = day.at AND NOT s.dirty)`)
		if err != nil || left == 0 {
			return err
		}
		b.say("%s are not summed up yet", many(int(left), "day"))
		select {
		case <-ctx.Done():
			return errors.New("the sums are not made")
		case <-time.After(10 * time.Second):
		}
	}
}
