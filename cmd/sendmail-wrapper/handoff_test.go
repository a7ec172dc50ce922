package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"sendmail-wrapper/wire"
)

// This test program is also the caller: under the name "start" it makes itself
// the circumstances of a case, and becomes the program to be called.
func TestMain(m *testing.M) {
	if os.Args[0] == "start" {
		runtime.LockOSThread()
		start(os.Args[1], os.Args[2], os.Args[3:])
	}
	os.Exit(m.Run())
}

// circumstances are those of a call of sendmail, in which everything that the
// real one can see is as it is without the wrapper.
type circumstances struct {
	name string
	set  func()
	argv []string // nil: of the test
	env  []string
	root bool // only root can make them
}

var all64 = ^uint64(0)

var cases = []circumstances{
	{name: "ordinary", env: []string{"PATH=/usr/bin:/bin", "HOME=/root"}},
	{name: "environment empty"},
	{name: "environment doubled and malformed", env: []string{"A=1", "A=2", "noequals", "", "=x", "A=1", "B=\xff\n", "GOGC=5", "GOMAXPROCS=7", "LD_PRELOAD=/x"}},
	{name: "environment long", env: []string{"A=" + strings.Repeat("x", 100_000), "B=" + strings.Repeat("y", 100_000)}},
	{name: "name send-mail", argv: []string{"send-mail", "a@x"}},
	{name: "name with path", argv: []string{"/usr/lib/sendmail", "a@x"}},
	{name: "name empty", argv: []string{"", "a@x"}},
	{name: "arguments none", argv: []string{}},
	{name: "arguments of all bytes", argv: []string{"sendmail", "-i", "", "a\xff\n@x", "--", "-f"}},
	{name: "arguments of 200000 bytes", argv: []string{"sendmail", strings.Repeat("a", 100_000), strings.Repeat("b", 100_000)}},
	{name: "arguments 20000", argv: append([]string{"sendmail"}, strings.Fields(strings.Repeat("a@x.example ", 20_000))...)},

	{name: "directory deleted", set: func() { dir := must(os.MkdirTemp("", "")); check(os.Chdir(dir)); check(os.Remove(dir)) }},
	{name: "umask 777", set: func() { unix.Umask(0o777) }},
	{name: "umask 0", set: func() { unix.Umask(0) }},

	{name: "0 closed", set: func() { check(unix.Close(0)) }},
	{name: "1 closed", set: func() { check(unix.Close(1)) }},
	{name: "2 closed", set: func() { check(unix.Close(2)) }},
	{name: "0 1 2 closed", set: func() { check(unix.Close(0)); check(unix.Close(1)); check(unix.Close(2)) }},
	{name: "0 /dev/null", set: func() { open(0, "/dev/null", unix.O_RDONLY) }},
	{name: "0 file at its start", set: func() { open(0, "message", unix.O_RDONLY) }},
	{name: "0 file at offset 9", set: func() { open(0, "message", unix.O_RDWR); must(unix.Seek(0, 9, io.SeekStart)) }},
	{name: "0 file at its end", set: func() { open(0, "message", unix.O_RDONLY); must(unix.Seek(0, 0, io.SeekEnd)) }},
	{name: "0 file for writing", set: func() { open(0, "message", unix.O_WRONLY) }},
	{name: "0 file as a path", set: func() { open(0, "message", unix.O_PATH) }},
	{name: "0 directory", set: func() { open(0, "/", unix.O_RDONLY) }},
	{name: "0 terminal that ended", set: terminal},
	{name: "0 socket", set: func() { socket(0) }},
	{name: "0 socket, non-blocking", set: func() { socket(unix.SOCK_NONBLOCK) }},
	{name: "1 2 non-blocking", set: func() { check(unix.SetNonblock(1, true)); check(unix.SetNonblock(2, true)) }},
	{name: "descriptors more", set: func() {
		open(5, "message", unix.O_RDWR|unix.O_APPEND)
		must(unix.Seek(5, 7, io.SeekStart))
		open(6, "message", unix.O_RDONLY)
		unix.CloseOnExec(6)
		open(63, "/", unix.O_PATH)
		open(200, "/dev/null", unix.O_WRONLY)
		check(unix.Dup3(200, 3, 0))
	}},

	{name: "signals ignored", set: func() { ignore(all64) }},
	{name: "SIGPIPE ignored", set: func() { ignore(1 << (unix.SIGPIPE - 1)) }},
	{name: "SIGCHLD ignored", set: func() { ignore(1 << (unix.SIGCHLD - 1)) }},
	{name: "SIGQUIT and SIGTERM ignored", set: func() { ignore(1<<(unix.SIGQUIT-1) | 1<<(unix.SIGTERM-1)) }},
	{name: "realtime signals ignored", set: func() { ignore(all64 << 31) }},
	{name: "signals blocked", set: func() { block(all64) }},
	{name: "SIGCHLD blocked", set: func() { block(1 << (unix.SIGCHLD - 1)) }},
	{name: "signals blocked and pending", set: func() {
		block(1<<(unix.SIGUSR1-1) | 1<<(40-1))
		check(unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGUSR1)) // not a thread of Go's
		check(unix.Tgkill(unix.Getpid(), unix.Gettid(), 40))
	}},
	{name: "signal of a parent's death", set: func() { check(unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGUSR2), 0, 0, 0)) }},

	{name: "session of its own", set: func() { must(unix.Setsid()) }},
	{name: "process group of its own", set: func() { check(unix.Setpgid(0, 0)) }},
	{name: "niceness 5", set: func() { check(unix.Setpriority(unix.PRIO_PROCESS, 0, 5)) }},
	{name: "one processor", set: func() { var s unix.CPUSet; s.Set(0); check(unix.SchedSetaffinity(0, &s)) }},
	{name: "scheduled as batch", set: func() { check(unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: 3}, 0)) }},
	{name: "timer slack", set: func() { check(unix.Prctl(unix.PR_SET_TIMERSLACK, 12345, 0, 0, 0)) }},
	{name: "personality", set: func() { unix.RawSyscall(unix.SYS_PERSONALITY, 0x0040000, 0, 0) }}, // ADDR_NO_RANDOMIZE
	{name: "out of memory score", set: func() { check(os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0)) }},
	{name: "no new privileges", set: func() { check(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) }},
	{name: "securebits", root: true, set: func() { check(unix.Prctl(unix.PR_SET_SECUREBITS, 0x2c, 0, 0, 0)) }},
	{name: "another user with groups", root: true, set: func() {
		check(unix.Setgroups([]int{7, 4000, 12}))
		check(unix.Setresgid(65534, 65534, 65534))
		check(unix.Setresuid(65534, 65534, 65534))
	}},
	{name: "real user another than effective", root: true, set: func() { check(unix.Setresuid(65534, 0, 0)) }},
	{name: "no capability in the bounding set", root: true, set: func() { check(unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_TIME, 0, 0, 0)) }},

	{name: "descriptors 3 soft", set: func() { limit(unix.RLIMIT_NOFILE, 3, 64) }},
	{name: "descriptors 8 soft", set: func() { limit(unix.RLIMIT_NOFILE, 8, 64) }},
	{name: "descriptors 5", set: func() { limit(unix.RLIMIT_NOFILE, 5, 5) }},
	{name: "address space of 200 MB soft, descriptors 64", set: func() {
		limit(unix.RLIMIT_NOFILE, 64, 1024)
		limit(unix.RLIMIT_AS, 200<<20, unix.RLIM_INFINITY)
	}},
	{name: "address space of 200 MB soft, arguments 95000", argv: append([]string{"sendmail"}, strings.Fields(strings.Repeat("a@x.example ", 95_000))...),
		set: func() { limit(unix.RLIMIT_AS, 200<<20, unix.RLIM_INFINITY) }},
	{name: "descriptors 100", set: func() { limit(unix.RLIMIT_NOFILE, 100, 100) }},
	{name: "other limits", set: func() {
		limit(unix.RLIMIT_CORE, 0, 4096)
		limit(unix.RLIMIT_CPU, 20, 30)
		limit(unix.RLIMIT_FSIZE, 1<<20, 1<<21)
		limit(unix.RLIMIT_STACK, 1<<20, 1<<22)
		limit(unix.RLIMIT_MEMLOCK, 0, 0)
		limit(unix.RLIMIT_AS, 1<<31, 1<<32)
	}},
}

