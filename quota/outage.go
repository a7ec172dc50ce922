package quota

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// outage is a time without a database. While it lasts, decisions are made by
// what is remembered, and written to the journal before they are answered.
type outage struct {
	accounts map[Object]*Account // that were charged since it began
	newest   time.Time           // of what was decided
	ready    bool                // the journal holds the knowledge that accounts are made from
	patient  bool                // calls still wait for the database
	booking  atomic.Bool         // the database takes what is in the journal
	progress chan struct{}       // it has taken some
	back     chan struct{}       // it is there again, and nearly all is booked
	stop     context.CancelFunc
}

// ready makes the journal fit for decisions: what is known is written down, or,
// after a restart, what the entries charged is charged again.
func (q *Queue) ready(o *outage) error {
	if o.ready {
		return nil
	}
	if q.journal.last.Load() == 0 {
		q.knowing.Wait() // an older one on its way must not replace this one
		if err := q.know(true); err != nil {
			return err
		}
	}
	o.accounts, o.newest = map[Object]*Account{}, time.Time{}
	err := q.journal.each(0, math.MaxInt, func(_ uint64, e *entry) error {
		q.setSince(e.Decision.At)
		return q.charge(o, &e.Message, &e.Decision)
	})
	o.ready = err == nil
	return err
}

// charge charges a message as it was decided.
func (q *Queue) charge(o *outage, m *Message, d *Decision) error { return q.book(o, m, d, 1) }

// uncharge undoes that.
func (q *Queue) uncharge(o *outage, m *Message, d *Decision) error { return q.book(o, m, d, -1) }

func (q *Queue) book(o *outage, m *Message, d *Decision, times int64) error {
	if d.At.After(o.newest) {
		o.newest = d.At
	}
	if d.Refusal != nil {
		return nil
	}
	accounts, err := q.accounts(o, q.store.lastRoute(m))
	for _, a := range accounts {
		a.charge(minuteAt(d.At), m.cost().times(times), d.priceOf(a.Object).times(times))
	}
	return err
}

// accounts returns those of a route, as they stand in the outage.
func (q *Queue) accounts(o *outage, r *route) ([]*Account, error) {
	var list []*Account
	for _, t := range r.Targets {
		a := o.accounts[t.Object]
		if a == nil {
			var err error
			if a, err = q.store.memory.account(t, q.settings.JournalShare); err != nil {
				return nil, err
			}
			o.accounts[t.Object] = a
		}
		a.Exempt = t.Exempt // as this route has it
		list = append(list, a)
	}
	return list, nil
}

// byJournal decides a batch without the database.
func (q *Queue) byJournal(list []*submission, b *batch) {
	if !q.settings.ByJournal || q.store.memory.empty() {
		fail(list, fmt.Errorf("%w: %s", ErrUnavailable, q.trouble()))
		return
	}
	q.away.giveWay()
	decisions, err := q.journalBatch(q.away, b)
	if err != nil {
		q.log().Error().Err(err).Int("messages", len(list)).Msg("no decision: the journal takes nothing")
		fail(list, fmt.Errorf("%w: %w", ErrJournal, err))
		return
	}
	q.decided.Add(int64(len(list)))
	for i, s := range list {
		s.done <- result{decision: decisions[i]}
	}
}

// giveWay lets the database take more than comes in meanwhile: else the journal
// would never be empty under load.
func (o *outage) giveWay() {
	if !o.booking.Load() {
		return
	}
	select {
	case <-o.progress:
	case <-time.After(time.Second):
	}
}

func (q *Queue) journalBatch(o *outage, b *batch) ([]Decision, error) {
	if err := q.ready(o); err != nil {
		return nil, err
	}
	now := q.store.memory.now()
	if now.Before(o.newest) {
		now = o.newest
	}
	decisions := make([]Decision, len(b.messages))
	var entries []entry
	spare := q.journal.spare()
	for i := range b.messages {
		m, d := &b.messages[i], &decisions[i]
		r := q.store.lastRoute(m)
		was, err := q.acceptedAway(m, entries)
		switch {
		case err != nil:
		case was != nil:
			*d = *was
			d.Events = nil
		case b.sent != nil:
			if *d = b.sent[i]; !m.Probe {
				err = q.charge(o, m, d) // it may stand in the database already
			}
		default:
			err = q.decideAway(o, m, r, d, now)
		}
		if err != nil {
			return nil, q.giveUp(o, entries, err)
		}
		d.Subscription, d.Domain = r.Subscription, r.Domain
		switch {
		case was != nil || m.Probe && d.Refusal == nil:
		// Refusals cost a caller nothing, and must not fill the journal.
		case d.Refusal == nil || len(entries) < spare:
			entries = append(entries, entry{m.bounded(), *d})
		default:
			q.unrecorded.Add(1)
		}
	}
	if err := q.journal.append(entries); err != nil {
		return nil, q.giveUp(o, entries, err)
	}
	return decisions, nil
}

// giveUp uncharges what cannot be kept, for a reason.
func (q *Queue) giveUp(o *outage, entries []entry, why error) error {
	for i := range entries {
		why = errors.Join(why, q.uncharge(o, &entries[i].Message, &entries[i].Decision))
	}
	return why
}

// acceptedAway is the decision by which a message that may come again was accepted,
// as far as that is known: among the entries to be written, in the journal, or before.
func (q *Queue) acceptedAway(m *Message, entries []entry) (*Decision, error) {
	if !m.Again {
		return nil, nil
	}
	for i := range entries {
		if e := &entries[i]; e.Message.ID == m.ID && e.Decision.Refusal == nil {
			return &e.Decision, nil
		}
	}
	if at, ok := q.store.memory.acceptedAt(m.ID); ok {
		return &Decision{At: at}, nil
	}
	return q.journal.accepted(m.ID)
}

