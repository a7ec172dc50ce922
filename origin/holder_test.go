package origin

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// findClient returns what a Finder says of the last process of a chain, which is an SMTP
// client.
func findClient(t *testing.T, f *Finder, hops ...hop) Origin {
	t.Helper()
	c, _ := startAt(t, tcpServer(t, "127.0.0.1:0"), hops)
	return originOf(t, f, c.(*net.TCPConn))
}

func originOf(t *testing.T, f *Finder, c *net.TCPConn) Origin {
	t.Helper()
	p, _, err := f.Client(ends(c))
	if err != nil || p == nil {
		t.Fatalf("no client: %v", err)
	}
	defer p.Close()
	return f.Find(p, Claims{})
}

func TestFindClient(t *testing.T) {
	h := newHost(t)
	spool, home := "/var/spool/cron/crontabs/", h.dir+"/home/alice"
	claim := func(s string) Fact { return Fact{s, Claimed} }
	system := func(s string) Fact { return Fact{s, System} }
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	write(t, home+"/own/client", string(program), 0o755, alice)
	worker := h.program("php-fpm8.2", alice, "php-fpm: pool a.example")
	script := in(home, h.program("php8.2", alice, "php", "./news.php"))
	client := h.program("mail", alice)
	cgi := []string{"GATEWAY_INTERFACE=CGI/1.1", "SCRIPT_FILENAME=/x/y.pl", "SERVER_NAME=A.example", "REMOTE_ADDR=192.0.2.7",
		"REQUEST_METHOD=GET", "REQUEST_URI=/y.pl?z", "DOCUMENT_ROOT=/x"}
	tests := []struct {
		name string
		hops []hop
		want Origin // UID 0 means alice's
	}{
		{"fpm", []hop{h.fpm(), worker}, Origin{Kind: PHPFPM, KindProof: System, Site: system("a.example")}},
		{"fpm, one of two pools", []hop{h.fpm(), h.program("php-fpm8.2", bob, "php-fpm: pool bob2")},
			Origin{UID: bob, Kind: PHPFPM, KindProof: System, Site: claim("bob2")}},
		{"fpm, another's pool", []hop{h.fpm(), h.program("php-fpm8.2", bob, "php-fpm: pool a.example")},
			Origin{UID: bob, Kind: PHPFPM, KindProof: System}},
		{"fpm, a program of its own", []hop{h.fpm(), worker, script},
			Origin{Kind: PHPFPM, KindProof: System, Site: system("a.example"), Script: claim(home + "/news.php")}},
		{"fpm, a program of the system", []hop{h.fpm(), worker, sh("-c", next), client},
			Origin{Kind: PHPFPM, KindProof: System, Site: system("a.example")}},
		{"mod_php", []hop{h.apache(), h.program("apache2", 33)}, Origin{UID: 33, Kind: ModPHP, KindProof: System}},
		{"mod_php, a program of the system", []hop{h.apache(), h.program("apache2", 33), sh("-c", next), h.program("mail", 33)},
			Origin{UID: 33, Kind: ModPHP, KindProof: System}},
		{"suexec, perl", []hop{h.apache(), h.program("mail", 0), {Path: h.dir + "/usr/sbin/perl", Args: []string{"perl", "/x/y.pl"}, UID: alice, Env: cgi}},
			Origin{Kind: CGI, KindProof: System, Script: claim("/x/y.pl"), Site: claim("a.example"), DocumentRoot: claim("/x"),
				Method: claim("GET"), URI: claim("/y.pl?z"), Client: claim("192.0.2.7")}},
		{"suexec, php-cgi", []hop{h.apache(), h.program("mail", 0), {Path: h.dir + "/usr/sbin/php-cgi8.2", Args: []string{"php-cgi"}, UID: alice, Env: cgi}},
			Origin{Kind: PHPCGI, KindProof: System, Script: claim("/x/y.pl"), Site: claim("a.example"), DocumentRoot: claim("/x"),
				Method: claim("GET"), URI: claim("/y.pl?z"), Client: claim("192.0.2.7")}},
		{"cron, the only job", []hop{h.cron(), h.program("mail", alice, "sh", "-c", aliceLine), script},
			Origin{Kind: Cron, KindProof: System, Crontab: system(spool + "alice:3 */5 * * * * " + aliceLine), Script: claim(home + "/news.php")}},
		{"cron, the only job, which the shell became", []hop{h.cron(), h.program("php8.2", alice, "php", "-q", "/home/alice/news.php")},
			Origin{Kind: Cron, KindProof: System, Crontab: system(spool + "alice:3 */5 * * * * " + aliceLine), Script: claim("/home/alice/news.php")}},
		{"cron, root's job that became bob", []hop{h.cron(), h.program("perl", 0, "perl", "/root/x.pl"), as(bob, client)},
			Origin{UID: bob, Kind: Cron, KindProof: System, Crontab: claim("perl /root/x.pl"), Script: system("/root/x.pl")}},
		{"at", []hop{h.program("atd", 0), script}, Origin{Kind: At, KindProof: System, Script: claim(home + "/news.php")}},
		{"below a delivery agent", []hop{h.other("/usr/lib/postfix/sbin/local", 0, 102, 0), script},
			Origin{Kind: Pipe, KindProof: System, Script: claim(home + "/news.php")}},
		{"php", []hop{script}, Origin{Kind: PHPCLI, KindProof: Claimed, Script: claim(home + "/news.php")}},
		{"python", []hop{in(home, h.program("python3", alice, "python3", "x.py"))},
			Origin{Kind: Program, KindProof: Claimed, Script: claim(home + "/x.py")}},
		{"python, by a program of the system", []hop{in(home, h.program("python3", alice, "python3", "x.py")), client},
			Origin{Kind: Program, KindProof: Claimed, Script: claim(home + "/x.py")}},
		{"program of her own", []hop{{Path: home + "/own/client", Args: []string{"cron"}, UID: alice}},
			Origin{Kind: Program, KindProof: Claimed, Script: claim(home + "/own/client")}},
		{"program of the system", []hop{client}, Origin{Kind: Program, KindProof: Claimed}},
		{"sudo", []hop{h.other("/usr/bin/sudo", bob, 0, 0), script},
			Origin{Kind: PHPCLI, KindProof: Claimed, Script: claim(home + "/news.php"), Login: system("bob")}},
		{"her own cron", []hop{{Path: h.cron().Path, Args: h.cron().Args, UID: alice}, script},
			Origin{Kind: PHPCLI, KindProof: Claimed, Script: claim(home + "/news.php")}},
		{"user namespace", []hop{h.program("perl", alice, "perl", "/x.pl"), {Args: []string{"x"}, UID: alice, UserNS: true}},
			Origin{Kind: Program, KindProof: Claimed, Script: claim("/x.pl"), Container: Fact{"user namespace", Kernel}}},
		{"subordinate uid", []hop{h.program("perl", 1000005, "perl", "/x.pl")},
			Origin{Kind: Program, KindProof: Claimed, Script: claim("/x.pl")}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.want.UID == 0 {
				test.want.UID = alice
			}
			test.want.User = map[uint32]string{alice: "alice", bob: "bob", 33: "www-data"}[test.want.UID]
			test.want.Via = Fact{"smtp", Kernel}
			got := findClient(t, h.finder, test.hops...)
			if chain := got.Chain; len(chain) == 0 || len(chain) > 1 && chain[0].PID == chain[1].PID {
				t.Errorf("chain %+v", chain)
			}
			got.Chain = nil
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("origin (-want +got):\n%s", diff)
			}
		})
	}
}

