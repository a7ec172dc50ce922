package quota

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/origin"
)

// Plans that exist from the start; a system user seen for the first time comes
// under one of them.
const (
	DefaultPlan = "default"
	SystemPlan  = "system"
)

// nobody is the uid that Linux shows for uids it cannot map (overflowuid).
const nobody = 65534

// target is an object that a message is charged to.
type target struct {
	ID     ID
	Plan   ID // whose defaults apply to it, 0 for the server
	Object Object
	Mode   Mode `json:",omitzero"` // of a message of which it is the nearest object; not known of the server
	Exempt bool `json:",omitzero"` // counted, whatever its own limits are: a web server's user of his own mode
}

// route says whom a message is charged to. It is never changed once it is
// remembered.
type route struct {
	Targets              []target // nearest first, the server last
	Subscription, Domain string
	Mode                 Mode
	Exempt               bool     `json:",omitzero"` // in a file of before there were modes: Mode is Off
	AnyScript            bool     `json:",omitzero"` // the script does not matter: with any other the route is the same
	foreign              *Refusal // of one message: why its sender is not its own
	user                 string   // login name that the database has for the uid
	term                 int64
}

// routeKey is all of a message that its route depends on: the mailbox, or else
// the uid, and site and script as far as they are proved. A virtual host is a site
// whose programs run as the web server's own user.
//
// On behalf of an address, that is the mailbox if there is one, or else in the domain;
// the rest of the key matters if there is neither. Without a user, the rest is zero.
type routeKey struct {
	Mailbox, Site, Script string
	UID                   uint32
	VirtualHost           bool `json:",omitzero"`
	OnBehalf              bool `json:",omitzero"`
	NoUser                bool `json:",omitzero"`
}

// serverAlone is the key of what nobody is charged for but the server.
var serverAlone = routeKey{NoUser: true}

// remembered is the key under which a route that was read for k may be remembered,
// if it may. A user can have any number of scripts, and each would take the place of
// somebody else; and so can a domain have addresses without a mailbox.
func (k routeKey) remembered(r *route) (key routeKey, ok bool) {
	if k.OnBehalf {
		switch r.Targets[0].Object.Class {
		case Mailbox:
			return routeKey{Mailbox: k.Mailbox}, true
		case User:
			k.Mailbox, k.OnBehalf = "", false
		default:
			return k, false
		}
	}
	if k.Script != "" {
		k.Script = ""
		return k, r.AnyScript
	}
	return k, true
}

// maxAddress is the longest address that there can be, in bytes (RFC 5321,
// 4.5.3.1). What is longer is cut, and so is no mailbox of a known domain.
const maxAddress = 64 + 1 + 255

// keyOf returns a message's key. With mod_php and CGI all sites share the uid of
// the web server, which is no customer's: there, and only there, a proved site says
// whose mail it is. Which of these it is the caller's own processes show, so a
// site could choose; the site is Apache's word for all of them. A uid that may be a
// customer's never sends for somebody else.
func (s *Store) keyOf(m *Message) routeKey {
	if m.Mailbox != "" {
		return routeKey{Mailbox: lowerAddress(m.Mailbox)}
	}
	k := routeKey{Mailbox: lowerAddress(m.OnBehalf), OnBehalf: m.OnBehalf != "", NoUser: m.NoUser}
	if m.NoUser {
		return k
	}
	k.UID = m.Origin.UID
	if m.Origin.Site.Proof >= origin.System {
		k.Site = strings.ToLower(text(m.Origin.Site.Value)) // as names of domains are
		switch m.Origin.Kind {
		case origin.ModPHP, origin.PHPCGI, origin.CGI:
			k.VirtualHost = m.Origin.KindProof >= origin.System && m.Origin.UID < s.firstUserUID
		}
	}
	if m.Origin.Script.Proof >= origin.System {
		k.Script = text(m.Origin.Script.Value)
	}
	return k
}

func lowerAddress(address string) string {
	address = strings.ToLower(address)
	return text(address[:min(len(address), maxAddress)])
}

