package daemon

import (
	"container/list"
	"context"
	"net"
	"sync"
	"time"
)

// patience is for how long a new connection keeps its place without a request: Postfix
// and the transport connect when they have one, and it is on its way.
const patience = 200 * time.Millisecond

// connections are those that are open to one of the policy sockets, at most max. One
// more takes the place of the one that has been idle for longest: Postfix keeps more
// than it needs, and connects again when it has a question.
type connections struct {
	mu       sync.Mutex
	changed  *sync.Cond // a connection was closed, or is idle, or new no more
	max      int
	patience time.Duration
	open     int
	idle     list.List // of *connection, the one that has been idle for longest first
	evicted  int64     // closed for another, since the start
}

func (l *connections) init(max int) {
	l.changed, l.max, l.patience = sync.NewCond(&l.mu), max, patience
}

// connection is one of them. It is idle where each request that has begun is answered.
type connection struct {
	stream
	of       *connections
	entered  time.Time
	asked    bool          // a request of it has begun
	requests int           // begun and not answered
	place    *list.Element // of of.idle; nil where it is not idle
	closed   bool          // counts no more
}

// stream is a *net.UnixConn or a *net.TCPConn.
type stream interface {
	net.Conn
	CloseRead() error
}

// enter takes a connection in, as an idle one. It waits for a place where all are
// worked on or new; where ctx ends meanwhile, it returns nil.
func (l *connections) enter(ctx context.Context, c stream) *connection {
	stop := context.AfterFunc(ctx, l.wake)
	defer stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.open >= l.max && !l.evictable() {
		if ctx.Err() != nil {
			return nil
		}
		l.changed.Wait()
	}
	if l.open >= l.max {
		l.idle.Front().Value.(*connection).remove()
		l.evicted++
	}
	l.open++
	entered := &connection{stream: c, of: l, entered: time.Now()}
	entered.place = l.idle.PushBack(entered)
	time.AfterFunc(l.patience, l.wake)
	return entered
}

// wake lets those that wait for a place look again.
func (l *connections) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changed.Broadcast()
}

// evictable tells whether the connection that has been idle for longest may be closed.
// The caller holds the lock.
func (l *connections) evictable() bool {
	if l.idle.Len() == 0 {
		return false
	}
	c := l.idle.Front().Value.(*connection)
	return c.asked || time.Since(c.entered) >= l.patience
}

// remove closes a connection. The caller holds the lock.
func (c *connection) remove() {
	if c.closed {
		return
	}
	c.closed = true
	c.of.open--
	if c.place != nil {
		c.of.idle.Remove(c.place)
		c.place = nil
	}
	c.stream.Close()
	c.of.changed.Broadcast()
}

// Close closes a connection. It may be called twice.
func (c *connection) Close() error {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.remove()
	return nil
}

// begin notes that a request has begun to come. It returns false where the connection
// was closed just then.
func (c *connection) begin() bool {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if c.closed {
		return false
	}
	if c.place != nil {
		c.of.idle.Remove(c.place)
		c.place = nil
	}
	c.asked = true
	c.requests++
	return true
}

// end notes that one of the requests is answered.
func (c *connection) end() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if c.requests--; c.requests == 0 && !c.closed {
		c.place = c.of.idle.PushBack(c)
		c.of.changed.Broadcast()
	}
}

// count returns how many are open, and how many were closed for another.
func (l *connections) count() (open int, evicted int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open, l.evicted
}
