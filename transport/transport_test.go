package transport

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"sendmail-wrapper/policy"
)

// The transport between parties that fail: what real ones say and do is tested
// in postfix_test.go.

const greeting = "protocol|delivery_request_protocol||"

// An agent that answers each request with the same, and remembers for whom.
type standIn struct {
	greeting, answer string
	got              chan string // nexthop and recipients of each request
}

func (a *standIn) listen(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	a.got = make(chan string, 10)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, strings.ReplaceAll(a.greeting, "|", "\x00"))
			if !strings.HasSuffix(a.greeting, "||") { // it dies
				c.Close()
				continue
			}
			if q, err := readRequest(bufio.NewReader(c)); err == nil {
				said := q.common.get(attrNexthop)
				for _, r := range q.recipients {
					said += " " + r.get(attrRecipient)
				}
				a.got <- said
				io.WriteString(c, strings.ReplaceAll(a.answer, "|", "\x00"))
			}
			c.Close()
		}
	}()
}

func TestDelivery(t *testing.T) {
	const id = "4jc4YB1d88z7P8p"
	const ok, again = "status||reason||status|0||", "status||reason||status|4294967295||"
	const sick = "status|4.4.1|reason|refused|status|4294967295||"
	header := "flags|1025|queue_name|active|queue_id|" + id + "|offset|0|size|300|nexthop|out.example|sender|s@x|log_client_address|127.0.0.1|log_client_port|9|sasl_username||log_ident|" + id
	forwarded := func(recipients ...string) string {
		s := fmt.Sprintf("%s|recipient_count|%d||", header, len(recipients))
		for i, r := range recipients {
			s += fmt.Sprintf("original_recipient|many@x|recipient|%s|offset|%d||", r, i)
		}
		return s
	}
	for _, c := range []struct {
		name               string
		smtp, retry, error standIn
		request            string
		want               string            // answer; empty: none
		got                map[string]string // by agent
	}{
		{"all pass", standIn{greeting: greeting, answer: ok}, standIn{}, standIn{}, forwarded("a@b", "c@d"), ok, map[string]string{"smtp": "out.example a@b c@d"}},
		{"all pass, and are tried again", standIn{greeting: greeting, answer: sick}, standIn{}, standIn{}, forwarded("a@b"), sick, map[string]string{"smtp": "out.example a@b"}},
		{"some stay", standIn{greeting: greeting, answer: ok}, standIn{greeting: greeting, answer: again}, standIn{}, forwarded("a@b", "defer@b", "c@d"), again,
			map[string]string{"smtp": "out.example a@b c@d", "retry": "4.7.1 no defer@b"}},
		{"some bounce", standIn{greeting: greeting, answer: ok}, standIn{}, standIn{greeting: greeting, answer: ok}, forwarded("a@b", "bounce@b"), ok,
			map[string]string{"smtp": "out.example a@b", "error": "5.7.1 never bounce@b"}},
		{"some stay, and the site is sick", standIn{greeting: greeting, answer: sick}, standIn{greeting: greeting, answer: again}, standIn{}, forwarded("a@b", "defer@b"), sick,
			map[string]string{"smtp": "out.example a@b", "retry": "4.7.1 no defer@b"}},
		{"all stay", standIn{greeting: greeting, answer: ok}, standIn{greeting: greeting, answer: again}, standIn{}, forwarded("defer@b"), again, map[string]string{"retry": "4.7.1 no defer@b"}},
		{"Postfix 3.5", standIn{greeting: "status|0||", answer: ok}, standIn{}, standIn{}, forwarded("a@b"), ok, map[string]string{"smtp": "out.example a@b"}},
		{"no smtp", standIn{}, standIn{}, standIn{}, forwarded("a@b"), "", nil},
		{"smtp dies at once", standIn{greeting: ""}, standIn{}, standIn{}, forwarded("a@b"), "", nil},
		{"smtp dies in its greeting", standIn{greeting: "protocol|del"}, standIn{}, standIn{}, forwarded("a@b"), "", nil},
		{"smtp dies in a delivery", standIn{greeting: greeting, answer: "status||rea"}, standIn{}, standIn{}, forwarded("a@b"), "", map[string]string{"smtp": "out.example a@b"}},
		{"smtp says what we do not know", standIn{greeting: greeting, answer: "result|0||"}, standIn{}, standIn{}, forwarded("a@b"), "", map[string]string{"smtp": "out.example a@b"}},
		{"no retry: nobody is served", standIn{greeting: greeting, answer: ok}, standIn{}, standIn{}, forwarded("a@b", "defer@b"), "", nil},
		{"the queue manager changes its mind", standIn{greeting: greeting, answer: ok}, standIn{}, standIn{}, "", "", nil},
		{"it dies in its request", standIn{greeting: greeting, answer: ok}, standIn{}, standIn{}, header, "", nil},
		{"junk", standIn{greeting: greeting, answer: ok}, standIn{}, standIn{}, strings.Repeat("x", 1<<18), "", nil},
		{"no queue file: all stay", standIn{greeting: greeting, answer: ok}, standIn{greeting: greeting, answer: again}, standIn{},
			strings.ReplaceAll(forwarded("a@b"), "log_ident|"+id, "log_ident|"), again, map[string]string{"retry": later.text + " a@b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "") // a short path: sun_path has 107 bytes
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			private := filepath.Join(dir, "private")
			if err := os.Mkdir(private, 0o700); err != nil {
				t.Fatal(err)
			}
			agents := map[string]*standIn{"smtp": &c.smtp, "retry": &c.retry, "error": &c.error}
			for name, a := range agents {
				if a.greeting != "" || name == "smtp" && c.name == "smtp dies at once" {
					a.listen(t, filepath.Join(private, name))
				}
			}
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(private, "mailquota"), Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			s := &Server{Log: zerolog.New(io.Discard), Mailquotad: mailquotadAt(t, func(w io.Writer, r *bufio.Reader) {
				for {
					q, err := policy.ReadRequest(r)
					if err != nil {
						return
					}
					answer := "DUNNO"
					switch q.Recipient {
					case "defer@b":
						answer = "452 4.7.1 no"
					case "bounce@b":
						answer = "554 5.7.1 never"
					}
					fmt.Fprintf(w, "action=%s\n\n", answer)
				}
			})}
			ended := make(chan error)
			go func() { ended <- s.Serve(l) }()

			qmgr, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
			if err != nil {
				t.Fatal(err)
			}
			qmgr.SetDeadline(time.Now().Add(time.Minute))
			qmgr.Write(bytesOf(c.request))
			qmgr.CloseWrite()
			got, _ := io.ReadAll(qmgr)
			want := bytesOf(c.want)
			if c.smtp.greeting != "" && !strings.Contains(c.name, "greeting") {
				want = append(bytesOf(c.smtp.greeting), want...)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("qmgr got %q, want %q", got, want)
			}
			l.Close()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			for name, a := range agents {
				said := ""
				if len(a.got) > 0 {
					said = <-a.got
				}
				if said != c.got[name] {
					t.Errorf("%s got %q, want %q", name, said, c.got[name])
				}
			}
		})
	}
}

func TestAgentOf(t *testing.T) {
	got := []string{}
	for _, name := range []string{"mailquota", "mailquota-relay", "mailquota-smtp-out", "mailquota-", "mailquotax", "smtp", ""} {
		agent, ok := agentOf(name)
		if !ok {
			agent = "none"
		}
		got = append(got, agent)
	}
	if want := []string{"smtp", "relay", "smtp-out", "none", "none", "none", "none"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