// Which of several processes that have the socket open is told.
func TestHolderOf(t *testing.T) {
	h := newHost(t)
	type command struct {
		uid  int
		text string // for a shell that has the socket as descriptor 3; it prints the pid that is to be told, or 0
	}
	tests := []struct {
		name     string
		commands []command
	}{
		{"none", nil},
		{"one", []command{{alice, "echo $$; exec sleep 100"}}},
		{"one and its children", []command{{alice, "sleep 100 & sleep 100 & echo $$; wait"}}},
		{"the child of one that has closed it", []command{{alice, "sleep 100 & exec 3>&-; echo $!; wait"}}},
		{"two", []command{{alice, "echo 0; exec sleep 100"}, {alice, "echo 0; exec sleep 100"}}},
		{"a grandchild", []command{{alice, "sh -c 'sleep 100 & echo 0; wait' & wait"}}},
		{"one and more children than are looked at",
			[]command{{alice, fmt.Sprintf("for i in $(seq %d); do sleep 100 & done; echo 0; wait", maxHolders)}}},
		{"one that has more open than is looked at",
			[]command{{alice, fmt.Sprintf(`ulimit -n %d; exec perl -e 'open($f[$_], "/") for 1 .. %d; print "0\n"; close STDOUT; sleep 100'`, listedFDs+10, listedFDs)}}},
		// Others may not trace one that was root before.
		{"one that has become hers", []command{{0, "exec perl -e '$( = 1; $) = \"1 1\"; $< = $> = 54321; $| = 1; print \"$$\\n\"; close STDOUT; sleep 100'"}}},
		{"another user's", []command{{bob, "echo 0; exec sleep 100"}}},
		{"another user's and hers", []command{{bob, "echo 0; exec sleep 100"}, {alice, "echo $$; exec sleep 100"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			fd := socketOf(t, alice, unix.AF_INET, 0)
			file := os.NewFile(uintptr(fd), "client")
			defer file.Close()
			c := connect(t, fd, unix.AF_INET, netip.MustParseAddr("127.0.0.1"), tcpServer(t, "127.0.0.1:0"))
			want := 0
			for _, command := range test.commands {
				cmd := exec.Command("/bin/sh", "-c", command.text)
				cmd.ExtraFiles = []*os.File{file}
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(command.uid), Gid: 1}, Setpgid: true}
				out, err := cmd.StdoutPipe()
				if err == nil {
					err = cmd.Start()
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
					cmd.Wait()
				})
				if _, err := fmt.Fscan(out, &want); err != nil {
					t.Fatal(err)
				}
			}
			got := originOf(t, h.finder, c)
			pid := 0
			if len(got.Chain) > 0 {
				pid = got.Chain[0].PID
			}
			if pid != want {
				t.Errorf("process %d is told, want %d", pid, want)
			}
			if plain := (Origin{UID: alice, User: "alice", Kind: Unknown, Via: Fact{"smtp", Kernel}}); want == 0 && !cmp.Equal(got, plain) {
				t.Errorf("origin %+v, want %+v", got, plain)
			}
		})
	}
}

