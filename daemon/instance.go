package daemon

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/policy"
)

const (
	// maxInstances bounds the messages that are remembered. Of one that is forgotten
	// the database still tells whether it was charged. Decided ones, of which each has a
	// refusal, take some 9 MB.
	maxInstances = 16384
	// maxUnended bounds those of one user's programs that have not come to their end:
	// more than smtpd(8) has processes (default_process_limit, 100). Each keeps an
	// Origin, with the longest facts and chain some 115 kB, so a user has at most 15 MB;
	// a program can begin one after the other (MAIL, RCPT, RSET).
	maxUnended = 128
	// instanceAge is for how long after its last question a message is remembered:
	// smtpd(8) waits 5 minutes for each command (smtpd_timeout).
	instanceAge = 30 * time.Minute
	// maxBegun is how long ago a message may have begun: no client takes longer.
	maxBegun = 24 * time.Hour
)

// answer is what the mail server is told.
type answer struct {
	action policy.Action
	text   string
}

// instance is one message while smtpd(8) asks about it, at each recipient and at its
// end. Who holds mu answers a question; others about the same message wait.
type instance struct {
	mu      sync.Mutex
	id      uuid.UUID
	again   bool           // it may have been charged already
	smtpd   bool           // its name is one that Postfix's smtpd(8) makes
	program *origin.Origin // of this host, which is the client; nil where none is known, and from the end on
	early   *answer        // before the end of the message; nil: not asked for
	probed  int            // of how many recipients early is
	final   *answer        // at the end of the message; nil: not decided

	// Of instances.
	name    string
	began   time.Time     // by the name; zero where it does not tell
	asked   time.Time     // when the last question came
	ended   bool          // the question at its end has come
	unended *list.Element // of instances.unended; nil where it is not among them
	uid     uint32        // whose unended it is of
}

// atEnd is the answer at the end of a message as smtpd(8) can take it. After a refusal
// there Postfix (3.7, smtpd.c: data_cmd and bdat_cmd) keeps half of the transaction: the
// next MAIL of the session is told 503, for good, and a refused RCPT and DATA end the
// process by a signal, which shuts the port for a minute. So the session is to end, as
// after 421 and 521 (smtpd_chat.c); the class of the answer stays.
func (i *instance) atEnd(action policy.Action) policy.Action {
	switch {
	case !i.smtpd || action == policy.Dunno:
		return action
	case action == policy.Defer:
		return "421 4.3.0"
	}
	return action[:1] + "21" + action[3:]
}

// instances are the messages that were asked about lately, by the attribute instance
// of the questions.
type instances struct {
	host string

	mu      sync.Mutex
	byName  map[string]*list.Element
	order   list.List             // of *instance, the one asked about last first
	unended map[uint32]*list.List // of *instance with a program, by its uid, the oldest first
	since   time.Time             // any that began until then may have been forgotten
}

func (t *instances) init(host string, now time.Time) {
	t.host, t.byName, t.unended, t.since = host, map[string]*list.Element{}, map[uint32]*list.List{}, now
}

// get returns the message of a name, a new one if none was asked about lately. One
// without a name is always new.
func (t *instances) get(name string, atEnd bool, now time.Time) *instance {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.byName[name]; e != nil {
		t.order.MoveToFront(e)
		i := e.Value.(*instance)
		i.asked = now
		if atEnd {
			i.ended = true
			t.removeUnended(i)
		}
		return i
	}
	i := &instance{name: strings.Clone(name), asked: now, ended: atEnd} // not the whole question
	began, ok := instanceTime(name)
	if i.smtpd = ok; ok && began.After(now.Add(-maxBegun)) && began.Before(now.Add(time.Minute)) {
		i.began, i.id, i.again = began, messageID(began, "smtp", t.host, name), !began.After(t.since)
	} else {
		i.id = uuid.Must(uuid.NewV7())
	}
	if name == "" {
		return i
	}
	t.byName[i.name] = t.order.PushFront(i)
	for {
		last := t.order.Back().Value.(*instance)
		if t.order.Len() <= maxInstances && now.Sub(last.asked) <= instanceAge {
			return i
		}
		t.remove(last)
		if last.began.After(t.since) {
			t.since = last.began
		}
	}
}

// keep notes which program sends a message, until its end. Where a user has too many
// that do not end, the oldest is forgotten: it was not charged.
func (t *instances) keep(i *instance, program *origin.Origin) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.byName[i.name]; i.ended || e == nil || e.Value != i {
		return
	}
	i.program, i.uid = program, program.UID
	of := t.unended[i.uid]
	if of == nil {
		of = list.New()
		t.unended[i.uid] = of
	}
	i.unended = of.PushBack(i)
	if of.Len() > maxUnended {
		t.remove(of.Front().Value.(*instance))
	}
}

// forget drops a message that was not charged.
func (t *instances) forget(i *instance) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remove(i)
}

func (t *instances) remove(i *instance) {
	if e := t.byName[i.name]; e != nil && e.Value == i {
		t.order.Remove(e)
		delete(t.byName, i.name)
	}
	t.removeUnended(i)
}

func (t *instances) removeUnended(i *instance) {
	if i.unended == nil {
		return
	}
	of := t.unended[i.uid]
	of.Remove(i.unended)
	i.unended = nil
	if of.Len() == 0 {
		delete(t.unended, i.uid)
	}
}

// instanceTime reads when a message began from its instance as smtpd(8) makes it,
// "PID.SECONDS.MICROSECONDS.COUNT" in hexadecimal digits, of the time of the command
// MAIL. Other mail servers may have other names, which tell no time.
func instanceTime(instance string) (began time.Time, ok bool) {
	parts := strings.Split(instance, ".")
	if len(parts) != 4 {
		return time.Time{}, false
	}
	var n [4]uint64
	for i, part := range parts {
		var err error
		if n[i], err = strconv.ParseUint(part, 16, 40); err != nil {
			return time.Time{}, false
		}
	}
	if n[2] >= 1e6 {
		return time.Time{}, false
	}
	return time.UnixMicro(int64(n[1])*1e6 + int64(n[2])), true
}

// messageID makes the ID of a message, of version 7 (RFC 9562, 5.7), from the time
// when it came and its names, which together are no other message's: the same ID each
// time, also after a restart. Names are without NUL.
func messageID(came time.Time, names ...string) (id uuid.UUID) {
	hash := sha256.Sum256([]byte(strings.Join(names, "\x00")))
	copy(id[:], hash[:])
	var milliseconds [8]byte
	binary.BigEndian.PutUint64(milliseconds[:], uint64(came.UnixMilli()))
	copy(id[:6], milliseconds[2:])
	id[6] = 7<<4 | id[6]&0x0f
	id[8] = 0b10<<6 | id[8]&0x3f
	return id
}
