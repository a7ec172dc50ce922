package quota

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// journal is a file with the decisions that the database has not got yet. One
// process has it open at a time.
//
// Each transaction is on the disk before it returns. Entries stay until all of
// them are booked, since they are also what was used since it was written down
// what is known (knowledge.go); a mark says how far the booking is.
type journal struct {
	path  string
	limit int
	db    *bolt.DB
	file  os.FileInfo // of path, when it was opened
	// Kept here, too, because they are asked for at each batch.
	last, booked atomic.Uint64 // sequence numbers
	failed       atomic.Uint64 // how many
}

// entry is a message and what was decided while the database was away.
type entry struct {
	Message  Message
	Decision Decision
}

var (
	entriesBucket = []byte("entries") // sequence number → entry
	idsBucket     = []byte("ids")     // message ID → sequence number of the entry that accepted it
	failedBucket  = []byte("failed")  // message ID → entry that the database did not take, with its error
	metaBucket    = []byte("meta")
)

var (
	bookedKey = []byte("booked") // sequence number of the last entry that the database has
	exactKey  = []byte("exact")  // number of the knowledge that is exact but for the entries
)

// maxBytes bounds what entries take: two kilobytes each, twice the usual, but not
// below what a few pages more or less would decide.
func (j *journal) maxBytes() int64 { return max(int64(j.limit)<<11, 64<<20) }

// used is what of the file holds something, in bytes: after an outage it keeps its
// size, and its pages are free for the next.
func (j *journal) used() (n int64) {
	_ = j.db.View(func(tx *bolt.Tx) error { // which fails for a closed file only
		n = tx.Size() - int64(j.db.Stats().FreeAlloc)
		return nil
	})
	return n
}

// spare is how many entries fit in besides as many again as there will be then.
func (j *journal) spare() int {
	if j.used() >= j.maxBytes()/2 {
		return 0
	}
	return j.limit/2 - j.waiting()
}

var errFull = errors.New("the journal is full")

// errBroken says that the file is not, or not any more, one of this package.
var errBroken = errors.New("the file is broken")

// openJournal opens the file, or makes it.
func openJournal(path string, limit int) (j *journal, err error) {
	// All is read once, so that what is broken shows now. bbolt panics then, and
	// reads by a memory map, which ends where the file does.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("journal %s: %w: %v", path, errBroken, p)
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, FreelistType: bolt.FreelistMapType})
	var system syscall.Errno
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("journal %s: another mailquotad has it open", path)
	case errors.As(err, &system):
		return nil, fmt.Errorf("journal %s: %w", path, err)
	case err != nil:
		return nil, fmt.Errorf("journal %s: %w: %w", path, errBroken, err)
	}
	j = &journal{path: path, limit: limit, db: db}
	if j.file, err = os.Stat(path); err != nil {
		db.Close()
		return nil, fmt.Errorf("journal: %w", err)
	}
	if err := j.begin(); err != nil {
		db.Close()
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	if err := j.each(0, math.MaxInt, func(uint64, *entry) error { return nil }); err != nil {
		db.Close()
		return nil, fmt.Errorf("journal %s: %w: %w", path, errBroken, err)
	}
	return j, nil
}

func (j *journal) begin() error {
	return j.db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{entriesBucket, idsBucket, failedBucket, metaBucket} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		j.last.Store(tx.Bucket(entriesBucket).Sequence())
		j.booked.Store(number(tx.Bucket(metaBucket).Get(bookedKey)))
		j.failed.Store(uint64(tx.Bucket(failedBucket).Stats().KeyN))
		return nil
	})
}

func (j *journal) close() error { return j.db.Close() }

// waiting is the number of entries that are not booked.
func (j *journal) waiting() int { return int(j.last.Load() - j.booked.Load()) }