func (q *Queue) decideAway(o *outage, m *Message, r *route, d *Decision, now time.Time) error {
	accounts, err := q.accounts(o, r)
	if err != nil {
		return err
	}
	*d = q.store.memory.lastRules().decide(m, q.store.lastSender(m, r), accounts, q.store.warn.Load(), now)
	if d.At.After(o.newest) {
		o.newest = d.At
	}
	return nil
}

// lastRoute is whom a message is charged to as far as is known: somebody who is
// not known belongs to the domain or subscription that he would come under, and so
// does a virtual host that was not seen before.
func (s *Store) lastRoute(m *Message) *route {
	k := s.keyOf(m)
	r := s.memory.lastRoute(k)
	if r == nil && k.OnBehalf {
		if above, known := s.memory.above(Object{Domain, domainOf(k.Mailbox)}); known {
			return &route{Domain: above[0].Object.Name, Subscription: above[1].Object.Name, Mode: above[0].Mode, Targets: above}
		}
		k.Mailbox, k.OnBehalf = "", false
		r = s.memory.lastRoute(k)
	}
	switch {
	case k == serverAlone:
		return s.memory.lastRules().serverRoute()
	case r == nil && k.Mailbox != "":
		above, _ := s.memory.above(Object{Domain, domainOf(k.Mailbox)})
		mode := cmp.Or(above[0].Mode, s.memory.strangeMode(DefaultPlan))
		return &route{Domain: domainOf(k.Mailbox), Mode: mode, Targets: append([]target{{Object: Object{Mailbox, k.Mailbox}}}, above...)}
	case r == nil:
		name := text(m.Origin.User)
		above, _ := s.memory.above(Object{Subscription, name})
		r = &route{Subscription: name, Mode: cmp.Or(above[0].Mode, s.memory.strangeMode(s.planOf(m.Origin.UID))), Targets: append([]target{{Object: Object{User, name}}}, above...)}
	}
	if k.VirtualHost && r.Domain != k.Site {
		if above, known := s.memory.above(Object{Domain, k.Site}); known {
			user := r.Targets[0]
			user.Exempt = r.Mode != Enforce
			return &route{Domain: k.Site, Subscription: above[1].Object.Name, Mode: above[0].Mode, Targets: append([]target{user}, above...)}
		}
	}
	return r
}

// Waits between two tries to reach the database.
const (
	firstWait = 100 * time.Millisecond
	lastWait  = time.Second
)

// comeBack tries to reach the database, and books what the journal has, until
// little is left: the rest is booked while nothing is decided.
func (q *Queue) comeBack(ctx context.Context, o *outage, wait time.Duration) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(max(2*wait, firstWait), lastWait)
		err := q.reach(ctx)
		q.tried()
		if err == nil {
			q.setBooking()
			o.booking.Store(true)
			err = q.bookAll(ctx, o, q.settings.MaxBatch)
			o.booking.Store(false)
		}
		if err == nil {
			select {
			case o.back <- struct{}{}:
			case <-ctx.Done():
			}
			return
		}
		if ctx.Err() == nil {
			q.setTrouble(err)
		}
	}
}

// reachTimeout bounds one try.
const reachTimeout = 3 * time.Second

func (q *Queue) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	if err := q.settings.Check(ctx); err != nil {
		return err
	}
	return q.store.Heartbeat(ctx) // it writes, too, which a full disk or a stand-by does not take
}

// bookAll books entries until at most rest are left.
func (q *Queue) bookAll(ctx context.Context, o *outage, rest int) error {
	for q.journal != nil && q.journal.waiting() > rest {
		if err := q.bookSome(ctx); err != nil {
			return err
		}
		select {
		case o.progress <- struct{}{}:
		default:
		}
	}
	return nil
}

// bookBatches is how many batches are booked in one transaction, which is more
// than may come in between two.
const bookBatches = 4

func (q *Queue) bookSome(ctx context.Context) error {
	b := &batch{again: true}
	var last uint64
	err := q.journal.each(q.journal.booked.Load(), bookBatches*q.settings.MaxBatch, func(seq uint64, e *entry) error {
		b.messages, b.decided, last = append(b.messages, e.Message), append(b.decided, &e.Decision), seq
		return nil
	})
	if err != nil {
		return err
	}
	if err := q.bookBatch(ctx, b); err != nil {
		return err
	}
	return q.journal.book(last)
}

// bookBatch books a part of the journal; what the database does not take, for a
// reason of its own, is put aside.
func (q *Queue) bookBatch(ctx context.Context, b *batch) error {
	bounded, cancel := context.WithTimeout(ctx, q.settings.Timeout)
	defer cancel()
	_, err := q.store.decide(bounded, b)
	if err == nil || isAway(err) {
		return err
	}
	if n := len(b.messages); n > 1 {
		return errors.Join(
			q.bookBatch(ctx, &batch{messages: b.messages[:n/2], decided: b.decided[:n/2], again: true}),
			q.bookBatch(ctx, &batch{messages: b.messages[n/2:], decided: b.decided[n/2:], again: true}))
	}
	e := &entry{b.messages[0], *b.decided[0]}
	q.log().Error().Err(err).Str("id", e.Message.ID.String()).Msg("a decision of the journal cannot be booked; it is kept there")
	return q.journal.fail(e, err)
}
