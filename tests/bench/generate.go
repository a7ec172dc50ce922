package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// load is what is asked: each caller has a connection to a policy socket, and
// one request outstanding all the time.
type load struct {
	daemons  []*daemon // callers are spread over them
	callers  int
	mailbox  func(*rand.Rand) int // number of the next message's
	attempts int64                // ends after so many; 0: when told
	refusals bool                 // are expected, too
	byObject int                  // accepted messages are counted for this many mailboxes
	mark     int64                // reached is closed once so many are accepted; 0: never
	reached  chan struct{}
}

// generator asks. All callers are in one thread that waits for whichever is
// answered, as pgbench's are: it takes little of what it measures.
type generator struct {
	load
	bench   *bench
	clients []client
	head    string // of each request
	epoll   int
	rng     *rand.Rand
	done    chan struct{} // closed when all is answered
	began   time.Time

	mu          sync.Mutex // of what follows
	stopping    bool
	outstanding int
	sent        int64
	accepted    int64
	refused     int64
	by          []int64 // accepted, by mailbox
	now         *phase  // nil: not measured
	err         error   // the first
}

// client is one caller.
type client struct {
	fd      int
	mailbox int
	sent    time.Time
	out, in []byte
}

// phase is a time that is measured.
type phase struct {
	answers int64
	latency histogram
	gap     time.Duration // the longest time without any answer
	last    time.Time     // of an answer
	took    time.Duration
	cpu     *cpu
}

func (p *phase) rate() float64 { return float64(p.answers) / p.took.Seconds() }

// sample is the value of a figure: decisions a second.
func (p *phase) sample() sample {
	return sample{value: p.rate(), latency: &p.latency, cpu: p.cpu}
}

// requestHead begins a request as Postfix 3.7 sends it (SMTPD_POLICY_README), but
// for what differs from one to the next. A message's one recipient is counted by
// DATA, and the recipient named before.
func requestHead(state string) string {
	recipient, count := "", 1
	if state == atRecipient {
		recipient, count = "someone@outside.example", 0
	}
	return fmt.Sprintf("request=smtpd_access_policy\nprotocol_state=%s\nprotocol_name=ESMTP\nclient_address=192.0.2.17\n"+
		"client_name=client.example\nclient_port=51234\nreverse_client_name=client.example\nserver_address=192.0.2.1\nserver_port=587\n"+
		"helo_name=client.example\nrecipient=%s\nrecipient_count=%d\nqueue_id=4ABCDE12FG\nsize=4711\netrn_domain=\nstress=\n"+
		"sasl_method=PLAIN\nsasl_sender=\nccert_subject=\nccert_issuer=\nccert_fingerprint=\nccert_pubkey_fingerprint=\n"+
		"encryption_protocol=TLSv1.3\nencryption_cipher=TLS_AES_256_GCM_SHA384\nencryption_keysize=256\npolicy_context=\n",
		state, recipient, count)
}

const (
	atRecipient    = "RCPT" // values of protocol_state
	atEndOfMessage = "END-OF-MESSAGE"
	answerAccepted = "action=DUNNO\n\n" // in any case, access(5)
	answerRefused  = "action=4"
)

// write asks about a message of its own: instance is smtpd's process, the time of
// its session and a number (smtpd_check.c), all hexadecimal.
func (c *client) write(head string, mailbox int, sequence int64, now time.Time) error {
	domain := domainOf(mailbox)
	b := append(c.out[:0], head...)
	for _, key := range [...]string{"sasl_username=m", "sender=m"} {
		b = strconv.AppendInt(append(b, key...), int64(mailbox), 10)
		b = strconv.AppendInt(append(b, "@d"...), int64(domain), 10)
		b = append(b, ".example\n"...)
	}
	b = strconv.AppendInt(append(b, "instance=1a2b."...), now.Unix(), 16)
	b = strconv.AppendInt(append(b, '.'), int64(now.Nanosecond()/1000), 16)
	b = strconv.AppendInt(append(b, '.'), sequence, 16)
	c.out, c.mailbox = append(b, "\n\n"...), mailbox
	n, err := unix.Write(c.fd, c.out)
	if err == nil && n < len(c.out) {
		err = unix.EAGAIN
	}
	return err
}

// begin connects all callers and starts them.
func (b *bench) begin(l load) (*generator, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	g := &generator{load: l, bench: b, epoll: epoll, clients: make([]client, l.callers), rng: rand.New(rand.NewPCG(1, 2)),
		head: requestHead(l.daemons[0].state()), done: make(chan struct{}), by: make([]int64, l.byObject+1)}
	for i := range g.clients {
		if err := g.connect(i); err != nil {
			g.close()
			return nil, fmt.Errorf("caller %d: %w", i, err)
		}
	}
	// Ids of one run must not begin with the millisecond of another.
	time.Sleep(2 * time.Millisecond)
	g.began = time.Now()
	for i := range g.clients {
		g.send(&g.clients[i], time.Now())
	}
	go g.loop()
	return g, nil
}

func (g *generator) connect(i int) error {
	c := &g.clients[i]
	address := g.daemons[i%len(g.daemons)].policy
	family, to := unix.AF_UNIX, unix.Sockaddr(&unix.SockaddrUnix{Name: address})
	if network(address) == "tcp" {
		tcp, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: int(tcp.Port()), Addr: tcp.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	c.fd, c.in = fd, make([]byte, 0, 1024)
	if err := unix.Connect(fd, to); err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	return unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)})
}

// network is that of the path of a socket, or of an address and port.
func network(address string) string {
	if strings.HasPrefix(address, "/") {
		return "unix"
	}
	return "tcp"
}

