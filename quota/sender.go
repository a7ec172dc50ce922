package quota

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/jackc/pgx/v5"
)

// ParseSenderCheck reads what mailquotad.conf has as sender-check: off, report or
// refuse; any other word is off.
func ParseSenderCheck(word string) SenderCheck {
	switch word {
	case "report":
		return SenderReport
	case "refuse":
		return SenderRefuse
	}
	return SenderAny
}

// maxSenders is how many senders are remembered that are not their sender's by name
// alone: some 8 MB when full.
const maxSenders = 1 << 14

// senders remembers of envelope senders whether they are whose message they are on.
type senders struct {
	mu    sync.Mutex
	hosts []string // names of this host, in lower case
	known *simplelru.LRU[senderKey, senderKnown]
}

// senderKey is all that it depends on whether a sender is somebody's own, beside its
// name.
type senderKey struct {
	who                           Object // mailbox or user
	nearest, domain, subscription ID     // that the message is charged to; 0: none
	address                       string
}

// senderKnown is what is known of a sender: nothing against it, or why it is not own.
type senderKnown struct {
	foreign *Refusal
	term    int64
}

func newSenders(host string) *senders {
	s := &senders{}
	var err error
	if s.known, err = simplelru.NewLRU[senderKey, senderKnown](maxSenders, nil); err != nil {
		panic(err) // a size below 1
	}
	s.name(host)
	return s
}

