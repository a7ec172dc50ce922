package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sendmail-wrapper/config"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
	"sendmail-wrapper/trace"
)

// traced is one message that a trace led to. Its JSON is an interface.
type traced struct {
	Message  *report.Message `json:"message"`  // null: there is a mail in the log, or a header, and no row
	FoundBy  trace.Match     `json:"found_by"` // how the row was found
	Where    string          `json:"where"`    // in a file: where the header was; else ""
	Warnings []string        `json:"warnings"`
	Log      logAnswer       `json:"log"`
}

// logAnswer is what the mail server's log has to say.
type logAnswer struct {
	Source  string      `json:"source"`  // directory, or "the journal"; "" if none was read
	Problem string      `json:"problem"` // why there is nothing, or what of the log could not be read; "" none
	Match   trace.Match `json:"match"`   // how the mails were found; likely: one of them may be it
	Mails   []logMail   `json:"mails"`
}

// logMail is one queue file.
type logMail struct {
	QueueID string    `json:"queue_id"`
	Lines   []logLine `json:"lines"`
}

type logLine struct {
	Time    report.Time `json:"time"`
	Program string      `json:"program"`
	Text    string      `json:"text"`
}

// clue is what the command line of a trace names; one of them.
type clue struct {
	id        uuid.UUID
	messageID string
	queue     string
	headers   []trace.Header
	isFile    bool
}

// tracing is one call of trace.
type tracing struct {
	*app
	fields  []string // names of the trace header
	hosts   []string // names of this host
	logs    *trace.Logs
	answers []traced
}

func (a *app) trace() *cobra.Command {
	c := &cobra.Command{
		Use: "trace HEADER|MESSAGE-ID|QUEUE-ID|FILE", Short: "where a mail came from, and what became of it",
		Long: "trace shows who sent a mail, by what script or cron job and for which site, and the lines of Postfix's log about it.\n" +
			"It is given the mail's trace header (or its value alone), its Message-ID, the id of a queue file, or a file with the\n" +
			"mail itself or with a bounce or complaint that it is attached to; - is standard input.",
		Example: "  mailctl trace 'X-Mail-Trace: 0198f2c4-7a10-7d3c-9b52-6f1e8a0c4d21'\n  mailctl trace '<a1@shop.example>'\n" +
			"  mailctl trace 5C1A31F4E2\n  mailctl trace complaint.eml --json\n  mailctl trace - <bounce",
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault // files
		},
		RunE: func(c *cobra.Command, args []string) error { return a.runTrace(c.Context(), args[0]) },
	}
	return c
}

func (a *app) runTrace(ctx context.Context, argument string) error {
	if err := a.loadConfig(); err != nil {
		return err
	}
	t := &tracing{app: a, fields: traceFields(a.config.TraceHeader), hosts: hostNames(ctx, a.config.Host), logs: trace.NewLogs(a.logDir), answers: []traced{}}
	w, err := t.clue(argument)
	if err != nil {
		return err
	}
	if err := a.connect(ctx); err != nil {
		return err
	}
	switch {
	case w.isFile:
		err = t.byMail(ctx, w.headers)
	case w.queue != "":
		err = t.byQueue(ctx, w.queue)
	case w.messageID != "":
		err = t.byMessageID(ctx, w.messageID)
	default:
		err = t.byHeader(ctx, w.id, nil)
	}
	if err != nil {
		return err
	}
	return t.print(argument)
}

// traceFields are the names that the trace header may have: as configured now, and
// as it is if nobody configures it.
func traceFields(configured string) []string {
	fields := []string{config.Default().TraceHeader}
	if configured != "" && !strings.EqualFold(configured, fields[0]) {
		fields = append(fields, configured)
	}
	return fields
}