// userSQL: a message belongs to its system user's subscription, and to that
// domain of it whose name is its proved site, or below whose document root its
// proved script lies (the nearest one), or which is the only one. A domain of
// another subscription is never even looked at, but for a virtual host, whose
// domain's subscription it is then; the user is counted by his own plan.
//
// The script is of no matter where the site names the domain, there are not two to
// choose from, or none has a document root.
//
// Of modes (see Mode) there is one for each object: the user's own way, that of the
// domain and that of the subscription.
const userSQL = `SELECT k.n, u.id, u.name, q.id, s.id, s.name, p.id, d.id, d.name,
       coalesce(d.name = k.site, false)
         OR NOT EXISTS (SELECT FROM domain r WHERE r.subscription_id = s.id AND r.removed_at IS NULL AND r.document_root IS NOT NULL)
         OR (SELECT count(*) FROM (SELECT FROM domain r WHERE r.subscription_id = s.id AND r.removed_at IS NULL LIMIT 2) two) = 1,
       v.id IS NOT NULL,
       coalesce(u.mode, CASE WHEN v.id IS NULL THEN d.mode END, o.mode, q.mode, (SELECT mode FROM server), 'enforce'),
       coalesce(d.mode, s.mode, p.mode, (SELECT mode FROM server), 'enforce'),
       coalesce(s.mode, p.mode, (SELECT mode FROM server), 'enforce')
  FROM unnest($2::bigint[], $3::text[], $4::text[], $5::boolean[]) WITH ORDINALITY k(uid, site, script, host, n)
  JOIN system_user u ON u.host_id = $1 AND u.uid = k.uid AND u.removed_at IS NULL
  JOIN subscription o ON o.id = u.subscription_id
  JOIN plan q ON q.id = o.plan_id
  LEFT JOIN domain v ON k.host AND v.name = k.site AND v.removed_at IS NULL
  JOIN subscription s ON s.id = coalesce(v.subscription_id, u.subscription_id)
  JOIN plan p ON p.id = s.plan_id
  LEFT JOIN LATERAL (
    SELECT c.id, c.name, c.mode
      FROM domain c
     WHERE c.subscription_id = s.id AND c.removed_at IS NULL
       AND (c.name = k.site
         OR starts_with(k.script, rtrim(c.document_root, '/') || '/')
         OR NOT EXISTS (SELECT FROM domain o WHERE o.subscription_id = s.id AND o.removed_at IS NULL AND o.id <> c.id))
     ORDER BY c.name = k.site DESC, length(c.document_root) DESC NULLS LAST, c.id
     LIMIT 1) d ON true`

// mailboxSQL: a message of a mailbox belongs to its domain and subscription. One
// that is not known yet may have a domain that is.
const mailboxSQL = `SELECT k.n, m.id, d.id, d.name, s.id, s.name, p.id,
       coalesce(m.mode, d.mode, s.mode, p.mode, (SELECT mode FROM server), 'enforce'),
       coalesce(d.mode, s.mode, p.mode, (SELECT mode FROM server), 'enforce'),
       coalesce(s.mode, p.mode, (SELECT mode FROM server), 'enforce')
  FROM unnest($1::text[]) WITH ORDINALITY k(address, n)
  LEFT JOIN mailbox m ON m.address = k.address AND m.removed_at IS NULL
  JOIN domain d ON d.id = coalesce(m.domain_id, (SELECT b.id FROM domain b WHERE b.name = substring(k.address FROM '[^@]*$') AND b.removed_at IS NULL))
  JOIN subscription s ON s.id = d.subscription_id
  JOIN plan p ON p.id = s.plan_id`

type caller struct {
	uid  uint32
	name string
}

// unknownError names callers who must be made before they can be charged.
type unknownError struct {
	users     map[caller]bool
	mailboxes map[string]bool
}

func (e *unknownError) Error() string {
	return fmt.Sprintf("%d system users and %d mailboxes not known yet", len(e.users), len(e.mailboxes))
}

