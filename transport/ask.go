package transport

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"sendmail-wrapper/policy"
)

// Bounds of asking mailquotad: how long to wait for a connection, and for each
// answer; it decides within decision-timeout, 10 s at most. And how long a line
// of an answer may be, in bytes.
const (
	dialTimeout   = 5 * time.Second
	answerTimeout = 30 * time.Second
	maxAnswerLine = 2 << 10
)

// Flags of a request that sends no mail: it asks whether an address can be
// delivered to (DEL_REQ_FLAG_MTA_VRFY and DEL_REQ_FLAG_USR_VRFY,
// deliver_request.h).
const probeFlags = 1<<8 | 1<<9

// A verdict says what becomes of a recipient: the delivery agent in private/
// that it goes to, and for retry(8) and error(8) status code and text.
type verdict struct{ service, text string }

const (
	retry  = "retry" // keeps it in the queue
	bounce = "error"
)

// pass is the verdict that lets it leave, by the agent the transport stands for.
var pass = verdict{}

// later keeps a recipient that there is no answer about.
var later = verdict{retry, "4.3.0 mail that is sent on cannot be counted now; it is tried again later"}

// questions are the ones about a request's recipients that mailquotad is asked;
// nil stands for a recipient that is free, since it was charged when it came in,
// or is not charged at all. The error says that the queue file cannot be read.
//
// It was charged when it came in by smtpd(8) or pickup(8). That leaves: what
// goes to another address than it came to, what local(8) has put in anew and
// bounce(8) has written, and what a client on another host relays.
func (q *request) questions(queue string) ([]*policy.Request, error) {
	questions := make([]*policy.Request, len(q.recipients))
	flags, err := q.common.number(attrFlags)
	if err != nil {
		return nil, err
	}
	if flags&probeFlags != 0 {
		return questions, nil
	}
	size, err := q.common.number(attrSize)
	if err != nil {
		return nil, err
	}
	offset, err := q.common.number(attrOffset)
	if err != nil {
		return nil, err
	}
	file := queueFile{queue, q.common.get(attrQueueName), q.common.get(attrQueueID), offset}
	about := policy.Request{
		Delivery:      true,
		QueueID:       file.id,
		FirstQueueID:  file.id,
		Sender:        line(q.common.get(attrSender)),
		Username:      line(q.common.get(attrUsername)),
		ClientAddress: line(clientAddress(q.common.get(attrClientAddress))),
		Size:          size,
	}
	if port, err := strconv.ParseUint(q.common.get(attrClientPort), 10, 16); err == nil {
		about.ClientPort = uint16(port)
	}
	came, err := cameIn(&file, q.common.get(attrFirstQueueID), &about)
	if err != nil {
		return nil, err
	}
	for i, r := range q.recipients {
		recipient := r.get(attrRecipient)
		// None: a copy (always_bcc), or a list with an owner- alias.
		original := cmp.Or(about.OriginalRecipient, r.get(attrOriginalRecipient), recipient)
		if came && policy.SameAddress(original, recipient) {
			continue
		}
		if about.Arrived == 0 {
			if about.Arrived, err = file.arrived(); err != nil {
				return nil, err
			}
		}
		one := about
		if one.Number, err = r.number(attrOffset); err != nil {
			return nil, err
		}
		one.Recipient, one.OriginalRecipient = line(recipient), line(original)
		questions[i] = &one
	}
	return questions, nil
}

// cameIn tells whether a message was charged when it came in, so that only
// recipients that were rewritten since are to be asked about. Where local(8) has
// made the message of another, it sets about's FirstQueueID, and OriginalRecipient
// as local(8) wrote it down.
//
// smtpd(8) gives its messages their own queue id as log_ident. One without was
// made in this host, and one with another by local(8), or it came back from a
// content filter (XFORWARD IDENT), as what was charged before it went there.
func cameIn(file *queueFile, ident string, about *policy.Request) (bool, error) {
	if ident != file.id {
		below, internal, err := file.internal()
		if err != nil || !internal {
			return !internal, err
		}
		about.OriginalRecipient = deliveredTo(below)
		// A notification has no sender, and fields that begin with another.
		notification := about.Sender == "" && about.OriginalRecipient == "" && len(below) > 0
		if !notification {
			about.FirstQueueID = firstID(below)
		}
		return false, nil
	}
	client, err := netip.ParseAddr(about.ClientAddress)
	return about.Username != "" || err == nil && client.Unmap().IsLoopback(), nil
}

