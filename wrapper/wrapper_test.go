package wrapper

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"sendmail-wrapper/sendmail"
	"sendmail-wrapper/wire"
)

// This test program is three programs: the tests; the wrapper, where TEST_CONFIG
// is set; and, under the name "real", the sendmail that it executes, which
// writes down how it was called.
func TestMain(m *testing.M) {
	exe, err := os.Readlink("/proc/self/exe")
	switch {
	case err != nil:
		panic(err)
	case filepath.Base(exe) == "real" && slices.ContainsFunc(os.Args, func(a string) bool { return a == "-bs" || a == "-bS" }):
		os.Exit(serveSMTP(os.Getenv("TEST_RECORD"), os.Getenv("TEST_MTA")))
	case filepath.Base(exe) == "real":
		os.Exit(record(os.Getenv("TEST_RECORD")))
	case os.Getenv("TEST_DOUBLE") != "": // os/exec leaves out doubles
		os.Unsetenv("TEST_DOUBLE")
		panic(unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), "A=2", "noequals", "B=\xff")))
	case os.Getenv("TEST_CONFIG") != "":
		devLog = os.Getenv("TEST_LOG")
		if timeout := os.Getenv("TEST_TIMEOUT"); timeout != "" {
			clientTimeout, err = time.ParseDuration(timeout)
			if err != nil {
				panic(err)
			}
		}
		exit := Run(os.Args, os.Getenv("TEST_CONFIG"))
		if path := os.Getenv("TEST_STATUS"); path != "" {
			status, err := os.ReadFile("/proc/self/status")
			if err == nil {
				err = os.WriteFile(path, status, 0o600)
			}
			if err != nil {
				panic(err)
			}
		}
		os.Exit(exit)
	}
	os.Exit(m.Run())
}

// called is how the real sendmail was called.
type called struct {
	Argv   []string
	Env    string // /proc/self/environ
	Dir    string
	Umask  int
	Offset int64 // of descriptor 0, -1 where it has none
	Sum    [32]byte
	Size   int64
	Open   []string // descriptors
}

const realExit = 3

func record(path string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "record:", err)
		return 99
	}
	c := called{Argv: os.Args, Umask: syscall.Umask(0)}
	environ, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		return fail(err)
	}
	c.Env = string(environ)
	if c.Dir, err = os.Getwd(); err != nil {
		return fail(err)
	}
	if c.Offset, err = unix.Seek(0, 0, unix.SEEK_CUR); err != nil {
		c.Offset = -1
	}
	for fd := range 20 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			if err == nil && !strings.HasPrefix(link, "anon_inode:") { // the Go runtime's own
				c.Open = append(c.Open, fmt.Sprint(fd))
			}
		}
	}
	hash := sha256.New()
	if c.Size, err = io.Copy(hash, os.Stdin); err != nil {
		return fail(err)
	}
	hash.Sum(c.Sum[:0])
	out, err := json.Marshal(c)
	if err != nil {
		return fail(err)
	}
	if err := os.WriteFile(path, out, 0o600); err != nil {
		return fail(err)
	}
	fmt.Println("from the real sendmail")
	return realExit
}

// host is a place with a wrapper, a real sendmail, a syslog and a daemon's socket.
type host struct {
	dir  string
	log  *net.UnixConn
	asks chan asked
	conf []string
}

// asked is what the daemon was asked, with the bytes of the message.
type asked struct {
	request *wire.Request
	message []byte
}

func newHost(t testing.TB, conf ...string) *host {
	t.Helper()
	h := &host{dir: t.TempDir(), asks: make(chan asked, 1000)}
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.path("real"), exe, 0o755); err != nil {
		t.Fatal(err)
	}
	h.log, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: h.path("log"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.log.Close() })
	h.conf = append([]string{`real-sendmail = "` + h.path("real") + `"`, `socket = "` + h.path("socket") + `"`}, conf...)
	h.write(t, "conf", strings.Join(h.conf, "\n"))
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

