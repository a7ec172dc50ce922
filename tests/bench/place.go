package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"sendmail-wrapper/pgcluster"
	"sendmail-wrapper/sqlschema"
)

// place is where everything lies: one directory on a disk, one cluster.
type place struct {
	dir       string
	lock      *os.File
	bin       string // where make build puts the programs
	cluster   *pgcluster.Cluster
	server    *pgcluster.Server
	databases map[string]bool // made so far
	daemons   []*daemon
	metrics   string // address of those of a daemon, see metricsAddress
}

// open makes the directory and the cluster, with the settings of the private
// cluster, but for the number of connections that pgbench takes.
func (b *bench) open(ctx context.Context) error {
	parent := os.Getenv("TMPDIR")
	if parent == "" {
		parent = "/var/tmp"
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(parent, &fs); err != nil {
		return fmt.Errorf("look at %s: %w", parent, err)
	}
	if fs.Type == unix.TMPFS_MAGIC {
		return fmt.Errorf("%s is in memory, where fsync costs nothing: set TMPDIR to a directory on a disk", parent)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < 20<<30 {
		return fmt.Errorf("%s has %d GB free: 20 are needed, set TMPDIR", parent, free>>30)
	}
	var err error
	if b.bin, err = filepath.Abs("bin"); err != nil {
		return err
	}
	b.databases = map[string]bool{}
	if err := b.claim(filepath.Join(parent, "sendmail-wrapper-bench")); err != nil {
		return err
	}
	me, err := user.Current()
	if err != nil {
		return err
	}
	b.cluster = &pgcluster.Cluster{DataDir: filepath.Join(b.dir, "data"), SocketDir: filepath.Join(b.dir, "s"), User: "postgres",
		Admins: []string{me.Username}, Settings: map[string]string{"max_connections": "100"}}
	b.say("making a database cluster in %s", b.dir)
	if err := b.makeCluster(ctx); err != nil {
		return errors.Join(err, b.close())
	}
	return nil
}

// claim takes the one directory: two runs at a time would measure each other.
// What a run that was killed left behind goes.
func (b *bench) claim(dir string) error {
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return fmt.Errorf("another make bench runs: %s: %w", lock.Name(), err)
	}
	b.dir, b.lock = dir, lock
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o711) // postgres and the callers pass through
}

func (b *bench) makeCluster(ctx context.Context) error {
	if err := b.cluster.Init(ctx); err != nil {
		return err
	}
	if err := b.startServer(ctx); err != nil {
		return err
	}
	if err := pgcluster.CreateDatabase(ctx, b.as("postgres", "postgres")); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, b.as(pgcluster.OwnerRole, pgcluster.Database))
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	if _, _, err = sqlschema.Migrate(ctx, conn); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `SELECT make_partitions((now() AT TIME ZONE 'UTC')::date - 1, 9)`) // as mailctl database init
	return err
}

func (b *bench) startServer(ctx context.Context) (err error) {
	b.server, err = b.cluster.Start(ctx)
	return err
}

func (b *bench) close() error {
	b.endDaemons()
	var err error
	if b.server != nil {
		err = b.server.Abort()
	}
	err = errors.Join(err, os.RemoveAll(b.dir))
	b.lock.Close()
	return err
}

func (b *bench) as(role, database string) string {
	return "host=" + b.cluster.SocketDir + " user=" + role + " dbname=" + database
}

// exec runs statements, each in a transaction of its own.
func (b *bench) exec(ctx context.Context, role, database string, statements ...string) error {
	conn, err := pgx.Connect(ctx, b.as(role, database))
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// ask returns the one number that a query asks for.
func (b *bench) ask(ctx context.Context, database, sql string, args ...any) (n int64, err error) {
	conn, err := pgx.Connect(ctx, b.as("postgres", database))
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.Background())
	// Statistics lag behind what was just written.
	if _, err := conn.Exec(ctx, `SET enable_seqscan = off`); err != nil {
		return 0, err
	}
	if err := conn.QueryRow(ctx, sql, args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("%s: %w", sql, err)
	}
	return n, nil
}

// rowsBetween counts the message rows of ids that were made in that time: ids
// are of version 7, which begin with the millisecond (RFC 9562, 5.7).
func (b *bench) rowsBetween(ctx context.Context, database string, from, to time.Time) (int64, error) {
	return b.ask(ctx, database, `SELECT count(*) FROM messages WHERE id >= $1 AND id < $2`, firstID(from), firstID(to.Add(time.Millisecond)))
}

func firstID(at time.Time) (id uuid.UUID) {
	ms := uint64(at.UnixMilli())
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	return id
}
