package origin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The tests start real chains of processes: copies of this test binary, and
// shells, each of which starts the next and waits for it. The last one plays
// sendmail, or an SMTP client: it connects to the test's socket and waits until that is
// closed.

const (
	hopsVar   = "ORIGIN_TEST_HOPS"   // JSON of the hops from this process on
	socketVar = "ORIGIN_TEST_SOCKET" // where the last one connects: a path, or "ADDRESS:PORT"
	parentVar = "ORIGIN_TEST_PARENT" // pid of a parent to outlive
	selfVar   = "ORIGIN_TEST_SELF"   // this binary, for shells
	daemonVar = "ORIGIN_TEST_DAEMON" // play the daemon: root directory of its Finder
	holdVar   = "ORIGIN_TEST_HOLD"   // read descriptor 3 to its end first
)

// hop is a process of a chain.
type hop struct {
	Path   string   // executable, this binary if empty
	Args   []string // with argv[0]
	UID    int      // run as this user; 0 leaves it as it is
	Dir    string   // working directory, "" leaves it
	Name   string   // set by PR_SET_NAME
	Orphan bool     // in its own session, and wait until the parent has ended, which does not wait

	// Real, effective and saved uid that it takes once it has started the next, as a
	// setuid program has them; nil leaves them. The next waits for that.
	UIDs   []int
	UserNS bool   // in a user namespace of its own, with its uid alone
	PIDNS  bool   // the first process of a pid namespace
	Login  string // written to /proc/self/loginuid
	Env    []string

	Input   string // path of a file that is standard input
	Foreign bool   // no copy of this binary: it starts the next by selfVar, as a shell does
}

const (
	alice = 54321
	bob   = 54322
)

var self string // a copy of the test binary that all users may run

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(daemonVar) != "":
		err := playDaemon(os.Getenv(daemonVar), os.Getenv(socketVar))
		if err != nil {
			fmt.Fprintln(os.Stderr, "daemon:", err)
			os.Exit(1)
		}
		return
	case os.Getenv(waitVar) != "", os.Getenv(turnVar) != "":
		if err := playTurn(); err != nil {
			fmt.Fprintln(os.Stderr, "turn:", err)
			os.Exit(1)
		}
		return
	case os.Getenv(hopsVar) != "":
		if err := playHop(); err != nil {
			fmt.Fprintln(os.Stderr, "hop:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests start processes of several users: run them as root")
		return 1
	}
	dir, err := os.MkdirTemp("", "origin")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		defer os.RemoveAll(dir)
		self = filepath.Join(dir, "hop")
		err = copyFile("/proc/self/exe", self)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "copy the test binary:", err)
		return 1
	}
	return m.Run()
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// playHop is what a process of a chain does.
func playHop() error {
	var hops []hop
	if err := json.Unmarshal([]byte(os.Getenv(hopsVar)), &hops); err != nil {
		return err
	}
	if name := hops[0].Name; name != "" {
		b := append([]byte(name), 0)
		// The name of the thread that leads the process: the only one at start.
		if err := os.WriteFile("/proc/self/comm", b[:len(b)-1], 0); err != nil {
			return err
		}
	}
	if login := hops[0].Login; login != "" {
		// It fails where the kernel has no audit, or the value is set already.
		_ = os.WriteFile("/proc/self/loginuid", []byte(login), 0)
	}
	if os.Getenv(holdVar) != "" {
		if _, err := io.Copy(io.Discard, os.NewFile(3, "pipe")); err != nil {
			return err
		}
	}
	if parent, err := strconv.Atoi(os.Getenv(parentVar)); err == nil {
		if err := awaitOrphan(parent); err != nil {
			return err
		}
	}
	if len(hops) > 1 && hops[0].UIDs != nil {
		return playSetuid(hops)
	}
	if len(hops) > 1 {
		cmd := startable(hops[1:])
		if err := cmd.Start(); err != nil || hops[1].Orphan {
			return err
		}
		return cmd.Wait()
	}
	network, address := "unix", os.Getenv(socketVar)
	if !filepath.IsAbs(address) {
		network = "tcp"
	}
	c, err := net.Dial(network, address)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, c)
	return err
}

// playSetuid takes other uids while the next hop waits.
func playSetuid(hops []hop) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := startable(hops[1:])
	cmd.ExtraFiles = []*os.File{r}
	cmd.Env = append(cmd.Env, holdVar+"=1")
	if err := cmd.Start(); err != nil {
		return err
	}
	uids := hops[0].UIDs
	if err := syscall.Setresuid(uids[0], uids[1], uids[2]); err != nil {
		return err
	}
	r.Close()
	w.Close()
	return cmd.Wait()
}

