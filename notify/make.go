package notify

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/config"
	"sendmail-wrapper/quota"
)

// Bounds of what one recipient is told in an hour: an attack on many sites at a time
// is many events. What is beyond is in the digest. Web hook and program read more
// than people do, but an attack is not to start a program ten thousand times.
const (
	adminPerHour    = 60
	customerPerHour = 5
	machinePerHour  = 600
)

// tooOld is the age from which an event is only in reports: who starts the service
// after a month does not want a month's mail.
const tooOld = 24 * time.Hour

// untold is an event without notices.
type untold struct {
	id      int64
	kind    quota.EventKind
	old     bool
	contact *string // of the subscription that the object is in
}

// untoldSQL waits for no lock, so nobody can wait for this one in turn: a daemon
// locks several events at a time, in another order.
const untoldSQL = `SELECT e.id, e.kind, e.opened_at < now() - $1::interval, s.contact
  FROM event e
  LEFT JOIN system_user u ON u.id = e.object_id
  LEFT JOIN mailbox m ON m.id = e.object_id
  LEFT JOIN domain d ON d.id = coalesce(m.domain_id, e.object_id)
  LEFT JOIN subscription s ON s.id = coalesce(u.subscription_id, d.subscription_id, e.object_id)
 WHERE e.told_at IS NULL ORDER BY e.id LIMIT $2 FOR UPDATE OF e SKIP LOCKED`

// recipient is who is told by what.
type recipient struct{ channel, target string }

