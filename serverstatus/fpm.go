package serverstatus

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// FPM is the status listener of a pool of PHP-FPM (pm.status_listen), which
// answers however busy the pool is. It is safe for concurrent use.
type FPM struct {
	network, address string
	question         []byte
	sharing          sharing

	mu   sync.Mutex
	conn net.Conn // idle, nil if there is none
	idle *time.Timer
}

// NewFPM returns the listener at an address of network "unix" or "tcp", where
// path is the pool's pm.status_path. It connects when it is asked.
func NewFPM(network, address, path string) *FPM {
	f := &FPM{network: network, address: address, question: fcgiQuestion(path)}
	f.sharing.fetch = f.fetch
	return f
}

// Worker returns the request that a process of the pool runs, and the name of
// the pool. It is false if that is not known: the process is not the pool's, or
// runs none.
func (f *FPM) Worker(pid int) (r Request, pool string, ok bool) {
	a, ok := f.sharing.get()
	if !ok {
		return Request{}, "", false
	}
	return fpmWorker(a, pid)
}

func (f *FPM) fetch(deadline time.Time) (answer, error) {
	conn := f.take()
	if conn != nil {
		text, err := f.ask(conn, deadline)
		if err == nil || errors.Is(err, errNoStatus) || !time.Now().Before(deadline) {
			return answer{text: text}, err
		}
		// FPM has been reloaded meanwhile, or had the process ended.
	}
	conn, err := (&net.Dialer{Deadline: deadline}).Dial(f.network, f.address)
	if err != nil {
		return answer{}, fmt.Errorf("connect to php-fpm's status: %w", err)
	}
	text, err := f.ask(conn, deadline)
	return answer{text: text}, err
}

// ask puts the question and keeps the connection if it was answered.
func (f *FPM) ask(conn net.Conn, deadline time.Time) ([]byte, error) {
	err := conn.SetDeadline(deadline)
	if err == nil {
		_, err = conn.Write(f.question)
	}
	var text []byte
	if err == nil {
		text, err = readFCGI(conn)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("ask php-fpm for its status: %w", err)
	}
	f.keep(conn)
	return text, nil
}

func (f *FPM) take() net.Conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	conn := f.conn
	f.conn = nil
	return conn
}

func (f *FPM) keep(conn net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conn = conn
	if f.idle == nil {
		f.idle = time.AfterFunc(keepAlive, func() {
			if conn := f.take(); conn != nil {
				conn.Close()
			}
		})
		return
	}
	f.idle.Reset(keepAlive)
}

// FastCGI, as far as one request without a body takes it (FastCGI
// Specification 1.0, 3 and 8).
const (
	fcgiVersion = 1
	fcgiHeader  = 8

	fcgiBegin  = 1
	fcgiEnd    = 3
	fcgiParams = 4
	fcgiStdin  = 5
	fcgiStdout = 6
	fcgiStderr = 7

	fcgiResponder = 1
	fcgiKeepConn  = 1
)

var errNoStatus = errors.New("the answer is not a status")

func fcgiQuestion(path string) []byte {
	var params []byte
	for _, p := range [][2]string{
		{"SCRIPT_NAME", path}, {"SCRIPT_FILENAME", path}, {"REQUEST_METHOD", "GET"}, {"QUERY_STRING", "json&full"},
	} {
		for _, s := range p {
			if len(s) < 128 {
				params = append(params, byte(len(s)))
			} else {
				params = binary.BigEndian.AppendUint32(params, uint32(len(s))|1<<31)
			}
		}
		params = append(params, p[0]+p[1]...)
	}
	q := fcgiRecord(nil, fcgiBegin, []byte{0, fcgiResponder, fcgiKeepConn, 0, 0, 0, 0, 0})
	q = fcgiRecord(q, fcgiParams, params)
	q = fcgiRecord(q, fcgiParams, nil)
	return fcgiRecord(q, fcgiStdin, nil)
}

// fcgiRecord appends a record of request 1, of at most 65535 bytes.
func fcgiRecord(b []byte, kind byte, content []byte) []byte {
	b = append(b, fcgiVersion, kind, 0, 1, byte(len(content)>>8), byte(len(content)), 0, 0)
	return append(b, content...)
}