// line is a text as the policy protocol can hold it: without newline, and no
// longer than what Postfix itself puts there (line_length_limit). An address on
// sendmail(1)'s command line may be any bytes.
func line(s string) string {
	const lineLengthLimit = 2048
	return strings.ReplaceAll(s[:min(len(s), lineLengthLimit)], "\n", "?")
}

// clientAddress is a client's address as smtpd(8) has it in policy requests: a
// delivery request has it as in a Received field, "IPv6:2001:db8::1".
func clientAddress(s string) string {
	if len(s) > len("IPv6:") && strings.EqualFold(s[:len("IPv6:")], "IPv6:") {
		return s[len("IPv6:"):]
	}
	return s
}

// ask asks mailquotad all questions over one connection, without waiting for
// answers in between. Where there is no answer the verdict is later, and the
// error says why; mailquotad knows, when asked again, what it has charged.
func (s *Server) ask(questions []*policy.Request) ([]verdict, error) {
	verdicts := make([]verdict, len(questions))
	var wanted []*verdict
	var requests []byte
	for i, q := range questions {
		if q != nil {
			verdicts[i] = later
			wanted = append(wanted, &verdicts[i])
			requests = q.Append(requests)
		}
	}
	if len(wanted) == 0 {
		return verdicts, nil
	}
	c, err := net.DialTimeout(s.network(), s.Mailquotad, dialTimeout)
	if err != nil {
		return verdicts, err
	}
	defer c.Close()
	// It need not take all of them before it has been heard.
	go func() { _, _ = c.Write(requests) }() // where this fails, an answer is missing
	r := bufio.NewReaderSize(c, maxAnswerLine)
	for _, v := range wanted {
		if err := c.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
			return verdicts, err
		}
		answer, err := readVerdict(r)
		if err != nil {
			return verdicts, err
		}
		*v = answer
	}
	return verdicts, nil
}

// network is the kind of address that Mailquotad is.
func (s *Server) network() string {
	if strings.HasPrefix(s.Mailquotad, "/") {
		return "unix"
	}
	return "tcp"
}

// readVerdict reads one answer: a line action=ACTION, and an empty line.
func readVerdict(r *bufio.Reader) (verdict, error) {
	action := ""
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return verdict{}, fmt.Errorf("read mailquotad's answer: %w", err)
		}
		if len(line) == 1 {
			return parseVerdict(action)
		}
		if value, ok := strings.CutPrefix(string(line[:len(line)-1]), "action="); ok {
			action = value
		}
	}
}

var errAnswer = errors.New("an answer that is none of mailquotad's")

// parseVerdict understands an action of access(5): let it pass, 4NN and
// DEFER_IF_PERMIT keep it, 5NN bounces it. What follows has to be a status code
// of the same class (RFC 3463) and a text, as error(8) takes it.
func parseVerdict(action string) (verdict, error) {
	word, text, _ := strings.Cut(action, " ")
	class, service := "4.", retry
	switch {
	case action == string(policy.Dunno):
		return pass, nil
	case word == "DEFER_IF_PERMIT":
	case len(word) == 3 && word[0] == '4':
	case len(word) == 3 && word[0] == '5':
		class, service = "5.", bounce
	default:
		return verdict{}, fmt.Errorf("%w: action=%q", errAnswer, action)
	}
	if !strings.HasPrefix(text, class) || strings.ContainsRune(text, 0) {
		return verdict{}, fmt.Errorf("%w: action=%q", errAnswer, action)
	}
	return verdict{service, text}, nil
}
