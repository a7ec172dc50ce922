package quota

import (
	"context"
	"time"
)

// RememberedOf is how many batches a store has decided by memory.
func RememberedOf(s *Store) int64 { return s.remembered.Load() }

// Trust makes a store try its memory with the next batch.
func Trust(s *Store) { s.caution = 0 }

// Distrust makes a store decide the next batch with locks.
func Distrust(s *Store) { s.caution = 1 }

// TurnClock turns what a store takes for the database's clock.
func TurnClock(s *Store, by time.Duration) { s.memory.seen = s.memory.seen.Add(by) }

// StoreOf is the store of a queue.
func StoreOf(q *Queue) *Store { return q.store }

// MakePartitions is what booking an outage does before it writes rows.
var MakePartitions = (*Store).makePartitions

// IsRemembered tells whether whom a message is charged to is known without the
// database.
func IsRemembered(s *Store, m *Message) bool {
	_, routes, _ := s.memory.begin([]routeKey{s.keyOf(m)})
	return routes[0] != nil
}

// Book writes what was decided while the database was away.
func Book(s *Store, ctx context.Context, messages []Message, decided []*Decision) error {
	_, err := s.decide(ctx, &batch{messages: messages, decided: decided, again: true})
	return err
}
