// Package policy is Postfix's access policy protocol, which smtpd(8) speaks to a
// check_policy_service of postconf(5). The source of all of it is
// SMTPD_POLICY_README, "Protocol description".
//
// # Request
//
// A request is lines NAME=VALUE, each ended by a newline, and an empty line
// after the last. A name holds no "=", NUL or newline, a value no NUL or
// newline. The order means nothing; of a name that comes twice the last counts
// ("may keep the first value or the last"); a name that is not known is passed
// over. A value that is not available is left out, or empty, or 0. The attribute
// request must be there, and is smtpd_access_policy, or mailquota_delivery (below).
//
// Postfix sends some forty attributes of together less than a kilobyte, and
// values of at most line_length_limit (2048) bytes; the bounds here are well
// above that: [MaxRequest], [MaxLine], [MaxAttributes].
//
// # Answer
//
// An answer is action=ACTION TEXT, a newline, and an empty line; ACTION is one
// of access(5). The connection stays, and the next request may follow: Postfix
// keeps it for smtpd_policy_service_max_idle (300 s) and at most
// smtpd_policy_service_max_ttl (1000 s). In case of trouble the server must send
// no answer, but log a warning and disconnect. Postfix tries again once
// (smtpd_policy_service_try_limit), and then answers its client with
// smtpd_policy_service_default_action, a 451.
//
// A client may send further requests before it has the answer to the first; it gets
// the answers in the order of its requests. smtpd(8) never does.
//
// # Stages
//
// protocol_state says at which command smtpd asks. size is the message's real
// size at END-OF-MESSAGE, and what the client announced before. recipient_count
// is 0 before DATA; recipient is empty at DATA and END-OF-MESSAGE, unless there
// is exactly one. sasl_username is there for a client that has logged in. client_port,
// server_address and server_port, "unknown" where smtpd(8) does not know, name the
// connection of a client of this host.
//
// # Delivery
//
// request=mailquota_delivery is a question of our own about one recipient of a message
// that is about to leave this host:
//
//	queue_id            of the message
//	first_queue_id      Request.FirstQueueID; as queue_id where it is left out or empty
//	number              Request.Number
//	arrived             Request.Arrived
//	sender              of the envelope, empty for a bounce
//	recipient           whereto it leaves
//	original_recipient  Request.OriginalRecipient; as recipient where it is left out or empty
//	sasl_username       of the client that brought it, as are the next two; empty if there was none
//	client_address
//	client_port
//	size                bytes
//
// queue_id, recipient and arrived must be there: by these it is known at its next try.
// The answer is DUNNO: let it leave; [Defer]: no decision now, keep it; or a code and a
// text: keep it where the code begins with 4, return it to the sender where with 5.
package policy

import (
	"bufio"
	"bytes"
	"cmp"
	"io"
	"math"
	"slices"
	"strconv"
)

// Bounds of one request, in bytes with all newlines, and in lines.
const (
	MaxRequest    = 64 << 10
	MaxLine       = 8 << 10
	MaxAttributes = 128
)

// EndOfMessage is the Request.State at which the whole message has come and
// waits for its answer (smtpd_end_of_data_restrictions).
const EndOfMessage = "END-OF-MESSAGE"

// The values of the attribute request.
const (
	accessPolicy = "smtpd_access_policy" // of Postfix's smtpd(8)
	delivery     = "mailquota_delivery"  // ours: see Request.Delivery
)

// Request holds the attributes of a request that we know. What was left out is
// empty or 0. Values are as they came: any bytes but NUL and newline.
type Request struct {
	State         string // protocol_state: "RCPT", "DATA", EndOfMessage, …
	Username      string // sasl_username
	Sender        string
	Recipient     string
	Recipients    int    // recipient_count
	Size          int64  // bytes
	Instance      string // the same in all requests about one message
	QueueID       string // queue_id; not yet there at the first RCPT
	ClientAddress string
	ClientPort    uint16 // 0 also for "unknown"
	ServerAddress string
	ServerPort    uint16

	// Delivery says that it is a question about one recipient of a message that is about to
	// leave (request=mailquota_delivery), asked by our transport or a router of Exim, at each
	// try to deliver it. State, Instance and Recipients are empty then.
	Delivery          bool
	Number            int64  // number: of the recipient, the same at each try, and no other recipient's of this QueueID
	OriginalRecipient string // original_recipient: to which the mail came, before it was sent on; as Recipient where it was not. Of what local(8) has made: whose alias or .forward file it followed
	FirstQueueID      string // first_queue_id: of the message as it came in, where local(8) has made another of it; else as QueueID
	Arrived           int64  // arrived: when the message came in, in seconds since 1970, the same at each try
}

