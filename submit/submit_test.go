package submit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"sendmail-wrapper/wire"
)

// This test program is the real sendmail, too, where it is called so: it does what its first
// argument says.
func TestMain(m *testing.M) {
	if os.Args[0] == "sendmail" {
		os.Exit(real(os.Args[1:]))
	}
	for fd := 3; fd < 100; fd++ { // what whoever runs the tests has left open
		unix.CloseOnExec(fd)
	}
	os.Exit(m.Run())
}

// seen is what the real sendmail sees.
type seen struct {
	Argv, Env  []string
	Dir        string
	Open       []string // descriptors and what they are
	Group      bool     // leads a process group
	Ambient    string   // capabilities
	Ignored    string   // signals
	Message    []byte
	NoNewPrivs string
}

func real(args []string) int {
	switch args[0] {
	case "see":
		s := seen{Argv: os.Args, Env: os.Environ(), Group: unix.Getpgrp() == os.Getpid()}
		s.Dir, _ = os.Getwd()
		for fd := range 200 {
			link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			if err == nil && !strings.HasPrefix(link, "anon_inode:") && !strings.HasPrefix(link, "/sys/fs/cgroup/") { // the Go runtime's own
				link, _, _ = strings.Cut(link, ":[")
				s.Open = append(s.Open, fmt.Sprintf("%d %s", fd, link))
			}
		}
		status, _ := os.ReadFile("/proc/self/status")
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			switch name {
			case "CapAmb":
				s.Ambient = value
			case "SigIgn":
				s.Ignored = value
			case "NoNewPrivs":
				s.NoNewPrivs = value
			}
		}
		s.Message, _ = io.ReadAll(os.Stdin)
		json.NewEncoder(os.Stdout).Encode(&s)
		fmt.Fprintln(os.Stderr, "warning")
		return 3
	case "write": // more than is kept, and more than a pipe holds
		os.Stdout.Write(bytes.Repeat([]byte("o"), 300_000))
		os.Stderr.Write(bytes.Repeat([]byte("e"), 300_000))
		return 0
	case "signal":
		unix.Kill(os.Getpid(), unix.SIGKILL)
	case "append": // to a file
		f, err := os.OpenFile(args[1], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = io.Copy(f, os.Stdin)
		}
		if err != nil {
			return 98
		}
		return 0
	case "leave": // a child that has the pipes open, as deliveries of Exim have
		p, err := os.StartProcess("/proc/self/exe", []string{"sendmail", "hang", args[1]}, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}})
		fmt.Println("left behind", p != nil, err)
		return 0
	case "hang", "hang alone": // until the file is there; the other does not end by SIGTERM
		os.WriteFile(args[1]+".began", []byte(strconv.Itoa(os.Getpid())), 0o600)
		for {
			if _, err := os.Stat(args[1]); err == nil {
				content, _ := io.ReadAll(os.Stdin)
				os.WriteFile(args[1]+".done", content, 0o600)
				return 0
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return 99
}

// service is a server that is up.
type service struct {
	*Server
	socket   string
	listener *net.UnixListener
	log      *bytes.Buffer
	ended    chan struct{}
}

func serve(t *testing.T, change func(*Server)) *service {
	t.Helper()
	log := &bytes.Buffer{}
	s := &service{Server: New(uint32(os.Getuid()), func(string) (string, error) { return "/proc/self/exe", nil }, zerolog.New(zerolog.SyncWriter(log))), log: log, ended: make(chan struct{})}
	if change != nil {
		change(s.Server)
	}
	dir, err := os.MkdirTemp("", "") // a short path: sun_path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	s.socket = filepath.Join(dir, "s")
	if s.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: s.socket, Net: "unix"}); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.Serve(s.listener)
		close(s.ended)
	}()
	t.Cleanup(func() {
		s.listener.Close()
		<-s.ended
		os.RemoveAll(dir)
	})
	return s
}

