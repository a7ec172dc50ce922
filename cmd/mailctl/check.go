package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
)

// maxCount bounds mailctl check --count.
const maxCount = 100_000

// tried is the message that mailctl check is about.
type tried struct {
	user, script, site, mailbox, client, sender string
	recipients, count                           int
}

func (a *app) check() *cobra.Command {
	var t tried
	c := &cobra.Command{
		Use: "check (--user NAME | --mailbox ADDRESS)", Short: "what would become of a message, without sending it",
		Long: "check says whether a message would pass now, and if not, the line that its sender would get; whom it would be charged to, by\n" +
			"which mode, and which exceptions matter; of --sender, whether it is its own. Nothing is sent, counted or recorded. Script and\n" +
			"site are taken for proved.\n" +
			"Exit status: 0 it passes, 1 it would be refused.",
		Example: "  mailctl check --user alice\n  mailctl check --user alice --script /home/alice/www/form.php --recipients 50\n" +
			"  mailctl check --user alice --count 200\n  mailctl check --mailbox info@shop.example --client 192.0.2.7\n" +
			"  mailctl check --mailbox info@shop.example --sender sales@shop.example",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.runCheck(c.Context(), &t) },
	}
	f := c.Flags()
	f.StringVar(&t.user, "user", "", "sent by the programs of this login `name` of this host")
	f.StringVar(&t.script, "script", "", "sent by the script with this `path`")
	f.StringVar(&t.site, "site", "", "sent for this FPM pool or virtual host, by `name`")
	f.StringVar(&t.mailbox, "mailbox", "", "sent with SMTP AUTH as this `address`")
	f.StringVar(&t.client, "client", "", "from the client with this `address`")
	f.StringVar(&t.sender, "sender", "", "with this envelope sender, an `address`")
	f.IntVar(&t.recipients, "recipients", 1, "to this `number` of recipients")
	f.IntVar(&t.count, "count", 1, "this `number` of such messages, one after the other")
	c.MarkFlagsMutuallyExclusive("user", "mailbox")
	c.MarkFlagsOneRequired("user", "mailbox")
	c.MarkFlagsMutuallyExclusive("mailbox", "script")
	c.MarkFlagsMutuallyExclusive("mailbox", "site")
	return c
}

func (a *app) runCheck(ctx context.Context, t *tried) error {
	switch {
	case t.recipients < 1 || t.recipients > 1_000_000:
		return &failure{exUsage, fmt.Sprintf("--recipients %d: must be 1 to 1000000", t.recipients), ""}
	case t.count < 1 || t.count > maxCount:
		return &failure{exUsage, fmt.Sprintf("--count %d: must be 1 to %d", t.count, maxCount), ""}
	case t.script != "" && !strings.HasPrefix(t.script, "/"):
		return &failure{exUsage, fmt.Sprintf("--script %s: must be a path that begins with /", t.script), ""}
	case t.user+t.mailbox == "":
		return &failure{exUsage, "the name of a user or mailbox is empty", "mailctl check --help"}
	}
	m := quota.Message{ID: uuid.Must(uuid.NewV7()), Mailbox: t.mailbox, Sender: t.sender, Recipients: t.recipients}
	if t.client != "" {
		var err error
		if m.Client, err = netip.ParseAddr(t.client); err != nil {
			return &failure{exUsage, fmt.Sprintf("--client %s: is no address", t.client), ""}
		}
	}
	if err := a.connect(ctx); err != nil {
		return err
	}
	m.SenderCheck = quota.ParseSenderCheck(a.config.SenderCheck)
	a.store.SetHostNames(a.config.HostNames()...)
	if t.mailbox == "" {
		uid, err := a.uidOf(ctx, t.user)
		if err != nil {
			return err
		}
		m.Origin = origin.Origin{UID: uid, User: t.user, Kind: origin.Shell, KindProof: origin.Kernel}
		if t.script != "" {
			m.Origin.Script = origin.Fact{Value: t.script, Proof: origin.System}
		}
		if t.site != "" {
			m.Origin.Site = origin.Fact{Value: t.site, Proof: origin.System}
		}
	} else if _, err := a.store.Find(ctx, quota.Object{Class: quota.Mailbox, Name: strings.ToLower(t.mailbox)}); err != nil {
		return err
	}
	v, err := a.store.CheckSeries(ctx, m, t.count)
	if err != nil {
		return err
	}
	return a.printCheck(t, &v)
}

// uidOf is the uid of a login of this host: as its database of users says, else as
// it was when he last sent.
func (a *app) uidOf(ctx context.Context, name string) (uint32, error) {
	if u, err := user.Lookup(name); err == nil {
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		return uint32(uid), err
	}
	var uid uint32
	err := a.pool.QueryRow(ctx, `SELECT u.uid FROM system_user u JOIN host h ON h.id = u.host_id
 WHERE h.name = $1 AND u.name = $2 AND u.removed_at IS NULL ORDER BY u.id DESC LIMIT 1`, a.config.Host, name).Scan(&uid)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, &quota.NotFoundError{Object: quota.Object{Class: quota.User, Name: name}}
	}
	return uid, err
}

