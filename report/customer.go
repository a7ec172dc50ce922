package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
)

// Question is what an ordinary user asks mailquotad about what is his own.
type Question struct {
	Ask    string `json:"ask"`              // why, messages, attempts, summary, scripts, cron, history
	Object string `json:"object,omitempty"` // of why; "": himself
	Filter Filter `json:"filter,omitzero"`  // of reports
	Rows   int    `json:"rows,omitempty"`   // of reports: at most, 0 is 100
	Hours  bool   `json:"hours,omitempty"`  // of history: by hours, else by days
}

// Bounds of what a customer may ask for.
const (
	CustomerDays = 31
	CustomerRows = 1000
)

// maxAnswer is how many bytes of messages a customer gets.
const maxAnswer = 2 << 20

// QuestionError says what is wrong with a question, or that it is about somebody
// else.
type QuestionError struct {
	Text     string
	NotYours bool
}

func (e *QuestionError) Error() string { return e.Text }

// Customer is an ordinary user, and what is his own: what was charged to his
// subscription. Users of the plan "system", such as a web server's, are no
// customers, and share one subscription among programs of many: each has its own
// mail only.
type Customer struct {
	User, Subscription quota.ID
	Login, Name        string // of the user, of the subscription
	System             bool
}

// FindCustomer returns the customer with a uid on a host; nil if it is not known
// yet.
func FindCustomer(ctx context.Context, pool *pgxpool.Pool, host string, uid uint32) (*Customer, error) {
	var c Customer
	err := pool.QueryRow(ctx, `SELECT u.id, u.name, s.id, s.name, p.name = $3 FROM system_user u JOIN host h ON h.id = u.host_id
  JOIN subscription s ON s.id = u.subscription_id JOIN plan p ON p.id = s.plan_id
 WHERE h.name = $1 AND u.uid = $2 AND u.removed_at IS NULL`, host, int64(uid), quota.SystemPlan).Scan(&c.User, &c.Login, &c.Subscription, &c.Name, &c.System)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find customer with uid %d: %w", uid, err)
	}
	return &c, nil
}

// Answer answers a question. Note is a line for people: what the answer leaves out.
func (c *Customer) Answer(ctx context.Context, pool *pgxpool.Pool, store *quota.Store, q *Question) (answer any, note string, err error) {
	if q.Ask == "why" {
		answer, err = c.why(ctx, pool, store, q.Object)
		return answer, "", err
	}
	f, err := c.filter(q)
	if err != nil {
		return nil, "", err
	}
	switch q.Ask {
	case "messages":
		return messagesFor(ctx, pool, f, q.Rows)
	case "attempts":
		answer, err = orEmpty(Attempts(ctx, pool, f, q.Rows))
	case "scripts":
		answer, err = orEmpty(Sources(ctx, pool, f, "script", q.Rows))
	case "cron":
		answer, err = orEmpty(Sources(ctx, pool, f, "crontab", q.Rows))
	case "summary":
		answer, err = Summarize(ctx, pool, store, f, q.Rows)
	case "history":
		answer, err = orEmpty(Totals(ctx, pool, f, q.Hours))
	default:
		return nil, "", &QuestionError{Text: fmt.Sprintf("%q is no question for an ordinary user", q.Ask)}
	}
	return answer, "", err
}

// orEmpty makes [] of null.
func orEmpty[T any](list []T, err error) ([]T, error) {
	if list == nil {
		list = []T{}
	}
	return list, err
}

// filter is the filter of a question as it may be: bounded, and of what is his own.
func (c *Customer) filter(q *Question) (Filter, error) {
	f, now := q.Filter, time.Now()
	texts := reflect.ValueOf(f)
	for i := range texts.NumField() {
		if v := texts.Field(i); v.Kind() == reflect.String && strings.ContainsRune(v.String(), 0) {
			return f, &QuestionError{Text: "no name has a NUL in it"}
		}
	}
	if q.Rows == 0 {
		q.Rows = 100
	}
	if q.Rows < 1 || q.Rows > CustomerRows {
		return f, &QuestionError{Text: fmt.Sprintf("%d rows: an ordinary user may ask for 1 to %d", q.Rows, CustomerRows)}
	}
	oldest := now.AddDate(0, 0, -CustomerDays)
	if f.Since.IsZero() {
		f.Since = oldest
	}
	if f.Since.Before(oldest.Add(-time.Hour)) {
		return f, &QuestionError{Text: fmt.Sprintf("an ordinary user may ask for the last %d days", CustomerDays)}
	}
	if f.Until.IsZero() || f.Until.After(now) {
		f.Until = now.Add(time.Minute) // the clock of the database may be ahead
	}
	f.Plan = "" // is none of his business
	f.SubscriptionID, f.UserID = c.Subscription, 0
	if c.System {
		f.UserID = c.User
	}
	return f, nil
}

