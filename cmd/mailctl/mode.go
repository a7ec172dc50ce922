package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
)

func (a *app) mode() *cobra.Command {
	var several many
	set := &cobra.Command{
		Use: "set OBJECT enforce|observe|off|inherit", Short: "say what limits do to mail of an object and of all below it", Args: cobra.ExactArgs(2),
		Long: "enforce refuses what does not fit. observe lets all through and records what would have been refused.\n" +
			"off only counts. inherit takes the mode away, so that the next one above holds. The nearest one that is set\n" +
			"holds, from user or mailbox up to the server, from the next message on.\n\n" +
			"The server's is the master switch: mailctl mode set server off",
		ValidArgsFunction: offerInTurn(offerObjects(limitable), offer(modeNames...)),
		Example: "  mailctl mode set server off                the master switch: count all, refuse nothing\n" +
			"  mailctl mode set plan:gold observe --why 'first days'\n  mailctl mode set subscription:acme inherit\n" +
			"  mailctl mode set 'mailbox:*' observe --of acme",
		RunE: func(c *cobra.Command, args []string) error {
			o, err := object(args[0])
			if err != nil {
				return err
			}
			mode, err := parseMode(args[1])
			if err != nil {
				return err
			}
			if admin.IsPattern(o) {
				return a.changeMany(c.Context(), o, &several, "mode "+admin.ModeText(mode), func(ad *admin.Admin, m *admin.Matched) error {
					return ad.SetModes(c.Context(), m, mode)
				})
			}
			if err := several.check(); err != nil {
				return err
			}
			ad, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			if err := a.register(c.Context(), ad, o); err != nil {
				return err
			}
			before, err := ad.SetMode(c.Context(), o, mode)
			if err != nil {
				return err
			}
			return a.done("%s mode: %s (was %s)", o, admin.ModeText(mode), before)
		},
	}
	several.addTo(set)
	a.addWhy(set)
	list := &cobra.Command{
		Use: "list", Short: "where a mode is set", Args: cobra.NoArgs, Example: "  mailctl mode list",
		RunE: func(c *cobra.Command, _ []string) error {
			ad, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			list, err := ad.Modes(c.Context())
			if err != nil {
				return err
			}
			if a.json {
				if list == nil {
					list = []admin.SetModeOf{}
				}
				return a.printJSON(list)
			}
			if len(list) == 0 {
				fmt.Fprintln(a.stderr, "no mode is set: all limits are enforced")
				return nil
			}
			var rows [][]any
			for _, m := range list {
				rows = append(rows, []any{m.Object, string(m.Mode)})
			}
			report.Table(a.stdout, []string{"object", "mode"}, rows)
			return nil
		},
	}
	return group("mode", "enforce limits, observe, or only count", set.Example, set, list)
}

var modeNames = []string{string(quota.Enforce), string(quota.Observe), string(quota.Off), "inherit"}

// parseMode reads a mode; inherit is nil.
func parseMode(s string) (*quota.Mode, error) {
	if s == "inherit" {
		return nil, nil
	}
	m, err := quota.ParseMode(s)
	if err != nil {
		return nil, wrong(fmt.Errorf("%.60q is no mode: write enforce, observe, off or inherit", s), s, modeNames)
	}
	return &m, nil
}