// memfd returns a message, sealed where it shall be.
func memfd(t testing.TB, content string, seal bool) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("message", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "message")
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	if seal {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func request(args ...string) *Request {
	r := &Request{Argv: [][]byte{[]byte("sendmail")}}
	for _, a := range args {
		r.Argv = append(r.Argv, []byte(a))
	}
	return r
}

const patience = 30 * time.Second

// await waits for a file.
func await(t *testing.T, path string) string {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if content, err := os.ReadFile(path); err == nil && len(content) > 0 {
			return string(content)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not there", path)
		}
	}
}

// TestSend: the real sendmail has the message with its trace field, from its beginning, and
// nothing else of anybody's.
func TestSend(t *testing.T) {
	s := serve(t, nil)
	t.Setenv("LD_PRELOAD", "/x")
	t.Setenv("TZ", "Europe/Berlin")
	for _, c := range []struct {
		name, content, trace string
		at                   int64
		want                 string
		shut                 bool // the caller has taken the rights to his file away
	}{
		{"as it is", "a\x00\xff\r\nb", "", 0, "a\x00\xff\r\nb", false},
		{"trace field", "From x\nS: y\n\nb", "T: 1\n", 7, "From x\nT: 1\nS: y\n\nb", false},
		{"empty", "", "T: 1\n", 0, "T: 1\n", false},
		{"too long for it", strings.Repeat("x", maxTraced+1), "T: 1\n", 0, strings.Repeat("x", maxTraced+1), false},
		{"shut", "abc", "", 0, "abc", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			message := memfd(t, c.content, true)
			if c.shut {
				if err := message.Chmod(0); err != nil {
					t.Fatal(err)
				}
			}
			// Whoever has the descriptor has its offset.
			if _, err := message.Seek(2, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			r := request("see", "a\xff b", "")
			r.Trace, r.TraceAt = c.trace, c.at
			if c.content == "" || len(c.content) > maxTraced { // too long for Stdout
				r = request("write")
				r.Trace, r.TraceAt = c.trace, c.at
				if result, err := Send(t.Context(), s.socket, r, message); err != nil || result.Exit != 0 {
					t.Errorf("%+v, %v", result, err)
				}
				return
			}
			result, err := Send(t.Context(), s.socket, r, message)
			if err != nil {
				t.Fatal(err)
			}
			var got seen
			if err := json.Unmarshal(result.Stdout, &got); err != nil {
				t.Fatal(err, result)
			}
			want := seen{Argv: []string{"sendmail", "see", "a\uFFFD b", ""}, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C", "TZ=Europe/Berlin"},
				Dir: "/", Open: []string{"0 /memfd:message (deleted)", "1 pipe", "2 pipe"}, Group: true, Ambient: got.Ambient, Ignored: got.Ignored, Message: []byte(c.want), NoNewPrivs: "0"}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if result.Exit != 3 || string(result.Stderr) != "warning\n" || result.Ended != "" {
				t.Errorf("%+v", result)
			}
		})
	}
}

// TestSeek: a caller who moves the offset of his descriptor while the message is read changes
// nothing.
func TestSeek(t *testing.T) {
	s := serve(t, nil)
	content := strings.Repeat("0123456789", 400_000)
	message := memfd(t, content, true)
	stop := make(chan struct{})
	var seeking sync.WaitGroup
	seeking.Go(func() {
		for i := int64(0); ; i++ {
			select {
			case <-stop:
				return
			default:
				unix.Seek(int(message.Fd()), i%1000, io.SeekStart)
			}
		}
	})
	file := filepath.Join(t.TempDir(), "go")
	os.WriteFile(file, []byte("x"), 0o600)
	result, err := Send(t.Context(), s.socket, request("hang", file), message)
	close(stop)
	seeking.Wait()
	if err != nil || result.Exit != 0 {
		t.Fatal(result, err)
	}
	if got := await(t, file+".done"); got != content {
		t.Errorf("%d bytes that differ", len(got))
	}
}