var serverTarget = target{ID: ServerID, Object: Object{Class: Server}}

// routes finds whom each message is charged to: from memory, or, if fresh, all
// anew from the database; what holds besides, and the term of both. The error is
// an *unknownError where somebody must be made first.
func (s *Store) routes(ctx context.Context, hostID int32, messages []Message, fresh bool) (routes []*route, holds *rules, term int64, err error) {
	keys := make([]routeKey, len(messages))
	for i := range messages {
		keys[i] = s.keyOf(&messages[i])
	}
	term, routes, holds = s.memory.begin(keys)
	if fresh {
		clear(routes)
		holds = nil
	}
	read := map[routeKey]*route{}
	for i, k := range keys {
		if routes[i] == nil && k != serverAlone {
			read[k] = nil
		}
	}
	if len(read) > 0 || holds == nil {
		if holds, err = s.readRoutes(ctx, hostID, read, holds); err != nil {
			return nil, nil, 0, err
		}
		s.memory.learnRules(holds, term)
		for _, r := range read {
			if r != nil {
				r.term = term
			}
		}
	}
	unknown := &unknownError{map[caller]bool{}, map[string]bool{}}
	for i, k := range keys {
		if routes[i] == nil {
			routes[i] = read[k]
		}
		o := &messages[i].Origin
		switch r := routes[i]; {
		case r == nil && k.NoUser:
			routes[i] = holds.serverRoute()
		case r == nil && k.Mailbox != "" && !k.OnBehalf:
			unknown.mailboxes[k.Mailbox] = true
		case r == nil, r.Targets[0].Object.Class == User && r.user != text(o.User) && !nameless(o): // or renamed since
			unknown.users[caller{o.UID, o.User}] = true
		}
	}
	if len(unknown.users)+len(unknown.mailboxes) > 0 {
		return nil, nil, 0, unknown
	}
	s.memory.learnRoutes(read)
	return routes, holds, term, nil
}

// readRoutes fills in the routes of keys; nil is left where somebody is not
// known yet. It reads the rules in the same trip, if there are none.
func (s *Store) readRoutes(ctx context.Context, hostID int32, read map[routeKey]*route, holds *rules) (*rules, error) {
	var users, boxes []routeKey
	for k := range read {
		if k.Mailbox != "" {
			boxes = append(boxes, k)
		}
		if k.Mailbox == "" || k.OnBehalf && !k.NoUser {
			users = append(users, k)
		}
	}
	found := map[routeKey]*route{} // of boxes
	batch := &pgx.Batch{}
	if holds == nil {
		queueRules(batch, func(r *rules) { holds = r })
	}
	if len(users) > 0 {
		uids, sites, scripts, hosts := make([]int64, len(users)), make([]string, len(users)), make([]string, len(users)), make([]bool, len(users))
		for i, k := range users {
			uids[i], sites[i], scripts[i], hosts[i] = int64(k.UID), k.Site, k.Script, k.VirtualHost
		}
		batch.Queue(userSQL, hostID, uids, sites, scripts, hosts).Query(func(rows pgx.Rows) error {
			return scanUsers(rows, func(n int64, r *route) { read[users[n-1]] = r })
		})
	}
	if len(boxes) > 0 {
		addresses := make([]string, len(boxes))
		for i, k := range boxes {
			addresses[i] = k.Mailbox
		}
		batch.Queue(mailboxSQL, addresses).Query(func(rows pgx.Rows) error {
			return scanMailboxes(rows, addresses, func(n int64, r *route) { found[boxes[n-1]] = r })
		})
	}
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("find subscriptions: %w", err)
	}
	for _, k := range boxes {
		switch r := found[k]; {
		case r == nil && !k.OnBehalf: // its domain is not known
			read[k] = holds.serverRoute()
		case r != nil && (k.OnBehalf || r.Targets[0].Object.Class == Mailbox):
			read[k] = r
		}
	}
	return holds, nil
}

