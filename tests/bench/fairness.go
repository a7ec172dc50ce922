package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// fairness is how long a user's calls of sendmail take while another makes thousands,
// 500 at a time, in a throw-away server.
func fairness() block {
	alone := "fairness: a call of one user, others silent, p99"
	return block{name: "users take turns", once: true, experiments: []experiment{{[]figure{
		{name: alone, unit: "ms"}, {"fairness: a call of one user, another makes 10,000, 500 at a time, p99", "ms", alone},
		{name: "fairness: calls of that other", unit: "/s"},
	}, func(ctx context.Context, b *bench) ([]sample, error) { return b.storm(ctx) }}}}
}

// storm is what command call prints; its own source says more.
type storm struct {
	Alone, Beside []float64 // ms
	Seconds       float64
	Exits         map[int]int
}

func (b *bench) storm(ctx context.Context) (list []sample, err error) {
	name := fmt.Sprintf("bench-%d", os.Getpid())
	defer exec.Command("tests/server", "down", name).Run()
	if err := upServer(ctx, name); err != nil {
		return nil, err
	}
	calls := 10000
	if b.rounds == 1 {
		calls = 2000
	}
	out, err := inServer(ctx, name, `printf 'Subject: small\n\nbody\n' >/tmp/small
		postconf -e "header_checks = regexp:{ { /^Subject:/ HOLD } }"
		postfix reload
		exec /tmp/call fairness /tmp/small `+strconv.Itoa(calls)+" 500")
	if err != nil {
		return nil, err
	}
	var s storm
	if err := json.Unmarshal(out, &s); err != nil {
		return nil, fmt.Errorf("it said %q: %w", out, err)
	}
	// Each call was let pass (0) or refused (69), and is a row.
	rows, err := inServer(ctx, name, `cd /; runuser -u postgres -- psql -h /run/mailquota-postgresql -d mailquota -Atc 'SELECT count(*) FROM messages'`)
	if err != nil {
		return nil, err
	}
	want := calls + len(s.Alone) + len(s.Beside)
	if n := strings.TrimSpace(string(rows)); s.Exits[0]+s.Exits[69] != calls || n != strconv.Itoa(want) {
		return nil, fmt.Errorf("%d calls ended with %v, and there are %s rows, not %d", calls, s.Exits, n, want)
	}
	note := fmt.Sprintf("of %d calls %d were accepted, %d refused", calls, s.Exits[0], s.Exits[69])
	alone, beside := histogramOf(s.Alone), histogramOf(s.Beside)
	return []sample{
		{value: alone.quantile(0.99), latency: alone}, {value: beside.quantile(0.99), latency: beside, note: note},
		{value: float64(calls) / s.Seconds, note: note},
	}, nil
}

func histogramOf(ms []float64) *histogram {
	var h histogram
	for _, v := range ms {
		h.add(time.Duration(v * float64(time.Millisecond)))
	}
	return &h
}