// clue tells what an argument is. A file comes before all that it may be else but
// a header.
func (t *tracing) clue(argument string) (w clue, err error) {
	if argument == "-" {
		return t.readMail(os.Stdin, "standard input")
	}
	value := argument
	for _, name := range t.fields {
		if len(argument) > len(name) && strings.EqualFold(argument[:len(name)], name) && argument[len(name)] == ':' {
			value = argument[len(name)+1:]
		}
	}
	if w.id, err = trace.ParseID(value); err == nil || value != argument {
		if err == nil && quota.IDTime(w.id).IsZero() {
			err = fmt.Errorf("%s is none of mailquotad's: these are of version 7", w.id)
		}
		if err != nil {
			return w, &failure{exUsage, err.Error(), "copy the header as it stands in the mail"}
		}
		return w, nil
	}
	f, err := os.OpenFile(argument, os.O_RDONLY|unix.O_NONBLOCK, 0) // a fifo is not waited for
	if err == nil {
		defer f.Close()
		if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
			return w, &failure{exUsage, argument + " is no regular file", "mailctl trace - <" + argument}
		}
		return t.readMail(f, argument)
	}
	if !errors.Is(err, fs.ErrNotExist) || strings.HasPrefix(argument, "/") || strings.HasSuffix(argument, ".eml") {
		return w, &failure{exUsage, err.Error(), ""}
	}
	id := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(argument), "<"), ">")
	switch {
	case trace.IsQueueID(argument):
		return clue{queue: argument}, nil
	case id != "" && (strings.Contains(id, "@") || id != argument) && !strings.ContainsAny(id, " \t\r\n<>"):
		return clue{messageID: "<" + id + ">"}, nil
	}
	return w, &failure{exUsage, fmt.Sprintf("%q is no trace header, Message-ID, queue id or file", argument), "mailctl trace --help"}
}

func (t *tracing) readMail(r io.Reader, name string) (w clue, err error) {
	if w.headers, err = trace.ReadMail(r, t.fields); err != nil {
		return w, &failure{exUsage, err.Error(), ""}
	}
	if len(w.headers) == 0 {
		return w, &failure{exUsage, name + " is no mail: there is no header with a Message-ID, Received or " + strings.Join(t.fields, " or "), "save the mail with all of its header, as a file"}
	}
	w.isFile = true
	return w, nil
}

// byHeader looks for a row by its id. Header is the one of a file that the id was
// in.
func (t *tracing) byHeader(ctx context.Context, id uuid.UUID, header *trace.Header) error {
	m, err := report.Find(ctx, t.pool, id)
	if err != nil {
		return err
	}
	a := traced{Message: m, FoundBy: trace.ByTrace}
	query := trace.Query{Trace: id.String()}
	since := quota.IDTime(id)
	if m == nil {
		a.FoundBy = trace.None
	}
	if header != nil {
		a.Where = header.Where
		if m != nil {
			a.Warnings = t.copied(header, m)
		}
	}
	if m != nil {
		return t.add(ctx, a, t.queueIn(header, m))
	}
	t.search(ctx, &a, query, since)
	t.answers = append(t.answers, a)
	return nil
}

// queueIn returns the id of the queue file in which this host's mail server had a
// mail, by the topmost field Received that it wrote: what a sender makes up stands
// below. "" if there is none, or it is of another user's mail.
func (t *tracing) queueIn(h *trace.Header, m *report.Message) string {
	if h == nil || m.UID == nil {
		return ""
	}
	for _, r := range h.Received {
		if r.UID != nil && t.isOurs(r.Host) && trace.IsQueueID(r.ID) {
			if *r.UID == *m.UID {
				return r.ID
			}
			return ""
		}
	}
	return ""
}

// add adds a row that was found, with what the log knows of it, where queue is
// known of that queue file.
func (t *tracing) add(ctx context.Context, a traced, queue string) error {
	m := a.Message
	switch {
	case m.Decision == "refused":
		a.Log = logAnswer{Match: trace.None, Problem: "it was refused: the mail server never had it"}
	case m.Host != t.config.Host:
		a.Log = logAnswer{Match: trace.None, Problem: "it was sent on " + m.Host + ": type the same there"}
	default:
		at := time.Time(m.Time)
		query := trace.Query{Queue: queue, Trace: m.ID.String(), UID: m.UID, At: at, Recipients: m.Recipients}
		if m.MessageID != nil {
			query.MessageID = *m.MessageID
		}
		if m.Mailbox != nil {
			query.Login = *m.Mailbox
		}
		t.search(ctx, &a, query, at)
	}
	t.answers = append(t.answers, a)
	return ctx.Err()
}