func (h *host) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(h.path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// answer is a daemon that gives every request the same reply.
func (h *host) answer(t testing.TB, reply *wire.Reply) {
	t.Helper()
	h.decide(t, func(*wire.Request, []byte) *wire.Reply { return reply })
}

// decide is a daemon that gives each request a reply of its own.
func (h *host) decide(t testing.TB, reply func(*wire.Request, []byte) *wire.Reply) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.path("socket"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			request, message, err := wire.ReadRequest(c)
			if err != nil {
				t.Errorf("request: %v", err)
				c.Close()
				continue
			}
			size, err := wire.CheckSealed(message)
			if err != nil {
				t.Errorf("message: %v", err)
			}
			content, err := io.ReadAll(io.NewSectionReader(message, 0, size))
			if err != nil {
				t.Errorf("message: %v", err)
			}
			message.Close()
			h.asks <- asked{request, content}
			if err := wire.WriteReply(c, reply(request, content)); err != nil {
				t.Errorf("reply: %v", err)
			}
			c.Close()
		}
	}()
}

// outcome is what a caller sees.
type outcome struct {
	exit           int
	stdout, stderr string
	called         *called // nil: the real sendmail was not executed
}

// command is a call of the wrapper.
func (h *host) command(argv ...string) *exec.Cmd {
	return &exec.Cmd{Path: "/proc/self/exe", Args: argv, Dir: "/",
		Env: []string{"TEST_CONFIG=" + h.path("conf"), "TEST_LOG=" + h.path("log"), "TEST_RECORD=" + h.path("record"), "A=1"}}
}

