package wire

import (
	"encoding/binary"
	"errors"
	"math"
	"strconv"
)

// AppendFrame appends the request as it is sent. It fails only where the
// request is longer than MaxRequest.
func (r *Request) AppendFrame(b []byte) ([]byte, error) {
	b, start := beginFrame(b)
	b = append(b, byte(r.Op))
	b = appendString(b, r.Profile)
	b = appendList(b, r.Argv)
	b = appendList(b, r.Hints)
	b = appendBool(b, r.Truncated)
	b = appendString(b, r.Sender)
	b = binary.AppendUvarint(b, uint64(r.Recipients))
	b = appendList(b, r.To)
	b = appendString(b, string(r.Question))
	b = appendBool(b, r.HandOff)
	return endFrame(b, start, MaxRequest)
}

// AppendFrame appends the reply as it is sent. It fails only where the reply is
// longer than MaxReply.
func (r *Reply) AppendFrame(b []byte) ([]byte, error) {
	b, start := beginFrame(b)
	b = append(b, byte(r.Verdict), r.Exit)
	b = appendString(b, r.Code)
	b = appendString(b, r.ID)
	b = appendString(b, r.Text)
	b = appendString(b, string(r.Body))
	b = appendString(b, r.Trace)
	b = binary.AppendUvarint(b, uint64(r.TraceAt))
	b = appendString(b, string(r.Stdout))
	b = appendString(b, string(r.Stderr))
	return endFrame(b, start, MaxReply)
}

func beginFrame(b []byte) (frame []byte, bodyStart int) {
	b = append(b, magic...)
	b = append(b, 0, 0, 0, 0)
	return binary.AppendUvarint(b, Version), len(b)
}

func endFrame(b []byte, bodyStart, max int) ([]byte, error) {
	n := len(b) - bodyStart
	if n > max {
		return nil, errors.New("command line of " + strconv.Itoa(n) + " bytes: more than the " + strconv.Itoa(max) + " that mailquotad takes")
	}
	binary.BigEndian.PutUint32(b[bodyStart-4:], uint32(n))
	return b, nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendList(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// frameLength reads the first headerLen bytes of a frame.
func frameLength(header []byte, max int) (int, error) {
	if string(header[:len(magic)]) != magic {
		return 0, &ProtocolError{"not a frame of this protocol"}
	}
	n := binary.BigEndian.Uint32(header[len(magic):])
	if n > uint32(max) {
		return 0, &ProtocolError{"frame of " + strconv.FormatUint(uint64(n), 10) + " bytes: at most " + strconv.Itoa(max) + " are taken"}
	}
	return int(n), nil
}

func decodeRequest(body []byte) (*Request, error) {
	d := decoder{rest: body}
	d.version()
	r := &Request{Op: Op(d.byte()), Profile: d.string(), Argv: d.list(), Hints: d.list()}
	r.Truncated, r.Sender, r.Recipients, r.To = d.bool(), d.string(), d.count(), d.list()
	r.Question, r.HandOff = d.bytes(), d.bool()
	d.end()
	if d.err == nil && len(r.To) > MaxTo {
		d.fail(strconv.Itoa(len(r.To)) + " recipients by name: at most " + strconv.Itoa(MaxTo) + " are taken")
	}
	if d.err == nil && (r.Op < OpSubmit || r.Op > OpAsk) {
		d.fail("request of an unknown kind")
	}
	if d.err == nil && ((r.Op == OpAsk) != (len(r.Question) > 0) || len(r.Question) > MaxQuestion) {
		d.fail("a question of " + strconv.Itoa(len(r.Question)) + " bytes: it has 1 to " + strconv.Itoa(MaxQuestion) + ", and other requests have none")
	}
	if d.err == nil && r.HandOff && r.Op != OpSubmit {
		d.fail("nothing to send in a request of this kind")
	}
	if d.err == nil && r.Op == OpSubmit && len(r.Argv) == 0 {
		d.fail("no command line")
	}
	if d.err != nil {
		return nil, d.err
	}
	return r, nil
}

func decodeReply(body []byte) (*Reply, error) {
	d := decoder{rest: body}
	d.version()
	r := &Reply{Verdict: Verdict(d.byte()), Exit: d.byte(), Code: d.string(), ID: d.string(), Text: d.string(), Body: []byte(d.string())}
	r.Trace, r.TraceAt = d.string(), d.offset()
	r.Stdout, r.Stderr = d.bytes(), d.bytes()
	d.end()
	if d.err == nil && (r.Verdict < VerdictAccept || r.Verdict > VerdictHanded) {
		d.fail("reply with an unknown verdict")
	}
	if d.err == nil && max(len(r.Stdout), len(r.Stderr)) > MaxOutput {
		d.fail("output of more than " + strconv.Itoa(MaxOutput) + " bytes")
	}
	if d.err != nil {
		return nil, d.err
	}
	return r, nil
}

// decoder takes fields off the front of a body. After the first error it
// returns zero values only.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) fail(text string) {
	if d.err == nil {
		d.err = &ProtocolError{text}
	}
	d.rest = nil
}

func (d *decoder) version() {
	if v := d.uvarint(); d.err == nil && v != Version {
		d.fail("protocol version " + strconv.FormatUint(v, 10) + ", but this is version " + strconv.Itoa(Version) + ": install sendmail-wrapper, mailquotad and mailctl of one release")
	}
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail("frame ends within a field")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.fail("frame ends within a field")
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) bool() bool {
	b := d.byte()
	if b > 1 {
		d.fail("neither true nor false")
	}
	return b == 1
}

func (d *decoder) count() int {
	n := d.uvarint()
	if n > math.MaxInt32 {
		d.fail("a count beyond 2^31")
	}
	return int(min(n, math.MaxInt32))
}

func (d *decoder) offset() int64 {
	n := d.uvarint()
	if n > math.MaxInt64 {
		d.fail("an offset beyond 2^63")
		return 0
	}
	return int64(n)
}

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.fail("frame ends within a field")
		return ""
	}
	s := string(d.rest[:n])
	d.rest = d.rest[n:]
	return s
}

// bytes is nil for none.
func (d *decoder) bytes() []byte {
	if s := d.string(); s != "" {
		return []byte(s)
	}
	return nil
}

func (d *decoder) list() []string {
	n := d.uvarint()
	// Each string takes a byte at least: a count beyond that is a lie, and
	// memory is only taken for what has arrived.
	if n > uint64(len(d.rest)) {
		d.fail("frame ends within a list")
		return nil
	}
	var list []string
	for ; n > 0 && d.err == nil; n-- {
		list = append(list, d.string())
	}
	return list
}

func (d *decoder) end() {
	if d.err == nil && len(d.rest) > 0 {
		d.fail(strconv.Itoa(len(d.rest)) + " bytes after the last field")
	}
}