// append adds entries.
func (j *journal) append(list []entry) error {
	// What is written to a file that somebody took away is gone with the process.
	st, err := os.Stat(j.path)
	switch {
	case err != nil:
		return fmt.Errorf("journal: %w", err)
	case !os.SameFile(st, j.file):
		return fmt.Errorf("journal %s is another file than when it was opened: restart mailquotad", j.path)
	case j.waiting()+len(list) > j.limit, j.used() > j.maxBytes():
		return errFull
	}
	last := j.last.Load()
	err = j.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(entriesBucket)
		b.FillPercent = 1 // keys only grow
		for i := range list {
			value, err := json.Marshal(&list[i])
			if err != nil {
				return err
			}
			if last, err = b.NextSequence(); err != nil {
				return err
			}
			if err := b.Put(key(last), value); err != nil {
				return err
			}
			if list[i].Decision.Refusal != nil {
				continue
			}
			if err := tx.Bucket(idsBucket).Put(list[i].Message.ID[:], key(last)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.last.Store(last)
	return nil
}

// accepted is the decision of the entry that accepted a message; nil if there is none.
func (j *journal) accepted(id uuid.UUID) (d *Decision, err error) {
	err = j.db.View(func(tx *bolt.Tx) error {
		seq := tx.Bucket(idsBucket).Get(id[:])
		if seq == nil {
			return nil
		}
		var e entry
		if err := json.Unmarshal(tx.Bucket(entriesBucket).Get(seq), &e); err != nil {
			return fmt.Errorf("journal entry %d: %w", number(seq), err)
		}
		d = &e.Decision
		return nil
	})
	return d, err
}

// each calls f with all entries after a sequence number, in order, at most max.
func (j *journal) each(after uint64, max int, f func(seq uint64, e *entry) error) error {
	return j.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(entriesBucket).Cursor()
		for k, v := c.Seek(key(after + 1)); k != nil && max > 0; k, v = c.Next() {
			var e entry
			if err := json.Unmarshal(v, &e); err != nil {
				return fmt.Errorf("journal entry %d: %w", number(k), err)
			}
			if err := f(number(k), &e); err != nil {
				return err
			}
			max--
		}
		return nil
	})
}

// book notes that the database has all entries up to one.
func (j *journal) book(seq uint64) error {
	err := j.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(metaBucket).Put(bookedKey, key(seq)) })
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.booked.Store(seq)
	return nil
}

// fail puts an entry aside that the database does not take, for a person to look
// at; without details, since it stays for longer than these may.
func (j *journal) fail(e *entry, why error) error {
	kept, added := *e, false
	kept.Message.Details = Details{}
	err := j.db.Update(func(tx *bolt.Tx) error {
		value, err := json.Marshal(struct {
			*entry
			Error string
		}{&kept, why.Error()})
		if err != nil {
			return err
		}
		b := tx.Bucket(failedBucket)
		added = b.Get(e.Message.ID[:]) == nil
		return b.Put(e.Message.ID[:], value)
	})
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if added {
		j.failed.Add(1)
	}
	return nil
}

// clear forgets the entries, all of which are booked, and that the knowledge is
// exact: the database counts from now on.
func (j *journal) clear() error {
	err := j.db.Update(func(tx *bolt.Tx) error {
		if err := tx.Bucket(metaBucket).Delete(exactKey); err != nil {
			return err
		}
		if err := tx.Bucket(metaBucket).Delete(bookedKey); err != nil {
			return err
		}
		for _, name := range [][]byte{entriesBucket, idsBucket} {
			if err := tx.DeleteBucket(name); err != nil {
				return err
			}
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.last.Store(0)
	j.booked.Store(0)
	return nil
}

// exact notes that nothing is charged any more but by entries since some
// knowledge was written, of which this is the number; isExact tells whether that
// is so.
func (j *journal) exact(n uint64) error {
	err := j.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(metaBucket).Put(exactKey, key(n)) })
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

func (j *journal) isExact(n uint64) (is bool, err error) {
	err = j.db.View(func(tx *bolt.Tx) error {
		is = bytes.Equal(tx.Bucket(metaBucket).Get(exactKey), key(n))
		return nil
	})
	return is, err
}

// size is that of the file, in bytes.
func (j *journal) size() int64 {
	st, err := os.Stat(j.path)
	if err != nil {
		return 0
	}
	return st.Size()
}

func key(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func number(key []byte) uint64 {
	if len(key) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(key)
}
