package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/sqlschema"
)

// texts is what a row costs: bare, with the facts of a caller, and with details of
// its message. Mailboxes have none of these, and who calls sendmail is looked up in
// /proc, which takes longer than all else. So the queue is asked in this process,
// without a socket, for system users, each with a domain and a subscription.
func texts() block {
	k := block{name: "what a row has, 64 callers"}
	var best []string
	for _, e := range []experiment{pgbench("wide", 16, false), pgbench("narrow", 16, false), pgbench("wide", 64, false), pgbench("narrow", 64, false)} {
		e.figures[0].name += ", beside rows"
		k.experiments, best = append(k.experiments, e), append(best, e.figures[0].name)
	}
	const pgbenchBeside = "pgbench, best beside rows"
	names := []string{"rows without facts", "rows with facts", "rows with facts and details"}
	for i, name := range names {
		f := figure{name: name, unit: "decisions/s"}
		if i > 0 {
			f.reference = names[0]
		}
		k.experiments = append(k.experiments, experiment{[]figure{f}, func(ctx context.Context, b *bench) ([]sample, error) {
			s, err := b.askQueue(ctx, i >= 1, i == 2)
			return []sample{s}, err
		}})
		k.derived = append(k.derived, derived{figure{name: name + ", to pgbench", unit: "decisions/s", reference: pgbenchBeside}, []string{name},
			func(of []float64) float64 { return of[0] }})
	}
	k.derived = slices.Insert(k.derived, 0, derived{figure{name: pgbenchBeside, unit: "tx/s"}, best, slices.Max[[]float64]})
	return k
}

const textUsers, firstTextUID = 50, 30001

// userDatabase makes a database with system users, limits on all four levels, as
// database does for mailboxes.
func (b *bench) userDatabase(ctx context.Context) (string, error) {
	const name = "users"
	if b.databases[name] {
		return name, nil
	}
	if err := b.cloneTemplate(ctx, name); err != nil {
		return "", err
	}
	err := b.exec(ctx, "mailquota", name,
		`INSERT INTO host (name) VALUES ('bench')`,
		fmt.Sprintf(`INSERT INTO subscription (plan_id, name) SELECT id, 'u' || n FROM plan, generate_series(1, %d) n WHERE plan.name = 'default'`, textUsers),
		`INSERT INTO domain (subscription_id, name) SELECT id, name || '.example' FROM subscription`,
		fmt.Sprintf(`INSERT INTO system_user (subscription_id, uid, host_id, name) SELECT s.id, %d + substr(s.name, 2)::bigint, h.id, s.name FROM subscription s, host h`, firstTextUID-1),
		`INSERT INTO limits (owner_id, class, messages_hour, messages_day, recipients_hour, recipients_day)
			SELECT 6::bigint << 40, c, 2000000000, 2000000000, 2000000000, 2000000000 FROM unnest(ARRAY[1, 2, 3, 4, 6]) c`,
		`INSERT INTO usage (id) SELECT id FROM system_user UNION ALL SELECT id FROM domain UNION ALL SELECT id FROM subscription UNION ALL SELECT id FROM server`)
	if err == nil {
		err = b.settle(ctx, name)
	}
	return name, err
}

// textMessage is what a script of php-fpm sends.
func textMessage(user int, facts, details bool) (m quota.Message, err error) {
	uid, name := uint32(firstTextUID-1+user), fmt.Sprint("u", user)
	m = quota.Message{Sender: name + "@" + name + ".example", Recipients: 1, Size: 4711, Origin: origin.Origin{UID: uid, User: name, Kind: origin.PHPFPM, KindProof: origin.Kernel,
		Script: origin.Fact{Value: "/srv/" + name + "/htdocs/wp-content/plugins/contact/send.php", Proof: origin.Claimed}}}
	if m.ID, err = uuid.NewV7(); err != nil {
		return m, err
	}
	if o := &m.Origin; facts {
		o.Site = origin.Fact{Value: name + ".example", Proof: origin.System}
		o.DocumentRoot = origin.Fact{Value: "/srv/" + name + "/htdocs", Proof: origin.System}
		o.Method, o.URI = origin.Fact{Value: "POST", Proof: origin.System}, origin.Fact{Value: "/contact/?form=3", Proof: origin.System}
		o.Client, o.Unit = origin.Fact{Value: "192.0.2.17", Proof: origin.System}, origin.Fact{Value: "php8.2-fpm.service", Proof: origin.Kernel}
		o.Chain = []origin.Process{{PID: 40321, UID: uid, EUID: uid, Program: "/usr/sbin/sendmail"}, {PID: 40320, UID: uid, EUID: uid, Program: "/usr/bin/dash"},
			{PID: 39871, UID: uid, EUID: uid, Program: "/usr/sbin/php-fpm8.2"}, {PID: 812, Program: "/usr/sbin/php-fpm8.2"}, {PID: 1, Program: "/usr/lib/systemd/systemd"}}
	}
	if details {
		m.Details = quota.Details{MessageID: "<" + m.ID.String() + "@" + name + ".example>", Subject: "A message from your contact form", To: []string{"owner@" + name + ".example"}}
	}
	return m, nil
}

