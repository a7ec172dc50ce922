package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// headSize is how much of a message's content is read, in bytes: of the header
// only the fields on top are looked at, which Postfix wrote.
const headSize = 4 << 10

// A queueFile is the file of a message in Postfix's queue: records of a type, a
// length, and that many bytes (record.c).
type queueFile struct {
	queue  string // directory of the queues (queue_directory)
	name   string // of the queue: "active"
	id     string
	offset int64 // where the content begins
}

// open opens it. Where there are many files, a queue has directories for the
// first characters of a hash of their names (hash_queue_names, hash_queue_depth).
func (q *queueFile) open() (*os.File, error) {
	if !isWord(q.name) || !isWord(q.id) {
		return nil, fmt.Errorf("queue %q, file %q: %w", q.name, q.id, errMalformed)
	}
	top := filepath.Join(q.queue, q.name)
	f, err := os.Open(filepath.Join(top, q.id))
	for below := top; errors.Is(err, fs.ErrNotExist) && len(below) < len(top)+len("/?/?"); {
		below += "/?"
		if found, _ := filepath.Glob(below + "/" + q.id); len(found) > 0 {
			return os.Open(found[0])
		}
	}
	return f, err
}

// isWord tells whether a text is letters and digits only.
func isWord(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// arrived returns when the message came into the queue, in seconds since 1970:
// what its long id begins with, else what its first records say.
func (q *queueFile) arrived() (int64, error) {
	if seconds, ok := idTime(q.id); ok {
		return seconds, nil
	}
	head, err := q.read(0)
	if err != nil {
		return 0, err
	}
	for len(head) > 0 {
		var kind byte
		var data []byte
		if kind, data, head = record(head); kind == recordTime {
			text, _, _ := strings.Cut(string(data), " ")
			seconds, err := strconv.ParseInt(text, 10, 64)
			if err != nil || seconds < 0 {
				break
			}
			return seconds, nil
		}
	}
	return 0, fmt.Errorf("queue file %s: no time of arrival", q.id)
}

// internal tells whether Postfix itself wrote the message: bounce(8) a
// notification, or local(8) what an alias or a .forward file sends on; and
// returns the header fields below its own Received field, as far as they are
// read.
//
// That has no "from", where smtpd(8) names its client, and pickup(8) the uid ("by
// HOST (Postfix, from userid 1003)"). Nobody can write it on his own: below it, or
// instead of it where header_checks(5) take it out, there is never the id of this
// queue file, which nobody can know before.
func (q *queueFile) internal() (below []string, internal bool, err error) {
	head, err := q.read(q.offset)
	if err != nil {
		return nil, false, err
	}
	fields := fields(head)
	if len(fields) == 0 || !strings.HasPrefix(fields[0], "Received: by ") || strings.Contains(fields[0], ", from userid ") || receivedID(fields[0]) != q.id {
		return nil, false, nil
	}
	return fields[1:], true, nil
}

// deliveredTo returns the address whose alias or .forward file local(8) followed
// when it made a message of fields below its Received field; empty where it does
// not say it, which is prepend_delivered_header's to set.
func deliveredTo(below []string) string {
	if len(below) == 0 {
		return ""
	}
	address, is := strings.CutPrefix(below[0], "Delivered-To: ")
	if !is {
		return ""
	}
	return address
}

// firstID returns the queue id of the message that local(8) made another of,
// "NOQUEUE" where nothing says it.
func firstID(below []string) string {
	for _, f := range below {
		if id := receivedID(f); id != "" {
			return id
		}
	}
	return "NOQUEUE"
}

// read returns at most headSize bytes of the file.
func (q *queueFile) read(offset int64) ([]byte, error) {
	f, err := q.open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, headSize)
	n, err := f.ReadAt(head, offset)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return head[:n], nil
}

// Types of records (rec_type.h).
const (
	recordTime   = 'T' // "seconds microseconds"
	recordLine   = 'N' // a line of the content
	recordPart   = 'L' // the beginning of a long one
	maxLengthLen = 5   // bytes of a length
)

// record returns the first record, and what comes after it; type 0 where it is
// not whole. The length has 7 bits in each byte, the lowest first; all bytes but
// the last have the highest bit set.
func record(b []byte) (kind byte, data, rest []byte) {
	if len(b) == 0 {
		return 0, nil, nil
	}
	length := 0
	for i := 1; i < len(b) && i <= maxLengthLen; i++ {
		length |= int(b[i]&0x7f) << (7 * (i - 1))
		if b[i]&0x80 != 0 {
			continue
		}
		if length > len(b)-i-1 {
			return 0, nil, nil
		}
		return b[0], b[i+1 : i+1+length], b[i+1+length:]
	}
	return 0, nil, nil
}

// fields returns the header fields that content begins with, each with its
// continuation lines. The last may be cut short.
func fields(content []byte) []string {
	var all []string
	var line []byte
	for len(content) > 0 {
		var kind byte
		var data []byte
		kind, data, content = record(content)
		if kind == recordPart {
			line = append(line, data...)
			continue
		}
		if kind != recordLine {
			break
		}
		line = append(line, data...)
		if len(line) == 0 {
			break
		}
		if continued := line[0] == ' ' || line[0] == '\t'; !continued {
			all = append(all, string(line))
		} else if len(all) > 0 {
			all[len(all)-1] += string(bytes.ReplaceAll(line, []byte("\t"), []byte(" ")))
		}
		line = line[:0]
	}
	return all
}

var received = regexp.MustCompile(`^Received:.* id ([0-9A-Za-z]+)(;| for |$)`)

// receivedID returns the queue id that a Received field of Postfix's names,
// empty for any other field.
func receivedID(field string) string {
	if m := received.FindStringSubmatch(field); m != nil {
		return m[1]
	}
	return ""
}

// idTime returns the time, in seconds since 1970, that a long queue id begins
// with (enable_long_queue_ids): seconds and four digits of microseconds in base
// 52, a "z", and the inode's number in base 51, where no "z" is (mail_queue.h).
func idTime(id string) (int64, bool) {
	const digits = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
	const secondsMin, microseconds = 6, 4
	length := strings.LastIndexByte(id, 'z') - microseconds
	if length < secondsMin {
		return 0, false
	}
	seconds := int64(0)
	for _, c := range []byte(id[:length]) {
		d := strings.IndexByte(digits, c)
		if d < 0 || seconds > (math.MaxInt64-int64(d))/int64(len(digits)) {
			return 0, false
		}
		seconds = seconds*int64(len(digits)) + int64(d)
	}
	return seconds, true
}