// byMail goes by all trace headers of a file; without any, by a Message-ID, or the
// queue files of this host that the mail went through.
func (t *tracing) byMail(ctx context.Context, headers []trace.Header) error {
	isTraced := false
	for i := range headers {
		for _, id := range headers[i].Traces {
			if quota.IDTime(id).IsZero() {
				continue
			}
			isTraced = true
			if err := t.byHeader(ctx, id, &headers[i]); err != nil {
				return err
			}
		}
	}
	if isTraced {
		return nil
	}
	var ids []string
	for i := range headers {
		if id := headers[i].MessageID; id != "" {
			ids = append(ids, id)
		}
	}
	messages, err := report.FindByMessageID(ctx, t.pool, ids, report.Filter{}, t.progress)
	if err != nil {
		return err
	}
	searches := 0
	for i := range headers {
		h := &headers[i]
		before := len(t.answers)
		for _, m := range messages {
			if m.MessageID != nil && *m.MessageID == h.MessageID { // its day may have been dropped meanwhile
				if err := t.add(ctx, traced{Message: m, FoundBy: trace.ByMessageID}, t.queueIn(h, m)); err != nil {
					return err
				}
			}
		}
		for _, r := range h.Received {
			if len(t.answers) > before || searches == maxSearches || !t.isOurs(r.Host) || !trace.IsQueueID(r.ID) {
				continue
			}
			searches++
			if err := t.byQueue(ctx, r.ID); err != nil {
				return err
			}
		}
		for j := range t.answers[before:] {
			a := &t.answers[before+j]
			a.Where = h.Where
			if a.Message != nil {
				a.Warnings = append(a.Warnings, t.copied(h, a.Message)...)
			}
		}
	}
	return nil
}

// maxSearches bounds how often the log is read for one file.
const maxSearches = 5

// hostNames are those that this host may have in a Received line. Postfix's is
// often another than the kernel's.
func hostNames(ctx context.Context, configured string) []string {
	names := []string{configured}
	if name, err := os.Hostname(); err == nil {
		names = append(names, name)
	}
	if out, err := exec.CommandContext(ctx, "postconf", "-h", "myhostname").Output(); err == nil {
		names = append(names, strings.TrimSpace(string(out)))
	}
	return names
}

// isOurs tells whether a name is this host's; one may be the first part of the
// other.
func (t *tracing) isOurs(name string) bool {
	nameFirst, _, nameIsWhole := strings.Cut(name, ".")
	for _, host := range t.hosts {
		first, _, isWhole := strings.Cut(host, ".")
		if host != "" && (strings.EqualFold(host, name) || isWhole != nameIsWhole && strings.EqualFold(first, nameFirst)) {
			return true
		}
	}
	return false
}

func (t *tracing) byMessageID(ctx context.Context, id string) error {
	messages, err := report.FindByMessageID(ctx, t.pool, []string{id}, report.Filter{}, t.progress)
	if err != nil {
		return err
	}
	for _, m := range messages {
		if err := t.add(ctx, traced{Message: m, FoundBy: trace.ByMessageID}, ""); err != nil {
			return err
		}
	}
	if len(messages) > 0 {
		return nil
	}
	return t.byLog(ctx, trace.Query{MessageID: id}, time.Time{})
}

func (t *tracing) byQueue(ctx context.Context, id string) error {
	return t.byLog(ctx, trace.Query{Queue: id}, trace.QueueTime(id))
}

// byLog looks for mails in the log, and from there for their rows.
func (t *tracing) byLog(ctx context.Context, query trace.Query, since time.Time) error {
	mails, l := t.readLog(ctx, query, since)
	if len(mails) == 0 {
		t.answers = append(t.answers, traced{FoundBy: trace.None, Log: l})
		return ctx.Err()
	}
	for _, mail := range mails {
		one := l
		one.Mails = shown([]*trace.Mail{mail})
		if err := t.rowsOf(ctx, mail, one); err != nil {
			return err
		}
	}
	return nil
}

// progress tells who looks at a terminal why it takes so long.
func (a *app) progress(day time.Time) {
	if f, ok := a.stderr.(*os.File); ok && !a.json {
		if st, err := f.Stat(); err == nil && st.Mode()&os.ModeCharDevice != 0 {
			fmt.Fprintf(f, "\r\x1b[Kreading %s …\r", day.Format("2006-01-02"))
		}
	}
}
