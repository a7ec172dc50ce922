package daemon

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"sendmail-wrapper/config"
	"sendmail-wrapper/policy"
)

// askStranger is this test program under another uid: it connects to a port a hundred
// times, asks, and tells how often it was answered.
func askStranger(address string) {
	answered := 0
	for range 100 {
		c, err := net.Dial("tcp", address)
		if errors.Is(err, unix.ECONNRESET) { // the end was here before connect(2) returned
			continue
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		c.Write(numbered(0).Append(nil)) // may come after the end
		p := &peer{c, bufio.NewReader(c)}
		if _, err := p.answer(); err == nil {
			answered++
		}
		c.Close()
	}
	fmt.Println("answered", answered)
}

// flooding is how many connections flood makes.
const flooding = 1000

// flood is this test program under another uid: it connects to a port and does not wait,
// and then tells how many of its connections did not end.
func flood(address string) {
	to := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))
	var all []*os.File
	for range flooding {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			fmt.Println(err)
			return
		}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}); err != nil && err != unix.EINPROGRESS && err != unix.ECONNRESET {
			fmt.Println(err)
			return
		}
		all = append(all, os.NewFile(uintptr(fd), "flood"))
	}
	open := len(all)
	for _, c := range all {
		if _, err := c.Read(make([]byte, 1)); err != nil {
			open--
		}
	}
	fmt.Println("open", open)
}

// numbered is a request about one of several messages of carol's.
func numbered(n int) *policy.Request {
	q := message("carol@box.test")
	q.Instance = fmt.Sprintf("%x.%x.%x.0", 1000+n, time.Now().Unix(), n)
	return q
}

// listeners are both ways to ask for a policy.
var listeners = []string{"policy-socket", "policy-listen"}

