package daemon

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// end is a stream that only knows whether it was closed.
type end struct {
	net.Conn
	closed atomic.Bool
}

func (e *end) Close() error     { e.closed.Store(true); return nil }
func (e *end) CloseRead() error { return nil }

// TestConnectionsModel: whatever happens, those that are kept are those that a plain
// list says, and the idlest of them gives way.
func TestConnectionsModel(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		var kept connections
		kept.init(1 + r.IntN(5))
		kept.patience = 0
		var idle, busy []*connection // in the order in which they became that
		evicted := int64(0)
		for range 300 {
			switch r.IntN(4) {
			case 0:
				if len(idle) == 0 && len(busy) == kept.max {
					continue // it would wait
				}
				if len(idle)+len(busy) == kept.max {
					out := idle[0]
					idle = idle[1:]
					evicted++
					defer func() {
						if !out.stream.(*end).closed.Load() || out.begin() {
							t.Errorf("seed %d: one that gave way is not closed", seed)
						}
						out.end() // one that began before it was closed
						out.Close()
					}()
				}
				idle = append(idle, kept.enter(t.Context(), &end{}))
			case 1:
				if len(idle) > 0 {
					n := r.IntN(len(idle))
					c := idle[n]
					idle, busy = slices.Delete(idle, n, n+1), append(busy, c)
					for range 1 + r.IntN(3) {
						if !c.begin() {
							t.Fatalf("seed %d: a request of a kept one does not begin", seed)
						}
					}
				}
			case 2:
				if len(busy) > 0 {
					n := r.IntN(len(busy))
					c := busy[n]
					if c.end(); c.requests == 0 {
						busy, idle = slices.Delete(busy, n, n+1), append(idle, c)
					}
				}
			case 3:
				if len(idle) > 0 && r.IntN(4) == 0 {
					idle[0].Close()
					idle = idle[1:]
				}
				if len(busy) > 0 && r.IntN(4) == 0 {
					busy[0].Close()
					busy = busy[1:]
				}
			}
			if open, out := kept.count(); open != len(idle)+len(busy) || out != evicted || kept.idle.Len() != len(idle) {
				t.Fatalf("seed %d: %d open, %d idle, %d gave way; want %d, %d, %d", seed, open, kept.idle.Len(), out, len(idle)+len(busy), len(idle), evicted)
			}
			for _, c := range append(slices.Clone(idle), busy...) {
				if c.stream.(*end).closed.Load() {
					t.Fatalf("seed %d: one that is kept was closed", seed)
				}
			}
		}
	}
}

// TestConnectionsWait: many at a time for few places all get one, and none that is
// new or worked on is closed.
func TestConnectionsWait(t *testing.T) {
	var kept connections
	kept.init(3)
	kept.patience = time.Hour
	var peers sync.WaitGroup
	for range 64 {
		peers.Go(func() {
			for range 50 {
				c := kept.enter(t.Context(), &end{})
				if !c.begin() {
					t.Error("a new one gave way")
				}
				if open, _ := kept.count(); open > 3 || c.stream.(*end).closed.Load() {
					t.Error("closed while it is worked on, or one too many")
				}
				c.end()
				c.Close()
			}
		})
	}
	peers.Wait()
	if open, _ := kept.count(); open != 0 || kept.idle.Len() != 0 {
		t.Errorf("%d open, %d idle at the end", open, kept.idle.Len())
	}
	for range 3 {
		kept.enter(t.Context(), &end{}).begin()
	}
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan *connection)
	go func() { waited <- kept.enter(ctx, &end{}) }()
	cancel()
	if c := <-waited; c != nil {
		t.Error("one entered after the end")
	}
}