// alarm is for TestAlarm. It comes again and again, as one before execve(2) is
// dropped by Go.
var alarm = circumstances{name: "alarm", argv: []string{"sendmail", "a@x.example"}, set: func() {
	every := unix.Timeval{Usec: 20_000}
	must(unix.Setitimer(unix.ITIMER_REAL, unix.Itimerval{Interval: every, Value: every}))
}}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func must[T any](v T, err error) T {
	check(err)
	return v
}

func open(fd int, path string, flags int) {
	got := must(unix.Open(path, flags, 0))
	if got != fd {
		check(unix.Dup3(got, fd, 0))
		check(unix.Close(got))
	}
}

// terminal is one whose other side says a line, and the end.
func terminal() {
	master := must(unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0))
	check(unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0))
	n := must(unix.IoctlGetInt(master, unix.TIOCGPTN))
	must(unix.Setsid())
	open(0, "/dev/pts/"+strconv.Itoa(n), unix.O_RDWR) // which makes it the controlling one
	must(unix.Write(master, []byte("Subject: s\n\x04")))
	check(unix.Dup3(master, 9, 0))
	check(unix.Close(master))
}

// socket is one whose other side has said a line and closed.
func socket(flags int) {
	pair := must(unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|flags, 0))
	must(unix.Write(pair[1], []byte("Subject: s\n")))
	check(unix.Close(pair[1]))
	check(unix.Dup3(pair[0], 0, 0))
	check(unix.Close(pair[0]))
}

