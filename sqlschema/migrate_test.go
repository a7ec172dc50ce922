package sqlschema_test

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

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
	want := []string{"1 create_schema"}
	if diff := cmp.Diff(want, names(t, connect(t, database), `SELECT version || ' ' || name FROM schema_version ORDER BY version`)); diff != "" {
		t.Errorf("schema_version (-want +got):\n%s", diff)
	}
}

// later adds migrations to the real ones.
func later(t *testing.T, add map[string]string) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	for name, text := range add {
		files["migrations/"+name] = &fstest.MapFile{Data: []byte(text)}
	}
	files["migrations/001_create_schema.sql"] = &fstest.MapFile{Data: []byte(readSchema(t))}
	return files
}

// TestMigrateKeepsData: a database with rows gets two steps of which the second
// fails: the first stays, nothing of the second does, and a right second one
// can follow.
func TestMigrateKeepsData(t *testing.T) {
	database := testpg.New(t)
	conn := connect(t, database)
	exec1(t, conn, `INSERT INTO subscription (plan_id, name) SELECT id, 'alice' FROM plan WHERE name = 'default'`)

	steps := map[string]string{
		"002_add_note.sql":   `ALTER TABLE subscription ADD note text; UPDATE subscription SET note = 'hers' WHERE name = 'alice'`,
		"003_drop_notes.sql": `ALTER TABLE subscription DROP note; ALTER TABLE subscription DROP nonsense`,
	}
	from, to, err := sqlschema.MigrateFiles(t.Context(), conn, later(t, steps))
	if from != 1 || to != 2 || err == nil || !strings.Contains(err.Error(), "migration 003_drop_notes") {
		t.Errorf("from %d to %d, %v; want from 1 to 2 and what failed", from, to, err)
	}
	if got := names(t, conn, `SELECT note FROM subscription WHERE name = 'alice'`); len(got) != 1 || got[0] != "hers" {
		t.Errorf("note %q", got)
	}
	steps["003_drop_notes.sql"] = `ALTER TABLE subscription DROP note`
	if from, to, err := sqlschema.MigrateFiles(t.Context(), conn, later(t, steps)); from != 2 || to != 3 || err != nil {
		t.Errorf("from %d to %d, %v; want from 2 to 3", from, to, err)
	}
	if got := names(t, conn, `SELECT name FROM subscription`); len(got) != 1 || got[0] != "alice" {
		t.Errorf("subscriptions %q", got)
	}

	// That is newer now than what this program knows.
	var version *sqlschema.VersionError
	if _, _, err := sqlschema.Migrate(t.Context(), conn); !errors.As(err, &version) || version.Have != 3 {
		t.Errorf("migrate a newer schema: %v", err)
	}
	if _, err := sqlschema.Open(t.Context(), database); !errors.As(err, &version) || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("open a newer schema: %v", err)
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
	defer pool.Close()
	want := map[string]string{"timezone": "UTC", "statement_timeout": "30s", "idle_in_transaction_session_timeout": "30s", "application_name": "sendmail-wrapper"}
	got := map[string]string{}
	for name := range want {
		got[name] = show(t, pool, name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}

	// What the administrator wrote into the string comes first.
	own, err := sqlschema.Open(t.Context(), database+" application_name=mine statement_timeout=1000")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if name, timeout := show(t, own, "application_name"), show(t, own, "statement_timeout"); name != "mine" || timeout != "1s" {
		t.Errorf("application_name %s, statement_timeout %s", name, timeout)
	}

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

func show(t *testing.T, db interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}, setting string) (value string) {
	t.Helper()
	if err := db.QueryRow(t.Context(), `SHOW `+setting).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}
