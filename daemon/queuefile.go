package daemon

import (
	"container/list"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"sendmail-wrapper/quota"
)

const (
	// maxQueueFiles bounds the queue files that are waited for. Most wait for
	// milliseconds.
	maxQueueFiles = 16384
	// maxGiveBacks bounds the messages that wait to be given back.
	maxGiveBacks = 4096
)

// queueFiles are the queue files of messages that were charged at their end. smtpd(8)
// asks before cleanup(8) has its say: milters, header_checks, loops of aliases, a full
// disk. All queue files are made in incoming/. One that is taken is moved from there,
// by qmgr(8) to active/ or by cleanup(8) to hold/; one that is deleted there was
// refused, or thrown away, and leaves this host no more.
type queueFiles struct {
	fd     int      // of inotify(7)
	events *os.File // the same; nil where nothing is watched
	top    string
	dirs   map[int32]string // by watch; more than the top where hash_queue_names has incoming

	mu    sync.Mutex
	byID  map[string]*list.Element
	order list.List // of *queueFile, the oldest first
}

// charge is a message that was charged.
type charge struct {
	queueID    string
	id         uuid.UUID
	at         time.Time // zero: not decided yet
	of         sender
	recipients int
}

type queueFile struct {
	charge
	deleted bool
}

// watch begins to watch a queue directory of Postfix.
func (f *queueFiles) watch(queue string) (err error) {
	if f.fd, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
		return fmt.Errorf("inotify_init1: %w", err)
	}
	f.top, f.dirs, f.byID = filepath.Join(queue, "incoming"), map[int32]string{}, map[string]*list.Element{}
	events := os.NewFile(uintptr(f.fd), "inotify")
	if err := f.watchDir(f.top); err != nil {
		events.Close()
		return err
	}
	f.events = events
	return nil
}