// name takes other names of this host.
func (s *senders) name(hosts ...string) {
	names := []string{"localhost"}
	for _, h := range hosts {
		if h != "" {
			names = append(names, strings.ToLower(h))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hosts = names
}

func (s *senders) isHere(domain string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.hosts, domain)
}

// last is what is known of a sender since a term; 0 is since whenever.
func (s *senders) last(k senderKey, term int64) (known senderKnown, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok = s.known.Get(k)
	return known, ok && (term == 0 || known.term == term)
}

func (s *senders) learn(read map[senderKey]*Refusal, term int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, foreign := range read {
		s.known.Add(k, senderKnown{foreign, term})
	}
}

// SetHostNames says which names this host has in the envelope senders of its users,
// beside localhost, instead of that given to NewStore. It may be called at any time.
func (s *Store) SetHostNames(names ...string) { s.senders.name(names...) }

// ownSender tells whether the envelope sender of a message is its own, as far as that
// shows without the database; the rest is for checkSenders to find. Upper and lower
// case are the same. Its own is
//
//   - of any message the null sender (RFC 5321, 4.5.5), and what the table sender has
//     for an object that the message is charged to: an address, or all in a domain;
//   - of a mailbox its address, also with an extension (RFC 5233: info+x@shop.example);
//   - of a user any address in a domain of the subscription, his login name at a name of
//     this host, also with an extension, and any name without a domain, which the mail
//     server completes with its own;
//   - of an SMTP login that is no address the same, but for the domains;
//   - of a message with NoUser or Passes, and, where there is no Mailbox, with OnBehalf,
//     any sender.
//
// Nothing is held against a sender by mode off and for what is in a white list; by mode
// observe it is only reported.
func (s *Store) ownSender(m *Message) bool {
	if m.Sender == "" || m.NoUser || m.Passes || m.Mailbox == "" && m.OnBehalf != "" {
		return true
	}
	local, domain, hasDomain := cutAddress(strings.ToLower(m.Sender))
	login, at, isAddress := cutAddress(strings.ToLower(m.senderOf().Name))
	switch {
	case isAddress && domain != at:
		return false
	case isAddress:
	case !hasDomain:
		return true
	case !s.senders.isHere(domain):
		return false
	}
	return local == login || strings.HasPrefix(local, login+"+")
}

// cutAddress cuts an address at its last @: a local part may have others, in quotes.
func cutAddress(address string) (local, domain string, hasDomain bool) {
	i := strings.LastIndexByte(address, '@')
	if i < 0 {
		return address, "", false
	}
	return address[:i], address[i+1:], true
}

// senderOf is whose the sender of a message should be.
func (m *Message) senderOf() Object {
	if m.Mailbox != "" {
		return Object{Mailbox, strings.ToLower(text(m.Mailbox))}
	}
	return Object{User, text(m.Origin.User)}
}

func senderKeyOf(m *Message, r *route) senderKey {
	k := senderKey{who: m.senderOf()}
	if len(m.Sender) <= maxAddress { // cut, it would be another one
		k.address = strings.ToLower(text(m.Sender))
	}
	for _, t := range r.Targets {
		switch t.Object.Class {
		case User, Mailbox:
			k.nearest = t.ID
		case Domain:
			k.domain = t.ID
		case Subscription:
			k.subscription = t.ID
		}
	}
	return k
}

// senderSQL: whether a sender is own, and some of those that are, to be named.
const senderSQL = `SELECT k.n, o.own, ARRAY(
  SELECT a FROM (
    (SELECT address AS a FROM sender WHERE NOT o.own AND object_id IN (k.nearest, k.domain, k.subscription) ORDER BY object_id, id LIMIT $7)
    UNION ALL
    (SELECT '@' || name FROM domain WHERE NOT o.own AND k.by_user AND subscription_id = k.subscription AND removed_at IS NULL ORDER BY id LIMIT $7)) a
  LIMIT $7)
  FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::boolean[], $5::text[], $6::text[])
       WITH ORDINALITY k(nearest, domain, subscription, by_user, address, host, n)
 CROSS JOIN LATERAL (SELECT
    EXISTS (SELECT FROM sender s WHERE s.object_id IN (k.nearest, k.domain, k.subscription) AND s.address IN (k.address, '@' || k.host))
    OR k.by_user AND EXISTS (SELECT FROM domain d WHERE d.name = k.host AND d.subscription_id = k.subscription AND d.removed_at IS NULL) AS own) o`

// checkSenders gives each message whose sender is not its own, and for which that
// matters, a route of its own that says so: by memory, or, if fresh, anew by the
// database. What it learns is as good as the routes, whose term it is.
func (s *Store) checkSenders(ctx context.Context, messages []Message, routes []*route, term int64, fresh bool) error {
	var asked map[senderKey][]int
	for i := range messages {
		m := &messages[i]
		if m.SenderCheck == SenderAny || routes[i].Mode == Off || s.ownSender(m) {
			continue
		}
		k := senderKeyOf(m, routes[i])
		if known, ok := s.senders.last(k, term); ok && !fresh {
			routes[i] = routes[i].withForeign(known.foreign)
			continue
		}
		if asked == nil {
			asked = map[senderKey][]int{}
		}
		asked[k] = append(asked[k], i)
	}
	if asked == nil {
		return nil
	}
	keys := make([]senderKey, 0, len(asked))
	for k := range asked {
		keys = append(keys, k)
	}
	read, err := s.readSenders(ctx, keys)
	if err != nil {
		return err
	}
	s.senders.learn(read, term)
	for k, list := range asked {
		for _, i := range list {
			routes[i] = routes[i].withForeign(read[k])
		}
	}
	return nil
}

// lastSender is checkSenders without the database: a sender that nobody has asked for
// before passes, since a refusal is final.
func (s *Store) lastSender(m *Message, r *route) *route {
	if m.SenderCheck == SenderAny || s.ownSender(m) {
		return r
	}
	known, _ := s.senders.last(senderKeyOf(m, r), 0)
	return r.withForeign(known.foreign)
}

// foreignSender says why the sender of a message is not its own, nil if it is.
func (s *Store) foreignSender(ctx context.Context, m *Message, r *route) (*Refusal, error) {
	if s.ownSender(m) {
		return nil, nil
	}
	k := senderKeyOf(m, r)
	read, err := s.readSenders(ctx, []senderKey{k})
	return read[k], err
}

// withForeign is a route with what is to be said of one message's sender.
func (r *route) withForeign(foreign *Refusal) *route {
	if foreign == nil {
		return r
	}
	own := *r
	own.foreign = foreign
	return &own
}

// namedSenders is how many of the senders that somebody may use are named.
const namedSenders = 3

// readSenders reads what is known of senders that are not own by name; those that are
// own all the same are nil.
func (s *Store) readSenders(ctx context.Context, keys []senderKey) (map[senderKey]*Refusal, error) {
	nearest, domain, subscription := make([]int64, len(keys)), make([]int64, len(keys)), make([]int64, len(keys))
	byUser, address, host := make([]bool, len(keys)), make([]string, len(keys)), make([]string, len(keys))
	for i, k := range keys {
		nearest[i], domain[i], subscription[i] = int64(k.nearest), int64(k.domain), int64(k.subscription)
		byUser[i], address[i] = k.who.Class == User, k.address
		_, host[i], _ = cutAddress(k.address)
	}
	rows, err := s.pool.Query(ctx, senderSQL, nearest, domain, subscription, byUser, address, host, namedSenders+1)
	if err != nil {
		return nil, fmt.Errorf("find whose senders they are: %w", err)
	}
	read := make(map[senderKey]*Refusal, len(keys))
	var n int64
	var own bool
	var others []string
	_, err = pgx.ForEachRow(rows, []any{&n, &own, &others}, func() error {
		k := keys[n-1]
		read[k] = nil
		if !own {
			read[k] = &Refusal{Reason: s.senderReason(k.who, others)}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find whose senders they are: %w", err)
	}
	return read, nil
}

// senderReason says which senders somebody may use. It is the same whatever sender he
// used: reports are summed up by it, and the sender has a column.
func (s *Store) senderReason(who Object, others []string) string {
	names := []string{strings.ToLower(who.Name)}
	if _, _, isAddress := cutAddress(who.Name); !isAddress {
		names[0] += "@" + s.host
	}
	more := len(others) > namedSenders
	for _, a := range others[:min(len(others), namedSenders)] {
		if strings.HasPrefix(a, "@") {
			a = "*" + a
		}
		names = append(names, a)
	}
	reason := "envelope sender not allowed: " + who.phrase() + " may use " + strings.Join(names, ", ")
	if more {
		reason += " and others"
	}
	return reason
}