// maxArrived is the end of the year 9999, the last of RFC 3339.
const maxArrived = 253402300799

// ProtocolError is a request that this package does not take: the fault of
// whoever sent it.
type ProtocolError struct{ Text string }

func (e *ProtocolError) Error() string { return e.Text }

// The texts of a Request, in the order of attributes.
const (
	state = iota
	username
	sender
	recipient
	instance
	queueID
	clientAddress
	serverAddress
	originalRecipient
	firstQueueID
	numTexts
)

// text returns which text of a Request an attribute is, -1 for none.
func text(name []byte) int {
	switch string(name) {
	case "protocol_state":
		return state
	case "sasl_username":
		return username
	case "sender":
		return sender
	case "recipient":
		return recipient
	case "instance":
		return instance
	case "queue_id":
		return queueID
	case "client_address":
		return clientAddress
	case "server_address":
		return serverAddress
	case "original_recipient":
		return originalRecipient
	case "first_queue_id":
		return firstQueueID
	}
	return -1
}

// ReadRequest reads one request. The error is io.EOF where the connection ended
// before it began, io.ErrUnexpectedEOF where it ended within, a *ProtocolError
// for bytes that are no request, or another of r.
func ReadRequest(r *bufio.Reader) (Request, error) {
	// All texts come into one string, so that a request is one allocation.
	var buffer [512]byte
	kept := buffer[:0]
	var spans [numTexts]struct{ from, to int }
	var q Request
	known := false // the attribute request was there
	for total, lines := 0, 0; ; lines++ {
		line, err := readLine(r)
		if err == io.EOF && lines > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return Request{}, err
		}
		total += len(line) + 1
		if len(line) == 0 {
			break
		}
		if lines == MaxAttributes || total > MaxRequest {
			return Request{}, &ProtocolError{"a request of more than " + strconv.Itoa(MaxAttributes) + " attributes or " + strconv.Itoa(MaxRequest) + " bytes"}
		}
		name, value, ok := bytes.Cut(line, []byte("="))
		if !ok || len(name) == 0 || bytes.IndexByte(line, 0) >= 0 {
			return Request{}, &ProtocolError{"a line that is not NAME=VALUE"}
		}
		if i := text(name); i >= 0 {
			spans[i].from = len(kept)
			kept = append(kept, value...)
			spans[i].to = len(kept)
			continue
		}
		number := uint64(0)
		switch string(name) {
		case "request":
			q.Delivery = string(value) == delivery
			if known = q.Delivery || string(value) == accessPolicy; !known {
				return Request{}, &ProtocolError{"a request of another kind than " + accessPolicy + " and " + delivery}
			}
		case "recipient_count":
			number, ok = parseNumber(value, math.MaxInt32)
			q.Recipients = int(number)
		case "size":
			number, ok = parseNumber(value, math.MaxInt64)
			q.Size = int64(number)
		case "client_port":
			q.ClientPort, ok = parsePort(value)
		case "server_port":
			q.ServerPort, ok = parsePort(value)
		case "number":
			number, ok = parseNumber(value, math.MaxInt64)
			q.Number = int64(number)
		case "arrived":
			number, ok = parseNumber(value, maxArrived)
			q.Arrived = int64(number)
		}
		if !ok {
			return Request{}, &ProtocolError{"the attribute " + string(name) + " is no number, or too large"}
		}
	}
	if !known {
		return Request{}, &ProtocolError{"a request without the attribute request"}
	}
	all := string(kept)
	for i, to := range [numTexts]*string{&q.State, &q.Username, &q.Sender, &q.Recipient, &q.Instance, &q.QueueID, &q.ClientAddress, &q.ServerAddress, &q.OriginalRecipient, &q.FirstQueueID} {
		*to = all[spans[i].from:spans[i].to]
	}
	if q.Delivery && (q.QueueID == "" || q.Recipient == "" || q.Arrived == 0) {
		return Request{}, &ProtocolError{"a request " + delivery + " without queue_id, recipient or arrived"}
	}
	return q.ofItsKind(), nil
}