// startListener starts a server that is asked by one of them, and returns how.
func startListener(t *testing.T, listener string, change func(*config.Daemon)) (r *running, dial func() *peer) {
	t.Helper()
	r, socket := startPolicy(t, func(c *config.Daemon) {
		if listener == "policy-listen" {
			c.PolicyListen = "127.0.0.1:0"
		}
		if change != nil {
			change(c)
		}
	})
	network, address := "unix", socket
	if listener == "policy-listen" {
		network, address = "tcp", r.policyAddress()
	}
	return r, func() *peer {
		t.Helper()
		c, err := net.Dial(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return &peer{c, bufio.NewReader(c)}
	}
}

// policyAddress is the address that policy-listen got.
func (r *running) policyAddress() string {
	for {
		for line := range strings.Lines(r.log.String()) {
			var entry struct{ Message, Address string }
			if json.Unmarshal([]byte(line), &entry) == nil && entry.Message == "policy requests are taken" && strings.Contains(entry.Address, ":") {
				return entry.Address
			}
		}
		runtime.Gosched()
	}
}

// open is how many connections the server keeps of a listener.
func (r *running) open(listener string) int {
	of := map[string]*connections{"policy-socket": &r.policySocket, "policy-listen": &r.policyPort}
	n, _ := of[listener].count()
	return n
}

// taken is how many connections the server has taken, where none has ended by itself.
func (r *running) taken(listener string) int {
	_, evicted := map[string]*connections{"policy-socket": &r.policySocket, "policy-listen": &r.policyPort}[listener].count()
	return r.open(listener) + int(evicted)
}

// wantAnswer asks about one more message.
func wantAnswer(t *testing.T, p *peer, n int) {
	t.Helper()
	if action, err := p.ask(numbered(n)); err != nil || action != "DUNNO" {
		t.Errorf("message %d: %q, %v", n, action, err)
	}
}

// wantEnd waits until the daemon closes a connection, without an answer.
func wantEnd(t *testing.T, p *peer) {
	t.Helper()
	if got, _ := io.ReadAll(p.in); len(got) > 0 {
		t.Errorf("answer %q", got)
	}
}

// hold keeps decisions from being made, until it is called back.
func (r *running) hold(t *testing.T) (release func()) {
	t.Helper()
	var tx pgx.Tx
	tx, err := r.owner.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT FROM usage WHERE id = 6::bigint << 40 FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// waiting waits until so many messages wait for their decision.
func (r *running) waiting(n int) {
	for r.database.queue.State().Waiting < n {
		runtime.Gosched()
	}
}

// TestPolicyUsers: at the port root is served, and who is in policy-users; a hundred
// connections of another take nobody's place, and leave one line of the log.
func TestPolicyUsers(t *testing.T) {
	r, address := startPolicyUsers(t, "127.0.0.1:0", []string{"nowhere", "nobody"})
	kept, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	p := &peer{kept, bufio.NewReader(kept)}
	wantAnswer(t, p, 1)
	if out := runAs(t, 65533, "TEST_AS=stranger", "TEST_SOCKET="+address); out != "answered 0\n" {
		t.Errorf("uid 65533: %s", out)
	}
	wantAnswer(t, p, 2)
	if n := r.counts.strangers.Load(); n != 100 {
		t.Errorf("%d refused", n)
	}
	if n := strings.Count(r.log.String(), `"error":"neither root nor one of policy-users","unlogged":0,"uid":65533`); n != 1 {
		t.Errorf("%d lines of the log", n)
	}
	if out := runAs(t, 65534, "TEST_AS=stranger", "TEST_SOCKET="+address); out != "answered 100\n" {
		t.Errorf("nobody: %s", out)
	}
	wantEnd(t, p) // his took its place
	c := *r.config()
	c.PolicyUsers = nil
	r.Reload(c)
	if out := runAs(t, 65534, "TEST_AS=stranger", "TEST_SOCKET="+address); out != "answered 0\n" {
		t.Errorf("nobody, after a reload: %s", out)
	}
}

// TestPolicyUsers6: the same by IPv6.
func TestPolicyUsers6(t *testing.T) {
	_, address := startPolicyUsers(t, "[::1]:0", []string{"nobody"})
	for uid, want := range map[uint32]string{0: "answered 100\n", 65533: "answered 0\n", 65534: "answered 100\n"} {
		if out := runAs(t, uid, "TEST_AS=stranger", "TEST_SOCKET="+address); out != want {
			t.Errorf("uid %d: %s", uid, out)
		}
	}
}

// TestPolicyFlood: while another user makes thousands of connections at once, who may ask
// connects and is answered, and what the daemon needs for it is bounded. Each of his is
// ended so that nothing stays of it.
func TestPolicyFlood(t *testing.T) {
	const floods = 4 // together they fit into the kernel's queue (net.core.somaxconn)
	r, dial := startListener(t, "policy-listen", func(c *config.Daemon) { c.PolicyUsers = nil })
	honest := func(n int) {
		t.Helper()
		p := dial()
		wantAnswer(t, p, n)
		p.Close()
	}
	honest(0)
	descriptors, goroutines := openDescriptors(t), runtime.NumGoroutine()
	said := make(chan string)
	for range floods {
		program := commandAs(t, 65533, "TEST_AS=flood", "TEST_SOCKET="+r.policyAddress())
		go func() {
			out, err := program.CombinedOutput()
			said <- fmt.Sprint(string(out), err)
		}()
	}
	for n, ended := 1, 0; ended < floods; n++ {
		honest(n)
		// Those of the test, which waits for its programs, are among them.
		if more := openDescriptors(t) - descriptors; more > 50 {
			t.Errorf("%d descriptors more", more)
		}
		if more := runtime.NumGoroutine() - goroutines; more > 50 {
			t.Errorf("%d goroutines more", more)
		}
		select {
		case out := <-said:
			ended++
			if out != "open 0\n<nil>" {
				t.Error(out)
			}
		default:
		}
	}
	if n := r.counts.strangers.Load(); n != floods*flooding {
		t.Errorf("%d refused", n)
	}
	if n := timeWait(t, r.policyAddress()); n > 0 {
		t.Errorf("%d ends of ours in TIME_WAIT", n)
	}
}

// timeWait is how many ends of closed connections the kernel keeps at a server's port
// (proc_net_tcp(5)).
func timeWait(t *testing.T, server string) (n int) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprintf(":%04X", netip.MustParseAddrPort(server).Port())
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[1], port) && f[3] == "06" {
			n++
		}
	}
	return n
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// startPolicyUsers starts a server that keeps one connection.
func startPolicyUsers(t *testing.T, listen string, users []string) (*running, string) {
	t.Helper()
	r, _ := startPolicy(t, func(c *config.Daemon) { c.PolicyListen, c.PolicyUsers, c.Calls = listen, users, 1 })
	return r, r.policyAddress()
}