// checked is the body of check --json.
type checked struct {
	Verdict    string          `json:"verdict"`    // passes, refused; observed: passes by mode observe, else refused
	Passed     int             `json:"passed"`     // of count
	Count      int             `json:"count"`      // as asked for
	RefusedBy  *string         `json:"refused_by"` // null: passes
	Text       *string         `json:"text"`       // the line that the caller would get; null: passes
	Exit       uint8           `json:"exit"`       // status of sendmail for it
	Reply      *string         `json:"reply"`      // how SMTP says it
	FreeAt     *time.Time      `json:"free_at"`    // when it would pass, if nothing else is sent; null: now, or never
	Mode       string          `json:"mode"`
	Accounts   []string        `json:"accounts"` // nearest first
	Exceptions []usedException `json:"exceptions"`
	OwnSender  bool            `json:"own_sender"`  // true also without --sender: the null sender is anybody's
	SenderHint *string         `json:"sender_hint"` // which senders are its own; null: this one is
}

// usedException is an exception that mattered.
type usedException struct {
	ID    int64      `json:"id"`
	Kind  string     `json:"kind"`
	Limit string     `json:"limit,omitempty"`
	Value *int64     `json:"value,omitempty"`
	Until *time.Time `json:"until"`
}

func checkedOf(t *tried, v *quota.Verdict) checked {
	c := checked{Verdict: "passes", Passed: v.Passed, Count: t.count, Mode: string(v.Mode), OwnSender: v.Foreign == "", Accounts: []string{}, Exceptions: []usedException{}}
	if v.Foreign != "" {
		c.SenderHint = &v.Foreign
	}
	for _, o := range v.Accounts {
		c.Accounts = append(c.Accounts, o.String())
	}
	for _, e := range v.Exceptions {
		u := usedException{ID: e.ID, Kind: string(e.Kind)}
		if e.Kind == quota.Raise {
			u.Limit, u.Value = e.Limit.String(), &e.Value
		}
		if !e.Until.IsZero() {
			u.Until = &e.Until
		}
		c.Exceptions = append(c.Exceptions, u)
	}
	r := v.Decision.Refusal
	switch {
	case r != nil:
		c.Verdict, c.Exit = "refused", r.Exit(false)
	case v.Decision.Observed != nil:
		c.Verdict, r = "observed", v.Decision.Observed
	default:
		return c
	}
	by, text, reply := r.By(), r.Text(), r.Code()
	c.RefusedBy, c.Text, c.Reply = &by, &text, &reply
	if !r.FreeAt.IsZero() {
		free := r.FreeAt.UTC()
		c.FreeAt = &free
	}
	return c
}

func (a *app) printCheck(t *tried, v *quota.Verdict) error {
	c := checkedOf(t, v)
	var err error
	if c.Verdict == "refused" {
		err = &failure{exWrong, "", ""} // the answer has said it all
	}
	if a.json {
		return errors.Join(a.printJSON(c), err)
	}
	fmt.Fprintln(a.stdout, report.Printable(c.sentence()))
	fmt.Fprintf(a.stdout, "\nmode: %s\ncharged to: %s\n", c.Mode, report.Printable(strings.Join(c.Accounts, ", ")))
	a.printSender(t, &c)
	for _, e := range c.Exceptions {
		what := e.Kind
		if e.Value != nil {
			what += fmt.Sprintf(" of %s to %s", e.Limit, number(e.Value))
		}
		if e.Until != nil {
			what += " until " + e.Until.UTC().Format("2006-01-02 15:04 UTC")
		}
		fmt.Fprintf(a.stdout, "exception %d: %s\n", e.ID, what)
	}
	return err
}

// sentence is the answer in one line.
func (c *checked) sentence() string {
	which := ""
	if c.Count > 1 {
		which = fmt.Sprintf(" (message %d of %d)", c.Passed+1, c.Count)
	}
	switch c.Verdict {
	case "refused":
		return fmt.Sprintf("would be refused%s: %s", which, *c.Text)
	case "observed":
		if c.Count > 1 {
			which = fmt.Sprintf(" (message %d of %d)", c.Passed, c.Count)
		}
		if c.SenderHint != nil && *c.Text == *c.SenderHint {
			return fmt.Sprintf("would pass, and be recorded%s: %s", which, *c.Text)
		}
		return fmt.Sprintf("would pass by mode observe, which would record%s: %s", which, *c.Text)
	}
	if c.Count > 1 {
		return fmt.Sprintf("all %d would pass", c.Count)
	}
	return "would pass"
}
