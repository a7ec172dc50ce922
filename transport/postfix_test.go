package transport

import (
	"bufio"
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sendmail-wrapper/policy"
)

// release is a Debian release with its version of Postfix.
type release struct {
	suite, version string
	longIDs        bool
}

// releases are those that TestPostfix runs; versions_test.go has more, which other
// mirrors may not have.
var releases = []release{{"bookworm", "3.7.", true}, {"bookworm", "3.7.", false}}

// TestPostfix has the transport stand between real queue managers and agents:
// Postfix of Debian releases, each in a chroot of its own, made once.
func TestPostfix(t *testing.T) {
	for _, c := range releases {
		t.Run(fmt.Sprintf("%s, long ids %v", c.suite, c.longIDs), func(t *testing.T) {
			p := startPostfix(t, c.suite, c.longIDs)
			if !strings.Contains(p.logged(), "daemon started -- version "+c.version) {
				t.Errorf("not Postfix %s*: %s", c.version, p.logged())
			}
			started := time.Now().Unix()

			// To an outside address by pickup(8): it was charged before.
			p.send("alice@host.example", "direct@out.example")
			p.leaves("alice@host.example direct@out.example")

			// An alias: each copy is asked about, passes, stays or bounces, and is delivered once.
			p.answers(map[string]string{"m2@out.example": "452 4.7.1 many@hosted.test: limit", "m3@out.example": "554 5.7.1 many@hosted.test: never"})
			p.send("alice@host.example", "many@hosted.test")
			first := map[string]policy.Request{}
			for range 3 {
				q := p.asked()
				first[q.Recipient] = q
				if q.OriginalRecipient != "many@hosted.test" || q.FirstQueueID != q.QueueID || q.Sender != "alice@host.example" || q.ClientAddress != "" || q.Username != "" || q.Size < 100 ||
					q.Arrived < started-1 || q.Arrived > time.Now().Unix() {
					t.Errorf("asked %+v", q)
				}
			}
			p.leaves("alice@host.example m1@out.example")
			p.log(`to=<m2@out\.example>, orig_to=<many@hosted\.test>, .*dsn=4\.7\.1, status=deferred \(many@hosted\.test: limit\)`)
			p.log(`to=<m3@out\.example>, orig_to=<many@hosted\.test>, .*dsn=5\.7\.1, status=bounced \(many@hosted\.test: never\)`)
			p.answers(nil)
			p.flush()
			if q := p.asked(); q != first["m2@out.example"] {
				t.Errorf("asked again %+v, first %+v", q, first["m2@out.example"])
			}
			p.leaves("alice@host.example m2@out.example")

			// What the world answers is what Postfix learns: to be tried again, never, and later a site that is away.
			p.answers(map[string]string{"m2@out.example": "452 4.7.1 many@hosted.test: limit"})
			p.worldSays(map[string]string{"m1@out.example": "451 4.2.1 not now", "m3@out.example": "550 5.1.1 nobody"})
			p.send("alice@host.example", "many@hosted.test")
			p.log(`to=<m1@out\.example>, .*dsn=4\.2\.1, status=deferred`)
			p.log(`to=<m3@out\.example>, .*dsn=5\.1\.1, status=bounced`)
			p.log(`to=<m2@out\.example>[^$]*to=<m2@out\.example>[^$]*to=<m2@out\.example>, .*status=deferred`)
			p.answers(nil)
			p.worldSays(nil)
			p.flush()
			p.leaves("alice@host.example m1@out.example", "alice@host.example m2@out.example")
			for range 5 {
				p.asked()
			}

			// A list whose owner- alias has taken the original recipient: it is not taken for what pickup(8) queued.
			p.send("alice@host.example", "olist@host.example")
			for range 2 {
				if q := p.asked(); q.Sender != "owner-olist@host.example" || q.FirstQueueID == q.QueueID || !regexp.MustCompile(`pickup\[\d+\]: `+q.FirstQueueID).MatchString(p.logged()) {
					t.Errorf("asked %+v", q)
				}
			}
			p.leaves("owner-olist@host.example l1@out.example", "owner-olist@host.example l2@out.example")

			// A bounce to another host; and mail without sender that a program has submitted.
			p.send("bob@else.example", "alice+x@host.example.invalid", "nobody-there@host.example")
			p.leaves("bob@else.example alice+x@host.example.invalid")
			if q := p.asked(); q.Sender != "" || q.Recipient != "bob@else.example" || q.OriginalRecipient != "bob@else.example" || q.FirstQueueID != q.QueueID {
				t.Errorf("asked %+v", q)
			}
			p.leaves("<> bob@else.example")
			p.send("", "null@out.example")
			p.leaves("<> null@out.example")
			p.nothingMore()
		})
	}
}

