package quota

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

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
	id     ID
	plan   ID // whose defaults apply to it, 0 for the server
	object Object
}

// route says whom a message is charged to.
type route struct {
	targets              []target // nearest first, the server last
	subscription, domain string
	exempt               bool
}

// routeSQL: a message belongs to its system user's subscription, and to that
// domain of it whose name is its proved site, or below whose document root its
// proved script lies, or which is the only one. A domain of another
// subscription is never even looked at.
const routeSQL = `SELECT k.n, u.id, u.name, s.id, s.name, p.id, p.exempt, d.id, d.name
  FROM unnest($2::bigint[], $3::text[], $4::text[]) WITH ORDINALITY k(uid, site, script, n)
  JOIN system_user u ON u.host_id = $1 AND u.uid = k.uid AND u.removed_at IS NULL
  JOIN subscription s ON s.id = u.subscription_id
  JOIN plan p ON p.id = s.plan_id
  LEFT JOIN LATERAL (
    SELECT c.id, c.name
      FROM domain c
     WHERE c.subscription_id = s.id AND c.removed_at IS NULL
       AND (c.name = k.site
         OR starts_with(k.script, rtrim(c.document_root, '/') || '/')
         OR NOT EXISTS (SELECT FROM domain o WHERE o.subscription_id = s.id AND o.removed_at IS NULL AND o.id <> c.id))
     ORDER BY c.name = k.site DESC, length(c.document_root) DESC NULLS LAST, c.id
     LIMIT 1) d ON true`

type caller struct {
	uid  uint32
	name string
}

type unknownUsersError struct{ users []caller }

func (e *unknownUsersError) Error() string {
	return fmt.Sprintf("%d system users not known yet", len(e.users))
}

// route opens the transaction and finds whom each message is charged to.
func (s *Store) route(ctx context.Context, conn *pgxpool.Conn, hostID int32, messages []Message) ([]route, error) {
	uids, sites, scripts := make([]int64, len(messages)), make([]string, len(messages)), make([]string, len(messages))
	for i := range messages {
		o := &messages[i].Origin
		uids[i] = int64(o.UID)
		if o.Site.Proof >= origin.System {
			sites[i] = text(o.Site.Value)
		}
		if o.Script.Proof >= origin.System {
			scripts[i] = text(o.Script.Value)
		}
	}
	routes := make([]route, len(messages))
	unknown := map[caller]bool{}
	batch := &pgx.Batch{}
	batch.Queue("BEGIN")
	batch.Queue(routeSQL, hostID, uids, sites, scripts).Query(func(rows pgx.Rows) error {
		var n int64
		var user, subscription, plan ID
		var domain *ID
		var userName, subscriptionName string
		var domainName *string
		var exempt bool
		_, err := pgx.ForEachRow(rows, []any{&n, &user, &userName, &subscription, &subscriptionName, &plan, &exempt, &domain, &domainName}, func() error {
			r, o := &routes[n-1], &messages[n-1].Origin
			if userName != text(o.User) && !nameless(o) {
				unknown[caller{o.UID, o.User}] = true // renamed since
			}
			r.exempt, r.subscription = exempt, subscriptionName
			r.targets = append(r.targets, target{user, plan, Object{User, userName}})
			if domain != nil {
				r.domain = *domainName
				r.targets = append(r.targets, target{*domain, plan, Object{Domain, *domainName}})
			}
			r.targets = append(r.targets, target{subscription, plan, Object{Subscription, subscriptionName}},
				target{ServerID, 0, Object{Class: Server}})
			return nil
		})
		return err
	})
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("find subscriptions: %w", err)
	}
	for i := range routes {
		if routes[i].targets == nil {
			unknown[caller{messages[i].Origin.UID, messages[i].Origin.User}] = true
		}
	}
	if len(unknown) > 0 {
		e := &unknownUsersError{}
		for c := range unknown {
			e.users = append(e.users, c)
		}
		return nil, e
	}
	return routes, nil
}

// nameless tells whether a uid had no login name: then its old name stays.
func nameless(o *origin.Origin) bool { return o.User == fmt.Sprintf("#%d", o.UID) }

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
		plan := DefaultPlan
		if uid < s.firstUserUID || uid == nobody {
			plan = SystemPlan
		}
		created = true
		return createUser(ctx, tx, hostID, uid, text(name), plan, &user, &subscription)
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
