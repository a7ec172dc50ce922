package origin

import (
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// A user can make reading his processes wait for as long as he likes. The kernel
// takes the lock of a process's memory to read its arguments, and another thread
// may hold it while it waits for a page of a file system that is the user's own
// (FUSE, which a user namespace lets everybody mount). So the look-up has an end,
// and what still waits is bounded. It cannot be interrupted.
const (
	lookUpTime = 500 * time.Millisecond // a thousand times what it takes
	maxLookUps = 8                      // of one user at a time: each may hold descriptors of maxChain processes
	maxStuck   = 4                      // of these that take longer, before he gets no others
)

// stuck counts the look-ups that have not come back, by user.
type stuck struct {
	mu sync.Mutex
	of map[uint32]*lookUps
}

type lookUps struct {
	slots chan struct{} // holds one for each that is under way
	calls int           // that wait for a slot or have one
	late  int           // have one for longer than they may
}

// enter counts one more look-up of a user, nil if too many are late.
func (s *stuck) enter(uid uint32) *lookUps {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.of[uid]
	if u == nil {
		u = &lookUps{slots: make(chan struct{}, maxLookUps)}
		if s.of == nil {
			s.of = make(map[uint32]*lookUps)
		}
		s.of[uid] = u
	}
	if u.late >= maxStuck {
		return nil
	}
	u.calls++
	return u
}

// count changes the counts of a user.
func (s *stuck) count(uid uint32, calls, late int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.of[uid]
	u.late += late
	if u.calls += calls; u.calls == 0 {
		delete(s.of, uid)
	}
}

// within returns what look returns, or false if that takes longer than limit, or
// if as many look-ups of this user as may be are late already. look goes on then, and
// nobody gets what it returns.
func (s *stuck) within(limit time.Duration, uid uint32, look func() (Origin, bool)) (Origin, bool) {
	u := s.enter(uid)
	if u == nil {
		return Origin{}, false
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case u.slots <- struct{}{}:
	default:
		select {
		case u.slots <- struct{}{}:
		case <-timer.C:
			s.count(uid, -1, 0)
			return Origin{}, false
		}
	}
	type result struct {
		origin Origin
		ok     bool
		fault  any
	}
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			if p := recover(); p != nil { // for who asked, as if he had looked himself
				r.fault = fmt.Sprintf("%v\n%s", p, debug.Stack())
			}
			done <- r
		}()
		r.origin, r.ok = look()
	}()
	select {
	case r := <-done:
		<-u.slots
		s.count(uid, -1, 0)
		if r.fault != nil {
			panic(r.fault)
		}
		return r.origin, r.ok
	case <-timer.C:
		s.count(uid, 0, 1)
		go func() {
			<-done
			<-u.slots
			s.count(uid, -1, -1)
		}()
		return Origin{}, false
	}
}
