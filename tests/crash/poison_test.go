package crash

import (
	"fmt"
	"sync"
	"testing"
)

// TestPoison: a message whose row the database does not take fails alone; those
// in the same batch are decided, in order and once, as if it had not come.
func TestPoison(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	o := newOutage(t, p, p.forHosts(), true, map[string]string{"decision-timeout": `"10s"`})
	p.exec(t, `ALTER TABLE messages ADD CONSTRAINT poison CHECK (sender <> 'poison@t.example')`)
	release := p.holdLock(t, `id = 6::bigint << 40`)
	answers := make(map[string]answer)
	var mu sync.Mutex
	var clients sync.WaitGroup
	for i := range 64 {
		clients.Go(func() {
			client := &policyClient{}
			defer client.close()
			sender := fmt.Sprintf("poisoned.%d@t.example", i)
			if i == 20 {
				sender = "poison@t.example"
			}
			got := client.ask(o.h, sender, o.mailbox, 1)
			mu.Lock()
			defer mu.Unlock()
			answers[sender] = got
			if i != 20 {
				o.l.note(attempt{sender: sender, got: got})
			}
		})
	}
	o.h.await(t, "64 messages to wait", func(s status) bool { return s.Waiting == 64 })
	release()
	clients.Wait()
	if got := answers["poison@t.example"]; got != undecided {
		t.Errorf("the poisoned message was %v", got)
	}
	if a, r := o.l.count(accepted), o.l.count(refused); a != 100 || r != 13 {
		t.Errorf("%d accepted, %d refused, want 100 and 13", a, r)
	}
	o.end(t, 100, 113)
}

// TestPoisonInJournal: one that the journal has taken, and the database does not
// take, is set apart; all others are booked.
func TestPoisonInJournal(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	o := newOutage(t, p, p.forHosts(), true, nil)
	p.exec(t, `ALTER TABLE messages ADD CONSTRAINT poison CHECK (sender <> 'poison@t.example')`)
	p.stop(t)
	o.send(t, "first", 30)
	if got := (&policyClient{}).ask(o.h, "poison@t.example", o.mailbox, 1); got != accepted {
		t.Errorf("the poisoned message was %v in the outage", got)
	}
	o.send(t, "then", 30)
	p.start(t)
	o.h.poisoned = 1
	o.end(t, 99, 110)
	o.h.kill(t)
	o.h.start(t)
	o.h.awaitWell(t)
	if n := o.h.failed(t); n != 0 {
		t.Errorf("%d more than the poisoned one are set apart", n)
	}
}
