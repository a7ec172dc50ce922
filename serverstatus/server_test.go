package serverstatus

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listener accepts connections at a path, and counts them.
func listener(t *testing.T, serve func(net.Conn)) (path string, accepted *atomic.Int32) {
	t.Helper()
	path, accepted = filepath.Join(t.TempDir(), "s"), new(atomic.Int32)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return path, accepted
}

// question reads one, and reports whether there was one.
func question(c net.Conn) bool {
	return readAll(c, make([]byte, len(fcgiQuestion("/status"))))
}

func readAll(c net.Conn, b []byte) bool {
	_, err := io.ReadFull(c, b)
	return err == nil && bytes.Equal(b, fcgiQuestion("/status"))
}

func reply(text string) []byte {
	var b []byte
	body := "Content-Type: application/json\r\n\r\n" + text
	for len(body) > 0 { // in pieces, as PHP sends it
		n := min(len(body), 1000)
		b = fcgiRecord(b, fcgiStdout, []byte(body[:n]))
		body = body[n:]
	}
	return fcgiRecord(b, fcgiEnd, make([]byte, 8))
}

var running = string(fpmAnswer(fpmText(7, "Running", `\/a.php`, `\/a.php`)).text)

// A connection is kept, and made again when the other end has closed it.
func TestFPMConnection(t *testing.T) {
	var stop atomic.Bool
	path, accepted := listener(t, func(c net.Conn) {
		for question(c) {
			last := stop.Load()
			c.Write(reply(running))
			if last {
				return
			}
		}
	})
	f := NewFPM("unix", path, "/status")
	for i := range 6 {
		stop.Store(i == 3)
		r, pool, ok := f.Worker(7)
		if !ok || r.Script != "/a.php" || pool != "p" {
			t.Fatalf("question %d: %+v of pool %q, %v", i, r, pool, ok)
		}
		if d := r.Latest.Sub(r.Earliest); d < 0 || time.Since(r.Latest) < time.Millisecond {
			t.Errorf("a request of 1 ms ago began between %v and %v", r.Earliest, r.Latest)
		}
	}
	if n := accepted.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// All that come while a question is under way share the next one, and none gets
// an answer to a question put before he came.
func TestSharing(t *testing.T) {
	asked, release := make(chan int, 10), make(chan struct{})
	n := 0
	s := sharing{fetch: func(time.Time) (answer, error) {
		n++
		asked <- n
		<-release
		return answer{text: []byte{byte(n)}}, nil
	}}
	var group sync.WaitGroup
	got := make([]byte, 21)
	ask := func(i int) {
		group.Go(func() {
			if a, ok := s.get(); ok {
				got[i] = a.text[0]
			}
		})
	}
	ask(0)
	<-asked
	for i := 1; i < len(got); i++ {
		ask(i)
	}
	for { // until they wait: the first of them has made the next flight
		s.mu.Lock()
		waiting := s.next != nil
		s.mu.Unlock()
		if waiting {
			break
		}
	}
	close(release)
	group.Wait()
	// 0 is one who has lost patience, on a machine that is busy.
	if got[0] > 1 {
		t.Errorf("the first has answer %d", got[0])
	}
	for i, answer := range got[1:] {
		if answer == 1 {
			t.Errorf("caller %d has answer %d, which was asked for before he came", i+1, answer)
		}
	}
	if n >= len(got) {
		t.Errorf("%d questions for %d callers", n, len(got))
	}
}

// Whatever listens: the answer is "nothing known", soon, and it is left alone then.
func TestBadListeners(t *testing.T) {
	endless := bytes.Repeat(fcgiRecord(nil, fcgiStdout, bytes.Repeat([]byte("x"), 1000)), 100)
	tests := map[string]func(net.Conn){
		"says nothing":    func(c net.Conn) { io.Copy(io.Discard, c) },
		"closes at once":  func(net.Conn) {},
		"never ends":      func(c net.Conn) { writeForever(c, endless) },
		"empty records":   func(c net.Conn) { writeForever(c, bytes.Repeat(fcgiRecord(nil, fcgiStdout, nil), 1000)) },
		"another version": func(c net.Conn) { writeForever(c, []byte("HTTP/1.1 200 OK\r\n\r\n")) },
		"unknown records": func(c net.Conn) { writeForever(c, fcgiRecord(nil, 99, nil)) },
		"another page":    func(c net.Conn) { question(c); c.Write(reply("File not found.\n")); io.Copy(io.Discard, c) },
		"one byte": func(c net.Conn) {
			question(c)
			c.Write([]byte{1})
			io.Copy(io.Discard, c)
		},
	}
	for name, serve := range tests {
		t.Run(name, func(t *testing.T) {
			path, accepted := listener(t, serve)
			f := NewFPM("unix", path, "/status")
			began := time.Now()
			if r, _, ok := f.Worker(7); ok {
				t.Errorf("worker runs %+v", r)
			}
			if d := time.Since(began); d > 10*patience { // on a machine that is busy
				t.Errorf("asking took %v", d)
			}
			for range 100 {
				f.Worker(7)
			}
			if time.Since(began) < pause && accepted.Load() > 1 {
				t.Errorf("%d connections after a failure", accepted.Load())
			}
		})
	}
	if _, _, ok := NewFPM("unix", filepath.Join(t.TempDir(), "none"), "/status").Worker(7); ok {
		t.Error("a listener that is not there knows a worker")
	}
}

func writeForever(c net.Conn, b []byte) {
	for {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

func TestApache(t *testing.T) {
	page := string(recorded(t, "apache-2.4.71-prefork.html").text)
	var asked []string
	status := http.StatusOK
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "mailquota" || password != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		asked = append(asked, r.RequestURI)
		w.WriteHeader(status)
		io.WriteString(w, strings.ReplaceAll(page, "GET /server-status HTTP", "GET "+r.RequestURI+" HTTP"))
	}))
	server.Listener.Close()
	server.Listener = rootsListener(t)
	server.Start()
	defer server.Close()
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := server.URL + "/server-status"
	a, err := NewApache(at, key)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		board, ok := a.Scoreboard()
		if !ok || len(board.Of(2032)) != 1 || len(board.Of(2022)) != 0 {
			t.Fatalf("scoreboard %v: %v, %v", ok, board.Of(2032), board.Of(2022))
		}
	}
	if len(asked) != 2 || asked[0] == asked[1] {
		t.Errorf("asked for %q, want two different queries", asked)
	}
	status = http.StatusForbidden
	if _, ok := a.Scoreboard(); ok {
		t.Error("a refusal counts as a scoreboard")
	}
	status = http.StatusOK
	if _, ok := a.Scoreboard(); ok || len(asked) != 3 {
		t.Errorf("after a failure it is asked at once: %d times", len(asked))
	}
	if a, err = NewApache(at, key+".none"); err != nil {
		t.Fatal(err)
	}
	if _, ok := a.Scoreboard(); ok {
		t.Error("a scoreboard without the password")
	}
}

