package quota

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

// Settings of a [Queue].
type Settings struct {
	MaxBatch     int           // most messages of one transaction
	Timeout      time.Duration // in which the database must have decided; then it is away
	Journal      string        // path of the file; what it holds of an earlier life is booked in any case
	ByJournal    bool          // whether messages are decided without a database
	JournalLimit int           // most decisions in it
	JournalShare int           // percent of a limit that is granted, while the database is away, to one whose usage is not known
	// Check tells whether the database can be reached and is the right one.
	Check func(context.Context) error
}

// Errors of Submit, besides those of a message that the database does not take.
var (
	// ErrClosed: the queue was closed.
	ErrClosed = errors.New("the queue is closed")
	// ErrUnavailable: the database is away, and nothing is decided without it, or
	// nothing is known yet.
	ErrUnavailable = errors.New("the database is away")
	// ErrJournal: the database is away and the journal is full or cannot be
	// written.
	ErrJournal = errors.New("the database is away, and the decision cannot be kept")
)

// Queue gathers messages into batches: whatever arrived while the last
// transaction committed is decided in the next one, in order of arrival. A lone
// message waits for nothing.
//
// When the database is away, what was asked waits for it until Settings.Timeout
// has passed. From then on messages are decided at once by what is remembered,
// and the decisions kept in the journal, until the database is back and has all
// of them.
type Queue struct {
	store    *Store
	settings Settings
	log      func() *zerolog.Logger
	journal  *journal // nil where there is none, and shall be none

	waiting  chan *submission
	length   atomic.Int64
	submits  sync.RWMutex // held for reading while something is put into waiting
	isClosed bool

	// Of the goroutine that decides.
	away    *outage       // nil: the database decides
	rose    time.Time     // when the last outage ended
	wait    time.Duration // before the first try to reach the database
	stopped chan struct{} // closed at its end

	coming  sync.WaitGroup // comeBack
	knowing sync.WaitGroup // remember
	reached chan struct{}  // closed after the first try to reach the database
	tried   func()

	mu         sync.Mutex
	since      time.Time // when the database went away
	why        string    // "" while it is there
	batches    atomic.Int64
	decided    atomic.Int64
	unrecorded atomic.Int64
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

// State is how a queue does.
type State struct {
	Waiting int       // messages in the queue
	Trouble string    // why the database is not reached, "" if it is
	Since   time.Time // of Trouble
	Journal JournalState
	// Since the start: transactions, those of them that were decided by memory in
	// one round trip, and messages.
	Batches, Remembered, Decided int64
}

// JournalState is how full a journal is.
type JournalState struct {
	Messages   int   // decisions that the database has not got yet
	Failed     int   // that it did not take
	Unrecorded int64 // refusals that were left out, as the journal was half full
	Bytes      int64 // size of the file
}

var errNotReached = errors.New("not reached yet")

// NewQueue starts a queue, which goes on where a journal of an earlier life
// ended. The error is about its file.
func NewQueue(store *Store, settings Settings, log func() *zerolog.Logger) (*Queue, error) {
	q := &Queue{store: store, settings: settings, log: log, waiting: make(chan *submission, settings.MaxBatch),
		stopped: make(chan struct{}), reached: make(chan struct{}), why: errNotReached.Error()}
	q.tried = sync.OnceFunc(func() { close(q.reached) })
	if err := q.openJournal(); err != nil {
		return nil, err
	}
	q.fall(errNotReached)
	go q.run()
	return q, nil
}

// openJournal opens the journal, and reads what was known. A file that is broken is
// put aside for a person to look at: mail goes on.
func (q *Queue) openJournal() (err error) {
	path, limit := q.settings.Journal, q.settings.JournalLimit
	if _, err := os.Stat(path); !q.settings.ByJournal && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if q.journal, err = openJournal(path, limit); errors.Is(err, errBroken) {
		if err := q.putAside(path, err); err != nil {
			return err
		}
		q.journal, err = openJournal(path, limit)
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS) {
		q.log().Error().Err(err).Msg("there is no journal until the next start: without the database nothing is decided")
		q.settings.ByJournal = false
		return nil
	}
	if err != nil {
		return err
	}
	err = q.store.memory.read(q.knownPath(), q.journal.isExact)
	if errors.Is(err, errBroken) {
		err = q.putAside(q.knownPath(), err)
	}
	if err != nil {
		q.journal.close()
	}
	return err
}

func (q *Queue) knownPath() string { return q.settings.Journal + ".known" }

func (q *Queue) putAside(path string, why error) error {
	aside := path + ".broken-" + time.Now().UTC().Format("20060102T150405")
	if err := os.Rename(path, aside); err != nil {
		return fmt.Errorf("put a broken file aside: %w", err)
	}
	q.log().Error().Err(why).Str("kept", aside).Msg("a file cannot be read; a new one is begun")
	return nil
}

// Reached is closed after the first try to reach the database.
func (q *Queue) Reached() <-chan struct{} { return q.reached }

// Submit waits until the message is decided and the decision is on the disk. If
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

// State may be asked at any time.
func (q *Queue) State() State {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := State{Waiting: int(q.length.Load()), Trouble: q.why,
		Batches: q.batches.Load(), Remembered: q.store.remembered.Load(), Decided: q.decided.Load()}
	if q.why != "" {
		s.Since = q.since
	}
	if j := q.journal; j != nil {
		s.Journal = JournalState{j.waiting(), int(j.failed.Load()), q.unrecorded.Load(), j.size()}
	}
	return s
}

func (q *Queue) setTrouble(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if text := err.Error(); text != q.why {
		q.why = text
		q.log().Error().Err(err).Msg("database not reached; trying on")
	}
}

// setSince says that the database was away at a time, perhaps in an earlier life.
func (q *Queue) setSince(at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if at.Before(q.since) {
		q.since = at
	}
}

// setBooking says that the database is there, but has not got all yet.
func (q *Queue) setBooking() {
	if q.journal == nil || q.journal.waiting() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.why = "reached, and what is in the journal is being booked"
}

func (q *Queue) trouble() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.why
}

