package quota

import "time"

// Account is one object that a message is charged to.
type Account struct {
	Object Object
	Bounds Bounds
	Exempt bool // is charged, and refuses nothing
	Usage  Usage
	share  *share // nil: all that the limits leave
}

// share bounds what is granted while the database is away, where other hosts may
// grant of the same limits, or more is used than is known: a part of what is
// left of each limit.
type share struct {
	part, of int64
	own      Usage // granted meanwhile, contained in the account's Usage
}

// charge adds a cost to an account.
func (a *Account) charge(minute int64, cost Cost) {
	a.Usage.charge(minute, cost)
	if a.share != nil {
		a.share.own.charge(minute, cost)
	}
}

// Decide decides about one message at the time given and, if it passes, charges
// all its accounts, which come nearest first. Exempt messages always pass. It
// returns the time to record, which lies in the minute that was charged.
//
// Where several limits refuse, the Refusal names the one that is free again
// last, since that is when the message would pass: never beats any time, and of
// equals the nearest account's counts.
func Decide(accounts []*Account, cost Cost, exempt bool, now time.Time) (at time.Time, refusal *Refusal) {
	minute := minuteAt(now)
	for _, a := range accounts {
		minute = max(minute, a.Usage.newest())
	}
	at = now
	if minute > minuteAt(now) {
		at = time.Unix(minute*minuteSeconds, 0).UTC()
	}
	if !exempt {
		for _, a := range accounts {
			if a.Exempt {
				continue
			}
			for l := range Limit(NumLimits) {
				if r := a.check(l, cost, minute); r != nil && r.outlasts(refusal) {
					refusal = r
				}
			}
		}
	}
	if refusal == nil {
		for _, a := range accounts {
			a.charge(minute, cost)
		}
	}
	return at, refusal
}

// check returns why a cost does not fit under one limit of an account, or nil.
func (a *Account) check(l Limit, cost Cost, minute int64) *Refusal {
	bound := a.Bounds[l]
	if bound.Max == Unlimited {
		return nil
	}
	need := cost.of(l)
	if l == RecipientsMessage {
		if need <= bound.Max {
			return nil
		}
		return &Refusal{Object: a.Object, Limit: l, Max: bound.Max, Used: need, Recipients: cost.Recipients}
	}
	used := a.Usage.used(l, minute)
	if used+need > bound.Max {
		return &Refusal{Object: a.Object, Limit: l, Max: bound.Max, Used: used, Recipients: cost.Recipients,
			FreeAt: a.Usage.freeAt(l, minute, need, bound.Max)}
	}
	if a.share == nil {
		return nil
	}
	own := a.share.own.used(l, minute)
	grant := (bound.Max - (used - own)) * a.share.part / a.share.of
	if own+need <= grant {
		return nil
	}
	// What is not free again by the clock is once the database is back.
	return &Refusal{Object: a.Object, Limit: l, Max: bound.Max, Used: used, Recipients: cost.Recipients,
		Away: true, Grant: grant, FreeAt: a.share.own.freeAt(l, minute, need, grant)}
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