// send asks for the next message, unless there is to be none.
func (g *generator) send(c *client, now time.Time) {
	if g.stopping || g.attempts > 0 && g.sent >= g.attempts {
		return
	}
	c.sent = now
	g.sent++
	g.outstanding++
	if err := c.write(g.head, g.mailbox(g.rng), g.sent, now); err != nil {
		g.fail(fmt.Errorf("send a request: %w", err))
	}
}

func (g *generator) fail(err error) {
	if g.err == nil {
		g.err = err
	}
	g.stopping = true
}

// patience is how long nothing may be answered: longer than a decision-timeout.
const patience = 30 * time.Second

func (g *generator) loop() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(g.done)
	events := make([]unix.EpollEvent, 512)
	for {
		n, err := unix.EpollWait(g.epoll, events, int(patience.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		g.mu.Lock()
		if err == nil && n == 0 {
			err = fmt.Errorf("no answer within %s", patience)
		}
		if err != nil {
			g.fail(err)
		}
		for i := range events[:n] {
			g.receive(&g.clients[events[i].Fd])
		}
		end := g.outstanding == 0 || g.err != nil
		g.mu.Unlock()
		if end {
			return
		}
	}
}

// receive reads what is there of an answer; a whole one is counted and followed
// by the next request.
func (g *generator) receive(c *client) {
	n, err := unix.Read(c.fd, c.in[len(c.in):cap(c.in)])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return
	case err != nil || n == 0:
		g.fail(fmt.Errorf("the daemon closed the connection: %v", err))
		return
	}
	c.in = c.in[:len(c.in)+n]
	if !bytes.HasSuffix(c.in, []byte("\n\n")) {
		return
	}
	now := time.Now()
	g.outstanding--
	switch {
	case bytes.EqualFold(c.in, []byte(answerAccepted)):
		if g.accepted++; g.accepted == g.mark {
			close(g.reached)
		}
		if c.mailbox < len(g.by) {
			g.by[c.mailbox]++
		}
	case g.refusals && bytes.HasPrefix(c.in, []byte(answerRefused)):
		g.refused++
	default:
		g.fail(fmt.Errorf("answer %q", c.in))
	}
	c.in = c.in[:0]
	if p := g.now; p != nil {
		p.answers++
		p.latency.add(now.Sub(c.sent))
		p.gap = max(p.gap, now.Sub(p.last))
		p.last = now
	}
	g.send(c, now)
}

// phase measures for that long.
func (g *generator) phase(ctx context.Context, d time.Duration) (*phase, error) {
	before := g.bench.used(g.daemons)
	start := time.Now()
	p := &phase{last: start}
	g.mu.Lock()
	g.now = p
	g.mu.Unlock()
	select {
	case <-time.After(d):
	case <-g.done:
	case <-ctx.Done():
	}
	g.mu.Lock()
	g.now = nil
	p.took = time.Since(start)
	err := g.err
	g.mu.Unlock()
	p.gap = max(p.gap, time.Since(p.last))
	p.cpu = g.bench.used(g.daemons).perMessage(before, p.answers)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && p.answers == 0 {
		err = errors.New("nothing was answered")
	}
	return p, err
}

// end lets nothing more be asked, and waits until all is answered.
func (g *generator) end() error {
	g.mu.Lock()
	g.stopping = true
	g.mu.Unlock()
	return g.wait()
}

// ended tells whether all attempts are answered, or one failed.
func (g *generator) ended() bool {
	select {
	case <-g.done:
		return true
	default:
		return false
	}
}

// wait waits until all attempts are answered.
func (g *generator) wait() error {
	<-g.done
	g.close()
	return g.err
}

func (g *generator) close() {
	for i := range g.clients {
		if fd := g.clients[i].fd; fd > 0 {
			unix.Close(fd)
		}
	}
	if g.clients != nil {
		unix.Close(g.epoll)
	}
	g.clients = nil // a second end closes nothing
}

// prove compares the answers with the rows, which are as many whatever was
// decided. A peer need not keep any.
func (g *generator) prove(ctx context.Context) error {
	if p := g.daemons[0].peer; p != nil {
		return p.prove(ctx, g)
	}
	rows, err := g.bench.rowsBetween(ctx, g.daemons[0].database, g.began, time.Now())
	if err == nil && rows != g.accepted+g.refused {
		err = fmt.Errorf("%d answers, but %d rows", g.accepted+g.refused, rows)
	}
	return err
}

// settling is how long a load runs before it is measured.
const settling = 300 * time.Millisecond

// rate measures a load for one period.
func (b *bench) rate(ctx context.Context, l load) (*phase, error) {
	g, err := b.begin(l)
	if err != nil {
		return nil, err
	}
	_, err = g.phase(ctx, settling)
	var p *phase
	if err == nil {
		p, err = g.phase(ctx, b.period())
	}
	if e := g.end(); err == nil {
		err = e
	}
	if err == nil {
		err = g.prove(ctx)
	}
	if err != nil {
		return nil, l.daemons[0].failed(err)
	}
	return p, nil
}

// uniform takes any of n mailboxes.
func uniform(n int) func(*rand.Rand) int {
	return func(r *rand.Rand) int { return 1 + r.IntN(n) }
}

// moving takes any of a few neighbours, others after each thousand messages, so
// that a batch has as many different rows whatever n is.
func moving(n, neighbours int) func(*rand.Rand) int {
	const stay = 1000
	first, left := 1, 0
	return func(r *rand.Rand) int {
		if left--; left < 0 {
			left = stay
			if places := n / 100; places > 1 {
				first = 1 + 100*r.IntN(places) // where domain and subscription begin
			}
		}
		return first + r.IntN(neighbours)
	}
}
