package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sendmail-wrapper/report"
	"sendmail-wrapper/trace"
)

// queueLifetime is for how long Postfix tries to deliver (maximal_queue_lifetime,
// 5 days by default), and a day more.
const queueLifetime = 6 * 24 * time.Hour

// search puts into an answer what the log has of it.
func (t *tracing) search(ctx context.Context, a *traced, query trace.Query, at time.Time) {
	mails, l := t.readLog(ctx, query, at)
	if l.Match == trace.Likely {
		trace.Nearest(mails, at)
	}
	l.Mails = shown(mails)
	a.Log = l
}

// readLog looks for mails from shortly before a time on. What keeps the log from
// being read is no error: the row is worth more.
func (t *tracing) readLog(ctx context.Context, query trace.Query, since time.Time) (mails []*trace.Mail, l logAnswer) {
	query.Fields = t.fields
	l = logAnswer{Match: trace.None, Mails: []logMail{}}
	var until time.Time
	if !since.IsZero() {
		since, until = since.Add(-time.Minute), since.Add(queueLifetime)
	}
	sources, err := t.logs.Sources(ctx, since, until)
	if errors.Is(err, trace.ErrNoLog) {
		l.Problem = "there is neither " + t.logDir + "/mail.log nor a journal"
		return nil, l
	}
	var names []string
	for _, s := range sources {
		mails, match, searchErr := trace.Search(s.Lines, query)
		err = errors.Join(err, searchErr)
		if len(mails) > 0 {
			l.Source, l.Match, l.Problem = s.Name, match, oneLine(err)
			return mails, l
		}
		names = append(names, s.Name)
	}
	l.Source, l.Problem = strings.Join(names, ", "), oneLine(err)
	if len(names) > 0 {
		l.Problem = strings.TrimSuffix("nothing about it in "+strings.Join(names, " and ")+"; "+l.Problem, "; ")
	}
	return nil, l
}

// oneLine is the text of errors that were joined, "" for none.
func oneLine(err error) string {
	if err == nil {
		return ""
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

func shown(mails []*trace.Mail) []logMail {
	list := []logMail{}
	for _, m := range mails {
		one := logMail{QueueID: m.Queue, Lines: []logLine{}}
		for _, l := range m.Lines {
			one.Lines = append(one.Lines, logLine{report.Time(l.Time), l.Program, l.Text})
		}
		list = append(list, one)
	}
	return list
}

// rowsOf answers with the rows of a mail of the log: by the trace header that
// Postfix logged, its Message-ID, or else all that it may be.
func (t *tracing) rowsOf(ctx context.Context, mail *trace.Mail, l logAnswer) error {
	answers := len(t.answers)
	var copies []string
	add := func(m *report.Message, by trace.Match) {
		if m == nil {
			return
		}
		if mail.UID != nil && (m.UID == nil || *m.UID != *mail.UID) {
			if by == trace.ByTrace {
				copies = append(copies, fmt.Sprintf("it has the trace header %s, which is of another user's mail: copied", m.ID))
			}
			return
		}
		a := traced{Message: m, FoundBy: by, Log: l, Warnings: slices.Clone(copies)}
		if mail.MessageID != "" && m.MessageID != nil && *m.MessageID != mail.MessageID {
			if by == trace.Likely {
				return
			}
			a.Warnings = append(a.Warnings, differs("Message-ID", mail.MessageID, *m.MessageID))
		}
		t.answers = append(t.answers, a)
	}
	if len(mail.Traces) > 1 {
		copies = append(copies, fmt.Sprintf("the mail has %d trace headers: all but one are of mails that it forwards, or copied", len(mail.Traces)))
	}
	for _, value := range mail.Traces {
		if id, err := trace.ParseID(value); err == nil {
			m, err := report.Find(ctx, t.pool, id)
			if err != nil {
				return err
			}
			add(m, trace.ByTrace)
		}
	}
	if len(t.answers) > answers {
		return nil
	}
	// One that Postfix made up, of the queue id, was in no row.
	if mail.MessageID != "" && !strings.Contains(mail.MessageID, mail.Queue+"@") {
		span := report.Filter{Since: mail.First.Add(-24 * time.Hour), Until: mail.First.Add(time.Minute)}
		list, err := report.FindByMessageID(ctx, t.pool, []string{mail.MessageID}, span, t.progress)
		if err != nil {
			return err
		}
		for _, m := range list {
			if m.Decision == "accepted" {
				add(m, trace.ByMessageID)
			}
		}
	}
	if len(t.answers) > answers {
		return nil
	}
	list, err := report.FindSubmissions(ctx, t.pool, report.Submission{UID: mail.UID, Login: mail.Login, Recipients: mail.Recipients,
		Since: mail.First.Add(-trace.After), Until: mail.First.Add(trace.Before)})
	if err != nil {
		return err
	}
	for _, m := range list {
		add(m, trace.Likely)
	}
	if len(t.answers) == answers {
		t.answers = append(t.answers, traced{FoundBy: trace.None, Log: l, Warnings: copies})
	}
	return nil
}

// copied says what speaks against a header: a spammer can put one on a mail that
// he found on another. What a row does not know cannot differ.
func (t *tracing) copied(h *trace.Header, m *report.Message) (warnings []string) {
	if uid := t.handedOver(h); uid != nil && m.UID != nil && m.Host == t.config.Host && *uid != *m.UID {
		warnings = append(warnings, differs("uid", fmt.Sprint(*uid), fmt.Sprint(*m.UID)))
	}
	if m.MessageID != nil && *m.MessageID != h.MessageID {
		warnings = append(warnings, differs("Message-ID", h.MessageID, *m.MessageID))
	}
	if m.Subject != nil && h.IsTitled {
		// Mail servers fold long lines in other places.
		if subject := trace.DecodeSubject(h.Subject); strings.Join(strings.Fields(subject), "") != strings.Join(strings.Fields(*m.Subject), "") {
			warnings = append(warnings, differs("subject", subject, *m.Subject))
		}
	}
	if h.Return != nil {
		sender := *h.Return
		if !strings.Contains(m.Sender, "@") && m.Sender != "" { // Postfix adds its own domain
			sender, _, _ = strings.Cut(sender, "@")
		}
		if !strings.EqualFold(sender, m.Sender) {
			warnings = append(warnings, differs("sender", *h.Return, m.Sender)+"; a forwarder may have changed it, too")
		}
	}
	return warnings
}

// handedOver is the uid that handed the mail to sendmail(1) on this host, as the
// oldest Received line of this host says; nil if none says it.
func (t *tracing) handedOver(h *trace.Header) *int64 {
	for _, r := range slices.Backward(h.Received) {
		if r.UID != nil && t.isOurs(r.Host) {
			return r.UID
		}
	}
	return nil
}

func differs(what, mails, rows string) string {
	return fmt.Sprintf("the %s of the mail is %q, of the row %q: the header was copied from another mail, and the row proves nothing", what, mails, rows)
}
