package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"sendmail-wrapper/config"
	"sendmail-wrapper/pgcluster"
	"sendmail-wrapper/report"
	"sendmail-wrapper/sqlschema"
)

// unit runs the private cluster under systemd.
const unit = "mailquota-postgresql.service"

func privateCluster() *pgcluster.Cluster {
	return &pgcluster.Cluster{DataDir: config.PrivateDataDir, SocketDir: config.PrivateSocketDir,
		User: "postgres", Admins: []string{"root", "postgres"}, Daemon: "mailquota"}
}

func (a *app) databaseCommands() *cobra.Command {
	return group("database", "make, upgrade and check the database", "  mailctl database init\n  mailctl database check",
		&cobra.Command{
			Use: "init", Short: "make the database; where none is named, a private PostgreSQL of the service's own", Args: cobra.NoArgs,
			Long: "init makes what is missing and leaves what is there. Where mailquotad.conf names no database, it makes a PostgreSQL\n" +
				"cluster of the service's own in " + config.PrivateDataDir + ", which listens on a unix socket only, with roles and\n" +
				"database. Where it names one, that must exist with its two roles, and init makes the schema as database-owner.",
			Example: "  mailctl database init",
			RunE:    func(c *cobra.Command, _ []string) error { return a.initDatabase(c.Context()) },
		},
		&cobra.Command{
			Use: "migrate", Short: "bring the schema up to date, after an upgrade", Args: cobra.NoArgs, Example: "  mailctl database migrate",
			RunE: func(c *cobra.Command, _ []string) error {
				if err := a.loadConfig(); err != nil {
					return err
				}
				return a.migrate(c.Context())
			},
		},
		&cobra.Command{
			Use: "check", Short: "check schema, partitions and rights, and prove that the counters equal the messages", Args: cobra.NoArgs,
			Long: "check looks whether the schema is of this version, whether today's and tomorrow's partitions are there, and whether\n" +
				"the role may write what it must and nothing else. It compares the counters of all objects with the sums over the messages of the last hour and day, in one snapshot.\nIts exit status is 1 if anything is wrong.",
			Example: "  mailctl database check\n  mailctl database check --json",
			RunE:    func(c *cobra.Command, _ []string) error { return a.checkDatabase(c.Context()) },
		},
		&cobra.Command{
			Use: "serve", Short: "run the private PostgreSQL in the foreground, as its unit does", Args: cobra.NoArgs, Example: "  systemctl start mailquota-postgresql",
			RunE: func(*cobra.Command, []string) error { return privateCluster().Serve() },
		})
}

func (a *app) initDatabase(ctx context.Context) error {
	if err := a.loadConfig(); err != nil {
		return err
	}
	if !a.config.Private() {
		return a.migrate(ctx)
	}
	if os.Geteuid() != 0 {
		return &failure{exNoPerm, "only root can make the private cluster", "sudo mailctl database init"}
	}
	cluster := privateCluster()
	if !cluster.Exists() {
		if err := a.done("making a PostgreSQL cluster in %s …", cluster.DataDir); err != nil {
			return err
		}
	}
	if err := cluster.Init(ctx); err != nil {
		return err
	}
	stop, err := a.startCluster(ctx, cluster)
	if err != nil {
		return err
	}
	err = pgcluster.CreateDatabase(ctx, "host="+cluster.SocketDir+" user=postgres dbname=postgres")
	if err == nil {
		err = a.migrate(ctx)
	}
	return errors.Join(err, stop())
}

// startCluster has the cluster run: by its unit, or, where there is no systemd,
// as a child until stop is called.
func (a *app) startCluster(ctx context.Context, cluster *pgcluster.Cluster) (stop func() error, err error) {
	if _, err := os.Stat("/run/systemd/system"); err == nil && exec.CommandContext(ctx, "systemctl", "cat", unit).Run() == nil {
		out, err := exec.CommandContext(ctx, "systemctl", "start", unit).CombinedOutput()
		if err != nil {
			return nil, &failure{exUnavailable, "cannot start PostgreSQL: " + strings.TrimSpace(string(out)), "journalctl -u " + unit}
		}
		return func() error { return nil }, nil
	}
	server, err := cluster.Start(ctx)
	if err != nil {
		return nil, err
	}
	return server.Stop, nil
}

