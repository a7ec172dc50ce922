package report

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
)

// Standing is how an object stands: what it may send, what holds it back, and
// what was refused lately. Its JSON is the interface of mailctl why --json.
type Standing struct {
	Object     string              `json:"object"`
	CanSend    bool                `json:"can_send"` // one message to one recipient, now
	Verdict    string              `json:"verdict"`  // one line
	Mode       string              `json:"mode"`
	ModeFrom   string              `json:"mode_from"` // object on which it is set; "": nobody set it
	Limits     map[string]Standard `json:"limits"`    // by quota.Limit.String(); empty for a plan
	Exceptions []Exception         `json:"exceptions"`
	Grants     *quota.Grant        `json:"grants"`
	Senders    []Sender            `json:"senders"`  // that it may use besides its own
	Above      []Above             `json:"above"`    // nearest first
	Refusals   []Refused           `json:"refusals"` // newest first, also those of mode observe
}

// Standard is one limit, with the object that it is set on.
type Standard struct {
	quota.LimitUsage
	SetOn string `json:"set_on"` // "plan:gold default for subscription"; "": nobody set it
}

// Above is an object above another one.
type Above struct {
	Object     string              `json:"object"`
	Limits     map[string]Standard `json:"limits"` // empty for a plan, and for a customer
	Full       bool                `json:"full"`   // lets nothing more through now
	FullUntil  *time.Time          `json:"full_until"`
	Exceptions []Exception         `json:"exceptions"`

	grants *quota.Grant
}

// Exception is an exception that holds now.
type Exception struct {
	ID      int64               `json:"id"`
	Kind    quota.ExceptionKind `json:"kind"`
	Limit   string              `json:"limit,omitempty"` // of a raise
	Value   *int64              `json:"value,omitempty"` // of a raise; -1: unlimited
	Script  string              `json:"script,omitempty"`
	Crontab string              `json:"crontab,omitempty"`
	Since   Time                `json:"since"`
	Until   *Time               `json:"until"` // null: until it is removed
	Actor   string              `json:"actor,omitempty"`
	Why     string              `json:"why,omitempty"`

	object quota.ID
}

// Why tells how an object stands. The error is a *quota.NotFoundError if there is
// none.
func Why(ctx context.Context, pool *pgxpool.Pool, store *quota.Store, o quota.Object) (*Standing, error) {
	id, err := store.Find(ctx, o)
	if err != nil {
		return nil, err
	}
	chain, err := chainOf(ctx, pool, id, o)
	if err != nil {
		return nil, err
	}
	s, err := standing(ctx, pool, store, chain)
	if err != nil {
		return nil, err
	}
	s.Refusals, err = refusals(ctx, pool, id)
	return s, err
}

// link is one object of a chain.
type link struct {
	id     quota.ID
	object quota.Object
}

// chainOf returns an object and those above it, nearest first.
func chainOf(ctx context.Context, pool *pgxpool.Pool, id quota.ID, o quota.Object) ([]link, error) {
	chain := []link{{id, o}}
	if id == quota.ServerID {
		return chain, nil
	}
	var domainID, subscriptionID, planID *quota.ID
	var domain, subscription, plan *string
	err := pool.QueryRow(ctx, `SELECT d.id, d.name, s.id, s.name, p.id, p.name
  FROM (SELECT $1::bigint AS id) k
  LEFT JOIN system_user u ON u.id = k.id
  LEFT JOIN mailbox m ON m.id = k.id
  LEFT JOIN domain d ON d.id = coalesce(m.domain_id, k.id)
  LEFT JOIN subscription s ON s.id = coalesce(u.subscription_id, d.subscription_id, k.id)
  LEFT JOIN plan p ON p.id = coalesce(s.plan_id, k.id)`, id).Scan(&domainID, &domain, &subscriptionID, &subscription, &planID, &plan)
	if err != nil {
		return nil, fmt.Errorf("find what is above %s: %w", o, err)
	}
	for _, l := range []struct {
		id   *quota.ID
		name *string
	}{{domainID, domain}, {subscriptionID, subscription}, {planID, plan}} {
		if l.id != nil && *l.id != id {
			chain = append(chain, link{*l.id, quota.Object{Class: l.id.Class(), Name: *l.name}})
		}
	}
	return append(chain, link{quota.ServerID, quota.Object{Class: quota.Server}}), nil
}

