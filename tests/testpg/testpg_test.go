package testpg_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/tests/testpg"
)

func TestMain(m *testing.M) { testpg.Main(m) }

func ask(t testing.TB, connString, sql string) (answer string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), connString)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := conn.QueryRow(t.Context(), sql).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return answer
}

// TestOwn: each database is fresh, has the schema, and is gone with its test.
func TestOwn(t *testing.T) {
	var database string
	t.Run("test", func(t *testing.T) {
		database = testpg.New(t)
		if got := ask(t, database, `INSERT INTO subscription (plan_id, name) SELECT id, 'alice' FROM plan WHERE name = 'default' RETURNING current_user::text`); got != "mailquota" {
			t.Errorf("role %s", got)
		}
		other := testpg.NewAs(t, "mailquotad")
		if got := ask(t, other, `SELECT current_user || count(*) FROM subscription`); got != "mailquotad0" {
			t.Errorf("role and subscriptions %s", got)
		}
		if got := ask(t, testpg.As(database, "mailquotad"), `SELECT current_user || count(*) FROM subscription`); got != "mailquotad1" {
			t.Errorf("role and subscriptions %s", got)
		}
		if got := ask(t, testpg.Empty(t), `SELECT count(*)::text FROM pg_class WHERE relnamespace = 'public'::regnamespace`); got != "0" {
			t.Errorf("an empty database has %s tables", got)
		}
	})
	if conn, err := pgx.Connect(t.Context(), database); err == nil {
		conn.Close(t.Context())
		t.Error("the database outlived its test")
	}
}

func TestAtOnce(t *testing.T) {
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() { ask(t, testpg.New(t), `SELECT name FROM plan WHERE name = 'default'`) })
	}
	wg.Wait()
}

// TestNothingIsLeft: this program, run again, leaves no directory behind, and
// takes away that of one that was killed, but none that is in use.
func TestNothingIsLeft(t *testing.T) {
	testpg.New(t) // ours is in use
	temp, err := os.MkdirTemp("", "t")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(temp) })
	if err := os.Chmod(temp, 0o711); err != nil {
		t.Fatal(err)
	}
	abandoned := filepath.Join(temp, "testpg-1")
	if err := os.MkdirAll(filepath.Join(abandoned, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(abandoned, "lock"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	again := exec.Command("/proc/self/exe", "-test.run=^TestAtOnce$")
	again.Env = append(os.Environ(), "TMPDIR="+temp)
	if out, err := again.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
		t.Fatalf("%v\n%s", err, out)
	}
	left, err := os.ReadDir(temp)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		t.Errorf("left behind: %s", entry.Name())
	}
	ask(t, testpg.New(t), `SELECT 'goes on'`)
}

// BenchmarkNew is the time until a test has its database.
func BenchmarkNew(b *testing.B) {
	testpg.New(b)
	for b.Loop() {
		testpg.New(b)
	}
}
