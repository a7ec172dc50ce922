package crash

import (
	"bytes"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sendmail-wrapper/pgcluster"
)

// network lies between a daemon and PostgreSQL. While it is cut nothing comes
// through and nobody is told; what was sent arrives when it is mended.
type network struct {
	listener net.Listener
	to       string // PostgreSQL's socket
	mu       sync.Mutex
	changed  *sync.Cond
	isCut    bool
	held     *passage // the one that was cut in the middle: mended apart
	cutAt    []byte   // cut when the daemon sends this: nil for never
	deliver  bool     // that is still delivered, only its answer is not
	cutting  chan struct{}
}

// passage is one connection through the network.
type passage struct {
	daemon net.Conn
	ended  chan struct{} // closed when PostgreSQL has ended it
}

func newNetwork(t *testing.T, p *postgres) *network {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	n := &network{listener: l, to: filepath.Join(p.cluster.SocketDir, ".s.PGSQL.5432")}
	n.changed = sync.NewCond(&n.mu)
	t.Cleanup(func() {
		l.Close()
		n.mendAll()
	})
	go func() {
		for {
			daemon, err := l.Accept()
			if err != nil {
				return
			}
			go n.pass(daemon)
		}
	}()
	return n
}

// database is what daemons connect by. PostgreSQL shall wait for what is under
// way; else it ends a transaction that stands still (idle_in_transaction_session_timeout).
func (n *network) database() string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s sslmode=disable idle_in_transaction_session_timeout=10min", n.listener.Addr().(*net.TCPAddr).Port, pgcluster.DaemonRole, pgcluster.Database)
}

func (n *network) pass(daemon net.Conn) {
	defer daemon.Close()
	p := &passage{daemon, make(chan struct{})}
	defer close(p.ended)
	n.await(p)
	server, err := net.Dial("unix", n.to)
	if err != nil {
		return
	}
	defer server.Close()
	var answers sync.WaitGroup
	answers.Go(func() {
		n.carry(p, server, daemon, false)
		// The daemon notices; what it has sent before goes on to the server.
		daemon.(*net.TCPConn).CloseWrite()
	})
	n.carry(p, daemon, server, true)
	server.(*net.UnixConn).CloseWrite()
	answers.Wait()
}

// carry takes bytes along until their source ends.
func (n *network) carry(p *passage, from, to net.Conn, questions bool) {
	buf := make([]byte, 1<<16)
	for {
		count, err := from.Read(buf)
		if count > 0 {
			if !questions || !n.cutBy(p, buf[:count]) {
				n.await(p)
			}
			if _, err := to.Write(buf[:count]); err != nil {
				return
			}
		}
		if err != nil {
			n.await(p)
			return
		}
	}
}

// cutBy cuts the network if these bytes are those to wait for; pass says that
// they themselves get through.
func (n *network) cutBy(p *passage, sent []byte) (pass bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cutAt == nil || !bytes.Contains(sent, n.cutAt) {
		return false
	}
	n.cutAt, n.isCut, n.held = nil, true, p
	close(n.cutting)
	return n.deliver
}

func (n *network) await(p *passage) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.isCut || n.held == p {
		n.changed.Wait()
	}
}

func (n *network) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.isCut = true
}

// cutWhen cuts the network when the daemon sends some bytes: before they arrive,
// or before they are answered. The channel is closed at that moment.
func (n *network) cutWhen(sent string, arrives bool) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cutAt, n.deliver, n.cutting = []byte(sent), arrives, make(chan struct{})
	return n.cutting
}

// mend lets everything through but what was under way on the connection that
// was cut in the middle.
func (n *network) mend() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.isCut = false
	n.changed.Broadcast()
}

func (n *network) mendAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.isCut, n.held = false, nil
	n.changed.Broadcast()
}

// lose has the daemon see that the connection that was cut in the middle is
// broken; what it has sent is still on its way. The channel is closed when that
// has arrived and PostgreSQL is done with it.
func (n *network) lose() (ended <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held.daemon.(*net.TCPConn).SetLinger(0)
	n.held.daemon.Close()
	return n.held.ended
}

// cutInTheMiddle has one message's transaction cut: before its commit arrives,
// or before that is answered. wait is for the message's answer.
func (n *network) cutInTheMiddle(t *testing.T, o *outage, arrives bool) (wait func()) {
	t.Helper()
	cut := n.cutWhen("middle.0@t.example", arrives)
	var sending sync.WaitGroup
	sending.Go(func() { o.send(t, "middle", 1) })
	select {
	case <-cut:
	case <-time.After(patience):
		t.Error("the message's transaction was not seen")
	}
	return sending.Wait
}

