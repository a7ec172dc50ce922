package origin

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"sendmail-wrapper/serverstatus"
)

// perlWorker starts a child and does with it what it is told, as PHP does. It
// prints the child's pid first.
const perlWorker = `$| = 1; my $how = shift;
if ($how eq "reads" or $how eq "reads, another child") {
	if ($how ne "reads") { fork or exec "sleep", "100" }
	my $pid = open(my $pipe, "-|", "sleep", "100"); print "$pid\n"; <$pipe>;
}
my $pid = fork;
if (!$pid) { open STDOUT, ">", "/dev/null"; exec "sleep", "100" }
print "$pid\n";
if ($how eq "waits") { waitpid $pid, 0 }
sleep 100;`

// family starts a worker and its child, and returns both.
func family(t *testing.T, how string) (worker, child *process) {
	t.Helper()
	cmd := exec.Command("perl", "-e", perlWorker, how)
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, errPID := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || errPID != nil {
		t.Fatal(err, errPID)
	}
	worker, child = openProcess(cmd.Process.Pid), openProcess(pid)
	if worker == nil || child == nil {
		t.Fatal("a process has ended")
	}
	t.Cleanup(worker.close)
	t.Cleanup(child.close)
	return worker, child
}

// startOf is when a process was started, rounded down to a tick.
func startOf(t *testing.T, p *process) time.Time {
	t.Helper()
	st, ok := parseStat(p.read("stat", 512, maxSmall))
	if !ok {
		t.Fatal("a process has ended")
	}
	return time.Now().Add(time.Duration(st.start)*tick - bootClock())
}

// Whether a request started a child: by when it began, or by what the worker
// waits for.
func TestStartedIn(t *testing.T) {
	tests := []struct {
		how                string
		before, at, behind Proof // the request began surely before the child, in the same tick, after it
	}{
		{"waits", System, System, 0},
		{"reads", System, System, 0},
		{"sleeps", System, Claimed, 0},
		// The other child could be the one for which the pipe was made.
		{"reads, another child", System, Claimed, 0},
	}
	for _, test := range tests {
		t.Run(test.how, func(t *testing.T) {
			worker, child := family(t, test.how)
			start := startOf(t, child)
			for when, want := range map[time.Duration]Proof{-time.Second: test.before, tick / 2: test.at, 5 * tick: test.behind} {
				r := serverstatus.Request{Earliest: start.Add(when), Latest: start.Add(when)}
				got := startedIn(r, worker, child)
				for range 1000 { // until perl waits
					if got == want {
						break
					}
					got = startedIn(r, worker, child)
				}
				if got != want {
					t.Errorf("a request that began %v after the child: proof %q, want %q", when, got, want)
				}
			}
			// A span that is not known better leaves it open.
			if got := startedIn(serverstatus.Request{Earliest: start.Add(-time.Second), Latest: start.Add(time.Second)}, worker, child); got != test.at {
				t.Errorf("a request that began within 2 s: proof %q, want %q", got, test.at)
			}
			self := openProcess(os.Getpid())
			defer self.close()
			long := serverstatus.Request{Earliest: start.Add(-time.Hour), Latest: start.Add(-time.Hour)}
			if got := startedIn(long, self, child); got != 0 {
				t.Errorf("a child of another process: proof %q", got)
			}
			unix.Kill(child.pid, unix.SIGKILL)
			for child.isChildOf(worker) && test.how == "waits" {
			}
			if got := startedIn(long, worker, child); got != 0 && test.how == "waits" {
				t.Errorf("a child that has ended: proof %q", got)
			}
		})
	}
}

// A pipe is found above any number of logs.
func TestPipeAboveLogs(t *testing.T) {
	for range 2 * maxFDs {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	cmd := exec.Command("sleep", "100")
	pipe, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	self, child := openProcess(os.Getpid()), openProcess(cmd.Process.Pid)
	defer self.close()
	defer child.close()
	fd, link := self.pipeTo(child, self.fds())
	if want := int(pipe.(interface{ Fd() uintptr }).Fd()); fd != want || link != self.fdLink(want) {
		t.Errorf("descriptor %d, want %d", fd, want)
	}
}

func TestWaitsForPID(t *testing.T) {
	wait4, waitid := strconv.Itoa(unix.SYS_WAIT4), strconv.Itoa(unix.SYS_WAITID)
	for text, want := range map[string]bool{
		wait4 + " 0x7b 0x0 0x0 0x0 0x0 0x0 0x7ffc 0x7f68\n":        true,
		wait4 + " 0xffffffffffffffff 0x7b 0x0 0x0 0x0 0x0 0x1 0x1": false,
		waitid + " 0x1 0x7b 0x0 0x4 0x0 0x0 0x1 0x1":               true,
		waitid + " 0x0 0x7b 0x0 0x4 0x0 0x0 0x1 0x1":               false,
		"0 0x7b 0x7b 0x0 0x4 0x0 0x0 0x1 0x1":                      false,
		"-1 0x7b 0x7b":                                             false,
		"running":                                                  false,
		wait4 + " 0x7b":                                            false,
		wait4 + " x y":                                             false,
		"":                                                         false,
	} {
		if waitsForPID([]byte(text), 123) != want {
			t.Errorf("waitsForPID(%q) is not %v", text, want)
		}
	}
}

// statusOf answers as FPM does, with the rows that a function makes of now.
func statusOf(t *testing.T, path string, rows func() string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	record := func(kind byte, text string) []byte {
		b := []byte{1, kind, 0, 1, 0, 0, 0, 0}
		binary.BigEndian.PutUint16(b[4:], uint16(len(text)))
		return append(b, text...)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for {
					if _, err := io.ReadAtLeast(c, buf, 1); err != nil {
						return
					}
					c.Write(append(record(6, "X: y\r\n\r\n"+rows()), record(3, "12345678")...))
				}
			}()
		}
	}()
}

