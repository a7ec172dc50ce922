package wrapper

import (
	"bytes"
	"crypto/sha256"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sendmail-wrapper/wire"
)

const traceID = "X-Mail-Trace: 0197c2d8-3b5e-7c11-9a63-b52f0e7d5a10"

// TestTraced: the field is where mailquotad wants it, and all else as it was; what
// cannot be a field is not.
func TestTraced(t *testing.T) {
	message := difficult(1 << 20)
	end := int64(len(message))
	for _, c := range []struct {
		name, text string
		at         int64
		inserted   bool
	}{
		{"at the beginning", traceID + "\n", 0, true},
		{"within", traceID + "\n", 8, true},
		{"far within", traceID + "\r\n", end - 1, true},
		{"at the end", traceID + "\r\n", end, true},
		{"with an empty line", traceID + "\n\n", 0, true},
		{"none", "", 5, false},
		{"behind the end", traceID + "\n", end + 1, false},
		{"without a line end", traceID, 0, false},
		{"two fields", "X-A: b\n" + traceID + "\n", 0, false},
		{"two fields with CR", "X-A: b\r" + traceID + "\n", 0, false},
		{"no field", "text\n", 0, false},
		{"no name", ": x\n", 0, false},
		{"8-bit", "X: \xe4\n", 0, false},
		{"too long", "X: " + strings.Repeat("x", maxTrace) + "\n", 0, false},
	} {
		h := newHost(t)
		h.answer(t, &wire.Reply{Verdict: wire.VerdictAccept, Trace: c.text, TraceAt: c.at})
		want := message
		if c.inserted {
			want = bytes.Join([][]byte{message[:c.at], []byte(c.text), message[c.at:]}, nil)
		}
		cmd := h.command("sendmail", "-i", "a@x")
		cmd.Stdin = bytes.NewReader(message)
		o := h.run(t, cmd)
		if o.exit != realExit || o.called == nil {
			t.Fatalf("%s: %+v", c.name, o)
		}
		if o.called.Sum != sha256.Sum256(want) || o.called.Offset != 0 {
			t.Errorf("%s: the real sendmail read %d bytes, or others than the %d it should", c.name, o.called.Size, len(want))
		}
		direct := h.command("real")
		direct.Path = h.path("real")
		direct.Stdin = strings.NewReader("")
		if diff := cmp.Diff(h.run(t, direct).called.Open, o.called.Open); diff != "" {
			t.Errorf("%s: descriptors: %s", c.name, diff)
		}
	}
}

// TestNotTraced: mail leaves without the field where there is no room for it, and
// where nobody has decided.
func TestNotTraced(t *testing.T) {
	h := newHost(t)
	verdict := wire.VerdictAccept
	h.decide(t, func(*wire.Request, []byte) *wire.Reply {
		return &wire.Reply{Verdict: verdict, Trace: traceID + "\n"}
	})
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	const limit = 64 << 10 // bytes; sh counts blocks of 512
	for _, c := range []struct {
		name    string
		verdict wire.Verdict
		size    int
		read    int
	}{
		{"no room within ulimit -f", wire.VerdictAccept, limit, limit},
		{"just room", wire.VerdictAccept, limit - len(traceID) - 1, limit},
		{"nobody has decided", wire.VerdictUnavailable, 1000, 1000},
	} {
		verdict = c.verdict
		cmd := h.command("sh", "-c", `ulimit -f 128; exec "$0" -i a@x`, exe)
		cmd.Path, err = exec.LookPath("sh")
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdin = strings.NewReader(strings.Repeat("x", c.size))
		if o := h.run(t, cmd); o.exit != realExit || o.called == nil || o.called.Size != int64(c.read) {
			t.Errorf("%s: %+v", c.name, o)
		}
	}
}

// TestTracedSize: a big message is not copied.
func TestTracedSize(t *testing.T) {
	h := newHost(t)
	h.answer(t, &wire.Reply{Verdict: wire.VerdictAccept, Trace: traceID + "\n"})
	for size, want := range map[int]int{maxTraced: maxTraced + len(traceID) + 1, maxTraced + 1: maxTraced + 1} {
		cmd := h.command("sendmail", "-i", "a@x")
		cmd.Stdin = strings.NewReader(strings.Repeat("x", size))
		if o := h.run(t, cmd); o.exit != realExit || o.called == nil || o.called.Size != int64(want) {
			t.Errorf("of %d bytes: %+v", size, o)
		}
	}
}

// TestTracedDialogue: content goes on with the field before it, in CR LF, whether it
// came with DATA or BDAT.
func TestTracedDialogue(t *testing.T) {
	h := newHost(t, `mta = "exim"`)
	h.answer(t, &wire.Reply{Verdict: wire.VerdictAccept, Trace: traceID + "\n"})
	transaction := "MAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nRCPT TO:<refused@x>\r\nRCPT TO:<b@x>\r\n"
	for _, c := range []struct{ name, mode, input, want string }{
		{"DATA", "-bs", transaction + "DATA\r\n" + message + "QUIT\r\n", "Subject: s\r\n\r\ntext\r\n.dots\r\n"},
		{"DATA with LF", "-bs", transaction + "DATA\nSubject: s\n\n.\nQUIT\n", "Subject: s\r\n\r\n"},
		{"no content", "-bs", transaction + "DATA\r\n.\r\nQUIT\r\n", ""},
		{"BDAT", "-bs", transaction + "BDAT 12\r\nSubject: s\r\nBDAT 5 LAST\r\n\r\n.x\nQUIT\r\n", "Subject: s\r\n\r\n.x\r\n"},
		{"-bS", "-bS", strings.ReplaceAll(transaction, "RCPT TO:<refused@x>\r\n", "") + "DATA\r\n" + message + "QUIT\r\n", "Subject: s\r\n\r\ntext\r\n.dots\r\n"},
	} {
		o, got := h.talk(t, "", strings.NewReader(c.input), c.mode)
		if len(got.Messages) != 1 || string(got.Messages[0].Content) != traceID+"\r\n"+c.want {
			t.Errorf("%s: %+v: %+v", c.name, o, got)
		}
		a := <-h.asks
		if diff := cmp.Diff([]string{"a@x", "b@x"}, a.request.To); diff != "" || strings.Contains(string(a.message), traceID) {
			t.Errorf("%s: asked about %q\n%s", c.name, a.message, diff)
		}
	}
}

// TestTracedMemory: the copy is made in the kernel.
func TestTracedMemory(t *testing.T) {
	h := newHost(t)
	h.answer(t, &wire.Reply{Verdict: wire.VerdictAccept, Trace: traceID + "\n"})
	if err := os.Chmod(h.path("real"), 0o644); err != nil { // the wrapper is still there to be looked at
		t.Fatal(err)
	}
	cmd := h.command("sendmail", "-i", "a@x")
	cmd.Env = append(cmd.Env, "TEST_STATUS="+h.path("status"))
	cmd.Stdin = bytes.NewReader(difficult(maxTraced - 100))
	if o := h.run(t, cmd); o.exit != exConfig {
		t.Fatalf("%+v", o)
	}
	if peak := peakOf(t, h); peak > 16<<10 {
		t.Errorf("%d KiB resident at the most", peak)
	}
}
