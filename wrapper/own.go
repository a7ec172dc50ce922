package wrapper

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/sendmail"
	"sendmail-wrapper/wire"
)

// Where mailquotad sends, nobody else can have a dialogue with the mail server: it takes
// mail of no other user. So the SMTP server of -bs and -bS is this program, and each message is
// handed over by itself, as that of a call with -f and its recipients.

// maxRecipients is how many recipients a transaction has (Postfix: smtpd_recipient_limit).
const maxRecipients = 1000

// transaction is what a client has said since MAIL.
type transaction struct {
	began      bool
	sender     string
	recipients []string
	eightBit   bool

	// Of DSN (RFC 3461).
	returns, envelopeID, notify string
}

// ownDialogue serves a call of sendmail -bs or -bS by itself.
func ownDialogue(config *Config, call *sendmail.Call, argv []string) int {
	s := &session{config: config, call: call, argv: argv, buffer: make([]byte, chunk), own: &transaction{}}
	s.mta = &child{in: -1, out: -1, exit: -1} // which says nothing
	if call.Mode == sendmail.BatchSMTP {
		return s.ownBatch()
	}
	for ok := s.say("220 " + hostName() + " ESMTP"); ok; {
		ok = s.serveLine()
	}
	return 0
}

func hostName() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil || name.Nodename[0] == 0 {
		return "localhost"
	}
	return unix.ByteSliceToString(name.Nodename[:])
}

// serveLine takes one command of the client's. Not ok: it has gone, or shall go.
func (s *session) serveLine() (ok bool) {
	if !s.batched && bytes.IndexByte(s.input, '\n') < 0 { // a batch may come from a slow program, as mail does
		ready, err := unix.Poll([]unix.PollFd{{Fd: 0, Events: unix.POLLIN}}, int(clientTimeout.Milliseconds()))
		if err == nil && ready == 0 {
			s.say("421 4.4.2 Error: timeout exceeded")
			return false
		}
	}
	line, ok := s.line()
	if !ok {
		return false
	}
	text := bytes.TrimRight(line, "\r\n")
	command, clear := sendmail.ParseCommand(text)
	switch {
	case line == nil:
		return s.say("500 5.5.2 Error: command line too long")
	case !clear:
		return s.say("500 5.5.2 Error: NUL or CR in a command")
	case command.Verb == sendmail.Bdat:
		return s.chunk(&command)
	case command.Verb == sendmail.Data && s.recipients > 0:
		return s.data()
	}
	reply := s.command(&command, text)
	return s.say(reply) && command.Verb != sendmail.Quit
}

// command carries out a command that brings no content, and returns the reply.
func (s *session) command(c *sendmail.Command, line []byte) string {
	verb, _, _ := strings.Cut(strings.ToUpper(string(bytes.TrimSpace(line))), " ")
	switch {
	case c.Verb == sendmail.Ehlo:
		s.reset()
		return s.extensions()
	case verb == "HELO":
		s.reset()
		return "250 " + hostName()
	case c.Verb == sendmail.Mail:
		return s.mail(line)
	case c.Verb == sendmail.Rcpt:
		return s.recipient(line)
	case c.Verb == sendmail.Rset:
		s.reset()
		return "250 2.0.0 Ok"
	case verb == "DATA" && s.own.began && len(line) == len("DATA"):
		return "554 5.5.1 Error: no valid recipients"
	case verb == "DATA":
		return "503 5.5.1 Error: need RCPT command"
	case verb == "NOOP":
		return "250 2.0.0 Ok"
	case verb == "VRFY":
		return "252 2.0.0 Cannot verify; send, and see"
	case verb == "HELP":
		return "214 2.0.0 See sendmail-wrapper(8)"
	case c.Verb == sendmail.Quit:
		return "221 2.0.0 Bye"
	}
	return "502 5.5.2 Error: command not recognized"
}

// extensions is the reply to EHLO.
func (s *session) extensions() string {
	reply := "250-" + hostName() + "\r\n250-PIPELINING\r\n250-SIZE " + strconv.FormatInt(s.config.MaxMessageSize, 10) +
		"\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n"
	if s.config.Profile.DSN {
		reply += "250-DSN\r\n"
	}
	if s.config.Profile.SMTPUTF8 {
		reply += "250-SMTPUTF8\r\n"
	}
	return reply + "250 CHUNKING"
}

func (s *session) reset() {
	s.dropChunks()
	s.recipients, s.own = 0, &transaction{}
}

const badParameter = "555 5.5.4 Unsupported option: "

// mail takes MAIL.
func (s *session) mail(line []byte) string {
	address, parameters, ok := sendmail.ParsePath(line, "FROM")
	switch {
	case s.own.began:
		return "503 5.5.1 Error: nested MAIL command"
	case !ok:
		return "501 5.1.7 Bad sender address syntax"
	}
	t := &transaction{began: true, sender: address}
	for _, p := range parameters {
		value := strings.ToUpper(p.Value)
		switch {
		case p.Keyword == "SIZE":
			n, err := strconv.ParseUint(p.Value, 10, 63)
			if err != nil {
				return "501 5.5.4 Bad message size syntax"
			}
			if s.config.MaxMessageSize > 0 && n > uint64(s.config.MaxMessageSize) {
				return wire.CodeTooLong + " " + wire.TextTooLong
			}
		case p.Keyword == "BODY" && (value == "7BIT" || value == "8BITMIME"):
			t.eightBit = value == "8BITMIME"
		case p.Keyword == "SMTPUTF8" && s.config.Profile.SMTPUTF8: // Postfix finds out by itself
		case p.Keyword == "RET" && s.config.Profile.DSN && (value == "HDRS" || value == "FULL"):
			t.returns = strings.ToLower(value)
		case p.Keyword == "ENVID" && s.config.Profile.DSN && isXtext(p.Value):
			if len(p.Value) != 2 { // with two characters Postfix takes -V for VERP
				t.envelopeID = p.Value
			}
		default:
			return badParameter + p.Keyword
		}
	}
	s.own = t
	return "250 2.1.0 Ok"
}

