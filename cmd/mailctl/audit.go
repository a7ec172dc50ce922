package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/report"
)

func (a *app) audit() *cobra.Command {
	var f admin.AuditFilter
	var since, until string
	list := &cobra.Command{
		Use: "list [OBJECT]", Short: "what administrators changed, newest last", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: offerInTurn(offerObjects(limitable)),
		Example:           "  mailctl audit list --since 7d\n  mailctl audit list subscription:acme --action limit --json",
		RunE: func(c *cobra.Command, args []string) (err error) {
			if len(args) > 0 {
				f.Object = args[0]
				// Blocks and the white list have other subjects, which stand as typed.
				word, _, _ := strings.Cut(f.Object, ":")
				if !slices.Contains([]string{"script", "crontab", "network"}, word) {
					o, err := object(f.Object)
					if err != nil {
						return err
					}
					f.Object = o.String()
				}
			}
			now := time.Now()
			if f.Since, err = parseTime(since, now); err != nil {
				return err
			}
			if f.Until, err = parseTime(until, now); err != nil {
				return err
			}
			if f.Limit < 1 {
				return &failure{exUsage, fmt.Sprintf("--limit %d: must be a number above 0", f.Limit), ""}
			}
			ad, err := a.admin(c.Context())
			if err != nil {
				return err
			}
			found, err := ad.AuditRows(c.Context(), f)
			if err != nil {
				return err
			}
			return a.showAudit(found, f.Limit)
		},
	}
	flags := list.Flags()
	flags.StringVar(&since, "since", "", "from this `time` on: 2026-11-23, \"2026-11-23 14:00\" (local), or 24h, 7d ago")
	flags.StringVar(&until, "until", "", "before this `time`")
	flags.StringVar(&f.Actor, "by", "", "by this login `name`")
	flags.StringVar(&f.Action, "action", "", "with this `text` in the action: \"limit set\"")
	flags.IntVar(&f.Limit, "limit", 1000, "only the newest `rows`")
	return group("audit", "what administrators changed", list.Example, list)
}

func (a *app) showAudit(list []admin.Audit, limit int) error {
	if a.json {
		if list == nil {
			list = []admin.Audit{}
		}
		return a.printJSON(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(a.stderr, "nothing was changed")
		return nil
	}
	var rows [][]any
	for _, r := range list {
		rows = append(rows, []any{report.Time(r.At), r.Host, r.Actor, r.Action, r.Object, r.Before, r.After, r.Why})
	}
	report.Table(a.stdout, []string{"time", "host", "by", "action", "object", "before", "after", "why"}, rows)
	if len(list) == limit {
		fmt.Fprintf(a.stderr, "the newest %d; more: --limit NUMBER\n", limit)
	}
	return nil
}
