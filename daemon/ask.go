package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5/pgconn"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
	"sendmail-wrapper/sqlschema"
	"sendmail-wrapper/wire"
)

// Bounds of the questions of ordinary users: whoever asks may slow down others who
// ask, and no mail. They have connections of their own, of which a question takes
// at most two.
const (
	askTimeout  = 15 * time.Second
	asksPerUser = 2                           // that are worked on at a time, or wait
	asksAtOnce  = sqlschema.CustomerConns / 2 // of all
	changesHour = 60                          // of limits, of one subscription: each makes all daemons read limits anew
)

// Exit statuses of mailctl.
const (
	exWrongQuestion = 2
	exRefused       = 3
	exNoPerm        = 77
)

// question is a wire.Request.Question.
type question struct {
	report.Question

	Limit string `json:"limit,omitempty"` // of ask "limit": which
	Value *int64 `json:"value,omitempty"` // of that; null: unset
}

// ask answers an ordinary user about what is his own, and nobody else's. Who asks
// is the kernel's word.
func (s *Server) ask(peer *origin.Peer, request *wire.Request) *wire.Reply {
	owner := s.finder.Owner(peer.UID)
	if !s.asking.enter(owner, asksPerUser) {
		return &wire.Reply{Verdict: wire.VerdictUnavailable, Text: "two of your questions are worked on already: wait for their answers"}
	}
	defer s.asking.leave(owner)
	q, err := readQuestion(request.Question)
	if err != nil {
		return s.refuseQuestion(exWrongQuestion, "no question: "+err.Error())
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	select {
	case s.asks <- struct{}{}:
		defer func() { <-s.asks }()
	case <-ctx.Done():
		return s.unanswered(ctx, owner, ctx.Err())
	}
	answer, note, err := s.answerQuestion(ctx, owner, q)
	if err != nil {
		return s.unanswered(ctx, owner, err)
	}
	reply := s.body(answer)
	if len(reply.Body) > wire.MaxReply-1024 {
		return s.refuseQuestion(exWrongQuestion, "the answer is too long: --limit asks for less")
	}
	reply.Text = note
	return reply
}

func readQuestion(b []byte) (*question, error) {
	var q question
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows it")
	}
	if hasControl(reflect.ValueOf(q)) {
		return nil, errors.New("control characters are in a text")
	}
	return &q, nil
}

// hasControl looks into all that a question says: PostgreSQL has no NUL in a text,
// and no name has the others.
func hasControl(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String:
		return strings.ContainsFunc(v.String(), unicode.IsControl)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return false
		}
		for i := range v.NumField() {
			if hasControl(v.Field(i)) {
				return true
			}
		}
	}
	return false
}

func (s *Server) answerQuestion(ctx context.Context, uid uint32, q *question) (answer any, note string, err error) {
	pool, store := s.database.customers, s.database.theirs
	c, err := report.FindCustomer(ctx, pool, s.config().Host, uid)
	switch {
	case err != nil:
		return nil, "", err
	case c == nil:
		return nil, "", &report.QuestionError{Text: "you have not sent anything yet", NotYours: true}
	case q.Ask == "limit":
		answer, err = s.setOwnLimit(ctx, c, q)
		return answer, "", err
	}
	return c.Answer(ctx, pool, store, &q.Question)
}

// LimitSet is the answer to ask "limit".
type LimitSet struct {
	Before string `json:"before"`
}

// setOwnLimit sets a limit of a customer's own domain or mailbox.
func (s *Server) setOwnLimit(ctx context.Context, c *report.Customer, q *question) (*LimitSet, error) {
	if !s.config().CustomersSetLimits || c.System {
		return nil, &report.QuestionError{Text: "here only the administrator sets limits", NotYours: true}
	}
	l, err := quota.ParseLimit(q.Limit)
	if err != nil {
		return nil, &report.QuestionError{Text: err.Error()}
	}
	if q.Value != nil && (*q.Value < 0 || *q.Value > admin.MaxLimit) {
		return nil, &report.QuestionError{Text: "a limit of your own is a number from 0 to 2147483647"}
	}
	if !s.changes.allow(c.Subscription, changesHour, time.Now()) {
		return nil, &admin.Error{Text: "you changed limits often in the last hour: wait a little"}
	}
	o, err := quota.ParseObject(q.Object)
	if err != nil {
		return nil, &report.QuestionError{Text: err.Error()}
	}
	ad := admin.ForCustomer(s.database.customers, s.database.theirs, s.config().Host, c.Name, c.Login)
	before, err := ad.SetOwnLimit(ctx, c.Subscription, o, l, q.Value)
	return &LimitSet{before}, err
}

func (s *Server) refuseQuestion(exit uint8, text string) *wire.Reply {
	return &wire.Reply{Verdict: wire.VerdictRefuse, Exit: exit, Text: printable(text)}
}

// unanswered makes a reply of an error.
func (s *Server) unanswered(ctx context.Context, uid uint32, err error) *wire.Reply {
	var wrong *report.QuestionError
	var change *admin.Error
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &wrong) && wrong.NotYours:
		return s.refuseQuestion(exNoPerm, wrong.Text)
	case errors.As(err, &wrong):
		return s.refuseQuestion(exWrongQuestion, wrong.Text)
	case errors.As(err, &change):
		return s.refuseQuestion(exRefused, change.Text)
	case ctx.Err() != nil, errors.As(err, &pg) && pg.Code == "57014": // statement_timeout
		return &wire.Reply{Verdict: wire.VerdictUnavailable, Text: "the answer takes too long: ask for a shorter time with --since, or later"}
	}
	if n, ok := s.warnings.allow(uid, time.Now()); ok {
		s.log().Error().Err(err).Uint32("uid", uid).Int("unlogged", n).Msg("a question was not answered")
	}
	return &wire.Reply{Verdict: wire.VerdictUnavailable, Text: "mailquotad has no database"}
}
