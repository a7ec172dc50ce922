package sqlschema_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sendmail-wrapper/sqlschema"
	"sendmail-wrapper/tests/testpg"
)

// TestMigrateAtOnce: of many that migrate one database at a time, one does it.
func TestMigrateAtOnce(t *testing.T) {
	database := testpg.Empty(t)
	const n = 8
	type result struct {
		from, to int
		err      error
	}
	results := make(chan result)
	for range n {
		conn := connect(t, database)
		go func() {
			from, to, err := sqlschema.Migrate(t.Context(), conn)
			results <- result{from, to, err}
		}()
	}
	made := 0
	for range n {
		r := <-results
		if r.err != nil || r.to != sqlschema.Latest() {
			t.Errorf("migrated to %d, %v", r.to, r.err)
		}
		if r.from == 0 {
			made++
		}
	}
	if made != 1 {
		t.Errorf("%d made the schema, want 1", made)
	}
	want := []string{"1 create_schema", "2 add_epoch", "3 ease_retention", "4 add_usage_version", "5 add_facts_and_details", "6 add_control", "7 add_smtp"}
	if diff := cmp.Diff(want, names(t, connect(t, database), `SELECT version || ' ' || name FROM schema_version ORDER BY version`)); diff != "" {
		t.Errorf("schema_version (-want +got):\n%s", diff)
	}
}

// later adds migrations, by verb and noun and in this order, to the real ones.
func later(t *testing.T, add ...[2]string) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	paths, err := filepath.Glob("migrations/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[path] = &fstest.MapFile{Data: text}
	}
	for i, m := range add {
		files[fmt.Sprintf("migrations/%03d_%s.sql", len(paths)+1+i, m[0])] = &fstest.MapFile{Data: []byte(m[1])}
	}
	return files
}

// upTo is the real migrations as a program of an earlier version had them.
func upTo(t *testing.T, version int) fstest.MapFS {
	t.Helper()
	files := later(t)
	for path := range files {
		if path >= fmt.Sprintf("migrations/%03d", version+1) {
			delete(files, path)
		}
	}
	return files
}

// TestFromVersion4: rows stay as they were, old partitions take facts, and what a
// daemon of version 4 that is still running says works on, in its connections of
// before and with the statements that it prepared there.
func TestFromVersion4(t *testing.T) {
	database := testpg.Empty(t)
	owner := connect(t, database)
	if _, _, err := sqlschema.MigrateFiles(t.Context(), owner, upTo(t, 4)); err != nil {
		t.Fatal(err)
	}
	exec1(t, connect(t, testpg.As(database, "postgres")), `GRANT CONNECT ON DATABASE `+owner.Config().Database+` TO mailquotad`)
	old := connect(t, testpg.As(database, "mailquotad"))
	insert := strings.Replace(insertMessage, "%", "$1", 1)
	day := `(now() AT TIME ZONE 'UTC')::date`
	for _, sql := range []string{`SELECT make_partitions(` + day + ` - 40, 2)`, `SELECT make_partitions(` + day + ` - 1, 9)`} {
		exec1(t, old, sql)
	}
	daysAgo := func(n int) time.Time { return time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -n).Add(time.Hour) }
	for _, n := range []int{40, 39, 1, 0} {
		exec1(t, old, insert, daysAgo(n))
	}
	rows := func() string {
		return strings.Join(names(t, old, `SELECT at || ' ' || id || ' ' || sender || ' ' || decision FROM messages ORDER BY at`), "\n")
	}
	before := rows()

	if from, to, err := sqlschema.Migrate(t.Context(), owner); from != 4 || to != sqlschema.Latest() || err != nil {
		t.Fatalf("from %d to %d, %v", from, to, err)
	}
	if diff := cmp.Diff(before, rows()); diff != "" {
		t.Errorf("rows (-before +after):\n%s", diff)
	}
	exec1(t, old, insert, daysAgo(0))
	exec1(t, old, `SELECT make_partitions(day, 1) FROM (SELECT DISTINCT day FROM unnest($1::date[]) k(day)) k`, []time.Time{daysAgo(0), daysAgo(-8)})
	for _, want := range []string{"1", "1", "0"} {
		if got := names(t, old, `SELECT drop_partitions(`+day+` - 31)::text`)[0]; got != want {
			t.Errorf("%s dropped, want %s", got, want)
		}
	}
	exec1(t, old, `INSERT INTO messages (at, id, size, host_id, recipients, decision, sender, kind, facts)
		VALUES ($1, gen_random_uuid(), 1, 1, 1, 1, 'x', 'cron', '{"unit": ["cron.service", "kernel"]}')`, daysAgo(1))
	if got := names(t, old, `SELECT facts->'unit'->>0 FROM messages WHERE facts IS NOT NULL`); len(got) != 1 || got[0] != "cron.service" {
		t.Errorf("facts %q", got)
	}

	// All partitions have the same columns in the same order, old ones and new.
	if got := names(t, owner, `SELECT DISTINCT string_agg(a.attname, ',' ORDER BY a.attnum) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
		WHERE a.attnum > 0 AND c.relname ~ '^messages(_[0-9]{8})?$' GROUP BY c.oid`); len(got) != 1 {
		t.Errorf("columns of partitions differ: %q", got)
	}
}

