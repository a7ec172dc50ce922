package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sys/unix"

	"sendmail-wrapper/pgcluster"
	"sendmail-wrapper/sqlschema"
)

// postgres is a cluster of a test's own, durable as in production.
type postgres struct {
	cluster *pgcluster.Cluster
	server  *pgcluster.Server // nil: does not run
}

// template is the data directory that each cluster is a copy of.
var template = sync.OnceValues(func() (string, error) {
	p, err := makePostgres(filepath.Join(workDir, "template"))
	if err != nil {
		return "", err
	}
	ctx := context.Background()
	if err := p.cluster.Init(ctx); err != nil {
		return "", err
	}
	// For pg_basebackup and a standby, which run as this user.
	hba, err := os.OpenFile(filepath.Join(p.cluster.DataDir, "pg_hba.conf"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return "", err
	}
	defer hba.Close()
	if _, err := hba.WriteString("local replication all peer map=mailquota\n"); err != nil {
		return "", err
	}
	if p.server, err = p.cluster.Start(ctx); err != nil {
		return "", err
	}
	defer p.server.Abort()
	if err := pgcluster.CreateDatabase(ctx, "host="+p.cluster.SocketDir+" user=postgres dbname=postgres"); err != nil {
		return "", err
	}
	owner, err := pgx.Connect(ctx, p.as(pgcluster.OwnerRole))
	if err != nil {
		return "", err
	}
	defer owner.Close(ctx)
	if _, _, err := sqlschema.Migrate(ctx, owner); err != nil {
		return "", err
	}
	// As mailctl database init leaves it.
	if _, err := owner.Exec(ctx, `SELECT make_partitions((now() AT TIME ZONE 'UTC')::date - 1, 9)`); err != nil {
		return "", err
	}
	if err := owner.Close(ctx); err != nil {
		return "", err
	}
	return p.cluster.DataDir, p.server.Stop()
})

func makePostgres(dir string) (*postgres, error) {
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o711); err != nil {
		return nil, err
	}
	return &postgres{cluster: &pgcluster.Cluster{
		DataDir: filepath.Join(dir, "data"), SocketDir: filepath.Join(dir, "s"),
		User: "postgres", Admins: []string{me.Username, "postgres"},
		Settings: map[string]string{"shared_buffers": "16MB", "max_connections": "60", "max_wal_size": "256MB"},
	}}, nil
}

// newPostgres starts a cluster with the schema, in a directory of the test's.
func newPostgres(t *testing.T) *postgres {
	t.Helper()
	p := newStoppedPostgres(t)
	p.start(t)
	return p
}

func newStoppedPostgres(t *testing.T) *postgres {
	t.Helper()
	return newPostgresIn(t, testDir(t))
}

// newPostgresIn makes a cluster in a directory, and does not start it.
func newPostgresIn(t *testing.T, dir string) *postgres {
	t.Helper()
	p := &postgres{}
	from, err := template()
	if err == nil {
		p, err = makePostgres(filepath.Join(dir, "postgres"))
	}
	if err != nil {
		t.Fatalf("PostgreSQL for tests: %v", err)
	}
	command(t, "cp", "-a", from, p.cluster.DataDir)
	p.configure(t, "unix_socket_directories", p.cluster.SocketDir)
	p.show(t)
	t.Cleanup(p.end)
	return p
}

// configure puts a line behind those of postgresql.conf: it wins.
func (p *postgres) configure(t *testing.T, key, value string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(p.cluster.DataDir, "postgresql.conf"), os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = fmt.Fprintf(f, "%s = '%s'\n", key, value)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (p *postgres) as(role string) string {
	return fmt.Sprintf("host=%s user=%s dbname=%s", p.cluster.SocketDir, role, pgcluster.Database)
}

// forHosts is the string that daemons connect by: hide and show say whether they
// find the cluster. The tests themselves always do.
func (p *postgres) forHosts() string {
	return fmt.Sprintf("host=%s user=%s dbname=%s", p.link(), pgcluster.DaemonRole, pgcluster.Database)
}

func (p *postgres) link() string { return filepath.Join(filepath.Dir(p.cluster.DataDir), "for-hosts") }

func (p *postgres) hide(t *testing.T) { t.Helper(); must(t, os.Remove(p.link())) }

func (p *postgres) show(t *testing.T) { t.Helper(); must(t, os.Symlink(p.cluster.SocketDir, p.link())) }

func (p *postgres) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var err error
	if p.server, err = p.cluster.Start(ctx); err != nil {
		t.Fatal(err)
	}
}

// stop is pg_ctl stop -m fast.
func (p *postgres) stop(t *testing.T) {
	t.Helper()
	if err := p.server.Stop(); err != nil {
		t.Fatal(err)
	}
	p.server = nil
}

// kill ends all processes of the cluster as if the power were cut, but for what
// the kernel has still to write: none of them does anything more, and those that
// were told to stop cannot clean up.
func (p *postgres) kill(t *testing.T) {
	t.Helper()
	pid := p.server.PID()
	err := unix.Kill(pid, unix.SIGSTOP) // it starts no more
	var list []byte
	if err == nil {
		list, err = os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	}
	if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrNotExist) {
		p.end() // it has ended by itself
		return
	}
	must(t, err)
	var children []int // as pidfds
	for _, field := range strings.Fields(string(list)) {
		child, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.PidfdOpen(child, 0)
		if err == unix.ESRCH {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		children = append(children, fd)
	}
	must(t, unix.Kill(pid, unix.SIGKILL))
	for _, fd := range children {
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
			t.Fatal(err)
		}
	}
	p.end()
	for _, fd := range children { // readable when the process has ended
		wait := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if err := noEINTR(func() error { _, err := unix.Poll(wait, int(patience.Milliseconds())); return err }); err != nil {
			t.Fatal(err)
		}
	}
}

// end waits for the end of a server that dies, or makes it die.
func (p *postgres) end() {
	if p.server != nil {
		p.server.Abort()
		p.server = nil
	}
}

// connect returns connections as a role; they end with the test.
func (p *postgres) connect(t *testing.T, role string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), p.as(role))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// exec runs statements as the owner.
func (p *postgres) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	p.execAs(t, pgcluster.OwnerRole, sql, args...)
}

func (p *postgres) execAs(t *testing.T, role, sql string, args ...any) {
	t.Helper()
	conn := p.dial(t, role)
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (p *postgres) dial(t *testing.T, role string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.as(role))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// number asks, as the superuser, for one number.
func (p *postgres) number(t *testing.T, sql string, args ...any) (n int64) {
	t.Helper()
	conn := p.dial(t, "postgres")
	defer conn.Close(context.Background())
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// awaitNumber asks until the number is what is wanted.
func (p *postgres) awaitNumber(t *testing.T, want int64, sql string, args ...any) {
	t.Helper()
	await(t, fmt.Sprintf("%s to be %d", sql, want), func() bool { return p.number(t, sql, args...) == want })
}

// waitingForLocks is the number of connections that wait for a lock.
const waitingForLocks = `SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted`

// holdLock locks usage rows as a foreign transaction, until release is called.
func (p *postgres) holdLock(t *testing.T, where string) (release func()) {
	t.Helper()
	conn := p.dial(t, "postgres")
	if _, err := conn.Exec(t.Context(), `SET idle_in_transaction_session_timeout = 0; BEGIN; SELECT FROM usage WHERE `+where+` FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() { conn.Close(context.Background()) })
	t.Cleanup(release)
	return release
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func noEINTR(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// patience is how long anything may take that must happen. It is far longer
// than anything does, so that a slow machine fails no test.
const patience = 2 * time.Minute

// await asks again and again until something holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