func (a *app) migrate(ctx context.Context) error {
	if a.config.DatabaseOwner == "" {
		return &failure{exConfig, "database-owner is not set: the daemon's role may not change the schema",
			`put database-owner = "postgres://mailquota@…" into ` + a.configPath}
	}
	conn, err := pgx.Connect(ctx, a.config.DatabaseOwner)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	from, to, err := sqlschema.Migrate(ctx, conn)
	if err != nil {
		return err
	}
	// mailquotad looks after them; but a database is whole before it first runs.
	if _, err := conn.Exec(ctx, `SELECT make_partitions((now() AT TIME ZONE 'UTC')::date - 1, 9)`); err != nil {
		return fmt.Errorf("make partitions: %w", err)
	}
	switch {
	case a.json:
		return a.printJSON(map[string]int{"from": from, "to": to})
	case from == to:
		return a.done("schema is version %d: nothing to do", to)
	}
	return a.done("schema is version %d, was %d", to, from)
}

func (a *app) checkDatabase(ctx context.Context) error {
	if err := a.connect(ctx); err != nil {
		return err
	}
	problems, err := a.structure(ctx)
	if err != nil {
		return err
	}
	mismatches, err := a.store.Prove(ctx)
	if err != nil {
		return err
	}
	ok := len(problems) == 0 && len(mismatches) == 0
	if a.json {
		list := []map[string]any{}
		for _, m := range mismatches {
			list = append(list, map[string]any{"object": m.Object.String(), "limit": m.Limit.String(), "counter": m.Counter, "messages": m.Events})
		}
		if err := a.printJSON(map[string]any{"ok": ok, "problems": problems, "mismatches": list}); err != nil || ok {
			return err
		}
		return &failure{exWrong, "", ""}
	}
	if ok {
		return a.done("schema version %d; the counters equal the messages", sqlschema.Latest())
	}
	for _, p := range problems {
		a.problem(p)
	}
	if len(mismatches) > 0 {
		a.problem(fmt.Sprintf("%d counters differ from the messages", len(mismatches)))
		var rows [][]any
		for _, m := range mismatches {
			rows = append(rows, []any{m.Object.String(), m.Limit.String(), m.Counter, m.Events})
		}
		report.Table(a.stdout, []string{"object", "window", "counter", "messages"}, rows)
	}
	return &failure{exWrong, "", ""}
}

// structure returns what is wrong with partitions and rights.
func (a *app) structure(ctx context.Context) ([]string, error) {
	health, err := report.CheckHealth(ctx, a.pool)
	if err != nil {
		return nil, err
	}
	rows, err := a.pool.Query(ctx, `SELECT current_user || ' may not ' || lower(p) || ' ' || t
  FROM (VALUES ('usage', 'SELECT'), ('usage', 'INSERT'), ('usage', 'UPDATE'), ('messages', 'SELECT'), ('messages', 'INSERT'),
         ('details', 'SELECT'), ('details', 'INSERT'), ('audit', 'INSERT')) r (t, p)
 WHERE NOT has_table_privilege(t, p)
UNION ALL
SELECT current_user || ' may ' || lower(p) || ' ' || t || ', which is written once'
  FROM (VALUES ('messages', 'UPDATE'), ('messages', 'DELETE'), ('details', 'UPDATE'), ('details', 'DELETE'), ('audit', 'UPDATE'), ('audit', 'DELETE')) r (t, p)
 WHERE has_table_privilege(t, p)`)
	if err != nil {
		return nil, fmt.Errorf("check rights: %w", err)
	}
	problems, err := pgx.AppendRows(health.Partitions(), rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("check rights: %w", err)
	}
	return problems, nil
}