// ofItsKind returns the request without the attributes of the other kind, which are
// names that this one does not know, and with those that may be left out.
func (q Request) ofItsKind() Request {
	if !q.Delivery {
		q.Number, q.Arrived, q.OriginalRecipient, q.FirstQueueID = 0, 0, "", ""
		return q
	}
	q.State, q.Instance, q.Recipients = "", "", 0
	q.ServerAddress, q.ServerPort = "", 0
	q.OriginalRecipient = cmp.Or(q.OriginalRecipient, q.Recipient)
	q.FirstQueueID = cmp.Or(q.FirstQueueID, q.QueueID)
	return q
}

// readLine returns a line without its newline, which is valid until the next
// read.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err == bufio.ErrBufferFull { // longer than r's buffer: rare
		long := slices.Clone(line)
		for err == bufio.ErrBufferFull && len(long) <= MaxLine {
			line, err = r.ReadSlice('\n')
			long = append(long, line...)
		}
		line = long
	}
	switch {
	case len(line) > MaxLine:
		return nil, &ProtocolError{"a line of more than " + strconv.Itoa(MaxLine) + " bytes"}
	case err == io.EOF && len(line) > 0:
		return nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, err
	}
	return line[:len(line)-1], nil
}

// parseNumber reads a decimal number; an empty value is one that is not
// available.
func parseNumber(value []byte, limit uint64) (n uint64, ok bool) {
	if len(value) == 0 {
		return 0, true
	}
	n, err := strconv.ParseUint(string(value), 10, 64)
	return n, err == nil && n <= limit
}

// parsePort reads a port, 0 for "unknown" (CLIENT_PORT_UNKNOWN of smtpd.h).
func parsePort(value []byte) (port uint16, ok bool) {
	if string(value) == "unknown" {
		return 0, true
	}
	n, ok := parseNumber(value, math.MaxUint16)
	return uint16(n), ok
}

// Append appends a request as Postfix or our transport would send it. It is for texts
// without NUL and newline.
func (q *Request) Append(b []byte) []byte {
	if q.Delivery {
		return appendAttributes(b, []attribute{
			{"request", delivery},
			{"queue_id", q.QueueID},
			{"first_queue_id", q.FirstQueueID},
			{"number", strconv.FormatInt(q.Number, 10)},
			{"arrived", strconv.FormatInt(q.Arrived, 10)},
			{"sender", q.Sender},
			{"recipient", q.Recipient},
			{"original_recipient", q.OriginalRecipient},
			{"sasl_username", q.Username},
			{"client_address", q.ClientAddress},
			{"client_port", strconv.Itoa(int(q.ClientPort))},
			{"size", strconv.FormatInt(q.Size, 10)},
		})
	}
	return appendAttributes(b, []attribute{
		{"request", accessPolicy},
		{"protocol_state", q.State},
		{"client_address", q.ClientAddress},
		{"client_port", strconv.Itoa(int(q.ClientPort))},
		{"server_address", q.ServerAddress},
		{"server_port", strconv.Itoa(int(q.ServerPort))},
		{"instance", q.Instance},
		{"queue_id", q.QueueID},
		{"sender", q.Sender},
		{"recipient", q.Recipient},
		{"recipient_count", strconv.Itoa(q.Recipients)},
		{"sasl_username", q.Username},
		{"size", strconv.FormatInt(q.Size, 10)},
	})
}

type attribute struct{ name, value string }

func appendAttributes(b []byte, attributes []attribute) []byte {
	for _, a := range attributes {
		b = append(append(append(append(b, a.name...), '='), a.value...), '\n')
	}
	return append(b, '\n')
}

// Action is what smtpd shall do: an action of access(5), with a status code of
// RFC 3463 where it takes one. One that refuses is a reply code and a status code,
// "452 4.7.1".
type Action string

const (
	Dunno Action = "DUNNO"                 // nothing against it: the next restriction decides
	Defer Action = "DEFER_IF_PERMIT 4.3.0" // we cannot decide: try again, unless another restriction refuses for good
)

// maxText bounds the text of an answer, in bytes: with what smtpd puts before
// it, it shall fit into a reply line of SMTP (512, RFC 5321 section 4.5.3.1.5).
const maxText = 400

// Append appends the answer that has an action, and a text for the client where
// the action takes one. Of the text it leaves what an SMTP reply may hold (RFC
// 5321 section 4.2, "textstring"): a character that is not printable ASCII, a
// newline above all, becomes "?".
func (a Action) Append(b []byte, text string) []byte {
	b = append(append(b, "action="...), a...)
	if text != "" {
		b = append(b, ' ')
		for _, c := range text[:min(len(text), maxText)] {
			if c < ' ' || c > '~' {
				c = '?'
			}
			b = append(b, byte(c))
		}
	}
	return append(b, "\n\n"...)
}
