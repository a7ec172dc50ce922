package crash

import (
	"fmt"
	"sync"
	"testing"

	"sendmail-wrapper/quota"
)

// newHosts starts daemons on one database.
func newHosts(t *testing.T, p *postgres, n int, settings map[string]string) (hosts []*host) {
	t.Helper()
	for i := range n {
		hosts = append(hosts, newHost(t, fmt.Sprintf("host%d", i+1), p.forHosts(), settings))
	}
	// How many there are a daemon learns at its start, and once a minute.
	for _, h := range hosts {
		h.awaitWell(t)
		h.stop(t)
		h.start(t)
		h.awaitWell(t)
	}
	return hosts
}

// TestHosts: the limits hold over three daemons together, to the last message,
// and nobody waits for anybody in a circle.
func TestHosts(t *testing.T) {
	p := newPostgres(t)
	limits := map[quota.Class]limit{quota.Mailbox: {60, 1000}, quota.Domain: {150, 1000}, quota.Subscription: {150, 1000}, quota.Server: {400, 10000}}
	p.setLimits(t, limits)
	var mailboxes []string
	for d := range 3 {
		mailboxes = append(mailboxes, p.addDomain(t, fmt.Sprintf("d%d.example", d), 5)...)
	}
	hosts := newHosts(t, p, 3, map[string]string{"decision-timeout": `"10s"`})
	l := newLedger()
	const each = 80
	var clients sync.WaitGroup
	for i := range 48 {
		clients.Go(func() {
			client := &policyClient{}
			defer client.close()
			for n := range each {
				a := attempt{sender: fmt.Sprintf("c%d.%d@t.example", i, n)}
				a.got = client.ask(hosts[i%3], a.sender, mailboxes[(i/3+n)%len(mailboxes)], 1)
				l.note(a)
			}
		})
	}
	clients.Wait()
	if a, r := l.count(accepted), l.count(refused); a != 400 || r != 48*each-400 {
		t.Errorf("%d accepted, %d refused, want 400 and the rest", a, r)
	}
	l.check(t, p, limits)
	if n := p.number(t, `SELECT deadlocks FROM pg_stat_database WHERE datname = 'mailquota'`); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
}

// TestHostsInOutage: without the database each host grants its share of what is
// left, so that all together keep to the limit.
func TestHostsInOutage(t *testing.T) {
	t.Parallel()
	const most = 300
	for _, c := range []struct {
		name   string
		before []int // what each host has sent, in turn
		most   int   // that they may grant in the outage, together
	}{
		{"all know what was used", []int{20, 20, 20}, most - 60},
		{"one has sent, and the others have seen it", []int{58, 1, 1}, most - 60},
		// What a host knows is as old as its own last message of that sender.
		{"one has sent, and the others not since", []int{1, 1, 58}, most},
		{"two hosts", []int{30, 30}, most - 60},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPostgres(t)
			limits := map[quota.Class]limit{quota.Mailbox: {most, 10000}}
			p.setLimits(t, limits)
			mailbox := p.addDomain(t, "a.example", 1)[0]
			hosts := newHosts(t, p, len(c.before), map[string]string{"decision-timeout": briefly})
			l := newLedger()
			for i, n := range c.before {
				if got := l.sendAll(t, hosts[i], fmt.Sprintf("before%d", i), mailbox, n, 4); got != n {
					t.Fatalf("%d of %d accepted before the outage", got, n)
				}
			}
			// Each host sees what was used then.
			if c.most < most {
				for i, h := range hosts {
					l.sendAll(t, h, fmt.Sprintf("seen%d", i), mailbox, 1, 1)
				}
				c.most -= len(hosts)
			}
			p.kill(t)
			grants := make([]int, len(hosts))
			var sending sync.WaitGroup
			for i, h := range hosts {
				sending.Go(func() { grants[i] = l.sendAll(t, h, fmt.Sprintf("during%d", i), mailbox, 400, 8) })
			}
			sending.Wait()
			granted := 0
			for i, n := range grants {
				if n < 1 || n > most/len(hosts) {
					t.Errorf("host %d granted %d, must grant some, and at most its part of %d", i+1, n, most)
				}
				granted += n
			}
			if granted > c.most {
				t.Errorf("all together granted %d, may grant %d", granted, c.most)
			}
			p.start(t)
			for _, h := range hosts {
				h.awaitWell(t)
			}
			// What each host had not seen of the others comes on top.
			limits[quota.Mailbox] = limit{most + 60, 10000}
			l.check(t, p, limits)
			used := p.number(t, `SELECT count(*) FROM messages WHERE decision = 1`)
			if n := int64(l.sendAll(t, hosts[0], "after", mailbox, 200, 8)); n != max(0, most-used) {
				t.Errorf("%d accepted afterwards, when %d of %d were used", n, used, most)
			}
			l.check(t, p, limits)
		})
	}
}
