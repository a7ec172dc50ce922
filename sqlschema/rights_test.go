package sqlschema_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sendmail-wrapper/tests/testpg"
)

// code is the SQLSTATE of a statement, "" if it succeeds.
func code(t *testing.T, conn *pgx.Conn, sql string) string {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql)
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return ""
}

const (
	denied        = "42501" // insufficient_privilege
	noPartition   = "23514" // check_violation, as PostgreSQL says it of a row without a partition
	lockTimeout   = "55P03"
	raised        = "P0001"
	insertMessage = `INSERT INTO messages (at, id, size, host_id, recipients, decision, sender, kind) VALUES
		(%, gen_random_uuid(), 1, 1, 1, 1, 'x', 'shell')`
)

func insertAt(at string) string { return strings.Replace(insertMessage, "%", "'"+at+"'", 1) }

func insertDetails(at string) string {
	return `INSERT INTO details (at, id, subject) VALUES ('` + at + `', gen_random_uuid(), 'x')`
}

// TestDaemonRole: what mailquotad may do and, more, what it may not.
func TestDaemonRole(t *testing.T) {
	database := testpg.NewAs(t, "mailquotad")
	conn := connect(t, database)
	for _, sql := range []string{
		`SELECT make_partitions('2026-01-01', 1)`,
		`INSERT INTO host (name) VALUES ('host1')`,
		insertAt("2026-01-01 12:00Z"),
		`SELECT * FROM messages`,
		insertDetails("2026-01-01 12:00Z"),
		`SELECT * FROM details`,
		`INSERT INTO audit (host, actor, action, object) VALUES ('h', 'root', 'limit set', 'server')`,
		`SELECT * FROM audit, server, schema_version`,
		`INSERT INTO subscription (plan_id, name) SELECT id, 'alice' FROM plan WHERE name = 'default'`,
		`UPDATE subscription SET removed_at = now()`,
		`INSERT INTO limits (owner_id, class) SELECT id, 4 FROM subscription`,
		`DELETE FROM limits`,
		`INSERT INTO usage (id) SELECT id FROM server`,
		`UPDATE usage SET state = ''`,
	} {
		if got := code(t, conn, sql); got != "" {
			t.Errorf("%s: denied with %s", sql, got)
		}
	}
	for _, sql := range []string{
		// What was recorded stays as it was recorded.
		`UPDATE messages SET decision = 1`,
		`DELETE FROM messages`,
		`TRUNCATE messages`,
		`SELECT * FROM messages_20260101`,
		`INSERT INTO messages_20260101 SELECT * FROM messages`,
		`DELETE FROM messages_20260101`,
		`UPDATE details SET subject = 'another'`,
		`DELETE FROM details`,
		`TRUNCATE details`,
		`SELECT * FROM details_20260101`,
		`INSERT INTO details_20260101 SELECT * FROM details`,
		`UPDATE audit SET actor = 'nobody'`,
		`DELETE FROM audit`,
		`TRUNCATE audit`,
		`UPDATE host SET name = 'other'`,
		`DELETE FROM host`,
		// The schema is the owner's.
		`DELETE FROM server`,
		`UPDATE schema_version SET version = 9`,
		`INSERT INTO schema_version (version, name) VALUES (9, 'x')`,
		`CREATE TABLE t ()`,
		`CREATE SCHEMA s`,
		`CREATE FUNCTION f() RETURNS integer LANGUAGE sql AS 'SELECT 1'`,
		`ALTER TABLE usage ADD x integer`,
		`ALTER TABLE messages DETACH PARTITION messages_20260101`,
		`DROP TABLE usage`,
		`DROP TABLE messages_20260101`,
		`DROP TABLE details_20260101`,
		`DROP FUNCTION make_partitions`,
		`CREATE OR REPLACE FUNCTION make_partitions(first date, days integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'`,
		`CREATE INDEX i ON messages (uid)`,
		`CREATE TRIGGER tr BEFORE INSERT ON usage EXECUTE FUNCTION suppress_redundant_updates_trigger()`,
		`ALTER TABLE audit DISABLE TRIGGER ALL`,
		`ALTER SEQUENCE object_number RESTART`,
		`SELECT setval('object_number', 1)`,
		`SET ROLE mailquota`,
		`SET SESSION AUTHORIZATION mailquota`,
		`CREATE ROLE r`,
		`COPY usage TO PROGRAM 'true'`,
		`SELECT pg_read_file('postgresql.conf')`,
	} {
		if got := code(t, conn, sql); got != denied {
			t.Errorf("%s: %q, want to be denied", sql, got)
		}
	}
	// Without the right to, that is a warning for who holds some right himself.
	exec1(t, conn, `GRANT SELECT ON messages TO PUBLIC`)
	if got := names(t, conn, `SELECT has_table_privilege('public', 'messages', 'SELECT')::text`); got[0] != "false" {
		t.Error("mailquotad gave its right to read messages to everybody")
	}
	outsider := `SELECT (has_function_privilege('public', 'make_partitions(date, integer)', 'EXECUTE')
		OR has_function_privilege('public', 'drop_partitions(date)', 'EXECUTE') OR has_function_privilege('public', 'drop_details(date)', 'EXECUTE'))::text`
	if got := names(t, conn, outsider); got[0] != "false" {
		t.Error("everybody may execute the functions that run as the owner")
	}
}

