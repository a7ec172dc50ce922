package quota

import "time"

// Account is one object that a message is charged to.
type Account struct {
	ID     ID // 0 where it is not known, while the database is away
	Object Object
	Bounds Bounds
	Exempt bool // is charged, and refuses nothing
	Usage  Usage
	raises []*Exception // of its limits
	share  *share       // nil: all that the limits leave
}

// share bounds what is granted while the database is away, where other hosts may
// grant of the same limits, or more is used than is known: a part of what is
// left of each limit.
type share struct {
	part, of int64
	own      Usage // granted meanwhile, contained in the account's Usage
	spent    Cost  // meanwhile, of the account's Grant
}

// charge adds a cost to an account; with a price, the message passes by its Grant,
// which shrinks, and does not count against limits.
func (a *Account) charge(minute int64, cost, price Cost) {
	a.Usage.charge(minute, cost)
	if a.share != nil {
		a.share.own.charge(minute, cost)
	}
	if price == (Cost{}) {
		return
	}
	a.Usage.forgive(minute, cost)
	a.Usage.waive().grant.take(price)
	if a.share != nil {
		a.share.own.forgive(minute, cost)
		a.share.spent.add(price)
	}
}

// bound is the value of a limit at a time: of the raises that hold then the highest,
// else as it is set.
func (a *Account) bound(l Limit, at time.Time) (bound int64, raised bool) {
	bound = a.Bounds[l].Max
	for _, e := range a.raises {
		if e.Limit != l || !e.holds(at) {
			continue
		}
		if !raised || e.Value == Unlimited || bound != Unlimited && e.Value > bound {
			bound, raised = e.Value, true
		}
	}
	return bound, raised
}

// Spent is what an account's Grant gave for a message that its limits would have
// refused.
type Spent struct {
	Object Object
	Price  Cost
}

// Decide decides about one message at the time given and, if it passes, charges
// all its accounts, which come nearest first. It returns the time to record, which
// lies in the minute that was charged, and what warn percent of a limit brought
// about (0: nothing).
//
// Where several limits refuse, the Refusal names the one that is free again
// last, since that is when the message would pass: never beats any time, and of
// equals the nearest account's counts. An account whose Grant reaches refuses
// nothing but by its limit of recipients of a message.
func Decide(accounts []*Account, cost Cost, mode Mode, warn int64, now time.Time) (d Decision) {
	var room [4]weight // on the stack
	d, minute, weights := judge(accounts, cost, mode, now, room[:0])
	if d.Refusal != nil {
		return d
	}
	if mode == Off {
		for _, a := range accounts {
			a.charge(minute, cost, Cost{})
		}
		return d
	}
	for i, a := range accounts {
		w := &weights[i]
		if d.Observed != nil {
			w.price = Cost{} // which it would not have paid
		}
		a.charge(minute, cost, w.price)
		if w.price != (Cost{}) {
			d.Spent = append(d.Spent, Spent{a.Object, w.price})
			w.used -= cost.of(w.limit)
		}
		if warn > 0 && w.max > 0 && float64(w.used)*100 >= float64(warn)*float64(w.max) {
			d.Events = append(d.Events, Event{Kind: EventWarned, Object: a.Object, ID: a.ID, Limit: w.limit, Max: w.max, Used: w.used, At: d.At})
		}
	}
	return d
}

// judge is Decide without what follows from it: nothing is charged yet, in a minute,
// and nothing warned of. It appends what each account says, but in mode Off, in which
// they are not asked.
func judge(accounts []*Account, cost Cost, mode Mode, now time.Time, room []weight) (d Decision, minute int64, weights []weight) {
	minute = minuteAt(now)
	for _, a := range accounts {
		minute = max(minute, a.Usage.newest())
	}
	d.At = now
	if minute > minuteAt(now) {
		d.At = time.Unix(minute*minuteSeconds, 0).UTC()
	}
	if mode == Off {
		return d, minute, nil
	}
	weights = room
	var refusal *Refusal
	for _, a := range accounts {
		w := a.weigh(cost, minute, d.At)
		if w.refusal != nil && w.refusal.outlasts(refusal) {
			refusal = w.refusal
		}
		weights = append(weights, w)
	}
	switch {
	case refusal == nil:
	case mode == Observe:
		d.Observed = refusal
		d.Events = append(d.Events, refusal.event(EventObserved, accounts, d.At))
	default:
		d.Refusal = refusal
		d.Events = append(d.Events, refusal.event(EventRefused, accounts, d.At))
	}
	return d, minute, weights
}