// What FPM says counts as far as it is of the request that started the caller.
func TestFPMRequest(t *testing.T) {
	const status = `{"pool":"%s", "processes":[{"pid":%d,"state":"%s","request duration":%d,"request method":"POST",` +
		`"request uri":"\/a.php?b","user":"-","script":"%s"}]}`
	system := func(s string) Fact { return Fact{s, System} }
	claimed := func(s string) Fact { return Fact{s, Claimed} }
	type said struct {
		pool, state, script string
		pid                 int // 0 is the worker's
		late                bool
		text                string
	}
	right := said{pool: "s.example", state: "Running", script: `\/home\/alice\/a.php`}
	all := Origin{Script: system("/jail/home/alice/a.php"), Site: system("s.example"), Method: claimed("POST"), URI: claimed("/a.php?b")}
	site := Origin{Site: claimed("s.example")}
	tests := []struct {
		name string
		said said
		want Origin
	}{
		{"all", right, all},
		{"left by an earlier request", said{pool: right.pool, state: right.state, script: right.script, late: true}, Origin{Site: all.Site}},
		// PHP runs what the parent of a link's target has.
		{"a path that climbs", said{pool: right.pool, state: right.state, script: `\/home\/alice\/l\/..\/..\/bob\/x.php`},
			Origin{Site: all.Site, Method: all.Method, URI: all.URI}},
		{"idle", said{pool: right.pool, state: "Idle", script: right.script}, site},
		{"another process", said{pool: right.pool, state: right.state, script: right.script, pid: 1}, site},
		{"another pool", said{pool: "other", state: right.state, script: right.script}, site},
		{"an older release", said{pool: right.pool, state: right.state, script: "/home/alice/a.php"},
			Origin{Script: claimed("/jail/home/alice/a.php"), Site: claimed("s.example"), Method: claimed("POST"), URI: claimed("/a.php?b")}},
		{"garbage", said{text: `{"pool":"s.example","processes":[{"pid":`}, site},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			// A host of its own: alice has two pools, so that the title alone claims.
			dir := dirForAll(t)
			write(t, dir+"/etc/passwd", "root:x:0:0::/:/\nalice:x:54321:1::/:/\n", 0o644, 0)
			conf := dir + "/fpm.conf"
			write(t, conf, "[s.example]\nuser=alice\nchroot=/jail\nlisten="+dir+"/$pool\npm.status_path=/status\npm.status_listen="+dir+
				"/status/$pool\n[other]\nuser=alice\n", 0o644, 0)
			program := dir + "/usr/sbin/php-fpm8.2"
			if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Link(self, program); err != nil {
				t.Fatal(err)
			}
			master := hop{Path: program, Args: []string{"php-fpm: master process (" + conf + ")"}}
			worker := hop{Path: program, Args: []string{"php-fpm: pool s.example"}, UID: alice}
			conn, _ := start(t, master, worker, sendmail)
			p, err := PeerOf(conn)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			caller := openProcess(p.PID)
			defer caller.close()
			parent, _ := parseStat(caller.read("stat", 512, maxSmall))
			began := startOf(t, caller)
			const late = 50 * tick // far more than may lie between a question and the answer that counts from it
			if test.said.late {
				time.Sleep(time.Until(began.Add(late)))
			}
			statusOf(t, dir+"/status/s.example", func() string {
				if test.said.text != "" {
					return test.said.text
				}
				at := began.Add(-time.Second)
				if test.said.late {
					at = began.Add(late)
				}
				pid := test.said.pid
				if pid == 0 {
					pid = parent.ppid
				}
				return fmt.Sprintf(status, test.said.pool, pid, test.said.state, time.Since(at).Microseconds(), test.said.script)
			})
			want := test.want
			want.UID, want.User, want.Kind, want.KindProof = alice, "alice", PHPFPM, System
			got := newFinder(dir).Find(p, Claims{})
			got.Chain = nil
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("origin (-want +got):\n%s", diff)
			}
		})
	}
}