// A postfix is one that runs, with mailquotad and the world played by the test.
type postfix struct {
	*testing.T
	root      string
	questions chan policy.Request
	taken     chan string

	mu    sync.Mutex
	says  map[string]string // action of mailquotad by recipient, DUNNO for others
	world map[string]string // reply to RCPT by recipient, 250 for others
}

// startPostfix runs the Postfix of a release until the test ends.
func startPostfix(t *testing.T, suite string, longIDs bool) *postfix {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: master(8) in a chroot")
	}
	p := &postfix{T: t, questions: make(chan policy.Request, 100), taken: make(chan string, 100)}
	p.root = postfixRoot(t, suite)
	world, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { world.Close() })
	go p.beTheWorld(world)

	config, err := os.ReadFile(filepath.Join(p.root, "etc/postfix/main.cf"))
	if err != nil {
		t.Fatal(err)
	}
	config, _, _ = bytes.Cut(config, []byte("\n# of this test\n"))
	config = fmt.Appendf(config, "\n# of this test\nrelayhost = [127.0.0.1]:%d\nenable_long_queue_ids = %s\n", world.Addr().(*net.TCPAddr).Port, map[bool]string{true: "yes", false: "no"}[longIDs])
	if err := os.WriteFile(filepath.Join(p.root, "etc/postfix/main.cf"), config, 0o644); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(p.root, "var/log/postfix.log"))
	queue := filepath.Join(p.root, "var/spool/postfix")
	if err := os.RemoveAll(queue); err != nil {
		t.Fatal(err)
	}
	for _, d := range []struct {
		name     string
		uid, gid int
		mode     os.FileMode
	}{{"", 0, 0, 0o755}, {"pid", 0, 0, 0o755}, {"maildrop", 101, 102, 0o730}, {"public", 101, 102, 0o710}, {"private", 101, 0, 0o700}, {"active", 101, 0, 0o700}, {"bounce", 101, 0, 0o700},
		{"defer", 101, 0, 0o700}, {"deferred", 101, 0, 0o700}, {"flush", 101, 0, 0o700}, {"hold", 101, 0, 0o700}, {"incoming", 101, 0, 0o700}, {"trace", 101, 0, 0o700}, {"corrupt", 101, 0, 0o700}} {
		path := filepath.Join(queue, d.name)
		if err := os.MkdirAll(path, d.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, d.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, d.uid, d.gid); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(p.root, "var/lib/postfix"), 101, 101); err != nil {
		t.Fatal(err)
	}

	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(queue, "private/mailquota"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(l.Addr().String(), 0o666); err != nil {
		t.Fatal(err)
	}
	s := &Server{Log: zerolog.New(zerolog.NewTestWriter(t)), Mailquotad: mailquotadAt(t, p.beMailquotad)}
	ended := make(chan error)
	go func() { ended <- s.Serve(l) }()

	// A process namespace, so that all of it ends with its master, and that with the test.
	runtime.LockOSThread()
	master := exec.Command("/usr/lib/postfix/sbin/master", "-i")
	master.SysProcAttr = &syscall.SysProcAttr{Chroot: p.root, Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	master.Dir = "/"
	if err := master.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		master.Process.Kill()
		master.Wait()
		l.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	p.log("daemon started")
	return p
}

// postfixRoot returns the directory of a release, and keeps it for this test.
func postfixRoot(t *testing.T, suite string) string {
	t.Helper()
	top := os.Getenv("SERVER_DIR")
	if top == "" {
		top = "/var/tmp/sendmail-wrapper-servers"
	}
	script, err := os.ReadFile("testdata/postfix-root")
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(top, "postfix", fmt.Sprintf("%s-%08x", suite, crc32.ChecksumIEEE(script)))
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(root + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root); err != nil {
		os.RemoveAll(root + ".new")
		if out, err := exec.Command("testdata/postfix-root", suite, root+".new").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := os.Rename(root+".new", root); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// send submits a message by sendmail(1).
func (p *postfix) send(sender string, recipients ...string) {
	p.Helper()
	c := exec.Command("/usr/sbin/sendmail", append([]string{"-i", "-f", sender, "--"}, recipients...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: p.root}
	c.Dir = "/"
	c.Stdin = strings.NewReader("Subject: t\n\nt\n")
	if out, err := c.CombinedOutput(); err != nil {
		p.Fatalf("sendmail: %v: %s", err, out)
	}
}

// flush has the deferred queue tried again, when all that was active is there or gone.
func (p *postfix) flush() {
	p.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if active, _ := filepath.Glob(filepath.Join(p.root, "var/spool/postfix/active/*")); len(active) == 0 {
			break
		}
		if time.Now().After(end) {
			p.Fatalf("mail stays active:\n%s", p.logged())
		}
	}
	c := exec.Command("/usr/sbin/postqueue", "-f")
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: p.root}
	c.Dir = "/"
	if out, err := c.CombinedOutput(); err != nil {
		p.Fatalf("postqueue: %v: %s", err, out)
	}
}

func (p *postfix) logged() string {
	b, _ := os.ReadFile(filepath.Join(p.root, "var/log/postfix.log")) // not yet there
	return string(b)
}

// log waits until Postfix has logged something.
func (p *postfix) log(pattern string) {
	p.Helper()
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(time.Minute); !re.MatchString(p.logged()); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			p.Fatalf("nothing logged like %s:\n%s", pattern, p.logged())
		}
	}
}

