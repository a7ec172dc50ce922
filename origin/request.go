package origin

import (
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/serverstatus"
)

// request adds what the server of root chain[at], php-fpm or Apache, says of the
// request that started the caller, if it may be asked (see Requests in the package
// comment). Whatever fails leaves less known.
func (c *call) request(kind service, at int) {
	if at < 2 {
		return // the worker itself has turned into sendmail: it answers no request any more
	}
	worker, child := c.chain[at-1], c.chain[at-2]
	switch {
	case kind == fpmService && at <= c.own: // else he came by sudo or su: it is another's pool
		c.fpmRequest(at, worker, child)
	case kind == webService && c.finder.apache != nil:
		c.apacheRequest(worker, child)
	}
}

// apacheRequest is of a child of a worker of Apache: mod_php, CGI without cgid.
// Where a worker has threads, it is not known which of them started the child: the
// request that did may be over, and the only row another's.
func (c *call) apacheRequest(worker, child *process) {
	if !worker.hasOneThread() {
		return
	}
	board, ok := c.finder.apache.Scoreboard()
	if !ok {
		return
	}
	rows := board.Of(worker.pid)
	if len(rows) != 1 {
		return
	}
	r := rows[0]
	proof := c.causedBy(r, worker, child)
	if !worker.hasOneThread() {
		return
	}
	if proof == 0 {
		c.forgetWorker()
		return
	}
	proof = c.best(proof)
	o := &c.origin
	if r.Host != "" {
		o.Site = Fact{strings.ToLower(r.Host), proof}
	}
	if r.URI != "" { // else PHP's own word stays
		o.Method, o.URI = Fact{r.Method, proof}, Fact{r.URI, proof}
	}
	o.Client = Fact{address(r.Client), proof}
}

// fpmRequest is of a child of a worker of php-fpm. The script is what FPM runs.
// Method and URI are what was passed to FPM, and so Claimed: with Apache a customer
// can say what is passed in a file of his own (ProxyFCGISetEnvIf in .htaccess).
func (c *call) fpmRequest(at int, worker, child *process) {
	pool := c.titledPool(at)
	if pool == nil {
		return
	}
	status := c.finder.listeners.of(pool)
	if status == nil {
		return
	}
	r, name, ok := status.Worker(worker.pid)
	if !ok || name != pool.name || !worker.isChildOf(c.chain[at]) {
		return
	}
	o := &c.origin
	if !r.Raw {
		o.Site = Fact{pool.name, c.best(System)}
	}
	proof := c.causedBy(r, worker, child)
	if proof == 0 {
		c.forgetWorker()
		return
	}
	if proof = c.best(proof); r.Raw {
		proof = Claimed
	}
	script := pool.chroot + r.Script
	if filepath.IsAbs(r.Script) && filepath.IsAbs(script) && !climbs(script) && (proof > Claimed || o.Script.Value == "") {
		o.Script = Fact{filepath.Clean(script), proof}
	}
	if r.URI != "" {
		o.Method, o.URI = Fact{r.Method, Claimed}, Fact{r.URI, Claimed}
	}
	if proof == Claimed || c.finder.apache == nil {
		return
	}
	if link, ok := connectionOf(worker, pool.listen); ok {
		o.Client = c.clientOf(link, r)
	}
}

// causedBy tells how sure it is that the message is of a request of a worker: 0 if surely
// not. A worker that is the SMTP client itself can have sent the message in an earlier
// request, which left the connection open (pfsockopen), but does not wait for the answer
// in a later one.
func (c *call) causedBy(r serverstatus.Request, worker, child *process) Proof {
	switch {
	case !c.isClient() || worker.pid != c.client.pid:
		return startedIn(r, worker, child)
	case c.awaited && c.client.reads(c.client.fd) && c.client.stays():
		return System
	}
	return Claimed
}

// forgetWorker drops what was read of the worker itself: it runs another request.
func (c *call) forgetWorker() {
	if c.ofWorker {
		c.origin.Script, c.origin.Method, c.origin.URI = Fact{}, Fact{}, Fact{}
	}
}

// titledPool returns the pool that a worker's title names, if it is the caller's.
// The title could be forged, but a status that names the worker cannot.
func (c *call) titledPool(at int) *fpmPool {
	title, ok := strings.CutPrefix(title(c.chain[at-1].cmdline()), fpmWorkerTitle)
	if !ok {
		return nil
	}
	pool := c.finder.fpm.master(fpmConfigOf(c.chain[at])).names[title]
	if pool == nil {
		return nil
	}
	if uid, known := c.users.lookup(pool.user); !known || uid != c.origin.UID {
		return nil
	}
	return pool
}

// address returns the text of an IP address, "" if it is none.
func address(s string) string {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return ""
	}
	return a.Unmap().String()
}

// tick is the unit of start times: USER_HZ is 100 on all architectures that Go
// runs on (getauxval(3), AT_CLKTCK).
const tick = time.Second / 100

// startedIn tells how sure it is that a request of a worker started a child of
// his: 0 if surely not. The child is older than the question to the server.
func startedIn(r serverstatus.Request, worker, child *process) Proof {
	began, ok := parseStat(child.read("stat", 512, maxSmall))
	if !ok || began.ppid != worker.pid {
		return 0
	}
	start := time.Duration(began.start) * tick // rounded down
	if start+tick < sinceBoot(r.Earliest, false) {
		return 0 // left by an earlier request
	}
	sure := start >= sinceBoot(r.Latest, true) || worker.awaits(child)
	switch {
	case !child.isChildOf(worker): // one of them has ended
		return 0
	case sure:
		return System
	}
	return Claimed
}

// isChildOf reports whether both run and one is the other's child.
func (p *process) isChildOf(parent *process) bool {
	st, ok := parseStat(p.read("stat", 512, maxSmall))
	return ok && st.ppid == parent.pid && parent.read("stat", 512, maxSmall) != nil
}

// sinceBoot turns a moment into a time since boot, as start times of processes
// are. What it takes to ask two clocks makes it later, or else earlier.
func sinceBoot(t time.Time, later bool) time.Duration {
	if later {
		age := time.Since(t)
		return bootClock() - age
	}
	now := bootClock()
	return now - time.Since(t)
}

func bootClock() time.Duration {
	var boot unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return 0
	}
	return time.Duration(boot.Nano())
}
