// Package testpg gives each test a PostgreSQL database of its own: a real
// server, started once a test program on first use, with a template that has the
// schema and is cloned for each test. The server ends with the program, also if
// that is killed; it does not survive a crash of the machine, as fsync is off.
package testpg

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/pgcluster"
	"sendmail-wrapper/sqlschema"
)

// Main runs a program's tests and stops the server at their end. Every program
// that uses this package calls it:
//
//	func TestMain(m *testing.M) { testpg.Main(m) }
func Main(m *testing.M) { os.Exit(Run(m)) }

// Run is Main for a program that has more to do; it returns the exit status.
func Run(m *testing.M) int {
	defer shared.stop()
	return m.Run()
}

// New returns a connection string to a fresh database with the schema, as its
// owner. The database goes with the test.
func New(t testing.TB) string { return NewAs(t, pgcluster.OwnerRole) }

// NewAs is New as another role: "mailquotad", or "postgres", the superuser. As
// gives the string for a second role.
func NewAs(t testing.TB, role string) string {
	t.Helper()
	s := shared.start(t)
	name := fmt.Sprintf("test%d", s.count.Add(1))
	s.exec(t, `CREATE DATABASE `+name+` TEMPLATE `+pgcluster.Database+` OWNER `+pgcluster.OwnerRole)
	s.exec(t, `GRANT CONNECT ON DATABASE `+name+` TO `+pgcluster.DaemonRole)
	t.Cleanup(func() { s.exec(t, `DROP DATABASE `+name+` WITH (FORCE)`) })
	return s.connString(role, name)
}

// As is the same database for another role.
func As(connString, role string) string {
	config, err := pgx.ParseConfig(connString)
	if err != nil {
		panic(err) // a string of New's
	}
	return fmt.Sprintf("host=%s user=%s dbname=%s", config.Host, role, config.Database)
}

// Empty returns a connection string to a fresh database without a schema, as
// its owner.
func Empty(t testing.TB) string {
	t.Helper()
	s := shared.start(t)
	name := fmt.Sprintf("empty%d", s.count.Add(1))
	s.exec(t, `CREATE DATABASE `+name+` TEMPLATE `+emptyTemplate+` OWNER `+pgcluster.OwnerRole)
	t.Cleanup(func() { s.exec(t, `DROP DATABASE `+name+` WITH (FORCE)`) })
	return s.connString(pgcluster.OwnerRole, name)
}

// emptyTemplate is the database as it is before the first migration.
const emptyTemplate = "empty"

type server struct {
	once    sync.Once
	mu      sync.Mutex // CREATE DATABASE wants its template to itself
	dir     string
	lock    *os.File // of dir, held until this process ends
	cluster *pgcluster.Cluster
	running *pgcluster.Server
	count   atomic.Int64
	err     error
}

var shared server

func (s *server) start(t testing.TB) *server {
	t.Helper()
	s.once.Do(func() { s.err = s.boot() })
	if s.err != nil {
		t.Fatalf("PostgreSQL for tests: %v", s.err)
	}
	return s
}

func (s *server) boot() (err error) {
	me, err := user.Current()
	if err != nil {
		return err
	}
	if s.dir, s.lock, err = claimDir(); err != nil {
		return err
	}
	s.cluster = &pgcluster.Cluster{
		DataDir: filepath.Join(s.dir, "data"), SocketDir: filepath.Join(s.dir, "s"),
		User: "postgres", Admins: []string{me.Username},
		// Only the tests of outages need a server that survives one.
		Settings: map[string]string{"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "100",
			"max_prepared_transactions": "2"},
	}
	ctx := context.Background()
	if err := s.cluster.Init(ctx); err != nil {
		return err
	}
	if s.running, err = s.cluster.Start(ctx); err != nil {
		return err
	}
	if err := pgcluster.CreateDatabase(ctx, s.connString("postgres", "postgres")); err != nil {
		return err
	}
	if err := s.run(ctx, `CREATE DATABASE `+emptyTemplate+` TEMPLATE `+pgcluster.Database); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, s.connString(pgcluster.OwnerRole, pgcluster.Database))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, _, err = sqlschema.Migrate(ctx, conn)
	return err
}

func (s *server) connString(role, database string) string {
	return fmt.Sprintf("host=%s user=%s dbname=%s", s.cluster.SocketDir, role, database)
}

func (s *server) exec(t testing.TB, sql string) {
	t.Helper()
	if err := s.run(context.Background(), sql); err != nil {
		t.Fatal(err)
	}
}

// run runs a statement as superuser.
func (s *server) run(ctx context.Context, sql string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	conn, err := pgx.Connect(ctx, s.connString("postgres", "postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

func (s *server) stop() {
	if s.running != nil {
		if err := s.running.Abort(); err != nil {
			fmt.Fprintln(os.Stderr, "stop PostgreSQL:", err)
		}
	}
	if s.dir != "" {
		os.RemoveAll(s.dir)
	}
}
