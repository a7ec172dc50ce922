package report

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
)

// Refused is a message that was refused, or by mode observe would have been.
type Refused struct {
	Time     Time      `json:"time"`
	ID       uuid.UUID `json:"id"`
	Decision string    `json:"decision"` // refused, observed
	By       string    `json:"by"`       // "subscription:alice messages/hour", or the reason where no limit did
	User     *string   `json:"user"`
	Mailbox  *string   `json:"mailbox"`
	Kind     string    `json:"kind"`
	Source   string    `json:"source"` // "script", "crontab", "site", or "" where none is known
	Name     string    `json:"name"`   // of it
	Proof    string    `json:"proof"`  // of that: kernel, system, claimed
}

const (
	maxRefusals = 10
	refusalDays = 7 // how far back they are looked for
)

// refusals returns the last refusals of an object's messages, newest first; of a
// plan those of its subscriptions, of the server all.
func refusals(ctx context.Context, pool *pgxpool.Pool, id quota.ID) ([]Refused, error) {
	switch id.Class() {
	case quota.Server:
		return lastRefusals(ctx, pool, `$3::bigint > 0`, id)
	case quota.Plan:
		return lastRefusals(ctx, pool, `m.subscription_id IN (SELECT id FROM subscription WHERE plan_id = $3)`, id)
	}
	return lastRefusals(ctx, pool, `m.`+columnOf[id.Class()]+` = $3`, id)
}

// lastRefusals looks for the last refusals that meet a condition on columns that
// messages and their sums have, for alias m; its arguments are $3 and following.
// Sums say in which hours there are any, so that of days without one no message
// is read.
func lastRefusals(ctx context.Context, pool *pgxpool.Pool, condition string, args ...any) ([]Refused, error) {
	hours, err := hoursOfRefusals(ctx, pool, condition, args)
	if err != nil {
		return nil, err
	}
	found := []Refused{}
	for _, hour := range hours {
		span := Filter{Since: hour, Until: hour.Add(time.Hour)}
		keys, err := readKeys(ctx, pool, fmt.Sprintf(`SELECT m.at, m.id FROM messages m
 WHERE m.at >= $1 AND m.at < $2 AND m.decision <> 1 AND %s ORDER BY m.at DESC, m.id DESC LIMIT %d`, condition, maxRefusals-len(found)),
			append([]any{span.Since, span.Until}, args...))
		if err != nil {
			return nil, err
		}
		messages, err := byKeys(ctx, pool, &span, keys)
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			found = append(found, refusedOf(m))
		}
		if len(found) == maxRefusals {
			break
		}
	}
	return found, nil
}