// TestPartitions: they are made and dropped by the day (UTC), whatever the
// session's time zone and notation.
func TestPartitions(t *testing.T) {
	conn := connect(t, testpg.NewAs(t, "mailquotad"))
	owner := connect(t, testpg.As(conn.Config().ConnString(), "mailquota"))
	exec1(t, conn, `SET timezone = 'Pacific/Kiritimati'; SET datestyle = 'German'`) // 14 hours ahead
	answer := func(sql string) string { return names(t, conn, `SELECT (`+sql+`)::text`)[0] }
	for _, tt := range []struct{ call, want string }{
		{`make_partitions('2026-02-27', 3)`, "6"},
		{`make_partitions('2026-02-27', 3)`, "0"},
		{`make_partitions('2026-02-26', 5)`, "4"},
	} {
		if got := answer(tt.call); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.call, got, tt.want)
		}
	}
	for at, want := range map[string]string{
		"2026-02-25 23:59:59.999999Z": noPartition,
		"2026-02-26 00:00:00Z":        "",
		"2026-03-02 23:59:59.999999Z": "",
		"2026-03-03 00:00:00Z":        noPartition,
	} {
		if got := code(t, conn, insertAt(at)); got != want {
			t.Errorf("a row of %s: %q, want %q", at, got, want)
		}
		if got := code(t, conn, insertDetails(at)); got != want {
			t.Errorf("details of %s: %q, want %q", at, got, want)
		}
	}
	for _, call := range []string{`make_partitions('2026-01-01', 0)`, `make_partitions('2026-01-01', 401)`, `make_partitions(NULL, 1)`,
		`make_partitions('2026-01-01', NULL)`, `drop_partitions((now() AT TIME ZONE 'UTC')::date - 1)`, `drop_partitions(NULL)`,
		`drop_details((now() AT TIME ZONE 'UTC')::date + 1)`, `drop_details(NULL)`} {
		if got := code(t, conn, `SELECT `+call); got != raised {
			t.Errorf("%s: %q, want a refusal", call, got)
		}
	}

	// Each is as if made by CREATE TABLE … PARTITION OF.
	for _, whole := range []string{"messages", "details"} {
		exec1(t, owner, `CREATE TABLE `+whole+`_pattern PARTITION OF `+whole+` FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')`)
		same := `SELECT count(DISTINCT (SELECT string_agg(a.attname || format_type(a.atttypid, a.atttypmod) || a.attnotnull || a.attstorage::text, ',' ORDER BY a.attnum)
		  FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0)
		|| (SELECT string_agg(n.contype::text || pg_get_constraintdef(n.oid) || n.conislocal, ',' ORDER BY n.contype, pg_get_constraintdef(n.oid))
		  FROM pg_constraint n WHERE n.conrelid = c.oid AND n.contype <> 'n'))::text FROM pg_class c WHERE c.relname IN ('` + whole + `_pattern', '` + whole + `_20260226')`
		if got := names(t, owner, same)[0]; got != "1" {
			t.Errorf("a partition of %s is not as PostgreSQL makes one", whole)
		}
	}

	for _, want := range []string{"1", "1", "1", "0"} {
		if got := answer(`drop_partitions('2026-03-01')`); got != want {
			t.Errorf("%s dropped, want %s", got, want)
		}
	}
	left := names(t, conn, `SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'messages'::regclass ORDER BY 1`)
	if got := strings.Join(left, " "); got != "messages_20260301 messages_20260302 messages_pattern" {
		t.Errorf("left: %s", got)
	}

	// Those of details go by a day of their own, even yesterday's.
	details := `SELECT string_agg(inhrelid::regclass::text, ' ' ORDER BY inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'details'::regclass`
	if got := names(t, conn, details)[0]; got != "details_20260226 details_20260227 details_20260228 details_20260301 details_20260302 details_pattern" {
		t.Errorf("details left beside the messages: %s", got)
	}
	exec1(t, conn, `SELECT make_partitions((now() AT TIME ZONE 'UTC')::date - 1, 2)`)
	for _, want := range []string{"1", "1", "1", "1", "1", "1", "0"} {
		if got := answer(`drop_details((now() AT TIME ZONE 'UTC')::date)`); got != want {
			t.Errorf("%s dropped, want %s", got, want)
		}
	}
	today := names(t, conn, `SELECT 'details_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD') || ' details_pattern'`)[0]
	if got := names(t, conn, details)[0]; got != today {
		t.Errorf("details left: %s, want %s", got, today)
	}
}

