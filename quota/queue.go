package quota

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Queue gathers messages into batches: whatever arrived while the last
// transaction committed is decided in the next one, in order of arrival. A lone
// message waits for nothing.
type Queue struct {
	store    *Store
	max      int
	waiting  chan *submission
	length   atomic.Int64
	stopped  chan struct{} // closed when the last batch is done
	submits  sync.RWMutex  // held for reading while something is put into waiting
	isClosed bool
}

type submission struct {
	ctx     context.Context
	message Message
	done    chan result // has room for its one result: nobody waits for a caller who left
}

type result struct {
	decision Decision
	err      error
}

// ErrClosed is what Submit returns once the queue was closed.
var ErrClosed = errors.New("the queue is closed")

// batchTimeout bounds one transaction, so that a database that hangs does not
// hold the queue for ever.
const batchTimeout = 10 * time.Second

// NewQueue starts a queue of batches of at most maxBatch messages.
func NewQueue(store *Store, maxBatch int) *Queue {
	q := &Queue{store: store, max: maxBatch, waiting: make(chan *submission, maxBatch), stopped: make(chan struct{})}
	go q.run()
	return q
}

// Submit waits until the message is decided and its transaction committed. If
// ctx ends before, the message is left out, unless its batch has begun: then it
// may be booked all the same.
func (q *Queue) Submit(ctx context.Context, m Message) (Decision, error) {
	s := &submission{ctx: ctx, message: m, done: make(chan result, 1)}
	if err := q.put(s); err != nil {
		return Decision{}, err
	}
	select {
	case r := <-s.done:
		return r.decision, r.err
	case <-ctx.Done():
		return Decision{}, ctx.Err()
	}
}

func (q *Queue) put(s *submission) error {
	q.submits.RLock()
	defer q.submits.RUnlock()
	if q.isClosed {
		return ErrClosed
	}
	q.length.Add(1)
	select {
	case q.waiting <- s:
		return nil
	case <-s.ctx.Done():
		q.length.Add(-1)
		return s.ctx.Err()
	}
}

// Len is the number of messages that wait for their decision.
func (q *Queue) Len() int { return int(q.length.Load()) }

// Close decides what waits, and ends the queue.
func (q *Queue) Close() {
	q.submits.Lock()
	if !q.isClosed {
		q.isClosed = true
		close(q.waiting)
	}
	q.submits.Unlock()
	<-q.stopped
}

func (q *Queue) run() {
	defer close(q.stopped)
	for first := range q.waiting {
		q.decide(q.gather(first))
	}
}

// gather takes what waits, without waiting for more.
func (q *Queue) gather(first *submission) []*submission {
	batch := []*submission{first}
	for len(batch) < q.max {
		select {
		case s, ok := <-q.waiting:
			if !ok {
				return batch
			}
			batch = append(batch, s)
		default:
			return batch
		}
	}
	return batch
}

// decide answers each message of a batch. A message that cannot be written
// (poisoned) fails alone: the others are decided one by one, then.
func (q *Queue) decide(batch []*submission) {
	defer q.length.Add(-int64(len(batch)))
	var messages []Message
	var waiting []*submission
	for _, s := range batch {
		if err := s.ctx.Err(); err != nil {
			s.done <- result{err: err}
			continue
		}
		messages, waiting = append(messages, s.message), append(waiting, s)
	}
	decisions, err := q.transact(messages)
	if err == nil {
		for i, s := range waiting {
			s.done <- result{decision: decisions[i]}
		}
		return
	}
	alone := len(waiting) > 1 && !errors.Is(err, context.DeadlineExceeded)
	for _, s := range waiting {
		if !alone {
			s.done <- result{err: err}
			continue
		}
		one, err := q.transact([]Message{s.message})
		if err != nil {
			s.done <- result{err: err}
			continue
		}
		s.done <- result{decision: one[0]}
	}
}

func (q *Queue) transact(messages []Message) ([]Decision, error) {
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	return q.store.Decide(ctx, messages)
}
