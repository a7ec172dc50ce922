package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// questions are what an administrator asks, of one customer and of all.
var questions = []string{
	"usage subscription:c7",
	"limit show subscription:c7",
	"subscription show c7",
	"report attempts --since 7d",
	"report top --by subscription --since 7d",
	"report top --by domain --since 24h",
	"report messages --subscription c7 --since 1h",
	"__complete limit set subscription:c1",
}

// question asks mailctl as a program, from its start to its end, as often as there
// is time for, three times at least.
func (b *bench) question(ctx context.Context, database, question string) ([]sample, error) {
	d, err := b.daemon(ctx, database, "one", "")
	if err != nil {
		return nil, err
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
		if stdout.Len() == 0 {
			return nil, fmt.Errorf("no answer: %s", stderr.Bytes())
		}
	}
	return []sample{{value: took.quantile(0.5), latency: took}}, nil
}
