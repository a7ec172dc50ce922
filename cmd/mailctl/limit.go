package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
)

func (a *app) limit() *cobra.Command {
	const forHelp = "on the server or a plan: the `class` whose default it is (subscription, domain, mailbox, user)"
	var forClass string
	var several many
	set := &cobra.Command{
		Use: "set OBJECT LIMIT NUMBER|unlimited", Short: "set a limit; it holds from the next message on", Args: cobra.ExactArgs(3),
		ValidArgsFunction: offerInTurn(offerObjects(limitable), offerLimits(), offer("unlimited")),
		Example: "  mailctl limit set subscription:acme messages/hour 500\n" +
			"  mailctl limit set plan:gold messages/hour 200              each subscription of the plan\n" +
			"  mailctl limit set server messages/hour 50 --for mailbox    each mailbox, unless its plan says otherwise\n" +
			"  mailctl limit set 'domain:*' messages/hour 100 --plan gold    each domain there is under the plan\n" +
			"  mailctl limit set user:bob messages/hour 0 --why 'sends spam'",
		RunE: func(c *cobra.Command, args []string) error {
			value, err := admin.ParseValue(args[2])
			if err != nil {
				return err
			}
			return a.setLimit(c.Context(), args[0], args[1], forClass, &value, &several)
		},
	}
	unset := &cobra.Command{
		Use: "unset OBJECT LIMIT", Short: "take a limit away, so that it is inherited again", Args: cobra.ExactArgs(2),
		ValidArgsFunction: offerInTurn(offerObjects(limitable), offerLimits()),
		Example:           "  mailctl limit unset subscription:acme messages/hour",
		RunE: func(c *cobra.Command, args []string) error {
			return a.setLimit(c.Context(), args[0], args[1], forClass, nil, &several)
		},
	}
	for _, c := range []*cobra.Command{set, unset} {
		c.Flags().StringVar(&forClass, "for", "", forHelp)
		var words []string
		for _, class := range classesBelow {
			words = append(words, class.String())
		}
		offerFor(c, "for", words...)
		several.addTo(c)
		a.addWhy(c)
	}
	show := &cobra.Command{
		Use: "show [OBJECT]", Short: "show the limits in force for an object, or all that are set", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: offerInTurn(offerObjects(limitable)),
		Example:           "  mailctl limit show\n  mailctl limit show subscription:acme --json",
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.connect(c.Context()); err != nil {
				return err
			}
			if len(args) == 0 {
				return a.showSetLimits(c.Context(), nil)
			}
			o, err := object(args[0])
			if err != nil {
				return err
			}
			return a.showLimits(c.Context(), o)
		},
	}
	return group("limit", "set, unset and show limits", set.Example, set, unset, show)
}

func (a *app) setLimit(ctx context.Context, name, limit, forClass string, value *int64, several *many) error {
	o, err := object(name)
	if err != nil {
		return err
	}
	l, err := quota.ParseLimit(limit)
	if err != nil {
		return wrong(err, limit, limitNames())
	}
	class, err := admin.Governs(o, forClass)
	if err != nil {
		return err
	}
	if admin.IsPattern(o) {
		what, now := "", "unset"
		if class != o.Class {
			what = " for each " + class.String()
		}
		if value != nil {
			now = number(value)
		}
		return a.changeMany(ctx, o, several, fmt.Sprintf("%s%s %s", l, what, now), func(ad *admin.Admin, m *admin.Matched) error {
			return ad.SetLimits(ctx, m, class, l, value)
		})
	}
	if err := several.check(); err != nil {
		return err
	}
	if (o.Class == quota.Domain || o.Class == quota.Mailbox) && a.ordinary(ctx) {
		return a.setOwnLimit(o, l, value)
	}
	ad, err := a.admin(ctx)
	if err != nil {
		return err
	}
	if err := a.register(ctx, ad, o); err != nil {
		return err
	}
	before, err := ad.SetLimit(ctx, o, class, l, value)
	if err != nil {
		return err
	}
	return a.limitSet(o, class, l, value, before)
}

// number is the value of a limit for people.
func number(v *int64) string {
	if v == nil || *v == quota.Unlimited {
		return "unlimited"
	}
	return fmt.Sprint(*v)
}

// limitsInForce are the body of limit show OBJECT --json.
type limitsInForce struct {
	Object string                  `json:"object"`
	Limits map[string]limitInForce `json:"limits"`
}

type limitInForce struct {
	Limit *int64  `json:"limit"` // null: unlimited
	From  *string `json:"from"`  // class of the object on which it is set; null: nobody set it
}

// showLimits shows the limits in force for an object; for a plan, the defaults
// that it holds.
func (a *app) showLimits(ctx context.Context, o quota.Object) error {
	if o.Class == quota.Plan {
		return a.showSetLimits(ctx, &o)
	}
	list, err := a.store.Usage(ctx, []quota.Object{o})
	if err != nil {
		return err
	}
	limits := list[0].Limits
	if a.json {
		force := map[string]limitInForce{}
		for name, l := range limits {
			force[name] = limitInForce{l.Limit, setOn(l.From)}
		}
		return a.printJSON(limitsInForce{o.String(), force})
	}
	var rows [][]any
	for l := range quota.Limit(quota.NumLimits) {
		u := limits[l.String()]
		rows = append(rows, []any{l.String(), number(u.Limit), u.From})
	}
	report.Table(a.stdout, []string{"limit", "value", "set on"}, rows)
	if o.Class == quota.Server {
		fmt.Fprintln(a.stdout)
		return a.showSetLimits(ctx, &o)
	}
	return nil
}

func (a *app) showSetLimits(ctx context.Context, of *quota.Object) error {
	ad, err := a.admin(ctx)
	if err != nil {
		return err
	}
	list, err := ad.Limits(ctx, of)
	if err != nil {
		return err
	}
	if a.json {
		if list == nil {
			list = []admin.SetLimits{}
		}
		return a.printJSON(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(a.stderr, "no limit is set: mailctl limit set plan:default messages/hour NUMBER")
		return nil
	}
	var rows [][]any
	for _, s := range list {
		row := []any{s.Object, s.For}
		for l := range quota.Limit(quota.NumLimits) {
			if v, set := s.Limits[l.String()]; set {
				row = append(row, number(&v))
			} else {
				row = append(row, "")
			}
		}
		rows = append(rows, row)
	}
	header := []string{"set on", "for each"}
	for l := range quota.Limit(quota.NumLimits) {
		header = append(header, l.String())
	}
	report.Table(a.stdout, header, rows)
	return nil
}
