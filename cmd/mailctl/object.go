package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
)

// bare is a name as given, or behind its class: alice or subscription:alice.
func bare(class quota.Class, name string) string {
	return strings.TrimPrefix(name, class.String()+":")
}

// classCommands are the commands of one class that are alike in all.
type classCommands[T any] struct {
	class   quota.Class
	short   string
	name    string // placeholder
	example string // a name of the class
	list    func(ad *admin.Admin, ctx context.Context, name string) ([]T, error)
	header  []string
	row     func(T) []any
}

func (k classCommands[T]) commands(a *app, special ...*cobra.Command) *cobra.Command {
	word := k.class.String()
	show := func(c *cobra.Command, name string, one bool) error {
		ad, err := a.admin(c.Context())
		if err != nil {
			return err
		}
		found, err := k.list(ad, c.Context(), name)
		if err != nil {
			return err
		}
		switch {
		case a.json && one && len(found) == 1:
			return a.printJSON(found[0])
		case a.json:
			if found == nil {
				found = []T{}
			}
			return a.printJSON(found)
		case len(found) == 0:
			fmt.Fprintf(a.stderr, "there is no %s yet: mailctl %s add --help\n", word, word)
			return nil
		}
		var rows [][]any
		for _, f := range found {
			rows = append(rows, k.row(f))
		}
		report.Table(a.stdout, k.header, rows)
		return nil
	}
	var really bool
	remove := a.changing(k.class, "removed", &cobra.Command{
		Use: "remove " + k.name, Short: "remove one; its messages stay in the reports", Example: fmt.Sprintf("  mailctl %s remove %s --yes", word, k.example),
	}, func(ctx context.Context, ad *admin.Admin, o quota.Object) error {
		if err := a.confirm(really, "to remove "+o.String()); err != nil {
			return err
		}
		return ad.Remove(ctx, o)
	})
	addYes(remove, &really)
	commands := []*cobra.Command{
		{
			Use: "list", Short: "list all", Args: cobra.NoArgs, Example: "  mailctl " + word + " list --json",
			RunE: func(c *cobra.Command, _ []string) error { return show(c, "", false) },
		},
		{
			Use: "show " + k.name, Short: "show one, with its limits", Args: cobra.ExactArgs(1), Example: fmt.Sprintf("  mailctl %s show %s", word, k.example),
			RunE: func(c *cobra.Command, args []string) error {
				o := quota.Object{Class: k.class, Name: bare(k.class, args[0])}
				if err := show(c, o.Name, true); err != nil || a.json {
					return err
				}
				fmt.Fprintln(a.stdout)
				return a.showLimits(c.Context(), o)
			},
		},
		remove,
	}
	commands = append(commands, special...)
	for _, c := range commands {
		if c.Name() != "list" && c.Name() != "show" {
			a.addWhy(c)
		}
	}
	return group(word, k.short, commands[0].Example, commands...)
}

func (a *app) addWhy(c *cobra.Command) {
	c.Flags().StringVar(&a.why, "why", "", "`reason`, kept with the change")
}

func (a *app) classes() []*cobra.Command {
	return []*cobra.Command{a.plan(), a.subscription(), a.domain(), a.mailbox(), a.user()}
}

// changing makes a command that changes the object named by its argument, and
// says so: "added plan:gold".
func (a *app) changing(class quota.Class, done string, c *cobra.Command, do func(context.Context, *admin.Admin, quota.Object) error) *cobra.Command {
	c.Args = cobra.ExactArgs(1)
	c.RunE = func(c *cobra.Command, args []string) error {
		o, err := object(class.String() + ":" + bare(class, args[0]))
		if err != nil {
			return err
		}
		if done == "changed" {
			if err := needFlag(c); err != nil {
				return err
			}
		}
		ad, err := a.admin(c.Context())
		if err != nil {
			return err
		}
		if err := do(c.Context(), ad, o); err != nil {
			return err
		}
		return a.done("%s %s", done, o)
	}
	return c
}

