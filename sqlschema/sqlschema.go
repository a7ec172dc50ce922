// Package sqlschema is the database's schema, and what brings a database to it.
//
// schema.sql is the whole of it, to be read from top to bottom. A database is
// made and brought up to date by the numbered files in migrations/, which are
// never changed once they are released; a test proves that both come to the
// same. [Migrate] runs them as the owner; mailquotad and mailctl work as a role
// that can neither change the schema nor alter what was recorded.
package sqlschema

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

//go:embed migrations/*.sql
var files embed.FS

// migrateLock keeps two migrations from running at a time on one database.
const migrateLock = 7305419260000001

// VersionError says that the schema is not the one that this program works with.
type VersionError struct{ Have, Want int } // Have is 0 for a database without a schema

func (e *VersionError) Error() string {
	switch {
	case e.Have == 0:
		return "the database has no schema yet: type mailctl database init"
	case e.Have < e.Want:
		return fmt.Sprintf("the database's schema is version %d, this program needs %d: type mailctl database migrate", e.Have, e.Want)
	}
	return fmt.Sprintf("the database's schema is version %d, made by a newer version of sendmail-wrapper; this program knows %d: install the newer one here, too", e.Have, e.Want)
}

// migration is one file of migrations/, NNN_verb_noun.sql.
type migration struct {
	version int
	name    string
	sql     string
}

// migrations returns the files in order. An error means that this program was
// built wrong: a gap, a number twice, a name that is none.
func migrations(dir fs.FS) ([]migration, error) {
	paths, err := fs.Glob(dir, "migrations/*.sql") // sorted
	if err != nil {
		return nil, err
	}
	var list []migration
	for i, p := range paths {
		number, name, _ := strings.Cut(strings.TrimSuffix(path.Base(p), ".sql"), "_")
		version := i + 1
		if number != fmt.Sprintf("%03d", version) || name == "" {
			return nil, fmt.Errorf("%s: file %d must be called %03d_verb_noun.sql", p, version, version)
		}
		sql, err := fs.ReadFile(dir, p)
		if err != nil {
			return nil, err
		}
		list = append(list, migration{version, name, string(sql)})
	}
	return list, nil
}

// Latest is the version of the schema that this program works with.
func Latest() int {
	list, err := migrations(files)
	if err != nil {
		return 0
	}
	return len(list)
}

// querier is a connection or a pool.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Version is the version of a database's schema, 0 where there is none.
func Version(ctx context.Context, db querier) (version int, err error) {
	var exists bool
	if err := db.QueryRow(ctx, `SELECT to_regclass('schema_version') IS NOT NULL`).Scan(&exists); err != nil {
		return 0, fmt.Errorf("look for the schema: %w", err)
	}
	if !exists {
		return 0, nil
	}
	if err := db.QueryRow(ctx, `SELECT coalesce(max(version), 0) FROM schema_version`).Scan(&version); err != nil {
		return 0, fmt.Errorf("read the schema's version: %w", err)
	}
	return version, nil
}

// Migrate brings a database to the latest schema, each step a transaction of
// its own, and returns the versions before and after. It does nothing where
// all is done. The connection must be the owner's. The error is a *VersionError
// for a schema of a newer program.
func Migrate(ctx context.Context, conn *pgx.Conn) (from, to int, err error) {
	return migrate(ctx, conn, files)
}

func migrate(ctx context.Context, conn *pgx.Conn, dir fs.FS) (from, to int, err error) {
	list, err := migrations(dir)
	if err != nil {
		return 0, 0, err
	}
	if err := checkRoles(ctx, conn); err != nil {
		return 0, 0, err
	}
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, int64(migrateLock)); err != nil {
		return 0, 0, fmt.Errorf("wait for another migration: %w", err)
	}
	defer conn.Exec(ctx, `SELECT pg_advisory_unlock($1)`, int64(migrateLock))
	if from, err = Version(ctx, conn); err != nil {
		return 0, 0, err
	}
	if from > len(list) {
		return from, from, &VersionError{from, len(list)}
	}
	for _, m := range list[from:] {
		if err := m.run(ctx, conn); err != nil {
			return from, m.version - 1, err
		}
	}
	return from, len(list), nil
}

func (m migration) run(ctx context.Context, conn *pgx.Conn) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// A migration that waits for a lock makes everybody behind it wait, and
		// mail with them; it fails instead, and can be run again.
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '5s'`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, m.sql); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO schema_version (version, name) VALUES ($1, $2)`, m.version, m.name)
		return err
	})
	var denied *pgconn.PgError
	if errors.As(err, &denied) && denied.Code == "42501" { // insufficient_privilege
		return fmt.Errorf("migration %03d_%s: role %s may not change the schema: connect as its owner (database-owner in mailquotad.conf): %w", m.version, m.name, conn.Config().User, err)
	}
	if err != nil {
		return fmt.Errorf("migration %03d_%s: %w", m.version, m.name, err)
	}
	return nil
}

// checkRoles fails where the database is not set up for the two roles. What a
// superuser makes would run as the superuser (the functions of the schema are
// SECURITY DEFINER), and a role that may make tables in public could put some
// in the way of those that the owner's functions mean.
func checkRoles(ctx context.Context, conn *pgx.Conn) error {
	var exists, creates, super bool
	err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailquotad'),
		coalesce((SELECT has_schema_privilege(oid, 'public', 'CREATE') FROM pg_roles WHERE rolname = 'mailquotad'), false),
		(SELECT rolsuper FROM pg_roles WHERE rolname = current_user)`).Scan(&exists, &creates, &super)
	switch {
	case err != nil:
		return fmt.Errorf("look for role mailquotad: %w", err)
	case !exists:
		return errors.New("role mailquotad is missing, as which the daemon connects: let an administrator of the database type CREATE ROLE mailquotad LOGIN")
	case super:
		return fmt.Errorf("role %s is a superuser, who must not own the schema: name the owner of the database as database-owner in mailquotad.conf", conn.Config().User)
	case creates:
		return fmt.Errorf("role mailquotad may make tables in schema public (everybody may, before PostgreSQL 15): let an administrator of the database type REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT CREATE ON SCHEMA public TO %s", conn.Config().User)
	}
	return nil
}