// readFCGI reads the answer to one request, to its end record, and returns what
// comes after the headers.
func readFCGI(from io.Reader) ([]byte, error) {
	in := bufio.NewReaderSize(from, 8<<10)
	var out []byte
	for range maxAnswer / 64 {
		var header [fcgiHeader]byte
		if _, err := io.ReadFull(in, header[:]); err != nil {
			return nil, err
		}
		length, padding := int(binary.BigEndian.Uint16(header[4:])), int(header[6])
		had := len(out)
		if header[0] != fcgiVersion || had+length > maxAnswer {
			return nil, errNoStatus
		}
		out = slices.Grow(out, length)[:had+length]
		if _, err := io.ReadFull(in, out[had:]); err != nil {
			return nil, err
		}
		if _, err := in.Discard(padding); err != nil {
			return nil, err
		}
		switch header[1] {
		case fcgiStdout:
		case fcgiStderr:
			out = out[:had]
		case fcgiEnd:
			_, body, ok := bytes.Cut(out[:had], []byte("\r\n\r\n"))
			if !ok || !bytes.HasPrefix(body, []byte(`{"pool":`)) {
				return nil, errNoStatus
			}
			return body, nil
		default:
			return nil, errNoStatus
		}
	}
	return nil, errNoStatus
}

// fpmRow is a process in the JSON of fpm_status.c.
type fpmRow struct {
	PID      int    `json:"pid"`
	State    string `json:"state"`
	Duration int64  `json:"request duration"` // µs
	Method   string `json:"request method"`
	URI      string `json:"request uri"`
	Script   string `json:"script"`
}

// Sizes of fpm_scoreboard.h: a text that fills its field, but for the final zero
// byte, was longer. If that cut a character, JSON leaves out what is left of it, at
// most three bytes (PHP_JSON_INVALID_UTF8_IGNORE of fpm_status.c).
const (
	fpmMaxScript = 256 - 1 - (utf8.UTFMax - 1)
	fpmMaxPath   = 128 - 1 - (utf8.UTFMax - 1)
	fpmMaxQuery  = 512 - 1 - (utf8.UTFMax - 1)
)

// fpmWorker finds the row of a process. Only that row is parsed.
func fpmWorker(a answer, pid int) (r Request, pool string, ok bool) {
	head, rows, ok := bytes.Cut(a.text, []byte(`"processes":[`))
	if !ok || pid <= 0 {
		return Request{}, "", false
	}
	// The name of a pool is one of the configuration, where it may hold anything.
	var summary struct {
		Pool string `json:"pool"`
	}
	head = bytes.TrimRight(head, ", ")
	if json.Unmarshal(append(head[:len(head):len(head)], '}'), &summary) != nil {
		return Request{}, "", false
	}
	key := append(strconv.AppendInt([]byte(`{"pid":`), int64(pid), 10), ',')
	at := bytes.Index(rows, key)
	if at < 0 || bytes.Contains(rows[at+len(key):], key) {
		return Request{}, "", false
	}
	var row fpmRow
	if json.NewDecoder(bytes.NewReader(rows[at:])).Decode(&row) != nil || row.PID != pid {
		return Request{}, "", false
	}
	// Shutdown functions run, and mail() in them, when the state is "Finishing"
	// already, and the request still this one (fpm_main.c, php_request_shutdown).
	if row.State != "Running" && row.State != "Finishing" || row.Duration < 0 || row.Duration > int64(365*24*time.Hour/time.Microsecond) {
		return Request{}, "", false
	}
	duration := time.Duration(row.Duration) * time.Microsecond
	r = Request{
		Script: row.Script, Method: row.Method, URI: row.URI,
		Raw:      bytes.Count(rows, []byte{'/'}) != bytes.Count(rows, []byte(`\/`)),
		Earliest: a.asked.Add(-duration), Latest: a.gotten.Add(-duration),
	}
	if len(r.Script) >= fpmMaxScript {
		r.Script = ""
	}
	for _, s := range []*string{&r.Script, &r.Method, &r.URI} {
		if *s == "-" {
			*s = ""
		}
	}
	path, query, _ := strings.Cut(r.URI, "?")
	if len(path) >= fpmMaxPath || len(query) >= fpmMaxQuery {
		r.URI += "…"
	}
	return r, summary.Pool, true
}
