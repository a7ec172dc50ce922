package quota

import (
	"cmp"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// How much is remembered: some 30 MB when full.
const (
	maxRoutes   = 1 << 15
	maxAccounts = 1 << 15
	maxAccepted = 1 << 15
)

// memory is what a store remembers of the database: whom messages are charged
// to, limits, and usage as last seen. While the database is there, routes and
// limits are good for as long as the epoch that it names with each decision
// stays the same, and usage as long as its row has the same version. While it is
// away, all of it is the last knowledge.
type memory struct {
	mu       sync.Mutex
	epoch    int64 // of the database, when last seen
	term     int64 // grows with each change of the epoch, and when the database was away: it may be another one now
	routes   *simplelru.LRU[routeKey, *route]
	accounts *simplelru.LRU[ID, *known]
	accepted *simplelru.LRU[uuid.UUID, time.Time] // when messages were that may come again: see Message.Again
	parents  *simplelru.LRU[Object, []target]     // domains and subscriptions, as they stand in routes, with what is above them
	unread   map[ID]Object                        // to be read as soon as possible: nothing is known of them yet
	rules    *rules                               // nil: never read
	ruled    int64                                // term of rules
	strange  map[Class]Bounds                     // limits of an object that nobody knows, under the plan "default"
	modes    map[string]Mode                      // of such an object, under the plans "default" and "system"
	hosts    int64                                // that use this database, this one among them
	seen     time.Time                            // the database's clock, when last read
	seenAt   time.Time                            // this host's clock at that moment
}

// known is an account as last seen. It is never changed, only replaced.
type known struct {
	Object  Object
	Bounds  Bounds
	State   []byte
	Stale   bool // more may have been used: read from the disk after a crash
	term    int64
	version int64 // of State
}

func newMemory() *memory {
	m := &memory{epoch: -1, term: 1, hosts: 1, unread: map[ID]Object{}, strange: map[Class]Bounds{}, modes: map[string]Mode{SystemPlan: Off}}
	var err error
	if m.routes, err = simplelru.NewLRU[routeKey, *route](maxRoutes, nil); err == nil {
		m.accounts, err = simplelru.NewLRU[ID, *known](maxAccounts, nil)
	}
	if err == nil {
		m.accepted, err = simplelru.NewLRU[uuid.UUID, time.Time](maxAccepted, nil)
	}
	if err == nil {
		m.parents, err = simplelru.NewLRU[Object, []target](maxAccounts, nil)
	}
	if err != nil {
		panic(err) // a size below 1
	}
	return m
}

// begin returns the term, and for each key its route if it is remembered and
// current, as are the rules.
func (m *memory) begin(keys []routeKey) (term int64, routes []*route, holds *rules) {
	m.mu.Lock()
	defer m.mu.Unlock()
	routes = make([]*route, len(keys))
	for i, k := range keys {
		if r := m.route(k); r != nil && r.term == m.term {
			routes[i] = r
		}
	}
	if m.ruled == m.term {
		holds = m.rules
	}
	return m.term, routes, holds
}

// learnRules takes rules that were read while a term began or lasted.
func (m *memory) learnRules(holds *rules, term int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rules == nil || term >= m.ruled {
		m.rules, m.ruled = holds, term
	}
}

// lastRules are the rules as last seen.
func (m *memory) lastRules() *rules {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rules == nil {
		return &rules{}
	}
	return m.rules
}

// strangeMode is the mode of who is not known, by the plan that he would come under.
func (m *memory) strangeMode(plan string) Mode {
	m.mu.Lock()
	defer m.mu.Unlock()
	return cmp.Or(m.modes[plan], Enforce)
}

// learnRoutes takes routes that were read while a term began or lasted.
func (m *memory) learnRoutes(routes map[routeKey]*route) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, r := range routes {
		if r != nil {
			m.addRoute(k, r)
		}
	}
}

func (m *memory) addRoute(k routeKey, r *route) {
	if k, ok := k.remembered(r); ok {
		m.routes.Add(k, r)
	}
	for i, t := range r.Targets {
		if t.Object.Class == Domain || t.Object.Class == Subscription {
			m.parents.Add(t.Object, r.Targets[i:])
		}
	}
}

// bounds gives the accounts of a ledger their limits, as far as they are
// remembered of its term, and returns the ids of the others.
func (m *memory) bounds(l *ledger) (missing []int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range l.folios {
		k, ok := m.accounts.Get(l.folios[i].ID)
		if ok = ok && k.term == l.term; ok {
			l.folios[i].account.Bounds = k.Bounds
		} else {
			missing = append(missing, l.ids[i])
		}
	}
	return missing
}

// current takes the epoch that the database names, and returns the term that has
// begun with it.
func (m *memory) current(epoch int64) (term int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.epoch != epoch {
		m.epoch = epoch
		m.term++
	}
	return m.term
}

// doubt makes all be read again: the database was away.
func (m *memory) doubt() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.term++
}

// learnAccepted takes decisions about messages that may come again.
func (m *memory) learnAccepted(messages []Message, decisions []Decision) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range messages {
		if messages[i].Again && !messages[i].Probe && decisions[i].Refusal == nil {
			m.accepted.Add(messages[i].ID, decisions[i].At)
		}
	}
}

// acceptedAt is when a message was accepted that may come again, if that is remembered.
func (m *memory) acceptedAt(id uuid.UUID) (at time.Time, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.accepted.Get(id)
}

