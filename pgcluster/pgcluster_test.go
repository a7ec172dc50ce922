package pgcluster

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

// TestMain lets this program be the process that makes, serves or starts a cluster.
func TestMain(m *testing.M) {
	if len(os.Args) != 4 || !slices.Contains([]string{"init", "serve", "start"}, os.Args[1]) {
		os.Exit(m.Run())
	}
	c := &Cluster{DataDir: os.Args[2], SocketDir: os.Args[3], User: "postgres"}
	if os.Args[1] == "init" {
		if err := c.Init(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Args[1] == "serve" {
		fmt.Fprintln(os.Stderr, c.Serve())
		os.Exit(1)
	}
	s, err := c.Start(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("pid", s.PID())
	select {}
}

// newCluster makes a cluster where the user postgres can reach it, and a
// socket's path is not too long: not below t.TempDir.
func newCluster(t *testing.T) *Cluster {
	t.Helper()
	c := bareCluster(t)
	if err := c.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func bareCluster(t *testing.T) *Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgcluster")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return &Cluster{DataDir: filepath.Join(dir, "data"), SocketDir: filepath.Join(dir, "s"), User: "postgres",
		Admins: []string{me.Username}, Daemon: "nobody", Settings: map[string]string{"shared_buffers": "16MB"}}
}

func start(t *testing.T, c *Cluster) *Server {
	t.Helper()
	s, err := c.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Abort() })
	return s
}

func (c *Cluster) as(role, database string) string {
	return "host=" + c.SocketDir + " user=" + role + " dbname=" + database
}

