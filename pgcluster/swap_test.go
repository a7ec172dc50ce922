package pgcluster

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// outside is a directory with a file of another, and a postgresql.conf that leads to it.
func outside(t *testing.T) (dir, secret string) {
	t.Helper()
	dir = t.TempDir()
	secret = filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"postgresql.conf", "pg_hba.conf"} {
		if err := os.Symlink("secret", filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		text, err := os.ReadFile(secret)
		if err != nil || string(text) != "secret\n" {
			t.Errorf("the file outside has %q, %v", text, err)
		}
		info, err := os.Stat(secret)
		if err != nil {
			t.Fatal(err)
		}
		if stat := info.Sys().(*syscall.Stat_t); stat.Uid != uint32(os.Geteuid()) || info.Mode() != 0o600 {
			t.Errorf("the file outside is of user %d, mode %v", stat.Uid, info.Mode())
		}
		left, err := filepath.Glob(filepath.Join(dir, "*"))
		want := []string{filepath.Join(dir, "pg_hba.conf"), filepath.Join(dir, "postgresql.conf"), secret}
		if diff := cmp.Diff(want, left); diff != "" || err != nil {
			t.Errorf("the directory outside (-want +got), %v:\n%s", err, diff)
		}
	})
	return dir, secret
}

// likeInitdb makes a directory with the files that configure expects.
func likeInitdb(t *testing.T, id identity) (dir string, root *os.Root) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pg_hba.conf", "pg_ident.conf", "postgresql.conf"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("initdb\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Lchown(path, int(id.uid), int(id.gid)); err != nil {
			t.Fatal(err)
		}
	}
	root, err := openDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return dir, root
}

// TestFileSwapped: what is not the file that initdb wrote is not written to.
func TestFileSwapped(t *testing.T) {
	c := bareCluster(t)
	id, err := c.identity()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pg_hba.conf", "postgresql.conf", settingsFile + unfinished} {
		for kind, put := range map[string]func(secret, path string) error{
			"symlink":                os.Symlink,
			"symlink that is inside": func(_, path string) error { return os.Symlink("pg_ident.conf", path) },
			"hard link":              os.Link,
			"FIFO":                   func(_, path string) error { return unix.Mkfifo(path, 0o600) },
			"directory":              func(_, path string) error { return os.Mkdir(path, 0o700) },
		} {
			t.Run(name+" "+kind, func(t *testing.T) {
				_, secret := outside(t)
				dir, root := likeInitdb(t, id)
				path := filepath.Join(dir, name)
				if err := os.Remove(path); err != nil && name != settingsFile+unfinished {
					t.Fatal(err)
				}
				if err := put(secret, path); err != nil {
					t.Fatal(err)
				}
				if err := c.configure(root, id); err == nil {
					t.Error("configured")
				}
			})
		}
	}
}

// TestDirectorySwapped: the files are written into the directory that was opened,
// whatever has its name.
func TestDirectorySwapped(t *testing.T) {
	c := bareCluster(t)
	id, err := c.identity()
	if err != nil {
		t.Fatal(err)
	}
	out, _ := outside(t)
	dir, root := likeInitdb(t, id)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(out, dir); err != nil {
		t.Fatal(err)
	}
	if err := c.configure(root, id); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir+".away", "pg_ident.conf")); err != nil || string(text) != c.identMap() {
		t.Errorf("pg_ident.conf has %q, %v", text, err)
	}
	for _, open := range []func(string) (*os.Root, error){openDir, openNew} {
		if _, err := open(dir); err == nil || !strings.Contains(err.Error(), "symbolic link") {
			t.Errorf("opened a symbolic link: %v", err)
		}
	}
	discard(root, dir)
	if left, err := os.ReadDir(dir + ".away"); err != nil || len(left) > 0 {
		t.Errorf("left in the directory: %v %v", left, err)
	}
	if _, err := os.Lstat(dir); err != nil {
		t.Error(err)
	}

	// Instead of the new directory there is another's.
	if err := os.Chmod(dir+".away", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := openNew(dir + ".away"); err == nil {
		t.Error("opened a directory that anybody can enter")
	}
	if os.Geteuid() == 0 {
		if err := os.Chmod(dir+".away", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Lchown(dir+".away", int(idOf(t, "nobody").uid), -1); err != nil {
			t.Fatal(err)
		}
		if _, err := openNew(dir + ".away"); err == nil {
			t.Error("opened another's directory")
		}
	}
}

// TestInitSwapped: the directory is swapped for a symbolic link while initdb runs.
func TestInitSwapped(t *testing.T) {
	c := bareCluster(t)
	out, _ := outside(t)
	away := c.DataDir + ".away"
	swapped := make(chan error, 1)
	go func() {
		for t.Context().Err() == nil {
			made, _ := filepath.Glob(c.DataDir + unfinished + "*/PG_VERSION")
			if len(made) == 0 {
				time.Sleep(time.Millisecond)
				continue
			}
			dir := filepath.Dir(made[0])
			err := os.Rename(dir, away)
			if err == nil {
				err = os.Symlink(out, dir)
			}
			swapped <- err
			return
		}
	}()
	err := c.Init(t.Context())
	if err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("Init: %v", err)
	}
	if err := <-swapped; err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(away); err != nil || len(left) > 0 {
		t.Errorf("left in the directory: %v %v", left, err)
	}
	// Now the link has the name of the cluster.
	if err := c.Init(t.Context()); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("Init where a symbolic link is: %v", err)
	}
}

// TestSweep: what is unfinished goes; a cluster that is whole becomes the cluster; what
// a link leads to stays.
func TestSweep(t *testing.T) {
	c := bareCluster(t)
	out, _ := outside(t)
	whole, part, link := c.DataDir+unfinished+"1", c.DataDir+unfinished+"2", c.DataDir+unfinished+"3"
	for _, dir := range []string{whole, filepath.Join(part, "base")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(whole, settingsFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(out, link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(whole, "PG_VERSION"), []byte("15\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Init(t.Context()); err != nil || !c.Exists() {
		t.Errorf("Init: %v", err)
	}
	if _, err := os.Lstat(whole); err == nil {
		t.Error("the whole one has its old name still")
	}
	if _, err := os.Lstat(part); err == nil {
		t.Error("the unfinished one is there still")
	}
}

// TestVersionIsNoPath: PG_VERSION does not lead to programs elsewhere.
func TestVersionIsNoPath(t *testing.T) {
	c := bareCluster(t)
	if err := os.Mkdir(c.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.DataDir, "PG_VERSION"), []byte("../../../tmp/x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if bin, err := c.programs(); err == nil || !strings.Contains(err.Error(), "not a version") {
		t.Errorf("programs() = %s, %v", bin, err)
	}
}
