package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"sendmail-wrapper/report"
	"sendmail-wrapper/trace"
)

// print writes what was found. Its exit status is 1 if no row was.
func (t *tracing) print(argument string) error {
	found := 0
	for i := range t.answers {
		a := &t.answers[i]
		if a.Message != nil {
			found++
		}
		if a.Warnings == nil {
			a.Warnings = []string{}
		}
		if a.Log.Mails == nil {
			a.Log.Mails = []logMail{}
		}
	}
	if t.json {
		if err := t.printJSON(map[string]any{"argument": argument, "messages": t.answers}); err != nil || found > 0 {
			return err
		}
		return &failure{exWrong, "", ""}
	}
	likely := 0
	for i := range t.answers {
		a := &t.answers[i]
		if i > 0 {
			fmt.Fprintln(t.stdout)
		}
		if a.FoundBy == trace.Likely {
			if likely++; likely == 1 {
				fmt.Fprintln(t.stdout, "likely, by user, time and number of recipients only; it may be another's:")
			}
		}
		for _, w := range a.Warnings {
			fmt.Fprintln(t.stdout, report.Paint(t.stdout, report.Yellow, "warning: "+report.Printable(w)))
		}
		if a.Message != nil {
			printMessage(t.stdout, a)
		}
		// Likely rows of one mail have the same lines.
		if likely <= 1 || a.FoundBy != trace.Likely {
			printLog(t.stdout, &a.Log)
		}
	}
	if found > 0 {
		return nil
	}
	return &failure{exWrong, "no row of this mail", fmt.Sprintf("is it older than retention-days = %d? was it sent on another host, or without sendmail? "+
		"rows by time: mailctl report messages --since … --until …", t.config.RetentionDays)}
}

// printMessage writes a row: a name, how sure it is, and the value a line.
func printMessage(w io.Writer, a *traced) {
	m := a.Message
	line := func(name, proof, value string) {
		if value != "" {
			fmt.Fprintf(w, "%-15s%-9s%s\n", name, proof, report.Printable(value))
		}
	}
	or := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	by := string(a.FoundBy)
	if a.Where != "" {
		by += " " + a.Where
	}
	line("message", "", m.ID.String()+", by "+by)
	line("time", "", time.Time(m.Time).Local().Format("2006-01-02 15:04:05")+" on "+m.Host)
	decision := m.Decision
	if m.RefusedBy != nil {
		decision += " by " + *m.RefusedBy
	}
	line("decision", "", decision)
	if m.GivenBack != nil {
		line("given back", "", time.Time(*m.GivenBack).Local().Format("2006-01-02 15:04:05")+": the mail server refused it after all")
	}
	user := or(m.User)
	if m.UID != nil {
		user = strings.TrimSpace(fmt.Sprintf("%s (uid %d)", user, *m.UID))
	}
	line("user", m.Proof["uid"], user)
	line("mailbox", "", or(m.Mailbox))
	line("subscription", "", or(m.Subscription))
	line("domain", "", or(m.Domain))
	line("kind", m.Proof["kind"], m.Kind)
	line("script", m.Proof["script"], or(m.Script))
	line("include", m.Proof["include"], or(m.Include))
	line("crontab", m.Proof["crontab"], or(m.Crontab))
	line("site", m.Proof["site"], or(m.Site))
	line("document root", m.Proof["document_root"], or(m.DocumentRoot))
	line("method", m.Proof["method"], or(m.Method))
	line("uri", m.Proof["uri"], or(m.URI))
	line("client", m.Proof["client"], or(m.Client))
	line("unit", m.Proof["unit"], or(m.Unit))
	line("login", m.Proof["login"], or(m.Login))
	line("container", m.Proof["container"], or(m.Container))
	line("via", m.Proof["via"], or(m.Via))
	for i, p := range m.Chain {
		name := ""
		if i == 0 {
			name = "processes"
		}
		user := fmt.Sprint("uid ", p.UID)
		if p.EUID != p.UID {
			user += fmt.Sprint(", acting as ", p.EUID)
		}
		line(name, "", fmt.Sprintf("%s (pid %d, %s)", p.Program, p.PID, user))
	}
	sender := m.Sender
	if sender == "" {
		sender = "<>"
	}
	line("sender", "claimed", sender)
	to := fmt.Sprint(m.Recipients)
	if len(m.To) > 0 {
		to += ": " + strings.Join(m.To, ", ")
	}
	if len(m.To) > 0 && len(m.To) < m.Recipients {
		to += ", …"
	}
	line("recipients", "", to)
	line("subject", "claimed", or(m.Subject))
	line("message-id", "claimed", or(m.MessageID))
	line("size", "", fmt.Sprint(m.Size, " bytes"))
}

// maxLikely is of how many mails that a row may be of people see the log.
const maxLikely = 3

// printLog writes what the mail server logged.
func printLog(w io.Writer, l *logAnswer) {
	if l.Problem != "" {
		fmt.Fprintf(w, "log: %s\n", report.Printable(l.Problem))
	}
	switch {
	case len(l.Mails) == 0:
		return
	case l.Match == trace.Likely && len(l.Mails) == 1:
		fmt.Fprintf(w, "log: %s, likely this one, by user, time and number of recipients:\n", l.Source)
	case l.Match == trace.Likely:
		fmt.Fprintf(w, "log: %s, likely one of these %d, by user, time and number of recipients, the nearest first:\n", l.Source, len(l.Mails))
	default:
		fmt.Fprintf(w, "log: %s, by %s:\n", l.Source, l.Match)
	}
	for i, m := range l.Mails {
		if l.Match == trace.Likely && i == maxLikely {
			fmt.Fprintf(w, "  … and %d more; all: --json\n", len(l.Mails)-i)
			break
		}
		for _, one := range m.Lines {
			fmt.Fprintf(w, "  %s %s %s: %s\n", time.Time(one.Time).Local().Format("2006-01-02 15:04:05"), m.QueueID, one.Program, report.Printable(one.Text))
		}
	}
}
