package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"time"
)

// What pgbench does in one transaction: one counter, one event.
//
// Wide has the columns and the key of messages, and few counters, which
// transactions wait for; narrow is the least that could be said of a message,
// without a key, and a counter for each of many.
var pgbenchTables = []string{
	`CREATE TABLE counter_wide (id integer PRIMARY KEY, n bigint NOT NULL) WITH (fillfactor = 80)`,
	`INSERT INTO counter_wide SELECT n, 0 FROM generate_series(1, 50) n`,
	`CREATE TABLE counter_narrow (id integer PRIMARY KEY, n bigint NOT NULL) WITH (fillfactor = 80)`,
	`INSERT INTO counter_narrow SELECT n, 0 FROM generate_series(1, 100000) n`,
	`CREATE TABLE event_wide (at timestamptz NOT NULL, id uuid NOT NULL, uid bigint, size bigint NOT NULL, user_id bigint, mailbox_id bigint,
		domain_id bigint, subscription_id bigint, refused_object bigint, host_id integer NOT NULL, recipients integer NOT NULL, decision smallint NOT NULL,
		refused_limit smallint, kind_proof smallint, script_proof smallint, crontab_proof smallint, site_proof smallint, sender text NOT NULL,
		kind text NOT NULL, script text, crontab text, site text, refused_why text, PRIMARY KEY (id, at))`,
	`CREATE TABLE event_narrow (at timestamptz NOT NULL, mailbox_id integer NOT NULL, recipients integer NOT NULL, decision smallint NOT NULL)`,
}

var pgbenchStatements = map[string][]string{
	"wide": {"\\set k random(1, 50)",
		"UPDATE counter_wide SET n = n + 1 WHERE id = :k;",
		"INSERT INTO event_wide (at, id, size, mailbox_id, domain_id, subscription_id, host_id, recipients, decision, kind_proof, sender, kind) " +
			"VALUES (now(), gen_random_uuid(), 4711, :k, 7, 7, 1, 1, 1, 2, 'somebody@customer.example', 'smtp');"},
	"narrow": {"\\set k random(1, 100000)",
		"UPDATE counter_narrow SET n = n + 1 WHERE id = :k;",
		"INSERT INTO event_narrow (at, mailbox_id, recipients, decision) VALUES (now(), :k, 1, 1);"},
}

// pgbench is one of its figures. pipelined sends a transaction in one go.
func pgbench(shape string, clients int, pipelined bool) experiment {
	name := "pgbench " + shape + ", " + many(clients, "client")
	if pipelined {
		name = "pgbench " + shape + " pipelined, " + many(clients, "client")
	}
	return experiment{[]figure{{name: name, unit: "tx/s"}}, func(ctx context.Context, b *bench) ([]sample, error) {
		s, err := b.pgbench(ctx, shape, clients, pipelined)
		return []sample{s}, err
	}}
}

var pgbenchSaid = regexp.MustCompile(`(?s)number of transactions actually processed: (\d+).*number of failed transactions: (\d+).*tps = ([0-9.]+)`)

func (b *bench) pgbench(ctx context.Context, shape string, clients int, pipelined bool) (s sample, err error) {
	if err := b.pgbenchDatabase(ctx); err != nil {
		return s, err
	}
	script, err := b.pgbenchScript(shape, pipelined)
	if err != nil {
		return s, err
	}
	table := "event_" + shape
	rowsBefore, err := b.ask(ctx, "pgbench", `SELECT count(*) FROM `+table)
	if err != nil {
		return s, err
	}
	cmd := exec.CommandContext(ctx, "pgbench", "-h", b.cluster.SocketDir, "-U", "postgres", "-n", "-M", "prepared", "-f", script,
		"-c", strconv.Itoa(clients), "-j", strconv.Itoa(min(clients, runtime.NumCPU())), "-T", strconv.Itoa(b.seconds), "pgbench")
	before := b.used(nil)
	out, err := cmd.CombinedOutput()
	after := b.used(nil)
	said := pgbenchSaid.FindSubmatch(out)
	if err != nil || said == nil {
		return s, fmt.Errorf("pgbench: %v\n%s", err, out)
	}
	transactions, _ := strconv.ParseInt(string(said[1]), 10, 64)
	rowsAfter, err := b.ask(ctx, "pgbench", `SELECT count(*) FROM `+table)
	if err != nil {
		return s, err
	}
	if rows := rowsAfter - rowsBefore; rows != transactions || string(said[2]) != "0" {
		return s, fmt.Errorf("pgbench made %d transactions and %d rows, %s failed", transactions, rows, said[2])
	}
	s.value, err = strconv.ParseFloat(string(said[3]), 64)
	s.cpu = after.perMessage(before, transactions)
	s.cpu.Generator = float64((cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Microseconds()) / float64(transactions)
	return s, err
}

func (b *bench) pgbenchDatabase(ctx context.Context) error {
	if b.databases["pgbench"] {
		return nil
	}
	if err := b.exec(ctx, "postgres", "postgres", `CREATE DATABASE pgbench`); err != nil {
		return err
	}
	if err := b.exec(ctx, "postgres", "pgbench", pgbenchTables...); err != nil {
		return err
	}
	b.databases["pgbench"] = true
	return b.settle(ctx, "pgbench")
}

func (b *bench) pgbenchScript(shape string, pipelined bool) (path string, err error) {
	s := pgbenchStatements[shape]
	text := s[0] + "\nBEGIN;\n" + s[1] + "\n" + s[2] + "\nCOMMIT;\n"
	path = filepath.Join(b.dir, shape+".sql")
	if pipelined {
		text = s[0] + "\n\\startpipeline\nBEGIN;\n" + s[1] + "\n" + s[2] + "\nCOMMIT;\n\\endpipeline\n"
		path = filepath.Join(b.dir, shape+"-pipelined.sql")
	}
	return path, os.WriteFile(path, []byte(text), 0o644)
}

// milliseconds is the mean latency of one caller who makes so many a second.
func milliseconds(perSecond float64) float64 {
	return float64(time.Second/time.Millisecond) / perSecond
}
