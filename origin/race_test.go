package origin

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// bothWays runs a test as on this kernel, and as on one whose pidfds tell nothing.
func bothWays(t *testing.T, test func(t *testing.T)) {
	if pidfdTells() {
		t.Run("pidfd", test)
	}
	before := pidfdTells
	pidfdTells = func() bool { return false }
	defer func() { pidfdTells = before }()
	t.Run("status", test)
}

func TestFindByStatus(t *testing.T) {
	bothWays(t, func(t *testing.T) {
		t.Run("find", TestFind)
		t.Run("clients", TestFindClient)
		t.Run("holders", TestHolderOf)
		t.Run("orphan", TestOrphan)
		t.Run("forgeries", TestForgeries)
		t.Run("by number", TestOpenByNumber)
	})
}

// waiting starts a program that waits for the end of its standard input.
func waiting(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	return cmd
}

func userProcess(t *testing.T, uid uint32) *exec.Cmd {
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return waiting(t, cmd)
}

// setuidCopy returns a copy of this binary that runs as another user.
func setuidCopy(t *testing.T, owner int) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(self), "setuid-"+strconv.Itoa(owner))
	os.Remove(path)
	err := copyFile("/proc/self/exe", path)
	if err == nil {
		err = os.Chown(path, owner, -1)
	}
	if err == nil {
		err = os.Chmod(path, os.ModeSetuid|0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Both ways tell the same, also of a setuid program, whose uids differ.
func TestIdentities(t *testing.T) {
	ways := map[string]func(int) *process{"status": openByStatus}
	if pidfdTells() { // since Linux 6.13
		ways["pidfd"] = openByPidfd
	}
	setuid := exec.Command(setuidCopy(t, bob))
	setuid.Env = []string{waitVar + "=1"}
	setuid.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: alice, Gid: alice}}
	waiting(t, setuid)
	for pid, want := range map[int]identity{
		os.Getpid():                       {os.Getppid(), uids{}},
		userProcess(t, alice).Process.Pid: {os.Getpid(), uids{alice, alice, alice, alice}},
		setuid.Process.Pid:                {os.Getpid(), uids{alice, bob, bob, bob}},
		1:                                 {0, uids{}},
	} {
		for way, open := range ways {
			p := open(pid)
			if p == nil {
				t.Fatalf("%s: process %d cannot be seen", way, pid)
			}
			if now, ok := p.now(); p.identity != want || !ok || now != want {
				t.Errorf("%s: process %d is %v, then %v, %v, want %v", way, pid, p.identity, now, ok, want)
			}
			p.close()
		}
	}
}

// What was opened stays the first process's when its pid is another's.
func TestPIDUsedAgain(t *testing.T) {
	bothWays(t, func(t *testing.T) {
		cmd := userProcess(t, alice)
		pid := cmd.Process.Pid
		p := openProcess(pid)
		if p == nil {
			t.Fatal("the process cannot be seen")
		}
		defer p.close()
		cmd.Process.Kill()
		cmd.Wait()
		useAgain(t, pid)
		if now, ok := p.now(); ok {
			t.Errorf("identity %v of a process that has ended", now)
		}
		if exe, ok := p.steadyExe(); ok || exe != "" || p.cmdline() != nil || p.comm() != "" || !p.started().IsZero() {
			t.Errorf("executable %q, arguments %q, name %q of a process that has ended", exe, p.cmdline(), p.comm())
		}
		if p.byPidfd {
			return
		}
		// A peer of a kernel without SO_PEERPIDFD whose pid is another user's by now.
		peer := &Peer{PID: pid, UID: alice, pidfd: -1}
		peer.openByNumber()
		defer peer.Close()
		if peer.known() {
			t.Error("another process passes as the peer")
		}
	})
}

// useAgain starts a process of root with that pid. Others take pids meanwhile, so
// that it may need some attempts (ns_last_pid is the pid before the next).
func useAgain(t *testing.T, pid int) {
	t.Helper()
	for range 1000 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			t.Fatal("pids cannot be chosen, which takes CAP_SYS_ADMIN: ", err)
		}
		cmd := exec.Command("cat")
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		end := func() {
			in.Close()
			cmd.Wait()
		}
		if cmd.Process.Pid == pid {
			t.Cleanup(end)
			return
		}
		end()
	}
	t.Fatalf("pid %d is another's each time", pid)
}

// A process of alice's own cron turns into a program of root while it is read. At
// no moment is it cron of root.
func TestSetuidWhileRead(t *testing.T) {
	h := newHost(t)
	root := setuidCopy(t, 0)
	bothWays(t, func(t *testing.T) {
		for range 6 {
			cmd := exec.Command(h.dir + "/usr/sbin/cron")
			cmd.Env = []string{turnVar + "=" + root}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: alice, Gid: alice}}
			waiting(t, cmd)
			for end := time.Now().Add(20 * time.Second); ; {
				if time.Now().After(end) {
					t.Fatal("it does not become root's")
				}
				p := openProcess(cmd.Process.Pid)
				if p == nil {
					t.Fatal("the process cannot be seen")
				}
				s, isRoot, exe := serviceOf(h.dir, new(userTable), p), p.uids.all(isRoot), p.exe()
				p.close()
				if s != noService {
					t.Fatalf("%s with uids %v is service %d", exe, p.uids, s)
				}
				if isRoot && exe == root {
					break
				}
			}
		}
	})
}

