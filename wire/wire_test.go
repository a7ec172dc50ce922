package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var submit = &Request{Op: OpSubmit, Profile: "postfix", Argv: []string{"sendmail", "-t", "", "a\xffb"},
	Hints: []string{"HTTP_HOST=alice.example"}, Truncated: true, Sender: "s@x", Recipients: 300, To: []string{"a@x", "b\xff"}, HandOff: true}

var ask = &Request{Op: OpAsk, Question: []byte(`{"ask":"why"}`)}

// TestQuestion: only OpAsk brings one, and not a long one.
func TestQuestion(t *testing.T) {
	for _, c := range []struct {
		request *Request
		err     string
	}{
		{ask, ""},
		{&Request{Op: OpAsk, Question: bytes.Repeat([]byte("x"), MaxQuestion)}, ""},
		{&Request{Op: OpAsk, Question: bytes.Repeat([]byte("x"), MaxQuestion+1)}, "a question of 8193 bytes"},
		{&Request{Op: OpAsk}, "a question of 0 bytes"},
		{&Request{Op: OpUsage, Question: []byte("x")}, "other requests have none"},
	} {
		frame, err := c.request.AppendFrame(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeRequest(frame[headerLen:])
		switch {
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("got %v, want an error with %q", err, c.err)
		case c.err == "" && (err != nil || !cmp.Equal(c.request, got)):
			t.Errorf("got %v, %v", got, err)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	frame, err := submit.AppendFrame(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeRequest(frame[headerLen:])
	if diff := cmp.Diff(submit, got); err != nil || diff != "" {
		t.Errorf("request: %v\n%s", err, diff)
	}
	reply := &Reply{Verdict: VerdictRefuse, Exit: 69, Code: "452 4.7.1", ID: "x", Text: "limit reached", Body: []byte("{}"), Trace: "X: y\r\n", TraceAt: 1 << 40}
	handed := &Reply{Verdict: VerdictHanded, Exit: 75, ID: "x", Body: []byte{}, Stdout: bytes.Repeat([]byte("o"), MaxOutput), Stderr: []byte("\xffsendmail: fatal\n")}
	for _, reply := range []*Reply{reply, handed} {
		frame, err = reply.AppendFrame(nil)
		if err != nil {
			t.Fatal(err)
		}
		back, err := decodeReply(frame[headerLen:])
		if diff := cmp.Diff(reply, back); err != nil || diff != "" {
			t.Errorf("reply: %v\n%s", err, diff)
		}
	}
}

func TestRequestTooLong(t *testing.T) {
	_, err := (&Request{Op: OpSubmit, Argv: []string{strings.Repeat("x", MaxRequest)}}).AppendFrame(nil)
	if err == nil || errors.As(err, new(*UnreachableError)) {
		t.Errorf("got %v, want an error that is the caller's own", err)
	}
}

// memfd returns a memfd with these bytes and seals.
func memfd(t *testing.T, content string, seals int) *os.File {
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
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestCheckSealed(t *testing.T) {
	pipe, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	defer w.Close()
	disk, err := os.Create(filepath.Join(t.TempDir(), "message"))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	for _, c := range []struct {
		name string
		file *os.File
		err  string
	}{
		{"sealed", memfd(t, "hello", seals), ""},
		{"unsealed", memfd(t, "hello", 0), "not sealed"},
		{"may still grow", memfd(t, "hello", seals&^unix.F_SEAL_GROW), "not sealed"},
		{"pipe", pipe, "not in a memfd"},
		{"file on disk", disk, "not in a memfd"},
	} {
		size, err := CheckSealed(c.file)
		if c.err == "" && (err != nil || size != 5) {
			t.Errorf("%s: %d, %v", c.name, size, err)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
	}
}

// pair returns both ends of a unix stream connection.
func pair(t *testing.T) (client, server *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "socketpair")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.UnixConn)
	}
	return conn(fds[0]), conn(fds[1])
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestStrangers: whatever is said to the socket gives an error, at the latest
// at the deadline, and leaves no descriptor open.
func TestStrangers(t *testing.T) {
	frame, err := submit.AppendFrame(nil)
	if err != nil {
		t.Fatal(err)
	}
	usage, err := (&Request{Op: OpUsage}).AppendFrame(nil)
	if err != nil {
		t.Fatal(err)
	}
	huge := binary.BigEndian.AppendUint32([]byte(magic), 1<<30)
	message := memfd(t, "x", seals)
	one, two := unix.UnixRights(int(message.Fd())), unix.UnixRights(int(message.Fd()), int(message.Fd()))
	var many []int
	for range 200 {
		many = append(many, int(message.Fd()))
	}
	for _, c := range []struct {
		name   string
		bytes  []byte
		rights []byte
		open   bool // the connection stays open
		err    string
	}{
		{"closed at once", nil, nil, false, "closed after 0 bytes"},
		{"silent", nil, nil, true, "timeout"},
		{"half a frame, then closed", frame[:20], one, false, "closed after"},
		{"half a frame, then silence", frame[:20], one, true, "timeout"},
		{"length of 1 GB", huge, one, true, "at most"},
		{"HTTP", []byte("GET / HTTP/1.0\r\n\r\n"), nil, true, "not a frame"},
		{"no memfd", frame, nil, true, "brings 1 descriptors, not 0"},
		{"two memfds", frame, two, true, "brings 1 descriptors, not 2"},
		{"two hundred memfds", frame, unix.UnixRights(many...), true, "descriptors"},
		{"memfd with a question", usage, one, true, "brings 0 descriptors, not 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, server := pair(t)
			before := descriptors(t)
			if c.bytes != nil {
				if _, _, err := client.WriteMsgUnix(c.bytes, c.rights, nil); err != nil {
					t.Fatal(err)
				}
			}
			if !c.open {
				client.CloseWrite()
			}
			server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			_, message, err := ReadRequest(server)
			if err == nil || message != nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("got %v, %v; want an error with %q", message, err, c.err)
			}
			if after := descriptors(t); after != before {
				t.Errorf("%d descriptors open, %d before", after, before)
			}
		})
	}
}

// TestSlowPeer: a frame that comes byte by byte is read all the same.
func TestSlowPeer(t *testing.T) {
	client, server := pair(t)
	frame, err := submit.AppendFrame(nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		message := memfd(t, "x", seals)
		client.WriteMsgUnix(frame[:1], unix.UnixRights(int(message.Fd())), nil)
		for i := range frame[1:] {
			client.Write(frame[1+i : 2+i])
		}
	}()
	got, message, err := ReadRequest(server)
	if err != nil {
		t.Fatal(err)
	}
	defer message.Close()
	if diff := cmp.Diff(submit, got); diff != "" {
		t.Error(diff)
	}
}

// serve answers one connection with what answer does.
func serve(t *testing.T, answer func(c *net.UnixConn)) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer c.Close()
		answer(c)
	}()
	return socket
}