func (h *host) run(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	os.Remove(h.path("record"))
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	cmd.Stderr = &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	o := outcome{exit: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
	if content, err := os.ReadFile(h.path("record")); err == nil {
		o.called = &called{}
		if err := json.Unmarshal(content, o.called); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// logged returns the next line of syslog.
func (h *host) logged(t *testing.T) string {
	t.Helper()
	buf := make([]byte, 8192)
	n, err := h.log.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

var (
	accept = &wire.Reply{Verdict: wire.VerdictAccept, ID: "id"}
	refuse = &wire.Reply{Verdict: wire.VerdictRefuse, Exit: 69, Text: "alice: limit reached"}
)

// difficult is a message with every byte that a careless copy would change.
func difficult(size int) []byte {
	b := []byte("To: a@x\nSubject: s\n\n.\n..\r\n\x00\xff\r\r\nlone \r cr\n")
	for i := 0; len(b) < size; i++ {
		b = append(b, byte(i), byte(i>>8), byte(i>>16), '\n', '.')
	}
	return append(b, "no final newline"...)
}

func TestAccepted(t *testing.T) {
	h := newHost(t)
	h.answer(t, accept)
	message := difficult(25 << 20)
	cmd := h.command("send-mail", "-t", "-i", "", "a\xffb", "--", "-x")
	environ := append(slices.Clone(cmd.Env), "HTTP_HOST=alice.example", "A=2", "noequals", "B=\xff")
	cmd.Env = append(cmd.Env, "HTTP_HOST=alice.example", "TEST_DOUBLE=1")
	cmd.Stdin = bytes.NewReader(message)
	o := h.run(t, cmd)
	if o.exit != realExit || o.stdout != "from the real sendmail\n" || o.stderr != "" || o.called == nil {
		t.Fatalf("%+v", o)
	}
	c := o.called
	if c.Sum != sha256.Sum256(message) || c.Size != int64(len(message)) || c.Offset != 0 {
		t.Errorf("the real sendmail read %d bytes from offset %d, or others than the %d of the message", c.Size, c.Offset, len(message))
	}
	// encoding/json makes U+FFFD of the byte that is no UTF-8.
	if diff := cmp.Diff([]string{"send-mail", "-t", "-i", "", "a\uFFFDb", "--", "-x"}, c.Argv); diff != "" {
		t.Error(diff)
	}
	if want := strings.ToValidUTF8(strings.Join(environ, "\x00")+"\x00", "\uFFFD"); c.Env != want {
		t.Errorf("environment %q, want %q", c.Env, want)
	}
	direct := h.command("real")
	direct.Path = h.path("real")
	direct.Stdin = strings.NewReader("")
	if diff := cmp.Diff(h.run(t, direct).called.Open, c.Open); diff != "" {
		t.Errorf("descriptors: %s", diff)
	}
	if c.Dir != "/" {
		t.Errorf("directory %s", c.Dir)
	}
	a := <-h.asks
	if !bytes.Equal(a.message, message) {
		t.Error("the daemon saw other bytes")
	}
	a.request.Argv[4] = "" // checked above, bytes of no UTF-8
	want := &wire.Request{Op: wire.OpSubmit, Profile: "postfix", Argv: []string{"send-mail", "-t", "-i", "", "", "--", "-x"}, Hints: []string{"HTTP_HOST=alice.example"}}
	if diff := cmp.Diff(want, a.request); diff != "" {
		t.Error(diff)
	}
}

// TestMemory: the message lies in the memfd, whose pages nobody maps, and not in
// the program.
func TestMemory(t *testing.T) {
	h := newHost(t)
	h.answer(t, refuse)
	cmd := h.command("sendmail", "-i", "a@x")
	cmd.Env = append(cmd.Env, "TEST_STATUS="+h.path("status"))
	cmd.Stdin = bytes.NewReader(difficult(25 << 20))
	if o := h.run(t, cmd); o.exit != 69 {
		t.Fatalf("%+v", o)
	}
	peak := peakOf(t, h)
	// This test program links more than the wrapper, which has less to stay under.
	if peak > 16<<10 {
		t.Errorf("%d KiB resident at the most", peak)
	}
}

// peakOf is what was resident at the most in the wrapper that ended last, in KiB.
func peakOf(t *testing.T, h *host) int {
	t.Helper()
	status, err := os.ReadFile(h.path("status"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	peak, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		t.Fatal(err)
	}
	return peak
}

func TestRefused(t *testing.T) {
	h := newHost(t)
	h.answer(t, refuse)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() {
		_, err := w.Write(difficult(3 << 20))
		w.Close()
		written <- err
	}()
	cmd := h.command("sendmail", "-i", "a@x")
	cmd.Stdin = r
	o := h.run(t, cmd)
	r.Close()
	if o.exit != 69 || o.stdout != "" || o.stderr != "sendmail: alice: limit reached\n" || o.called != nil {
		t.Errorf("%+v", o)
	}
	if err := <-written; err != nil {
		t.Errorf("the caller could not write all of his message: %v", err)
	}
}

// TestLoneDot: who ends a message by a dot may leave standard input open.
func TestLoneDot(t *testing.T) {
	for _, c := range []struct {
		name, mta string
		option    string
		pieces    []string
		ends      bool
		reply     *wire.Reply
	}{
		{"in one piece", "postfix", "-v", []string{"Subject: s\n\nx\n.\n"}, true, accept},
		{"byte by byte", "postfix", "-v", []string{"Subject: s\n\nx\n", ".", "\n"}, true, accept},
		{"at once", "postfix", "-v", []string{".\n"}, true, accept},
		{"refused", "postfix", "-v", []string{"Subject: s\n\nx\n.\n"}, true, refuse},
		{"with -i", "postfix", "-i", []string{"Subject: s\n\nx\n.\n"}, false, accept},
		{"no line of its own", "postfix", "-v", []string{"Subject: s\n\nx.\n", "..\n. \n"}, false, accept},
		{"before CR LF", "postfix", "-v", []string{"Subject: s\r\n\r\nx\r\n.\r\n"}, false, accept},
		{"Exim", "exim", "-v", []string{"Subject: s\n\nx\n.", "\n"}, true, accept},
		{"Sendmail, which may be configured not to", "sendmail", "-v", []string{"Subject: s\n\nx\n.\n"}, false, accept},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t, `mta = "`+c.mta+`"`)
			h.answer(t, c.reply)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			cmd := h.command("sendmail", c.option, "a@x")
			cmd.Stdin = r
			written := make(chan struct{})
			go func() {
				for _, piece := range c.pieces {
					w.WriteString(piece)
				}
				if !c.ends {
					w.Close()
				}
				close(written)
			}()
			o := h.run(t, cmd)
			<-written
			w.Close()
			message := strings.Join(c.pieces, "")
			if a := <-h.asks; string(a.message) != message {
				t.Errorf("the daemon saw %q", a.message)
			}
			if c.reply == refuse {
				if o.exit != 69 || o.called != nil {
					t.Errorf("%+v", o)
				}
			} else if o.called == nil || o.called.Sum != sha256.Sum256([]byte(message)) {
				t.Errorf("%+v", o)
			}
		})
	}
}

func TestTooLong(t *testing.T) {
	h := newHost(t, "max-message-size = 1000000")
	h.answer(t, refuse)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() {
		_, err := w.Write(difficult(3 << 20))
		w.Close()
		written <- err
	}()
	cmd := h.command("sendmail", "-i", "a@x")
	cmd.Stdin = r
	o := h.run(t, cmd)
	if o.exit != 69 || o.called != nil {
		t.Errorf("%+v", o)
	}
	if err := <-written; err != nil {
		t.Errorf("the caller could not write all of his message: %v", err)
	}
	if a := <-h.asks; !a.request.Truncated || len(a.message) > 1_000_000 {
		t.Errorf("truncated %v, %d bytes", a.request.Truncated, len(a.message))
	}
}

// TestNothingToSubmit: no question, and standard input is the caller's own.
func TestNothingToSubmit(t *testing.T) {
	h := newHost(t, `on-unavailable = "refuse"`)
	for _, argv := range [][]string{{"mailq"}, {"newaliases"}, {"sendmail", "-bp"}, {"sendmail", "-bi"}, {"sendmail", "-q"}, {"sendmail", "--help"}, {"sendmail", "-n", "a@x"}} {
		cmd := h.command(argv...)
		cmd.Stdin = strings.NewReader("untouched")
		o := h.run(t, cmd)
		if o.called == nil || o.exit != realExit || o.stderr != "" {
			t.Errorf("%v: %+v", argv, o)
			continue
		}
		if o.called.Sum != sha256.Sum256([]byte("untouched")) || o.called.Offset != -1 {
			t.Errorf("%v: standard input was touched", argv)
		}
	}
}

func TestProbe(t *testing.T) {
	h := newHost(t)
	h.answer(t, accept)
	cmd := h.command("sendmail", "-bv", "a@x", "b@x")
	cmd.Stdin = strings.NewReader("untouched")
	o := h.run(t, cmd)
	if o.called == nil || o.called.Sum != sha256.Sum256([]byte("untouched")) {
		t.Errorf("%+v", o)
	}
	if a := <-h.asks; len(a.message) != 0 {
		t.Errorf("the daemon was given %q", a.message)
	}
}

func TestUnavailable(t *testing.T) {
	for _, c := range []struct {
		name, conf string
		reply      *wire.Reply // nil: no daemon
		argv       []string
		exit       int
		log        string
	}{
		{"no daemon, accept", "", nil, []string{"sendmail", "a@x"}, realExit, "leaves uncounted"},
		{"no daemon, refuse", `on-unavailable = "refuse"`, nil, []string{"sendmail", "a@x"}, 69, "is refused"},
		{"no daemon, refuse, relayed", `on-unavailable = "refuse"`, nil, []string{"sendmail", "-G", "a@x"}, 75, "is refused"},
		{"daemon without database, accept", "", &wire.Reply{Verdict: wire.VerdictUnavailable, Text: "mailquotad has no database"}, []string{"sendmail", "a@x"}, realExit, "has no database"},
		{"daemon without database, refuse", `on-unavailable = "refuse"`, &wire.Reply{Verdict: wire.VerdictUnavailable, Text: "mailquotad has no database"}, []string{"sendmail", "a@x"}, 69, "has no database"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t, c.conf)
			if c.reply != nil {
				h.answer(t, c.reply)
			}
			cmd := h.command(c.argv...)
			cmd.Stdin = strings.NewReader("Subject: s\n\nx\n")
			o := h.run(t, cmd)
			if o.exit != c.exit || (o.called != nil) != (c.exit == realExit) {
				t.Errorf("%+v", o)
			}
			if o.called == nil && (strings.Count(o.stderr, "\n") != 1 || !strings.HasPrefix(o.stderr, "sendmail: ")) {
				t.Errorf("standard error: %q", o.stderr)
			}
			if line := h.logged(t); !strings.HasPrefix(line, "<20>") || !strings.Contains(line, "mailquotad") || !strings.Contains(line, c.log) || !strings.Contains(line, `"a@x"`) {
				t.Errorf("syslog: %s", line)
			}
		})
	}
}