// learn takes what a transaction has found and written. Its limits are those of its
// own term, which may have ended meanwhile.
func (m *memory) learn(l *ledger) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range l.folios {
		f := &l.folios[i]
		m.accounts.Add(f.ID, &known{Object: f.Object, Bounds: f.account.Bounds, State: f.state, term: l.term, version: f.version})
		delete(m.unread, f.ID)
	}
	m.seen, m.seenAt = l.clock, l.read
}

// giveBack takes the states that were written instead of those of versions before. What
// is remembered of another version is of no use any more, or will not be.
func (m *memory) giveBack(ids, before []int64, states [][]byte, version int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, id := range ids {
		if k, ok := m.accounts.Peek(ID(id)); ok && k.version == before[i] {
			now := *k
			now.State, now.version = states[i], version
			m.accounts.Add(ID(id), &now)
		}
	}
}

// now is the database's clock, as far as it is known; zero if it was never read.
func (m *memory) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen.IsZero() {
		return time.Time{}
	}
	return m.seen.Add(time.Since(m.seenAt)).Truncate(time.Microsecond) // as PostgreSQL keeps it
}

// empty tells whether nothing is known at all.
func (m *memory) empty() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen.IsZero()
}

// route is what is remembered for a key, nil if there is nothing.
func (m *memory) route(k routeKey) *route {
	if k.OnBehalf {
		if r, ok := m.routes.Get(routeKey{Mailbox: k.Mailbox}); ok && r.Targets[0].Object.Class == Mailbox {
			return r
		}
		return nil
	}
	if r, ok := m.routes.Get(k); ok {
		return r
	}
	if k.Script != "" {
		k.Script = ""
		if r, ok := m.routes.Get(k); ok && r.AnyScript {
			return r
		}
	}
	return nil
}

// lastRoute is a route as last seen, nil if there is none. Without what is
// known of a site or script the user is known still.
func (m *memory) lastRoute(k routeKey) *route {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.route(k); r != nil || k.OnBehalf {
		return r
	}
	return m.route(routeKey{Mailbox: k.Mailbox, UID: k.UID})
}

// above returns a domain or subscription and what it belongs to; if it is not
// known, as far as can be said.
func (m *memory) above(o Object) (targets []target, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if targets, known = m.parents.Get(o); !known {
		targets = []target{{Object: o}, serverTarget}
	}
	return targets, known
}

// room is how many routes fit in besides those that are remembered, and some to
// come.
func (m *memory) room() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(0, maxRoutes*7/8-m.routes.Len())
}

// acquaint takes routes of a term that nobody asked for yet, and their accounts,
// to be refreshed.
func (m *memory) acquaint(routes map[routeKey]*route, term int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, r := range routes {
		if r == nil {
			continue
		}
		r.term = term
		m.addRoute(k, r)
		for _, t := range r.Targets {
			if !m.accounts.Contains(t.ID) {
				m.unread[t.ID] = t.Object
			}
		}
	}
}

// account is an object as last seen. What is not known for sure, and what other
// hosts use, too, may be used in part only: percent is the part of the former.
func (m *memory) account(t target, percent int) (*Account, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := &Account{ID: t.ID, Object: t.Object}
	if m.rules != nil && t.ID != 0 {
		a.raises = m.rules.raises[t.ID]
	}
	k, ok := m.accounts.Peek(t.ID)
	if ok {
		a.Bounds = k.Bounds
		if err := a.Usage.UnmarshalBinary(k.State); err != nil {
			return nil, err
		}
	} else if a.Bounds, ok = m.strange[t.Object.Class]; !ok {
		a.Bounds = Unbounded()
	}
	if k == nil || k.Stale {
		a.share = &share{part: int64(percent), of: 100}
	}
	// A system user is one of this host.
	if m.hosts > 1 && t.Object.Class != User && (a.share == nil || a.share.part*m.hosts > a.share.of) {
		a.share = &share{part: 1, of: m.hosts}
	}
	return a, nil
}

// beat takes what a heartbeat has found.
func (m *memory) beat(now time.Time, epoch, hosts int64, strange map[Class]Bounds, modes map[string]Mode) {
	m.current(epoch)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hosts, m.strange, m.modes = max(hosts, 1), strange, modes
	m.seen, m.seenAt = now, time.Now()
	if !m.accounts.Contains(ServerID) {
		m.unread[ServerID] = Object{Class: Server}
	}
}

// outdated returns some of the accounts that may not be any more as they are
// remembered, or were not read yet, and the term.
func (m *memory) outdated(max int) (term int64, found map[ID]*known) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found = map[ID]*known{}
	for id, o := range m.unread {
		if found[id] = (&known{Object: o}); len(found) == max {
			return m.term, found
		}
	}
	for _, id := range m.accounts.Keys() {
		if k, _ := m.accounts.Peek(id); k.Stale || k.term != m.term {
			if found[id] = k; len(found) == max {
				break
			}
		}
	}
	return m.term, found
}

// refresh replaces accounts, but for those that were charged meanwhile.
func (m *memory) refresh(old, now map[ID]*known) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, k := range now {
		was, ok := m.accounts.Peek(id)
		if _, unread := m.unread[id]; ok && was == old[id] || !ok && unread {
			m.accounts.Add(id, k)
		}
		delete(m.unread, id)
	}
}
