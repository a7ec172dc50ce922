package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
	"sendmail-wrapper/wire"
)

// state is the body of status --json.
type state struct {
	Version  string          `json:"version"`
	OK       bool            `json:"ok"`
	Daemon   json.RawMessage `json:"daemon"` // what mailquotad says of itself; null where it does not answer
	Database *databaseState  `json:"database,omitempty"`
	Problems []string        `json:"problems"`
	Hints    []string        `json:"hints"` // what could be set up, and is not wrong
}

type databaseState struct {
	Private   bool              `json:"private"`  // the service's own cluster
	Today     total             `json:"last_24h"` // let through
	Snapshots []report.Snapshot `json:"snapshots"`
}

type total struct {
	Messages   int64 `json:"messages"`
	Recipients int64 `json:"recipients"`
}

// daemonState is what mailquotad says of itself. An ordinary user is told the
// first two.
type daemonState struct {
	Version  string
	Database string // ok, or what is wrong

	Host              string
	Started           time.Time
	Waiting           int
	Accepted          int64
	Refused           int64
	DatabaseDownSince time.Time `json:"database_down_since"`
	Journal           struct {
		Messages int64 // not booked yet
		Failed   int64 // could not be booked
		Since    time.Time
	}
}

// problems says what is wrong with mailquotad's database and journal.
func (d *daemonState) problems() []string {
	var list []string
	j := &d.Journal
	since := ""
	if !j.Since.IsZero() {
		since = " since " + j.Since.Local().Format("2006-01-02 15:04:05")
	}
	switch {
	case d.Database != "ok" && since != "":
		list = append(list, fmt.Sprintf("mailquotad runs on the journal%s: %d decisions not booked yet; its database: %s", since, j.Messages, d.Database))
	case d.Database != "ok":
		list = append(list, "mailquotad is without its database: "+d.Database)
	case j.Messages > 0:
		list = append(list, fmt.Sprintf("%d decisions of the journal%s are not booked yet", j.Messages, since))
	}
	if j.Failed > 0 {
		list = append(list, fmt.Sprintf("%d decisions of the journal could not be booked: journalctl -u mailquotad", j.Failed))
	}
	if d.Version != version {
		list = append(list, fmt.Sprintf("mailquotad is version %s, this is %s: systemctl restart mailquotad", d.Version, version))
	}
	return list
}

func (a *app) status() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "whether mail is counted, and what is wrong if not", Args: cobra.NoArgs,
		Long: "status looks whether mail is counted as the mail server of this host does, and asks mailquotad and the database: whether\n" +
			"decisions are made without it, or wait in the journal; who keeps an old snapshot open, which slows down all mail; whether\n" +
			"vacuum keeps up; whether tomorrow has its partition; whether PHP-FPM and Apache tell mailquotad what they were set up to tell;\n" +
			"whether notifications reach whom they are for.\n" +
			"Its exit status is 1 if something is wrong. What could be set up, and is not, is a hint only.",
		Example: "  mailctl status\n  mailctl status --json",
		RunE:    func(c *cobra.Command, _ []string) error { return a.showStatus(c.Context()) },
	}
}

func (a *app) showStatus(ctx context.Context) error {
	s := state{Version: version, Problems: []string{}, Hints: []string{}}
	var daemon daemonState
	problem := func(err error) {
		text := err.Error()
		if _, hint := a.explain(err, nil); hint != "" {
			text += ": " + hint
		}
		if !slices.Contains(s.Problems, text) { // a wrong configuration is met twice
			s.Problems = append(s.Problems, text)
		}
	}
	reply, err := a.ask(&wire.Request{Op: wire.OpStatus})
	if err == nil {
		err = json.Unmarshal(reply.Body, &daemon)
		s.Daemon = reply.Body
	}
	if err != nil {
		problem(err)
	} else {
		s.Problems = append(s.Problems, daemon.problems()...)
	}
	if os.Geteuid() == 0 {
		s.Problems = append(s.Problems, a.mtaProblems(ctx)...)
		problems, hints := a.setupState(ctx)
		s.Problems = append(s.Problems, problems...)
		s.Hints = append(s.Hints, hints...)
		s.Database, problems, err = a.databaseState(ctx)
		s.Problems = append(s.Problems, problems...)
		if err != nil {
			problem(err)
		} else {
			problems, hints := a.notifyState(ctx)
			s.Problems = append(s.Problems, problems...)
			s.Hints = append(s.Hints, hints...)
		}
	}
	s.OK = len(s.Problems) == 0
	if a.json {
		if err := a.printJSON(s); err != nil {
			return err
		}
	} else {
		rows := [][]any{{"mailctl", version}}
		if s.Daemon != nil {
			rows = append(rows, []any{"mailquotad", daemon.Version})
			if daemon.Host != "" {
				rows = append(rows, []any{"  host", daemon.Host}, []any{"  running since", &daemon.Started},
					[]any{"  since then", fmt.Sprintf("%d accepted, %d refused, %d waiting", daemon.Accepted, daemon.Refused, daemon.Waiting)})
			}
			rows = append(rows, []any{"  database", daemon.Database})
		}
		if d := s.Database; d != nil {
			rows = append(rows, []any{"last 24 hours", fmt.Sprintf("%d messages to %d recipients", d.Today.Messages, d.Today.Recipients)})
		}
		report.Table(a.stdout, []string{"", ""}, rows)
		for _, h := range s.Hints {
			fmt.Fprintln(a.stdout, "hint:", h)
		}
	}
	if s.OK {
		return nil
	}
	if !a.json {
		for _, p := range s.Problems {
			a.problem(p)
		}
	}
	return &failure{exWrong, "", ""}
}

func (a *app) databaseState(ctx context.Context) (*databaseState, []string, error) {
	if err := a.connect(ctx); err != nil {
		return nil, nil, err
	}
	// The server's counter, since a sum over the rows takes seconds where many are
	// sent, and this command runs every minute on some hosts.
	usage, err := a.store.Usage(ctx, []quota.Object{{Class: quota.Server}})
	if err != nil {
		return nil, nil, err
	}
	health, err := report.CheckHealth(ctx, a.pool)
	if err != nil {
		return nil, nil, err
	}
	day := usage[0].Limits
	return &databaseState{
		Private:   a.config.Private(),
		Today:     total{day[quota.MessagesDay.String()].Used, day[quota.RecipientsDay.String()].Used},
		Snapshots: health.Snapshots,
	}, health.Problems(), nil
}