// TestMigrateKeepsData: a database with rows gets two steps of which the second
// fails: the first stays, nothing of the second does, and a right second one
// can follow.
func TestMigrateKeepsData(t *testing.T) {
	database := testpg.New(t)
	conn := connect(t, database)
	exec1(t, conn, `INSERT INTO subscription (plan_id, name) SELECT id, 'alice' FROM plan WHERE name = 'default'`)

	n := sqlschema.Latest()
	addNote := [2]string{"add_note", `ALTER TABLE subscription ADD note text; UPDATE subscription SET note = 'hers' WHERE name = 'alice'`}
	broken := [2]string{"drop_notes", `ALTER TABLE subscription DROP note; ALTER TABLE subscription DROP nonsense`}
	from, to, err := sqlschema.MigrateFiles(t.Context(), conn, later(t, addNote, broken))
	if from != n || to != n+1 || err == nil || !strings.Contains(err.Error(), fmt.Sprintf("migration %03d_drop_notes", n+2)) {
		t.Errorf("from %d to %d, %v; want from %d to %d and what failed", from, to, err, n, n+1)
	}
	if got := names(t, conn, `SELECT note FROM subscription WHERE name = 'alice'`); len(got) != 1 || got[0] != "hers" {
		t.Errorf("note %q", got)
	}
	right := [2]string{"drop_notes", `ALTER TABLE subscription DROP note`}
	if from, to, err := sqlschema.MigrateFiles(t.Context(), conn, later(t, addNote, right)); from != n+1 || to != n+2 || err != nil {
		t.Errorf("from %d to %d, %v; want from %d to %d", from, to, err, n+1, n+2)
	}
	if got := names(t, conn, `SELECT name FROM subscription`); len(got) != 1 || got[0] != "alice" {
		t.Errorf("subscriptions %q", got)
	}

	// That is newer now than what this program knows.
	var version *sqlschema.VersionError
	if _, _, err := sqlschema.Migrate(t.Context(), conn); !errors.As(err, &version) || version.Have != n+2 {
		t.Errorf("migrate a newer schema: %v", err)
	}
	if _, err := sqlschema.Open(t.Context(), database); !errors.As(err, &version) || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("open a newer schema: %v", err)
	}
}

