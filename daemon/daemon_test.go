package daemon

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"sendmail-wrapper/config"
	"sendmail-wrapper/tests/testpg"
	"sendmail-wrapper/wire"
)

// This test program is also a client under another uid, and a daemon that is
// given its socket.
func TestMain(m *testing.M) {
	switch os.Getenv("TEST_AS") {
	case "client":
		reply, err := ask(os.Getenv("TEST_SOCKET"), "Subject: s\n\nx\n", "sendmail", "a@x")
		fmt.Printf("%+v %v\n", reply, err)
		return
	case "usage":
		reply, err := wire.Ask(os.Getenv("TEST_SOCKET"), &wire.Request{Op: wire.OpUsage}, nil, time.Minute)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s\n", reply.Body)
		return
	case "asker":
		playAsker(os.Getenv("TEST_SOCKET"))
		return
	case "stranger":
		askStranger(os.Getenv("TEST_SOCKET"))
		return
	case "flood":
		flood(os.Getenv("TEST_SOCKET"))
		return
	case "questions":
		questions(os.Getenv("TEST_SOCKET"))
		return
	case "activated":
		// sd_listen_fds(3): systemd sets this once the pid is known.
		os.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid()))
		l, err := Listen("/nonexistent/socket")
		if err == nil {
			c := testConfig("host=/nonexistent")
			c.OnDatabaseDown, c.DecisionTimeout = "refuse", config.Duration(100*time.Millisecond)
			var s *Server
			if s, err = New(c, "v", zerolog.New(io.Discard)); err == nil {
				err = s.Serve(context.Background(), l)
			}
		}
		fmt.Println(err)
		os.Exit(1)
	}
	testpg.Main(m)
}

func testConfig(database string) config.Daemon {
	c := config.Default()
	c.Database, c.Host, c.FirstUserUID = database, "host1", 0 // this test program runs as root
	c.LogLevel = "debug"
	return c
}

// running is a server with a database of its own.
type running struct {
	*Server
	socket string
	log    *lockedBuffer
	stop   func()
	owner  *pgx.Conn // of the database, for looking at it
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t *testing.T, change func(*config.Daemon)) *running {
	t.Helper()
	database := testpg.New(t)
	owner, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { owner.Close(context.Background()) })
	c := testConfig(testpg.As(database, "mailquotad"))
	c.Journal = filepath.Join(t.TempDir(), "journal")
	c.DecisionTimeout = config.Duration(10 * time.Second) // on a busy machine it is not away
	if change != nil {
		change(&c)
	}
	r := &running{socket: filepath.Join(t.TempDir(), "s"), log: &lockedBuffer{}, owner: owner}
	l, err := Listen(r.socket)
	if err != nil {
		t.Fatal(err)
	}
	if r.Server, err = New(c, "test", zerolog.New(r.log)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- r.Serve(ctx, l) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
		l.Close()
	})
	t.Cleanup(r.stop)
	// A status is answered once requests are taken.
	if _, err := wire.Ask(r.socket, &wire.Request{Op: wire.OpStatus}, nil, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	for len(r.slots) > 1 { // that call's own is given back after its answer
		runtime.Gosched()
	}
	return r
}

func sealed(content string) (*os.File, error) {
	fd, err := unix.MemfdCreate("message", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "message")
	if _, err := f.WriteString(content); err != nil {
		return nil, err
	}
	_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	return f, err
}

func ask(socket, content string, argv ...string) (*wire.Reply, error) {
	message, err := sealed(content)
	if err != nil {
		return nil, err
	}
	defer message.Close()
	return wire.Ask(socket, &wire.Request{Op: wire.OpSubmit, Profile: "postfix", Argv: argv}, message, 30*time.Second)
}

// limit sets messages/hour of the server.
func (r *running) limit(t *testing.T, n int) {
	t.Helper()
	_, err := r.owner.Exec(t.Context(), `INSERT INTO limits (owner_id, class, messages_hour) VALUES (6::bigint << 40, 6, $1)
		ON CONFLICT (owner_id, class) DO UPDATE SET messages_hour = $1`, n)
	if err != nil {
		t.Fatal(err)
	}
}