func TestRequestRejected(t *testing.T) {
	h := newHost(t)
	h.answer(t, &wire.Reply{Verdict: wire.VerdictError, Text: "protocol version 2"})
	cmd := h.command("sendmail", "a@x")
	if o := h.run(t, cmd); o.exit != 70 || o.stderr != "sendmail: protocol version 2\n" || o.called != nil {
		t.Errorf("%+v", o)
	}
}

// TestNoDescriptors: what a caller can do to his own call, so that mailquotad is
// not asked, never lets his mail through.
func TestNoDescriptors(t *testing.T) {
	h := newHost(t)
	h.answer(t, refuse)
	for _, limit := range []string{"-n 3", "-n 4", "-n 5", "-n 6", "-f 0", "-f 1"} {
		cmd := h.command("sh", "-c", "ulimit "+limit+`; exec -a sendmail /proc/self/exe a@x`)
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Path = "/bin/bash"
		cmd.Args[2] = strings.ReplaceAll(cmd.Args[2], "/proc/self/exe", self)
		cmd.Stdin = bytes.NewReader(difficult(1 << 20))
		o := h.run(t, cmd)
		if o.called != nil || o.exit == 0 || strings.Contains(o.stderr, "goroutine") {
			t.Errorf("ulimit %s: %+v", limit, o)
		}
	}
}

