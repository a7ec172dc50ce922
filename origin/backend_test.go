package origin

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/serverstatus"
)

func at(offset time.Duration) time.Time { return time.Unix(1000, 0).Add(offset) }

func TestClientOf(t *testing.T) {
	// FPM's request began at 0.
	r := serverstatus.Request{Method: "GET", URI: "/a.php?b", Earliest: at(0), Latest: at(time.Millisecond)}
	row := func(from time.Duration, client, uri string) serverstatus.Request {
		return serverstatus.Request{Method: "GET", URI: uri, Client: client, Earliest: at(from), Latest: at(from + time.Second)}
	}
	const young, old, later = -500 * time.Millisecond, -5 * time.Second, time.Second
	tests := []struct {
		name   string
		rows   []serverstatus.Request
		client string
	}{
		{"the same line", []serverstatus.Request{row(young, "192.0.2.1", "/a.php?b")}, "192.0.2.1"},
		{"the line is cut", []serverstatus.Request{row(young, "192.0.2.1", "/a.p…")}, "192.0.2.1"},
		{"rewritten", []serverstatus.Request{row(old, "192.0.2.1", "/page")}, "192.0.2.1"},
		{"began later", []serverstatus.Request{row(later, "192.0.2.1", "/a.php?b")}, ""},
		{"another began later", []serverstatus.Request{row(later, "192.0.2.1", "/"), row(young, "::ffff:192.0.2.2", "/a.php?b")}, "192.0.2.2"},
		{"two clients", []serverstatus.Request{row(young, "192.0.2.1", "/a.php?b"), row(young, "192.0.2.2", "/x")}, ""},
		{"two of one client", []serverstatus.Request{row(young, "192.0.2.1", "/a.php?b"), row(old, "192.0.2.1", "/x")}, "192.0.2.1"},
		{"a name", []serverstatus.Request{row(young, "host.example", "/a.php?b")}, ""},
		{"none", nil, ""},
	}
	for _, test := range tests {
		if client := clientOfRows(test.rows, r); client != test.client {
			t.Errorf("%s: client %q, want %q", test.name, client, test.client)
		}
	}
	busy := map[int][]serverstatus.Request{
		1: {row(later, "192.0.2.1", "/a.php?b")},
		2: {row(old, "192.0.2.1", "/x")},
		3: {row(young, "192.0.2.1", "/x")},
		4: {row(old, "192.0.2.1", "/x"), row(old, "192.0.2.1", "/a.php?b")},
	}
	if got := frontends(busy, r); !slices.Equal(got, []int{4, 3, 2}) {
		t.Errorf("processes in the order 4, 3, 2: %v", got)
	}
}

// The kernel tells both ends of a connection that was accepted at a path.
func TestConnectionOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func() net.Conn {
		driver, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { accepted.Close() })
		return driver
	}
	driver := dial()
	self := openProcess(os.Getpid())
	defer self.close()
	link, ok := connectionOf(self, path)
	if !ok || !link.stays() || !holdsSocket(os.Getpid(), link.peer) || holdsSocket(1, link.peer) {
		t.Errorf("connection %+v, %v", link, ok)
	}
	for _, listen := range []string{path + "x", "127.0.0.1:9000", "", "s"} {
		if link, ok := connectionOf(self, listen); ok {
			t.Errorf("connection at %q: %+v", listen, link)
		}
	}
	driver.Close()
	if link.stays() {
		t.Error("a connection stays whose other end is closed")
	}
	dial()
	dial()
	if link, ok := connectionOf(self, path); ok {
		t.Errorf("one of two connections is taken: %+v", link)
	}
}

// The script is the lowest file that is only read and passed on.
func TestEntryScript(t *testing.T) {
	dir := t.TempDir()
	open := func(name string, flags int) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), flags|os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	folder, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	log, lock, data := open("log", os.O_WRONLY|os.O_APPEND), open("lock", os.O_RDWR), open("data", os.O_RDONLY)
	script, upload, gone := open("a.php", os.O_RDONLY), open("upload", os.O_RDONLY), open("gone.php", os.O_RDONLY)
	if err := os.Remove(gone.Name()); err != nil {
		t.Fatal(err)
	}
	run := func(files ...*os.File) *process {
		cmd := exec.Command("sleep", "100")
		cmd.Stdin, cmd.ExtraFiles = upload, files
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		p := openProcess(cmd.Process.Pid)
		t.Cleanup(p.close)
		return p
	}
	server := run(log, data)
	for want, p := range map[string]*process{
		script.Name(): run(log, data, lock, null, folder, script, upload),
		gone.Name():   run(log, data, gone),
		"":            run(log, data, lock),
	} {
		if got := p.entryScript(server); got != want {
			t.Errorf("script %q, want %q", got, want)
		}
	}
	if got := server.entryScript(nil); got != data.Name() {
		t.Errorf("without its server: %q", got)
	}
}

