package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"sendmail-wrapper/report"
)

// peopleRows is how many rows of messages people see, unless they ask for more.
const peopleRows = 100

func (a *app) reportMessages() *cobra.Command {
	return a.newQuery(&cobra.Command{
		Use: "messages", Short: "each message, newest last",
		Long: "messages shows each message, newest last: by time, those of one time by id. With --json it writes one object a line:\n" +
			"all of them, unless --limit says how many of the newest; with --csv a row each, all alike.",
		Example: "  mailctl report messages --user alice\n  mailctl report messages --refused --since 24h --json",
	}, 0, fmt.Sprintf("only the newest `rows` (default: all with --json and --csv, else %d)", peopleRows), a.messages)
}

func (a *app) messages(ctx context.Context, q *query) error {
	switch {
	case a.json:
		out := bufio.NewWriter(a.stdout)
		e := encoder(out)
		err := a.eachMessage(ctx, q, q.limit, func(m *report.Message) error { return e.Encode(m) })
		return errors.Join(err, out.Flush())
	case q.csv:
		w := newCSV(a.stdout, []string{"time", "id", "host", "user", "subscription", "domain", "mailbox", "kind", "script", "crontab", "site", "sender",
			"recipients", "size", "decision", "refused by"})
		err := a.eachMessage(ctx, q, q.limit, func(m *report.Message) error {
			w.row([]any{m.Time, m.ID, m.Host, m.User, m.Subscription, m.Domain, m.Mailbox, m.Kind, m.Script, m.Crontab, m.Site, m.Sender,
				m.Recipients, m.Size, m.Decision, m.RefusedBy})
			return w.w.Error()
		})
		return errors.Join(err, w.end())
	}
	limit := q.limit
	if limit == 0 {
		limit = peopleRows
	}
	s := sheet{header: []string{"time", "user", "kind", "script or cron job", "sender", "recipients", "decision", "refused by"}, none: "no such messages"}
	err := a.eachMessage(ctx, q, limit, func(m *report.Message) error {
		s.rows = append(s.rows, []any{m.Time, m.User, m.Kind, source(m.Script, m.Crontab), m.Sender, int64(m.Recipients), m.Decision, m.RefusedBy})
		return nil
	})
	if err == nil {
		err = a.show(q, nil, s)
	}
	if err == nil && len(s.rows) == limit {
		fmt.Fprintf(a.stderr, "the newest %d; more: --limit NUMBER\n", limit)
	}
	return err
}

// source names what sent a message: the crontab line where there is one.
func source(script, crontab *string) *string {
	if crontab != nil {
		return crontab
	}
	return script
}

func localTime(t report.Time) string { return time.Time(t).Local().Format("2006-01-02 15:04:05") }
