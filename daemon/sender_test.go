package daemon

import (
	"os"
	"strings"
	"testing"

	"sendmail-wrapper/wire"
)

// TestSenderCheck: sender-check as the configuration has it, from a reload on, for what
// the wrapper asks. Names of this host are those of the configuration and the kernel.
func TestSenderCheck(t *testing.T) {
	r := start(t, nil)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	const foreign, reason = "-fceo@bank.example", "envelope sender not allowed: user root may use root@host1"
	for _, c := range []struct {
		check, argv string
		want        string // decision of the row, and the reason
	}{
		{"off", foreign, "1 "},
		{"report", foreign, "3 " + reason},
		{"refuse", foreign, "2 " + reason},
		{"refuse", "-fbob@host1", "2 " + reason},
		{"refuse", "", "1 "},
		{"refuse", "-f<>", "1 "},
		{"refuse", "-froot@host1", "1 "},
		{"refuse", "-froot@" + strings.ToUpper(host), "1 "},
		{"off", foreign, "1 "},
	} {
		config := *r.config()
		config.SenderCheck = c.check
		r.Reload(config)
		reply, err := ask(r.socket, "Subject: s\n\nx\n", strings.Fields("sendmail "+c.argv+" a@x")...)
		if err != nil {
			t.Fatal(err)
		}
		if refused := c.want[0] == '2'; refused != (reply.Verdict == wire.VerdictRefuse) ||
			refused && (reply.Code != "554 5.7.1" || reply.Exit != 69 || reply.Text != "root: "+reason) {
			t.Errorf("%s, %s: %+v", c.check, c.argv, reply)
		}
		var row string
		if err := r.owner.QueryRow(t.Context(), `SELECT decision || ' ' || coalesce(refused_why, '') FROM messages WHERE id = $1`, reply.ID).Scan(&row); err != nil || row != c.want {
			t.Errorf("%s, %s: row %q, %v, want %q", c.check, c.argv, row, err, c.want)
		}
	}
	for _, decision := range []string{"observed", "refused"} {
		if line := `"decision":"` + decision + `","refused_by":"` + reason; !strings.Contains(r.log.String(), line) {
			t.Errorf("no line of the log has %s", line)
		}
	}
}
