package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

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
}

type databaseState struct {
	Private bool  `json:"private"` // the service's own cluster
	Today   total `json:"last_24h"`
}

type total struct {
	Messages   int64 `json:"messages"`
	Recipients int64 `json:"recipients"`
	Refused    int64 `json:"refused"`
}

func (a *app) status() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "whether mail is counted, and what is wrong if not", Args: cobra.NoArgs,
		Long:    "status asks mailquotad and the database. Its exit status is 1 if something is wrong.",
		Example: "  mailctl status\n  mailctl status --json",
		RunE:    func(c *cobra.Command, _ []string) error { return a.showStatus(c.Context()) },
	}
}

func (a *app) showStatus(ctx context.Context) error {
	s := state{Version: version, Problems: []string{}}
	var daemon struct {
		Version  string
		Database string
		Host     string
		Started  time.Time
		Waiting  int
		Accepted int64
		Refused  int64
	}
	body, err := a.ask(wire.OpStatus)
	if err == nil {
		err = json.Unmarshal(body, &daemon)
		s.Daemon = body
	}
	switch {
	case err != nil:
		s.Problems = append(s.Problems, err.Error()+": systemctl status mailquotad")
	case daemon.Database != "ok":
		s.Problems = append(s.Problems, "mailquotad counts nothing, its database: "+daemon.Database)
	case daemon.Version != version:
		s.Problems = append(s.Problems, fmt.Sprintf("mailquotad is version %s, this is %s: systemctl restart mailquotad", daemon.Version, version))
	}
	if os.Geteuid() == 0 {
		s.Database, err = a.databaseState(ctx)
		if err != nil {
			_, hint := a.explain(err, nil)
			s.Problems = append(s.Problems, err.Error()+": "+hint)
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
			rows = append(rows, []any{"last 24 hours", fmt.Sprintf("%d messages to %d recipients, %d refused", d.Today.Messages, d.Today.Recipients, d.Today.Refused)})
		}
		report.Table(a.stdout, []string{"", ""}, rows)
	}
	if s.OK {
		return nil
	}
	if !a.json {
		for _, p := range s.Problems {
			fmt.Fprintln(a.stderr, "mailctl: problem:", p)
		}
	}
	return &failure{exWrong, "", ""}
}

func (a *app) databaseState(ctx context.Context) (*databaseState, error) {
	if err := a.connect(ctx); err != nil {
		return nil, err
	}
	d := &databaseState{Private: a.config.Private()}
	list, err := report.Top(ctx, a.pool, report.Filter{Since: time.Now().Add(-24 * time.Hour)}, "host", 1000)
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		d.Today.Messages += s.Messages
		d.Today.Recipients += s.Recipients
		d.Today.Refused += s.Refused
	}
	return d, nil
}