func standing(ctx context.Context, pool *pgxpool.Pool, store *quota.Store, chain []link) (*Standing, error) {
	var counted []quota.Object // plans are charged nothing
	ids := make([]quota.ID, len(chain))
	named := map[string]string{} // by class, as usage names what a thing is set on
	for i, l := range chain {
		if l.id.Class() != quota.Plan {
			counted = append(counted, l.object)
		}
		ids[i], named[l.id.Class().String()] = l.id, l.object.String()
	}
	list, err := store.Usage(ctx, counted)
	if err != nil {
		return nil, err
	}
	usage := map[string]quota.ObjectUsage{}
	for _, u := range list {
		usage[u.Object] = u
	}
	held, err := exceptionsOf(ctx, pool, ids)
	if err != nil {
		return nil, err
	}
	senders, err := sendersOf(ctx, pool, chain)
	if err != nil {
		return nil, err
	}
	own := usage[chain[0].object.String()]
	s := &Standing{Object: chain[0].object.String(), Mode: own.Mode, ModeFrom: named[own.ModeFrom], Limits: standards(own, chain[0].id.Class(), named),
		Exceptions: held[chain[0].id], Grants: own.Grants, Senders: senders, Above: []Above{}, Refusals: []Refused{}}
	if chain[0].id.Class() == quota.Plan {
		if s.Mode, s.ModeFrom, err = planMode(ctx, pool, chain[0]); err != nil {
			return nil, err
		}
	}
	for _, l := range chain[1:] {
		u := usage[l.object.String()]
		a := Above{Object: l.object.String(), Limits: standards(u, l.id.Class(), named), Exceptions: held[l.id], grants: u.Grants}
		t := tightest(a.Limits, a.grants)
		a.Full, a.FullUntil = t.full(), t.until
		s.Above = append(s.Above, a)
	}
	s.judge()
	return s, nil
}

func planMode(ctx context.Context, pool *pgxpool.Pool, plan link) (mode, from string, err error) {
	var own, server *string
	err = pool.QueryRow(ctx, `SELECT mode, (SELECT mode FROM server) FROM plan WHERE id = $1`, plan.id).Scan(&own, &server)
	switch {
	case err != nil:
		return "", "", fmt.Errorf("read mode of %s: %w", plan.object, err)
	case own != nil:
		return *own, plan.object.String(), nil
	case server != nil:
		return *server, "server", nil
	}
	return string(quota.Enforce), "", nil
}

// standards gives limits the names of what they are set on.
func standards(u quota.ObjectUsage, class quota.Class, named map[string]string) map[string]Standard {
	limits := map[string]Standard{}
	for name, l := range u.Limits {
		on := l.From
		if object := named[l.From]; object != "" {
			on = object
			if l.From != class.String() {
				on += " default for " + class.String()
			}
		}
		limits[name] = Standard{l, on}
	}
	return limits
}

// exceptionsOf returns the exceptions of objects that hold now.
func exceptionsOf(ctx context.Context, pool *pgxpool.Pool, ids []quota.ID) (map[quota.ID][]Exception, error) {
	list, err := readExceptions(ctx, pool, `object_id = ANY($1::bigint[])`, ids)
	held := map[quota.ID][]Exception{}
	for _, id := range ids {
		held[id] = []Exception{} // [] and not null
	}
	for _, e := range list {
		held[e.object] = append(held[e.object], e)
	}
	return held, err
}

func readExceptions(ctx context.Context, pool *pgxpool.Pool, condition string, args ...any) ([]Exception, error) {
	rows, err := pool.Query(ctx, `SELECT id, kind, coalesce(object_id, 0), coalesce(script, ''), coalesce(crontab, ''), limit_no, value, made_at, until, actor, coalesce(why, '')
  FROM exception WHERE (until IS NULL OR until > clock_timestamp()) AND `+condition+` ORDER BY id`, args...)
	if err != nil {
		return nil, fmt.Errorf("read exceptions: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e Exception, err error) {
		var limit *int16
		var since time.Time
		var until *time.Time
		err = row.Scan(&e.ID, &e.Kind, &e.object, &e.Script, &e.Crontab, &limit, &e.Value, &since, &until, &e.Actor, &e.Why)
		e.Since = Time(since)
		if until != nil {
			u := Time(*until)
			e.Until = &u
		}
		if limit != nil {
			e.Limit = quota.Limit(*limit).String()
		}
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read exceptions: %w", err)
	}
	return list, nil
}
