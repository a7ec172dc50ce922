package daemon

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sendmail-wrapper/config"
	"sendmail-wrapper/tests/testpg"
	"sendmail-wrapper/wire"
)

// startQueue starts a server that watches a queue of ours, and a limit of the mailbox.
func startQueue(t *testing.T) (r *running, p *peer, incoming string) {
	t.Helper()
	queue := t.TempDir()
	incoming = filepath.Join(queue, "incoming")
	for _, dir := range []string{"incoming/A", "active", "hold"} {
		if err := os.MkdirAll(filepath.Join(queue, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r, socket := startPolicy(t, func(c *config.Daemon) { c.PostfixQueue = queue })
	return r, dial(t, socket), incoming
}

// queueFileIn makes a queue file as cleanup(8) does.
func queueFileIn(t *testing.T, dir string) (path, queueID string) {
	t.Helper()
	queueID = fmt.Sprintf("4cWq1F%d", messages.Add(1))
	path = filepath.Join(dir, queueID)
	if err := os.WriteFile(path+".tmp", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
	return path, queueID
}

// wantGivenBack waits until so many were given back.
func (r *running) wantGivenBack(t *testing.T, n int64) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); r.counts.givenBack.Load() != n; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d were given back, want %d; the log: %s", r.counts.givenBack.Load(), n, r.log)
		}
	}
}

