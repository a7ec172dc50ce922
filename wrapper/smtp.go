package wrapper

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/sendmail"
	"sendmail-wrapper/wire"
)

// maxCommand bounds a command line, in bytes with its line end. It is more than
// Postfix takes (line_length_limit, 2048), and less than what any MTA reads in two
// pieces, the second of which would be a command (Exim: 16384, Sendmail: 12288).
const maxCommand = 4096

// clientTimeout bounds the wait for a client that does not read (RFC 5321,
// 4.5.3.2.7). For one that does not write, the MTA has its own.
var clientTimeout = 5 * time.Minute

// pipeBuf is PIPE_BUF of pipe(7): a pipe that poll(2) calls writable has room for
// so much at least.
const pipeBuf = 4096

// session is an SMTP session between a client, on descriptors 0 and 1, and the real
// sendmail.
type session struct {
	config *Config
	call   *sendmail.Call
	argv   []string
	mta    *child

	input  []byte // of the client, not yet used; a part of buffer
	buffer []byte
	lines  int  // of the client, used so far
	lost   bool // the client takes nothing any more

	// The transaction, by what the MTA has answered.
	sender     string
	recipients int
	to         []string // the first of them

	// Content that came with BDAT, and is not complete.
	chunks *spool
	text   sendmail.Content

	canonical []byte // memory for content

	// Of a session that is served by us alone (own.go).
	own     *transaction // nil: the MTA serves it
	local   sendmail.LocalForm
	inLocal []byte // memory for content
	batched bool   // replies are not for the client
	reply   string // the last
}

// dialogue serves a call of sendmail -bs. The real sendmail is asked each command,
// one at a time, and its replies are passed on as they are. But it does not hear of
// content before that is complete and has been accepted: until then a message can be
// given up with RSET. To close the connection instead would queue what has come so
// far with nullmailer (smtpd.cc, DATA).
func dialogue(config *Config, call *sendmail.Call, argv []string) int {
	if fromInetd() {
		return become(config.RealSendmail, argv, -1)
	}
	s, failure := newSession(config, call, argv, true)
	if failure != nil {
		s.say(codeGone + " " + failure.text)
		return fail(failure.exit, failure.text)
	}
	greeting, _, ok := s.mta.reply()
	for ok = s.tell(greeting) && ok; ok; {
		ok = s.turn()
	}
	return s.end()
}

// fromInetd tells a mail server that inetd(8) starts from a program that wants to
// send: root, and a socket of the internet as standard input.
func fromInetd() bool {
	if unix.Getuid() != 0 {
		return false
	}
	peer, err := unix.Getpeername(0)
	if err != nil {
		return false
	}
	switch peer.(type) {
	case *unix.SockaddrInet4, *unix.SockaddrInet6:
		return true
	}
	return false
}

func newSession(config *Config, call *sendmail.Call, argv []string, heard bool) (s *session, failure *fault) {
	s = &session{config: config, call: call, argv: argv, buffer: make([]byte, chunk)}
	s.mta, failure = startChild(config.RealSendmail, argv, heard)
	return s, failure
}

// turn takes one command of the client's. Not ok: client or MTA has gone.
func (s *session) turn() (ok bool) {
	line, ok := s.line()
	if !ok {
		return false
	}
	command, clear := sendmail.ParseCommand(bytes.TrimRight(line, "\r\n"))
	switch {
	case line == nil:
		return s.say("500 5.5.2 Error: command line too long")
	case !clear:
		return s.say("500 5.5.2 Error: NUL or CR in a command")
	case command.Verb == sendmail.StartTLS: // we could not read on
		return s.say("502 5.5.1 Error: command not implemented")
	case command.Verb == sendmail.Bdat:
		return s.chunk(&command)
	case command.Verb == sendmail.Data && s.recipients > 0:
		return s.data()
	}
	reply, code, ok := s.exchange(line)
	switch {
	case code == 354: // it wants content of a transaction that we know nothing of
		s.say(codeGone + " Error: lost track of the transaction")
		return false
	case code/100 == 2:
		s.learn(&command)
		if command.Verb == sendmail.Ehlo {
			reply = sendmail.WithoutStartTLS(reply)
		}
	}
	return s.tell(reply) && ok
}

