package crash

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// workDir holds everything: not below t.TempDir, since the user postgres must
// reach it and a socket's path has room for 107 bytes (unix(7)).
var (
	workDir    string
	mailquotad string // the program
	dirs       atomic.Int64
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "tests/crash: clients of several uids, and a full disk, need root: sudo go test ./tests/crash")
		return 1
	}
	var err error
	if workDir, err = os.MkdirTemp("", "crash-"); err == nil {
		defer os.RemoveAll(workDir)
		err = os.Chmod(workDir, 0o711)
	}
	if err == nil {
		mailquotad = filepath.Join(workDir, "mailquotad")
		build := exec.Command("go", "build", "-o", mailquotad, "sendmail-wrapper/cmd/mailquotad")
		build.Stderr = os.Stderr
		err = build.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tests/crash:", err)
		return 1
	}
	// The tests that run side by side wait more than they work.
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil {
		fmt.Fprintln(os.Stderr, "tests/crash:", err)
		return 1
	}
	return m.Run()
}

// testDir makes a directory that goes with the test.
func testDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(workDir, fmt.Sprint(dirs.Add(1)))
	if err := os.Mkdir(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
