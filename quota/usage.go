package quota

import (
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

func (c Cost) times(n int64) Cost { return Cost{c.Messages * n, c.Recipients * n} }

// slot counts what was charged in one minute or quarter of an hour.
type slot struct {
	n int64 // number since 1970: Unix seconds / length
	Cost
}

// Usage is what one object has used in the last hour and day: its non-empty
// slots, oldest first. The zero Usage is that of an object never charged.
type Usage struct {
	minutes, quarters []slot
	waiver            *waiver // nil: all that was counted counts, and nothing more is granted
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
	u.minutes, u.quarters = chargeWindows(u.minutes, u.quarters, minute, newest, c)
	if u.waiver != nil {
		u.waiver.age(newest)
	}
}

func chargeWindows(minutes, quarters []slot, minute, newest int64, c Cost) (m, q []slot) {
	m = chargeSlot(live(minutes, newest, minuteSlots), minute, newest-minuteSlots, c)
	quarter, last := minute/minutesPerQuarter, newest/minutesPerQuarter
	return m, chargeSlot(live(quarters, last, quarterSlots), quarter, last-quarterSlots, c)
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

// used is what counts against a limit at a minute: what was counted, less what
// was forgiven. RecipientsMessage has no window: 0.
func (u *Usage) used(l Limit, minute int64) int64 {
	sum := u.counted(l, minute)
	if u.waiver != nil {
		sum -= sumOf(window(u.waiver.minutes, u.waiver.quarters, l, minute), l)
	}
	return sum
}

// counted is what was counted for a limit at a minute.
func (u *Usage) counted(l Limit, minute int64) int64 {
	return sumOf(window(u.minutes, u.quarters, l, minute), l)
}

func sumOf(slots []slot, l Limit) (sum int64) {
	for _, s := range slots {
		sum += s.of(l)
	}
	return sum
}

// window is the slots that a limit sums up at a minute.
func window(minutes, quarters []slot, l Limit, minute int64) []slot {
	switch l {
	case MessagesHour, RecipientsHour:
		return live(minutes, minute, minuteSlots)
	case MessagesDay, RecipientsDay:
		return live(quarters, minute/minutesPerQuarter, quarterSlots)
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
	var forgiven []slot
	if u.waiver != nil {
		forgiven = window(u.waiver.minutes, u.waiver.quarters, l, minute)
	}
	for _, s := range window(u.minutes, u.quarters, l, minute) {
		sum -= s.of(l)
		if len(forgiven) > 0 && forgiven[0].n == s.n {
			sum += forgiven[0].of(l)
			forgiven = forgiven[1:]
		}
		if sum+cost <= max {
			return time.Unix((s.n+span)*seconds, 0).UTC()
		}
	}
	return time.Time{}
}
