package daemon

import (
	"container/list"
	"fmt"
	"math"
	"runtime"
	"sync"
	"time"

	"sendmail-wrapper/origin"
)

// turns let each user have a few calls at a time that are worked on; his others wait
// for their turn, and no other user's do. The turn of a call that was let pass lasts
// until the process that made it has ended: by then that is the real sendmail, which
// takes many times the processor time that we do. So who starts hundreds of calls at
// once has hundreds of processes that sleep, instead of as many with which another
// user's call shares the processors.
type turns struct {
	atOnce int           // of one user
	most   time.Duration // that a turn lasts before the call is answered, and after

	mu      sync.Mutex
	byUID   map[uint32]*caller
	calls   int // of all users: worked on or waiting
	waiting int
}

// caller is a user who has calls.
type caller struct {
	uid     uint32
	calls   int           // connections: worked on or waiting
	turns   int           // that are not over
	waiting list.List     // of *turn, first come, first served
	passed  map[int]*turn // by pid of the processes whose turn lasts on
}

// turn is a call's.
type turn struct {
	of     *turns
	caller *caller
	pid    int
	told   chan string // why a call that waits has no turn, or "" once it has it
	timer  *time.Timer // nil before it
	end    *origin.End // of its process, once that was let pass
	gone   bool        // no call any more
	over   bool
}

const (
	// atOnce keeps two processors and a disk busy. With more of one user at a time the
	// others wait longer (docs/performance.md).
	atOnce = 4
	// longest is many times what a decision takes, and a sendmail that puts mail into a
	// queue. One that says nothing, that its user has stopped, that speaks SMTP with a
	// client or delivers to a slow server keeps his other calls waiting for no longer.
	longest = 500 * time.Millisecond
)

func (t *turns) init() {
	t.atOnce, t.most, t.byUID = max(atOnce, 2*runtime.NumCPU()), longest, map[uint32]*caller{}
}

// bounds are those of a call that enters.
type bounds struct {
	perUser, all int           // calls, worked on or waiting
	patience     time.Duration // for a turn
}

// enter waits for the turn of a call, where it must, and returns it, or why it has none.
func (t *turns) enter(uid uint32, pid int, b bounds) (own *turn, waited bool, why string) {
	own, place, why := t.line(uid, pid, b)
	if place == nil {
		return own, false, why
	}
	timer := time.NewTimer(b.patience)
	defer timer.Stop()
	select {
	case why = <-own.told:
		return own, true, why
	case <-timer.C:
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(own.told) == 0 { // not just now
		t.sendAway(place, fmt.Sprintf("this one had no turn in %s", b.patience))
	}
	return own, true, <-own.told
}

// line gives a call its turn at once, or a place in line.
func (t *turns) line(uid uint32, pid int, b bounds) (own *turn, place *list.Element, why string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.byUID[uid]
	if c == nil {
		c = &caller{uid: uid, passed: map[int]*turn{}}
	}
	// A process that calls again has not become another program: it is an SMTP dialogue.
	// It goes behind who waits, or the same few could keep the turns among themselves.
	if before := c.passed[pid]; before != nil {
		before.finish()
	}
	if most := max(1, min(b.perUser, b.all/2)); c.calls >= most {
		return nil, nil, fmt.Sprintf("more than %d", most)
	}
	if t.calls >= b.all && !t.makeRoom(c, b.all) {
		return nil, nil, fmt.Sprintf("more than %d of all users", b.all)
	}
	t.byUID[uid] = c
	t.calls++
	c.calls++
	own = &turn{of: t, caller: c, pid: pid}
	if c.turns < t.bound(c) && c.waiting.Len() == 0 {
		own.begin()
		return own, nil, ""
	}
	own.told = make(chan string, 1)
	t.waiting++
	return own, c.waiting.PushBack(own), ""
}

// bound is how many turns a user has at a time. Calls of root are never held up: they
// are the system's own.
func (t *turns) bound(c *caller) int {
	if c.uid == 0 {
		return math.MaxInt
	}
	return t.atOnce
}

// makeRoom sends away the last call of the user with the most that wait, where that is
// another than c. The first call of a user needs no place of another's.
func (t *turns) makeRoom(c *caller, all int) bool {
	most := c
	for _, other := range t.byUID {
		if other.waiting.Len() > most.waiting.Len() {
			most = other
		}
	}
	if most == c || most.calls <= c.calls+1 {
		return c.calls == 0
	}
	t.sendAway(most.waiting.Back(), fmt.Sprintf("more than %d of all users", all))
	return true
}

// sendAway takes a call out of the line.
func (t *turns) sendAway(place *list.Element, why string) {
	own := place.Value.(*turn)
	own.caller.waiting.Remove(place)
	t.waiting--
	own.caller.calls--
	t.calls--
	own.told <- why
}

// next gives turns to who waits, and forgets a user who has nothing left.
func (t *turns) next(c *caller) {
	for c.waiting.Len() > 0 && c.turns < t.bound(c) {
		own := c.waiting.Remove(c.waiting.Front()).(*turn)
		t.waiting--
		own.begin()
		own.told <- ""
	}
	if c.calls == 0 && c.turns == 0 && t.byUID[c.uid] == c {
		delete(t.byUID, c.uid)
	}
}

// begin begins a turn. The caller holds the lock, here as in finish.
func (t *turn) begin() {
	t.caller.turns++
	t.timer = time.AfterFunc(t.of.most, t.expire)
}

// expire ends a turn that has lasted long enough. The call goes on.
func (t *turn) expire() {
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	t.finish()
}

func (t *turn) finish() {
	if t.over {
		return
	}
	t.over = true
	t.timer.Stop()
	if t.end != nil {
		delete(t.caller.passed, t.pid)
		t.end.Stop()
	}
	t.caller.turns--
	t.of.next(t.caller)
}

// pass has the turn last on until its process ends, nil where that cannot be known.
func (t *turn) pass(end *origin.End) {
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	if end == nil || t.over || t.caller.passed[t.pid] != nil {
		end.Stop()
		return
	}
	t.end = end
	t.caller.passed[t.pid] = t
	t.timer.Reset(t.of.most)
	go func() {
		end.Wait()
		t.expire()
	}()
}

// release has a call that has its answer count for none any more. Its turn lasts.
func (t *turn) release() {
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	t.uncount()
}

func (t *turn) uncount() {
	if !t.gone {
		t.gone = true
		t.of.calls--
		t.caller.calls--
	}
}

// leave ends a call.
func (t *turn) leave() {
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	t.uncount()
	if t.end == nil {
		t.finish()
	}
	t.of.next(t.caller)
}

// open gives all their turn, now and from now on.
func (t *turns) open() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.atOnce = math.MaxInt
	for _, c := range t.byUID {
		t.next(c)
	}
}

// count returns how many calls there are, and how many of them wait.
func (t *turns) count() (calls, waiting int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.calls, t.waiting
}