func ask(t *testing.T, connString, sql string) (answer string) {
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

func TestCluster(t *testing.T) {
	c := newCluster(t)
	s := start(t, c)
	for range 2 { // what is there stays
		if err := CreateDatabase(t.Context(), c.as("postgres", "postgres")); err != nil {
			t.Fatal(err)
		}
		if err := c.Init(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("settings", func(t *testing.T) {
		want := map[string]string{
			"listen_addresses": "", "unix_socket_directories": c.SocketDir, "data_checksums": "on", "server_encoding": "UTF8",
			"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "max_connections": "50", "shared_buffers": "16MB",
			"TimeZone": "UTC", "idle_in_transaction_session_timeout": "1min",
		}
		got := map[string]string{}
		for name := range want {
			got[name] = ask(t, c.as("postgres", "mailquota"), `SHOW `+name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("settings (-want +got):\n%s", diff)
		}
		if got := ask(t, c.as("postgres", "mailquota"), `SELECT datcollate FROM pg_database WHERE datname = 'mailquota'`); got != "C" {
			t.Errorf("collation %s, want C", got)
		}
	})

	t.Run("rights", func(t *testing.T) {
		for sql, want := range map[string]string{
			`SELECT has_schema_privilege('mailquota', 'public', 'CREATE')::text`:        "true",
			`SELECT has_schema_privilege('mailquotad', 'public', 'CREATE')::text`:       "false",
			`SELECT has_schema_privilege('mailquotad', 'public', 'USAGE')::text`:        "true",
			`SELECT has_database_privilege('mailquotad', 'mailquota', 'CONNECT')::text`: "true",
			`SELECT has_database_privilege('mailquotad', 'mailquota', 'TEMP')::text`:    "false",
			`SELECT pg_has_role('mailquotad', 'pg_read_all_stats', 'USAGE')::text`:      "true",
			`SELECT bool_or(rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication)::text
			   FROM pg_roles WHERE rolname LIKE 'mailquota%'`: "false",
		} {
			if got := ask(t, c.as("postgres", "mailquota"), sql); got != want {
				t.Errorf("%s: %s, want %s", sql, got, want)
			}
		}
	})

	// The kernel says who connects; only root can be somebody else to try it.
	if os.Geteuid() == 0 {
		t.Run("peers", func(t *testing.T) {
			for role, allowed := range map[string]bool{"mailquotad": true, "mailquota": false, "postgres": false} {
				psql := exec.Command("psql", "-X", "-w", "-c", "SELECT 1", c.as(role, "mailquota"))
				psql.Dir = "/"
				// The group is the socket directory's, as the daemon's is.
				psql.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: idOf(t, "nobody").uid, Gid: idOf(t, "postgres").gid}}
				out, err := psql.CombinedOutput()
				if (err == nil) != allowed || !allowed && !strings.Contains(string(out), "Peer authentication failed") {
					t.Errorf("the daemon's user as role %s: %v %s", role, err, out)
				}
			}
			psql := exec.Command("psql", "-X", "-w", "-c", "SELECT 1", c.as("mailquotad", "mailquota"))
			psql.Dir = "/"
			psql.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: idOf(t, "nobody").uid, Gid: idOf(t, "nobody").gid}}
			if out, err := psql.CombinedOutput(); err == nil || !strings.Contains(string(out), "Permission denied") {
				t.Errorf("a customer reaches the socket: %v %s", err, out)
			}
		})
	}

	t.Run("stop and start", func(t *testing.T) {
		for range 2 { // the second finds it ended
			if err := s.Stop(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := pgx.Connect(t.Context(), c.as("mailquota", "mailquota")); err == nil {
			t.Error("connected after the stop")
		}
		again := start(t, c)
		if got := ask(t, c.as("mailquota", "mailquota"), `SELECT current_user::text`); got != "mailquota" {
			t.Errorf("user %s", got)
		}
		if err := again.Abort(); err != nil {
			t.Fatal(err)
		}
		start(t, c) // recovers
	})
}

func idOf(t *testing.T, name string) identity {
	t.Helper()
	id, err := (&Cluster{User: name}).identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestServe: the process becomes postgres, and is asked to end by SIGINT, as
// the service's unit does.
func TestServe(t *testing.T) {
	c := newCluster(t)
	id, err := c.identity()
	if err != nil {
		t.Fatal(err)
	}
	if err := makeDir(c.SocketDir, id, 0o750); err != nil {
		t.Fatal(err)
	}
	// By the magic link, since the user postgres may not enter where Go builds.
	serve := exec.Command("/proc/self/exe", "serve", c.DataDir, c.SocketDir)
	serve.Dir, serve.Env = "/", []string{"PATH=/usr/bin:/bin"} // as of a unit
	serve.SysProcAttr = id.attributes()
	serve.SysProcAttr.Pdeathsig = syscall.SIGINT
	log, err := serve.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	if err := awaitReady(t.Context(), log); err != nil {
		serve.Process.Kill()
		t.Fatal(err)
	}
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", serve.Process.Pid)); err != nil || string(comm) != "postgres\n" {
		t.Errorf("the process is %q, %v", comm, err)
	}
	ask(t, c.as("postgres", "postgres"), `SELECT 'x'`)
	serve.Process.Signal(syscall.SIGINT)
	if err := serve.Wait(); err != nil {
		t.Errorf("postgres ended: %v", err)
	}
}

// TestKilled: a program that is killed leaves no postgres behind (the test
// would wait for its end in vain).
func TestKilled(t *testing.T) {
	c := newCluster(t)
	// Orphans come to this process, which can await them.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	program := exec.Command("/proc/self/exe", "start", c.DataDir, c.SocketDir)
	program.Stderr = os.Stderr
	stdout, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err == nil {
		_, err = fmt.Sscanf(line, "pid %d\n", &pid)
	}
	if err != nil {
		t.Fatal(err)
	}
	program.Process.Kill()
	program.Wait()
	var status unix.WaitStatus
	for {
		if _, err = unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			break
		}
	}
	if err != nil || !status.Exited() {
		t.Errorf("postgres ended: %v %v", status, err)
	}
}

// TestInitKilled: a run that is killed leaves nothing in the way of the next one, not
// even its initdb, which has still something to write when the next one begins.
func TestInitKilled(t *testing.T) {
	for _, files := range []int{20, 60, 150, 200} { // in the first of the three databases
		t.Run(fmt.Sprint(files), func(t *testing.T) {
			c := bareCluster(t)
			program := exec.Command("/proc/self/exe", "init", c.DataDir, c.SocketDir)
			if err := program.Start(); err != nil {
				t.Fatal(err)
			}
			for {
				if made, _ := filepath.Glob(c.DataDir + unfinished + "*/base/1/*"); len(made) >= files {
					break
				}
				if _, err := os.Stat(c.DataDir); err == nil {
					t.Fatalf("the cluster was there before it had %d files", files)
				}
				time.Sleep(time.Millisecond)
			}
			program.Process.Kill()
			program.Wait()
			if err := c.Init(t.Context()); err != nil {
				t.Fatal(err)
			}
			if left, _ := filepath.Glob(c.DataDir + unfinished + "*"); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	foreign := bareCluster(t)
	if err := os.Mkdir(foreign.DataDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(foreign.DataDir, "PG_VERSION"), []byte("4\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	full := bareCluster(t)
	if err := os.MkdirAll(filepath.Join(full.DataDir, "photos"), 0o755); err != nil {
		t.Fatal(err)
	}
	absent := bareCluster(t)
	startOf := func(c *Cluster) error { _, err := c.Start(t.Context()); return err }
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"another's cluster", foreign.Init(t.Context()), "was not made here"},
		{"a directory in use", full.Init(t.Context()), "initdb"},
		{"no cluster to start", startOf(absent), "mailctl database init"},
		{"no cluster to serve", absent.Serve(), "mailctl database init"},
		{"a version without programs", startOf(foreign), "apt-get install postgresql-4"},
	} {
		if tt.err == nil || !strings.Contains(tt.err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, tt.err, tt.want)
		}
	}
	for dir, want := range map[string]int{"/usr/lib/postgresql/15/bin": 15, "/usr/pgsql-17/bin": 17, "/usr/bin": 0} {
		if got := majorOf(dir); got != want {
			t.Errorf("majorOf(%s) = %d, want %d", dir, got, want)
		}
	}
	if dir, err := Find(); err != nil || !runnable(dir, "initdb") {
		t.Errorf("Find() = %s, %v", dir, err)
	}
}