// watchDir watches a directory, and those in it.
func (f *queueFiles) watchDir(dir string) error {
	wd, err := unix.InotifyAddWatch(f.fd, dir, unix.IN_DELETE|unix.IN_MOVED_FROM|unix.IN_CREATE|unix.IN_ONLYDIR|unix.IN_DONT_FOLLOW)
	if err != nil {
		return &os.PathError{Op: "inotify_add_watch", Path: dir, Err: err}
	}
	f.dirs[int32(wd)] = dir
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := f.watchDir(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// expect notes a message before it is charged: its file may be deleted at any time
// from then on, as where smtpd(8) is killed. It is nil where nothing is watched.
func (f *queueFiles) expect(queueID string) *queueFile {
	if f.events == nil || queueID == "" {
		return nil
	}
	file := &queueFile{charge: charge{queueID: queueID}}
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.byID[queueID]; e != nil { // short queue IDs come again
		f.order.Remove(e)
	}
	f.byID[queueID] = f.order.PushBack(file)
	if f.order.Len() > maxQueueFiles {
		f.remove(f.order.Front().Value.(*queueFile))
	}
	return file
}

// charged says of a message that it was charged at a time; refused tells whether its
// file is deleted already.
func (f *queueFiles) charged(file *queueFile, m *quota.Message, at time.Time) (refused bool) {
	if file == nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	file.id, file.at, file.of, file.recipients = m.ID, at, senderOf(m), m.Recipients
	return file.deleted
}

// drop says of a message that it was not charged.
func (f *queueFiles) drop(file *queueFile) {
	if file == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(file)
}

func (f *queueFiles) remove(file *queueFile) {
	if e := f.byID[file.queueID]; e != nil && e.Value == file {
		f.order.Remove(e)
		delete(f.byID, file.queueID)
	}
}

// left takes it that a queue file has left incoming/; refused tells whether c is to be
// given back.
func (f *queueFiles) left(queueID string, deleted bool) (c charge, refused bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.byID[queueID]
	if e == nil {
		return charge{}, false
	}
	file := e.Value.(*queueFile)
	f.remove(file)
	file.deleted = deleted
	return file.charge, deleted && !file.at.IsZero()
}

// clear forgets all, and returns how many there were.
func (f *queueFiles) clear() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.order.Len()
	f.order.Init()
	clear(f.byID)
	return n
}

// watchQueue begins to watch Postfix's queue, where that is configured. Where it cannot,
// mail goes on, and what Postfix refuses stays charged.
func (s *Server) watchQueue() {
	queue := s.config().PostfixQueue
	if queue == "" {
		return
	}
	switch err := s.queueFiles.watch(queue); {
	case errors.Is(err, os.ErrNotExist):
		s.log().Info().Err(err).Msg("there is no postfix-queue: nothing is given back")
	case err != nil:
		s.log().Warn().Err(err).Msg("postfix-queue cannot be watched: what Postfix refuses stays charged")
	}
}

// followQueue gives back what Postfix refuses, until ctx ends.
func (s *Server) followQueue(ctx context.Context) {
	f := &s.queueFiles
	if f.events == nil {
		return
	}
	defer context.AfterFunc(ctx, func() { f.events.Close() })()
	// A buffer for many events: Postfix under load makes some thousands a second.
	for buffer := make([]byte, 64<<10); ; {
		n, err := f.events.Read(buffer)
		if err != nil {
			if ctx.Err() == nil {
				s.log().Error().Err(err).Msg("postfix-queue is watched no more: what Postfix refuses stays charged")
			}
			return
		}
		s.queueEvents(buffer[:n])
	}
}

// queueEvents takes events of inotify(7) as read(2) gives them.
func (s *Server) queueEvents(events []byte) {
	for len(events) >= unix.SizeofInotifyEvent {
		wd, mask := int32(binary.NativeEndian.Uint32(events)), binary.NativeEndian.Uint32(events[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		name := strings.TrimRight(string(events[unix.SizeofInotifyEvent:end]), "\x00")
		events = events[end:]
		s.queueEvent(wd, mask, name)
	}
}

// queueEvent takes one event of inotify(7).
func (s *Server) queueEvent(wd int32, mask uint32, name string) {
	f := &s.queueFiles
	dir := f.dirs[wd]
	switch {
	case mask&unix.IN_Q_OVERFLOW != 0:
		// What became of those that were waited for is not known any more.
		s.log().Warn().Int("messages", f.clear()).Msg("more happens in postfix-queue than can be followed: if one of these messages was refused, it stays charged")
		s.watchAnew(f.top)
	case mask&unix.IN_IGNORED != 0:
		delete(f.dirs, wd)
		if dir == f.top {
			s.log().Warn().Str("directory", dir).Msg("it is gone: until mailquotad is started again, what Postfix refuses stays charged")
		}
	case mask&unix.IN_ISDIR != 0:
		if mask&unix.IN_CREATE != 0 {
			s.watchAnew(filepath.Join(dir, name))
		}
	case mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0:
		if c, refused := f.left(name, mask&unix.IN_DELETE != 0); refused {
			s.refusedByServer(c)
		}
	}
}

func (s *Server) watchAnew(dir string) {
	if err := s.queueFiles.watchDir(dir); err != nil {
		s.log().Warn().Err(err).Msg("a directory of postfix-queue cannot be watched: what Postfix refuses there stays charged")
	}
}

// refusedByServer takes a message that the mail server has refused, to be given back.
func (s *Server) refusedByServer(c charge) {
	select {
	case s.returns <- c:
	default:
		s.notGivenBack(&c, errors.New("too many are waiting for it"))
	}
}

func (s *Server) notGivenBack(c *charge, why error) {
	c.log(s.log().Error().Err(why)).Msg(c.server() + " refused the message, and it stays charged")
}

// giveBack gives back one message after the other, until stop ends. While the database is
// away they wait.
func (s *Server) giveBack(stop context.Context) {
	const tries = 5
	for {
		var c charge
		select {
		case c = <-s.returns:
		case <-stop.Done():
			s.giveBackRest()
			return
		}
		for failed := 0; ; {
			err := s.giveBackOne(context.Background(), &c)
			if err == nil {
				break
			}
			if s.database.queue.State().Trouble == "" {
				failed++
			}
			if failed == tries || stop.Err() != nil {
				s.notGivenBack(&c, err)
				break
			}
			select {
			case <-time.After(time.Second):
			case <-stop.Done():
			}
		}
	}
}

// giveBackRest gives back at a stop what the database takes in a few seconds.
func (s *Server) giveBackRest() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for {
		select {
		case c := <-s.returns:
			if err := s.giveBackOne(ctx, &c); err != nil {
				s.notGivenBack(&c, err)
				if n := len(s.returns); n > 0 {
					s.log().Warn().Int("messages", n).Msg("the mail server refused these, and they stay charged: mailquotad stops")
				}
				return
			}
		default:
			return
		}
	}
}

func (s *Server) giveBackOne(ctx context.Context, c *charge) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.config().DecisionTimeout))
	defer cancel()
	if err := s.database.store.GiveBack(ctx, c.id, c.at); err != nil {
		return err
	}
	s.counts.givenBack.Add(1)
	c.log(s.log().Info().EmbedObject(c.of)).Int("recipients", c.recipients).Msg(c.server() + " refused the message: given back")
	return nil
}

// log adds which message it is to a line of the log.
func (c *charge) log(e *zerolog.Event) *zerolog.Event {
	e = e.Str("id", c.id.String())
	if c.queueID != "" {
		e = e.Str("queue_id", c.queueID)
	}
	return e
}

// server is who has refused the message: Postfix where that was seen in its queue.
func (c *charge) server() string {
	if c.queueID != "" {
		return "Postfix"
	}
	return "the mail server"
}