// makeNotices makes the notices of new events, until there are no more.
func (d *Deliverer) makeNotices(ctx context.Context) error {
	for {
		n, left := 0, false
		err := pgx.BeginFunc(ctx, d.Pool, func(tx pgx.Tx) (err error) {
			n, err = d.makeSome(ctx, tx)
			return err
		})
		if err == nil && n == 0 {
			err = d.Pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM event WHERE told_at IS NULL)`).Scan(&left)
		}
		if err != nil {
			return fmt.Errorf("make notices: %w", err)
		}
		if n == 0 && !left {
			return nil
		}
		if n == 0 { // a daemon writes just those
			time.Sleep(20 * time.Millisecond)
		}
	}
}

func (d *Deliverer) makeSome(ctx context.Context, tx pgx.Tx) (int, error) {
	rows, err := tx.Query(ctx, untoldSQL, tooOld, batch)
	if err != nil {
		return 0, err
	}
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e untold, err error) {
		err = row.Scan(&e.id, &e.kind, &e.old, &e.contact)
		return e, err
	})
	if err != nil || len(events) == 0 {
		return 0, err
	}
	recent, err := madeRecently(ctx, tx)
	if err != nil {
		return 0, err
	}
	var ids, told []int64
	var channels, targets []string
	for _, e := range events {
		ids = append(ids, e.id)
		for _, r := range d.recipients(&e) {
			if recent[r] >= perHour(r.channel) {
				d.Log.Warn().Int64("event", e.id).Str("channel", r.channel).Str("target", r.target).
					Msg("not told at once: too many notifications within an hour")
				continue
			}
			recent[r]++
			told, channels, targets = append(told, e.id), append(channels, r.channel), append(targets, r.target)
		}
	}
	if _, err := tx.Exec(ctx, `INSERT INTO notice (event_id, channel, target) SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[])
ON CONFLICT (event_id, channel, target) WHERE event_id IS NOT NULL DO NOTHING`, told, channels, targets); err != nil {
		return 0, err
	}
	_, err = tx.Exec(ctx, `UPDATE event SET told_at = now() WHERE id = ANY ($1)`, ids)
	return len(events), err
}

// madeRecently counts the notices of the last hour.
func madeRecently(ctx context.Context, tx pgx.Tx) (map[recipient]int, error) {
	rows, err := tx.Query(ctx, `SELECT channel, target, count(*) FROM notice WHERE made_at > now() - interval '1 hour' AND event_id IS NOT NULL GROUP BY channel, target`)
	if err != nil {
		return nil, err
	}
	recent := map[recipient]int{}
	var r recipient
	var n int
	_, err = pgx.ForEachRow(rows, []any{&r.channel, &r.target, &n}, func() error {
		recent[r] = n
		return nil
	})
	return recent, err
}

func perHour(channel string) int {
	switch channel {
	case Admin:
		return adminPerHour
	case Customer:
		return customerPerHour
	}
	return machinePerHour
}

// recipients are those to be told of an event.
func (d *Deliverer) recipients(e *untold) []recipient {
	if e.old {
		return nil
	}
	list := d.administrators()
	// Nothing happens to a customer who is only observed.
	if d.Config.NotifyCustomers && e.contact != nil && config.IsRecipient(*e.contact) && e.kind != quota.EventObserved {
		list = append(list, recipient{Customer, *e.contact})
	}
	return list
}

// administrators are who gets everything: people, web hook and program.
func (d *Deliverer) administrators() (list []recipient) {
	for _, address := range d.Config.NotifyAdmin {
		list = append(list, recipient{Admin, address})
	}
	if d.Config.NotifyWebhook != "" {
		list = append(list, recipient{Webhook, d.Config.NotifyWebhook})
	}
	if d.Config.NotifyHook != "" {
		list = append(list, recipient{Hook, d.Config.NotifyHook})
	}
	return list
}

// closeEvents closes those that are over: the next message makes a new one.
func (d *Deliverer) closeEvents(ctx context.Context) error {
	// One that is locked goes on just now.
	_, err := d.Pool.Exec(ctx, `UPDATE event SET closed_at = now() WHERE id IN (
 SELECT id FROM event WHERE closed_at IS NULL AND last_at < now() - $1::interval FOR UPDATE SKIP LOCKED)`, time.Duration(d.Config.NotifyQuiet))
	if err != nil {
		return fmt.Errorf("close events: %w", err)
	}
	return nil
}

// settle is how long a digest waits for rows that were decided before the end of
// its time and committed after it.
const settle = 5 * time.Second

// makeDigest makes the notices of the digest whose time is over, if there is
// something in it. Its rows are made once, whoever tries and how often.
func (d *Deliverer) makeDigest(ctx context.Context) error {
	every := time.Duration(d.Config.NotifyDigest)
	recipients := d.administrators()
	if every == 0 || len(recipients) == 0 {
		return nil
	}
	var now time.Time
	if err := d.Pool.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return fmt.Errorf("make a digest: %w", err)
	}
	end := periodEnd(now.Add(-settle), every)
	if !end.After(d.digested) {
		return nil
	}
	if is, err := d.somethingHappened(ctx, end.Add(-every), end); err != nil || !is {
		if err == nil {
			d.digested = end
		}
		return err
	}
	for _, r := range recipients {
		_, err := d.Pool.Exec(ctx, `INSERT INTO notice (since, period, channel, target) VALUES ($1, $2, $3, $4)
ON CONFLICT (period, channel, target) WHERE period IS NOT NULL DO NOTHING`, end.Add(-every), end, r.channel, r.target)
		if err != nil {
			return fmt.Errorf("make a digest: %w", err)
		}
	}
	d.digested = end
	return nil
}

// periodEnd is the last time, up to now, at which a period ends: these are counted
// from midnight UTC. Local days of 23 and 25 hours would leave out an hour or tell
// it twice, and hosts of several time zones would not agree on the periods.
func periodEnd(now time.Time, every time.Duration) time.Time {
	return now.UTC().Truncate(every)
}

func (d *Deliverer) somethingHappened(ctx context.Context, since, until time.Time) (is bool, err error) {
	err = d.Pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM messages WHERE at >= $1 AND at < $2 AND decision <> 1)
 OR EXISTS (SELECT FROM event WHERE opened_at >= $1 AND opened_at < $2 AND kind = 'warned')
 OR EXISTS (SELECT FROM event WHERE closed_at >= $1 AND closed_at < $2)`, since, until).Scan(&is)
	if err != nil {
		return false, fmt.Errorf("look for something to say in a digest: %w", err)
	}
	return is, nil
}