// weight is what one account says of a message.
type weight struct {
	refusal *Refusal
	price   Cost // of its Grant, without which it would refuse
	// The limit of an hour or a day that is fullest with the message; max is 0 where
	// there is none.
	limit     Limit
	max, used int64
}

func (a *Account) weigh(cost Cost, minute int64, at time.Time) (w weight) {
	if a.Exempt {
		return w
	}
	for l := range RecipientsMessage {
		bound, _ := a.bound(l, at)
		if bound == Unlimited {
			continue
		}
		used := a.Usage.used(l, minute)
		if r := a.check(l, bound, used, cost, minute, at); r != nil && r.outlasts(w.refusal) {
			w.refusal = r
		}
		if with := used + cost.of(l); bound > 0 && (w.max == 0 || float64(with)*float64(w.max) > float64(w.used)*float64(bound)) {
			w.limit, w.max, w.used = l, bound, with
		}
	}
	if w.refusal != nil && a.Usage.waiver != nil {
		if w.price = a.grant().price(cost, at); w.price != (Cost{}) {
			w.refusal = nil
		}
	}
	if bound, _ := a.bound(RecipientsMessage, at); bound != Unlimited && cost.Recipients > bound {
		r := &Refusal{Object: a.Object, Limit: RecipientsMessage, Max: bound, Used: cost.Recipients, Recipients: cost.Recipients}
		if r.outlasts(w.refusal) {
			w.refusal = r
		}
	}
	return w
}

// grant is what is left of an account's allowance, as far as it may be used here.
func (a *Account) grant() Grant {
	g := a.Usage.waiver.grant
	if s := a.share; s != nil {
		g = g.shared(s.spent, s.part, s.of)
	}
	return g
}

// check returns why a cost does not fit under one limit of an hour or a day, or nil.
func (a *Account) check(l Limit, bound, used int64, cost Cost, minute int64, at time.Time) *Refusal {
	need := cost.of(l)
	if used+need > bound {
		return &Refusal{Object: a.Object, Limit: l, Max: bound, Used: used, Recipients: cost.Recipients,
			FreeAt: a.freeAt(l, need, minute, at)}
	}
	if a.share == nil {
		return nil
	}
	own := a.share.own.used(l, minute)
	grant := (bound - (used - own)) * a.share.part / a.share.of
	if own+need <= grant {
		return nil
	}
	// What is not free again by the clock is once the database is back.
	return &Refusal{Object: a.Object, Limit: l, Max: bound, Used: used, Recipients: cost.Recipients,
		Away: true, Grant: grant, FreeAt: a.share.own.freeAt(l, minute, need, grant)}
}

// freeAt is the first moment at which need more fits under a limit under which it
// does not at a time, if nothing else is charged: the zero time where it never does.
// Until the last raise has ended the limit has one value after the other.
func (a *Account) freeAt(l Limit, need, minute int64, at time.Time) time.Time {
	for {
		end := a.nextEnd(l, at)
		bound, _ := a.bound(l, at)
		if bound == Unlimited || a.Usage.used(l, minute)+need <= bound {
			return at
		}
		if free := a.Usage.freeAt(l, minute, need, bound); !free.IsZero() && (end.IsZero() || free.Before(end)) {
			return free
		}
		if end.IsZero() {
			return time.Time{}
		}
		at, minute = end, max(minute, minuteAt(end))
	}
}

// nextEnd is when the next raise of a limit ends after a time, zero if none does.
func (a *Account) nextEnd(l Limit, at time.Time) (end time.Time) {
	for _, e := range a.raises {
		if e.Limit == l && e.Until.After(at) && (end.IsZero() || e.Until.Before(end)) {
			end = e.Until
		}
	}
	return end
}

func (r *Refusal) outlasts(other *Refusal) bool {
	switch {
	case other == nil:
		return true
	case other.FreeAt.IsZero():
		return false
	}
	return r.FreeAt.IsZero() || r.FreeAt.After(other.FreeAt)
}

// event is what a refusal by a limit brings about.
func (r *Refusal) event(kind EventKind, accounts []*Account, at time.Time) Event {
	e := Event{Kind: kind, Object: r.Object, Limit: r.Limit, Max: r.Max, Used: r.Used, At: at}
	for _, a := range accounts {
		if a.Object == r.Object {
			e.ID = a.ID
		}
	}
	return e
}