// messagesFor returns the newest messages, as many as there is room for.
func messagesFor(ctx context.Context, pool *pgxpool.Pool, f Filter, rows int) (answer any, note string, err error) {
	list, size := []json.RawMessage{}, 0
	err = Messages(ctx, pool, f, rows, func(m *Message) error {
		one, err := json.Marshal(m)
		list, size = append(list, one), size+len(one)
		for size > maxAnswer {
			size -= len(list[0])
			list = list[1:]
			note = "these are the newest only, as the answer is too long: --until asks for older ones"
		}
		return err
	})
	return list, note, err
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *Time) UnmarshalJSON(b []byte) error { return (*time.Time)(t).UnmarshalJSON(b) }

// why is Why for a customer: about what is his own, and of what is above that, only
// whether it is full.
func (c *Customer) why(ctx context.Context, pool *pgxpool.Pool, store *quota.Store, name string) (*Standing, error) {
	chain, err := c.own(ctx, pool, store, name)
	if err != nil {
		return nil, err
	}
	s, err := standing(ctx, pool, store, chain)
	if err != nil {
		return nil, err
	}
	s.conceal()
	column := columnOf[chain[0].id.Class()]
	condition, args := `m.`+column+` = $3 AND m.subscription_id = $4`, []any{chain[0].id, c.Subscription}
	if c.System {
		condition, args = condition+` AND m.user_id = $5`, append(args, c.User)
	}
	s.Refusals, err = lastRefusals(ctx, pool, condition, args...)
	return s, err
}

// own returns the chain of an object that is his. What is not there and what is
// somebody else's is told alike.
func (c *Customer) own(ctx context.Context, pool *pgxpool.Pool, store *quota.Store, name string) ([]link, error) {
	if name == "" {
		return chainOf(ctx, pool, c.User, quota.Object{Class: quota.User, Name: c.Login})
	}
	notYours := &QuestionError{Text: fmt.Sprintf("%q is not yours, or is not known", name), NotYours: true}
	o, err := quota.ParseObject(name)
	if err != nil || o.Class > quota.Subscription || strings.ContainsRune(name, 0) {
		return nil, notYours
	}
	id, err := store.Find(ctx, o)
	if errors.As(err, new(*quota.NotFoundError)) {
		return nil, notYours
	}
	if err != nil {
		return nil, err
	}
	chain, err := chainOf(ctx, pool, id, o)
	if err != nil {
		return nil, err
	}
	if c.System && id != c.User && id != c.Subscription {
		return nil, notYours
	}
	for _, l := range chain {
		if l.id == c.Subscription {
			return chain, nil
		}
	}
	return nil, notYours
}

// conceal takes out what is the administrator's business: numbers and names of
// plan and server, and who made an exception and why.
func (s *Standing) conceal() {
	hideLimits := func(limits map[string]Standard) {
		for name, l := range limits {
			if l.From == quota.Plan.String() || l.From == quota.Server.String() {
				l.SetOn = l.From
				limits[name] = l
			}
		}
	}
	hideExceptions := func(list []Exception) {
		for i := range list {
			list[i].Actor, list[i].Why = "", ""
		}
	}
	hideLimits(s.Limits)
	hideExceptions(s.Exceptions)
	if strings.HasPrefix(s.ModeFrom, "plan:") {
		s.ModeFrom = quota.Plan.String()
	}
	above := []Above{}
	for _, a := range s.Above {
		switch class, _, _ := strings.Cut(a.Object, ":"); class {
		case quota.Plan.String():
			continue
		case quota.Server.String():
			a = Above{Object: a.Object, Limits: map[string]Standard{}, Full: a.Full, FullUntil: a.FullUntil, Exceptions: []Exception{}}
		}
		hideLimits(a.Limits)
		hideExceptions(a.Exceptions)
		above = append(above, a)
	}
	s.Above = above
	s.judge()
}
