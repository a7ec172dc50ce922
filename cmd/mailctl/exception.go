package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
)

func (a *app) exception() *cobra.Command {
	raise, grant, reset, remove := a.raise(), a.grant(), a.reset(), a.removeException()
	for _, c := range []*cobra.Command{raise, grant, reset, remove} {
		a.addWhy(c)
	}
	return group("exception", "raise a limit for a time, allow once, begin anew", raise.Example+"\n"+grant.Example,
		raise, grant, reset, a.exceptionList("exception", ""), remove)
}

func (a *app) raise() *cobra.Command {
	var end ending
	c := &cobra.Command{
		Use: "raise OBJECT LIMIT NUMBER|+NUMBER|unlimited", Short: "give a limit another value for a time", Args: cobra.ExactArgs(3),
		Long: "raise gives a limit of an object another value until a time; +NUMBER is so much more than is in force now.\n" +
			"One that holds for the limit is changed. --for or --until must be given.",
		ValidArgsFunction: offerInTurn(offerObjects(charged), offerLimits(), offer("unlimited")),
		Example:           "  mailctl exception raise subscription:acme messages/hour +500 --until 18:00 --why newsletter\n  mailctl exception raise user:bob recipients/day unlimited --for 2h",
	}
	end.add(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		o, err := object(args[0])
		if err != nil {
			return err
		}
		l, err := quota.ParseLimit(args[1])
		if err != nil {
			return wrong(err, args[1], limitNames())
		}
		text, more := strings.CutPrefix(args[2], "+")
		value, err := admin.ParseValue(text)
		if err != nil {
			return err
		}
		if more && value == quota.Unlimited {
			return &failure{exUsage, fmt.Sprintf("%q is no limit: write +NUMBER or unlimited", args[2]), ""}
		}
		now := time.Now()
		until, err := end.parse(c, now)
		if err != nil {
			return err
		}
		if until.IsZero() {
			return &failure{exUsage, "a raise must have an end: give --for or --until", "for good: mailctl limit set " + o.String() + " " + l.String() + " NUMBER"}
		}
		ad, err := a.adminOf(c, o)
		if err != nil {
			return err
		}
		if more {
			if value, err = ad.RaisedBy(c.Context(), o, l, value); err != nil {
				return err
			}
		}
		before, err := ad.Raise(c.Context(), o, l, value, until)
		if err != nil {
			return err
		}
		text = fmt.Sprintf("%s %s: %s until %s", o, l, number(&value), untilText(&until, now))
		if before != "" {
			text += "; was raised already: " + before
		}
		return a.done("%s", text)
	}
	return c
}

// adminOf is admin for a change of an object, which may be a login that has sent
// nothing yet.
func (a *app) adminOf(c *cobra.Command, o quota.Object) (*admin.Admin, error) {
	ad, err := a.admin(c.Context())
	if err != nil {
		return nil, err
	}
	return ad, a.register(c.Context(), ad, o)
}

func (a *app) grant() *cobra.Command {
	var end ending
	c := &cobra.Command{
		Use: "grant OBJECT NUMBER [messages|recipients]", Short: "allow so much beyond the limits, once", Args: cobra.RangeArgs(2, 3),
		Long:              "grant lets an object send so many messages, or recipients, that its limits would refuse. It takes the place of one that\nthe object has, and ends after 24 hours, unless --for or --until says otherwise. What is above the object refuses all\nthe same where it is full. mailctl why shows what is left.",
		ValidArgsFunction: offerInTurn(offerObjects(charged), offer(), offer("messages", "recipients")),
		Example:           "  mailctl exception grant subscription:acme 500 messages --for 4h\n  mailctl exception grant user:bob 2000 recipients",
	}
	end.add(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		o, err := object(args[0])
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil || n < 1 || n > quota.MaxGrant {
			return &failure{exUsage, fmt.Sprintf("%.60q is no allowance: write a number from 1 to %d", args[1], quota.MaxGrant), ""}
		}
		now := time.Now()
		until, err := end.parse(c, now)
		if err != nil {
			return err
		}
		if until.IsZero() {
			until = now.Add(24 * time.Hour)
		}
		g := quota.Grant{Messages: n, Until: until}
		if len(args) == 3 && args[2] == "recipients" {
			g = quota.Grant{Recipients: n, Until: until}
		} else if len(args) == 3 && args[2] != "messages" {
			return &failure{exUsage, fmt.Sprintf("%.60q is not counted: write messages or recipients", args[2]), meant(args[2], []string{"messages", "recipients"})}
		}
		ad, err := a.adminOf(c, o)
		if err != nil {
			return err
		}
		if err := ad.Grant(c.Context(), o, g); err != nil {
			return err
		}
		return a.done("%s may send beyond its limits: %s", o, g)
	}
	return c
}

func (a *app) reset() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "reset OBJECT", Short: "let the limits of an object begin anew", Args: cobra.ExactArgs(1),
		ValidArgsFunction: offerInTurn(offerObjects(charged)),
		Example:           "  mailctl exception reset subscription:bob --yes --why 'site is clean again'",
	}
	addYes(c, &yes)
	c.RunE = func(c *cobra.Command, args []string) error {
		o, err := object(args[0])
		if err != nil {
			return err
		}
		if err := a.confirm(yes, "to let the counters of "+o.String()+" begin anew"); err != nil {
			return err
		}
		ad, err := a.admin(c.Context())
		if err != nil {
			return err
		}
		before, err := ad.Reset(c.Context(), o)
		if err != nil {
			return err
		}
		return a.done("%s begins anew (was %s)", o, before)
	}
	return c
}

