package crash

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/wire"
)

// answer is what a client was told.
type answer int

const (
	none      answer = iota // nothing, or the connection broke
	undecided               // that there is no decision now
	accepted
	refused
)

func (a answer) String() string {
	return [...]string{"no answer", "undecided", "accepted", "refused"}[a]
}

// askTimeout is more than a daemon needs that has lost its database.
const askTimeout = time.Minute

// instances counts the messages that were asked about: each has a name of its own, or
// the second would get the answer of the first.
var instances atomic.Int64

// policyClient is an SMTP server that asks over Postfix's policy protocol and
// keeps its connection, as smtpd(8) does.
type policyClient struct {
	conn  net.Conn // nil: to be made
	lines *bufio.Reader
}

func (c *policyClient) ask(h *host, sender, mailbox string, recipients int) answer {
	action, err := c.request(h, sender, mailbox, recipients)
	switch {
	case err != nil:
		c.close()
		return none
	case action == "DUNNO":
		return accepted
	case strings.HasPrefix(action, "452 4.7.1 "):
		return refused
	}
	return undecided
}

func (c *policyClient) request(h *host, sender, mailbox string, recipients int) (action string, err error) {
	if c.conn == nil {
		if c.conn, err = net.Dial("unix", h.policy); err != nil {
			return "", err
		}
		c.lines = bufio.NewReader(c.conn)
	}
	if err := c.conn.SetDeadline(time.Now().Add(askTimeout)); err != nil {
		return "", err
	}
	_, err = fmt.Fprintf(c.conn, "request=smtpd_access_policy\nprotocol_state=END-OF-MESSAGE\nprotocol_name=ESMTP\n"+
		"sasl_username=%s\nsender=%s\nrecipient_count=%d\nsize=1234\ninstance=%x.%x\n\n", mailbox, sender, recipients, time.Now().UnixNano(), instances.Add(1))
	if err != nil {
		return "", err
	}
	for {
		line, err := c.lines.ReadString('\n')
		if err != nil {
			return "", err
		}
		if line == "\n" {
			return action, nil
		}
		action = strings.TrimSuffix(strings.TrimPrefix(line, "action="), "\n")
	}
}

func (c *policyClient) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// become makes the calling thread another user to the kernel's eyes: the socket
// of a peer has the effective uid of the thread that connects. The goroutine
// keeps its thread, which ends with it.
func become(uid int) error {
	runtime.LockOSThread()
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
		return errno
	}
	return nil
}

// sealedMessage is a message as the wrapper hands it over.
func sealedMessage() (*os.File, error) {
	fd, err := unix.MemfdCreate("message", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "message")
	if _, err := f.WriteString("Subject: s\n\nx\n"); err != nil {
		return nil, err
	}
	_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	return f, err
}

// callSendmail is a call of sendmail by the user that the thread is.
func callSendmail(h *host, message *os.File, sender string, recipients int) (answer, string) {
	argv := []string{"sendmail", "-f", sender}
	for i := range recipients {
		argv = append(argv, fmt.Sprintf("r%d@x.example", i))
	}
	reply, err := wire.Ask(h.socket, &wire.Request{Op: wire.OpSubmit, Profile: "postfix", Argv: argv}, message, askTimeout)
	if err != nil {
		return none, ""
	}
	switch {
	case reply.Verdict == wire.VerdictAccept:
		return accepted, reply.ID
	case reply.Verdict == wire.VerdictRefuse && !strings.Contains(reply.Text, "cannot be counted now"):
		return refused, reply.ID
	}
	return undecided, reply.ID // or refused since there can be no decision
}