// apacheAt starts a server on a port where root alone can listen, which answers with
// rows of a status.
func apacheAt(t *testing.T, rows func() string) *serverstatus.Apache {
	t.Helper()
	var l net.Listener
	err := errors.New("no port")
	port := 600
	for ; err != nil && port < 1000; port++ {
		l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	}
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "<table><tr><th>Srv</th><th>PID</th><th>M</th><th>SS</th><th>Client</th><th>VHost</th><th>Request</th></tr>"+rows()+"</table>")
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	a, err := serverstatus.NewApache("http://"+l.Addr().String()+"/server-status", "")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// What Apache says counts of a worker with one thread: in one with several, the only
// row can be another's, and the request that started the child be over.
func TestApacheRequest(t *testing.T) {
	row := func(pid int, line string) string {
		return fmt.Sprintf("<tr><td>0-0</td><td>%d</td><td><b>W</b></td><td>9</td><td>192.0.2.1</td><td>S.example:80</td><td>%s</td></tr>", pid, line)
	}
	const get = "GET /a HTTP/1.1"
	none := Origin{UID: alice, Method: Fact{"POST", Claimed}, URI: Fact{"/b", Claimed}} // by PHP's memory
	worker, child := family(t, "sleeps")
	threads := openProcess(os.Getpid())
	defer threads.close()
	all := Origin{UID: alice, Site: Fact{"s.example", System}, Method: Fact{"GET", System}, URI: Fact{"/a", System}, Client: Fact{"192.0.2.1", System}}
	null := all
	null.Method, null.URI = none.Method, none.URI
	tests := []struct {
		name          string
		worker, child *process
		rows          string
		want          Origin
	}{
		{"one thread", worker, child, row(worker.pid, get), all},
		{"no request line", worker, child, row(worker.pid, "NULL"), null},
		{"two rows", worker, child, row(worker.pid, get) + row(worker.pid, get), none},
		{"threads", threads, worker, row(threads.pid, get), none},
	}
	for _, test := range tests {
		c := call{origin: none}
		for range 20 { // on a busy machine an answer may come too late
			c.finder = &Finder{apache: apacheAt(t, func() string { return test.rows })}
			if c.apacheRequest(test.worker, test.child); cmp.Equal(test.want, c.origin) {
				break
			}
		}
		if diff := cmp.Diff(test.want, c.origin); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// A status is asked only where nobody but root can listen.
func TestFPMListener(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/closed/x", "", 0o644, 0)
	write(t, dir+"/open/x", "", 0o644, 0)
	if err := os.Chown(dir+"/open", 33, 33); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		pool fpmPool
		want bool
	}{
		{fpmPool{statusListen: dir + "/closed/s", statusPath: "/status"}, true},
		{fpmPool{statusListen: dir + "/closed/s"}, false},
		{fpmPool{statusPath: "/status"}, false},
		{fpmPool{statusListen: dir + "/open/s", statusPath: "/status"}, false},
		{fpmPool{statusListen: dir + "/none/s", statusPath: "/status"}, false},
		{fpmPool{statusListen: "s", statusPath: "/status"}, false},
		{fpmPool{statusListen: "127.0.0.1:797", statusPath: "/status"}, true},
		{fpmPool{statusListen: "[::1]:797", statusPath: "/status"}, true},
		{fpmPool{statusListen: "127.0.0.1:9001", statusPath: "/status"}, false},
		{fpmPool{statusListen: "192.0.2.1:797", statusPath: "/status"}, false},
		{fpmPool{statusListen: "797", statusPath: "/status"}, false},
	}
	var l fpmListeners
	for _, test := range tests {
		status := l.of(&test.pool)
		if (status != nil) != test.want {
			t.Errorf("listener of %+v: %v", test.pool, status != nil)
		}
		if status != nil && l.of(&test.pool) != status {
			t.Errorf("listener of %+v is not kept", test.pool)
		}
	}
}

// The environment of a program of CGI claims what nothing better is known of.
func TestEnvironment(t *testing.T) {
	env := map[string]string{"REQUEST_METHOD": "POST", "REQUEST_URI": "/x?y", "REMOTE_ADDR": "::ffff:192.0.2.1", "DOCUMENT_ROOT": "/home/../bob"}
	claimed := func(s string) Fact { return Fact{s, Claimed} }
	proved := Origin{Kind: CGI, Method: Fact{"GET", System}, URI: Fact{"/", System}, Client: Fact{"192.0.2.9", System}}
	for _, test := range []struct {
		name         string
		before, want Origin
	}{
		{"CGI", Origin{Kind: CGI}, Origin{Kind: CGI, Method: claimed("POST"), URI: claimed("/x?y"), Client: claimed("192.0.2.1")}},
		{"Apache's status knows it", proved, proved},
		{"a program", Origin{Kind: Program}, Origin{Kind: Program}},
	} {
		c := call{origin: test.before, claims: Claims{Env: env}}
		c.addEnvironment()
		if diff := cmp.Diff(test.want, c.origin); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}