func TestOutput(t *testing.T) {
	s := serve(t, nil)
	result, err := Send(t.Context(), s.socket, request("write"), memfd(t, "", true))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&Result{Stdout: bytes.Repeat([]byte("o"), wire.MaxOutput), Stderr: bytes.Repeat([]byte("e"), wire.MaxOutput)}, result); diff != "" {
		t.Error(diff)
	}
	dir := t.TempDir()
	result, err = Send(t.Context(), s.socket, request("leave", filepath.Join(dir, "go")), memfd(t, "", true))
	if err != nil || string(result.Stdout) != "left behind true <nil>\n" {
		t.Errorf("%+v, %v", result, err)
	}
	await(t, filepath.Join(dir, "go.began"))
	os.WriteFile(filepath.Join(dir, "go"), nil, 0o600)
	if result, err = Send(t.Context(), s.socket, request("signal"), memfd(t, "", true)); err != nil || result.Ended != "ended by signal killed" {
		t.Errorf("%+v, %v", result, err)
	}
}

// TestNotRun: nothing is run, and it is known that nothing was.
func TestNotRun(t *testing.T) {
	away := serve(t, nil)
	away.listener.Close()
	<-away.ended
	other := serve(t, func(s *Server) { s.from = 12345 })
	missing := serve(t, func(s *Server) { s.program = func(string) (string, error) { return "/nonexistent", nil } })
	another := serve(t, func(s *Server) {
		s.program = func(profile string) (string, error) { return "", errors.New("not of " + profile) }
	})
	works := serve(t, nil)
	outside := request("see")
	outside.Trace, outside.TraceAt = "T: 1\n", 5
	for _, c := range []struct {
		name    string
		s       *service
		r       *Request
		message *os.File
		want    string
	}{
		{"away", away, request("see"), memfd(t, "x", true), "no such file"},
		{"of another user", other, request("see"), memfd(t, "x", true), "is not mailquotad's"},
		{"of another user, who has much to say", other, request(strings.Repeat("x", 2<<20)), memfd(t, "x", true), "is not mailquotad's"},
		{"no program", missing, request("see"), memfd(t, "x", true), "/nonexistent"},
		{"of another mail server", another, &Request{Profile: "exim", Argv: request("see").Argv}, memfd(t, "x", true), "not of exim"},
		{"not sealed", works, request("see"), memfd(t, "x", false), "not sealed"},
		{"no command line", works, &Request{}, memfd(t, "x", true), "no command line"},
		{"NUL", works, request("a\x00b"), memfd(t, "x", true), "invalid argument"},
		{"trace outside", works, outside, memfd(t, "x", true), "outside the message"},
	} {
		result, err := Send(t.Context(), c.s.socket, c.r, c.message)
		if notRun := (*NotRunError)(nil); !errors.As(err, &notRun) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v; want a NotRunError with %q", c.name, result, err, c.want)
		}
	}
}

// TestGone: who goes away before the word to start has nothing sent, and who does so after it has
// his message sent all the same.
func TestGone(t *testing.T) {
	s := serve(t, nil)
	dir := t.TempDir()
	for _, said := range []bool{false, true} {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.socket, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, strconv.FormatBool(said))
		if err := writeFrame(c, request("hang", file), unix.UnixRights(int(memfd(t, "content", true).Fd()))); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if said {
			c.Write([]byte{start})
		}
		c.Close()
	}
	await(t, filepath.Join(dir, "true.began"))
	s.listener.Close() // a stop waits for what runs
	select {
	case <-s.ended:
		t.Error("the server has ended, and a message is on its way")
	case <-time.After(50 * time.Millisecond):
	}
	os.WriteFile(filepath.Join(dir, "true"), nil, 0o600)
	<-s.ended
	if got := await(t, filepath.Join(dir, "true.done")); got != "content" {
		t.Errorf("%q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "false.began")); err == nil {
		t.Error("a message was sent that nobody waited for")
	}
}