// askQueue measures a queue of its own.
func (b *bench) askQueue(ctx context.Context, facts, details bool) (s sample, err error) {
	database, err := b.userDatabase(ctx)
	if err != nil {
		return s, err
	}
	pool, err := sqlschema.DaemonPool(b.as("mailquotad", database))
	if err != nil {
		return s, err
	}
	defer pool.Close()
	log := zerolog.Nop()
	queue, err := quota.NewQueue(quota.NewStore(pool, "bench", 1000), quota.Settings{MaxBatch: 256, Timeout: patience, Journal: filepath.Join(b.dir, "none"),
		Check: func(ctx context.Context) error { return sqlschema.Check(ctx, pool) }}, func() *zerolog.Logger { return &log })
	if err != nil {
		return s, err
	}
	defer queue.Close()
	select {
	case <-queue.Reached():
	case <-ctx.Done():
		return s, ctx.Err()
	}

	const callers = 64
	time.Sleep(2 * time.Millisecond) // as in begin
	before, began := b.used(nil), time.Now()
	from, to := began.Add(settling), began.Add(settling+b.period())
	var answers [callers]int64
	var latencies [callers]histogram
	var failures [callers]error
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			for now := time.Now(); now.Before(to); {
				m, err := textMessage(1+rng.IntN(textUsers), facts, details)
				if err == nil {
					var d quota.Decision
					d, err = queue.Submit(ctx, m)
					if err == nil && (d.Refusal != nil || d.Domain == "") {
						err = fmt.Errorf("%+v", d)
					}
				}
				if err != nil {
					failures[i] = err
					return
				}
				answers[i]++
				end := time.Now()
				if end.After(from) && end.Before(to) {
					latencies[i].add(end.Sub(now))
				}
				now = end
			}
		})
	}
	wg.Wait()
	if err := errors.Join(failures[:]...); err != nil {
		return s, err
	}
	after, all, sum := b.used(nil), int64(0), &histogram{}
	for i := range callers {
		all += answers[i]
		sum.merge(&latencies[i])
	}
	c := after.perMessage(before, all)
	c.Daemon, c.Generator = c.Generator, 0 // the queue, and those who ask it
	return sample{value: float64(sum.Total) / b.period().Seconds(), latency: sum, cpu: c}, b.proveTexts(ctx, database, began, all, facts, details)
}

// proveTexts compares the rows with the answers, and what they have.
func (b *bench) proveTexts(ctx context.Context, database string, began time.Time, answers int64, facts, details bool) error {
	for _, of := range []struct {
		what, sql string
		want      bool
	}{
		{"rows", `SELECT count(*) FROM messages WHERE id >= $1 AND domain_id IS NOT NULL`, true},
		{"rows with facts", `SELECT count(*) FROM messages WHERE id >= $1 AND facts->'chain' IS NOT NULL`, facts},
		{"rows of details", `SELECT count(*) FROM details WHERE id >= $1 AND recipients IS NOT NULL`, details},
	} {
		want := int64(0)
		if of.want {
			want = answers
		}
		if n, err := b.ask(ctx, database, of.sql, firstID(began)); err != nil || n != want {
			return fmt.Errorf("%d answers, %d %s, %v", answers, n, of.what, err)
		}
	}
	return nil
}