// Close decides what waits, writes down what is known, and ends the queue.
func (q *Queue) Close() {
	q.submits.Lock()
	if !q.isClosed {
		q.isClosed = true
		close(q.waiting)
	}
	q.submits.Unlock()
	<-q.stopped
}

// rememberEvery is how often what is known is written down while the database is
// there: for a daemon that is killed and starts without it.
const rememberEvery = time.Minute

func (q *Queue) run() {
	defer close(q.stopped)
	remember := time.NewTicker(rememberEvery)
	defer remember.Stop()
	for {
		var back chan struct{}
		if q.away != nil {
			back = q.away.back
		}
		select {
		case s, ok := <-q.waiting:
			if !ok {
				q.end()
				return
			}
			q.take(s)
		case <-back:
			q.rise()
		case <-remember.C:
			q.remember()
		}
	}
}

func (q *Queue) end() {
	if q.away != nil {
		q.away.stop()
		q.coming.Wait()
	}
	q.knowing.Wait()
	if q.journal == nil {
		return
	}
	// With entries what is there must stay: they count from it on.
	if q.journal.last.Load() == 0 && !q.store.memory.empty() {
		if err := q.know(true); err != nil {
			q.log().Error().Err(err).Msg("what is known is not written down")
		}
	}
	if err := q.journal.close(); err != nil {
		q.log().Error().Err(err).Msg("close the journal")
	}
}

func (q *Queue) remember() {
	if q.journal == nil || q.away != nil {
		return
	}
	q.knowing.Wait()
	q.knowing.Go(func() {
		if err := q.know(false); err != nil {
			q.log().Error().Err(err).Msg("what is known is not written down")
		}
	})
}

// know writes down what is known; exact says that from now on nothing is charged
// but by the journal.
func (q *Queue) know(exact bool) error {
	number, err := q.store.memory.write(q.knownPath())
	if err == nil && exact {
		err = q.journal.exact(number)
	}
	return err
}

// take decides a message and all that wait with it.
func (q *Queue) take(first *submission) {
	list := []*submission{first}
	for more := true; more && len(list) < q.settings.MaxBatch; {
		select {
		case s, ok := <-q.waiting:
			if more = ok; ok {
				list = append(list, s)
			}
		default:
			more = false
		}
	}
	defer q.length.Add(-int64(len(list)))
	there := list[:0:0]
	for _, s := range list {
		if err := cmp.Or(s.ctx.Err(), s.message.check()); err != nil {
			s.done <- result{err: err}
		} else {
			there = append(there, s)
		}
	}
	if len(there) > 0 {
		q.decide(there, &batch{}, time.Now().Add(q.settings.Timeout))
	}
}