// hoursOfRefusals returns the hours of the last days, newest first, that have a
// refusal by their sums, or no sums yet.
func hoursOfRefusals(ctx context.Context, pool *pgxpool.Pool, condition string, args []any) ([]time.Time, error) {
	now := time.Now()
	rows, err := pool.Query(ctx, `WITH refused AS MATERIALIZED (SELECT DISTINCT at FROM hourly m WHERE m.at >= $1 AND m.at < $2 AND m.decision <> 1 AND `+condition+`)
SELECT h.at FROM generate_series(date_trunc('hour', $1::timestamptz), $2::timestamptz, interval '1 hour') h(at)
 WHERE h.at IN (SELECT at FROM refused)
    OR NOT EXISTS (SELECT FROM summed WHERE span = 'hour' AND summed.at = h.at AND NOT dirty)
 ORDER BY h.at DESC`, append([]any{now.AddDate(0, 0, -refusalDays), now.Add(time.Minute)}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("find refusals: %w", err)
	}
	hours, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
	if err != nil {
		return nil, fmt.Errorf("find refusals: %w", err)
	}
	return hours, nil
}

func refusedOf(m *Message) Refused {
	r := Refused{Time: m.Time, ID: m.ID, Decision: m.Decision, User: m.User, Mailbox: m.Mailbox, Kind: m.Kind}
	if m.RefusedBy != nil {
		r.By = *m.RefusedBy
	}
	for _, s := range []struct {
		source string
		name   *string
	}{{"crontab", m.Crontab}, {"script", m.Script}, {"site", m.Site}} {
		if s.name != nil {
			r.Source, r.Name, r.Proof = s.source, *s.name, m.Proof[s.source]
			break
		}
	}
	return r
}

// SourceStanding is how a script or a crontab line stands. Its JSON is an interface.
type SourceStanding struct {
	Source     string      `json:"source"` // script, crontab
	Name       string      `json:"name"`
	Verdict    string      `json:"verdict"`
	Blocked    bool        `json:"blocked"`
	Exceptions []Exception `json:"exceptions"`
	Senders    []Group     `json:"subscriptions"` // for which it sent in the last days
	Refusals   []Refused   `json:"refusals"`
}

// WhySource tells how a script ("script", all below a directory if the path ends in
// /) or crontab line ("crontab", a part of it) stands.
func WhySource(ctx context.Context, pool *pgxpool.Pool, source, name string) (*SourceStanding, error) {
	s := &SourceStanding{Source: source, Name: name}
	of, condition, f := `script IS NOT NULL AND (script = $1 OR right(script, 1) = '/' AND starts_with($1, script))`,
		`(m.script = $3 OR right($3, 1) = '/' AND starts_with(m.script, $3))`, Filter{Script: name}
	if source == "crontab" {
		of, condition, f = `crontab IS NOT NULL AND strpos($1, crontab) > 0`, `strpos(m.crontab, $3) > 0`, Filter{Crontab: name}
	}
	var err error
	if s.Exceptions, err = readExceptions(ctx, pool, of, name); err != nil {
		return nil, err
	}
	if s.Exceptions == nil {
		s.Exceptions = []Exception{}
	}
	f.Since = time.Now().AddDate(0, 0, -refusalDays)
	if s.Senders, err = Top(ctx, pool, f, "subscription", maxRefusals); err != nil {
		return nil, err
	}
	if s.Senders == nil {
		s.Senders = []Group{}
	}
	if s.Refusals, err = lastRefusals(ctx, pool, condition, name); err != nil {
		return nil, err
	}
	s.judge()
	return s, nil
}

func (s *SourceStanding) judge() {
	i := slices.IndexFunc(s.Exceptions, func(e Exception) bool { return e.Kind == quota.Block })
	switch s.Blocked = i >= 0; {
	case s.Blocked:
		s.Verdict = fmt.Sprintf("%s:%s is blocked%s", s.Source, s.Name, s.Exceptions[i].how())
	case len(s.Exceptions) > 0:
		s.Verdict = fmt.Sprintf("%s:%s is in the white list, where it is proved%s", s.Source, s.Name, s.Exceptions[0].how())
	case len(s.Senders) == 0 && len(s.Refusals) == 0:
		s.Verdict = fmt.Sprintf("%s:%s is not blocked, and sent nothing in the last %d days", s.Source, s.Name, refusalDays)
	default:
		s.Verdict = fmt.Sprintf("%s:%s is not blocked: the limits of its subscription hold", s.Source, s.Name)
	}
}

// MessageStanding is a message, and how what refused it stands now. Its JSON is an
// interface.
type MessageStanding struct {
	Verdict string    `json:"verdict"`
	Message *Message  `json:"message"`
	Now     *Standing `json:"now"` // of the object whose limit refused it, else of its sender; null if that is gone
}

// WhyMessage tells what was decided about a message and how that stands now; nil
// if there is no such message.
func WhyMessage(ctx context.Context, pool *pgxpool.Pool, store *quota.Store, id uuid.UUID) (*MessageStanding, error) {
	m, err := Find(ctx, pool, id)
	if m == nil || err != nil {
		return nil, err
	}
	s := &MessageStanding{Message: m}
	what := ""
	if m.RefusedWhy != nil {
		what = ": " + *m.RefusedWhy
	}
	switch {
	case m.Decision == "refused":
		s.Verdict = "was refused" + what
	case m.Decision == "observed" && m.RefusedBy != nil && m.RefusedWhy != nil && *m.RefusedBy == *m.RefusedWhy: // no limit: sender-check
		s.Verdict = "was let through, and reported" + what
	case m.Decision == "observed":
		s.Verdict = "was let through by mode observe; enforced, it would have been refused" + what
	default:
		s.Verdict = "was let through"
	}
	if s.Now, err = Why(ctx, pool, store, m.behind()); errors.As(err, new(*quota.NotFoundError)) {
		err = nil
	}
	return s, err
}

// behind is the object whose limit refused a message, else the nearest it was
// charged to.
func (m *Message) behind() quota.Object {
	if m.RefusedBy != nil {
		name, _, _ := strings.Cut(*m.RefusedBy, " ")
		if o, err := quota.ParseObject(name); err == nil {
			return o
		}
	}
	if m.Mailbox != nil {
		return quota.Object{Class: quota.Mailbox, Name: *m.Mailbox}
	}
	if m.User != nil {
		return quota.Object{Class: quota.User, Name: *m.User + "@" + m.Host}
	}
	return quota.Object{Class: quota.Server}
}