// TestPolicyPipelined: of two hundred requests that come at once 64 are worked on at
// the same time, and all are answered in their order, also where the peer sends no
// more.
func TestPolicyPipelined(t *testing.T) {
	for _, listener := range listeners {
		t.Run(listener, func(t *testing.T) {
			r, dial := startListener(t, listener, nil)
			if _, err := r.owner.Exec(t.Context(), `WITH m AS (INSERT INTO mailbox (domain_id, address) SELECT id, 'none@box.test' FROM domain RETURNING id)
				INSERT INTO limits (owner_id, class, messages_hour) SELECT id, 2, 0 FROM m`); err != nil {
				t.Fatal(err)
			}
			p := dial()
			wantAnswer(t, p, 0)
			release := r.hold(t)
			var requests []byte
			for n := 1; n <= 200; n++ {
				q := numbered(n)
				if n%3 == 0 {
					q.Username = "none@box.test"
				}
				requests = q.Append(requests)
			}
			sent := make(chan error, 1)
			go func() { // the sockets need not hold all of it
				_, err := p.Write(append(requests, "request=junk\n\n"...))
				p.Conn.(interface{ CloseWrite() error }).CloseWrite()
				sent <- err
			}()
			r.waiting(maxPipelined)
			if n := len(r.questions); n != maxPipelined {
				t.Errorf("%d are worked on", n)
			}
			release()
			for n := 1; n <= 200; n++ {
				want := "DUNNO"
				if n%3 == 0 {
					want = "521 5.7.1 mailbox none@box.test may send no mail (limit of 0 messages per hour of mailbox none@box.test)"
				}
				if action, err := p.answer(); err != nil || action != want {
					t.Fatalf("answer %d: %q, %v; want %q", n, action, err, want)
				}
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
			wantEnd(t, p)
		})
	}
}

// TestPolicyEviction: one connection too many takes the place of the one that has been
// idle for longest; where all are worked on it waits.
func TestPolicyEviction(t *testing.T) {
	for _, listener := range listeners {
		t.Run(listener, func(t *testing.T) {
			r, dial := startListener(t, listener, func(c *config.Daemon) { c.Calls = 3 })
			a, b, c := dial(), dial(), dial()
			for n, p := range []*peer{a, b, c, a} {
				wantAnswer(t, p, n)
				for len(r.questions) > 0 { // it is noted as answered after its answer
					runtime.Gosched()
				}
			}
			d := dial()
			wantEnd(t, b)
			wantAnswer(t, d, 4)
			half := numbered(5).Append(nil)
			if _, err := c.Write(half[:50]); err != nil { // has begun: not idle
				t.Fatal(err)
			}
			release := r.hold(t)
			for n, p := range []*peer{a, d} {
				if _, err := p.Write(numbered(6 + n).Append(nil)); err != nil {
					t.Fatal(err)
				}
			}
			r.waiting(2)
			e := dial()
			if _, err := e.Write(numbered(8).Append(nil)); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write(half[50:]); err != nil {
				t.Fatal(err)
			}
			r.waiting(3)
			if n := r.open(listener); n != 3 {
				t.Errorf("%d connections", n)
			}
			release()
			for _, p := range []*peer{a, c, d, e} {
				if action, err := p.answer(); err != nil || action != "DUNNO" {
					t.Errorf("%q, %v", action, err)
				}
			}
			if n := r.count(t, "true"); n != 9 {
				t.Errorf("%d rows", n)
			}
		})
	}
}

// TestPolicyHostile: whatever a peer does, its connection ends, the memory for it is
// bounded, and others are served.
func TestPolicyHostile(t *testing.T) {
	block := bytes.Repeat([]byte("x"), 1<<16)
	attributes := bytes.Repeat([]byte("a=b\n"), 1<<14)
	whole := numbered(0)
	whole.State = "RCPT"
	requests := bytes.Repeat(whole.Append(nil), 100)
	for _, listener := range listeners {
		r, dial := startListener(t, listener, func(c *config.Daemon) { c.RequestTimeout = config.Duration(300 * time.Millisecond) })
		for _, c := range []struct {
			name   string
			listen string // where it can be shown: "" is both
			write  func(io.Writer) error
		}{
			{"a line of 1 GB", "", func(w io.Writer) (err error) {
				for sent := 0; sent < 1<<30 && err == nil; sent += len(block) {
					_, err = w.Write(block)
				}
				return err
			}},
			{"a request without end", "", func(w io.Writer) (err error) {
				for err == nil {
					_, err = w.Write(attributes)
				}
				return err
			}},
			{"a byte at a time", "", func(w io.Writer) (err error) {
				_, err = w.Write([]byte("sender="))
				for tick := time.NewTicker(5 * time.Millisecond); err == nil; <-tick.C {
					_, err = w.Write([]byte("x"))
				}
				return err
			}},
			{"half a request, and no more", "", func(w io.Writer) (err error) {
				if _, err = w.Write(requests[:50]); err != nil {
					return err
				}
				_, err = w.(io.Reader).Read(make([]byte, 1))
				return err
			}},
			// TCP's buffers take some 100,000 answers: the same code, much later.
			{"answers that are not read", "policy-socket", func(w io.Writer) (err error) {
				for err == nil {
					_, err = w.Write(requests)
				}
				return err
			}},
		} {
			if c.listen != "" && c.listen != listener {
				continue
			}
			t.Run(listener+", "+c.name, func(t *testing.T) {
				honest := dial()
				wantAnswer(t, honest, 0)
				peak := watchHeap()
				var hostile sync.WaitGroup
				for range 8 {
					p := dial()
					hostile.Go(func() {
						if err := c.write(p.Conn); err == nil {
							t.Error("the connection did not end")
						}
					})
				}
				wantAnswer(t, honest, 1)
				hostile.Wait()
				wantAnswer(t, honest, 2)
				if grown := peak(); grown > 8<<20 {
					t.Errorf("%d bytes more at a time", grown)
				}
				honest.Close()
				for r.open(listener) > 0 {
					runtime.Gosched()
				}
			})
		}
	}
}

// watchHeap looks at the live heap until peak is called, which returns by how much it has
// grown at most.
func watchHeap() (peak func() int64) {
	live := func() int64 {
		runtime.GC()
		sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(sample)
		return int64(sample[0].Value.Uint64())
	}
	before, most := live(), int64(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			most = max(most, live()-before)
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	return func() int64 {
		close(stop)
		<-stopped
		return most
	}
}

// TestPolicyIdle: of ten thousand connections that say nothing as many are kept as
// calls says; who asks among them is served.
func TestPolicyIdle(t *testing.T) {
	const calls = 500
	for _, listener := range listeners {
		t.Run(listener, func(t *testing.T) {
			r, dial := startListener(t, listener, func(c *config.Daemon) { c.Calls = calls })
			before := openDescriptors(t)
			honest := dial()
			for n := range 10000 {
				dial()
				if n%(calls/2) == 0 { // often enough not to be the one that has been idle for longest
					for r.taken(listener) < n+2 {
						runtime.Gosched()
					}
					wantAnswer(t, honest, n)
				}
			}
			wantAnswer(t, honest, 10000)
			if n := r.open(listener); n != calls {
				t.Errorf("%d connections are kept", n)
			}
			if n := openDescriptors(t) - before - 10001; n > calls+10 {
				t.Errorf("%d descriptors", n)
			}
			wantAnswer(t, dial(), 10001)
		})
	}
}

// TestPolicyFull: who waits for a place at a stop gets none, and those that have one are
// answered.
func TestPolicyFull(t *testing.T) {
	for _, listener := range listeners {
		t.Run(listener, func(t *testing.T) {
			r, dial := startListener(t, listener, func(c *config.Daemon) { c.Calls = 2 })
			a, b := dial(), dial()
			wantAnswer(t, a, 0)
			release := r.hold(t)
			for n, p := range []*peer{a, b} {
				if _, err := p.Write(numbered(1 + n).Append(nil)); err != nil {
					t.Fatal(err)
				}
			}
			r.waiting(2)
			c := dial()
			if _, err := c.Write(numbered(3).Append(nil)); err != nil {
				t.Fatal(err)
			}
			stopped := make(chan struct{})
			go func() {
				r.stop()
				close(stopped)
			}()
			wantEnd(t, c)
			release()
			for _, p := range []*peer{a, b} {
				if action, err := p.answer(); err != nil || action != "DUNNO" {
					t.Errorf("%q, %v", action, err)
				}
				wantEnd(t, p)
			}
			<-stopped
			if n := r.count(t, "true"); n != 3 {
				t.Errorf("%d rows", n)
			}
		})
	}
}

// TestPolicyPortStop: at a stop an idle connection to the port ends at once.
func TestPolicyPortStop(t *testing.T) {
	r, dial := startListener(t, "policy-listen", nil)
	idle := dial()
	wantAnswer(t, idle, 0)
	r.stop()
	wantEnd(t, idle)
}