// decide answers each message of a batch, until the deadline by the database.
func (q *Queue) decide(list []*submission, b *batch, deadline time.Time) {
	b.messages = make([]Message, len(list))
	for i, s := range list {
		b.messages[i] = s.message
	}
	for again := true; q.away == nil || q.returned(deadline); {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		decisions, err := q.store.decide(ctx, b)
		cancel()
		switch {
		case err == nil:
			q.batches.Add(1)
			q.decided.Add(int64(len(list)))
			for i, s := range list {
				s.done <- result{decision: decisions[i]}
			}
			return
		case isAway(err):
			q.fall(err)
			// So late is no timer but a process that was stopped: the database
			// has had no chance.
			if again && time.Since(deadline) > time.Second {
				again, deadline = false, time.Now().Add(q.settings.Timeout)
			}
		case len(list) == 1:
			fail(list, err)
			return
		default: // one of them cannot be written (poisoned): it shall fail alone
			half := len(list) / 2
			q.decide(list[:half], &batch{again: b.again}, deadline)
			q.decide(list[half:], &batch{again: b.again}, deadline)
			return
		}
	}
	q.byJournal(list, b)
}

func fail(list []*submission, err error) {
	for _, s := range list {
		s.done <- result{err: err}
	}
}

// fall begins an outage.
func (q *Queue) fall(err error) {
	// A database that answers and then does not decide is asked less and less
	// often, and calls do not wait for it any more.
	if !q.rose.IsZero() && time.Since(q.rose) < 2*q.settings.Timeout+lastWait {
		q.wait = min(max(2*q.wait, firstWait), time.Minute)
	} else {
		q.wait = 0
	}
	ctx, stop := context.WithCancel(context.Background())
	q.away = &outage{patient: q.wait < lastWait, back: make(chan struct{}), progress: make(chan struct{}, 1), stop: stop}
	q.mu.Lock()
	q.since = time.Now()
	q.mu.Unlock()
	q.setTrouble(err)
	q.store.pool.Reset() // no connection of before is trusted
	q.store.memory.doubt()
	// What entries of an earlier life charged is added to what was known then, and
	// not to what is once they begin to be booked.
	if q.journal != nil && q.journal.last.Load() > 0 {
		if err := q.ready(q.away); err != nil {
			q.log().Error().Err(err).Msg("read the journal")
		}
	}
	q.expect(ctx)
}

func (q *Queue) expect(ctx context.Context) {
	o, wait := q.away, q.wait
	q.coming.Go(func() { q.comeBack(ctx, o, wait) })
}

// returned tells whether the database is back. While the outage is young it
// waits for it, until the deadline.
func (q *Queue) returned(deadline time.Time) bool {
	if q.away.patient {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		select {
		case <-q.away.back:
			return q.rise()
		case <-timer.C:
			q.away.patient = false
			q.log().Error().Str("trouble", q.trouble()).Bool("journal", q.settings.ByJournal).Msg("the database is away: deciding without it")
		}
	}
	select {
	case <-q.away.back:
		return q.rise()
	default:
		return false
	}
}

// rise ends an outage, once the rest of the journal is booked.
func (q *Queue) rise() bool {
	booked := 0
	if q.journal != nil {
		booked = int(q.journal.last.Load())
	}
	ctx, cancel := context.WithTimeout(context.Background(), q.settings.Timeout)
	defer cancel()
	err := q.bookAll(ctx, q.away, 0)
	if err == nil && q.journal != nil {
		err = q.journal.clear()
	}
	if err != nil {
		q.setTrouble(fmt.Errorf("book the journal: %w", err))
		q.away.stop()
		var again context.Context
		again, q.away.stop = context.WithCancel(context.Background())
		q.wait = min(max(2*q.wait, firstWait), lastWait)
		q.expect(again)
		return false
	}
	q.away.stop()
	q.away, q.rose = nil, time.Now()
	q.mu.Lock()
	q.why = ""
	q.mu.Unlock()
	q.log().Info().Int("booked", booked).Msg("database reached")
	q.remember()
	return true
}
