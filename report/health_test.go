package report_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/report"
	"sendmail-wrapper/sqlschema"
	"sendmail-wrapper/tests/testpg"
)

// TestHealth: who keeps the database from clearing away dead counters is named
// with all that is needed to find him, and with what ends it.
func TestHealth(t *testing.T) {
	database := testpg.NewAs(t, "mailquotad")
	pool, err := sqlschema.Open(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	super := dial(t, testpg.As(database, "postgres"))
	expect := func(want ...string) {
		t.Helper()
		awaitHealth(t, pool, func(h *report.Health) bool {
			got := strings.Join(h.Problems(), "\n")
			for _, w := range want {
				if !strings.Contains(got, w) {
					return false
				}
			}
			return len(want) > 0 || got == ""
		})
	}
	day := query(t, super, `SELECT ((now() AT TIME ZONE 'UTC')::date + 1)::text`)
	expect("there is no partition for " + day + ": does mailquotad run?")
	query(t, super, `SELECT make_partitions((now() AT TIME ZONE 'UTC')::date, 3)::text`)
	expect()

	// Old snapshots: of a report that was forgotten, of a writer, of a transaction
	// that a coordinator lost; not the ones of each decision.
	idle := dial(t, database+" application_name=forgotten")
	exec(t, idle, `BEGIN ISOLATION LEVEL REPEATABLE READ`)
	exec(t, idle, `SELECT FROM usage`)
	writer := dial(t, database+" application_name=writer")
	exec(t, writer, `BEGIN`)
	exec(t, writer, `INSERT INTO host (name) VALUES ('x')`)
	lost := dial(t, database)
	exec(t, lost, `BEGIN`)
	exec(t, lost, `INSERT INTO host (name) VALUES ('y')`)
	exec(t, lost, `PREPARE TRANSACTION 'lost''s'`)
	t.Cleanup(func() { exec(t, lost, `ROLLBACK PREPARED 'lost''s'`) })
	exec(t, super, `INSERT INTO usage (id) SELECT generate_series(1, 20000)`)
	exec(t, super, `DELETE FROM usage`)
	expect(
		fmt.Sprintf("an old snapshot of the database slows down all mail: session, pid %d, user mailquotad, application forgotten, client local, idle in transaction, since 20", idle.PgConn().PID()),
		fmt.Sprintf(": SELECT pg_terminate_backend(%d)", idle.PgConn().PID()),
		fmt.Sprintf("session, pid %d, user mailquotad, application writer, ", writer.PgConn().PID()),
		"prepared transaction, user mailquotad, application lost's, prepared, since 20", ": ROLLBACK PREPARED 'lost''s'",
		"table usage has 20000 dead rows for 0 live ones")

	h, err := report.CheckHealth(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Snapshots) != 3 || h.Snapshots[0].Application == nil || *h.Snapshots[0].Application != "forgotten" {
		t.Errorf("not the oldest of three first: %v", h.Problems())
	}

	// Without the right to, others' sessions are not seen, and that is said.
	exec(t, super, `REVOKE pg_read_all_stats FROM mailquotad`)
	defer exec(t, super, `GRANT pg_read_all_stats TO mailquotad`)
	expect("let an administrator of the database type GRANT pg_read_all_stats TO mailquotad")
}

// awaitHealth asks until the answer is right, or the test's time is over.
func awaitHealth(t *testing.T, pool *pgxpool.Pool, isRight func(*report.Health) bool) {
	t.Helper()
	for {
		h, err := report.CheckHealth(t.Context(), pool)
		if err != nil {
			t.Fatal(err)
		}
		if isRight(h) {
			return
		}
		if _, err := pool.Exec(t.Context(), `SELECT pg_sleep(0.1)`); err != nil { // others want to compute as well
			t.Fatal(err)
		}
	}
}

func dial(t *testing.T, database string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(context.WithoutCancel(t.Context()), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func query(t *testing.T, conn *pgx.Conn, sql string) (answer string) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), sql).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return answer
}