func (a *app) removeException() *cobra.Command {
	return &cobra.Command{
		Use: "remove ID", Short: "end an exception, whatever its kind", Args: cobra.ExactArgs(1), Example: "  mailctl exception remove 17",
		RunE: func(c *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || id < 1 {
				return &failure{exUsage, fmt.Sprintf("%.60q is no id of an exception", args[0]), "mailctl exception list"}
			}
			ad, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			e, err := ad.RemoveException(c.Context(), id)
			if err != nil {
				return err
			}
			return a.done("removed: %s of %s", e.Kind, e.Subject)
		},
	}
}

// subjects makes the commands of blocks, or of the white list.
func (a *app) subjects(name string, kind quota.ExceptionKind, short, addShort, removeShort, example string) *cobra.Command {
	var end ending
	var yes bool
	offered := offerTargets(kind)
	add := &cobra.Command{Use: "add TARGET", Short: addShort, Args: cobra.ExactArgs(1), ValidArgsFunction: offerInTurn(offered), Example: example,
		Long: "TARGET is user:NAME, mailbox:ADDRESS, domain:NAME, subscription:NAME, script:PATH (with / at its end: all below it),\ncrontab:TEXT (part of a line)"}
	if kind == quota.Whitelist {
		add.Long += " or network:CIDR (of the SMTP or web client).\nMail is counted all the same. A script or crontab line counts only where it is proved."
		add.Flags().BoolVar(&yes, "yes", false, "also network:0.0.0.0/0 or ::/0, which is everybody")
	} else {
		add.Long += ". It holds in any mode."
	}
	end.add(add)
	add.RunE = func(c *cobra.Command, args []string) error {
		s, err := admin.ParseSubject(args[0], kind)
		if err != nil {
			return &failure{exUsage, err.Error(), ""}
		}
		if s.Network.IsValid() && s.Network.Bits() == 0 && !yes {
			return &failure{exUsage, args[0] + " is everybody", "the same with --yes does it"}
		}
		now := time.Now()
		until, err := end.parse(c, now)
		if err != nil {
			return err
		}
		ad, err := a.adminOf(c, s.Object)
		if err != nil {
			return err
		}
		before, err := ad.AddException(c.Context(), kind, s, until)
		if err != nil {
			return err
		}
		if s.Network.IsValid() && s.String() != args[0] {
			fmt.Fprintln(a.stderr, asLine("taken as "+s.String()))
		}
		if kind == quota.Whitelist {
			fmt.Fprintln(a.stderr, a.warning("no limit stops "+s.String()+" any more; it is counted all the same"))
			switch {
			case s.Script != "":
				fmt.Fprintln(a.stderr, "only mail whose script is proved counts: mailctl setup fpm")
			case s.Crontab != "":
				fmt.Fprintln(a.stderr, "only mail whose crontab line is proved counts")
			}
		}
		what := map[quota.ExceptionKind]string{quota.Block: "blocked", quota.Whitelist: "in the white list"}[kind]
		if before != "" {
			return a.done("%s was %s already (%s); now until %s", s, what, before, untilText(&until, now))
		}
		return a.done("%s is %s until %s", s, what, untilText(&until, now))
	}
	remove := &cobra.Command{Use: "remove TARGET", Short: removeShort, Args: cobra.ExactArgs(1), ValidArgsFunction: offerInTurn(offered),
		Example: strings.Replace(strings.Split(example, " --")[0], " add ", " remove ", 1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := admin.ParseSubject(args[0], kind)
			if err != nil {
				return &failure{exUsage, err.Error(), ""}
			}
			ad, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			if err := ad.RemoveSubject(c.Context(), kind, s); err != nil {
				return err
			}
			return a.done("removed: %s of %s", kind, s)
		}}
	a.addWhy(add)
	a.addWhy(remove)
	return group(name, short, example, add, remove, a.exceptionList(name, kind))
}

func (a *app) block() *cobra.Command {
	return a.subjects("block", quota.Block, "refuse all mail of somebody or something", "refuse all its mail", "let it send again",
		"  mailctl block add user:bob --for 2h --why 'sends spam'\n  mailctl block add script:/home/bob/www/x.php")
}

func (a *app) whitelist() *cobra.Command {
	return a.subjects("whitelist", quota.Whitelist, "what no limit refuses", "let all its mail through, counted", "have its limits hold again",
		"  mailctl whitelist add network:192.0.2.0/24 --why 'our own servers'\n  mailctl whitelist add user:alice --until 18:00")
}

func (a *app) exceptionList(name string, kind quota.ExceptionKind) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "list", Short: "list those that hold", Args: cobra.NoArgs, Example: "  mailctl " + name + " list --all",
		Long: "list shows those that hold, each with its id for mailctl exception remove.",
		RunE: func(c *cobra.Command, _ []string) error {
			ad, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			list, err := ad.Exceptions(c.Context(), kind, all)
			if err != nil {
				return err
			}
			return a.showExceptions(list, time.Now())
		},
	}
	if kind == "" {
		c.Long = "list shows raises, blocks and the white list. What is left of a grant is with its object: mailctl why OBJECT."
	}
	c.Flags().BoolVar(&all, "all", false, "also those that have ended")
	return c
}

func (a *app) showExceptions(list []admin.Exception, now time.Time) error {
	if a.json {
		if list == nil {
			list = []admin.Exception{}
		}
		return a.printJSON(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(a.stderr, "there is none")
		return nil
	}
	var rows [][]any
	for _, e := range list {
		what, subject := "", e.Subject
		if e.Limit != nil {
			what = *e.Limit + " → " + number(e.Value)
		}
		if e.Removed {
			subject += " (removed)"
		}
		rows = append(rows, []any{e.ID, string(e.Kind), subject, what, untilText(e.Until, now), e.By, e.Why})
	}
	report.Table(a.stdout, []string{"id", "kind", "subject", "limit", "until", "by", "why"}, rows)
	return nil
}