func TestAsk(t *testing.T) {
	accept := &Reply{Verdict: VerdictAccept, ID: "id", Body: []byte{}}
	big := *submit
	for range 40000 {
		big.Argv = append(big.Argv, "somebody@outside.example") // about 1 MB
	}
	got := make(chan *Request, 1)
	socket := serve(t, func(c *net.UnixConn) {
		r, message, err := ReadRequest(c)
		if err != nil {
			t.Error(err)
			return
		}
		defer message.Close()
		if size, err := CheckSealed(message); err != nil || size != 5 {
			t.Errorf("message: %d bytes, %v", size, err)
		}
		got <- r
		if err := WriteReply(c, accept); err != nil {
			t.Error(err)
		}
	})
	reply, err := Ask(socket, &big, memfd(t, "hello", seals), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(accept, reply); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(&big, <-got); diff != "" {
		t.Error(diff)
	}
}

func TestAskUnreachable(t *testing.T) {
	dead := filepath.Join(t.TempDir(), "dead")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	done := make(chan struct{})
	defer close(done)
	for _, c := range []struct{ name, socket string }{
		{"no socket", filepath.Join(t.TempDir(), "none")},
		{"nobody listens", dead},
		{"closed before the reply", serve(t, func(c *net.UnixConn) {})},
		{"no reply", serve(t, func(c *net.UnixConn) { <-done })},
	} {
		_, err := Ask(c.socket, submit, memfd(t, "x", seals), 50*time.Millisecond)
		if !errors.As(err, new(*UnreachableError)) {
			t.Errorf("%s: %v, want an UnreachableError", c.name, err)
		}
	}
}

// TestAskWithoutDescriptors: what a caller can bring about himself is not an
// absent daemon.
func TestAskWithoutDescriptors(t *testing.T) {
	message := memfd(t, "x", seals)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	_, err := Ask("/nonexistent", submit, message, time.Second)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, unix.EMFILE) || errors.As(err, new(*UnreachableError)) {
		t.Errorf("got %v, want EMFILE that is not an UnreachableError", err)
	}
}