// TestStop: a server that is stopped begins nothing more, and ends what it has begun; those that
// wait for a place are sent by the next at the same socket, once each.
func TestStop(t *testing.T) {
	for _, ends := range []bool{false, true} { // before the next one starts
		t.Run(strconv.FormatBool(ends), func(t *testing.T) {
			first := serve(t, func(s *Server) { s.places = newPlaces(1, 1) })
			dir := t.TempDir()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			send := func(r *Request) {
				if result, err := Send(ctx, first.socket, r, memfd(t, "x", true)); err != nil || result.Exit != 0 {
					t.Errorf("%+v, %v", result, err)
				}
			}
			var sending, waiting sync.WaitGroup
			running := filepath.Join(dir, "running")
			sending.Go(func() { send(request("hang", running)) })
			await(t, running+".began")
			for i := range 3 {
				waiting.Go(func() { send(request("append", filepath.Join(dir, strconv.Itoa(i)))) })
			}
			for n := 0; n < 3 && ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
				first.places.mu.Lock()
				n = len(first.places.waiting)
				first.places.mu.Unlock()
			}
			first.listener.SetUnlinkOnClose(false)
			f, err := first.listener.File() // systemd has it open
			if err != nil {
				t.Fatal(err)
			}
			l, err := net.FileListener(f)
			f.Close()
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			first.listener.Close()
			end := func() {
				os.WriteFile(running, nil, 0o600)
				sending.Wait()
				<-first.ended
			}
			if ends {
				end()
			}
			for i := range 3 {
				if _, err := os.Stat(filepath.Join(dir, strconv.Itoa(i))); err == nil {
					t.Error("a message was begun after the stop")
				}
			}
			next := New(uint32(os.Getuid()), first.program, zerolog.New(zerolog.SyncWriter(first.log)))
			var serving sync.WaitGroup
			serving.Go(func() { next.Serve(l.(*net.UnixListener)) })
			waiting.Wait()
			if !ends {
				select {
				case <-first.ended:
					t.Error("the server has ended, and a message is on its way")
				default:
				}
				end()
			}
			l.Close()
			serving.Wait()
			for i := range 3 {
				if got := await(t, filepath.Join(dir, strconv.Itoa(i))); got != "x" {
					t.Errorf("sent: %q", got)
				}
			}
			if first.log.Len() > 0 {
				t.Error(first.log)
			}
		})
	}
}