func (a *app) plan() *cobra.Command {
	var mode, newName string
	add := a.changing(quota.Plan, "added", &cobra.Command{
		Use: "add NAME", Short: "add a plan", Example: "  mailctl plan add gold\n  mailctl plan add internal --mode off",
	}, func(ctx context.Context, ad *admin.Admin, o quota.Object) error {
		m, err := parseMode(mode)
		if err != nil {
			return err
		}
		return ad.AddPlan(ctx, o.Name, m)
	})
	var set *cobra.Command
	set = a.changing(quota.Plan, "changed", &cobra.Command{
		Use: "set NAME", Short: "change a plan", Example: "  mailctl plan set gold --name platinum\n  mailctl plan set internal --mode inherit",
	}, func(ctx context.Context, ad *admin.Admin, o quota.Object) error {
		m, err := parseMode(mode)
		if err != nil {
			return err
		}
		return ad.SetPlan(ctx, o.Name, given(set, "name", &newName), set.Flags().Changed("mode"), m)
	})
	set.Flags().StringVar(&newName, "name", "", "new `name`")
	for _, c := range []*cobra.Command{add, set} {
		c.Flags().StringVar(&mode, "mode", "inherit", "what limits do to its mail: enforce, observe, off or inherit (`mode`)")
		offerFor(c, "mode", modeNames...)
	}
	return classCommands[admin.Plan]{
		class: quota.Plan, short: "service plans: default limits of subscriptions", name: "NAME", example: "gold",
		list:   (*admin.Admin).Plans,
		header: []string{"plan", "mode", "subscriptions"},
		row:    func(p admin.Plan) []any { return []any{p.Name, admin.ModeText(p.Mode), p.Subscriptions} },
	}.commands(a, add, set)
}

// given is the value of an option that stands on the command line, nil else.
func given[T any](c *cobra.Command, name string, value *T) *T {
	if !c.Flags().Changed(name) {
		return nil
	}
	return value
}

// givenName is given for a name of a class.
func givenName(c *cobra.Command, class quota.Class, option string, value string) *string {
	value = bare(class, value)
	return given(c, option, &value)
}

// needFlag refuses a change that changes nothing.
func needFlag(c *cobra.Command) error {
	changes := 0
	c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Changed && f.Name != "why" {
			changes++
		}
	})
	if changes == 0 {
		return &failure{exUsage, "nothing to change: give an option", c.CommandPath() + " --help"}
	}
	return nil
}

// required marks an option without which the command makes no sense.
func required(c *cobra.Command, name string) {
	mustBeDefined(c.MarkFlagRequired(name))
}

func (a *app) subscription() *cobra.Command {
	var plan, newPlan, newName, contact string
	add := a.changing(quota.Subscription, "added", &cobra.Command{
		Use: "add NAME", Short: "add a subscription", Example: "  mailctl subscription add acme --plan gold --contact post@acme.example",
	}, func(ctx context.Context, ad *admin.Admin, o quota.Object) error {
		return ad.AddSubscription(ctx, o.Name, bare(quota.Plan, plan), contact)
	})
	add.Flags().StringVar(&plan, "plan", quota.DefaultPlan, "`plan` that it is under")
	var set *cobra.Command
	set = a.changing(quota.Subscription, "changed", &cobra.Command{
		Use: "set NAME", Short: "change a subscription", Example: "  mailctl subscription set acme --plan silver\n  mailctl subscription set acme --contact office@acme.example",
	}, func(ctx context.Context, ad *admin.Admin, o quota.Object) error {
		if err := a.register(ctx, ad, o); err != nil {
			return err
		}
		return ad.SetSubscription(ctx, o.Name, given(set, "name", &newName), givenName(set, quota.Plan, "plan", newPlan), given(set, "contact", &contact))
	})
	set.Flags().StringVar(&newPlan, "plan", "", "`plan` that it comes under")
	set.Flags().StringVar(&newName, "name", "", "new `name`")
	add.Flags().StringVar(&contact, "contact", "", "`address` for notifications to the customer")
	set.Flags().StringVar(&contact, "contact", "", "`address` for notifications to the customer; empty for none")
	return classCommands[admin.Subscription]{
		class: quota.Subscription, short: "subscriptions: what a customer has", name: "NAME", example: "acme",
		list:   (*admin.Admin).Subscriptions,
		header: []string{"subscription", "plan", "mode", "contact", "users", "domains"},
		row: func(s admin.Subscription) []any {
			return []any{s.Name, s.Plan, setMode(s.Mode), s.Contact, s.Users, s.Domains}
		},
	}.commands(a, add, set)
}

