package transport

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Bounds of what is read from Postfix, in bytes with all NULs, and in recipients.
// Postfix has lines of at most 2 kB (line_length_limit), and hands 50 recipients
// to an agent at once (default_destination_recipient_limit), never more than it
// has in memory of a message (qmgr_message_recipient_limit, 20000).
const (
	maxList       = 64 << 10
	maxRecipients = 20000
	maxRequest    = 16 << 20
)

// Names of attributes (mail_proto.h); all others are copied without being known.
const (
	attrFlags             = "flags"
	attrQueueName         = "queue_name"
	attrQueueID           = "queue_id"
	attrOffset            = "offset" // of the content in the queue file; in a recipient's list, of its record
	attrSize              = "size"
	attrNexthop           = "nexthop"
	attrSender            = "sender"
	attrClientAddress     = "log_client_address"
	attrClientPort        = "log_client_port"
	attrUsername          = "sasl_username"
	attrFirstQueueID      = "log_ident"
	attrRecipientCount    = "recipient_count"
	attrOriginalRecipient = "original_recipient"
	attrRecipient         = "recipient"
	attrStatus            = "status"
)

var errMalformed = errors.New("not in Postfix's attribute protocol")

// A list is one list of attributes, in the order in which they came: their names
// need not be different.
type list []attribute

type attribute struct{ name, value string }

// get returns the first value of a name, empty where there is none.
func (l list) get(name string) string {
	for _, a := range l {
		if a.name == name {
			return a.value
		}
	}
	return ""
}

// number returns the first value of a name as a number.
func (l list) number(name string) (int64, error) {
	n, err := strconv.ParseInt(l.get(name), 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("attribute %s: %w", name, errMalformed)
	}
	return n, nil
}

// with returns a copy in which the last value of a name is another.
func (l list) with(name, value string) list {
	l = append(list(nil), l...)
	for i := len(l) - 1; i >= 0; i-- {
		if l[i].name == name {
			l[i].value = value
			break
		}
	}
	return l
}

// append appends the list as Postfix sends it (attr_print0.c).
func (l list) append(b []byte) []byte {
	for _, a := range l {
		b = append(append(append(append(b, a.name...), 0), a.value...), 0)
	}
	return append(b, 0)
}

// readList reads one list: names and values, each ended by a NUL, and an empty
// name after the last (attr_scan0.c). The error is io.EOF where the stream ended
// before it, io.ErrUnexpectedEOF where it ended within.
func readList(r *bufio.Reader) (list, error) {
	var l list
	for left := maxList; ; {
		name, err := readString(r, &left)
		if err == io.EOF && l != nil {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		if name == "" {
			if l == nil {
				return nil, errMalformed
			}
			return l, nil
		}
		value, err := readString(r, &left)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		l = append(l, attribute{name, value})
	}
}

// readString reads a string of at most left bytes, and takes its length off left.
func readString(r *bufio.Reader, left *int) (string, error) {
	var long []byte // what did not fit into r's buffer
	for {
		part, err := r.ReadSlice(0)
		if *left -= len(part); *left < 0 {
			return "", fmt.Errorf("a list of more than %d bytes: %w", maxList, errMalformed)
		}
		switch {
		case err == bufio.ErrBufferFull:
			long = append(long, part...)
		case err == io.EOF && len(long)+len(part) > 0:
			return "", io.ErrUnexpectedEOF
		case err != nil:
			return "", err
		case long == nil:
			return string(part[:len(part)-1]), nil
		default:
			long = append(long, part...)
			return string(long[:len(long)-1]), nil
		}
	}
}

// request is a delivery request of qmgr(8) (deliver_request.c): one list for the
// message and where it goes, and one for each recipient.
type request struct {
	common     list
	recipients []list
}

// readRequest reads a request. The error is io.EOF where qmgr(8) has changed its
// mind and left, which it may.
func readRequest(r *bufio.Reader) (*request, error) {
	common, err := readList(r)
	if err != nil {
		return nil, err
	}
	count, err := common.number(attrRecipientCount)
	if err != nil {
		return nil, err
	}
	if count == 0 || count > maxRecipients {
		return nil, fmt.Errorf("%d recipients: %w", count, errMalformed)
	}
	q := &request{common: common}
	size := 0
	for range count {
		recipient, err := readList(r)
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		for _, a := range recipient {
			size += len(a.name) + len(a.value)
		}
		if size > maxRequest {
			return nil, fmt.Errorf("a request of more than %d bytes: %w", maxRequest, errMalformed)
		}
		q.recipients = append(q.recipients, recipient)
	}
	return q, nil
}

// append appends the request, to some of its recipients.
func (q *request) append(b []byte, recipients []list) []byte {
	b = q.common.with(attrRecipientCount, strconv.Itoa(len(recipients))).append(b)
	for _, r := range recipients {
		b = r.append(b)
	}
	return b
}
