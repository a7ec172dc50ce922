package sqlschema_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/pgcluster"
	"sendmail-wrapper/tests/testpg"
)

func TestMain(m *testing.M) { testpg.Main(m) }

func connect(t *testing.T, connString string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), connString)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(t.Context()) })
	return conn
}

func exec1(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// names returns the one column of a query.
func names(t *testing.T, conn *pgx.Conn, sql string) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return list
}

func readSchema(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// dump is what pg_dump says of a database, without what differs each time.
func dump(t *testing.T, connString string, args ...string) string {
	t.Helper()
	bin, err := pgcluster.Find()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(bin, "pg_dump"), append(args, connString)...).CombinedOutput()
	if err != nil {
		t.Fatalf("pg_dump: %v\n%s", err, out)
	}
	return regexp.MustCompile(`(?m)^\\(un)?restrict .*\n`).ReplaceAllString(string(out), "")
}

// TestSchemaIsAllMigrations: schema.sql, which people read, and the migrations,
// which run, make the same database.
func TestSchemaIsAllMigrations(t *testing.T) {
	migrated, fresh := testpg.New(t), testpg.Empty(t)
	exec1(t, connect(t, fresh), readSchema(t))
	if diff := cmp.Diff(dump(t, migrated, "--schema-only"), dump(t, fresh, "--schema-only")); diff != "" {
		t.Errorf("schema (-migrations +schema.sql):\n%s", diff)
	}
	rows := []string{"--data-only", "--inserts", "--exclude-table-data=schema_version"}
	if diff := cmp.Diff(dump(t, migrated, rows...), dump(t, fresh, rows...)); diff != "" {
		t.Errorf("rows (-migrations +schema.sql):\n%s", diff)
	}
}

// plain are columns whose names say all that there is to say.
var plain = map[string]bool{
	"id": true, "name": true, "removed_at": true, "at": true, "address": true, "host": true, "uid": true, "version": true,
	"host_id": true, "plan_id": true, "subscription_id": true, "domain_id": true, "mailbox_id": true, "user_id": true,
	"sender": true, "kind": true, "script": true, "before": true, "after": true, "why": true,
	"mode": true, "object_id": true, "script_proof": true, "crontab_proof": true, "site_proof": true, // as kind_proof, which says so
	"messages_hour": true, "messages_day": true, "recipients_hour": true, "recipients_day": true, "recipients_message": true,
}

func TestComments(t *testing.T) {
	conn := connect(t, testpg.New(t))
	for _, table := range names(t, conn, `SELECT relname::text FROM pg_class
		 WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND obj_description(oid, 'pg_class') IS NULL`) {
		t.Errorf("table %s has no comment", table)
	}
	for _, function := range names(t, conn, `SELECT proname::text FROM pg_proc
		 WHERE pronamespace = 'public'::regnamespace AND obj_description(oid, 'pg_proc') IS NULL`) {
		t.Errorf("function %s has no comment", function)
	}
	for _, column := range names(t, conn, `SELECT c.relname || '.' || a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
		 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
		   AND col_description(c.oid, a.attnum) IS NULL`) {
		if _, name, _ := strings.Cut(column, "."); !plain[name] {
			t.Errorf("column %s has no comment", column)
		}
	}
}

// TestNames: PostgreSQL made up no name of a constraint or an index, so that a
// later migration can count on them.
func TestNames(t *testing.T) {
	conn, text := connect(t, testpg.New(t)), readSchema(t)
	found := names(t, conn, `SELECT 'CONSTRAINT ' || conname FROM pg_constraint
		 WHERE connamespace = 'public'::regnamespace AND contype <> 'n' -- NOT NULL, which have a name from PostgreSQL 18 on
		UNION ALL SELECT 'INDEX ' || indexname FROM pg_indexes
		 WHERE schemaname = 'public' AND indexname NOT IN (SELECT conname FROM pg_constraint)`)
	if len(found) < 20 {
		t.Errorf("only %d names found: %v", len(found), found)
	}
	for _, name := range found {
		if !strings.Contains(text, name+" ") {
			t.Errorf("%s: no name of ours", name)
		}
	}
}

// TestForeignKeysHaveIndexes: without one each removal reads the whole table.
func TestForeignKeysHaveIndexes(t *testing.T) {
	conn := connect(t, testpg.New(t))
	for _, name := range names(t, conn, `SELECT c.conname::text FROM pg_constraint c
		 WHERE c.contype = 'f' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.conrelid AND i.indkey[0] = c.conkey[1])`) {
		t.Errorf("foreign key %s has no index", name)
	}
}
