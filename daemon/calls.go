package daemon

import (
	"sync"
	"time"

	"sendmail-wrapper/quota"
)

// calls counts what is worked on, by user.
type calls struct {
	mu    sync.Mutex
	byUID map[uint32]int
}

func (c *calls) init() { c.byUID = map[uint32]int{} }

// enter takes one call of a user more, if he has fewer than max.
func (c *calls) enter(uid uint32, max int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byUID[uid] >= max {
		return false
	}
	c.byUID[uid]++
	return true
}

func (c *calls) leave(uid uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byUID[uid]--; c.byUID[uid] == 0 {
		delete(c.byUID, uid)
	}
}

// changes counts the changes of each customer in the hour that it is.
type changes struct {
	mu   sync.Mutex
	hour int64
	of   map[quota.ID]int
}

// allow takes one change more, if there were fewer than max in this hour.
func (c *changes) allow(customer quota.ID, max int, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if hour := now.Unix() / 3600; c.of == nil || hour != c.hour {
		c.hour, c.of = hour, map[quota.ID]int{}
	}
	if c.of[customer] >= max {
		return false
	}
	c.of[customer]++
	return true
}

// warnings lets one warning a user through in a while, so that nobody can fill
// the log.
type warnings struct {
	mu    sync.Mutex
	byUID map[uint32]warned
}

type warned struct {
	at       time.Time
	unlogged int
}

const (
	warnEvery = 10 * time.Second
	maxWarned = 1024 // users that are remembered
)

// allow tells whether to log now, and how many were not logged since the last.
func (w *warnings) allow(uid uint32, now time.Time) (unlogged int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last, known := w.byUID[uid]
	if known && now.Sub(last.at) < warnEvery {
		last.unlogged++
		w.byUID[uid] = last
		return 0, false
	}
	if w.byUID == nil || len(w.byUID) >= maxWarned {
		w.byUID = map[uint32]warned{}
	}
	w.byUID[uid] = warned{at: now}
	return last.unlogged, true
}