func (r *rules) serverRoute() *route { return &route{Targets: []target{serverTarget}, Mode: r.mode} }

func scanUsers(rows pgx.Rows, found func(n int64, r *route)) error {
	var n int64
	var user, userPlan, subscription, plan ID
	var domain *ID
	var userName, subscriptionName string
	var domainName *string
	var anyScript, virtualHost bool
	var userMode, domainMode, subscriptionMode string
	into := []any{&n, &user, &userName, &userPlan, &subscription, &subscriptionName, &plan, &domain, &domainName, &anyScript, &virtualHost,
		&userMode, &domainMode, &subscriptionMode}
	_, err := pgx.ForEachRow(rows, into, func() error {
		r := &route{Subscription: subscriptionName, Mode: modeOf(userMode), AnyScript: anyScript, user: userName,
			Targets: []target{{ID: user, Plan: userPlan, Object: Object{User, userName}, Mode: modeOf(userMode)}}}
		if virtualHost {
			r.Mode, r.Targets[0].Exempt = modeOf(domainMode), modeOf(userMode) != Enforce
		}
		if domain != nil {
			r.Domain = *domainName
			r.Targets = append(r.Targets, target{ID: *domain, Plan: plan, Object: Object{Domain, *domainName}, Mode: modeOf(domainMode)})
		}
		r.Targets = append(r.Targets, target{ID: subscription, Plan: plan, Object: Object{Subscription, subscriptionName}, Mode: modeOf(subscriptionMode)}, serverTarget)
		found(n, r)
		return nil
	})
	return err
}

// scanMailboxes finds routes that begin with the mailbox or, where there is none, the
// domain.
func scanMailboxes(rows pgx.Rows, addresses []string, found func(n int64, r *route)) error {
	var n int64
	var mailbox *ID
	var domain, subscription, plan ID
	var domainName, subscriptionName string
	var mailboxMode, domainMode, subscriptionMode string
	into := []any{&n, &mailbox, &domain, &domainName, &subscription, &subscriptionName, &plan, &mailboxMode, &domainMode, &subscriptionMode}
	_, err := pgx.ForEachRow(rows, into, func() error {
		r := &route{Subscription: subscriptionName, Domain: domainName, Mode: modeOf(mailboxMode)}
		if mailbox != nil {
			r.Targets = append(r.Targets, target{ID: *mailbox, Plan: plan, Object: Object{Mailbox, addresses[n-1]}, Mode: modeOf(mailboxMode)})
		}
		r.Targets = append(r.Targets,
			target{ID: domain, Plan: plan, Object: Object{Domain, domainName}, Mode: modeOf(domainMode)},
			target{ID: subscription, Plan: plan, Object: Object{Subscription, subscriptionName}, Mode: modeOf(subscriptionMode)},
			serverTarget)
		found(n, r)
		return nil
	})
	return err
}

// ensureMailbox makes a mailbox of a known domain that logs in for the first
// time.
func (s *Store) ensureMailbox(ctx context.Context, address string) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO mailbox (domain_id, address) SELECT id, $1 FROM domain WHERE name = substring($1 FROM '[^@]*$') AND removed_at IS NULL
			ON CONFLICT (address) WHERE removed_at IS NULL DO NOTHING`, address)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO usage (id) SELECT id FROM mailbox WHERE address = $1 AND removed_at IS NULL ON CONFLICT DO NOTHING`, address)
		return err
	})
	if err != nil {
		return fmt.Errorf("register mailbox %s: %w", address, err)
	}
	return nil
}

// nameless tells whether a uid had no login name: then its old name stays.
func nameless(o *origin.Origin) bool { return o.User == fmt.Sprintf("#%d", o.UID) }

// planOf is the plan under which a uid comes at first.
func (s *Store) planOf(uid uint32) string {
	if uid < s.firstUserUID || uid == nobody {
		return SystemPlan
	}
	return DefaultPlan
}

func domainOf(address string) string { return address[strings.LastIndexByte(address, '@')+1:] }

