package quota

import (
	"slices"
	"time"
)

// waiver is what of a Usage does not count, and what may be sent besides. Hardly
// any object has one.
type waiver struct {
	minutes, quarters []slot // forgiven, contained in those that were counted
	grant             Grant
}

// Grant is a one-off allowance: so many messages, or messages with so many
// recipients in all, pass although a limit of an hour or a day of the object would
// refuse them.
type Grant struct {
	Messages   int64     `json:"messages"`
	Recipients int64     `json:"recipients"`
	Until      time.Time `json:"until,omitzero"` // holds before it; zero: until used up
}

func (w *waiver) isEmpty() bool {
	return len(w.minutes) == 0 && len(w.quarters) == 0 && w.grant.Messages == 0 && w.grant.Recipients == 0
}

// shared returns what is left of an allowance, at most part/of of what there was
// before own was taken from it.
func (g Grant) shared(own Cost, part, of int64) Grant {
	g.Messages = max((g.Messages+own.Messages)*part/of-own.Messages, 0)
	g.Recipients = max((g.Recipients+own.Recipients)*part/of-own.Recipients, 0)
	return g
}

// price is what a message takes from an allowance: a message, or its recipients
// where no messages are left. It is zero where the allowance does not reach.
func (g Grant) price(c Cost, at time.Time) Cost {
	switch {
	case !g.Until.IsZero() && !at.Before(g.Until):
	case g.Messages >= c.Messages:
		return Cost{Messages: c.Messages}
	case g.Recipients >= c.Recipients:
		return Cost{Recipients: c.Recipients}
	}
	return Cost{}
}

// take takes a price from an allowance, as far as it is there.
func (g *Grant) take(price Cost) {
	g.Messages = max(g.Messages-price.Messages, 0)
	g.Recipients = max(g.Recipients-price.Recipients, 0)
}

// waive returns the waiver, which is made where there is none.
func (u *Usage) waive() *waiver {
	if u.waiver == nil {
		u.waiver = &waiver{}
	}
	return u.waiver
}

// forgive makes a cost that was charged in a minute count no more.
func (u *Usage) forgive(minute int64, c Cost) {
	w := u.waive()
	w.minutes, w.quarters = chargeWindows(w.minutes, w.quarters, minute, max(minute, u.newest()), c)
}

// giveBack forgives a cost that was charged in a minute, as far as it counts still: it
// may have been forgiven with others.
func (u *Usage) giveBack(minute int64, c Cost) {
	w := u.waive()
	w.minutes = forgiveCounted(w.minutes, u.minutes, minute, c)
	w.quarters = forgiveCounted(w.quarters, u.quarters, minute/minutesPerQuarter, c)
}

func forgiveCounted(forgiven, counted []slot, n int64, c Cost) []slot {
	for _, s := range counted {
		if s.n == n {
			c.Messages, c.Recipients = min(c.Messages, s.Messages), min(c.Recipients, s.Recipients)
			for _, f := range forgiven {
				if f.n == n {
					c.Messages, c.Recipients = min(c.Messages, s.Messages-f.Messages), min(c.Recipients, s.Recipients-f.Recipients)
				}
			}
			if c == (Cost{}) {
				return forgiven
			}
			return chargeSlot(forgiven, n, n-1, c)
		}
	}
	return forgiven
}

// forgiveAll makes nothing count that was charged until now.
func (u *Usage) forgiveAll() {
	w := u.waive()
	w.minutes, w.quarters = slices.Clone(u.minutes), slices.Clone(u.quarters)
}

// grantAt is what is left of an allowance at a time.
func (u *Usage) grantAt(at time.Time) Grant {
	if u.waiver == nil || !u.waiver.grant.Until.IsZero() && !at.Before(u.waiver.grant.Until) {
		return Grant{}
	}
	return u.waiver.grant
}

// age drops what was forgiven in slots that have left their windows by a minute,
// and an allowance that is over then.
func (w *waiver) age(minute int64) {
	w.minutes = live(w.minutes, minute, minuteSlots)
	w.quarters = live(w.quarters, minute/minutesPerQuarter, quarterSlots)
	if !w.grant.Until.IsZero() && minute*minuteSeconds >= w.grant.Until.Unix()+1 {
		w.grant = Grant{}
	}
}
