// Package wire is what sendmail-wrapper and mailctl say to mailquotad, and its
// answer: one request and one reply a connection, over a unix stream socket.
//
// A frame is the four bytes "SQW1", the length of the body as a big-endian
// uint32, and the body: the protocol's version as a uvarint, then the fields of
// [Request] or [Reply] in the order of their declaration; numbers and booleans
// as uvarints, strings and bytes with their length before them as a uvarint,
// lists with their count before them. Nothing may follow the last field.
//
// With the first bytes of a request of [OpSubmit] comes exactly one descriptor
// (SCM_RIGHTS): a memfd that holds the message and is sealed, so that nobody
// can change it between the decision and the real sendmail. Other requests
// bring none.
package wire

// Version of the protocol. A daemon answers a request of another version with
// VerdictError and a text that names both.
const Version = 5

// Op is what a request asks for.
type Op uint8

const (
	OpSubmit Op = 1 + iota // decide about the message in the memfd that comes along
	OpUsage                // usage and limits of the asking user: reply Body is JSON
	OpStatus               // state of the daemon: reply Body is JSON
	OpAsk                  // Question of an ordinary user about what is his own: reply Body is JSON
)

// HintNames are the environment variables that the wrapper passes on as
// claims about the caller: of the web request, of systemd and sudo, and those that
// change how an MTA reads its command line or finds the envelope (package sendmail).
var HintNames = []string{"SCRIPT_FILENAME", "REQUEST_URI", "HTTP_HOST", "SERVER_NAME", "REMOTE_ADDR", "GATEWAY_INTERFACE",
	"REQUEST_METHOD", "DOCUMENT_ROOT", "TRIGGER_UNIT", "SUDO_USER",
	"POSIXLY_CORRECT", "MAIL_VERBOSE", "NAME", "EMAIL", "USER", "LOGNAME", "MAILUSER", "MAILHOST", "HOSTNAME",
	"NULLMAILER_USER", "NULLMAILER_HOST", "NULLMAILER_SUSER", "NULLMAILER_SHOST", "NULLMAILER_FLAGS"}

// Request is what the wrapper (OpSubmit) or mailctl asks.
type Request struct {
	Op        Op
	Profile   string   // sendmail profile of this host: "postfix"
	Argv      []string // with argv[0]
	Hints     []string // NAME=VALUE, names of HintNames only
	Truncated bool     // the message was longer than max-message-size

	// Of a transaction of an SMTP dialogue (sendmail -bs, -bS); else they are
	// found in Argv and the message.
	Sender     string   // "" for the null sender
	Recipients int      // ≥ 0, with those of reports that are asked for
	To         []string // the first of them, at most MaxTo: for the report only

	Question []byte // JSON, of OpAsk only, at most MaxQuestion

	// Of OpSubmit: what is accepted, mailquotad has sent, and answers VerdictHanded.
	HandOff bool
}

// MaxTo bounds Request.To.
const MaxTo = 20

// MaxQuestion bounds Request.Question, in bytes.
const MaxQuestion = 8 << 10

// Verdict is the daemon's answer.
type Verdict uint8

const (
	VerdictAccept      Verdict = 1 + iota
	VerdictRefuse              // Text says why; exit with Exit, or reply with Code (of OpAsk: mailctl exits with Exit)
	VerdictUnavailable         // cannot decide now: follow on-unavailable
	VerdictError               // the request was wrong: Text says how
	VerdictHanded              // accepted, and the real sendmail was run: Exit, Stdout and Stderr are its
)

// MaxOutput bounds Reply.Stdout and Reply.Stderr, each, in bytes.
const MaxOutput = 64 << 10

// Reply is the daemon's answer to a request.
type Reply struct {
	Verdict Verdict
	Exit    uint8  // exit status for VerdictRefuse, of sysexits(3), and for VerdictHanded
	Code    string // for VerdictRefuse, too: how SMTP says it, reply code and status code (RFC 3463): "452 4.7.1"
	ID      string // of the message row, for the log
	Text    string // one printable line
	Body    []byte // JSON for OpUsage, OpStatus and OpAsk

	// With VerdictAccept, what is to be put into the message before the real sendmail
	// gets it: a header field, with line ends; "" for nothing. TraceAt is where, in
	// bytes from the beginning of the memfd.
	Trace   string
	TraceAt int64

	// With VerdictHanded, what the real sendmail wrote, as far as MaxOutput.
	Stdout, Stderr []byte
}

// What the wrapper says as the daemon does, where it has to decide itself: reply
// code and status code (RFC 5321, 4.2; RFC 3463), and text.
const (
	CodeFault   = "451 4.3.0" // something is wrong with this system
	CodeTooLong = "552 5.3.4"
	TextTooLong = "the message is longer than max-message-size of this server"
)

// MaxRequest and MaxReply are the longest bodies that are read, in bytes. Linux
// gives argv and the environment 2 MiB together unless the stack limit was
// raised (execve(2), "Limits on size of arguments and environment").
const (
	MaxRequest = 5 << 19 // 2.5 MiB
	MaxReply   = 4 << 20
)

const (
	magic     = "SQW1"
	headerLen = len(magic) + 4
)

// ProtocolError is a frame that this package does not take: the fault of
// whoever sent it.
type ProtocolError struct{ Text string }

func (e *ProtocolError) Error() string { return e.Text }