// rootsListener listens on a port where root alone can.
func rootsListener(t *testing.T) net.Listener {
	t.Helper()
	for port := 600; port < 1000; port++ {
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return l
		}
	}
	t.Fatal("root has no port")
	return nil
}

// Whose a port is, the kernel says at each question.
func TestRootsPort(t *testing.T) {
	runtime.LockOSThread() // and not unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		first string
		port  uint16
		want  bool
	}{
		{"1024", 1023, true}, {"1024", 1024, false}, {"1024", 0, false}, {"80", 797, false}, {"80", 79, true}, {"0", 1, false},
	} {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte(test.first), 0); err != nil {
			t.Fatal(err)
		}
		if got := RootsPort(test.port); got != test.want {
			t.Errorf("port %d, where those of all begin at %s: %v", test.port, test.first, got)
		}
		a, err := NewApache(fmt.Sprintf("http://127.0.0.1:%d/", test.port), "")
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = a.ask(time.Now().Add(time.Second))
		if asked := errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EADDRNOTAVAIL); !test.want && asked {
			t.Errorf("port %d is asked: %v", test.port, err)
		}
	}
}

func TestNewApache(t *testing.T) {
	for address, want := range map[string]bool{
		"http://127.0.0.1:797/server-status": true,
		"http://[::1]:797/status":            true,
		"http://127.0.0.1/server-status":     false,
		"http://127.0.0.1:65536/":            false,
		"http://192.0.2.1:797/":              false,
		"http://localhost:797/":              false, // /etc/hosts says where that is
		"https://127.0.0.1:797/":             false,
		"127.0.0.1:797":                      false,
		"":                                   false,
	} {
		if a, err := NewApache(address, ""); (err == nil) != want || (a == nil) == want {
			t.Errorf("NewApache(%q): %v", address, err)
		}
	}
}
