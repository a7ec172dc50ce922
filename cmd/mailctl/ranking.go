package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// rankings are the words of report scripts, cron and sites, by column.
var rankings = map[string]struct{ short, name, none string }{
	"script":  {"which scripts sent most", "script", "no script sent mail"},
	"crontab": {"which cron jobs sent most", "cron job", "no cron job sent mail"},
	"site":    {"which sites sent most", "site", "no site sent mail"},
}

func (a *app) ranking(use, by string) *cobra.Command {
	r := rankings[by]
	return a.newQuery(&cobra.Command{
		Use: use, Short: r.short + ", as whom, and samples",
		Long: use + " shows " + r.short + ", a row for each user and host, with how sure the name is (of several proofs the weakest and the\n" +
			"strongest) and samples of subjects and recipients of the last hour in which it sent, where they are kept. Mail whose " + r.name + " is not\nknown is not among it; mailctl report top has it.",
		Example: fmt.Sprintf("  mailctl report %s --since 24h\n  mailctl report %s --user alice --json", use, use),
	}, 20, "most `rows`", func(ctx context.Context, q *query) error { return a.sources(ctx, q, by) })
}

func (a *app) sources(ctx context.Context, q *query, by string) error {
	list, err := a.readSources(ctx, q, by)
	if err != nil {
		return err
	}
	header := []string{"recipients", "messages", "refused", "observed", "user", "host", rankings[by].name, "proof", "first", "last"}
	hasSamples := false
	for i := range list {
		hasSamples = hasSamples || len(list[i].Subjects)+len(list[i].To) > 0
	}
	if hasSamples {
		header = append(header, "subjects", "to")
	}
	var rows [][]any
	for i := range list {
		s := &list[i]
		proof := s.Weakest
		if s.Strongest != s.Weakest {
			proof += "–" + s.Strongest
		}
		row := []any{s.Recipients, s.Messages, s.Refused, s.Observed, s.User, s.Host, s.Name, proof, s.First, s.Last}
		if hasSamples {
			row = append(row, samples(s.Subjects), samples(s.To))
		}
		rows = append(rows, row)
	}
	return a.show(q, list, sheet{header, rows, rankings[by].none})
}

// samples are put into one cell; each is cut, since strangers choose how long they
// are.
func samples(list []string) string {
	const most = 30
	var short []string
	for _, s := range list {
		if runes := []rune(s); len(runes) > most {
			s = string(runes[:most-1]) + "…"
		}
		short = append(short, s)
	}
	return strings.Join(short, " | ")
}