// learn notes what a command has brought about that the MTA took.
func (s *session) learn(c *sendmail.Command) {
	switch c.Verb {
	case sendmail.Mail:
		s.sender, s.recipients, s.to = c.Address, 0, nil
		s.dropChunks()
	case sendmail.Rset:
		s.recipients, s.to = 0, nil
		s.dropChunks()
	case sendmail.Rcpt, sendmail.Unsure:
		s.recipients++
		if c.Address != "" && len(s.to) < wire.MaxTo {
			s.to = append(s.to, c.Address[:min(len(c.Address), sendmail.MaxAddress)])
		}
		if c.Report {
			s.recipients++
		}
	}
}

// data takes the content that follows DATA.
func (s *session) data() (ok bool) {
	if s.chunks != nil { // RFC 3030, section 3: the two do not mix
		return s.say("503 5.5.1 Error: DATA after BDAT")
	}
	if !s.say(s.config.Profile.GoAhead) {
		return false
	}
	held, ok := s.content()
	return ok && s.submit(held)
}

// chunk takes the content that follows BDAT. The MTA gets it with DATA, as one: so
// there is one way only in which bytes of a client's can become commands to the MTA,
// and that goes line by line.
func (s *session) chunk(c *sendmail.Command) (ok bool) {
	if c.Size < 0 {
		return s.say("501 5.5.4 Syntax: BDAT count [LAST]")
	}
	if s.chunks == nil {
		s.chunks, s.text, s.local = newSpool(s.config.MaxMessageSize), sendmail.Content{}, sendmail.LocalForm{}
	}
	for left := c.Size; left > 0; {
		if len(s.input) == 0 && !s.more() {
			return false
		}
		n := min(left, int64(len(s.input)))
		s.canonical = s.text.Chunk(s.canonical[:0], s.input[:n])
		s.hold(s.chunks, s.canonical)
		s.input, left = s.input[n:], left-n
	}
	switch {
	case s.recipients == 0:
		s.dropChunks()
		return s.say("503 5.5.1 Error: need RCPT command")
	case !c.Last:
		return s.say("250 2.0.0 Ok: " + strconv.FormatInt(c.Size, 10) + " bytes")
	}
	s.hold(s.chunks, s.text.End(s.canonical[:0]))
	held := s.chunks
	s.chunks = nil
	return s.submit(held)
}

func (s *session) dropChunks() {
	if s.chunks != nil {
		s.chunks.drop()
		s.chunks = nil
	}
}

// submit has a message decided and, if it passes, gives it to the MTA, which is in
// the transaction and has heard of no content yet.
func (s *session) submit(held *spool) (ok bool) {
	if s.own != nil {
		return s.handOver(held)
	}
	message, decision := s.judge(held)
	if message == nil {
		s.recipients, s.to = 0, nil
		_, _, ok := s.exchange([]byte("RSET\r\n"))
		return s.say(decision.Code+" "+decision.Text) && ok
	}
	defer message.Close()
	reply, code, ok := s.exchange([]byte("DATA\r\n"))
	if code == 354 {
		s.recipients, s.to = 0, nil
		s.mta.sendTraced(message, held.size, decision)
		s.mta.write([]byte(".\r\n"))
		reply, _, ok = s.mta.reply()
	}
	return s.tell(reply) && ok
}

// judge has a message decided: it is nil where it is refused.
func (s *session) judge(held *spool) (message *os.File, reply *wire.Reply) {
	message, failure := held.seal()
	if failure != nil {
		return nil, &wire.Reply{Code: wire.CodeFault, Text: failure.text}
	}
	r := request(s.config, s.argv)
	r.Truncated, r.Sender, r.Recipients, r.To = held.truncated, s.sender, s.recipients, s.to
	if reply = ask(s.config, s.call, r, message); reply.Verdict != wire.VerdictAccept {
		message.Close()
		return nil, reply
	}
	return message, reply
}

