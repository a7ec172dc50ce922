// Package pgcluster makes and runs a private PostgreSQL cluster from the
// programs that the distribution installed: one data directory, one unix socket
// directory, no TCP.
//
// Who may connect is a matter of the operating system's users (peer
// authentication, pg_hba.conf): administrators as any role, the user of
// mailquotad as the role of the same job only. There is no password.
package pgcluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// Names that the service uses in its own cluster, and asks for in any other.
const (
	Database   = "mailquota"  // database
	OwnerRole  = "mailquota"  // owns the schema
	DaemonRole = "mailquotad" // reads and writes rows only
)

// Cluster is where a cluster lies and who runs it.
type Cluster struct {
	DataDir   string
	SocketDir string
	User      string            // operating system user that owns DataDir and runs postgres, which refuses root
	Admins    []string          // operating system users that may connect as any role
	Daemon    string            // operating system user that may connect as DaemonRole; "" for none
	Settings  map[string]string // for postgresql.conf, besides those that Init writes
}

// Find returns the directory of the programs of PostgreSQL: the newest major
// version that the distribution has installed. The error says what to install.
func Find() (binDir string, err error) {
	var dirs []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		dirs = append(dirs, found...)
	}
	slices.SortFunc(dirs, func(a, b string) int { return majorOf(b) - majorOf(a) })
	if path, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	for _, dir := range dirs {
		if runnable(dir, "initdb") && runnable(dir, "postgres") {
			return dir, nil
		}
	}
	return "", errors.New("PostgreSQL's programs are not installed: type apt-get install postgresql (on Debian and Ubuntu), or dnf install postgresql-server")
}

func runnable(dir, program string) bool {
	_, err := exec.LookPath(filepath.Join(dir, program))
	return err == nil
}

// majorOf is the version in /usr/lib/postgresql/15/bin or /usr/pgsql-15/bin.
func majorOf(binDir string) int {
	base := filepath.Base(filepath.Dir(binDir))
	n, err := strconv.Atoi(base[strings.LastIndexByte(base, '-')+1:])
	if err != nil {
		return 0
	}
	return n
}

// Exists tells whether Init has been here.
func (c *Cluster) Exists() bool {
	_, err := os.Stat(filepath.Join(c.DataDir, "PG_VERSION"))
	return err == nil
}

// Init makes the cluster, with checksums, durable, in UTF-8, in the C locale.
// It does nothing where there is one.
func (c *Cluster) Init(ctx context.Context) error {
	if c.Exists() {
		return nil
	}
	bin, err := Find()
	if err != nil {
		return err
	}
	id, err := c.identity()
	if err != nil {
		return err
	}
	if err := makeDir(c.DataDir, id, 0o700); err != nil {
		return err
	}
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "--pgdata="+c.DataDir, "--encoding=UTF8", "--locale=C",
		"--data-checksums", "--username=postgres", "--auth=peer", "--no-instructions")
	initdb.Dir = "/"
	initdb.SysProcAttr = id.attributes()
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb %s: %w\n%s", c.DataDir, err, out)
	}
	for _, f := range []struct{ name, text string }{
		{"pg_hba.conf", "# Written by mailctl database init.\n# TYPE DATABASE USER METHOD\nlocal all all peer map=mailquota\n"},
		{"pg_ident.conf", c.identMap()},
		{"mailquota.conf", c.settings()},
	} {
		if err := writeAs(filepath.Join(c.DataDir, f.name), f.text, id); err != nil {
			return err
		}
	}
	conf, err := os.OpenFile(filepath.Join(c.DataDir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = conf.WriteString("\n# Written by mailctl database init; put changes after it.\ninclude 'mailquota.conf'\n")
	return errors.Join(err, conf.Close())
}

func (c *Cluster) identMap() string {
	text := "# Written by mailctl database init.\n# MAPNAME SYSTEM-USERNAME PG-USERNAME\n"
	for _, admin := range c.Admins {
		for _, role := range []string{"postgres", OwnerRole, DaemonRole} {
			text += fmt.Sprintf("mailquota %q %s\n", admin, role)
		}
	}
	if c.Daemon != "" {
		text += fmt.Sprintf("mailquota %q %s\n", c.Daemon, DaemonRole)
	}
	return text
}

func (c *Cluster) settings() string {
	settings := map[string]string{
		"listen_addresses":                    "",
		"unix_socket_directories":             c.SocketDir,
		"unix_socket_permissions":             "0770",
		"max_connections":                     "50",
		"shared_buffers":                      "64MB",
		"timezone":                            "UTC",
		"log_timezone":                        "UTC",
		"idle_in_transaction_session_timeout": "60s", // an open snapshot keeps dead counters alive
		"log_line_prefix":                     "",    // the journal has time and process
	}
	for key, value := range c.Settings {
		settings[key] = value
	}
	text := "# Written by mailctl database init.\n"
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		text += key + " = '" + strings.ReplaceAll(settings[key], "'", "''") + "'\n"
	}
	return text
}