func ignore(signals uint64) {
	for s := uintptr(1); s <= 64; s++ {
		if signals&(1<<(s-1)) != 0 && s != uintptr(unix.SIGKILL) && s != uintptr(unix.SIGSTOP) {
			action := [4]uintptr{1} // SIG_IGN
			if _, _, err := unix.RawSyscall6(unix.SYS_RT_SIGACTION, s, uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0); err != 0 {
				panic(err)
			}
		}
	}
}

// blockSignals is what start blocks at last: nothing, or what block has noted.
var blockSignals uint64

func block(signals uint64) {
	blockSignals = signals
	mask(signals)
}

func mask(signals uint64) {
	if _, _, err := unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&signals)), 0, 8, 0, 0); err != 0 {
		panic(err)
	}
}

func limit(which int, soft, hard uint64) {
	check(unix.Prlimit(0, which, &unix.Rlimit{Cur: soft, Max: hard}, nil))
}

// start makes the circumstances, and calls the program with nothing of Go's, and
// with argv where the case has none.
func start(name, program string, argv []string) {
	for _, c := range append(cases, alarm) {
		if c.name != name {
			continue
		}
		if c.argv != nil {
			argv = c.argv
		}
		path := must(unix.BytePtrFromString(program))
		args, env := must(syscall.SlicePtrFromStrings(argv)), must(syscall.SlicePtrFromStrings(c.env))
		if c.set != nil {
			c.set()
		}
		mask(blockSignals)
		_, _, err := unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&args[0])), uintptr(unsafe.Pointer(&env[0])))
		panic(err)
	}
	panic("no case " + name)
}

// place is where the wrapper, its configuration, a daemon that accepts, and the
// stand-in for the real sendmail are.
type place struct{ dir, wrapper, real string }

func newPlace(t *testing.T, conf string, reply *wire.Reply) *place {
	t.Helper()
	if _, err := os.Stat("../../wrapper/entry_" + runtime.GOARCH + ".s"); err != nil {
		t.Skip("nothing is noted before Go's runtime on " + runtime.GOARCH)
	}
	dir, err := os.MkdirTemp("", "handoff")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // for another user
		t.Fatal(err)
	}
	p := &place{dir, filepath.Join(dir, "wrapper"), filepath.Join(dir, "real")}
	build := func(out, flags, pkg string) {
		cmd := exec.Command("go", "build", "-o", out, "-ldflags", flags, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	build(p.wrapper, "-E sendmail_wrapper_entry -X main.configPath="+dir+"/conf", ".")
	build(p.real, "-E stand_in", "./testdata/stand-in")
	for name, text := range map[string]string{
		"conf":    "real-sendmail = \"" + p.real + "\"\nsocket = \"" + dir + "/socket\"\n" + conf,
		"message": "JUNKJUNK\nTo: a@x.example\n\n\x00\xff\r\n.\nx",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/socket", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := os.Chmod(dir+"/socket", 0o777); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			if _, message, err := wire.ReadRequest(c); err != nil {
				t.Errorf("request: %v", err)
			} else {
				message.Close()
				if err := wire.WriteReply(c, reply); err != nil {
					t.Errorf("reply: %v", err)
				}
			}
			c.Close()
		}
	}()
	return p
}

