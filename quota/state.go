package quota

import (
	"encoding/binary"
	"errors"
	"time"
)

// waiverMark begins a state that has a waiver: no count of quarters is as high.
const waiverMark = quarterSlots + 1

// AppendBinary appends what usage.state holds: the count of quarters, the
// quarters oldest first, the minutes oldest first; a slot is its number less
// the one before it, its messages, its recipients; all as uvarints. What
// changes most stands last, which keeps PostgreSQL's log of an update short.
//
// Where something is forgiven or granted, there stands before it waiverMark, the
// messages and recipients granted, until when (in microseconds since 1970, 0: until
// used up), the count of quarters, these, the count of minutes, these.
func (u *Usage) AppendBinary(b []byte) ([]byte, error) {
	if w := u.waiver; w != nil && !w.isEmpty() {
		b = binary.AppendUvarint(b, waiverMark)
		b = binary.AppendUvarint(b, uint64(w.grant.Messages))
		b = binary.AppendUvarint(b, uint64(w.grant.Recipients))
		var until int64
		if !w.grant.Until.IsZero() {
			until = w.grant.Until.UnixMicro()
		}
		b = binary.AppendUvarint(b, uint64(until))
		b = appendSlots(binary.AppendUvarint(b, uint64(len(w.quarters))), w.quarters)
		b = appendSlots(binary.AppendUvarint(b, uint64(len(w.minutes))), w.minutes)
	}
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
	n, rest, ok := takeUvarint(b)
	var w *waiver
	if ok && n == waiverMark {
		if w, b, ok = takeWaiver(rest); ok {
			n, rest, ok = takeUvarint(b)
		}
	}
	if !ok || n > quarterSlots {
		return errState
	}
	quarters, rest, ok := takeSlots(rest, int(n))
	if !ok {
		return errState
	}
	minutes, rest, ok := takeSlots(rest, minuteSlots)
	if !ok || len(rest) > 0 {
		return errState
	}
	if w != nil && !(contains(quarters, w.quarters) && contains(minutes, w.minutes)) {
		return errState
	}
	u.quarters, u.minutes, u.waiver = quarters, minutes, w
	return nil
}

// takeWaiver reads what stands after a waiverMark.
func takeWaiver(b []byte) (w *waiver, rest []byte, ok bool) {
	var granted [2]uint64
	for i := range granted {
		if granted[i], b, ok = takeUvarint(b); !ok {
			return nil, nil, false
		}
	}
	until, n := binary.Uvarint(b)
	if n <= 0 || until > 1<<62 {
		return nil, nil, false
	}
	w = &waiver{grant: Grant{Messages: int64(granted[0]), Recipients: int64(granted[1])}}
	if until != 0 {
		w.grant.Until = time.UnixMicro(int64(until)).UTC()
	}
	b = b[n:]
	if w.quarters, b, ok = takeCounted(b, quarterSlots); !ok {
		return nil, nil, false
	}
	w.minutes, b, ok = takeCounted(b, minuteSlots)
	return w, b, ok
}

// takeCounted reads slots after their count, which is at most max.
func takeCounted(b []byte, max uint64) (slots []slot, rest []byte, ok bool) {
	n, b, ok := takeUvarint(b)
	if !ok || n > max {
		return nil, nil, false
	}
	slots, rest, ok = takeSlots(b, int(n))
	return slots, rest, ok && len(slots) == int(n)
}

// contains tells whether slots hold what is in others, which come in the same order.
func contains(slots, others []slot) bool {
	for _, o := range others {
		for len(slots) > 0 && slots[0].n < o.n {
			slots = slots[1:]
		}
		if len(slots) == 0 || slots[0].n != o.n || slots[0].Messages < o.Messages || slots[0].Recipients < o.Recipients {
			return false
		}
	}
	return true
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