func TestReadSAPI(t *testing.T) {
	memory := make([]byte, 8192)
	word := func(i int, pointer uint64) { binary.NativeEndian.PutUint64(memory[8*i:], pointer) }
	read := func() (sapiRequest, bool) {
		return readSAPI(func(b []byte, at uint64) int {
			if at >= uint64(len(memory)) {
				return 0
			}
			return copy(b, memory[at:])
		}, 0)
	}
	copy(memory[1000:], "/srv/a.php\x00POST\x00/a.php\x00b=c\x00")
	word(sapiScript, 1000)
	word(sapiMethod, 1011)
	word(sapiURI, 1016)
	if got, ok := read(); !ok || got != (sapiRequest{"/srv/a.php", "POST", "/a.php"}) {
		t.Errorf("request %+v, %v", got, ok)
	}
	word(sapiQuery, 1023)
	if got, ok := read(); !ok || got.uri != "/a.php?b=c" {
		t.Errorf("request %+v, %v", got, ok)
	}
	for i, pointer := range map[int]uint64{sapiScript: 0, sapiMethod: 1000, sapiURI: 1 << 63} {
		old := binary.NativeEndian.Uint64(memory[8*i:])
		word(i, pointer)
		if got, ok := read(); ok {
			t.Errorf("word %d as %#x: request %+v", i, pointer, got)
		}
		word(i, old)
	}
	for i := 1000; i < len(memory); i++ {
		memory[i] = 'A' // no end
	}
	if got, ok := read(); ok {
		t.Errorf("texts without an end: %+v", got)
	}
}

// procOf makes what a process is told by of a directory with some files.
func procOf(t *testing.T, pid int, uid uint32) *process {
	t.Helper()
	dir := t.TempDir()
	write(t, dir+"/stat", fmt.Sprintf("%d (x) S 1%s", pid, strings.Repeat(" 7", 40)), 0o644, 0)
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return &process{pid: pid, dir: fd, identity: identity{uids: uids{uid, uid, uid, uid}}, path: dir}
}

// Nobody waits for a process that can make its reader wait.
func TestSAPIsDoNotWait(t *testing.T) {
	stuck, other := procOf(t, 1, alice), procOf(t, 2, 0)
	if err := unix.Mkfifo(stuck.path+"/maps", 0o644); err != nil {
		t.Fatal(err)
	}
	var s sapis
	var reads sync.WaitGroup
	reads.Go(func() { s.request(stuck, stuck) })
	w, err := os.OpenFile(stuck.path+"/maps", os.O_WRONLY, 0) // until it is being read
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		s.request(other, other)
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("a look-up waits for another's")
	}
	w.Close()
	reads.Wait()
	<-done
}

// What is known of a process of root is kept while it holds, and nothing of others.
func TestSAPIsKept(t *testing.T) {
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for uid, kept := range map[uint32]int{0: 1, alice: 0} {
		var s sapis
		p := procOf(t, 5, uid)
		exe := p.path + "/php"
		write(t, exe, string(program), 0o755, 0)
		if err := os.Symlink(exe, p.path+"/exe"); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(exe)
		if err != nil {
			t.Fatal(err)
		}
		sys := st.Sys().(*syscall.Stat_t)
		// As if the program had the symbol at 64.
		s.programs = map[sapiProgram]uint64{{sys.Dev, sys.Ino, sys.Size, unix.Timespec(sys.Mtim)}: 64}
		for _, base := range []int{4096, 8192} { // it is loaded anew
			write(t, p.path+"/maps", fmt.Sprintf("%x-ffff r--p 00000000 08:01 5 %s\n", base, exe), 0o644, 0)
			memory := make([]byte, base+4096)
			for i, text := range map[int]string{sapiScript: "/a.php", sapiMethod: "GET", sapiURI: "/"} {
				binary.NativeEndian.PutUint64(memory[base+64+8*i:], uint64(base+1000+100*i))
				copy(memory[base+1000+100*i:], text)
			}
			write(t, p.path+"/mem", string(memory), 0o644, 0)
			for range 2 {
				if r, ok := s.request(p, p); !ok || r.script != "/a.php" || len(s.processes) != kept {
					t.Errorf("uid %d, loaded at %d: %+v, %v; %v kept", uid, base, r, ok, s.processes)
				}
			}
		}
	}
}

func TestParseMapping(t *testing.T) {
	for line, want := range map[string]mapping{
		"55d0c0000000-55d0c0100000 r--p 00000000 fe:00 123   /usr/sbin/php-fpm8.2\n": {0x55d0c0000000, 0, "/usr/sbin/php-fpm8.2"},
		"7f00-7f01 r-xp 0001f000 fe:00 123 /lib/libphp8.2.so":                        {0x7f00, 0x1f000, "/lib/libphp8.2.so"},
		"7f00-7f01 r-xp 00000000 00:00 0 ":                                           {},
		"7f00 r-xp 00000000 00:00 0 /x":                                              {},
		"x-y r-xp 00000000 00:00 0 /x":                                               {},
		"":                                                                           {},
	} {
		if got, ok := parseMapping(line); got != want || ok != (want.path != "") {
			t.Errorf("parseMapping(%q) = %+v, %v", line, got, ok)
		}
	}
}

// FuzzKernel reads what the kernel writes.
func FuzzKernel(f *testing.F) {
	f.Add([]byte("pos:\t0\nflags:\t0100000\nmnt_id:\t9\n"))
	f.Add([]byte("61 0x7b 0x0 0x0 0x0 0x0 0x0 0x1 0x1\n"))
	socket := make([]byte, unixDiagSize+8)
	socket[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint16(socket[unixDiagSize:], 8)
	binary.NativeEndian.PutUint16(socket[unixDiagSize+2:], diagPeer)
	f.Add(socket)
	f.Fuzz(func(t *testing.T, b []byte) {
		if flags, ok := parseFDFlags(b); ok && flags < 0 {
			t.Errorf("parseFDFlags(%q) = %d", b, flags)
		}
		if waitsForPID(b, 0) {
			t.Errorf("waitsForPID(%q, 0)", b)
		}
		parseMapping(string(b))
		if _, ok := parseUnixDiag(b, 0); ok && len(b) < unixDiagSize {
			t.Errorf("parseUnixDiag(%q)", b)
		}
		readSAPI(func(to []byte, at uint64) int { return copy(to, b[min(at, uint64(len(b))):]) }, 0)
	})
}