// ensureHost returns the number of this host, which is made when it first asks.
func (s *Store) ensureHost(ctx context.Context) (int32, error) {
	if id := s.hostID.Load(); id != 0 {
		return id, nil
	}
	_, err := s.pool.Exec(ctx, `INSERT INTO host (name) VALUES ($1) ON CONFLICT (name) DO NOTHING`, s.host)
	var id int32
	if err == nil {
		err = s.pool.QueryRow(ctx, `SELECT id FROM host WHERE name = $1`, s.host).Scan(&id)
	}
	if err != nil {
		return 0, fmt.Errorf("find host %s: %w", s.host, err)
	}
	s.hostID.Store(id)
	return id, nil
}

// EnsureUser returns the system user of a uid of this host and its
// subscription, and makes them if the uid was never seen: the subscription is
// the one that bears the login name, or a new one of that name. Of many that
// try at the same time, on any host, one makes it. A login name that has
// changed is taken over.
func (s *Store) EnsureUser(ctx context.Context, uid uint32, name string) (user, subscription ID, created bool, err error) {
	hostID, err := s.ensureHost(ctx)
	if err != nil {
		return 0, 0, false, err
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		known, err := ensureKnown(ctx, tx, hostID, uid, text(name), &user, &subscription)
		if err != nil || known {
			return err
		}
		created = true
		return createUser(ctx, tx, hostID, uid, text(name), s.planOf(uid), &user, &subscription)
	})
	if err != nil {
		return 0, 0, false, fmt.Errorf("register system user %s (uid %d): %w", name, uid, err)
	}
	return user, subscription, created, nil
}

func ensureKnown(ctx context.Context, tx pgx.Tx, hostID int32, uid uint32, name string, user, subscription *ID) (bool, error) {
	var was string
	err := tx.QueryRow(ctx, `SELECT id, subscription_id, name FROM system_user WHERE host_id = $1 AND uid = $2 AND removed_at IS NULL`,
		hostID, int64(uid)).Scan(user, subscription, &was)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err == nil && was != name {
		_, err = tx.Exec(ctx, `UPDATE system_user SET name = $2 WHERE id = $1`, *user, name)
	}
	return err == nil, err
}

func createUser(ctx context.Context, tx pgx.Tx, hostID int32, uid uint32, name, plan string, user, subscription *ID) error {
	var planID ID
	err := tx.QueryRow(ctx, `SELECT id FROM plan WHERE name = $1 AND removed_at IS NULL`, plan).Scan(&planID)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("there is no plan %s: type mailctl plan add %s", plan, plan)
	}
	if err != nil {
		return err
	}
	// ON CONFLICT waits for a transaction that makes the same row, and the
	// SELECT after it sees what that one committed.
	for _, step := range []struct {
		sql  string
		args []any
		id   *ID
	}{
		{`INSERT INTO subscription (plan_id, name) VALUES ($1, $2) ON CONFLICT (name) WHERE removed_at IS NULL DO NOTHING`, []any{planID, name}, nil},
		{`SELECT id FROM subscription WHERE name = $1 AND removed_at IS NULL`, []any{name}, subscription},
		{`INSERT INTO system_user (subscription_id, uid, host_id, name) SELECT id, $2, $3, name FROM subscription WHERE name = $1 AND removed_at IS NULL
		  ON CONFLICT (host_id, uid) WHERE removed_at IS NULL DO NOTHING`, []any{name, int64(uid), hostID}, nil},
		{`SELECT id FROM system_user WHERE host_id = $1 AND uid = $2 AND removed_at IS NULL`, []any{hostID, int64(uid)}, user},
	} {
		if step.id != nil {
			err = tx.QueryRow(ctx, step.sql, step.args...).Scan(step.id)
		} else {
			_, err = tx.Exec(ctx, step.sql, step.args...)
		}
		if err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, `INSERT INTO usage (id) SELECT id FROM unnest($1::bigint[]) k(id) ORDER BY id ON CONFLICT DO NOTHING`,
		[]ID{*user, *subscription})
	return err
}
