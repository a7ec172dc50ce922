package trace_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sendmail-wrapper/trace"
)

var fields = []string{"X-Mail-Trace", "X-Own-Trace"}

const (
	first  = "0198f2c4-7a10-7d3c-9b52-6f1e8a0c4d21"
	second = "0198f2c4-7a11-7000-8000-000000000002"
)

// show is a header in a line.
func show(h trace.Header) string {
	subject := "-"
	if h.IsTitled {
		subject = trace.DecodeSubject(h.Subject)
	}
	s := fmt.Sprintf("%s: %v %s %q", h.Where, h.Traces, h.MessageID, subject)
	if h.Return != nil {
		s += " return <" + *h.Return + ">"
	}
	for _, r := range h.Received {
		s += " by " + r.Host + " " + r.ID
		if r.UID != nil {
			s += fmt.Sprint(" uid ", *r.UID)
		}
	}
	return s
}

func TestReadMail(t *testing.T) {
	for name, want := range map[string][]string{
		"plain": {"in the file: [" + first + `] <a1@shop.example> "Günstig kaufen" return <Alice@shop.example>` +
			" by mx.example.net 4Xyz0k1Dc2z9w by host1.example 5C1A31F4E2 uid 1001"},
		"two-traces": {"in the file: [" + first + " " + second + `]  "two"`},
		"dsn": {`in the file: [] <bounce@mx.example.net> "Undelivered Mail Returned to Sender" return <>`,
			"attached: [" + first + `] <a1@shop.example> "hello" by host1.example 5C1A31F4E2 uid 1001`},
		"arf-base64": {`in the file: [] <arf@example.org> "FW: complaint"`,
			"attached: [" + first + `] <a1@shop.example> "hello"`},
		"quoted-printable": {"attached: [" + first + `] <qp@shop.example> "café"`},
		"in-text": {`in the file: [] <text@mx.example.net> "failure notice"`,
			"in the text: [" + first + `] <a1@shop.example> "hello" return <alice@shop.example>`},
		"mbox": {"in the file: [" + first + `]  "mbox"`},
		"nested": {"in the file: [" + second + `] <outer@example.org> "-"`,
			"attached: [" + first + `] <inner@example.org> "forwarded"`},
		"hostile":  nil,
		"not-mail": nil,
	} {
		content, err := os.ReadFile(filepath.Join("testdata/mail", name+".eml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range []struct {
			name    string
			content []byte
		}{{"", content}, {" with CR LF", bytes.ReplaceAll(bytes.ReplaceAll(content, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))}} {
			list, err := trace.ReadMail(bytes.NewReader(form.content), fields)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, h := range list {
				got = append(got, show(h))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s%s: %s", name, form.name, diff)
			}
		}
	}
}

// TestReadMailIsBounded: what would take long, or much memory, does not.
func TestReadMailIsBounded(t *testing.T) {
	part := "--b\nContent-Type: message/rfc822\n\nX-Mail-Trace: " + first + "\n\n"
	for name, content := range map[string]string{
		"folds":  "Subject: x\n" + strings.Repeat(" \n", 1<<20),
		"fields": strings.Repeat("X-Mail-Trace: "+first+"\n", 1<<16),
		"depth":  strings.Repeat("Content-Type: message/rfc822\n\n", 1<<16),
		"parts":  "Content-Type: multipart/mixed; boundary=b\n\n" + strings.Repeat(part, 1<<15),
		"nested": strings.Repeat("Content-Type: multipart/mixed; boundary=b\n\n--b\n", 1<<15),
		"blocks": "\n\n" + strings.Repeat("X-Mail-Trace\n", 1<<16) + "X-Mail-Trace: " + first,
		"dashes": "Content-Type: multipart/mixed; boundary=\"-\"\n\n" + strings.Repeat("-", 1<<20),
	} {
		list, err := trace.ReadMail(strings.NewReader(content), fields)
		if err != nil || len(list) > 100 || len(list) > 0 && len(list[0].Traces) > 20 {
			t.Errorf("%s: %d headers, %v", name, len(list), err)
		}
	}
}

// endless is a file of zeros without end.
type endless struct{ read int }

func (e *endless) Read(b []byte) (int, error) {
	clear(b)
	e.read += len(b)
	return len(b), nil
}

// TestReadBinary: what is no mail is not read to its end.
func TestReadBinary(t *testing.T) {
	var zeros endless
	if list, err := trace.ReadMail(&zeros, fields); err != nil || len(list) != 0 || zeros.read > 1<<20 {
		t.Errorf("%d headers, %v, %d bytes read", len(list), err, zeros.read)
	}
}

func TestParseID(t *testing.T) {
	for in, ok := range map[string]bool{
		first: true, " " + strings.ToUpper(first) + "\t": true, "{" + first + "}": false, "urn:uuid:" + first: false,
		strings.ReplaceAll(first, "-", ""): false, "": false, first + "0": false, strings.Repeat("x", 36): false,
	} {
		if id, err := trace.ParseID(in); (err == nil) != ok || ok && id.String() != first {
			t.Errorf("%q: %s, %v", in, id, err)
		}
	}
}

func TestDecodeSubject(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "=?utf-8?B?w6k=?=": "é", "=?ISO-8859-1?Q?a_b?= =?us-ascii?q?c?=": "a bc",
		"=?koi8-r?Q?=C1?=": "=?koi8-r?Q?=C1?=", "=?utf-8?B?": "=?utf-8?B?", "": "",
	} {
		if got := trace.DecodeSubject(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzReadMail(f *testing.F) {
	files, err := filepath.Glob("testdata/mail/*.eml")
	if err != nil || len(files) == 0 {
		f.Fatal(err, files)
	}
	for _, name := range files {
		content, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		list, err := trace.ReadMail(bytes.NewReader(content), fields)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range list {
			// A UUID that is found stands there, or in an encoding.
			for _, id := range h.Traces {
				if h.Where != "attached" && h.Where != "in the text" && !bytes.Contains(bytes.ToLower(content), []byte(id.String())) {
					t.Errorf("%s is nowhere", id)
				}
			}
		}
	})
}
