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
	list    func(ctx context.Context, ad *admin.Admin, name string) ([]T, error)
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
		found, err := k.list(c.Context(), ad, name)
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
		{
			Use: "remove " + k.name, Short: "remove one; its messages stay in the reports", Args: cobra.ExactArgs(1), Example: fmt.Sprintf("  mailctl %s remove %s", word, k.example),
			RunE: func(c *cobra.Command, args []string) error {
				ad, err := a.admin(c.Context())
				if err != nil {
					return err
				}
				o, err := object(word + ":" + bare(k.class, args[0]))
				if err != nil {
					return err
				}
				if err := ad.Remove(c.Context(), o); err != nil {
					return err
				}
				return a.done("removed %s", o)
			},
		},
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

func (a *app) plan() *cobra.Command {
	var exempt bool
	var newName string
	add := &cobra.Command{
		Use: "add NAME", Short: "add a plan", Args: cobra.ExactArgs(1), Example: "  mailctl plan add gold\n  mailctl plan add internal --exempt",
		RunE: func(c *cobra.Command, args []string) error {
			ad, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			name := bare(quota.Plan, args[0])
			if err := ad.AddPlan(c.Context(), name, exempt); err != nil {
				return err
			}
			return a.done("added plan:%s; its limits: mailctl limit set plan:%s messages/hour NUMBER", name, name)
		},
	}
	add.Flags().BoolVar(&exempt, "exempt", false, "count its mail, never refuse it")
	set := &cobra.Command{
		Use: "set NAME", Short: "change a plan", Args: cobra.ExactArgs(1), Example: "  mailctl plan set gold --name platinum\n  mailctl plan set internal --exempt=false",
		RunE: func(c *cobra.Command, args []string) error {
			ad, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			if err := needFlag(c); err != nil {
				return err
			}
			if err := ad.SetPlan(c.Context(), bare(quota.Plan, args[0]), given(c, "name", &newName), given(c, "exempt", &exempt)); err != nil {
				return err
			}
			return a.done("changed plan:%s", bare(quota.Plan, args[0]))
		},
	}
	set.Flags().StringVar(&newName, "name", "", "new `name`")
	set.Flags().BoolVar(&exempt, "exempt", false, "count its mail, never refuse it")
	return classCommands[admin.Plan]{
		class: quota.Plan, short: "service plans: default limits of subscriptions", name: "NAME", example: "gold",
		list: func(ctx context.Context, ad *admin.Admin, name string) ([]admin.Plan, error) {
			return ad.Plans(ctx, name)
		},
		header: []string{"plan", "exempt", "subscriptions"},
		row:    func(p admin.Plan) []any { return []any{p.Name, yes(p.Exempt), p.Subscriptions} },
	}.commands(a, add, set)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// given is the value of an option that stands on the command line, nil else.
func given[T any](c *cobra.Command, name string, value *T) *T {
	if !c.Flags().Changed(name) {
		return nil
	}
	return value
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

func (a *app) subscription() *cobra.Command {
	var plan, newName string
	add := &cobra.Command{
		Use: "add NAME", Short: "add a subscription", Args: cobra.ExactArgs(1), Example: "  mailctl subscription add acme --plan gold",
		RunE: func(c *cobra.Command, args []string) error {
			ad, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			name := bare(quota.Subscription, args[0])
			if err := ad.AddSubscription(c.Context(), name, bare(quota.Plan, plan)); err != nil {
				return err
			}
			return a.done("added subscription:%s", name)
		},
	}
	add.Flags().StringVar(&plan, "plan", quota.DefaultPlan, "`plan` that it is under")
	set := &cobra.Command{
		Use: "set NAME", Short: "change a subscription", Args: cobra.ExactArgs(1), Example: "  mailctl subscription set acme --plan silver",
		RunE: func(c *cobra.Command, args []string) error {
			ad, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			if err := needFlag(c); err != nil {
				return err
			}
			name := bare(quota.Subscription, args[0])
			if err := a.register(c.Context(), ad, quota.Object{Class: quota.Subscription, Name: name}); err != nil {
				return err
			}
			plan = bare(quota.Plan, plan)
			if err := ad.SetSubscription(c.Context(), name, given(c, "name", &newName), given(c, "plan", &plan)); err != nil {
				return err
			}
			return a.done("changed subscription:%s", name)
		},
	}
	set.Flags().StringVar(&plan, "plan", "", "`plan` that it comes under")
	set.Flags().StringVar(&newName, "name", "", "new `name`")
	return classCommands[admin.Subscription]{
		class: quota.Subscription, short: "subscriptions: what a customer has", name: "NAME", example: "acme",
		list: func(ctx context.Context, ad *admin.Admin, name string) ([]admin.Subscription, error) {
			return ad.Subscriptions(ctx, name)
		},
		header: []string{"subscription", "plan", "users", "domains"},
		row:    func(s admin.Subscription) []any { return []any{s.Name, s.Plan, s.Users, s.Domains} },
	}.commands(a, add, set)
}

func (a *app) domain() *cobra.Command {
	var subscription, root, newName string
	add := &cobra.Command{
		Use: "add NAME --subscription NAME", Short: "add a domain to a subscription", Args: cobra.ExactArgs(1),
		Example: "  mailctl domain add shop.example --subscription acme\n  mailctl domain add shop.example --subscription acme --document-root /home/acme/shop",
		RunE: func(c *cobra.Command, args []string) error {
			ad, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			name, owner := bare(quota.Domain, args[0]), bare(quota.Subscription, subscription)
			if err := a.register(c.Context(), ad, quota.Object{Class: quota.Subscription, Name: owner}); err != nil {
				return err
			}
			if err := ad.AddDomain(c.Context(), name, owner, root); err != nil {
				return err
			}
			return a.done("added domain:%s", strings.ToLower(name))
		},
	}
	add.Flags().StringVar(&subscription, "subscription", "", "`subscription` that it belongs to")
	add.Flags().StringVar(&root, "document-root", "", "`directory` whose scripts send its mail")
	if err := add.MarkFlagRequired("subscription"); err != nil {
		panic(err) // the flag is defined above
	}
	set := &cobra.Command{
		Use: "set NAME", Short: "change a domain", Args: cobra.ExactArgs(1), Example: "  mailctl domain set shop.example --document-root /home/acme/shop",
		RunE: func(c *cobra.Command, args []string) error {
			ad, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			if err := needFlag(c); err != nil {
				return err
			}
			name := bare(quota.Domain, args[0])
			subscription = bare(quota.Subscription, subscription)
			if err := ad.SetDomain(c.Context(), name, given(c, "name", &newName), given(c, "subscription", &subscription), given(c, "document-root", &root)); err != nil {
				return err
			}
			return a.done("changed domain:%s", strings.ToLower(name))
		},
	}
	set.Flags().StringVar(&newName, "name", "", "new `name`")
	set.Flags().StringVar(&subscription, "subscription", "", "`subscription` that it comes to")
	set.Flags().StringVar(&root, "document-root", "", "`directory` whose scripts send its mail; empty for none")
	return classCommands[admin.Domain]{
		class: quota.Domain, short: "domains of subscriptions", name: "NAME", example: "shop.example",
		list: func(ctx context.Context, ad *admin.Admin, name string) ([]admin.Domain, error) {
			return ad.Domains(ctx, name)
		},
		header: []string{"domain", "subscription", "document root", "mailboxes"},
		row:    func(d admin.Domain) []any { return []any{d.Name, d.Subscription, d.DocumentRoot, d.Mailboxes} },
	}.commands(a, add, set)
}

func (a *app) mailbox() *cobra.Command {
	var newName string
	add := &cobra.Command{
		Use: "add ADDRESS", Short: "add a mailbox to the domain of its address", Args: cobra.ExactArgs(1), Example: "  mailctl mailbox add info@shop.example",
		RunE: func(c *cobra.Command, args []string) error {
			ad, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			address := bare(quota.Mailbox, args[0])
			if err := ad.AddMailbox(c.Context(), address); err != nil {
				return err
			}
			return a.done("added mailbox:%s", strings.ToLower(address))
		},
	}
	set := &cobra.Command{
		Use: "set ADDRESS --name ADDRESS", Short: "rename a mailbox", Args: cobra.ExactArgs(1), Example: "  mailctl mailbox set info@shop.example --name office@shop.example",
		RunE: func(c *cobra.Command, args []string) error {
			ad, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			address := bare(quota.Mailbox, args[0])
			if err := ad.SetMailbox(c.Context(), address, newName); err != nil {
				return err
			}
			return a.done("changed mailbox:%s", strings.ToLower(address))
		},
	}
	set.Flags().StringVar(&newName, "name", "", "new `address`")
	if err := set.MarkFlagRequired("name"); err != nil {
		panic(err) // the flag is defined above
	}
	return classCommands[admin.Mailbox]{
		class: quota.Mailbox, short: "mailboxes: names of SMTP AUTH", name: "ADDRESS", example: "info@shop.example",
		list: func(ctx context.Context, ad *admin.Admin, name string) ([]admin.Mailbox, error) {
			return ad.Mailboxes(ctx, name)
		},
		header: []string{"mailbox", "domain", "subscription"},
		row:    func(m admin.Mailbox) []any { return []any{m.Address, m.Domain, m.Subscription} },
	}.commands(a, add, set)
}

func (a *app) user() *cobra.Command {
	var subscription string
	add := &cobra.Command{
		Use: "add NAME", Short: "make a login of this host known, before its first mail would", Args: cobra.ExactArgs(1), Example: "  mailctl user add carol --subscription acme",
		RunE: func(c *cobra.Command, args []string) error {
			ad, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			name := bare(quota.User, args[0])
			if err := ad.AddUser(c.Context(), name, bare(quota.Subscription, subscription)); err != nil {
				return err
			}
			return a.done("added user:%s", name)
		},
	}
	add.Flags().StringVar(&subscription, "subscription", "", "`subscription` that he belongs to; by default one of his own name")
	set := &cobra.Command{
		Use: "set NAME --subscription NAME", Short: "put a system user under another subscription", Args: cobra.ExactArgs(1), Example: "  mailctl user set bob --subscription acme",
		RunE: func(c *cobra.Command, args []string) error {
			ad, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			name := bare(quota.User, args[0])
			if err := a.register(c.Context(), ad, quota.Object{Class: quota.User, Name: name}); err != nil {
				return err
			}
			if err := ad.SetUser(c.Context(), name, bare(quota.Subscription, subscription)); err != nil {
				return err
			}
			return a.done("changed user:%s", name)
		},
	}
	set.Flags().StringVar(&subscription, "subscription", "", "`subscription` that he comes to")
	if err := set.MarkFlagRequired("subscription"); err != nil {
		panic(err) // the flag is defined above
	}
	return classCommands[admin.User]{
		class: quota.User, short: "system users that send mail", name: "NAME", example: "alice",
		list: func(ctx context.Context, ad *admin.Admin, name string) ([]admin.User, error) {
			return ad.Users(ctx, name)
		},
		header: []string{"user", "host", "uid", "subscription", "plan"},
		row:    func(u admin.User) []any { return []any{u.Name, u.Host, u.UID, u.Subscription, u.Plan} },
	}.commands(a, add, set)
}

// register makes a login of this host known before it is changed, and says so.
func (a *app) register(ctx context.Context, ad *admin.Admin, o quota.Object) error {
	registered, err := ad.Register(ctx, o)
	if registered {
		fmt.Fprintf(a.stderr, "registered system user %s\n", o.Name)
	}
	return err
}