// TestPartitionsBesideReaders: a long report keeps nobody from making a
// partition, and to drop one gives up soon, so that mail goes on.
func TestPartitionsBesideReaders(t *testing.T) {
	database := testpg.NewAs(t, "mailquotad")
	conn := connect(t, database)
	exec1(t, conn, `SELECT make_partitions('2026-01-01', 2)`)
	reader, writer := connect(t, database), connect(t, database)
	exec1(t, reader, `BEGIN`)
	exec1(t, reader, `SELECT count(*) FROM messages`)
	exec1(t, writer, `BEGIN`)
	exec1(t, writer, insertAt("2026-01-02 12:00Z"))

	exec1(t, conn, `SET statement_timeout = '20s'`)
	if got := code(t, conn, `SELECT make_partitions('2026-01-01', 4)`); got != "" {
		t.Errorf("make_partitions beside a reader and a writer: %s", got)
	}
	if got := code(t, conn, `SELECT drop_partitions('2026-01-02')`); got != lockTimeout {
		t.Errorf("drop_partitions beside a reader: %q, want %s", got, lockTimeout)
	}
	exec1(t, writer, `COMMIT`)
	exec1(t, reader, `COMMIT`)
	if got := code(t, conn, `SELECT drop_partitions('2026-01-02')`); got != "" {
		t.Errorf("drop_partitions without a reader: %s", got)
	}
}

// TestNothingInTheWay: temporary tables and functions of the caller do not
// stand in for what the owner's functions mean.
func TestNothingInTheWay(t *testing.T) {
	conn := connect(t, testpg.NewAs(t, "mailquotad"))
	for _, sql := range []string{
		`CREATE TEMPORARY TABLE messages (at timestamptz) PARTITION BY RANGE (at)`,
		`CREATE TEMPORARY TABLE messages_20260101 ()`,
		`CREATE TEMPORARY TABLE pg_inherits (inhparent oid, inhrelid oid)`,
		`CREATE FUNCTION pg_temp.to_char(date, text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE ''mine''; END'`,
		`CREATE FUNCTION pg_temp.to_regclass(text) RETURNS regclass LANGUAGE plpgsql AS 'BEGIN RAISE ''mine''; END'`,
		`SET search_path = pg_temp, public`,
		`SELECT make_partitions('2026-01-01', 1)`,
	} {
		exec1(t, conn, sql)
	}
	exec1(t, conn, strings.Replace(insertAt("2026-01-01 12:00Z"), "INTO messages", "INTO public.messages", 1))
	if got := names(t, conn, `SELECT drop_partitions('2026-01-02')::text`)[0]; got != "1" {
		t.Errorf("%s dropped, want 1", got)
	}
}
