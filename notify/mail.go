package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"sendmail-wrapper/config"
)

// letter is a mail to be sent.
type letter struct {
	to, subject, body string
	id                string // of Message-ID, before the @
}

// Bounds: what a program does, and what is kept of what it says.
const (
	sendmailBound = time.Minute
	hookBound     = 30 * time.Second
	maxSaid       = 2000
)

// environment of programs. They get nothing of ours.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}

// mail hands a letter to the real sendmail. The null sender means that no bounce
// comes back (RFC 3834, 3.3; RFC 5321, 4.5.5); after -- nothing is an option.
func (d *Deliverer) mail(ctx context.Context, l *letter) error {
	if !config.IsRecipient(l.to) {
		return fmt.Errorf("%q is no address", l.to)
	}
	message, err := l.message(d.Config.NotifyFrom, time.Now())
	if err != nil {
		return err
	}
	path, sender, err := d.Sendmail()
	if err != nil {
		return err
	}
	cmd := exec.Command(path, "-i", "-f", sender, "--", l.to)
	cmd.Args[0] = "sendmail" // by another name it would do something else
	return runProgram(ctx, cmd, message, sendmailBound)
}

// message is the whole mail. There is no Precedence: it is no standard, programs
// read it in different ways, and RFC 3834, 3.1.8, recommends neither it nor a value.
func (l *letter) message(from string, at time.Time) ([]byte, error) {
	domain := from[strings.LastIndexByte(from, '@')+1:]
	encoding, body, err := encode(l.body)
	if err != nil {
		return nil, err
	}
	b := &bytes.Buffer{}
	for _, field := range [][2]string{
		{"From", from},
		{"To", l.to},
		{"Subject", subjectField(l.subject)},
		{"Date", at.Format(time.RFC1123Z)},
		{"Message-ID", "<" + l.id + "@" + domain + ">"},
		{"Auto-Submitted", "auto-generated"},
		{"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=utf-8"},
		{"Content-Transfer-Encoding", encoding},
	} {
		fmt.Fprintf(b, "%s: %s\n", field[0], field[1])
	}
	b.WriteByte('\n')
	b.Write(body)
	return b.Bytes(), nil
}

// maxSubject bounds a subject, in runes.
const maxSubject = 150

// subjectField is a subject as a header has it: one line, or encoded words, of
// which each stands on a line of its own (RFC 2047, 2).
func subjectField(s string) string {
	s = printable(s)
	if runes := []rune(s); len(runes) > maxSubject {
		s = string(runes[:maxSubject]) + "…"
	}
	return strings.ReplaceAll(mime.QEncoding.Encode("utf-8", s), "?= =?", "?=\n =?")
}

// encode is as plain as the body allows, so that commands in it are as they are to
// be typed: quoted-printable only where a line is too long for SMTP (RFC 5321,
// 4.5.3.1.6).
func encode(body string) (name string, encoded []byte, err error) {
	body = strings.ToValidUTF8(body, "\uFFFD")
	name = "7bit"
	for line := range strings.Lines(body) {
		if len(line) > 998 || strings.ContainsAny(line, "\x00\r") {
			b := &bytes.Buffer{}
			w := quotedprintable.NewWriter(b)
			if _, err := w.Write([]byte(body)); err != nil {
				return "", nil, err
			}
			err := w.Close()
			return "quoted-printable", bytes.ReplaceAll(b.Bytes(), []byte("\r\n"), []byte("\n")), err
		}
		if strings.ContainsFunc(line, func(r rune) bool { return r >= 0x80 }) {
			name = "8bit"
		}
	}
	return name, []byte(body), nil
}

// runProgram runs a program in a process group of its own, with an input, for some
// time at most. The error has what it said.
func runProgram(ctx context.Context, cmd *exec.Cmd, input []byte, bound time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	said := &tail{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), said, said
	cmd.Env, cmd.Dir = environment, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second // what it left running may hold its output open
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		// WaitDelay counts from its end, if it left something behind; its status is the answer.
		if err == nil || errors.Is(err, exec.ErrWaitDelay) {
			return nil
		}
		return fmt.Errorf("%s: %w%s", cmd.Path, err, said)
	case <-ctx.Done():
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-done
		return fmt.Errorf("%s: not done within %s%s", cmd.Path, bound, said)
	}
}

// tail keeps the beginning of what a program says.
type tail struct{ bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	t.Buffer.Write(p[:min(len(p), maxSaid-t.Len())])
	return len(p), nil
}

func (t *tail) String() string {
	if text := strings.TrimSpace(t.Buffer.String()); text != "" {
		return ": " + printable(strings.ReplaceAll(text, "\n", " / "))
	}
	return ""
}