// asked returns what mailquotad is asked next.
func (p *postfix) asked() policy.Request {
	p.Helper()
	select {
	case q := <-p.questions:
		return q
	case <-time.After(time.Minute):
		p.Fatalf("mailquotad is not asked:\n%s", p.logged())
		return policy.Request{}
	}
}

// leaves waits until the world has taken copies, "SENDER RECIPIENT", in any order.
func (p *postfix) leaves(copies ...string) {
	p.Helper()
	want := map[string]bool{}
	for _, c := range copies {
		want[c] = true
	}
	for range copies {
		select {
		case got := <-p.taken:
			if !want[got] {
				p.Fatalf("the world has taken %q, not one of %q", got, copies)
			}
			delete(want, got)
		case <-time.After(time.Minute):
			p.Fatalf("the world has not taken %v:\n%s", want, p.logged())
		}
	}
}

// nothingMore ends the test: nothing was asked or has left that was not looked at.
func (p *postfix) nothingMore() {
	p.Helper()
	for len(p.questions)+len(p.taken) > 0 {
		select {
		case q := <-p.questions:
			p.Errorf("asked %+v", q)
		case c := <-p.taken:
			p.Errorf("taken: %s", c)
		}
	}
}

func (p *postfix) answers(says map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.says = says
}

func (p *postfix) worldSays(replies map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.world = replies
}

func (p *postfix) beMailquotad(w io.Writer, r *bufio.Reader) {
	for {
		q, err := policy.ReadRequest(r)
		if err != nil {
			return
		}
		p.mu.Lock()
		answer, ok := p.says[q.Recipient]
		p.mu.Unlock()
		if !ok {
			answer = "DUNNO"
		}
		p.questions <- q
		fmt.Fprintf(w, "action=%s\n\n", answer)
	}
}

// beTheWorld takes mail by SMTP.
func (p *postfix) beTheWorld(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			r := bufio.NewReader(c)
			fmt.Fprint(c, "220 world ESMTP\r\n")
			var sender string
			var recipients []string
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				_, address, _ := strings.Cut(line, "<")
				address, _, _ = strings.Cut(address, ">")
				reply := "250 2.0.0 ok"
				switch strings.ToUpper(line[:min(4, len(line))]) {
				case "MAIL":
					sender, recipients = address, nil
					if sender == "" {
						sender = "<>"
					}
				case "RCPT":
					p.mu.Lock()
					refusal, ok := p.world[address]
					p.mu.Unlock()
					if ok {
						reply = refusal
					} else {
						recipients = append(recipients, address)
					}
				case "DATA":
					if len(recipients) == 0 {
						reply = "554 5.5.1 no recipients"
						break
					}
					fmt.Fprint(c, "354 go on\r\n")
					for line != ".\r\n" {
						if line, err = r.ReadString('\n'); err != nil {
							return
						}
					}
					for _, a := range recipients {
						p.taken <- sender + " " + a
					}
				}
				fmt.Fprint(c, reply+"\r\n")
			}
		}()
	}
}