// TestNetworkCut: the network is cut, and nobody is told. What was under way
// when it was cut arrives later, or has arrived without its answer; it is booked
// once.
func TestNetworkCut(t *testing.T) {
	t.Parallel()
	between := func(t *testing.T, n *network, o *outage) (wait func()) {
		n.cut()
		o.send(t, "middle", 1)
		return func() {}
	}
	beforeCommit := func(t *testing.T, n *network, o *outage) func() { return n.cutInTheMiddle(t, o, false) }
	beforeCommitWithLocks := func(t *testing.T, n *network, o *outage) func() {
		o.decideWithLocks(t)
		return n.cutInTheMiddle(t, o, false)
	}
	beforeAnswer := func(t *testing.T, n *network, o *outage) func() { return n.cutInTheMiddle(t, o, true) }
	allAtOnce := func(_ *testing.T, n *network, _ *outage) { n.mendAll() }
	for _, c := range []struct {
		name      string
		impatient bool // PostgreSQL does not wait for what is under way
		cut       func(*testing.T, *network, *outage) (wait func())
		mend      func(*testing.T, *network, *outage)
	}{
		{"between two transactions", false, between, allAtOnce},
		{"before a commit, which arrives late", false, beforeCommit, allAtOnce},
		{"before a commit, which arrives when its message is booked", false, beforeCommit, func(t *testing.T, n *network, o *outage) {
			held := n.held
			n.mend()
			o.h.awaitWell(t)
			n.mendAll()
			<-held.ended
		}},
		{"before a commit with locks, which arrives late", false, beforeCommitWithLocks, allAtOnce},
		{"before a commit with locks, which arrives while the journal waits for them", false, beforeCommitWithLocks, func(t *testing.T, n *network, o *outage) {
			n.mend()
			o.p.awaitNumber(t, 1, waitingForLocks)
			n.mendAll()
		}},
		{"before a commit with locks, which arrives too late", true, beforeCommitWithLocks, func(t *testing.T, n *network, o *outage) {
			o.p.awaitNumber(t, 0, `SELECT count(*) FROM pg_stat_activity WHERE usename = 'mailquotad' AND xact_start IS NOT NULL`)
			n.mendAll()
		}},
		{"before the answer to a commit", false, beforeAnswer, allAtOnce},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPostgres(t)
			n := newNetwork(t, p)
			database := n.database()
			if c.impatient {
				database = strings.ReplaceAll(database, "10min", "100ms")
			}
			o := newOutage(t, p, database, true, nil)
			wait := c.cut(t, n, o)
			o.send(t, "during", 299)
			wait()
			a, r := o.l.count(accepted), o.l.count(refused)
			if a != 100 {
				t.Errorf("%d accepted, %d refused, want 100 accepted", a, r)
			}
			c.mend(t, n, o)
			o.end(t, 100, int64(a+r))
		})
	}
}

// decideWithLocks has the next batches be decided with locks, in two trips: a
// daemon does so for a while when somebody else has written its counters.
func (o *outage) decideWithLocks(t *testing.T) {
	t.Helper()
	o.p.exec(t, `UPDATE usage SET version = -version`)
	o.send(t, "locks", 1)
}

// TestLostConnection: the connection breaks while a message's transaction is on
// its way, and the daemon tries again at once. The first try has been committed,
// or arrives after the second one.
func TestLostConnection(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		arrives     bool // before the connection breaks
		locks, full bool // full: the message is refused
	}{
		{"committed", true, false, false},
		{"committed, with locks", true, true, false},
		{"committed, refused", true, false, true},
		{"committed, refused, with locks", true, true, true},
		{"arrives later", false, false, false},
		{"arrives later, with locks", false, true, false},
		{"arrives later, refused", false, false, true},
		{"arrives later, refused, with locks", false, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPostgres(t)
			n := newNetwork(t, p)
			o := newOutage(t, p, n.database(), true, map[string]string{"decision-timeout": `"10s"`})
			if c.full {
				o.send(t, "rest", 50)
			}
			if c.locks {
				o.decideWithLocks(t)
			}
			wait := n.cutInTheMiddle(t, o, c.arrives)
			if c.arrives {
				p.awaitNumber(t, 1, `SELECT count(*) FROM messages WHERE sender = 'middle.0@t.example'`)
			}
			ended := n.lose()
			n.mend()
			switch {
			case c.arrives:
			case c.locks:
				p.awaitNumber(t, 1, waitingForLocks)
			default:
				wait()
			}
			n.mendAll()
			<-ended
			wait()
			a, r := o.l.count(accepted), o.l.count(refused)
			if want := o.l.count(anyAnswer...); a+r != want {
				t.Errorf("%d decided of %d", a+r, want)
			}
			o.end(t, int64(a), int64(a+r))
		})
	}
}

// TestCommitWithoutAnswer: the database knows what another host has used, and
// refuses; by what this host knows the message would pass. As the commit may
// have arrived, and had, the message is refused without the database, too.
func TestCommitWithoutAnswer(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	n := newNetwork(t, p)
	o := newOutage(t, p, n.database(), true, nil)
	other := newHost(t, "host2", p.forHosts(), nil)
	other.awaitWell(t)
	o.decideWithLocks(t) // by memory it would be decided by what this host knows
	o.l.sendAll(t, other, "other", o.mailbox, 49, 8)
	wait := n.cutInTheMiddle(t, o, true)
	wait()
	if o.l.count(refused) != 1 {
		t.Errorf("the message was not refused: %v", o.l.counts)
	}
	n.mendAll()
	o.end(t, 100, 101)
}