// recipient takes RCPT.
func (s *session) recipient(line []byte) string {
	address, parameters, ok := sendmail.ParsePath(line, "TO")
	notify := ""
	for _, p := range parameters {
		switch {
		case p.Keyword == "NOTIFY" && s.config.Profile.DSN && isNotify(p.Value):
			notify = strings.ToLower(p.Value)
		case p.Keyword == "ORCPT" && s.config.Profile.DSN:
		default:
			return badParameter + p.Keyword
		}
	}
	switch {
	case !s.own.began:
		return "503 5.5.1 Error: need MAIL command"
	case !ok || !s.config.Profile.IsOneRecipient(address):
		return "501 5.1.3 Bad recipient address syntax"
	case s.recipients == maxRecipients:
		return "452 4.5.3 Error: too many recipients"
	case s.recipients > 0 && notify != s.own.notify: // a call of sendmail has one -N. The client tries again in a transaction of its own
		return "452 4.5.3 Error: NOTIFY other than that of the recipient before"
	}
	s.own.notify = notify
	s.own.recipients = append(s.own.recipients, address)
	s.recipients++
	return "250 2.1.5 Ok"
}

// isXtext is whether a value can be that of ENVID (RFC 3461, 4).
func isXtext(s string) bool {
	return s != "" && len(s) <= 100 && !strings.ContainsFunc(s, func(c rune) bool { return c < '!' || c > '~' || c == '=' })
}

// isNotify is whether a value is NEVER, or a list of the others.
func isNotify(s string) bool {
	words := strings.Split(strings.ToUpper(s), ",")
	for _, word := range words {
		switch word {
		case "NEVER":
			if len(words) > 1 {
				return false
			}
		case "SUCCESS", "FAILURE", "DELAY":
		default:
			return false
		}
	}
	return true
}

// commandLine is that of a call that sends the message of a transaction.
func (t *transaction) commandLine(p *sendmail.Profile) []string {
	sender := t.sender
	if sender == "" {
		sender = "<>"
	}
	argv := []string{"sendmail", "-i", "-f", sender, "-F", ""} // in a dialogue nobody's full name is known
	if t.eightBit {
		argv = append(argv, "-B8BITMIME")
	}
	for _, o := range []struct{ option, value string }{{"-R", t.returns}, {"-V", t.envelopeID}, {"-N", t.notify}} {
		if o.value != "" {
			argv = append(argv, o.option+o.value)
		}
	}
	argv = append(argv, p.PrintsErrors...)
	return append(append(argv, "--"), t.recipients...)
}

// handOver has a message sent, and answers the client.
func (s *session) handOver(held *spool) (ok bool) {
	argv := s.own.commandLine(s.config.Profile)
	s.reset()
	message, failure := held.seal()
	if failure != nil {
		return s.say(wire.CodeFault + " " + failure.text)
	}
	defer message.Close()
	r := request(s.config, argv)
	r.HandOff, r.Truncated = true, held.truncated
	switch reply := ask(s.config, s.call, r, message); {
	case reply.Verdict == wire.VerdictRefuse:
		return s.say(reply.Code + " " + reply.Text)
	case reply.Verdict != wire.VerdictHanded: // to root in a user namespace, of whom we do not think that he is root
		return s.say(wire.CodeFault + " mailquotad has not sent it, but left it to root")
	case reply.Exit == 0:
		return s.say("250 2.0.0 Ok: " + reply.ID)
	case reply.Exit == exTempFail:
		return s.say("451 4.3.0 " + lastLine(reply))
	default:
		return s.say("554 5.0.0 " + lastLine(reply))
	}
}

// maxSaidLine bounds the text of a reply, in bytes (RFC 5321, 4.5.3.1.5).
const maxSaidLine = 480

// lastLine is what the real sendmail has said last, as one line.
func lastLine(reply *wire.Reply) string {
	said := bytes.TrimSpace(reply.Stderr)
	if len(said) == 0 {
		said = bytes.TrimSpace(reply.Stdout)
	}
	said = said[bytes.LastIndexByte(said, '\n')+1:]
	if len(said) == 0 {
		return "the mail server has refused it, with exit status " + strconv.Itoa(int(reply.Exit))
	}
	text := slices.Clone(said[:min(len(said), maxSaidLine)])
	for i, c := range text {
		if c < ' ' || c > '~' {
			text[i] = '?'
		}
	}
	return string(text)
}

// ownBatch serves Exim's -bS: no replies, and the first error ends it. So does the end of the
// input in a transaction, since only the exit status says that its message was not sent. QUIT
// in one gives it up, as with Exim.
func (s *session) ownBatch() int {
	began, messages := 0, 0
	for s.batched = true; ; {
		before := s.recipients
		ok := s.serveLine()
		switch {
		case !ok && (strings.HasPrefix(s.reply, "221") || !s.own.began && s.chunks == nil):
			return 0
		case !ok: // as Exim's own: what has no end is no message
			return batchError("421 4.3.0 Error: message abandoned", began, s.lines, messages)
		case s.reply[0] >= '4':
			return batchError(s.reply, began, s.lines, messages)
		case s.reply[0] == '2' && before > 0 && s.recipients == 0 && strings.HasPrefix(s.reply, "250 2.0.0 Ok: "):
			messages++
			began = s.lines
		case !s.own.began:
			began = s.lines
		}
	}
}