// awaitOrphan returns when the parent has ended and this process has another.
func awaitOrphan(parent int) error {
	if os.Getppid() != parent {
		return nil
	}
	fd, err := unix.PidfdOpen(parent, 0)
	if errors.Is(err, unix.ESRCH) || os.Getppid() != parent {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
	return err
}

// startable returns the command for the first of some hops.
func startable(hops []hop) *exec.Cmd {
	h := hops[0]
	rest := hops
	if h.Path == "/bin/sh" || h.Foreign {
		rest = hops[1:] // it starts the next one by itself
	}
	text, err := json.Marshal(rest)
	if err != nil {
		panic(err)
	}
	program := os.Getenv(selfVar)
	if program == "" {
		program = self
	}
	cmd := &exec.Cmd{Path: h.Path, Args: h.Args, Dir: h.Dir, Stderr: os.Stderr, Stdout: os.Stdout}
	if cmd.Path == "" {
		cmd.Path = program
	}
	cmd.Env = []string{hopsVar + "=" + string(text), socketVar + "=" + os.Getenv(socketVar), selfVar + "=" + program}
	cmd.Env = append(cmd.Env, h.Env...)
	if h.Foreign {
		cmd.Env = append(cmd.Env, "PATH="+interpreters)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if h.UID != 0 && h.UID != os.Getuid() {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(h.UID), Gid: uint32(h.UID)}
	}
	if h.Input != "" {
		file, err := os.Open(h.Input)
		if err != nil {
			panic(err)
		}
		cmd.Stdin = file
	}
	if h.PIDNS {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWPID
	}
	if h.UserNS {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: h.UID, HostID: h.UID, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: h.UID, HostID: h.UID, Size: 1}}
	}
	if h.Orphan {
		cmd.Env = append(cmd.Env, parentVar+"="+strconv.Itoa(os.Getpid()))
		cmd.SysProcAttr.Setsid = true
	}
	return cmd
}

// sh is a real shell that runs the rest of a chain.
func sh(args ...string) hop {
	return hop{Path: "/bin/sh", Args: append([]string{"/bin/sh"}, args...)}
}

// self starts the next hop, and "true" keeps the shell from becoming it.
const next = `"$` + selfVar + `"; true`

// dirForAll makes a directory that everybody may enter, which is not so of
// T.TempDir's.
func dirForAll(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "origin")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// listen makes a socket that everybody may connect to.
func listen(t testing.TB) *net.UnixListener {
	t.Helper()
	dir := dirForAll(t)
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err == nil {
		err = os.Chmod(path, 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := l.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return l
}

// start starts a chain and returns the connection of its last process.
func start(t testing.TB, hops ...hop) (*net.UnixConn, *exec.Cmd) {
	t.Helper()
	c, cmd := startAt(t, listen(t), hops)
	return c.(*net.UnixConn), cmd
}

func startAt(t testing.TB, l net.Listener, hops []hop) (net.Conn, *exec.Cmd) {
	t.Helper()
	t.Setenv(socketVar, l.Addr().String())
	cmd := startable(hops)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("the chain did not connect: %v", err)
	}
	t.Cleanup(func() {
		c.Close()
		cmd.Wait()
	})
	return c, cmd
}

// find returns what a Finder says of the last process of a chain, without the
// chain.
func find(t testing.TB, f *Finder, c Claims, hops ...hop) Origin {
	o := findAll(t, f, c, hops...)
	o.Chain = nil
	return o
}

func findAll(t testing.TB, f *Finder, c Claims, hops ...hop) Origin {
	t.Helper()
	conn, _ := start(t, hops...)
	p, err := PeerOf(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	o := f.Find(p, c)
	if !p.Alive() {
		t.Error("the caller is not alive")
	}
	return o
}

// playDaemon finds the origin of one connection and writes it as JSON.
func playDaemon(root, socket string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	if err := os.Chmod(socket, 0o777); err != nil {
		return err
	}
	fmt.Println("ready")
	c, err := l.AcceptUnix()
	if err != nil {
		return err
	}
	defer c.Close()
	p, err := PeerOf(c)
	if err != nil {
		return err
	}
	defer p.Close()
	f := newFinder(root)
	f.cgroup = "/"
	return json.NewEncoder(os.Stdout).Encode(f.Find(p, Claims{}))
}
