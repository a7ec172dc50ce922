package crash

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"sendmail-wrapper/quota"
)

// fromEnv is a number that make kill or whoever repeats a run sets.
func fromEnv(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// killer kills at a point that chance chooses, and puts all up again.
type killer struct {
	p      *postgres
	h      *host // that is killed in this round
	l      *ledger
	random *rand.Rand
}

// anyAnswer shows that the clients go on.
var anyAnswer = []answer{none, undecided, accepted, refused}

// kills are the ways in which a round can go wrong. Each leaves all up.
var kills = []struct {
	name string
	do   func(*killer, *testing.T)
}{
	{"mailquotad killed", func(k *killer, t *testing.T) {
		k.h.kill(t)
		k.h.start(t)
	}},
	{"mailquotad restarted", func(k *killer, t *testing.T) {
		k.h.stop(t)
		k.h.start(t)
	}},
	{"PostgreSQL killed", func(k *killer, t *testing.T) {
		k.p.kill(t)
		k.outage(t)
		k.p.start(t)
	}},
	{"whole server killed", func(k *killer, t *testing.T) {
		if k.chance(2) {
			k.p.kill(t)
			k.h.kill(t)
			k.p.start(t)
			k.h.start(t)
			return
		}
		k.h.kill(t)
		k.p.kill(t)
		k.h.start(t) // comes up before PostgreSQL
		k.outage(t)
		k.p.start(t)
	}},
	{"PostgreSQL stopped", func(k *killer, t *testing.T) {
		k.p.stop(t)
		k.outage(t)
		k.p.start(t)
	}},
	{"mailquotad killed in an outage", func(k *killer, t *testing.T) {
		k.p.kill(t)
		k.outage(t)
		k.h.kill(t)
		k.h.start(t)
		k.outage(t)
		k.p.start(t)
	}},
	{"killed while the journal is booked", func(k *killer, t *testing.T) {
		k.p.kill(t)
		k.h.awaitJournal(t)
		k.l.awaitMore(t, 200+k.random.IntN(600), anyAnswer...)
		k.p.start(t)
		k.moment()
		switch k.random.IntN(3) {
		case 0:
			k.h.kill(t)
			k.h.start(t)
		case 1:
			k.p.kill(t)
			k.moment()
			k.p.start(t)
		case 2:
			k.h.kill(t)
			k.p.kill(t)
			k.p.start(t)
			k.h.start(t)
		}
	}},
}

func (k *killer) chance(n int) bool { return k.random.IntN(n) == 0 }

// moment lets some 20 ms pass, sometimes 100: the point at which to kill is
// to be anywhere.
func (k *killer) moment() {
	time.Sleep(time.Duration(k.random.ExpFloat64() * float64(20*time.Millisecond)))
}

// outage lets the clients go on, sometimes until the daemon has given up the
// database, sometimes not.
func (k *killer) outage(t *testing.T) {
	t.Helper()
	if k.chance(3) {
		k.moment()
		return
	}
	k.h.awaitJournal(t)
	k.l.awaitMore(t, 20+k.random.IntN(200), anyAnswer...)
}

// TestKill kills mailquotad, PostgreSQL or both while 16 clients send, round
// after round. What was answered must be there, once, and no limit be exceeded.
//
// journal-share is 0, so that a daemon that cannot know what was sent grants
// nothing: with any other the limits would hold but for that share.
func TestKill(t *testing.T) {
	p := newPostgres(t)
	limits := map[quota.Class]limit{quota.User: {60, 110}, quota.Mailbox: {150, 400}, quota.Domain: {700, 1300}, quota.Subscription: {800, 1500}}
	p.setLimits(t, limits)
	h := newHost(t, "host1", p.forHosts(), map[string]string{"decision-timeout": `"500ms"`, "journal-share": "0"})
	killRounds(t, p, []*host{h}, limits, 14)
}

// TestKillHosts is TestKill with three hosts, of which one is killed at a time.
// An outage that only one of them sees, or what the others have not told yet,
// may make them exceed a limit that they share; not one of their own users.
func TestKillHosts(t *testing.T) {
	p := newPostgres(t)
	limits := map[quota.Class]limit{quota.User: {60, 110}, quota.Mailbox: {150, 400}}
	p.setLimits(t, limits)
	hosts := newHosts(t, p, 3, map[string]string{"decision-timeout": `"500ms"`, "journal-share": "0"})
	delete(limits, quota.Mailbox)
	killRounds(t, p, hosts, limits, 7)
}

func killRounds(t *testing.T, p *postgres, hosts []*host, limits map[quota.Class]limit, rounds int) {
	seed := fromEnv(t, "CRASH_SEED", rand.Uint64()>>32)
	rounds = int(fromEnv(t, "CRASH_ROUNDS", uint64(rounds)))
	t.Logf("CRASH_SEED=%d CRASH_ROUNDS=%d", seed, rounds)
	k := &killer{p: p, l: newLedger(), random: rand.New(rand.NewPCG(seed, 0))}
	var order []int
	for round := range rounds {
		if len(order) == 0 {
			order = k.random.Perm(len(kills))
		}
		kill := kills[order[0]]
		order = order[1:]
		k.h = hosts[k.random.IntN(len(hosts))]
		var callers []caller
		mailboxes := append(p.addDomain(t, fmt.Sprintf("r%d.example", round), 5), fmt.Sprintf("new@r%d.example", round))
		for i := range 8 {
			callers = append(callers, caller{mailboxes: mailboxes}, caller{uid: 3000 + round*8 + i})
		}
		if len(hosts) == 1 {
			// The server's limit has room for a part of what the round sends,
			// in some rounds for nearly all.
			sent := p.number(t, `SELECT count(*) FROM messages WHERE decision = 1`)
			limits[quota.Server] = limit{int(sent) + 200 + k.random.IntN(1500), 10000000}
			p.setLimits(t, limits)
		}

		began, before := time.Now(), k.l.counts
		stop := k.l.load(t, fmt.Sprintf("r%d", round), seed+uint64(round), hosts, callers)
		k.l.awaitMore(t, k.random.IntN(300), accepted, refused)
		k.moment()
		kill.do(k, t)
		k.l.awaitMore(t, k.random.IntN(100), accepted, refused)
		stop()
		for _, h := range hosts {
			h.awaitWell(t)
		}
		k.l.check(t, p, limits)
		after := k.l.counts
		t.Logf("round %d: %s: %d accepted, %d refused, %d undecided, %d without an answer; %v", round, kill.name,
			after[accepted]-before[accepted], after[refused]-before[refused], after[undecided]-before[undecided], after[none]-before[none], time.Since(began).Round(time.Millisecond))
		if t.Failed() {
			t.Fatalf("after round %d: %s", round, kill.name)
		}
	}
	if k.l.count(accepted) == 0 || k.l.count(refused) == 0 {
		t.Errorf("%d accepted, %d refused: there must be both", k.l.count(accepted), k.l.count(refused))
	}
}
