package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
)

func (a *app) sender() *cobra.Command {
	add := a.changeSender("add", "sender ", "let an object use an envelope sender that is not its own",
		"Mail of the object, and of all that belongs to it, may have ADDRESS as its envelope sender, or with @DOMAIN any in that\n"+
			"domain. Its own are a mailbox's address, also with +EXTENSION; for the programs of a user, all in the domains of his\n"+
			"subscription, and his login name on this host. It matters where sender-check in mailquotad.conf is report or refuse.",
		"  mailctl sender add mailbox:info@shop.example sales@shop.example\n"+
			"  mailctl sender add subscription:acme @acme.example --why 'domain is at another host'\n"+
			"  mailctl sender add 'mailbox:*' noreply@acme.example --of acme",
		func(ctx context.Context, ad *admin.Admin, o quota.Object, address string) error {
			added, err := ad.AddSender(ctx, o, address)
			if err != nil {
				return err
			}
			if !added {
				return a.done("%s may use %s already", o, senderText(address))
			}
			return a.done("%s may use %s", o, senderText(address))
		},
		(*admin.Admin).AddSenders)
	remove := a.changeSender("remove", "no sender ", "have it use its own again", "",
		"  mailctl sender remove mailbox:info@shop.example sales@shop.example",
		func(ctx context.Context, ad *admin.Admin, o quota.Object, address string) error {
			err := ad.RemoveSender(ctx, o, address)
			if err == nil {
				return a.done("removed: %s of %s", address, o)
			}
			if hint := a.nearSender(ctx, ad, o, address); hint != "" && errors.As(err, new(*admin.Error)) {
				return &failure{exRefused, err.Error(), hint}
			}
			return err
		},
		(*admin.Admin).RemoveSenders)
	remove.ValidArgsFunction = offerInTurn(offerObjects(classesBelow), offerSenders)
	list := &cobra.Command{
		Use: "list [OBJECT]", Short: "list the senders that were added", Args: cobra.MaximumNArgs(1),
		Example:           "  mailctl sender list\n  mailctl sender list mailbox:info@shop.example --json",
		ValidArgsFunction: offerInTurn(offerObjects(classesBelow)),
		RunE: func(c *cobra.Command, args []string) error {
			var of *quota.Object
			if len(args) == 1 {
				o, err := object(args[0])
				if err != nil {
					return err
				}
				of = &o
			}
			ad, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			list, err := ad.Senders(c.Context(), of)
			if err != nil {
				return err
			}
			return a.showSenders(list)
		},
	}
	return group("sender", "who may send as whom", add.Example, add, remove, list)
}

// changeSender makes a command about a sender of one object, or of many, which get
// what stands before the address.
func (a *app) changeSender(word, get, short, long, example string, one func(context.Context, *admin.Admin, quota.Object, string) error,
	all func(*admin.Admin, context.Context, *admin.Matched, string) error) *cobra.Command {
	var several many
	c := &cobra.Command{
		Use: word + " OBJECT ADDRESS|@DOMAIN", Short: short, Long: long, Example: example, Args: cobra.ExactArgs(2),
		ValidArgsFunction: offerInTurn(offerObjects(classesBelow)),
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		o, err := object(args[0])
		if err != nil {
			return err
		}
		address, err := admin.ParseSender(args[1])
		var wrong *admin.Error
		if errors.As(err, &wrong) {
			return &failure{exUsage, wrong.Text, wrong.Hint}
		}
		if admin.IsPattern(o) {
			return a.changeMany(c.Context(), o, &several, get+address, func(ad *admin.Admin, m *admin.Matched) error {
				return all(ad, c.Context(), m, address)
			})
		}
		if err := several.check(); err != nil {
			return err
		}
		ad, err := a.adminOf(c, o)
		if err != nil {
			return err
		}
		return one(c.Context(), ad, o, address)
	}
	several.addTo(c)
	a.addWhy(c)
	return c
}

// senderText is a sender for people.
func senderText(address string) string {
	if domain, all := strings.CutPrefix(address, "@"); all {
		return "any sender of " + domain
	}
	return "the sender " + address
}

// nearSender is the hint for who named a sender that the object does not have.
func (a *app) nearSender(ctx context.Context, ad *admin.Admin, o quota.Object, address string) string {
	list, err := ad.Senders(ctx, &o)
	if err != nil {
		return ""
	}
	var words []string
	for _, s := range list {
		words = append(words, s.Address)
	}
	return meant(address, words)
}

// offerSenders offers the senders that the object on the line has.
func offerSenders(c *cobra.Command, args []string, begin string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	o, err := quota.ParseObject(args[0])
	if err != nil || os.Geteuid() != 0 {
		return nil, directive
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	a := &app{configPath: c.Root().PersistentFlags().Lookup("config").Value.String()}
	defer a.close()
	ad, err := a.admin(ctx)
	if err != nil {
		return nil, directive
	}
	list, err := ad.Senders(ctx, &o)
	if err != nil {
		return nil, directive
	}
	var words []cobra.Completion
	for _, s := range list {
		if strings.HasPrefix(s.Address, begin) && plain(s.Address) {
			words = append(words, s.Address)
		}
	}
	return words, directive
}

func (a *app) showSenders(list []admin.Sender) error {
	if a.json {
		if list == nil {
			list = []admin.Sender{}
		}
		return a.printJSON(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(a.stderr, "there is none: each may use its own")
		return nil
	}
	var rows [][]any
	for _, s := range list {
		rows = append(rows, []any{s.Object, s.Address, &s.Made})
	}
	report.Table(a.stdout, []string{"object", "sender", "since"}, rows)
	return nil
}

// printSender says whose the sender of mailctl check is.
func (a *app) printSender(t *tried, c *checked) {
	if t.sender == "" {
		return
	}
	own := "its own"
	if !c.OwnSender {
		own = fmt.Sprintf("not its own (sender-check = %q): mailctl sender add %s ADDRESS", a.config.SenderCheck, c.Accounts[0])
	}
	fmt.Fprintf(a.stdout, "sender: %s\n", report.Printable(own))
}

// printSenders shows which senders an object may use besides its own.
func (a *app) printSenders(list []report.Sender) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(a.stdout)
	var rows [][]any
	for _, s := range list {
		rows = append(rows, []any{s.Address, s.SetOn, s.Since})
	}
	report.Table(a.stdout, []string{"also sends as", "set on", "since"}, rows)
}
