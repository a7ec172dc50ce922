package submit

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// places are those of the programs that run at a time. Who waits for one gets it in his
// order, but no owner has more than his share.
type places struct {
	mu      sync.Mutex
	free    int
	share   int
	of      map[uint32]int // taken, by owner
	waiting []*waiter
}

type waiter struct {
	owner uint32
	given chan struct{} // closed
}

// maxWaiting bounds those that wait.
const maxWaiting = 8192

func newPlaces(n, share int) *places {
	return &places{free: n, share: share, of: map[uint32]int{}}
}

// enter waits for a place, until ctx ends.
func (p *places) enter(ctx context.Context, owner uint32) error {
	w := &waiter{owner, make(chan struct{})}
	p.mu.Lock()
	if len(p.waiting) >= maxWaiting {
		p.mu.Unlock()
		return errors.New("too many messages wait for a place")
	}
	p.waiting = append(p.waiting, w)
	p.give()
	p.mu.Unlock()
	select {
	case <-w.given:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.waiting, w); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
		return ctx.Err()
	}
	return nil // given just then
}

// leave frees a place.
func (p *places) leave(owner uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free++
	if p.of[owner]--; p.of[owner] == 0 {
		delete(p.of, owner)
	}
	p.give()
}

// give gives the places that are free. The caller holds the lock.
func (p *places) give() {
	p.waiting = slices.DeleteFunc(p.waiting, func(w *waiter) bool {
		if p.free == 0 || p.of[w.owner] >= p.share {
			return false
		}
		p.free--
		p.of[w.owner]++
		close(w.given)
		return true
	})
}