// Processes between the caller and cron end while the chain is read. What is read
// is the beginning of the chain as it was, or of one that ends in who adopts
// orphans; never a stranger.
func TestParentsEndWhileRead(t *testing.T) {
	h := newHost(t)
	bothWays(t, func(t *testing.T) {
		for range 4 {
			c, cmd := start(t, h.cron(), h.program("mail", alice), h.program("perl", alice), h.program("php8.2", alice), sendmail)
			p, err := PeerOf(c)
			if err != nil {
				t.Fatal(err)
			}
			was := pidsOf(p.PID)
			if len(was) != 5 {
				t.Fatalf("a chain of %d processes", len(was))
			}
			var reader sync.WaitGroup
			began := make(chan struct{})
			reader.Go(func() {
				for i := range 20 {
					if got := pidsOf(p.PID); len(got) == 0 || !possible(got, was) {
						t.Errorf("chain %v, which was %v", got, was)
					}
					if o := h.finder.Find(p, Claims{}); o.UID != alice || len(o.Chain) == 0 {
						t.Errorf("a caller that lives is %+v", o)
					}
					if i == 5 {
						close(began)
					}
				}
			})
			<-began
			for _, pid := range was[1:4] {
				syscall.Kill(pid, syscall.SIGKILL)
			}
			reader.Wait()
			p.Close()
			c.Close()
			cmd.Wait()
		}
	})
}

func pidsOf(pid int) (pids []int) {
	chain := readChain(pid, func(p *process) bool { return strings.HasSuffix(p.exe(), "/cron") })
	defer closeChain(chain)
	for _, p := range chain {
		pids = append(pids, p.pid)
	}
	return pids
}

// possible reports whether a chain is one that was, up to any of its processes,
// and above that only ancestors of this test, which adopt.
func possible(got, was []int) bool {
	n := 0
	for n < len(got) && n < len(was) && got[n] == was[n] {
		n++
	}
	adopters := append(pidsOf(os.Getpid()), 1)
	for _, pid := range got[n:] {
		if !contains(adopters, pid) {
			return false
		}
	}
	return n > 0
}

func contains(list []int, pid int) bool {
	for _, p := range list {
		if p == pid {
			return true
		}
	}
	return false
}

// A look-up that does not come back is given up, and a user has only so many.
func TestStuck(t *testing.T) {
	var s stuck
	release := make(chan struct{})
	want := Origin{UID: alice, Kind: Cron}
	hang := func() (Origin, bool) { <-release; return want, true }
	for range maxStuck {
		if o, ok := s.within(time.Nanosecond, alice, hang); ok {
			t.Fatalf("one that hangs returned %+v", o)
		}
	}
	quick := func() (Origin, bool) { return want, true }
	if _, ok := s.within(time.Minute, alice, quick); ok {
		t.Error("one more than may be stuck")
	}
	if o, ok := s.within(time.Minute, bob, quick); !ok || !cmp.Equal(o, want) {
		t.Errorf("another user's is %+v, %v", o, ok)
	}
	close(release)
	for left := 1; left > 0; { // until they have ended
		s.mu.Lock()
		left = len(s.of)
		s.mu.Unlock()
	}
	if o, ok := s.within(time.Minute, alice, quick); !ok || !cmp.Equal(o, want) {
		t.Errorf("after those that hung have ended: %+v, %v", o, ok)
	}
	// Before any is late, no more than some are under way.
	hold, begun := make(chan struct{}), make(chan struct{}, 10*maxLookUps)
	var calls sync.WaitGroup
	for range cap(begun) {
		calls.Go(func() {
			s.within(time.Minute, alice, func() (Origin, bool) {
				begun <- struct{}{}
				<-hold
				return want, true
			})
		})
	}
	for waiting := 0; waiting < cap(begun) || len(begun) < maxLookUps; {
		s.mu.Lock()
		waiting = 0
		if u := s.of[alice]; u != nil {
			waiting = u.calls
		}
		s.mu.Unlock()
	}
	if n := len(begun); n != maxLookUps {
		t.Errorf("%d look-ups at a time", n)
	}
	if o, ok := s.within(time.Minute, bob, quick); !ok || !cmp.Equal(o, want) {
		t.Errorf("another user's is %+v, %v", o, ok)
	}
	close(hold)
	calls.Wait()
	if len(begun) != cap(begun) || len(s.of) != 0 {
		t.Errorf("%d of %d look-ups, %d users left", len(begun), cap(begun), len(s.of))
	}
	defer func() {
		if recover() == nil {
			t.Error("a fault in a look-up is not told")
		}
	}()
	s.within(time.Minute, alice, func() (Origin, bool) { panic("x") })
}

const (
	waitVar = "ORIGIN_TEST_WAIT" // wait for the end of standard input
	turnVar = "ORIGIN_TEST_TURN" // become this setuid program, and then wholly root
)

// playTurn is what the processes of TestSetuidWhileRead and TestIdentities do.
func playTurn() error {
	if program := os.Getenv(turnVar); program != "" {
		if os.Geteuid() != 0 {
			return syscall.Exec(program, []string{"cron"}, os.Environ())
		}
		if err := unix.Setresuid(0, 0, 0); err != nil {
			return err
		}
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}
