package notify

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/quota"
)

// Summary is what happened in a time.
type Summary struct {
	Since    time.Time `json:"since"`
	Until    time.Time `json:"until"`
	Attempts int64     `json:"attempts"` // to send more than allowed: messages that were refused, or would have been
	Groups   int64     `json:"groups"`   // of attempts that are alike; Refused has the largest
	Refused  []Attempt `json:"refused"`
	Warned   []Warning `json:"warned"`
	Clear    []Cleared `json:"clear"`
}

// Attempt is a group of messages that are alike.
type Attempt struct {
	Object   string    `json:"object"` // whose limit; "": none
	Limit    string    `json:"limit"`
	Why      string    `json:"why"` // the line that the last one was given
	Observed bool      `json:"observed"`
	Messages int64     `json:"messages"`
	User     string    `json:"user,omitempty"`
	Mailbox  string    `json:"mailbox,omitempty"`
	Program  string    `json:"program"`
	Script   string    `json:"script,omitempty"`
	Crontab  string    `json:"crontab,omitempty"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Still    bool      `json:"still"` // its event is open yet
}

// Source is what sent it.
func (a *Attempt) Source() string {
	switch {
	case a.Crontab != "":
		return "cron job " + a.Crontab
	case a.Script != "":
		return "script " + a.Script
	case a.Mailbox != "":
		return "mailbox " + a.Mailbox
	}
	return a.Program
}

// Warning is an object that came near one of its limits.
type Warning struct {
	Object string    `json:"object"`
	Limit  string    `json:"limit"`
	Max    int64     `json:"max"`
	Used   int64     `json:"used"`
	At     time.Time `json:"at"`
}

// Cleared is an event that is over.
type Cleared struct {
	Object string          `json:"object"`
	What   quota.EventKind `json:"what"`
	Since  time.Time       `json:"since"`
	Last   time.Time       `json:"last"`
}

// digestRows is how many rows each list has at most.
const digestRows = 50

// attemptsSQL looks up names for the groups that are shown only.
const attemptsSQL = `WITH g AS (
SELECT refused_object, refused_limit, decision, host_id, user_id, mailbox_id, kind, script, crontab, count(*) AS messages, min(at) AS first, max(at) AS last,
       (array_agg(refused_why ORDER BY at DESC))[1] AS why, count(*) OVER () AS groups, sum(count(*)) OVER () AS attempts
  FROM messages WHERE at >= $2 AND at < $3 AND decision <> 1
 GROUP BY refused_object, refused_limit, decision, host_id, user_id, mailbox_id, kind, script, crontab
 ORDER BY messages DESC, first LIMIT $4)
SELECT coalesce(g.refused_object, 0), ` + nameSQL + `, coalesce(g.refused_limit, -1), g.decision = 3, g.messages, coalesce(u.name, ''), coalesce(m.address, ''),
       g.kind, coalesce(g.script, ''), coalesce(g.crontab, ''), g.first, g.last, coalesce(g.why, ''), g.groups, g.attempts::bigint,
       EXISTS (SELECT FROM event e WHERE e.object_id = g.refused_object AND e.closed_at IS NULL
         AND e.kind = CASE g.decision WHEN 3 THEN 'observed' ELSE 'refused' END)
  FROM g LEFT JOIN system_user u ON u.id = g.user_id LEFT JOIN mailbox m ON m.id = g.mailbox_id
 ORDER BY g.messages DESC, g.first`

// nameSQL is the name of the object $object, of which a user of another host than
// $1 has that behind an @.
const nameSQL = `coalesce(CASE refused_object >> 40
       WHEN 1 THEN (SELECT n.name || CASE WHEN h.name = $1 THEN '' ELSE '@' || h.name END FROM system_user n JOIN host h ON h.id = n.host_id WHERE n.id = refused_object)
       WHEN 2 THEN (SELECT address FROM mailbox WHERE id = refused_object)
       WHEN 3 THEN (SELECT name FROM domain WHERE id = refused_object)
       WHEN 4 THEN (SELECT name FROM subscription WHERE id = refused_object)
       WHEN 5 THEN (SELECT name FROM plan WHERE id = refused_object) END, '')`

// Two statements, since each has an index of its own.
const (
	eventsSQL = `SELECT refused_object, ` + nameSQL + `, kind, limit_no, max, used, opened_at, last_at
  FROM (SELECT object_id AS refused_object, * FROM event) e WHERE `
	warnedSQL = eventsSQL + `kind = 'warned' AND opened_at >= $2 AND opened_at < $3 ORDER BY opened_at LIMIT $4`
	clearSQL  = eventsSQL + `closed_at >= $2 AND closed_at < $3 ORDER BY opened_at LIMIT $4`
)

// summary reads what happened in a time.
func (d *Deliverer) summary(ctx context.Context, since, until time.Time) (*Summary, error) {
	s := &Summary{Since: since, Until: until, Refused: []Attempt{}, Warned: []Warning{}, Clear: []Cleared{}}
	batch := &pgx.Batch{}
	batch.Queue(attemptsSQL, d.Config.Host, since, until, digestRows).Query(func(rows pgx.Rows) (err error) {
		s.Refused, err = pgx.AppendRows(s.Refused, rows, s.scanAttempt)
		return err
	})
	batch.Queue(warnedSQL, d.Config.Host, since, until, digestRows).Query(func(rows pgx.Rows) (err error) {
		return scanEvents(rows, func(e *Event, _ quota.EventKind, _ time.Time) {
			s.Warned = append(s.Warned, Warning{e.Object, e.Limit, e.Max, e.Used, e.Since})
		})
	})
	batch.Queue(clearSQL, d.Config.Host, since, until, digestRows).Query(func(rows pgx.Rows) (err error) {
		return scanEvents(rows, func(e *Event, kind quota.EventKind, last time.Time) {
			s.Clear = append(s.Clear, Cleared{e.Object, kind, e.Since, last})
		})
	})
	if err := d.Pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("read what happened: %w", err)
	}
	return s, nil
}

func (s *Summary) scanAttempt(row pgx.CollectableRow) (a Attempt, err error) {
	var id quota.ID
	var limit int16
	var name string
	err = row.Scan(&id, &name, &limit, &a.Observed, &a.Messages, &a.User, &a.Mailbox, &a.Program, &a.Script, &a.Crontab, &a.First, &a.Last, &a.Why,
		&s.Groups, &s.Attempts, &a.Still)
	if id != 0 {
		a.Object = quota.Object{Class: id.Class(), Name: name}.String()
	}
	if limit >= 0 && limit < quota.NumLimits {
		a.Limit = quota.Limit(limit).String()
	}
	for _, text := range []*string{&a.Object, &a.Why, &a.User, &a.Mailbox, &a.Program, &a.Script, &a.Crontab} {
		*text = printable(*text)
	}
	return a, err
}

func scanEvents(rows pgx.Rows, each func(e *Event, kind quota.EventKind, last time.Time)) error {
	var id quota.ID
	var name string
	var kind quota.EventKind
	var limit int16
	var e Event
	var last time.Time
	_, err := pgx.ForEachRow(rows, []any{&id, &name, &kind, &limit, &e.Max, &e.Used, &e.Since, &last}, func() error {
		e.Object, e.Limit = printable(quota.Object{Class: id.Class(), Name: name}.String()), quota.Limit(limit).String()
		each(&e, kind, last)
		return nil
	})
	return err
}
