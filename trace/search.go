package trace

import (
	"cmp"
	"errors"
	"iter"
	"slices"
	"strings"
	"time"
)

// Query says what is looked for in the log. What is empty is not known.
type Query struct {
	Queue     string   // id of a queue file
	Trace     string   // value of the trace header
	MessageID string   // with < and >
	Fields    []string // names of the trace header

	// A mail that has none of these is told by who handed it over, when, and for how
	// many recipients.
	UID        *int64
	Login      string // of SMTP AUTH
	At         time.Time
	Recipients int
}

// Match says how a mail of the log was found.
type Match string

const (
	None        Match = "none"
	ByQueue     Match = "queue-id"
	ByTrace     Match = "trace-header"
	ByMessageID Match = "message-id"
	Likely      Match = "likely" // uid, time and recipients fit: it may be another's
)

// Before and After are how long before and after it was decided a mail may have
// reached Postfix, to be a likely one: pickup(8) comes at once, unless Postfix was
// stopped.
const (
	Before = 2 * time.Second
	After  = 5 * time.Minute
)

// maxOpen bounds how many mails are followed at once, and maxFound how many are
// returned.
const (
	maxOpen  = 100_000
	maxFound = 20
)

// Search reads a log, oldest line first, and returns what it knows of the mails
// that a query is about, in the order of the log: those by the surest match that
// there is. Two that have the same id, one after the other, are two mails; of more
// than 20 the last ones are returned. An error says what of the log could not be
// read; mails are returned beside it.
func Search(lines iter.Seq2[Line, error], q Query) ([]*Mail, Match, error) {
	s := &search{query: q, open: map[string]*Mail{}, found: map[Match][]*Mail{}}
	var failure error
	for line, err := range lines {
		if err != nil {
			failure = errors.Join(failure, err)
			continue
		}
		s.line(line)
	}
	for _, id := range s.order {
		if m := s.open[id]; m != nil {
			s.end(m)
		}
	}
	for _, match := range []Match{ByQueue, ByTrace, ByMessageID, Likely} {
		if list := s.found[match]; len(list) > 0 {
			slices.SortStableFunc(list, func(a, b *Mail) int { return a.First.Compare(b.First) })
			return list[max(0, len(list)-maxFound):], match, failure
		}
	}
	return nil, None, failure
}

type search struct {
	query Query
	open  map[string]*Mail // by queue id
	order []string         // of open, oldest first; those that have ended are still there
	found map[Match][]*Mail
}

func (s *search) line(l Line) {
	if s.query.Queue != "" && l.Queue != s.query.Queue {
		return
	}
	m := s.open[l.Queue]
	if m == nil {
		s.bound()
		m = &Mail{Queue: l.Queue}
		s.open[l.Queue] = m
		s.order = append(s.order, l.Queue)
	}
	m.add(l, s.query.Fields)
	if m.IsRemoved {
		s.end(m)
	}
}

// bound forgets what has ended, and ends the oldest of what is followed if that is
// still too much.
func (s *search) bound() {
	if len(s.order) < maxOpen {
		return
	}
	s.order = slices.DeleteFunc(s.order, func(id string) bool { return s.open[id] == nil })
	if len(s.order) < maxOpen*3/4 {
		return
	}
	for _, id := range s.order[:maxOpen/4] {
		if m := s.open[id]; m != nil { // an id that came twice is twice in order
			s.end(m)
		}
	}
	s.order = slices.Clone(s.order[maxOpen/4:])
}

func (s *search) end(m *Mail) {
	delete(s.open, m.Queue)
	if match := s.query.match(m); match != None {
		list := append(s.found[match], m)
		if len(list) > 2*maxFound {
			list = slices.Clone(list[maxFound:])
		}
		s.found[match] = list
	}
}

// match tells whether a mail is one that is looked for. A trace header or a
// Message-ID can be copied: a mail that another user handed over is not it, nor one
// with another Message-ID.
func (q *Query) match(m *Mail) Match {
	isOther := q.UID != nil && m.UID != nil && *q.UID != *m.UID || q.Login != "" && m.UID != nil ||
		q.MessageID != "" && m.MessageID != "" && q.MessageID != m.MessageID // Postfix leaves one as it is
	switch {
	case q.Queue != "" && q.Queue == m.Queue:
		return ByQueue
	case isOther:
		return None
	case q.Trace != "" && slices.Contains(m.Traces, strings.ToLower(q.Trace)):
		return ByTrace
	case q.MessageID != "" && q.MessageID == m.MessageID:
		return ByMessageID
	case q.isLikely(m):
		return Likely
	}
	return None
}

func (q *Query) isLikely(m *Mail) bool {
	hasOther := q.Trace != "" && len(m.Traces) > 0 // or it would have matched
	if q.At.IsZero() || m.Recipients != q.Recipients || hasOther {
		return false
	}
	isSame := q.UID != nil && m.UID != nil && *q.UID == *m.UID || q.Login != "" && strings.EqualFold(q.Login, m.Login)
	// Syslog has whole seconds.
	after := m.First.Sub(q.At)
	return isSame && after >= -Before && after <= After
}

// Nearest sorts mails by how near to a time they reached Postfix.
func Nearest(list []*Mail, at time.Time) {
	slices.SortStableFunc(list, func(a, b *Mail) int {
		return cmp.Compare(a.First.Sub(at).Abs(), b.First.Sub(at).Abs())
	})
}