func (a *app) domain() *cobra.Command {
	var subscription, root, newName string
	add := a.changing(quota.Domain, "added", &cobra.Command{
		Use: "add NAME --subscription NAME", Short: "add a domain to a subscription",
		Example: "  mailctl domain add shop.example --subscription acme\n  mailctl domain add shop.example --subscription acme --document-root /home/acme/shop",
	}, func(ctx context.Context, ad *admin.Admin, o quota.Object) error {
		owner := quota.Object{Class: quota.Subscription, Name: bare(quota.Subscription, subscription)}
		if err := a.register(ctx, ad, owner); err != nil {
			return err
		}
		return ad.AddDomain(ctx, o.Name, owner.Name, root)
	})
	add.Flags().StringVar(&subscription, "subscription", "", "`subscription` that it belongs to")
	add.Flags().StringVar(&root, "document-root", "", "`directory` whose scripts send its mail")
	mustBeDefined(add.MarkFlagDirname("document-root"))
	required(add, "subscription")
	var set *cobra.Command
	set = a.changing(quota.Domain, "changed", &cobra.Command{
		Use: "set NAME", Short: "change a domain", Example: "  mailctl domain set shop.example --document-root /home/acme/shop",
	}, func(ctx context.Context, ad *admin.Admin, o quota.Object) error {
		return ad.SetDomain(ctx, o.Name, given(set, "name", &newName), givenName(set, quota.Subscription, "subscription", subscription), given(set, "document-root", &root))
	})
	set.Flags().StringVar(&newName, "name", "", "new `name`")
	set.Flags().StringVar(&subscription, "subscription", "", "`subscription` that it comes to")
	set.Flags().StringVar(&root, "document-root", "", "`directory` whose scripts send its mail; empty for none")
	mustBeDefined(set.MarkFlagDirname("document-root"))
	return classCommands[admin.Domain]{
		class: quota.Domain, short: "domains of subscriptions", name: "NAME", example: "shop.example",
		list:   (*admin.Admin).Domains,
		header: []string{"domain", "subscription", "mode", "document root", "mailboxes"},
		row: func(d admin.Domain) []any {
			return []any{d.Name, d.Subscription, setMode(d.Mode), d.DocumentRoot, d.Mailboxes}
		},
	}.commands(a, add, set)
}

func (a *app) mailbox() *cobra.Command {
	var newName string
	add := a.changing(quota.Mailbox, "added", &cobra.Command{
		Use: "add ADDRESS", Short: "add a mailbox to the domain of its address", Example: "  mailctl mailbox add info@shop.example",
	}, func(ctx context.Context, ad *admin.Admin, o quota.Object) error { return ad.AddMailbox(ctx, o.Name) })
	set := a.changing(quota.Mailbox, "changed", &cobra.Command{
		Use: "set ADDRESS --name ADDRESS", Short: "rename a mailbox", Example: "  mailctl mailbox set info@shop.example --name office@shop.example",
	}, func(ctx context.Context, ad *admin.Admin, o quota.Object) error {
		return ad.SetMailbox(ctx, o.Name, newName)
	})
	set.Flags().StringVar(&newName, "name", "", "new `address`")
	required(set, "name")
	return classCommands[admin.Mailbox]{
		class: quota.Mailbox, short: "mailboxes: names of SMTP AUTH", name: "ADDRESS", example: "info@shop.example",
		list:   (*admin.Admin).Mailboxes,
		header: []string{"mailbox", "domain", "subscription", "mode"},
		row:    func(m admin.Mailbox) []any { return []any{m.Address, m.Domain, m.Subscription, setMode(m.Mode)} },
	}.commands(a, add, set)
}

func (a *app) user() *cobra.Command {
	var subscription string
	add := a.changing(quota.User, "added", &cobra.Command{
		Use: "add NAME", Short: "make a login of this host known, before its first mail would", Example: "  mailctl user add carol --subscription acme",
	}, func(ctx context.Context, ad *admin.Admin, o quota.Object) error {
		return ad.AddUser(ctx, o.Name, bare(quota.Subscription, subscription))
	})
	add.Flags().StringVar(&subscription, "subscription", "", "`subscription` that he belongs to; by default one of his own name")
	set := a.changing(quota.User, "changed", &cobra.Command{
		Use: "set NAME --subscription NAME", Short: "put a system user under another subscription", Example: "  mailctl user set bob --subscription acme",
	}, func(ctx context.Context, ad *admin.Admin, o quota.Object) error {
		if err := a.register(ctx, ad, o); err != nil {
			return err
		}
		return ad.SetUser(ctx, o.Name, bare(quota.Subscription, subscription))
	})
	set.Flags().StringVar(&subscription, "subscription", "", "`subscription` that he comes to")
	required(set, "subscription")
	return classCommands[admin.User]{
		class: quota.User, short: "system users that send mail", name: "NAME", example: "alice",
		list:   (*admin.Admin).Users,
		header: []string{"user", "host", "uid", "subscription", "plan", "mode"},
		row:    func(u admin.User) []any { return []any{u.Name, u.Host, u.UID, u.Subscription, u.Plan, setMode(u.Mode)} },
	}.commands(a, add, set)
}

// setMode is a mode in a list, of objects that seldom have one.
func setMode(mode *quota.Mode) *string { return (*string)(mode) }

// register makes a login of this host known before it is changed, and says so.
func (a *app) register(ctx context.Context, ad *admin.Admin, o quota.Object) error {
	registered, err := ad.Register(ctx, o)
	if registered {
		fmt.Fprintf(a.stderr, "registered system user %s\n", o.Name)
	}
	return err
}
