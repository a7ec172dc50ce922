// Package serverstatus asks PHP-FPM and Apache what their worker processes do
// right now: which script, which request, for whom.
//
// # What is believed
//
// Nobody but root must be able to listen at the address: [Apache] sees to that itself,
// for [FPM] the caller does, see [RootsPort]. What a server says is then true of its processes; but it passes on
// texts that others gave it, the URI above all, and those must not be able to
// look like more than a text:
//
//   - Apache (mod_status.c) escapes what it writes as HTML.
//   - PHP-FPM (fpm_status.c) escapes all strings of its JSON in newer releases, and
//     in older ones only the query: there a quotation mark in a script's name or
//     in a user's could end a string and start another row. The newer ones escape
//     each slash, too, and no row is without one; so an answer with a slash that
//     is not escaped has [Request.Raw] set, and proves nothing.
//
// What a server cuts to the size of its shared memory is dropped, or for a URI
// marked, see [Request].
//
// # Time
//
// A [Request] says between which two moments it began, counted back from the
// moments of question and answer. Whether a process was started by that request
// is for the caller to compare.
//
// # Cost
//
// A question takes the server a fraction of a millisecond. All that ask while one
// is under way share the next one, which is put to the server after each of them
// has come: so at high rates the server answers one at a time, and nobody gets
// an answer older than his question. An answer is kept as text, and looked
// through for one process; nothing parses thousands of rows. Connections are kept
// for some seconds. Nobody waits longer than 200 ms, and after a failure the server
// is left alone for a second, in which nothing is known.
package serverstatus

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	patience  = 200 * time.Millisecond // for one answer, of a busy server
	pause     = time.Second            // after a failure
	keepAlive = 5 * time.Second        // an idle connection; it keeps a process of the server waiting
	maxAnswer = 8 << 20                // bytes: some 20,000 processes
)

// RootsPort reports whether only root can listen on a port of this network namespace
// now: one below net.ipv4.ip_unprivileged_port_start (ip(7)), which is 1024 unless
// somebody has lowered it, as for containers without root. Whoever believes what a port
// says asks each time, as that can change.
func RootsPort(port uint16) bool {
	first := 1024
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err == nil {
		first, err = strconv.Atoi(strings.TrimSpace(string(text)))
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil // before Linux 4.11
	}
	return err == nil && port != 0 && int(port) < first
}

// Request is what a worker process does, as its server says.
type Request struct {
	Script string // FPM: path of the script that the request began with, "" if it was cut; as the worker sees it, if it is in a chroot
	Method string
	URI    string // with the query; it ends in "…" if the server cut it
	Client string // Apache: the client's address, or its name where HostnameLookups is on
	Host   string // Apache: ServerName of the virtual host, "" if it was cut

	Raw bool // FPM: texts of others could pass as the server's own

	// The request began between these.
	Earliest, Latest time.Time
}

// An answer is one status and when it was asked for and had.
type answer struct {
	text          []byte
	own           string // Apache: URI of the question, which is among the requests
	asked, gotten time.Time
}

// sharing lets all that ask at the same time have one answer.
type sharing struct {
	fetch func(deadline time.Time) (answer, error) // sets text and own; never called twice at a time

	mu    sync.Mutex
	busy  bool
	next  *flight   // not under way yet
	until time.Time // not to be asked before
}

type flight struct {
	done   chan struct{}
	answer answer
	err    error
}

// get returns an answer that was asked for after the call, false if there is
// none in time.
func (s *sharing) get() (answer, bool) {
	s.mu.Lock()
	if time.Now().Before(s.until) {
		s.mu.Unlock()
		return answer{}, false
	}
	f := s.next
	if f == nil {
		f = &flight{done: make(chan struct{})}
		s.next = f
	}
	if !s.busy {
		s.busy = true
		go s.run()
	}
	s.mu.Unlock()

	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-f.done:
		return f.answer, f.err == nil
	case <-timer.C:
		return answer{}, false
	}
}

// run asks until nobody waits any more.
func (s *sharing) run() {
	for {
		s.mu.Lock()
		f := s.next
		s.next = nil
		if f == nil {
			s.busy = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()

		asked := time.Now()
		f.answer, f.err = s.fetch(asked.Add(patience))
		f.answer.asked, f.answer.gotten = asked, time.Now()
		if f.err != nil {
			s.giveUp(f.err)
		}
		close(f.done)
	}
}

// giveUp tells those who wait for the next answer that there is none, and lets
// the server alone for a while.
func (s *sharing) giveUp(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until = time.Now().Add(pause)
	if f := s.next; f != nil {
		s.next = nil
		f.err = err
		close(f.done)
	}
}