func (r *running) count(t *testing.T, where string) (n int) {
	t.Helper()
	if err := r.owner.QueryRow(t.Context(), `SELECT count(*) FROM messages WHERE `+where).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestExactThroughTheSocket: 400 calls, 64 at a time, at a limit of 100.
func TestExactThroughTheSocket(t *testing.T) {
	r := start(t, nil)
	r.limit(t, 100)
	var accepted, refused atomic.Int64
	var callers sync.WaitGroup
	work := make(chan int)
	for range 64 {
		callers.Go(func() {
			for range work {
				reply, err := ask(r.socket, "Subject: s\n\nx\n", "sendmail", "a@x")
				switch {
				case err != nil:
					t.Error(err)
				case reply.Verdict == wire.VerdictAccept:
					accepted.Add(1)
				case reply.Verdict == wire.VerdictRefuse && reply.Exit == 69 && reply.Code == "452 4.7.1" && strings.Contains(reply.Text, "root: limit of 100 messages per hour of server reached (100 used); free again at 20"):
					refused.Add(1)
				default:
					t.Errorf("%+v", reply)
				}
			}
		})
	}
	for i := range 400 {
		work <- i
	}
	close(work)
	callers.Wait()
	if accepted.Load() != 100 || refused.Load() != 300 {
		t.Errorf("%d accepted, %d refused", accepted.Load(), refused.Load())
	}
	if a, n := r.count(t, "decision = 1"), r.count(t, "decision = 2"); a != 100 || n != 300 {
		t.Errorf("%d rows accepted, %d refused", a, n)
	}
	if lines := strings.Count(r.log.String(), `"message":"message"`); lines != 400 {
		t.Errorf("%d lines of the log", lines)
	}
}

func TestSubmit(t *testing.T) {
	r := start(t, nil)
	for _, c := range []struct {
		name, argv, message string
		verdict             wire.Verdict
		text                string
		where               string // of the one row
	}{
		{"recipients of argv and header", "sendmail -t -fs@x a@x", "To: b@x, c@x\nX-PHP-Originating-Script: 0:x.php\n\nx", wire.VerdictAccept, "", "recipients = 3 AND sender = 's@x' AND decision = 1"},
		{"the sender is the login name", "sendmail a@x", "x", wire.VerdictAccept, "", "recipients = 1 AND sender = 'root' AND size = 1"},
		{"the null sender", "sendmail -f <> a@x b@x", "", wire.VerdictAccept, "", "recipients = 2 AND sender = '' AND size = 0"},
		{"a probe", "sendmail -bv a@x", "", wire.VerdictAccept, "", "recipients = 1 AND sender = 'root'"},
		{"no recipients", "sendmail -t", "Subject: s\n\nx", wire.VerdictAccept, "", ""},
		{"submits nothing", "mailq", "", wire.VerdictError, "submits no mail", ""},
	} {
		before := r.count(t, "true")
		reply, err := ask(r.socket, c.message, strings.Fields(c.argv)...)
		if err != nil || reply.Verdict != c.verdict || !strings.Contains(reply.Text, c.text) {
			t.Errorf("%s: %+v, %v", c.name, reply, err)
		}
		rows := 0
		if c.where != "" {
			rows = 1
			if n := r.count(t, c.where+" AND id = (SELECT id FROM messages ORDER BY id DESC LIMIT 1)"); n != 1 {
				t.Errorf("%s: the newest row is another than %s", c.name, c.where)
			}
		}
		if n := r.count(t, "true") - before; n != rows {
			t.Errorf("%s: %d rows", c.name, n)
		}
	}
	if reply, err := wire.Ask(r.socket, &wire.Request{Op: wire.OpSubmit, Profile: "qmail", Argv: []string{"sendmail"}}, mustSeal(t, "x"), time.Minute); err != nil || reply.Verdict != wire.VerdictError || !strings.Contains(reply.Text, "postfix") {
		t.Errorf("a profile that is not known: %+v, %v", reply, err)
	}
	reply, err := wire.Ask(r.socket, &wire.Request{Op: wire.OpSubmit, Profile: "postfix", Argv: []string{"sendmail", "a@x"}, Truncated: true}, mustSeal(t, "x"), time.Minute)
	if err != nil || reply.Verdict != wire.VerdictRefuse || reply.Code != "552 5.3.4" || !strings.Contains(reply.Text, "max-message-size") {
		t.Errorf("a message that is too long: %+v, %v", reply, err)
	}
}

// TestSubmitLineBreaks: what an MTA would read as commands is refused and recorded.
func TestSubmitLineBreaks(t *testing.T) {
	r := start(t, nil)
	for i, request := range []wire.Request{
		{Profile: "dma", Argv: []string{"sendmail", "a@x>\nRCPT TO:<b@x"}},
		{Profile: "msmtp", Argv: []string{"sendmail", "-fs@x>\nRCPT TO:<b@x", "a@x"}},
		{Profile: "msmtp", Argv: []string{"sendmail", "-t"}, Hints: []string{"USER=u>\nRCPT TO:<b@x"}}, // to nobody else
		{Profile: "opensmtpd", Argv: []string{"sendmail", "-F", "x\n.\n", "a@x"}},
		{Profile: "nullmailer", Argv: []string{"sendmail", "a@x"}, Hints: []string{"MAILHOST=h\nb@x"}},
	} {
		request.Op = wire.OpSubmit
		reply, err := wire.Ask(r.socket, &request, mustSeal(t, "Subject: s\n\n"), time.Minute)
		if err != nil || reply.Verdict != wire.VerdictRefuse || reply.Exit != 69 || !strings.Contains(reply.Text, "line break") {
			t.Errorf("%+v: %+v, %v", request, reply, err)
		}
		if n := r.count(t, "decision = 2 AND refused_why LIKE '%a line break%'"); n != i+1 {
			t.Errorf("%+v: %d rows", request, n)
		}
	}
	accepted := wire.Request{Op: wire.OpSubmit, Profile: "nullmailer", Argv: []string{"sendmail", "-bs"}, Hints: []string{"MAILHOST=h\n"}, Recipients: 1}
	if reply, err := wire.Ask(r.socket, &accepted, mustSeal(t, ""), time.Minute); err != nil || reply.Verdict != wire.VerdictAccept {
		t.Errorf("the sender of a dialogue is not of the environment: %+v, %v", reply, err)
	}
}

// TestSubmitDialogue: of a transaction of sendmail -bs, sender and recipients are
// the dialogue's, and the header is looked at for the report only.
func TestSubmitDialogue(t *testing.T) {
	r := start(t, nil)
	for _, c := range []struct {
		request wire.Request
		message string
		where   string // of the row
	}{
		{wire.Request{Argv: []string{"sendmail", "-bs", "-i"}, Sender: "s@x", Recipients: 3}, "To: a@x\r\nMessage-ID: <1@x>\r\nSubject: hello\r\n\r\nx\r\n",
			"sender = 's@x' AND recipients = 3 AND decision = 1"},
		{wire.Request{Argv: []string{"sendmail", "-f", "f@x", "-bs"}, Sender: "", Recipients: 1}, "", "sender = '' AND recipients = 1 AND size = 0"},
		{wire.Request{Argv: []string{"sendmail", "-bs"}, Sender: "s@x"}, "x\r\n", "sender = 's@x' AND recipients = 1 AND size = 3"},
		{wire.Request{Argv: []string{"sendmail", "a@x", "b@x"}, Sender: "s@x", Recipients: 7}, "x", "sender = 'root' AND recipients = 2"},
	} {
		c.request.Op, c.request.Profile = wire.OpSubmit, "postfix"
		reply, err := wire.Ask(r.socket, &c.request, mustSeal(t, c.message), time.Minute)
		if err != nil || reply.Verdict != wire.VerdictAccept {
			t.Errorf("%+v: %+v, %v", c.request, reply, err)
		}
		if n := r.count(t, c.where+" AND id = (SELECT id FROM messages ORDER BY id DESC LIMIT 1)"); n != 1 {
			t.Errorf("%+v: the newest row is another than %s", c.request, c.where)
		}
	}
}

func mustSeal(t *testing.T, content string) *os.File {
	t.Helper()
	f, err := sealed(content)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestStrangers: whatever is said to the socket, the daemon goes on, and keeps
// neither a goroutine nor a descriptor of it.
func TestStrangers(t *testing.T) {
	r := start(t, func(c *config.Daemon) { c.RequestTimeout = config.Duration(200 * time.Millisecond) })
	frame, err := (&wire.Request{Op: wire.OpSubmit, Profile: "postfix", Argv: []string{"sendmail", "a@x"}}).AppendFrame(nil)
	if err != nil {
		t.Fatal(err)
	}
	usage, err := (&wire.Request{Op: wire.OpUsage}).AppendFrame(nil)
	if err != nil {
		t.Fatal(err)
	}
	unsealed, err := os.CreateTemp(t.TempDir(), "message")
	if err != nil {
		t.Fatal(err)
	}
	defer unsealed.Close()
	good := mustSeal(t, "x")
	// settled waits until the last connection is gone: then only the one slot
	// is taken with which the daemon waits for the next.
	settled := func() (goroutines, descriptors int) {
		for len(r.slots) > 1 {
			runtime.Gosched()
		}
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return runtime.NumGoroutine(), len(entries)
	}
	if reply, err := ask(r.socket, "x", "sendmail", "a@x"); err != nil || reply.Verdict != wire.VerdictAccept {
		t.Fatalf("%+v, %v", reply, err)
	}
	goroutines, descriptors := settled()
	for _, c := range []struct {
		name  string
		bytes []byte
		file  *os.File
		close bool
		reply string
	}{
		{"closed at once", nil, nil, true, ""},
		{"silent", nil, nil, false, ""},
		{"half a frame", frame[:9], good, false, ""},
		{"length of 1 GB", binary.BigEndian.AppendUint32([]byte("SQW1"), 1<<30), nil, false, "at most"},
		{"rubbish", bytes.Repeat([]byte{0xff, 0}, 1<<16), nil, false, "not a frame"},
		{"no memfd", frame, nil, false, "1 descriptors, not 0"},
		{"a file on disk", frame, unsealed, false, "not in a memfd"},
		{"a memfd with a question", usage, good, false, "0 descriptors, not 1"},
		{"another version", append(append([]byte("SQW1"), 0, 0, 0, 1), 99), nil, false, "protocol version 99"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: r.socket, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			var rights []byte
			if c.file != nil {
				rights = unix.UnixRights(int(c.file.Fd()))
			}
			if c.bytes != nil {
				if _, _, err := conn.WriteMsgUnix(c.bytes, rights, nil); err != nil && c.name != "rubbish" {
					t.Fatal(err)
				}
			}
			if c.close {
				return
			}
			got, _ := io.ReadAll(conn) // ends when the daemon closes
			if !bytes.Contains(got, []byte(c.reply)) {
				t.Errorf("reply %q, want %q", got, c.reply)
			}
		})
	}
	if reply, err := ask(r.socket, "x", "sendmail", "a@x"); err != nil || reply.Verdict != wire.VerdictAccept {
		t.Fatalf("afterwards: %+v, %v", reply, err)
	}
	// A goroutine that has given its slot back may take a moment to end.
	for n := 0; n < 1000 && runtime.NumGoroutine() > goroutines; n++ {
		time.Sleep(time.Millisecond)
	}
	if g, d := settled(); g > goroutines || d > descriptors {
		t.Errorf("%d goroutines and %d descriptors; before %d and %d", g, d, goroutines, descriptors)
	}
	if n := strings.Count(r.log.String(), "no valid request"); n != 1 {
		t.Errorf("%d warnings about one user: only the first may be logged within ten seconds", n)
	}
}

// TestTooManyAtOnce: the calls of a user beyond calls-per-user are refused and
// recorded; another user's are not touched.
func TestTooManyAtOnce(t *testing.T) {
	r := start(t, func(c *config.Daemon) { c.CallsPerUser = 2 })
	var held []net.Conn
	for range 2 {
		c, err := net.Dial("unix", r.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held = append(held, c)
	}
	for { // until both are entered
		if n, _ := r.turns.count(); n == 2 {
			break
		}
		runtime.Gosched()
	}
	reply, err := ask(r.socket, "Subject: s\n\nx\n", "sendmail", "a@x")
	if err != nil || reply.Verdict != wire.VerdictRefuse || reply.Exit != 69 || reply.Code != "452 4.3.2" || !strings.Contains(reply.Text, "at the same time (more than 2)") {
		t.Errorf("%+v, %v", reply, err)
	}
	if n := r.count(t, "decision = 2 AND refused_why LIKE 'too many calls%'"); n != 1 {
		t.Errorf("%d rows of the refused call", n)
	}
	if out := askAsNobody(t, r.socket, "client"); !strings.Contains(out, "Verdict:1") {
		t.Errorf("another user: %s", out)
	}
	for _, c := range held {
		c.Close()
	}
	for len(r.slots) > 1 {
		runtime.Gosched()
	}
	if reply, err := ask(r.socket, "x", "sendmail", "a@x"); err != nil || reply.Verdict != wire.VerdictAccept {
		t.Errorf("afterwards: %+v, %v", reply, err)
	}
}

// askAsNobody is a client under uid 65533: "client" submits a message, "usage"
// asks about what was sent.
func askAsNobody(t *testing.T, socket, as string) string {
	t.Helper()
	for dir := filepath.Dir(socket); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return runAs(t, 65533, "TEST_AS="+as, "TEST_SOCKET="+socket)
}

// runAs runs this test program under another uid, and returns its output.
func runAs(t *testing.T, uid uint32, environment ...string) string {
	t.Helper()
	out, err := commandAs(t, uid, environment...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// commandAs is what runAs runs.
func commandAs(t *testing.T, uid uint32, environment ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Open("/proc/self/exe") // a descriptor: the other user cannot go where the file is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { exe.Close() })
	cmd := exec.Command("/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{exe}
	cmd.Env = environment
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return cmd
}

// TestStop: a call that was read is answered before the daemon ends.
func TestStop(t *testing.T) {
	r := start(t, nil)
	if _, err := ask(r.socket, "x", "sendmail", "a@x"); err != nil { // makes the usage rows
		t.Fatal(err)
	}
	tx, err := r.owner.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT FROM usage WHERE id = 6::bigint << 40 FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		reply, err := ask(r.socket, "x", "sendmail", "a@x")
		if err == nil && reply.Verdict != wire.VerdictAccept {
			err = fmt.Errorf("%+v", reply)
		}
		answered <- err
	}()
	for r.database.queue.State().Waiting == 0 {
		runtime.Gosched()
	}
	stopped := make(chan struct{})
	go func() {
		r.stop()
		close(stopped)
	}()
	for !strings.Contains(r.log.String(), "mailquotad stops") {
		runtime.Gosched()
	}
	select {
	case <-stopped:
		t.Fatal("stopped with a call unanswered")
	default:
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	<-stopped
	if n := r.count(t, "decision = 1"); n != 2 {
		t.Errorf("%d rows", n)
	}
}

func TestReload(t *testing.T) {
	r := start(t, nil)
	c := *r.config()
	c.CallsPerUser, c.Socket, c.LogLevel = 1, "/elsewhere", "warn"
	c.DetailsDays, c.RecordSubjects, c.RecordRecipients, c.RecordRequests, c.TraceHeader, c.ApacheStatus = 3, false, false, false, "X-T", "http://127.0.0.1:981/"
	r.Reload(c)
	if got := r.config(); got.DetailsDays != 3 || got.RecordSubjects || got.RecordRecipients || got.RecordRequests || got.TraceHeader != "X-T" || got.ApacheStatus != "" {
		t.Errorf("what is kept and added, and whom to ask: %+v", got)
	}
	if got := r.config().Socket; got == "/elsewhere" {
		t.Errorf("socket is %s without a restart", got)
	}
	r.Reload(c)
	if n := strings.Count(r.log.String(), `"key":"socket"`); n != 2 {
		t.Errorf("%d warnings of two reloads about the socket that is not used yet", n)
	}
	if got := r.config().CallsPerUser; got != 1 {
		t.Errorf("calls-per-user is %d", got)
	}
	if log := r.log.String(); !strings.Contains(log, `"key":"socket"`) || !strings.Contains(log, `"key":"apache-status"`) || strings.Contains(log, `"key":"host"`) {
		t.Errorf("log: %s", log)
	}
	if _, err := ask(r.socket, "x", "sendmail", "a@x"); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(r.log.String(), `"message":"message"`) {
		t.Error("a line of level info after a reload to warn")
	}
}

func TestUsageIsOnesOwn(t *testing.T) {
	r := start(t, nil)
	if _, err := ask(r.socket, "x", "sendmail", "a@x"); err != nil {
		t.Fatal(err)
	}
	if out := askAsNobody(t, r.socket, "usage"); strings.TrimSpace(out) != "[]" {
		t.Errorf("a user who has sent nothing sees %s", out)
	}
	if out := askAsNobody(t, r.socket, "client"); !strings.Contains(out, "Verdict:1") {
		t.Fatal(out)
	}
	out := askAsNobody(t, r.socket, "usage")
	if !strings.Contains(out, "65533") || strings.Contains(out, "root") {
		t.Errorf("another user sees %s", out)
	}
	reply, err := wire.Ask(r.socket, &wire.Request{Op: wire.OpUsage}, nil, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var list []struct{ Object string }
	if err := json.Unmarshal(reply.Body, &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].Object != "user:root" || list[1].Object != "subscription:root" {
		t.Errorf("%s", reply.Body)
	}
}

func TestStatus(t *testing.T) {
	r := start(t, nil)
	if _, err := ask(r.socket, "x", "sendmail", "a@x"); err != nil {
		t.Fatal(err)
	}
	reply, err := wire.Ask(r.socket, &wire.Request{Op: wire.OpStatus}, nil, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var status Status
	if err := json.Unmarshal(reply.Body, &status); err != nil {
		t.Fatal(err)
	}
	if status.Database != "ok" || status.Version != "test" || status.Host != "host1" || status.Accepted != 1 || status.Schema < 1 {
		t.Errorf("%s", reply.Body)
	}
}

// TestWithoutDatabase: the daemon runs, says so, and finds the database when it
// is there.
func TestWithoutDatabase(t *testing.T) {
	for _, test := range []struct {
		down    string
		verdict wire.Verdict
		exit    uint8
		text    string
	}{
		{"journal", wire.VerdictUnavailable, 0, "mailquotad has no database"}, // nothing is known: left to the wrapper
		{"accept", wire.VerdictAccept, 0, ""},
		{"refuse", wire.VerdictRefuse, 69, "mail cannot be counted now"},
	} {
		r := start(t, func(c *config.Daemon) {
			c.Database, c.OnDatabaseDown = "host=/nonexistent user=mailquotad dbname=x", test.down
			c.DecisionTimeout = config.Duration(100 * time.Millisecond)
		})
		reply, err := ask(r.socket, "x", "sendmail", "a@x")
		if err != nil || reply.Verdict != test.verdict || reply.Exit != test.exit || !strings.Contains(reply.Text, test.text) {
			t.Errorf("%s: %+v, %v", test.down, reply, err)
		}
		// What is forbidden never passes: who calls could have brought the outage about, too.
		reply, err = wire.Ask(r.socket, &wire.Request{Op: wire.OpSubmit, Profile: "postfix", Argv: []string{"sendmail", "a@x"}, Truncated: true}, mustSeal(t, "x"), time.Minute)
		if err != nil || reply.Verdict != wire.VerdictRefuse || !strings.Contains(reply.Text, wire.TextTooLong) {
			t.Errorf("%s: forbidden: %+v, %v", test.down, reply, err)
		}
		if log := r.log.String(); strings.Count(log, "database not reached") != 1 || !strings.Contains(log, `"message":"no decision"`) {
			t.Errorf("%s: log: %s", test.down, log)
		}
	}
}

func TestTooManyWithoutDatabase(t *testing.T) {
	r := start(t, func(c *config.Daemon) {
		c.Database, c.CallsPerUser = "host=/nonexistent user=mailquotad dbname=x", 1
		c.DecisionTimeout = config.Duration(100 * time.Millisecond)
	})
	held, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	for len(r.slots) < 2 {
		runtime.Gosched()
	}
	for {
		reply, err := ask(r.socket, "x", "sendmail", "a@x")
		if err != nil {
			t.Fatal(err)
		}
		if reply.Verdict == wire.VerdictRefuse && reply.Exit == 69 && strings.Contains(reply.Text, "root: too many calls") {
			return
		}
		if reply.Verdict != wire.VerdictUnavailable { // the held call has not been entered yet
			t.Fatalf("%+v", reply)
		}
	}
}

func TestPrintable(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"plain", "plain"}, {"a\nb\x1b[31m\x00", "a\uFFFDb\uFFFD[31m\uFFFD"}, {"\xff", "\uFFFD"}, {"käse", "käse"},
		{strings.Repeat("ä", 300), strings.Repeat("ä", 240) + " …"},
	} {
		if got := printable(c.in); got != c.out {
			t.Errorf("%q: %q, want %q", c.in, got, c.out)
		}
	}
}

// socketPair returns the two ends of a connection.
func socketPair(t *testing.T) (ends [2]*net.UnixConn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "end")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		ends[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return ends
}

// TestFault: a panic ends one call, which is refused and does not count as the
// daemon being away.
func TestFault(t *testing.T) {
	log := &lockedBuffer{}
	c := testConfig("host=/nonexistent")
	c.OnDatabaseDown = "refuse" // no journal is made
	broken, err := New(c, "v", zerolog.New(log))
	if err != nil {
		t.Fatal(err)
	}
	defer broken.database.close()
	broken.finder = nil
	ends := socketPair(t)
	broken.serve(ends[0], func() {})
	want, err := (&wire.Reply{Verdict: wire.VerdictError, Text: "fault in mailquotad: see its log"}).AppendFrame(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(ends[1]); err != nil || !bytes.Equal(got, want) {
		t.Errorf("answer %q, %v", got, err)
	}
	if !strings.Contains(log.String(), "fault of mailquotad") {
		t.Error("the fault is not in the log")
	}
}