// A process that ends, or closes the socket, while it is looked at is not told.
func TestHolderStays(t *testing.T) {
	h := newHost(t)
	for _, closes := range []bool{true, false} {
		fd := socketOf(t, alice, unix.AF_INET, 0)
		client, server := ends(connect(t, fd, unix.AF_INET, netip.MustParseAddr("127.0.0.1"), tcpServer(t, "127.0.0.1:0")))
		socket := os.NewFile(uintptr(fd), "client")
		cmd := exec.Command("perl", "-e", "open my $socket, '<&=', 3; $| = 1; print 1; <STDIN>; close $socket; print 1; <STDIN>")
		cmd.ExtraFiles = []*os.File{socket}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: alice, Gid: 1}}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		socket.Close()
		next := func() {
			if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		next()
		p, _, err := h.finder.Client(client, server)
		if err != nil || p == nil {
			t.Fatalf("no client: %v", err)
		}
		c := call{users: h.finder.users.current(), origin: Origin{UID: alice}}
		found, ok := c.holderOf(p.socket)
		if !ok || found.pid != cmd.Process.Pid || !found.stays() {
			t.Fatalf("holder %+v, %v", found, ok)
		}
		if closes {
			io.WriteString(in, "\n")
			next()
		} else {
			cmd.Process.Kill()
			cmd.Wait()
		}
		if found.stays() {
			t.Errorf("closes %v: the process still has the socket", closes)
		}
		found.close()
		plain := Origin{UID: alice, User: "alice", Kind: Unknown, Via: Fact{"smtp", Kernel}}
		if got := h.finder.Find(p, Claims{}); !cmp.Equal(got, plain) {
			t.Errorf("closes %v: origin %+v, want %+v", closes, got, plain)
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
}

// waitingAt starts a program that has one end of a connection as descriptor 3, and waits
// in a piece of Python.
func waitingAt(t *testing.T, text string) *process {
	t.Helper()
	cmd := exec.Command("python3", "-c", "import os, select, socket, time\nos.write(3, b'x')\n"+text)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs, ours := os.NewFile(uintptr(pair[0]), "theirs"), os.NewFile(uintptr(pair[1]), "ours")
	defer theirs.Close()
	cmd.ExtraFiles = []*os.File{theirs}
	if _, err = cmd.StdinPipe(); err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	p := openProcess(cmd.Process.Pid)
	if _, err := ours.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	t.Cleanup(func() {
		p.close()
		cmd.Process.Kill()
		cmd.Wait()
		ours.Close()
	})
	return p
}

// A process that waits for what comes at a socket, in any of the ways of PHP and others.
func TestReads(t *testing.T) {
	for text, want := range map[string]bool{
		"os.read(3, 1)":                   true,
		"socket.socket(fileno=3).recv(1)": true,
		"s = socket.socket(fileno=3); s.settimeout(100); s.recv(1)":                               true,
		"p = select.poll(); p.register(0, select.POLLIN); p.register(3, select.POLLIN); p.poll()": true,
		"select.select([0, 3], [], [])":                                                           true,
		"select.select([0], [], [])":                                                              false,
		"p = select.poll(); p.register(0, select.POLLIN); p.register(3, 0); p.poll()":             false,
		"os.read(0, 1)":   false,
		"time.sleep(100)": false,
	} {
		p := waitingAt(t, text)
		got := p.reads(3)
		for range 200 { // until it waits
			if got {
				break
			}
			got = p.reads(3)
		}
		if got != want {
			t.Errorf("%s: reads %v", text, got)
		}
	}
}

func TestSystemCallReads(t *testing.T) {
	memory := make([]byte, 1024)
	pread := func(b []byte, at uint64) int { return copy(b, memory[min(at, uint64(len(memory))):]) }
	polled := func(at int, fd uint32, events uint16) {
		binary.NativeEndian.PutUint32(memory[at:], fd)
		binary.NativeEndian.PutUint16(memory[at+4:], events)
	}
	polled(0, 7, unix.POLLIN)
	polled(8, 8, unix.POLLOUT)
	polled(1016, 9, unix.POLLIN)
	binary.NativeEndian.PutUint64(memory[512:], 1<<7)
	binary.NativeEndian.PutUint64(memory[520:], 1<<(70-64))
	call := func(number int, arguments ...uint64) (c systemCall) {
		c.number = number
		copy(c.arguments[:], arguments)
		return c
	}
	tests := []struct {
		call systemCall
		fd   int
		want bool
	}{
		{call(unix.SYS_READ, 7), 7, true},
		{call(unix.SYS_READ, 7), 8, false},
		{call(unix.SYS_WRITE, 7), 7, false},
		{call(unix.SYS_RECVFROM, 7), 7, true},
		{call(unix.SYS_PPOLL, 0, 2), 7, true},
		{call(unix.SYS_PPOLL, 0, 2), 8, false},
		{call(unix.SYS_PPOLL, 8, 1), 7, false},
		{call(unix.SYS_PPOLL, 0, 0), 7, false},
		{call(unix.SYS_PPOLL, 0, 1<<63), 7, true},
		{call(unix.SYS_PPOLL, 1016, 2), 9, true},
		{call(unix.SYS_PPOLL, 1<<63, 2), 7, false},
		{call(unix.SYS_PSELECT6, 8, 512), 7, true},
		{call(unix.SYS_PSELECT6, 71, 512), 70, true},
		{call(unix.SYS_PSELECT6, 71, 512), 69, false},
		{call(unix.SYS_PSELECT6, 7, 512), 7, false},
		{call(unix.SYS_PSELECT6, 8, 0), 8, false},
		{call(unix.SYS_PSELECT6, 1<<63, 512), -1, false},
		{call(unix.SYS_PSELECT6, 8, 1<<63), 7, false},
	}
	for _, test := range tests {
		if got := test.call.reads(test.fd, pread); got != test.want {
			t.Errorf("%+v reads %d: %v", test.call, test.fd, got)
		}
	}
}

// The script of a worker that is itself the client is proved while it waits for the mail
// server's answer.
func TestClientOfRequest(t *testing.T) {
	system := func(s string) Fact { return Fact{s, System} }
	claim := func(s string) Fact { return Fact{s, Claimed} }
	for then, script := range map[string]Fact{"s.recv(1)": system("/home/alice/a.php"), "time.sleep(100)": claim("/home/alice/a.php")} {
		dir := dirForAll(t)
		write(t, dir+"/etc/passwd", "root:x:0:0::/:/\nalice:x:54321:1::/:/\n", 0o644, 0)
		conf := dir + "/fpm.conf"
		write(t, conf, "[s.example]\nuser=alice\nlisten="+dir+"/$pool\npm.status_path=/status\npm.status_listen="+dir+"/status/$pool\n", 0o644, 0)
		program := dir + "/usr/sbin/php-fpm8.2"
		if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(self, program); err != nil {
			t.Fatal(err)
		}
		python, err := lookPath("python3")
		if err != nil {
			t.Fatal(err)
		}
		code := "import os, socket, time\nhost, port = os.environ['" + socketVar + "'].split(':')\n" +
			"s = socket.create_connection((host, port))\n" + then
		master := hop{Path: program, Args: []string{"php-fpm: master process (" + conf + ")"}}
		// As FPM's, the worker is no interpreter by its executable.
		if err := copyFile(python, dir+"/worker"); err != nil {
			t.Fatal(err)
		}
		worker := hop{Path: dir + "/worker", Args: []string{"php-fpm: pool s.example", "-c", code}, UID: alice, Env: []string{"PYTHONHOME=/usr"}, Foreign: true}
		c, _ := startAt(t, tcpServer(t, "127.0.0.1:0"), []hop{master, worker})
		f := newFinder(dir)
		p, _, err := f.Client(ends(c.(*net.TCPConn)))
		if err != nil || p == nil {
			t.Fatalf("no client: %v", err)
		}
		pid := f.Find(p, Claims{}).Chain[0].PID
		statusOf(t, dir+"/status/s.example", func() string {
			return fmt.Sprintf(`{"pool":"s.example", "processes":[{"pid":%d,"state":"Running","request duration":9,"request method":"POST",`+
				`"request uri":"\/a.php","user":"-","script":"\/home\/alice\/a.php"}]}`, pid)
		})
		want := Origin{UID: alice, User: "alice", Kind: PHPFPM, KindProof: System, Script: script, Site: system("s.example"),
			Method: claim("POST"), URI: claim("/a.php"), Via: Fact{"smtp", Kernel}}
		got := f.Find(p, Claims{})
		for range 100 { // until Python waits
			if got.Script == script {
				break
			}
			got = f.Find(p, Claims{})
		}
		got.Chain = nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", then, diff)
		}
		unix.Kill(pid, unix.SIGKILL)
	}
}

func BenchmarkFindClient(b *testing.B) {
	h := newHost(b)
	c, _ := startAt(b, tcpServer(b, "127.0.0.1:0"), []hop{h.cron(), h.program("php8.2", alice, "php", "-q", "/home/alice/news.php")})
	client, server := ends(c.(*net.TCPConn))
	reportCPU(b, func() {
		p, _, err := h.finder.Client(client, server)
		if err != nil {
			b.Fatal(err)
		}
		if o := h.finder.Find(p, Claims{}); o.Kind != Cron || o.Crontab.Proof != System {
			b.Fatalf("origin %+v", o)
		}
	})
	b.ReportMetric(float64(len(processIDs())), "processes")
}
