// Package pgcluster makes and runs a private PostgreSQL cluster from the
// programs that the distribution installed: one data directory, one unix socket
// directory, no TCP.
//
// Who may connect is a matter of the operating system's users (peer
// authentication, pg_hba.conf): administrators as any role, the user of
// mailquotad as the role of the same job only. There is no password.
package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	"time"

	"golang.org/x/sys/unix"
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

// settingsFile is what Init writes last and gives its name when all of it is on the disk, so
// that it tells a cluster of ours that is complete from another, and from one whose making
// was interrupted.
const settingsFile = "mailquota.conf"

// Exists tells whether Init has been here, and to the end.
func (c *Cluster) Exists() bool { return c.has("PG_VERSION") && c.has(settingsFile) }

func (c *Cluster) has(name string) bool {
	_, err := os.Stat(filepath.Join(c.DataDir, name))
	return err == nil
}

// Init makes the cluster: with checksums, in UTF-8, in the C locale, durable as
// PostgreSQL is unless Settings say otherwise. It does nothing where there is
// one, and touches no other's.
func (c *Cluster) Init(ctx context.Context) error {
	if c.Exists() {
		return nil
	}
	if c.has("PG_VERSION") {
		return fmt.Errorf("%s holds a database cluster that was not made here, or not to the end: move it away", c.DataDir)
	}
	bin, err := Find()
	if err != nil {
		return err
	}
	id, err := c.identity()
	if err != nil {
		return err
	}
	// Made under another name, and renamed when it is whole: a run that is killed leaves
	// nothing that looks like a cluster. A directory that is there already, perhaps another
	// disk, is filled where it is.
	parent, err := os.Open(filepath.Dir(c.DataDir))
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := lock(ctx, parent); err != nil {
		return err
	}
	if _, err := os.Lstat(c.DataDir); !errors.Is(err, os.ErrNotExist) {
		root, err := openDir(c.DataDir)
		if err != nil {
			return err
		}
		defer root.Close()
		return c.fill(ctx, bin, root, parent, id)
	}
	if whole := c.sweep(); whole != "" {
		if err := os.Rename(whole, c.DataDir); err != nil {
			return err
		}
		return parent.Sync()
	}
	dir, err := os.MkdirTemp(parent.Name(), filepath.Base(c.DataDir)+unfinished+"*")
	if err != nil {
		return err
	}
	root, err := openNew(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if id.drop {
		err = root.Lchown(".", int(id.uid), int(id.gid))
	}
	if err == nil {
		err = c.fill(ctx, bin, root, parent, id)
	}
	if err == nil {
		err = os.Rename(dir, c.DataDir)
	}
	if err == nil {
		err = isAt(root, c.DataDir)
	}
	if err != nil {
		discard(root, dir)
		return err
	}
	return parent.Sync()
}

// lock takes the lock on parent by which one run at a time makes a cluster there. All
// that initdb starts holds it too: a run that was killed has what it started still
// writing for a moment, and the next one waits for the end of that, up to ten seconds.
func lock(ctx context.Context, parent *os.File) error {
	for deadline := time.Now().Add(10 * time.Second); ; {
		err := unix.Flock(int(parent.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			return fmt.Errorf("another run makes a database cluster in %s: %w", parent.Name(), err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// The directory that DataDir is in belongs to the user of mailquotad, who can put a
// symbolic link, or another directory, under any name there at any time. So root
// opens a directory once, looks what it has opened, and goes on by that handle.

// openDir opens the directory path, which must not be a symbolic link.
func openDir(path string) (*os.Root, error) {
	root, err := os.OpenRoot(path + "/") // so that nothing but a directory is opened: a FIFO would wait
	if err != nil {
		return nil, err
	}
	if err := isAt(root, path); err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

// openNew opens a directory that os.MkdirTemp has made.
func openNew(path string) (*os.Root, error) {
	root, err := openDir(path)
	if err != nil {
		return nil, err
	}
	info, err := root.Stat(".")
	if err == nil && (info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) || info.Mode().Perm() != 0o700) {
		err = fmt.Errorf("%s is not the directory that was made there", path)
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
}

// isAt tells by an error if path is not the directory root.
func isAt(root *os.Root, path string) error {
	opened, err := root.Stat(".")
	if err != nil {
		return err
	}
	there, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if there.Mode()&os.ModeSymlink != 0 {
		return fmt.Errorf("%s is a symbolic link: move it away; another disk must be mounted there", path)
	}
	if !os.SameFile(opened, there) {
		return fmt.Errorf("%s has become another directory meanwhile", path)
	}
	return nil
}

// discard empties root and removes the directory dir, which root was, if it is empty.
func discard(root *os.Root, dir string) {
	entries, _ := fs.ReadDir(root.FS(), ".")
	for _, entry := range entries {
		_ = root.RemoveAll(entry.Name())
	}
	_ = unix.Rmdir(dir)
}

// unfinished is what the name of a cluster, and of its settingsFile, has behind it that is being made.
const unfinished = ".new-"

// sweep removes what runs have left that were killed, whose processes have all ended
// (lock). A cluster that is whole stays, and its directory is returned: all that it
// lacks is its name.
func (c *Cluster) sweep() (whole string) {
	left, _ := filepath.Glob(c.DataDir + unfinished + "*") // no wrong pattern
	for _, dir := range left {
		root, err := openDir(dir)
		if err != nil {
			continue
		}
		if _, err := root.Lstat(settingsFile); err == nil {
			whole = dir
		} else if errors.Is(err, os.ErrNotExist) {
			discard(root, dir)
		}
		root.Close()
	}
	return whole
}

// fill makes the cluster in root. initdb inherits the lock.
func (c *Cluster) fill(ctx context.Context, bin string, root *os.Root, locked *os.File, id identity) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	// By this name initdb, and what it starts, have the directory that we have.
	const inherited = "/proc/self/fd/3"
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "--pgdata="+inherited, "--encoding=UTF8", "--locale=C",
		"--data-checksums", "--username=postgres", "--auth=peer", "--no-instructions")
	if c.Settings["fsync"] == "off" {
		initdb.Args = append(initdb.Args, "--no-sync")
	}
	initdb.Dir = "/"
	initdb.ExtraFiles = []*os.File{dir, locked}
	initdb.SysProcAttr = id.attributes()
	// It ends with us; the thread that forked must not end before (prctl(2), PR_SET_PDEATHSIG).
	initdb.SysProcAttr.Pdeathsig = syscall.SIGTERM
	runtime.LockOSThread()
	out, err := initdb.CombinedOutput()
	runtime.UnlockOSThread()
	if err != nil {
		name := filepath.Clean(root.Name())
		return fmt.Errorf("initdb %s: %w\n%s", name, err, strings.ReplaceAll(string(out), inherited, name))
	}
	return c.configure(root, id)
}

// configure writes the files that make a cluster of initdb's one of ours.
func (c *Cluster) configure(root *os.Root, id identity) error {
	for _, f := range []struct {
		name string
		flag int
		text string
	}{
		{"pg_hba.conf", os.O_TRUNC, "# Written by mailctl database init.\n# TYPE DATABASE USER METHOD\nlocal all all peer map=mailquota\n"},
		{"pg_ident.conf", os.O_TRUNC, c.identMap()},
		{"postgresql.conf", os.O_APPEND, "\n# Written by mailctl database init; put changes after it.\ninclude '" + settingsFile + "'\n"},
		{settingsFile + unfinished, os.O_CREATE | os.O_EXCL, c.settings()},
	} {
		if err := writeAs(root, f.name, f.flag, f.text, id); err != nil {
			return fmt.Errorf("configure the database cluster: %w", err)
		}
	}
	return root.Rename(settingsFile+unfinished, settingsFile)
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
		"autovacuum_naptime":                  "10s", // and when it is gone they shall go soon
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
	if _, err := strconv.ParseUint(major, 10, 16); err != nil { // it becomes a part of a path
		return "", fmt.Errorf("%s/PG_VERSION is not a version", c.DataDir)
	}
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

// writeAs writes a file of id's in root and waits until it is on the disk. The file
// is made if flag has os.O_EXCL; else it must be there, be id's already, and have no
// second name.
func writeAs(root *os.Root, name string, flag int, text string, id identity) error {
	f, err := root.OpenFile(name, os.O_WRONLY|unix.O_NONBLOCK|flag&^os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = func() error {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		// os.Root follows a symbolic link that stays inside.
		there, err := root.Lstat(name)
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		made := flag&os.O_EXCL != 0
		if !info.Mode().IsRegular() || stat.Nlink != 1 || !os.SameFile(info, there) || !made && stat.Uid != id.uid {
			return fmt.Errorf("%s is not the file that initdb wrote", f.Name())
		}
		if made && id.drop {
			if err := f.Chown(int(id.uid), int(id.gid)); err != nil {
				return err
			}
		}
		if flag&os.O_TRUNC != 0 {
			if err := f.Truncate(0); err != nil {
				return err
			}
		}
		if _, err := f.WriteString(text); err != nil {
			return err
		}
		return f.Sync()
	}()
	return errors.Join(err, f.Close())
}