// look calls a program in the circumstances of a case, and looks at what it has
// become when it stops.
func (p *place) look(t *testing.T, name, program string, argv []string) map[string]string {
	t.Helper()
	stdin, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stderr, err := os.Create(filepath.Join(p.dir, "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	child, err := os.StartProcess("/proc/self/exe", append([]string{"start", name, program}, argv...),
		&os.ProcAttr{Dir: p.dir, Env: []string{"GODEBUG=asyncpreemptoff=1"}, Files: []*os.File{stdin, stderr, stderr}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		child.Kill()
		child.Wait()
	}()
	var status unix.WaitStatus
	for {
		if _, err = unix.Wait4(child.Pid, &status, unix.WUNTRACED, nil); err != unix.EINTR {
			break
		}
	}
	said, readErr := os.ReadFile(filepath.Join(p.dir, "stderr"))
	if err != nil || readErr != nil || !status.Stopped() || len(said) > 0 {
		t.Fatalf("%v, status %#x, it said: %s", err, status, said)
	}
	return snapshot(t, child.Pid)
}

// ownTime are lines of /proc/PID/status that differ from one process to the next
// of the same program.
var ownTime = regexp.MustCompile(`(?m)^(Vm|Rss|Hugetlb|voluntary|nonvoluntary|SigQ|Mems|Speculation|x86|THP|untag).*\n`)

var inode = regexp.MustCompile(`\[\d+\]`)

// snapshot is all that /proc shows of how a process was executed, with its pid
// as PID.
func snapshot(t *testing.T, pid int) map[string]string {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", pid)
	seen := map[string]string{}
	link := func(name string) string {
		to, err := os.Readlink(proc + name)
		if err != nil {
			t.Fatal(err)
		}
		return inode.ReplaceAllString(to, "")
	}
	read := func(name string) string {
		content, err := os.ReadFile(proc + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	self := regexp.MustCompile(`\b` + strconv.Itoa(pid) + `\b`)
	for _, name := range []string{"exe", "root", "ns/mnt", "ns/net", "ns/user"} {
		seen[name] = link(name)
	}
	// A directory that was removed, whose name was made up.
	seen["cwd"] = regexp.MustCompile(`/\d+ \(deleted\)`).ReplaceAllString(link("cwd"), "/N (deleted)")
	for _, name := range []string{"cmdline", "environ", "limits", "comm", "cgroup", "personality", "oom_score_adj", "coredump_filter", "timerslack_ns", "loginuid", "sessionid"} {
		seen[name] = read(name)
	}
	seen["status"] = self.ReplaceAllString(ownTime.ReplaceAllString(read("status"), ""), "PID")
	stat := strings.Fields(self.ReplaceAllString(read("stat"), "PID"))
	for i, name := range map[int]string{4: "process group", 5: "session", 6: "terminal", 7: "foreground group", 17: "priority", 18: "nice", 39: "rt_priority", 40: "policy"} {
		seen[name] = stat[i]
	}
	call := strings.Fields(read("syscall")) // see testdata/stand-in
	seen["death signal, securebits"] = call[3] + " " + call[4]
	entries, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		var info string
		for line := range strings.Lines(read("fdinfo/" + e.Name())) {
			if strings.HasPrefix(line, "pos:") || strings.HasPrefix(line, "flags:") {
				info += " " + strings.Join(strings.Fields(line), " ")
			}
		}
		to := link("fd/" + e.Name())
		if strings.HasPrefix(to, "/dev/pts/") {
			to = "a terminal"
		}
		seen["descriptor "+e.Name()] = to + info
	}
	return seen
}

// TestHandOff: the real sendmail cannot tell how it was called. One difference
// is meant: where a message was read, it is on standard input once more.
func TestHandOff(t *testing.T) {
	p := newPlace(t, "", &wire.Reply{Verdict: wire.VerdictAccept})
	for _, call := range []struct {
		what    string
		submits bool
		argv    []string
	}{
		{"nothing submitted", false, []string{"mailq"}},
		{"submitted", true, []string{"sendmail", "a@x.example"}},
	} {
		for _, c := range cases {
			t.Run(call.what+"/"+c.name, func(t *testing.T) {
				if c.root && os.Geteuid() != 0 {
					t.Skip("needs root")
				}
				want := p.look(t, c.name, p.real, call.argv)
				got := p.look(t, c.name, p.wrapper, call.argv)
				if read := call.submits || c.argv != nil; read && strings.HasPrefix(got["descriptor 0"], "/memfd:") {
					want["descriptor 0"] = "/memfd:message (deleted) pos: 0 flags: 0100002"
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("through the wrapper it differs:\n%s", diff)
				}
			})
		}
	}
}

// TestSignals: while the wrapper reads, a signal ends it as it would end a
// program that does not handle it, without a word of Go's.
func TestSignals(t *testing.T) {
	p := newPlace(t, "", &wire.Reply{Verdict: wire.VerdictAccept})
	// Below nohup(1), or in the background of a shell, they would stay ignored in the wrapper.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT)
	defer signal.Stop(caught)
	for _, sig := range []syscall.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT, unix.SIGUSR1, unix.SIGALRM, unix.SIGTERM, unix.SIGXCPU, unix.SIGPROF, unix.SIGSYS, 40} {
		cmd := exec.Command(p.wrapper, "a@x.example")
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// More than a pipe holds: it is being read when this is written.
		if _, err := stdin.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if status := cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != sig || said.Len() > 0 {
			t.Errorf("%v: %v, it said: %s", sig, cmd.ProcessState, said.String())
		}
	}
}

// TestDialogueSignals: the real sendmail of a dialogue has signals as the caller
// has them, but SIGPIPE, which is never ignored there (wrapper/child.go).
func TestDialogueSignals(t *testing.T) {
	p := newPlace(t, "", &wire.Reply{Verdict: wire.VerdictAccept})
	if err := os.Remove(p.real); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.real, []byte("#!/bin/sh\nexec grep SigIgn /proc/self/status\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ignored := func(program string) string {
		out, err := exec.Command("sh", "-c", `trap "" PIPE QUIT; exec "$0" -bs </dev/null`, program).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	direct, through := ignored(p.real), ignored(p.wrapper)
	var mask [2]uint64
	for i, text := range []string{direct, through} {
		if _, err := fmt.Sscanf(text, "SigIgn: %x", &mask[i]); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
	}
	pipe := uint64(1) << (unix.SIGPIPE - 1)
	if mask[0]&pipe == 0 || mask[1] != mask[0]&^pipe {
		t.Errorf("%sand through the wrapper %s", direct, through)
	}
}

// TestTooLittleSpace: below what Go's runtime reserves, the caller gets a line that
// says so, and no trace.
func TestTooLittleSpace(t *testing.T) {
	p := newPlace(t, "", &wire.Reply{Verdict: wire.VerdictAccept})
	for _, mib := range []string{"64", "200", "700", "767"} {
		cmd := exec.Command("sh", "-c", `ulimit -v $(($0 * 1024)); exec "$@"`, mib, p.wrapper, "a@x.example")
		var said bytes.Buffer
		cmd.Stderr = &said
		_ = cmd.Run() // its status is looked at
		if status := cmd.ProcessState.ExitCode(); status != 71 || said.String() != "sendmail: the limit of address space (ulimit -H -v) is below the 768 MiB that sendmail-wrapper needs, so nothing was sent\n" {
			t.Errorf("%s MiB: status %d, %q", mib, status, said.String())
		}
	}
}

// TestAlarm: a timer that the caller has set goes on.
func TestAlarm(t *testing.T) {
	p := newPlace(t, "", &wire.Reply{Verdict: wire.VerdictAccept})
	stdin, held, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	defer held.Close()
	child, err := os.StartProcess("/proc/self/exe", []string{"start", "alarm", p.wrapper}, &os.ProcAttr{Files: []*os.File{stdin, os.Stderr, os.Stderr}})
	if err != nil {
		t.Fatal(err)
	}
	state, err := child.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if status := state.Sys().(syscall.WaitStatus); status.Signal() != unix.SIGALRM {
		t.Errorf("%v, want the end by SIGALRM", state)
	}
}