// TestAgain: a server that ends before it has a place is asked again, though not without a pause and
// not for ever; one that ends later never is, for it may have sent the message.
func TestAgain(t *testing.T) {
	for _, c := range []struct {
		name     string
		says     []byte // before it ends
		least    int    // connections
		most     int
		deadline bool
		notRun   bool
	}{
		{"no place", nil, 2, 4, true, true}, // at 0, 100, 300 and 700 ms
		{"refused", append([]byte{0, 0, 0, 0, 14}, `{"NotRun":"x"}`...), 1, 1, false, true},
		{"started", []byte{ready}, 1, 1, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			var serving sync.WaitGroup
			serving.Go(func() {
				for {
					conn, err := l.AcceptUnix()
					if err != nil {
						return
					}
					n++
					_, message, err := readRequest(conn)
					if err != nil {
						t.Error(err)
						conn.Close()
						continue
					}
					message.Close()
					conn.Write(c.says)
					if len(c.says) == 1 {
						io.ReadFull(conn, make([]byte, 1))
					}
					conn.Close()
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			result, err := Send(ctx, l.Addr().String(), request("see"), memfd(t, "x", true))
			l.Close()
			serving.Wait()
			if err == nil || errors.As(err, new(*NotRunError)) != c.notRun || errors.Is(err, context.DeadlineExceeded) != c.deadline || n < c.least || n > c.most {
				t.Errorf("%d times asked: %+v, %v", n, result, err)
			}
		})
	}
}

// TestTimeout: a program that takes too long is ended, with its children.
func TestTimeout(t *testing.T) {
	s := serve(t, func(s *Server) { s.runTimeout = 2 * time.Second })
	file := filepath.Join(t.TempDir(), "never")
	result, err := Send(t.Context(), s.socket, request("hang", file), memfd(t, "x", true))
	if err != nil || result.Ended != "took longer than 2s and was ended" {
		t.Errorf("%+v, %v", result, err)
	}
	pid, err := strconv.Atoi(await(t, file+".began"))
	if err != nil || syscall.Kill(pid, 0) != syscall.ESRCH {
		t.Errorf("process %d is there, %v", pid, err)
	}
}

// TestShare: one owner who has all that he may keeps nobody else waiting.
func TestShare(t *testing.T) {
	s := serve(t, func(s *Server) { s.places = newPlaces(4, 2) })
	dir := t.TempDir()
	var sending sync.WaitGroup
	for i := range 6 {
		sending.Go(func() {
			r := request("hang", filepath.Join(dir, "go"))
			r.Argv[2] = []byte(filepath.Join(dir, strconv.Itoa(i)))
			r.Owner = 1001
			if result, err := Send(t.Context(), s.socket, r, memfd(t, "x", true)); err != nil || result.Exit != 0 {
				t.Errorf("%+v, %v", result, err)
			}
		})
	}
	began := func() (n int) {
		list, _ := filepath.Glob(filepath.Join(dir, "*.began"))
		return len(list)
	}
	for began() < 2 {
		time.Sleep(5 * time.Millisecond)
	}
	other := request("see")
	other.Owner = 1002
	if result, err := Send(t.Context(), s.socket, other, memfd(t, "x", true)); err != nil || result.Exit != 3 {
		t.Errorf("%+v, %v", result, err)
	}
	if n := began(); n != 2 {
		t.Errorf("%d of one owner at a time, want 2", n)
	}
	if _, err := Send(t.Context(), s.socket, request("see"), memfd(t, "x", true)); err != nil {
		t.Error(err)
	}
	late := request("see")
	late.Owner = 1001
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if result, err := Send(ctx, s.socket, late, memfd(t, "x", true)); !errors.As(err, new(*NotRunError)) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%+v, %v; want that there is no place", result, err)
	}
	for i := range 6 {
		os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600)
	}
	sending.Wait()
}

// FuzzReadRequest: whatever comes, there is an error or a request, and no descriptor is left.
func FuzzReadRequest(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x14{\"Argv\":[\"YQ==\"]}  "), 1)
	f.Add([]byte("\xff\xff\xff\xff{}"), 2)
	f.Add([]byte(""), 0)
	f.Fuzz(func(t *testing.T, b []byte, rights int) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		var ends [2]*net.UnixConn
		for i, fd := range fds {
			file := os.NewFile(uintptr(fd), "socketpair")
			c, err := net.FileConn(file)
			file.Close()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ends[i] = c.(*net.UnixConn)
		}
		message := memfd(t, "x", true)
		var list []int
		for range min(max(rights, 0), 5) {
			list = append(list, int(message.Fd()))
		}
		if len(b) > 0 {
			var oob []byte
			if list != nil {
				oob = unix.UnixRights(list...)
			}
			if _, _, err := ends[0].WriteMsgUnix(b, oob, nil); err != nil {
				t.Fatal(err)
			}
		}
		ends[0].Close()
		before, _ := os.ReadDir("/proc/self/fd")
		r, got, err := readRequest(ends[1])
		if err == nil {
			if len(r.Argv) == 0 {
				t.Error("no command line, and no error")
			}
			got.Close()
		}
		if after, _ := os.ReadDir("/proc/self/fd"); len(after) != len(before) {
			t.Errorf("%d descriptors open, %d before", len(after), len(before))
		}
	})
}
