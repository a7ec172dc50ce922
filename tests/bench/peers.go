package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// peers is make bench-peers: mailquotad and other policy servers asked by the
// same generator, on the same machine, those with a database in one cluster.
func peers() []block { return []block{peerRates(), peerExactness(), peerKilled()} }

// service is a policy server as it is asked: a peer, or mailquotad at a door.
type service struct {
	name string
	// start returns it as it runs, with that limit of messages an hour for each
	// mailbox. All with one limit may run at a time.
	start func(ctx context.Context, b *bench, limit int) (*daemon, error)
}

// Doors of mailquotad.
const (
	bySocket = "mailquotad, policy-socket"
	byListen = "mailquotad, policy-listen"
)

const listenAddress = "127.0.0.1:10031"

func services() []service {
	var list []service
	for _, p := range programs {
		list = append(list, service{p.name, func(ctx context.Context, b *bench, limit int) (*daemon, error) { return b.peer(ctx, p, limit) }})
	}
	return append(list,
		service{bySocket, func(ctx context.Context, b *bench, limit int) (*daemon, error) {
			return b.limited(ctx, fmt.Sprintf("socket%d", limit), limit, "")
		}},
		service{byListen, func(ctx context.Context, b *bench, limit int) (*daemon, error) {
			d, err := b.limited(ctx, fmt.Sprintf("listen%d", limit), limit, fmt.Sprintf("policy-listen = %q\n", listenAddress))
			if err == nil {
				d.policy = listenAddress
			}
			return d, err
		}})
}

// limited is mailquotad on a database of its own, with the limits of all levels
// that database makes, but for one of mailboxes.
func (b *bench) limited(ctx context.Context, name string, limit int, more string) (*daemon, error) {
	made := b.databases[name]
	database, err := b.database(ctx, name, 50)
	if err == nil && !made {
		err = b.exec(ctx, "mailquota", database, fmt.Sprintf(`UPDATE limits SET messages_hour = %d WHERE owner_id = 6::bigint << 40 AND class = 2`, limit))
	}
	if err != nil {
		return nil, err
	}
	return b.daemon(ctx, database, "one", more)
}

// unreached is a limit that no measurement comes to.
const unreached = 1_000_000_000

// peerRates is decisions a second by number of connections. The services take
// turns with as many each.
func peerRates() block {
	k := block{name: "policy decisions, 50 mailboxes"}
	names := map[string][]string{} // of a service's figures
	most := func(name, reference string, of []string) {
		k.derived = append(k.derived, derived{figure{name, "decisions/s", reference}, of, slices.Max[[]float64]})
	}
	for _, n := range []int{1, 4, 16, 64} {
		with := func(service string) string { return service + ", " + many(n, "connection") }
		postfwd := with("postfwd, the faster one")
		most(postfwd, "", []string{with(postfwd1.name), with(postfwd2.name)})
		for _, s := range services() {
			f := figure{name: with(s.name), unit: "decisions/s"}
			if s.name == bySocket || s.name == byListen {
				f.reference = with(policydRateLimit.name)
				most(f.name+", to postfwd", postfwd, []string{f.name})
			}
			names[s.name] = append(names[s.name], f.name)
			k.experiments = append(k.experiments, experiment{[]figure{f}, func(ctx context.Context, b *bench) ([]sample, error) {
				d, err := s.start(ctx, b, unreached)
				if err != nil {
					return nil, err
				}
				if err := d.forget(ctx, b); err != nil {
					return nil, err
				}
				p, err := b.rate(ctx, load{daemons: []*daemon{d}, callers: n, mailbox: uniform(50)})
				if err != nil {
					return nil, err
				}
				return []sample{p.sample()}, nil
			}})
		}
	}
	best := func(of string) string { return of + ", best of all" }
	most(best(policydRateLimit.name), "", names[policydRateLimit.name])
	most(best("postfwd"), "", slices.Concat(names[postfwd1.name], names[postfwd2.name]))
	for _, door := range []string{bySocket, byListen} {
		most(best(door), best(policydRateLimit.name), names[door])
		most(best(door)+", to postfwd", best("postfwd"), names[door])
	}
	return k
}

