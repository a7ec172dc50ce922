package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"sendmail-wrapper/config"
	"sendmail-wrapper/daemon"
	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/tests/testpg"
	"sendmail-wrapper/wire"
)

const nobody = 65534

// as runs mailctl under a uid, and returns exit status, output and errors.
func as(t *testing.T, uid uint32, args ...string) (exit int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "mailctl" // as which TestMain makes this program run
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	var status *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &status) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// TestOrdinaryUser: he sees his own usage through mailquotad, and nothing else,
// whether he can read the configuration or not.
func TestOrdinaryUser(t *testing.T) {
	dir, err := os.MkdirTemp("", "mailctl") // t.TempDir is closed to him
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := config.Default()
	c.Host, c.Database, c.Socket = "host1", testpg.NewAs(t, "mailquotad"), filepath.Join(dir, "socket")
	c.Journal = filepath.Join(t.TempDir(), "journal")
	open, closed := filepath.Join(dir, "open.conf"), filepath.Join(dir, "closed.conf")
	for path, mode := range map[string]os.FileMode{open: 0o644, closed: 0o600} {
		if err := os.WriteFile(path, fmt.Appendf(nil, "database = %q\nsocket = %q\n", c.Database, c.Socket), mode); err != nil {
			t.Fatal(err)
		}
	}
	if exit, _, stderr := as(t, nobody, "--config", open, "usage"); exit != exUnavailable || !strings.Contains(stderr, "mailquotad does not answer") {
		t.Errorf("without mailquotad: exit status %d, %s", exit, stderr)
	}

	listener, err := daemon.Listen(c.Socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	server, err := daemon.New(c, version, zerolog.New(io.Discard))
	if err != nil {
		t.Fatal(err)
	}
	go func() { served <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("mailquotad: %v", err)
		}
	})
	// A status is answered once the database is there.
	if _, err := wire.Ask(c.Socket, &wire.Request{Op: wire.OpStatus}, nil, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.New(t.Context(), c.Database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store := quota.NewStore(pool, c.Host, c.FirstUserUID)
	for uid, name := range map[uint32]string{nobody: "nobody", 1000: "alice"} {
		m := quota.Message{ID: uuid.Must(uuid.NewV7()), Origin: origin.Origin{UID: uid, User: name, Kind: origin.Shell}, Recipients: 3}
		if _, err := store.Decide(t.Context(), []quota.Message{m}); err != nil {
			t.Fatal(err)
		}
	}

	for _, args := range []string{
		"usage", "usage --json", "usage user:nobody", "status", "why", "why --json", "why user:nobody", "report messages", "report messages --json --user nobody",
		"report messages --csv", "report attempts", "report summary", "report scripts", "report cron --json", "report history subscription:nobody",
	} {
		exit, stdout, stderr := as(t, nobody, append([]string{"--config", open}, strings.Fields(args)...)...)
		if exit != exOK || (strings.HasPrefix(args, "usage") || strings.HasPrefix(args, "why")) && !strings.Contains(stdout, "user:nobody") ||
			strings.HasPrefix(args, "report messages") && !strings.Contains(stdout, "nobody") || strings.Contains(stdout, "alice") {
			t.Errorf("%s: exit status %d\n%s%s", args, exit, stdout, stderr)
		}
	}
	// Nor is he told at the TAB key who else is here; root is.
	for uid, want := range map[uint32]string{nobody: ":36\n", 0: "user:alice\nuser:nobody\n:36\n"} {
		exit, stdout, stderr := as(t, uid, "--config", open, "__complete", "usage", "user:")
		if stdout = strings.ReplaceAll(stdout, "@host1", ""); exit != exOK || stdout != want {
			t.Errorf("uid %d completes: exit status %d\n%s%s", uid, exit, stdout, stderr)
		}
	}
	for _, args := range []string{
		"plan list", "plan add x", "user list", "subscription set nobody --plan system", "limit show", "limit set user:nobody messages/hour unlimited",
		"report top", "report sites", "report trend", "report attempts --by user", "why user:alice", "why server", "why script:/x", "limit set domain:alice.example messages/hour 5", "trace 0198f2c4-7a10-7d3c-9b52-6f1e8a0c4d21", "database check", "usage user:alice", "usage server",
	} {
		for _, file := range []string{open, closed} {
			if file == closed && (strings.HasPrefix(args, "usage") || strings.HasPrefix(args, "why ") || strings.HasPrefix(args, "limit set domain")) {
				continue // asks at the usual socket
			}
			exit, stdout, stderr := as(t, nobody, append([]string{"--config", file}, strings.Fields(args)...)...)
			if exit != exNoPerm || stdout != "" || !strings.HasPrefix(stderr, "mailctl: error: ") || !strings.Contains(stderr, "\nhint: ") {
				t.Errorf("%s: exit status %d, want %d\n%s%s", args, exit, exNoPerm, stdout, stderr)
			}
		}
	}
}

// TestDatabaseCheck finds a partition that is missing, and rights that are too
// wide or too narrow.
func TestDatabaseCheck(t *testing.T) {
	database := testpg.New(t)
	conf := filepath.Join(t.TempDir(), "mailquotad.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "database = %q\n", testpg.As(database, "mailquotad")), 0o600); err != nil {
		t.Fatal(err)
	}
	owner, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close(context.Background())
	if _, err := owner.Exec(t.Context(), `SELECT make_partitions((now() AT TIME ZONE 'UTC')::date, 2)`); err != nil {
		t.Fatal(err)
	}
	if exit, stdout, stderr := as(t, 0, "--config", conf, "database", "check"); exit != exOK {
		t.Fatalf("exit status %d\n%s%s", exit, stdout, stderr)
	}
	for _, c := range []struct{ sql, want string }{
		{`DO $$ BEGIN EXECUTE format('DROP TABLE IF EXISTS messages_%s', to_char((now() AT TIME ZONE 'UTC')::date + 1, 'YYYYMMDD')); END $$`, "problem: there is no partition for 20"},
		{`GRANT UPDATE ON messages TO mailquotad`, "problem: mailquotad may update messages, which is written once\n"},
		{`REVOKE INSERT ON audit FROM mailquotad`, "problem: mailquotad may not insert audit\n"},
	} {
		if _, err := owner.Exec(t.Context(), c.sql); err != nil {
			t.Fatal(err)
		}
		if exit, _, stderr := as(t, 0, "--config", conf, "database", "check"); exit != exWrong || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: exit status %d\n%s", c.sql, exit, stderr)
		}
	}
}