// TestOldPartitions get the settings that new ones are made with.
func TestOldPartitions(t *testing.T) {
	database := testpg.Empty(t)
	conn := connect(t, database)
	if _, _, err := sqlschema.MigrateFiles(t.Context(), conn, upTo(t, 2)); err != nil {
		t.Fatal(err)
	}
	exec1(t, conn, `SELECT make_partitions('2026-01-01', 1)`)
	if _, _, err := sqlschema.Migrate(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	exec1(t, conn, `SELECT make_partitions('2026-01-02', 1)`)
	options := names(t, conn, `SELECT coalesce(reloptions::text, 'none') FROM pg_class WHERE relname ~ '^messages_[0-9]{8}$'`)
	if len(options) != 2 || options[0] != options[1] || !strings.Contains(options[0], "autovacuum_freeze_min_age=0") {
		t.Errorf("settings %q", options)
	}
}

// TestMigrateAs: only the owner of the database can, and is told what is missing.
func TestMigrateAs(t *testing.T) {
	database := testpg.Empty(t)
	super := connect(t, testpg.As(database, "postgres"))
	try := func(role string) error {
		_, _, err := sqlschema.Migrate(t.Context(), connect(t, testpg.As(database, role)))
		return err
	}
	expect := func(err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	expect(try("mailquotad"), "connect as its owner")
	expect(try("postgres"), "is a superuser")

	exec1(t, super, `GRANT CREATE ON SCHEMA public TO PUBLIC`) // as before PostgreSQL 15
	expect(try("mailquota"), "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	exec1(t, super, `REVOKE CREATE ON SCHEMA public FROM PUBLIC`)

	exec1(t, super, `ALTER ROLE mailquotad RENAME TO elsewhere`)
	err := try("mailquota")
	exec1(t, super, `ALTER ROLE elsewhere RENAME TO mailquotad`)
	expect(err, "CREATE ROLE mailquotad LOGIN")

	if n := len(names(t, super, `SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace`)); n > 0 {
		t.Errorf("%d things were made", n)
	}
	if err := try("mailquota"); err != nil {
		t.Error(err)
	}
}

func TestMigrationNames(t *testing.T) {
	conn := connect(t, testpg.Empty(t))
	for _, tt := range []struct{ name, files, want string }{
		{"a gap", "001_make_it.sql 003_change_it.sql", "must be called 002_verb_noun.sql"},
		{"a number twice", "001_make_it.sql 001_change_it.sql", "must be called 002_verb_noun.sql"},
		{"no first", "002_change_it.sql", "must be called 001_verb_noun.sql"},
		{"no name", "001.sql", "must be called 001_verb_noun.sql"},
		{"no number", "make_it.sql", "must be called 001_verb_noun.sql"},
		{"few digits", "1_make_it.sql", "must be called 001_verb_noun.sql"},
	} {
		dir := fstest.MapFS{}
		for file := range strings.FieldsSeq(tt.files) {
			dir["migrations/"+file] = &fstest.MapFile{Data: []byte(`CREATE TABLE IF NOT EXISTS t ()`)}
		}
		_, _, err := sqlschema.MigrateFiles(t.Context(), conn, fs.FS(dir))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestOpen(t *testing.T) {
	database := testpg.New(t)
	pool, err := sqlschema.Open(t.Context(), testpg.As(database, "mailquotad"))
	if err != nil {
		t.Fatal(err)
	}
	pool.Close()

	old := testpg.New(t)
	exec1(t, connect(t, old), `DELETE FROM schema_version`)
	for _, tt := range []struct{ name, database, want string }{
		{"no schema", testpg.Empty(t), "mailctl database init"},
		{"no server", "host=/nonexistent user=x dbname=x", "/nonexistent"},
		{"no such database", strings.Replace(database, "dbname=", "dbname=no", 1), "does not exist"},
		{"no connection string", "port=many", "database: "},
		{"no version", old, "mailctl database init"},
	} {
		if _, err := sqlschema.Open(t.Context(), tt.database); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if message := (&sqlschema.VersionError{Have: 1, Want: 2}).Error(); !strings.Contains(message, "mailctl database migrate") {
		t.Errorf("an old schema: %s", message)
	}
}
