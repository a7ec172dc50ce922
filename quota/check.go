package quota

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Verdict is what would become of a message.
type Verdict struct {
	Decision   Decision
	Mode       Mode
	Accounts   []Object    // nearest first
	Exceptions []Exception // that mattered
	Foreign    string      // why the sender is not the message's own, whatever SenderCheck says; "": it is
	Passed     int         // of CheckSeries: how many would pass before the one that Decision is about
}

// Objects that are not there yet, as Check sees them, have the number 0 in their
// class: no limit is set on them, and nothing was counted.
const (
	newUserSQL = `WITH known AS (SELECT id FROM subscription WHERE name = $6 AND removed_at IS NULL),
  subscription AS NOT MATERIALIZED (
    SELECT id, plan_id, name, mode FROM subscription
    UNION ALL SELECT 4::bigint << 40, id, $6, NULL FROM plan WHERE name = $7 AND removed_at IS NULL AND NOT EXISTS (SELECT FROM known)),
  system_user AS (
    SELECT 1::bigint << 40 AS id, coalesce((SELECT id FROM known), 4::bigint << 40) AS subscription_id, $1::integer AS host_id, ($2::bigint[])[1] AS uid,
           NULL::timestamptz AS removed_at, $6::text AS name, NULL::text AS mode) ` + userSQL

	newMailboxSQL = `WITH mailbox AS (
    SELECT 2::bigint << 40 AS id, d.id AS domain_id, NULL::timestamptz AS removed_at, ($1::text[])[1] AS address, NULL::text AS mode
      FROM domain d WHERE d.name = substring(($1::text[])[1] FROM '[^@]*$') AND d.removed_at IS NULL) ` + mailboxSQL
)

// Check says what would become of a message now, charging and recording nothing.
func (s *Store) Check(ctx context.Context, m Message) (Verdict, error) {
	return s.CheckSeries(ctx, m, 1)
}

// CheckSeries is Check of a message that is sent count times, one after the other:
// its Decision is about the first that would not pass, or be observed, else about
// the last.
func (s *Store) CheckSeries(ctx context.Context, m Message, count int) (Verdict, error) {
	if err := m.check(); err != nil {
		return Verdict{}, err
	}
	r, holds, err := s.checkRoute(ctx, &m)
	if err != nil {
		return Verdict{}, fmt.Errorf("find whom the message is charged to: %w", err)
	}
	accounts, now, err := s.checkAccounts(ctx, r, holds)
	if err != nil {
		return Verdict{}, fmt.Errorf("read usage: %w", err)
	}
	foreign, err := s.foreignSender(ctx, &m, r)
	if err != nil {
		return Verdict{}, err
	}
	v := Verdict{Mode: r.Mode}
	if foreign != nil {
		v.Foreign = foreign.Reason
	}
	if m.SenderCheck != SenderAny {
		r = r.withForeign(foreign)
	}
	if _, _, by := holds.judge(&m, r, now); by != nil {
		v.Exceptions = append(v.Exceptions, *by)
	}
	for _, a := range accounts {
		v.Accounts = append(v.Accounts, a.Object)
		for _, e := range a.raises {
			if e.holds(now) {
				v.Exceptions = append(v.Exceptions, *e)
			}
		}
	}
	for {
		v.Decision = holds.decide(&m, r, accounts, s.warn.Load(), now)
		if v.Decision.Refusal != nil {
			break
		}
		if v.Passed++; v.Passed == count || v.Decision.Observed != nil {
			break
		}
	}
	v.Decision.Subscription, v.Decision.Domain = r.Subscription, r.Domain
	return v, nil
}

// checkRoute finds whom a message would be charged to, also somebody who would be
// made for it.
func (s *Store) checkRoute(ctx context.Context, m *Message) (*route, *rules, error) {
	var hostID int32
	err := s.pool.QueryRow(ctx, `SELECT id FROM host WHERE name = $1`, s.host).Scan(&hostID)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, nil, err
	}
	k := s.keyOf(m)
	read := map[routeKey]*route{k: nil}
	holds, err := s.readRoutes(ctx, hostID, read, nil)
	if err != nil || read[k] != nil {
		return read[k], holds, err
	}
	if k.NoUser {
		return holds.serverRoute(), holds, nil
	}
	var found *route
	take := func(_ int64, r *route) { found = r }
	if k.Mailbox != "" && !k.OnBehalf {
		addresses := []string{k.Mailbox}
		rows, _ := s.pool.Query(ctx, newMailboxSQL, addresses) // the error is the rows', too
		err = scanMailboxes(rows, addresses, take)
	} else {
		rows, _ := s.pool.Query(ctx, newUserSQL, hostID, []int64{int64(k.UID)}, []string{k.Site}, []string{k.Script}, []bool{k.VirtualHost},
			text(m.Origin.User), s.planOf(k.UID))
		err = scanUsers(rows, take)
	}
	if err == nil && found == nil {
		err = fmt.Errorf("there is no plan %s: type mailctl plan add %[1]s", s.planOf(k.UID))
	}
	return found, holds, err
}

// checkAccounts reads the accounts of a route as they are, without locks.
func (s *Store) checkAccounts(ctx context.Context, r *route, holds *rules) ([]*Account, time.Time, error) {
	ids, plans := make([]ID, len(r.Targets)), make([]ID, len(r.Targets))
	for i, t := range r.Targets {
		ids[i], plans[i] = t.ID, t.Plan
	}
	var now time.Time
	bounds, states := map[ID]Bounds{}, map[ID]*Usage{}
	batch := &pgx.Batch{}
	batch.Queue(clockSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&now) })
	batch.Queue(limitsSQL, ids, plans).Query(func(rows pgx.Rows) error {
		return scanBounds(rows, func(id ID, b Bounds) { bounds[id] = b })
	})
	batch.Queue(statesSQL, ids).Query(func(rows pgx.Rows) error { return scanStates(rows, states) })
	if err := s.pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, now, err
	}
	var accounts []*Account
	for _, t := range r.Targets {
		a := &Account{ID: t.ID, Object: t.Object, Exempt: t.Exempt, Bounds: bounds[t.ID], raises: holds.raises[t.ID]}
		if u := states[t.ID]; u != nil {
			a.Usage = *u
		}
		accounts = append(accounts, a)
	}
	return accounts, now, nil
}

// SetWarnPercent says how much of a limit must be used for an EventWarned; 0: there
// is none. It may be called at any time.
func (s *Store) SetWarnPercent(percent int) { s.warn.Store(int64(percent)) }
