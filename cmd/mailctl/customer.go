package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
	"sendmail-wrapper/wire"
)

// ordinary tells whether the caller is an ordinary user. He has no way to the
// database, be it for want of the configuration or of rights: mailquotad answers him,
// about what is his own. Not only root has one: mailquota, as which a notify-hook
// runs, and whom the database lets in, ask as he does.
func (a *app) ordinary(ctx context.Context) bool {
	if os.Geteuid() == 0 {
		return false
	}
	err := a.connect(ctx)
	if err == nil {
		return false
	}
	exit, _ := a.explain(err, nil)
	return exit == exNoPerm
}

// forCustomers are the reports that an ordinary user gets, of his own mail.
var forCustomers = []string{"messages", "attempts", "summary", "scripts", "cron", "history"}

// question is what the daemon reads (daemon/ask.go).
type question struct {
	report.Question
	Limit string `json:"limit,omitempty"`
	Value *int64 `json:"value,omitempty"`
}

// askOwn has a question of an ordinary user answered into v.
func (a *app) askOwn(q question, v any) error {
	body, err := json.Marshal(q)
	if err != nil {
		return err
	}
	if len(body) > wire.MaxQuestion {
		return &failure{exUsage, "that is too long for a question", ""}
	}
	reply, err := a.ask(&wire.Request{Op: wire.OpAsk, Question: body})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(reply.Body, v); err != nil {
		return fmt.Errorf("read the answer of mailquotad: %w", err)
	}
	if reply.Text != "" {
		fmt.Fprintln(a.stderr, reply.Text)
	}
	return nil
}

func (a *app) askReport(ask string, f report.Filter, rows int, hours bool, v any) error {
	return a.askOwn(question{Question: report.Question{Ask: ask, Filter: f, Rows: rows, Hours: hours}}, v)
}

func (a *app) whyOwn(object string) error {
	var s report.Standing
	if err := a.askOwn(question{Question: report.Question{Ask: "why", Object: object}}, &s); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(&s)
	}
	a.printStanding(&s)
	return nil
}

// setOwnLimit sets a limit of a domain or mailbox of an ordinary user's own, as far
// as the administrator lets him.
func (a *app) setOwnLimit(o quota.Object, l quota.Limit, value *int64) error {
	if value != nil && *value == quota.Unlimited {
		return &failure{exUsage, "a limit of your own is a number", "mailctl limit unset " + o.String() + " " + l.String()}
	}
	var set struct {
		Before string `json:"before"`
	}
	if err := a.askOwn(question{report.Question{Ask: "limit", Object: o.String()}, l.String(), value}, &set); err != nil {
		return err
	}
	return a.limitSet(o, o.Class, l, value, set.Before)
}

// limitSet says what became of a limit.
func (a *app) limitSet(o quota.Object, class quota.Class, l quota.Limit, value *int64, before string) error {
	what, now := "", "unset"
	if class != o.Class {
		what = " for each " + class.String()
	}
	if value != nil {
		now = number(value)
	}
	return a.done("%s %s%s: %s (was %s)", o, l, what, now, before)
}

func (a *app) eachMessage(ctx context.Context, q *query, limit int, each func(*report.Message) error) error {
	if !a.ordinary(ctx) {
		return report.Messages(ctx, a.pool, q.filter, limit, each)
	}
	all := limit == 0
	if all {
		limit = report.CustomerRows
	}
	var list []*report.Message
	if err := a.askReport("messages", q.filter, limit, false, &list); err != nil {
		return err
	}
	if all && len(list) == limit {
		fmt.Fprintf(a.stderr, "the newest %d, which is all that an ordinary user gets at once; older ones: --until TIME\n", limit)
	}
	for _, m := range list {
		if err := each(m); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) readSummary(ctx context.Context, q *query) (*report.Summary, error) {
	if !a.ordinary(ctx) {
		return report.Summarize(ctx, a.pool, a.store, q.filter, q.limit)
	}
	var s report.Summary
	return &s, a.askReport("summary", q.filter, q.limit, false, &s)
}

func (a *app) readAttempts(ctx context.Context, q *query) (list []report.Attempt, err error) {
	if !a.ordinary(ctx) {
		return report.Attempts(ctx, a.pool, q.filter, q.limit)
	}
	err = a.askReport("attempts", q.filter, q.limit, false, &list)
	return list, err
}

func (a *app) readSources(ctx context.Context, q *query, by string) (list []report.Source, err error) {
	if !a.ordinary(ctx) {
		return report.Sources(ctx, a.pool, q.filter, by, q.limit)
	}
	ask := map[string]string{"script": "scripts", "crontab": "cron"}[by]
	err = a.askReport(ask, q.filter, q.limit, false, &list)
	return list, err
}

func (a *app) readTotals(ctx context.Context, f report.Filter, hours bool) (list []report.Total, err error) {
	if !a.ordinary(ctx) {
		return report.Totals(ctx, a.pool, f, hours)
	}
	err = a.askReport("history", f, 0, hours, &list)
	return list, err
}
