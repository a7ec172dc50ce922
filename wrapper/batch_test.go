package wrapper

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sendmail-wrapper/wire"
)

// TestBatch: Exim's -bS.
func TestBatch(t *testing.T) {
	h := newHost(t, `mta = "exim"`)
	h.decide(t, func(r *wire.Request, _ []byte) *wire.Reply {
		if r.Sender == "over@x" {
			return &wire.Reply{Verdict: wire.VerdictRefuse, Exit: 69, Code: "452 4.7.1", Text: "alice: limit reached"}
		}
		return accept
	})
	send := func(sender string) string {
		return "MAIL FROM:<" + sender + ">\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n" + message
	}
	moaned := func(began, line int, previous string) (stdout, stderr string) {
		text := "452 4.7.1 alice: limit reached"
		return fmt.Sprintf("%s\nTransaction started in line %d\nError detected in line %d\n", text, began, line),
			fmt.Sprintf("An error was detected while processing a file of BSMTP input.\nThe error message was:\n\n  %s\n\n"+
				"The SMTP transaction started in line %d.\nThe error was detected in line %d.\n%s successfully processed.\nThe rest of the batch was abandoned.\n", text, began, line, previous)
	}
	firstOut, firstErr := moaned(1, 10, "0 previous messages were")
	thirdOut, thirdErr := moaned(20, 29, "2 previous messages were")
	for _, c := range []struct {
		name, input    string
		exit           int
		stdout, stderr string
		asked          []int // recipients of each message that was asked for
		queued         int
	}{
		{"two messages", "HELO x\r\n" + send("1@x") + send("2@x") + "QUIT\r\n", 0, "", "", []int{2, 2}, 2},
		{"messages behind QUIT", "HELO x\r\n" + send("1@x") + "quit\r\n" + send("2@x"), 0, "", "", []int{2}, 1},
		{"nothing", "", 0, "", "", nil, 0},
		{"the first is refused", "HELO x\r\n" + send("over@x") + send("2@x"), 2, firstOut, firstErr, []int{2}, 0},
		{"the third is refused", "HELO x\r\n" + send("1@x") + "RSET\r\n" + send("2@x") + send("over@x") + send("2@x"), 1, thirdOut, thirdErr, []int{2, 2, 2}, 2},
		{"no recipient", "MAIL FROM:<1@x>\r\nDATA\r\n" + message + send("2@x"), 2, "", "", nil, 0},
		{"no end", "MAIL FROM:<1@x>\r\nRCPT TO:<a@x>\r\nDATA\r\nSubject: s\r\n", 4, "", "", nil, 0},
		{"a lone dot that is none", "MAIL FROM:<1@x>\r\nRCPT TO:<a@x>\r\nDATA\r\na\r\nb\n.\n" + send("2@x") + "QUIT\r\n", 0, "", "", []int{1}, 1},
		{"what Exim does not know", "NONSENSE\r\n", 2, "500 what?\n", "", nil, 0},
	} {
		o, got := h.talk(t, "", strings.NewReader(c.input), "-bS")
		var asked []int
		for len(h.asks) > 0 {
			asked = append(asked, (<-h.asks).request.Recipients)
		}
		want := outcome{exit: c.exit, stdout: c.stdout, stderr: c.stderr}
		if diff := cmp.Diff(want, o, cmp.AllowUnexported(outcome{})); diff != "" || !slices.Equal(asked, c.asked) || len(got.Messages) != c.queued {
			t.Errorf("%s: asked for %d, %d messages queued\n%s", c.name, asked, len(got.Messages), diff)
		}
	}
}
