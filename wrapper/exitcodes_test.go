package wrapper

import (
	"bytes"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/wire"
)

// TestExitCodes: docs/exit-codes.md is true, and has all there are.
func TestExitCodes(t *testing.T) {
	doc, err := os.ReadFile("../docs/exit-codes.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string][2]int{}
	for _, row := range regexp.MustCompile(`(?m)^\| (.*) \| (\d+) \| (\d+) \|$`).FindAllStringSubmatch(string(doc), -1) {
		exit, err := strconv.Atoi(row[2])
		if err != nil {
			t.Fatal(err)
		}
		relayed, err := strconv.Atoi(row[3])
		if err != nil {
			t.Fatal(err)
		}
		documented[row[1]] = [2]int{exit, relayed}
	}

	// What the text of a row begins with, and how it comes about. sh is put before
	// the call, which is "$@".
	causes := []struct {
		text, conf, sh string
		reply          *wire.Reply // nil: no daemon
	}{
		{"a limit", "", `"$@"`, &wire.Reply{Verdict: wire.VerdictRefuse, Exit: (&quota.Refusal{}).Exit(false), Text: "limit"}},
		{"mailquotad cannot be reached", `on-unavailable = "refuse"`, `"$@"`, nil},
		{"with `hand-off", `hand-off = "mailquotad"`, `unshare -Ur "$@"`, nil}, // root's are not handed over
		{"mailquotad does not understand", "", `"$@"`, &wire.Reply{Verdict: wire.VerdictError, Text: "protocol version 2"}},
		{"no memory or descriptors", "", `ulimit -f 0; "$@"`, accept},
		{"standard input gives", "", `"$@" </proc/$PPID/mem`, accept}, // nothing is mapped at 0: EIO
		{"the real sendmail is missing", `real-sendmail = "/nonexistent"`, `"$@"`, accept},
	}
	if len(documented) != len(causes) {
		t.Errorf("%d causes are documented, %d tested", len(documented), len(causes))
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range causes {
		t.Run(c.text, func(t *testing.T) {
			h := newHost(t)
			// The first line of a key holds.
			h.write(t, "conf", c.conf+"\n"+strings.Join(h.conf, "\n"))
			if c.reply != nil {
				h.answer(t, c.reply)
			}
			var want *[2]int
			for text, exits := range documented {
				if strings.HasPrefix(text, c.text) {
					want = &exits
				}
			}
			if want == nil {
				t.Fatal("is not documented")
			}
			for i, option := range []string{"-i", "-G"} {
				cmd := h.command("bash", "-c", c.sh, "bash", self, option, "a@x")
				cmd.Path = "/bin/bash"
				cmd.Stdin = bytes.NewReader(difficult(100_000))
				o := h.run(t, cmd)
				if o.exit != want[i] || o.called != nil || o.stdout != "" || !strings.HasPrefix(o.stderr, "sendmail: ") {
					t.Errorf("%s: %+v, documented is %d", option, o, want[i])
				}
			}
		})
	}
}

// TestRefusedByName: rmail of Exim relays, that of Postfix is another program.
func TestRefusedByName(t *testing.T) {
	for _, c := range []struct {
		mta, name string
		exit      int
	}{{"exim", "rmail", 75}, {"exim", "sendmail", 69}, {"exim", "send-mail", 69}, {"postfix", "send-mail", 69}} {
		h := newHost(t, `mta = "`+c.mta+`"`)
		h.answer(t, refuse)
		cmd := h.command(c.name, "a@x")
		cmd.Stdin = strings.NewReader("Subject: s\n\nx\n")
		if o := h.run(t, cmd); o.exit != c.exit || o.called != nil {
			t.Errorf("%s of %s: %+v, want %d", c.name, c.mta, o, c.exit)
		}
	}
}
