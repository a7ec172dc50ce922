package pgcluster

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// CreateDatabase makes roles and database on a server to which superuser
// connects; what is there already stays.
func CreateDatabase(ctx context.Context, superuser string) error {
	conn, err := pgx.Connect(ctx, superuser)
	if err != nil {
		return fmt.Errorf("connect as superuser: %w", err)
	}
	defer conn.Close(ctx)
	for _, role := range []string{OwnerRole, DaemonRole} {
		if err := createOnce(ctx, conn, `SELECT count(*) FROM pg_roles WHERE rolname = $1`, role, `CREATE ROLE `+role+` LOGIN`); err != nil {
			return err
		}
	}
	err = createOnce(ctx, conn, `SELECT count(*) FROM pg_database WHERE datname = $1`, Database, `CREATE DATABASE `+Database+` OWNER `+OwnerRole)
	if err != nil {
		return err
	}
	// pg_read_all_stats: to name who keeps a snapshot open, which slows down all mail.
	_, err = conn.Exec(ctx, `REVOKE ALL ON DATABASE `+Database+` FROM PUBLIC; GRANT CONNECT ON DATABASE `+Database+` TO `+DaemonRole+
		`; GRANT pg_read_all_stats TO `+DaemonRole)
	if err != nil {
		return fmt.Errorf("set rights on database: %w", err)
	}
	return setSchemaRights(ctx, conn.Config())
}

// setSchemaRights makes the schema public the owner's only. It is so
// from PostgreSQL 15 on; before, everybody may make tables and functions in it,
// which those that run as the owner would then find (CVE-2018-1058).
func setSchemaRights(ctx context.Context, config *pgx.ConnConfig) error {
	config.Database = Database
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect as superuser: %w", err)
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `REVOKE CREATE ON SCHEMA public FROM PUBLIC;
		DO $$ BEGIN
		  IF NOT has_schema_privilege('`+OwnerRole+`', 'public', 'CREATE') THEN
		    GRANT CREATE ON SCHEMA public TO `+OwnerRole+`;
		  END IF;
		END $$`)
	if err != nil {
		return fmt.Errorf("set rights on schema public: %w", err)
	}
	return nil
}

func createOnce(ctx context.Context, conn *pgx.Conn, question, name, statement string) error {
	var n int
	if err := conn.QueryRow(ctx, question, name).Scan(&n); err != nil {
		return fmt.Errorf("look for %s: %w", name, err)
	}
	if n > 0 {
		return nil
	}
	if _, err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", strings.ToLower(statement), err)
	}
	return nil
}