// limitChecks is a check of each service in a state in which nothing is counted.
// What it returns is how many messages were accepted.
func limitChecks(name, figureName string, limit int, check func(ctx context.Context, b *bench, d *daemon) (sample, error)) block {
	k := block{name: name, once: true}
	for _, s := range services() {
		k.experiments = append(k.experiments, experiment{[]figure{{name: s.name + ", " + figureName, unit: "messages"}},
			func(ctx context.Context, b *bench) ([]sample, error) {
				defer b.endDaemons() // the next block has other limits
				d, err := s.start(ctx, b, limit)
				if err != nil {
					return nil, err
				}
				if err := d.forget(ctx, b); err != nil {
					return nil, err
				}
				accepted, err := check(ctx, b, d)
				if err != nil {
					return nil, d.failed(err)
				}
				return []sample{accepted}, nil
			}})
	}
	return k
}

// ofOneMailbox is a load that races for one mailbox's limit.
func ofOneMailbox(d *daemon, callers int, attempts int64) load {
	return load{daemons: []*daemon{d}, callers: callers, attempts: attempts, mailbox: uniform(1), refusals: true}
}

// peerExactness is how many of many at once come through.
func peerExactness() block {
	const limit, attempts, callers = 100, 400, 64
	return limitChecks(fmt.Sprintf("exactness, limit %d", limit), fmt.Sprintf("accepted of %d by %d connections", attempts, callers), limit,
		func(ctx context.Context, b *bench, d *daemon) (sample, error) {
			g, err := b.begin(ofOneMailbox(d, callers, attempts))
			if err == nil {
				err = g.wait()
			}
			if err == nil {
				err = g.prove(ctx)
			}
			if err == nil && d.peer == nil && g.accepted != limit {
				err = fmt.Errorf("FAIL: %d accepted at a limit of %d", g.accepted, limit)
			}
			if err != nil {
				return sample{}, err
			}
			return sample{value: float64(g.accepted), note: fmt.Sprintf("%d are right", limit)}, nil
		})
}

// peerKilled is a service that is killed under load, half way to a limit, and
// started again.
func peerKilled() block {
	const limit, mark, attempts, callers = 1000, 500, 1500, 16
	return limitChecks(fmt.Sprintf("kill -9 at %d of limit %d", mark, limit), fmt.Sprintf("accepted before and after, %d connections", callers), limit,
		func(ctx context.Context, b *bench, d *daemon) (sample, error) {
			l := ofOneMailbox(d, callers, 0)
			l.mark, l.reached = mark, make(chan struct{})
			before, err := b.begin(l)
			if err != nil {
				return sample{}, err
			}
			select {
			case <-l.reached:
			case <-before.done:
				return sample{}, before.wait()
			}
			if err := b.killAndStart(ctx, d); err != nil {
				return sample{}, err
			}
			before.wait() // an error always: its connections are cut
			after, err := b.begin(ofOneMailbox(d, callers, attempts))
			if err == nil {
				err = after.wait()
			}
			if err != nil {
				return sample{}, err
			}
			// What was counted but not answered before the end is lost, one message of a connection at most.
			accepted, least := before.accepted+after.accepted, int64(limit-callers)
			if d.peer == nil && (accepted < least || accepted > limit) {
				return sample{}, fmt.Errorf("FAIL: %d accepted at a limit of %d", accepted, limit)
			}
			return sample{value: float64(accepted), note: fmt.Sprintf("%d before; %d to %d are right", before.accepted, least, limit)}, nil
		})
}

// killAndStart kills a service and starts it again as it was.
func (b *bench) killAndStart(ctx context.Context, d *daemon) error {
	if d.peer != nil {
		return errors.Join(d.peer.kill(), d.peer.start(ctx, d.policy))
	}
	if err := d.process.Kill(); err != nil {
		return err
	}
	<-d.done
	d.done = make(chan struct{})
	if err := d.start(filepath.Join(b.bin, "mailquotad")); err != nil {
		return err
	}
	return d.awaitReady(ctx)
}