// programs is the directory of the programs of the version that made the cluster.
func (c *Cluster) programs() (string, error) {
	version, err := os.ReadFile(filepath.Join(c.DataDir, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("there is no database in %s: type mailctl database init", c.DataDir)
	}
	if err != nil {
		return "", err
	}
	major := strings.TrimSpace(string(version))
	for _, dir := range []string{"/usr/lib/postgresql/" + major + "/bin", "/usr/pgsql-" + major + "/bin"} {
		if runnable(dir, "postgres") {
			return dir, nil
		}
	}
	bin, err := Find()
	if err != nil || majorOf(bin) == 0 {
		return bin, err
	}
	return "", fmt.Errorf("the database in %s is of PostgreSQL %s, whose programs are not installed: type apt-get install postgresql-%s", c.DataDir, major, major)
}

// Serve becomes postgres: it does not return unless it fails. It must run as
// c.User.
func (c *Cluster) Serve() error {
	bin, err := c.programs()
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		return fmt.Errorf("postgres refuses to run as root: type systemctl start mailquota-postgresql, or runuser -u %s -- mailctl database serve", c.User)
	}
	path := filepath.Join(bin, "postgres")
	return fmt.Errorf("execute %s: %w", path, syscall.Exec(path, []string{"postgres", "-D", c.DataDir}, os.Environ()))
}

// Server is a postgres that runs as a child.
type Server struct {
	process *os.Process
	done    chan error
}

// Start runs postgres as a child until Stop, or until this process dies. It
// returns when connections are taken.
func (c *Cluster) Start(ctx context.Context) (*Server, error) {
	bin, err := c.programs()
	if err != nil {
		return nil, err
	}
	id, err := c.identity()
	if err != nil {
		return nil, err
	}
	if err := makeDir(c.SocketDir, id, 0o750); err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(bin, "postgres"), "-D", c.DataDir)
	cmd.Dir = "/"
	cmd.SysProcAttr = id.attributes()
	cmd.SysProcAttr.Pdeathsig = syscall.SIGINT
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	s := &Server{done: make(chan error, 1)}
	started := make(chan error, 1)
	go func() {
		// The signal of a parent's death comes when the thread that forked
		// ends (prctl(2), PR_SET_PDEATHSIG); so keep that thread.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_, err = cmd.Process.Wait()
		}
		s.done <- err
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	s.process = cmd.Process
	if err := awaitReady(ctx, stderr); err != nil {
		s.process.Kill()
		<-s.done
		return nil, fmt.Errorf("start postgres in %s: %w", c.DataDir, err)
	}
	return s, nil
}

// awaitReady reads postgres's log until it says that it takes connections, and
// goes on reading it, so that postgres never waits for a full pipe.
func awaitReady(ctx context.Context, log io.Reader) error {
	ready := make(chan error, 1)
	go func() {
		var said []string
		lines := bufio.NewScanner(log)
		for lines.Scan() {
			if strings.Contains(lines.Text(), "ready to accept connections") {
				ready <- nil
				io.Copy(io.Discard, log)
				return
			}
			said = append(said, lines.Text())
		}
		ready <- errors.New("postgres ended: " + strings.Join(said[max(0, len(said)-10):], "; "))
	}()
	select {
	case err := <-ready:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stop ends postgres (its fast shutdown) and waits for its end.
func (s *Server) Stop() error {
	if err := s.process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return <-s.done
}

// CreateDatabase makes roles and database on a server to which superuser
// connects; what is there already stays.
func CreateDatabase(ctx context.Context, superuser string) error {
	conn, err := pgx.Connect(ctx, superuser)
	if err != nil {
		return fmt.Errorf("connect as superuser: %w", err)
	}
	defer conn.Close(ctx)
	for _, role := range []string{OwnerRole, DaemonRole} {
		if err := createOnce(ctx, conn, `SELECT count(*) FROM pg_roles WHERE rolname = $1`, role, `CREATE ROLE `+role+` LOGIN`); err != nil {
			return err
		}
	}
	err = createOnce(ctx, conn, `SELECT count(*) FROM pg_database WHERE datname = $1`, Database, `CREATE DATABASE `+Database+` OWNER `+OwnerRole)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `REVOKE ALL ON DATABASE `+Database+` FROM PUBLIC; GRANT CONNECT ON DATABASE `+Database+` TO `+DaemonRole)
	if err != nil {
		return fmt.Errorf("set rights on database: %w", err)
	}
	return nil
}

func createOnce(ctx context.Context, conn *pgx.Conn, question, name, statement string) error {
	var n int
	if err := conn.QueryRow(ctx, question, name).Scan(&n); err != nil {
		return fmt.Errorf("look for %s: %w", name, err)
	}
	if n > 0 {
		return nil
	}
	if _, err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", strings.ToLower(statement), err)
	}
	return nil
}

// identity is an operating system user to run as.
type identity struct {
	uid, gid uint32
	drop     bool // this process is root and must become it
}

func (c *Cluster) identity() (identity, error) {
	if os.Geteuid() != 0 {
		return identity{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}, nil
	}
	u, err := user.Lookup(c.User)
	if err != nil {
		return identity{}, fmt.Errorf("postgres cannot run as root, and there is no user %s: %w", c.User, err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return identity{}, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return identity{}, err
	}
	return identity{uint32(uid), uint32(gid), true}, nil
}

func (id identity) attributes() *syscall.SysProcAttr {
	if !id.drop {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id.uid, Gid: id.gid}}
}

func makeDir(path string, id identity, mode os.FileMode) error {
	err := os.Mkdir(path, mode)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err == nil && id.drop {
		err = os.Lchown(path, int(id.uid), int(id.gid))
	}
	return err
}

func writeAs(path, text string, id identity) error {
	err := os.WriteFile(path, []byte(text), 0o600)
	if err == nil && id.drop {
		err = os.Lchown(path, int(id.uid), int(id.gid))
	}
	return err
}
