package quota

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"
)

// minuteSlots and quarterSlots are how many slots a window spans: one more than
// fit into it, because its ends lie within slots.
const (
	minuteSlots  = 61
	quarterSlots = 97
)

const (
	minuteSeconds     = 60
	quarterSeconds    = 15 * minuteSeconds
	minutesPerQuarter = quarterSeconds / minuteSeconds
)

// maxCount bounds a slot's counters: far more than any server sends in 15
// minutes, and far from overflow when 97 of them are added up.
const maxCount = 1 << 48

// Cost is what a message adds to each of its accounts.
type Cost struct {
	Messages   int64
	Recipients int64
}

func (c *Cost) add(d Cost) { c.Messages += d.Messages; c.Recipients += d.Recipients }

// slot counts what was charged in one minute or quarter of an hour.
type slot struct {
	n int64 // number since 1970: Unix seconds / length
	Cost
}

// Usage is what one object has used in the last hour and day: its non-empty
// slots, oldest first. The zero Usage is that of an object never charged.
type Usage struct {
	minutes, quarters []slot
}

// minuteAt is the number of the minute in which t lies.
func minuteAt(t time.Time) int64 { return t.Unix() / minuteSeconds }

// newest is the last minute that was charged, 0 if none is known.
func (u *Usage) newest() int64 {
	if len(u.minutes) == 0 {
		return 0
	}
	return u.minutes[len(u.minutes)-1].n
}

// charge adds a cost in a minute, and drops the slots that have left their
// windows by the newest one. The minute is before newest for a message that was
// decided while the database was away; what would not count any more is left out.
func (u *Usage) charge(minute int64, c Cost) {
	newest := max(minute, u.newest())
	u.minutes = chargeSlot(live(u.minutes, newest, minuteSlots), minute, newest-minuteSlots, c)
	quarter, last := minute/minutesPerQuarter, newest/minutesPerQuarter
	u.quarters = chargeSlot(live(u.quarters, last, quarterSlots), quarter, last-quarterSlots, c)
}

func chargeSlot(slots []slot, n, gone int64, c Cost) []slot {
	if n <= gone {
		return slots
	}
	i := len(slots)
	for i > 0 && slots[i-1].n > n {
		i--
	}
	if i == 0 || slots[i-1].n != n {
		slots = slices.Insert(slots, i, slot{n: n})
		i++
	}
	slots[i-1].add(c)
	return slots
}

// live is the part of slots whose window still holds them at slot now.
func live(slots []slot, now int64, span int64) []slot {
	for len(slots) > 0 && slots[0].n <= now-span {
		slots = slots[1:]
	}
	return slots
}

// used is what counts against a limit at a minute. RecipientsMessage has no
// window: 0.
func (u *Usage) used(l Limit, minute int64) (sum int64) {
	for _, s := range u.window(l, minute) {
		sum += s.of(l)
	}
	return sum
}

func (u *Usage) window(l Limit, minute int64) []slot {
	switch l {
	case MessagesHour, RecipientsHour:
		return live(u.minutes, minute, minuteSlots)
	case MessagesDay, RecipientsDay:
		return live(u.quarters, minute/minutesPerQuarter, quarterSlots)
	}
	return nil
}

// of is the part of a cost that a limit counts.
func (c Cost) of(l Limit) int64 {
	if l == MessagesHour || l == MessagesDay {
		return c.Messages
	}
	return c.Recipients
}

// freeAt is the first moment at which cost more fits under max, if nothing else
// is charged: the zero time where it never does. It is after the minute given,
// which must be one at which cost does not fit.
func (u *Usage) freeAt(l Limit, minute, cost, max int64) time.Time {
	if cost > max {
		return time.Time{}
	}
	span, seconds := int64(minuteSlots), int64(minuteSeconds)
	if l == MessagesDay || l == RecipientsDay {
		span, seconds = quarterSlots, quarterSeconds
	}
	sum := u.used(l, minute)
	for _, s := range u.window(l, minute) {
		sum -= s.of(l)
		if sum+cost <= max {
			return time.Unix((s.n+span)*seconds, 0).UTC()
		}
	}
	return time.Time{}
}

// AppendBinary appends what usage.state holds: the count of quarters, the
// quarters oldest first, the minutes oldest first; a slot is its number less
// the one before it, its messages, its recipients; all as uvarints. What
// changes most stands last, which keeps PostgreSQL's log of an update short.
func (u *Usage) AppendBinary(b []byte) ([]byte, error) {
	b = binary.AppendUvarint(b, uint64(len(u.quarters)))
	b = appendSlots(b, u.quarters)
	return appendSlots(b, u.minutes), nil
}

func appendSlots(b []byte, slots []slot) []byte {
	var last int64
	for _, s := range slots {
		b = binary.AppendUvarint(b, uint64(s.n-last))
		b = binary.AppendUvarint(b, uint64(s.Messages))
		b = binary.AppendUvarint(b, uint64(s.Recipients))
		last = s.n
	}
	return b
}

var errState = errors.New("usage.state is not what AppendBinary writes")

// UnmarshalBinary reads what AppendBinary wrote; an empty state is the zero
// Usage. Anything else is an error.
func (u *Usage) UnmarshalBinary(b []byte) error {
	*u = Usage{}
	if len(b) == 0 {
		return nil
	}
	n, b, ok := takeUvarint(b)
	if !ok || n > quarterSlots {
		return errState
	}
	quarters, b, ok := takeSlots(b, int(n))
	if !ok {
		return errState
	}
	minutes, b, ok := takeSlots(b, minuteSlots)
	if !ok || len(b) > 0 {
		return errState
	}
	u.quarters, u.minutes = quarters, minutes
	return nil
}

// takeSlots reads at most max slots, to the end of b if there are fewer.
func takeSlots(b []byte, max int) (slots []slot, rest []byte, ok bool) {
	var last int64
	for ; max > 0 && len(b) > 0; max-- {
		var delta, messages, recipients uint64
		if delta, b, ok = takeUvarint(b); !ok || delta == 0 {
			return nil, nil, false
		}
		if messages, b, ok = takeUvarint(b); !ok {
			return nil, nil, false
		}
		if recipients, b, ok = takeUvarint(b); !ok {
			return nil, nil, false
		}
		last += int64(delta)
		slots = append(slots, slot{last, Cost{int64(messages), int64(recipients)}})
	}
	return slots, b, true
}

func takeUvarint(b []byte) (v uint64, rest []byte, ok bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 || v > maxCount {
		return 0, nil, false
	}
	return v, b[n:], true
}