// content reads the content that follows DATA. Not ok: client or MTA has gone
// before its end, and there is none.
func (s *session) content() (held *spool, ok bool) {
	held, s.local = newSpool(s.config.MaxMessageSize), sendmail.LocalForm{}
	text := sendmail.Content{CRLF: s.config.Profile.CRLF}
	for {
		canonical, used, end := text.Data(s.canonical[:0], s.input)
		s.canonical, s.input = canonical, s.input[used:]
		s.hold(held, canonical)
		if end {
			s.lines += text.Lines
			return held, true
		}
		if !s.more() {
			held.drop()
			return nil, false
		}
	}
}

// hold keeps a part of content, in the form in which the MTA shall have it.
func (s *session) hold(held *spool, canonical []byte) {
	if s.own != nil {
		s.inLocal = s.local.Append(s.inLocal[:0], canonical)
		canonical = s.inLocal
	}
	held.write(canonical)
}

// line reads a line of the client's, which is good until the next is read: nil if
// it is longer than a command may be. Not ok: client or MTA has gone; what came
// after the last line end is no command, as Postfix and Exim have it.
func (s *session) line() (line []byte, ok bool) {
	for long := false; ; {
		if end := bytes.IndexByte(s.input, '\n'); end >= 0 {
			line, s.input = s.input[:end+1], s.input[end+1:]
			s.lines++
			if long || len(line) > maxCommand {
				return nil, true
			}
			return line, true
		}
		if len(s.input) > maxCommand {
			s.input, long = nil, true
		}
		if !s.more() {
			return nil, false
		}
	}
}

// more reads on, behind the input that is left. Not ok: client or MTA has gone.
func (s *session) more() (ok bool) {
	left := copy(s.buffer, s.input)
	s.input = s.buffer[:left]
	for {
		ready := s.mta.wait(0, unix.POLLIN)
		if !s.unasked() {
			return false
		}
		if !ready {
			continue
		}
		n, err := unix.Read(0, s.buffer[left:])
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		s.input = s.buffer[:left+max(n, 0)]
		return n > 0
	}
}

// exchange passes a command on and waits for the reply. Not ok: the MTA has gone,
// and these are its last words.
func (s *session) exchange(line []byte) (reply []byte, code int, ok bool) {
	s.mta.hear()
	s.unasked() // or the reply to this command would be taken for that to the next
	s.mta.write(line)
	return s.mta.reply()
}

// unasked passes on what the MTA says by itself: that the client took too long, or
// that it must stop (421). Not ok: client or MTA has gone.
func (s *session) unasked() (ok bool) {
	for {
		reply, _ := s.mta.next()
		if reply == nil {
			return !s.mta.gone
		}
		if !s.tell(reply) {
			return false
		}
	}
}

// say answers the client in our own words.
func (s *session) say(text string) (ok bool) {
	if s.batched {
		s.reply = text
		return true
	}
	return s.tell([]byte(text + "\r\n"))
}

// tell writes to the client. Not ok: it has gone, or does not read.
func (s *session) tell(b []byte) (ok bool) {
	for len(b) > 0 && !s.lost {
		ready, err := unix.Poll([]unix.PollFd{{Fd: 1, Events: unix.POLLOUT}}, int(clientTimeout.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err != nil || ready == 0 {
			s.lost = true
			break
		}
		n, err := unix.Write(1, b[:min(len(b), pipeBuf)])
		s.lost = err != nil && err != unix.EINTR && err != unix.EAGAIN
		b = b[max(n, 0):]
	}
	return !s.lost
}

// end ends the session with the MTA, and has its exit status.
func (s *session) end() int {
	s.mta.hangUp()
	for !s.mta.gone {
		s.mta.wait(-1, 0)
		s.tell(s.mta.said)
		s.mta.said = s.mta.said[:0]
	}
	s.tell(s.mta.said)
	return s.mta.status()
}
