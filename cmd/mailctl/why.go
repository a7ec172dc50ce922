package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
	"sendmail-wrapper/trace"
)

// commandWhy is mailctl why; a.why is the reason of a change.
func (a *app) commandWhy() *cobra.Command {
	return &cobra.Command{
		Use: "why OBJECT|MESSAGE-ID|script:PATH|crontab:TEXT", Short: "how an object stands, what holds it back, and why a message was refused",
		Long: "why says in one line whether an object can send, then its mode, limits and exceptions, what is above it, and what was\n" +
			"refused in the last 7 days. A message is named by the id of its row, or the value of its trace header.\n" +
			"script:PATH and crontab:TEXT are shown with the subscriptions that they sent for; a PATH that ends in / is a directory.\n" +
			"An ordinary user sees what is his own, and without an argument himself.",
		Example: "  mailctl why subscription:acme\n  mailctl why user:alice --json\n  mailctl why 0198f2c4-7a10-7d3c-9b52-6f1e8a0c4d21\n" +
			"  mailctl why script:/home/acme/www/form.php\n  mailctl why crontab:newsletter.sh",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: offerInTurn(offerObjects(limitable)),
		RunE: func(c *cobra.Command, args []string) error {
			subject := ""
			if len(args) == 1 {
				subject = args[0]
			}
			if !strings.HasPrefix(subject, "script:") && !strings.HasPrefix(subject, "crontab:") && a.ordinary(c.Context()) {
				return a.whyOwn(subject)
			}
			if subject == "" {
				return &failure{exUsage, "root says of what: an object, a message, a script or a cron job", "mailctl why --help"}
			}
			return a.runWhy(c.Context(), subject)
		},
	}
}

func (a *app) runWhy(ctx context.Context, subject string) error {
	source, name, _ := strings.Cut(subject, ":")
	if source != "script" && source != "crontab" {
		return a.whyObject(ctx, subject)
	}
	if name == "" || source == "script" && !strings.HasPrefix(name, "/") {
		return &failure{exUsage, fmt.Sprintf("%q names no %s: write script:/PATH or crontab:TEXT", subject, source), ""}
	}
	if err := a.connect(ctx); err != nil {
		return err
	}
	s, err := report.WhySource(ctx, a.pool, source, name)
	if err != nil || a.json {
		return a.orJSON(s, err)
	}
	a.printSource(s)
	return nil
}

// orJSON writes an answer, unless there was an error.
func (a *app) orJSON(v any, err error) error {
	if err != nil {
		return err
	}
	return a.printJSON(v)
}

func (a *app) whyObject(ctx context.Context, subject string) error {
	if id, err := trace.ParseID(headerValue(subject)); err == nil {
		return a.whyMessage(ctx, id.String())
	}
	o, err := quota.ParseObject(subject)
	if err != nil {
		return &failure{exUsage, fmt.Sprintf("%q is no object, message id, script or cron job", subject), cmp.Or(nearForm(subject), "mailctl why --help")}
	}
	if err := a.connect(ctx); err != nil {
		return err
	}
	s, err := report.Why(ctx, a.pool, a.store, o)
	if err != nil || a.json {
		return a.orJSON(s, err)
	}
	a.printStanding(s)
	return nil
}

// headerValue is what stands behind the name of a header, where there is one.
func headerValue(s string) string {
	if i := strings.Index(s, ": "); i > 0 {
		return s[i+2:]
	}
	return s
}

func (a *app) whyMessage(ctx context.Context, text string) error {
	id, err := trace.ParseID(text)
	if err != nil {
		return &failure{exUsage, err.Error(), ""}
	}
	if err := a.connect(ctx); err != nil {
		return err
	}
	s, err := report.WhyMessage(ctx, a.pool, a.store, id)
	switch {
	case err != nil:
		return err
	case s == nil:
		return &failure{exRefused, fmt.Sprintf("there is no message %s, or no longer", id), "mailctl report messages"}
	case a.json:
		return a.printJSON(s)
	}
	m := s.Message
	fmt.Fprintf(a.stdout, "message %s %s\n\n", id, report.Printable(s.Verdict))
	report.Table(a.stdout, []string{"time", "user", "mailbox", "kind", "script or cron job", "sender", "recipients", "refused by"}, [][]any{
		{m.Time, m.User, m.Mailbox, m.Kind, source(m.Script, m.Crontab), m.Sender, int64(m.Recipients), m.RefusedBy}})
	if s.Now != nil {
		fmt.Fprintln(a.stdout)
		a.printStanding(s.Now)
	}
	return nil
}

