package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/quota"
)

// many are the options of a command whose OBJECT may stand for several.
type many struct {
	plan, of    string
	dryRun, yes bool
}

const manyHelp = "OBJECT may stand for several: * in its name is any characters, ? is any one. Then all is done or nothing,\n" +
	"after a question or with --yes; each object has its row in the audit. Quote it, or the shell reads * as files."

func (m *many) addTo(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&m.plan, "plan", "", "with * or ? in OBJECT: only those of this `plan`")
	flags.StringVar(&m.of, "of", "", "with * or ? in OBJECT: only those of this `subscription`")
	flags.BoolVar(&m.dryRun, "dry-run", false, "with * or ? in OBJECT: only say which they are")
	flags.BoolVar(&m.yes, "yes", false, "with * or ? in OBJECT: do not ask")
	mustBeDefined(c.RegisterFlagCompletionFunc("of", offerNamesOf(quota.Subscription)))
	if c.Long != "" {
		c.Long += "\n\n"
	} else {
		c.Long = strings.ToUpper(c.Short[:1]) + c.Short[1:] + ".\n\n"
	}
	c.Long += manyHelp
}

// check refuses the options for an object that is one.
func (m *many) check() error {
	if *m != (many{}) {
		return &failure{exUsage, "--plan, --of, --dry-run and --yes are for several objects", "'subscription:*' is all subscriptions"}
	}
	return nil
}

// changeMany does something to all that an object stands for; what says it, as in
// "messages/hour 100".
func (a *app) changeMany(ctx context.Context, o quota.Object, m *many, what string, do func(*admin.Admin, *admin.Matched) error) error {
	ad, err := a.admin(ctx)
	if err != nil {
		return err
	}
	found, err := ad.Match(ctx, admin.Pattern{Object: o, Plan: bare(quota.Plan, m.plan), Of: bare(quota.Subscription, m.of)})
	if err != nil {
		return err
	}
	const most = 20
	for i, name := range found.Names {
		if i == most {
			_ = a.done("… and %d more", len(found.Names)-most)
			break
		}
		_ = a.done("%s", quota.Object{Class: found.Class, Name: name})
	}
	objects := fmt.Sprintf("%d objects", len(found.Names))
	if len(found.Names) == 1 {
		objects = "1 object"
	}
	if m.dryRun {
		return a.manyDone(found, true, "%s would get %s", objects, what)
	}
	if err := a.confirm(m.yes, "to give "+objects+" "+what); err != nil {
		return err
	}
	if err := do(ad, found); err != nil {
		return err
	}
	return a.manyDone(found, false, "%s: %s", objects, what)
}

// changedMany is what is written of a change of several objects.
type changedMany struct {
	DryRun  bool     `json:"dry_run"`
	Objects []string `json:"objects"`
}

func (a *app) manyDone(m *admin.Matched, dryRun bool, format string, args ...any) error {
	if !a.json {
		return a.done(format, args...)
	}
	list := make([]string, len(m.Names))
	for i, name := range m.Names {
		list[i] = quota.Object{Class: m.Class, Name: name}.String()
	}
	return a.printJSON(changedMany{dryRun, list})
}