func TestRealSendmailMissing(t *testing.T) {
	h := newHost(t)
	h.answer(t, accept)
	h.write(t, "conf", h.conf[1]+"\nreal-sendmail = \"/nonexistent/sendmail\"\n")
	o := h.run(t, h.command("sendmail", "a@x"))
	if o.exit != 78 || !strings.Contains(o.stderr, "/nonexistent/sendmail") {
		t.Errorf("%+v", o)
	}
	if o := h.run(t, h.command("sendmail", "-bs")); o.exit != 78 || !strings.HasPrefix(o.stdout, "421 4.3.0 ") {
		t.Errorf("in a dialogue: %+v", o)
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	h.write(t, "conf", h.conf[1]+"\nreal-sendmail = \""+self+"\"\n")
	for _, argv := range [][]string{{"sendmail", "a@x"}, {"mailq"}} {
		if o := h.run(t, h.command(argv...)); o.exit != 78 || !strings.Contains(o.stderr, "this program again") {
			t.Errorf("%+v", o)
		}
	}
	if len(h.asks) > 0 {
		t.Error("mail was charged that cannot leave")
	}
}

func TestKindsOfStandardInput(t *testing.T) {
	h := newHost(t)
	h.answer(t, accept)
	h.write(t, "message", "JUNKJUNK\nTo: a@x\n\nx")
	file, err := os.Open(h.path("message"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Seek(9, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	if err := unix.SetNonblock(fds[1], true); err != nil {
		t.Fatal(err)
	}
	go func() {
		ours.WriteString("To: a@x\n\nx")
		ours.Close()
	}()
	for _, stdin := range []*os.File{file, theirs} {
		cmd := h.command("sendmail", "-t")
		cmd.Stdin = stdin
		if o := h.run(t, cmd); o.called == nil || o.called.Sum != sha256.Sum256([]byte("To: a@x\n\nx")) {
			t.Errorf("%s: %+v", stdin.Name(), o)
		}
		stdin.Close()
	}

	dir, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := h.command("sendmail", "a@x")
	cmd.Stdin = dir
	// It is the real one that says so; and it was asked for, as with any message.
	if o := h.run(t, cmd); o.exit != 99 || !strings.Contains(o.stderr, "record: ") || !strings.Contains(o.stderr, "is a directory") || len(h.asks) == 0 {
		t.Errorf("directory: %+v", o)
	}
	if o := h.run(t, h.command("sendmail", "a@x")); o.called == nil || o.called.Size != 0 {
		t.Errorf("/dev/null: %+v", o)
	}
	cmd = h.command("bash", "-c", `exec -a sendmail "$SELF" a@x <&- 2>&-`)
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path, cmd.Env = "/bin/bash", append(cmd.Env, "SELF="+self)
	if o := h.run(t, cmd); o.called == nil || o.called.Size != 0 {
		t.Errorf("closed descriptors: %+v", o)
	}
}

func TestManyRecipients(t *testing.T) {
	h := newHost(t)
	h.answer(t, accept)
	argv := []string{"sendmail"}
	for i := range 2000 {
		argv = append(argv, fmt.Sprintf("user%d@outside.example", i))
	}
	o := h.run(t, h.command(argv...))
	if o.called == nil || !slices.Equal(o.called.Argv, argv) {
		t.Errorf("exit %d, %s", o.exit, o.stderr)
	}
	if a := <-h.asks; !slices.Equal(a.request.Argv, argv) {
		t.Error("the daemon saw another command line")
	}
}

func TestLoadConfig(t *testing.T) {
	sample, err := filepath.Abs("../config/wrapper.conf")
	if err != nil {
		t.Fatal(err)
	}
	if got, wrong := LoadConfig(sample); len(wrong) > 0 || got != defaults() {
		t.Errorf("the sample: %v, %+v", wrong, got)
	}
	_, unknown := sendmail.ProfileByName("qmail") // names those there are
	path := filepath.Join(t.TempDir(), "wrapper.conf")
	for _, c := range []struct{ line, wrong string }{
		{`on-unavailable = "refuze"`, `on-unavailable = "refuze": must be "accept" or "refuse"`},
		{`hand-off = "yes"`, `hand-off = "yes": must be "self" or "mailquotad"`},
		{`on-unavailable = refuse`, `on-unavailable = refuse: must be a text in double quotes, without \`},
		{`socket = "run/x"`, `socket = "run/x": must be an absolute path of at most 107 bytes`},
		{`real-sendmail = ""`, `real-sendmail = "": must be an absolute path`},
		{`mta = "qmail"`, "mta: " + unknown.Error()},
		{`max-message-size = -1`, `max-message-size = -1: must be a number of bytes, 0 for no bound`},
		{`colour = "red"`, `unknown key "colour": there are real-sendmail, mta, socket, on-unavailable, hand-off and max-message-size`},
		{`nonsense`, `"nonsense": write key = "text" or key = number`},
		{"\x00\xff", `"\x00\xff": write key = "text" or key = number`},
	} {
		if err := os.WriteFile(path, []byte("# comment\n\nsocket = \"/s\" # comment\n"+c.line+"\nmax-message-size = 5\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		got, wrong := LoadConfig(path)
		if got.Socket != "/s" || !got.Accept || got.RealSendmail != "/usr/sbin/sendmail.real" {
			t.Errorf("%s: %+v", c.line, got)
		}
		want := path + ":4: " + c.wrong
		switch {
		case strings.HasPrefix(c.line, "socket"):
			want = path + ":4: socket is given twice; the first one holds"
		case strings.HasPrefix(c.line, "max"):
			if len(wrong) != 2 || wrong[0].Error() != want {
				t.Errorf("%s: %v", c.line, wrong)
			}
			continue
		}
		if len(wrong) != 1 || wrong[0].Error() != want {
			t.Errorf("%s: got %v, want %s", c.line, wrong, want)
		}
	}
	if got, wrong := LoadConfig("/nonexistent/wrapper.conf"); len(wrong) > 0 || !got.Accept {
		t.Errorf("a missing file: %+v %v", got, wrong)
	}
}

// TestConfigProblemIsLogged: a mistake in the file is said at each call, and
// stops no mail.
func TestConfigProblemIsLogged(t *testing.T) {
	h := newHost(t, `on-unavailable = "maybe"`)
	h.answer(t, accept)
	if o := h.run(t, h.command("sendmail", "a@x")); o.called == nil {
		t.Errorf("%+v", o)
	}
	if line := h.logged(t); !strings.Contains(line, `conf:3: on-unavailable = "maybe"`) {
		t.Errorf("syslog: %s", line)
	}
}

func FuzzLoadConfig(f *testing.F) {
	f.Add("socket = \"/x\"\n# c\nmax-message-size = 3 # c\n")
	path := filepath.Join(f.TempDir(), "wrapper.conf")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, _ := LoadConfig(path)
		if c.Profile == nil || c.Socket == "" || c.RealSendmail == "" || c.MaxMessageSize < 0 {
			t.Errorf("%+v", c)
		}
	})
}