func (a *app) printStanding(s *report.Standing) {
	fmt.Fprintln(a.stdout, report.Printable(s.Verdict))
	from := ""
	if s.ModeFrom != "" {
		from = ", set on " + s.ModeFrom
	}
	fmt.Fprintf(a.stdout, "\nmode: %s%s\n", s.Mode, report.Printable(from))
	if s.Grants != nil {
		fmt.Fprintf(a.stdout, "allowance left: %s\n", grantText(s.Grants))
	}
	if len(s.Limits) > 0 {
		fmt.Fprintln(a.stdout)
		var rows [][]any
		for l := range quota.Limit(quota.NumLimits) {
			v := s.Limits[l.String()]
			rows = append(rows, []any{l.String(), v.Used, number(v.Limit), number(v.Left), v.FreeAt, v.SetOn})
		}
		report.Table(a.stdout, []string{"limit", "used", "of", "left", "free again", "set on"}, rows)
	}
	a.printExceptions(s.Exceptions)
	a.printSenders(s.Senders)
	if len(s.Above) > 0 {
		fmt.Fprintln(a.stdout)
		var rows [][]any
		for _, above := range s.Above {
			rows = append(rows, []any{above.Object, fullWord(above.Full), above.FullUntil, fullLimits(above.Limits)})
		}
		report.Table(a.stdout, []string{"above it", "full", "until", "used of limits"}, rows)
		for _, above := range s.Above {
			a.printExceptions(above.Exceptions)
		}
	}
	a.printRefusals(s.Refusals)
}

func grantText(g *quota.Grant) string {
	text := fmt.Sprintf("%d messages, %d recipients", g.Messages, g.Recipients)
	if !g.Until.IsZero() {
		text += " until " + g.Until.UTC().Format("2006-01-02 15:04 UTC")
	}
	return text
}

// fullLimits are those of an object above that have an end.
func fullLimits(limits map[string]report.Standard) string {
	var list []string
	for l := range quota.Limit(quota.NumLimits) {
		if v, ok := limits[l.String()]; ok && v.Limit != nil && l != quota.RecipientsMessage {
			list = append(list, fmt.Sprintf("%s %d/%d", l, v.Used, *v.Limit))
		}
	}
	return strings.Join(list, ", ")
}

func (a *app) printExceptions(list []report.Exception) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(a.stdout)
	var rows [][]any
	for _, e := range list {
		what := string(e.Kind)
		if e.Value != nil {
			what += fmt.Sprintf(" %s to %s", e.Limit, number(e.Value))
		}
		var until any
		if e.Until != nil {
			until = *e.Until
		}
		rows = append(rows, []any{e.ID, what, e.Since, until, e.Actor, e.Why})
	}
	report.Table(a.stdout, []string{"exception", "what", "since", "until", "by", "why"}, rows)
}

func (a *app) printRefusals(list []report.Refused) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(a.stdout)
	var rows [][]any
	for _, r := range list {
		name := r.Name
		if r.Proof != "" {
			name += " (" + r.Proof + ")"
		}
		rows = append(rows, []any{r.Time, r.Decision, r.By, r.User, r.Mailbox, r.Kind, name})
	}
	report.Table(a.stdout, []string{"last refusals", "decision", "by", "user", "mailbox", "kind", "script, cron job or site (proof)"}, rows)
}

func (a *app) printSource(s *report.SourceStanding) {
	fmt.Fprintln(a.stdout, report.Printable(s.Verdict))
	a.printExceptions(s.Exceptions)
	if len(s.Senders) > 0 {
		fmt.Fprintln(a.stdout)
		var rows [][]any
		for _, t := range s.Senders {
			rows = append(rows, []any{t.Name, t.Messages, t.Recipients, t.Refused, t.First, t.Last})
		}
		report.Table(a.stdout, []string{"subscription", "messages", "recipients", "refused", "first", "last"}, rows)
	}
	a.printRefusals(s.Refusals)
}

func fullWord(full bool) string {
	if full {
		return "yes"
	}
	return "no"
}
