package report_test

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/report"
)

// openTerminal returns a terminal of some columns, and its other end (pty(7)).
func openTerminal(t *testing.T, columns uint16) (tty, other *os.File) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	other, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	must(err)
	t.Cleanup(func() { other.Close() })
	must(unix.IoctlSetPointerInt(int(other.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(other.Fd()), unix.TIOCGPTN)
	must(err)
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(err)
	t.Cleanup(func() { tty.Close() })
	must(unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: columns}))
	return tty, other
}

// onTerminal is what somebody sees of a table, without the marks of colour.
func onTerminal(t *testing.T, columns uint16, header []string, rows [][]any) (lines []string, painted bool) {
	t.Helper()
	tty, other := openTerminal(t, columns)
	report.Table(tty, header, rows)
	if _, err := tty.WriteString("\x00"); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for b := make([]byte, 1); ; all.Write(b) {
		if _, err := io.ReadFull(other, b); err != nil {
			t.Fatal(err)
		}
		if b[0] == 0 {
			break
		}
	}
	plain := strings.NewReplacer("\x1b[0m", "", "\x1b[1m", "", "\x1b[31m", "", "\x1b[33m", "", "\r", "").Replace(all.String())
	return strings.Split(strings.TrimSuffix(plain, "\n"), "\n"), strings.Contains(all.String(), "\x1b[31m")
}

func TestTableOnTerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("COLUMNS", "")
	t.Setenv("NO_COLOR", "")
	header := []string{"user", "script or cron job", "recipients", "decision"}
	script, crontab, wide := "/home/alice/public_html/wp-content/plugins/mailer.php", "/etc/cron.d/news:3 /usr/bin/php /srv/news/send.php", strings.Repeat("郵", 40)
	rows := [][]any{{"alice", &script, int64(5), "refused"}, {"bob\x1b[2J", &crontab, int64(5), "observed"}, {"carol", &wide, int64(1234567), "accepted"}}
	seen := func(columns uint16) (text string, painted bool) {
		lines, painted := onTerminal(t, columns, header, rows)
		for _, line := range lines {
			if n := len([]rune(line)) + strings.Count(line, "郵"); n > int(columns) {
				t.Errorf("%d columns of %d: %q", n, columns, line)
			}
			if strings.ContainsAny(line, "\x1b\x07") {
				t.Errorf("%q", line)
			}
		}
		return strings.Join(lines, "\n"), painted
	}
	text, painted := seen(200)
	if !painted || strings.Contains(text, "…") || !strings.Contains(text, script) {
		t.Errorf("in 200 columns, painted %v\n%s", painted, text)
	}
	text, _ = seen(72)
	if !strings.Contains(text, "/home/…/wp-content/plugins/mailer.php") || !strings.Contains(text, "/etc/…") || header[1] != "script or cron job" {
		t.Errorf("in 72 columns:\n%s", text)
	}
	seen(50)
	t.Setenv("COLUMNS", "60")
	if text, _ := seen(200); !strings.Contains(text, "…") {
		t.Errorf("COLUMNS=60:\n%s", text)
	}
	for name, value := range map[string]string{"NO_COLOR": "1", "TERM": "dumb"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			if _, painted := seen(200); painted {
				t.Error("has colours")
			}
		})
	}

	// A program gets all of it.
	t.Setenv("COLUMNS", "20")
	var b strings.Builder
	report.Table(&b, header, rows)
	if strings.Contains(b.String(), "…") || strings.Contains(b.String(), "\x1b") || !strings.Contains(b.String(), wide) {
		t.Errorf("%q", b.String())
	}
}