// TestAnswerBeforeAllIsRead: a daemon that answers and closes early is heard.
func TestAnswerBeforeAllIsRead(t *testing.T) {
	socket := serve(t, func(c *net.UnixConn) {
		c.Read(make([]byte, 1))
		WriteReply(c, &Reply{Verdict: VerdictError, Text: "enough"})
	})
	r := &Request{Op: OpSubmit, Argv: []string{strings.Repeat("x", 2<<20)}}
	reply, err := Ask(socket, r, memfd(t, "x", seals), 10*time.Second)
	if err != nil || reply.Text != "enough" {
		t.Errorf("got %v, %v", reply, err)
	}
}

// TestAbsurd: what no message has is no request, and no reply.
func TestAbsurd(t *testing.T) {
	absurd := func(change func(*Request)) func() ([]byte, error) {
		r := *submit
		change(&r)
		return func() ([]byte, error) { return r.AppendFrame(nil) }
	}
	for _, c := range []struct {
		name    string
		frame   func() ([]byte, error)
		isReply bool
	}{
		{"more recipients than an int32 of the database holds", absurd(func(r *Request) { r.Recipients = 1 << 40 }), false},
		{"more of them by name than MaxTo", absurd(func(r *Request) { r.To = make([]string, MaxTo+1) }), false},
		{"a question that asks to send", func() ([]byte, error) { return (&Request{Op: OpUsage, HandOff: true}).AppendFrame(nil) }, false},
		{"an output longer than MaxOutput", func() ([]byte, error) {
			return (&Reply{Verdict: VerdictHanded, Stderr: make([]byte, MaxOutput+1)}).AppendFrame(nil)
		}, true},
		{"an offset below 0", func() ([]byte, error) { return (&Reply{Verdict: VerdictAccept, TraceAt: -1}).AppendFrame(nil) }, true},
	} {
		frame, err := c.frame()
		if err != nil {
			t.Fatal(err)
		}
		var got any
		if c.isReply {
			got, err = decodeReply(frame[headerLen:])
		} else {
			got, err = decodeRequest(frame[headerLen:])
		}
		if !errors.As(err, new(*ProtocolError)) {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}

// TestOtherVersion: whoever gets a frame of another version says both.
func TestOtherVersion(t *testing.T) {
	request, err1 := submit.AppendFrame(nil)
	reply, err2 := (&Reply{Verdict: VerdictAccept}).AppendFrame(nil)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	for _, other := range []byte{Version - 1, Version + 1} {
		request[headerLen], reply[headerLen] = other, other
		_, err1 := decodeRequest(request[headerLen:])
		_, err2 := decodeReply(reply[headerLen:])
		for _, err := range []error{err1, err2} {
			for _, v := range []byte{Version, other} {
				if want := fmt.Sprintf("version %d", v); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want it to say %q", err, want)
				}
			}
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	frame, err := submit.AppendFrame(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frame[headerLen:])
	question, err := ask.AppendFrame(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(question[headerLen:])
	f.Add([]byte{Version, byte(OpAsk), 0, 0, 0, 0, 0, 0, 0, 0x80, 0x80, 0x40})
	f.Add([]byte{Version, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := decodeRequest(body)
		if err != nil {
			if !errors.As(err, new(*ProtocolError)) {
				t.Errorf("error %v is no ProtocolError", err)
			}
			return
		}
		again, err := r.AppendFrame(nil)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeRequest(again[headerLen:]); err != nil || !cmp.Equal(r, back) {
			t.Errorf("round trip: %v, %v", back, err)
		}
	})
}

func FuzzDecodeReply(f *testing.F) {
	frame, err := (&Reply{Verdict: VerdictAccept, ID: "i", Text: "t", Body: []byte("b"), Trace: "X: y\n", TraceAt: 300}).AppendFrame(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frame[headerLen:])
	handed, err := (&Reply{Verdict: VerdictHanded, Exit: 1, ID: "i", Stdout: []byte("o"), Stderr: []byte("e")}).AppendFrame(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(handed[headerLen:])
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := decodeReply(body)
		if err != nil {
			return
		}
		again, err := r.AppendFrame(nil)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeReply(again[headerLen:]); err != nil || !cmp.Equal(r, back) {
			t.Errorf("round trip: %v, %v", back, err)
		}
	})
}
