// Package wire is what sendmail-wrapper and mailctl say to mailquotad, and its
// answer: one request and one reply a connection, over a unix stream socket.
package wire

// Version of the protocol. A daemon answers a request of another version with
// VerdictError and a text that names both.
const Version = 1

// Op is what a request asks for.
type Op uint8

const (
	OpSubmit Op = 1 + iota // decide about the message in the memfd that comes along
	OpUsage                // usage and limits of the asking user: reply Body is JSON
	OpStatus               // state of the daemon: reply Body is JSON
)

// HintNames are the environment variables that the wrapper passes on as
// claims about the caller.
var HintNames = []string{"SCRIPT_FILENAME", "REQUEST_URI", "HTTP_HOST", "SERVER_NAME", "REMOTE_ADDR", "GATEWAY_INTERFACE"}

// Request is what the wrapper (OpSubmit) or mailctl asks.
type Request struct {
	Op        Op
	Profile   string   // sendmail profile of this host: "postfix"
	Argv      []string // with argv[0]
	Dir       string   // working directory
	Hints     []string // NAME=VALUE, names of HintNames only
	Truncated bool     // standard input was longer than max-message-size
}

// Verdict is the daemon's answer.
type Verdict uint8

const (
	VerdictAccept      Verdict = 1 + iota
	VerdictRefuse              // Text says why; exit with Exit
	VerdictUnavailable         // cannot decide now: follow on-unavailable
	VerdictError               // the request was wrong: Text says how
)

// Reply is the daemon's answer to a request.
type Reply struct {
	Verdict Verdict
	Exit    uint8  // exit status for VerdictRefuse, of sysexits(3)
	ID      string // of the message row, for the log
	Text    string // one printable line
	Body    []byte // JSON for OpUsage and OpStatus
}