// TestGivenBack: what is deleted in incoming/ is given back, what is moved on is not.
func TestGivenBack(t *testing.T) {
	r, p, incoming := startQueue(t)
	r.limitOf(t, "mailbox", 3)
	later := filepath.Join(incoming, "B")
	charge := func(dir, want string) string {
		t.Helper()
		path, queueID := queueFileIn(t, dir)
		q := message("carol@box.test")
		q.QueueID = queueID
		p.wantAction(t, dir, q, want)
		return path
	}
	remove := func(path string) {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	for _, to := range []string{"active", "hold"} {
		path := charge(incoming, "DUNNO")
		if err := os.Rename(path, filepath.Join(filepath.Dir(incoming), to, filepath.Base(path))); err != nil {
			t.Fatal(err)
		}
	}
	remove(charge(incoming, "DUNNO"))
	r.wantGivenBack(t, 1)
	remove(charge(filepath.Join(incoming, "A"), "DUNNO")) // hash_queue_names = incoming
	r.wantGivenBack(t, 2)
	if err := os.Mkdir(later, 0o700); err != nil {
		t.Fatal(err)
	}
	for watched := 0; watched < 3; runtime.Gosched() {
		watched = len(inotifyWatches(t, r.queueFiles.fd))
	}
	path := charge(later, "DUNNO")
	refused := charge(incoming, "421 4.7.1")
	remove(refused)
	remove(path)
	r.wantGivenBack(t, 3)
	charge(incoming, "DUNNO")
	if n := r.count(t, "decision = 1"); n != 6 {
		t.Errorf("%d rows", n)
	}
	var returned int
	if err := r.owner.QueryRow(t.Context(), `SELECT count(*) FROM returned JOIN messages USING (id, at)`).Scan(&returned); err != nil || returned != 3 {
		t.Errorf("%d rows of returned, %v", returned, err)
	}
	if n := strings.Count(r.log.String(), "Postfix refused the message: given back"); n != 3 {
		t.Errorf("%d lines of the log", n)
	}
	if n := r.queueFiles.order.Len(); n != 1 { // the last one still waits
		t.Errorf("%d are waited for", n)
	}
}

// inotifyWatches are the lines of the watches of a descriptor (proc(5), fdinfo).
func inotifyWatches(t *testing.T, fd int) (lines []string) {
	t.Helper()
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(info)) {
		if strings.HasPrefix(line, "inotify ") {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestQueueIsWatched where a policy socket is served, also one that systemd passed while
// policy-listen and policy-socket are off.
func TestQueueIsWatched(t *testing.T) {
	for _, passed := range []bool{true, false} {
		c := testConfig(testpg.As(testpg.New(t), "mailquotad"))
		c.Journal, c.PostfixQueue = filepath.Join(t.TempDir(), "journal"), t.TempDir()
		if err := os.Mkdir(filepath.Join(c.PostfixQueue, "incoming"), 0o700); err != nil {
			t.Fatal(err)
		}
		sockets, err := Listen(filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		defer sockets.Close()
		if passed {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			sockets.Policy = l.(*net.TCPListener)
		}
		s, err := New(c, "test", zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx, sockets) }()
		if _, err := wire.Ask(sockets.Calls.Addr().String(), &wire.Request{Op: wire.OpStatus}, nil, 30*time.Second); err != nil {
			t.Fatal(err)
		}
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if watched := s.queueFiles.events != nil; watched != passed {
			t.Errorf("a socket passed: %v; watched: %v", passed, watched)
		}
	}
}

// TestGivenBackWhileDeciding: smtpd(8) dies while it waits for the decision.
func TestGivenBackWhileDeciding(t *testing.T) {
	r, p, incoming := startQueue(t)
	p.wantAction(t, "the accounts are there", message("carol@box.test"), "DUNNO")
	tx, err := r.owner.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if _, err := tx.Exec(t.Context(), `SELECT FROM usage WHERE id = 6::bigint << 40 FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	path, queueID := queueFileIn(t, incoming)
	q := message("carol@box.test")
	q.QueueID = queueID
	if _, err := p.Write(q.Append(nil)); err != nil {
		t.Fatal(err)
	}
	for r.database.queue.State().Waiting == 0 {
		runtime.Gosched()
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	for gone := false; !gone; runtime.Gosched() {
		r.queueFiles.mu.Lock()
		gone = r.queueFiles.byID[queueID] == nil
		r.queueFiles.mu.Unlock()
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if action, err := p.answer(); err != nil || action != "DUNNO" {
		t.Errorf("%q, %v", action, err)
	}
	r.wantGivenBack(t, 1)
}

// TestQueueTrouble: where more happens than can be followed, nothing is given back by
// mistake; and the loss of the directory is told.
func TestQueueTrouble(t *testing.T) {
	r, p, incoming := startQueue(t)
	path, queueID := queueFileIn(t, incoming)
	q := message("carol@box.test")
	q.QueueID = queueID
	p.wantAction(t, "charged", q, "DUNNO")
	if err := os.RemoveAll(filepath.Join(incoming, "A")); err != nil {
		t.Fatal(err)
	}
	for len(inotifyWatches(t, r.queueFiles.fd)) > 1 {
		runtime.Gosched()
	}
	f := &r.queueFiles
	if n := f.clear(); n != 1 || len(f.byID) != 0 {
		t.Errorf("%d were forgotten", n)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(incoming); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(r.log.String(), "until mailquotad is started again") {
		runtime.Gosched()
	}
	if n := r.counts.givenBack.Load(); n != 0 {
		t.Errorf("%d were given back", n)
	}
	for n := range maxQueueFiles + 5 {
		f.expect(fmt.Sprint(n))
		f.expect(fmt.Sprint(n)) // a short ID comes again
	}
	if f.order.Len() != maxQueueFiles || len(f.byID) != maxQueueFiles {
		t.Errorf("%d are waited for", f.order.Len())
	}
}

// TestQueueOverflow: the kernel's own IN_Q_OVERFLOW, on a queue that nobody reads.
func TestQueueOverflow(t *testing.T) {
	r, _, _ := startQueue(t)
	r.stop() // it reads no more
	queue := t.TempDir()
	incoming := filepath.Join(queue, "incoming")
	if err := os.Mkdir(incoming, 0o700); err != nil {
		t.Fatal(err)
	}
	r.queueFiles = queueFiles{}
	if err := r.queueFiles.watch(queue); err != nil {
		t.Fatal(err)
	}
	defer r.queueFiles.events.Close()
	r.queueFiles.expect("waited for")
	limit, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Fatal(err)
	}
	var most int
	fmt.Sscan(string(limit), &most)
	for n := range most {
		path := filepath.Join(incoming, fmt.Sprint(n%2))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	for overflown := false; !overflown; {
		buffer := make([]byte, 64<<10)
		n, err := r.queueFiles.events.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		r.queueEvents(buffer[:n])
		overflown = strings.Contains(r.log.String(), "more happens in postfix-queue")
	}
	if n := r.queueFiles.order.Len(); n != 0 {
		t.Errorf("%d are waited for", n)
	}
	if n := len(r.queueFiles.dirs); n != 1 {
		t.Errorf("%d directories are watched", n)
	}
}
