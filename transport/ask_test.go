package transport

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"sendmail-wrapper/policy"
)

func TestParseVerdict(t *testing.T) {
	for _, c := range []struct {
		action string
		want   verdict
		ok     bool
	}{
		{"DUNNO", pass, true},
		{"452 4.7.1 bob: limit", verdict{retry, "4.7.1 bob: limit"}, true},
		{"554 5.7.1 bob: never", verdict{bounce, "5.7.1 bob: never"}, true},
		{"DEFER_IF_PERMIT 4.3.0 later", verdict{retry, "4.3.0 later"}, true},
		{"452 5.7.1 of another class", verdict{}, false}, // error(8) would take it at its word
		{"554 4.7.1 of another class", verdict{}, false},
		{"452", verdict{}, false},
		{"452 no status code", verdict{}, false},
		{"452 4.7.1 a\x00b", verdict{}, false},
		{"DUNNO x", verdict{}, false},
		{"OK", verdict{}, false},
		{"REJECT", verdict{}, false},
		{"", verdict{}, false},
	} {
		got, err := parseVerdict(c.action)
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("%q: %v, %v", c.action, got, err)
		}
	}
}

func FuzzVerdict(f *testing.F) {
	f.Add([]byte("action=452 4.7.1 x\n\n"))
	f.Add([]byte("x=y\naction=DUNNO\naction=554 5.7.1 y\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		v, err := readVerdict(bufio.NewReaderSize(bytes.NewReader(in), 64))
		if err == nil && v != pass && (v.service != retry && v.service != bounce || len(v.text) < 2 || strings.ContainsAny(v.text, "\x00\n")) {
			t.Errorf("%q: %v", in, v)
		}
	})
}

func TestQuestions(t *testing.T) {
	const id, other = "4jc4YB1d88z7P8p", "4jc4YB2CZRz7P8n"
	const arrived = 1795857710
	pickup := []string{"Received: by server.example (Postfix, from userid 1001)", "\tid " + id + "; Sat", "Subject: t"}
	filter := []string{"Received: from x (localhost [127.0.0.1])", "\tby server.example (Postfix) with ESMTP id " + id, "\tfor <a@b>; Sat"}
	local := append([]string{"Received: by server.example (Postfix)", "\tid " + id + "; Sat"}, strings.ReplaceAll(strings.Join(pickup, "\n"), id, other))
	alice := append([]string{local[0], local[1], "Delivered-To: alice@server.example"}, local[2:]...)
	long := append([]string{local[0], local[1], "Delivered-To: alice+" + strings.Repeat("x", headSize)}, local[2:]...)
	bounced := []string{"Received: by server.example (Postfix)", "\tid " + id + "; Sat", "Subject: Undelivered Mail Returned to Sender"}
	for _, c := range []struct {
		name, common string // beside what is always there
		content      []string
		recipients   string
		want         []string // what is asked about each: "" for free
	}{
		{"a login", "sender|c@box.test|log_client_address|192.0.2.7|log_client_port|1234|sasl_username|c@box.test|log_ident|" + id, filter,
			"original_recipient|a@b|recipient|a@b|offset|10||", []string{""}},
		{"a login, to an alias and an address", "sender|c@box.test|log_client_address|192.0.2.7|log_client_port|1234|sasl_username|c@box.test|log_ident|" + id, filter,
			"original_recipient|many@hosted.test|recipient|a@b|offset|10||original_recipient|A@B|recipient|a@b|offset|20||",
			[]string{id + " " + id + " 10 c@box.test many@hosted.test->a@b c@box.test 192.0.2.7:1234", ""}},
		{"pickup", "sender|c@box.test|log_client_address||log_client_port||sasl_username||log_ident|", pickup, "original_recipient|a@b|recipient|a@b|offset|10||", []string{""}},
		{"pickup, no sender", "sender||log_client_address||log_client_port||sasl_username||log_ident|", pickup, "original_recipient|a@b|recipient|a@b|offset|10||", []string{""}},
		{"pickup, a copy", "sender|c@box.test|log_client_address||log_client_port||sasl_username||log_ident|", pickup, "original_recipient||recipient|a@b|offset|10||", []string{""}},
		{"a program of this host", "sender|c@x|log_client_address|127.0.0.1|log_client_port|9|sasl_username||log_ident|" + id, filter, "original_recipient|a@b|recipient|a@b|offset|10||", []string{""}},
		{"over IPv6", "sender|c@x|log_client_address|IPv6:::1|log_client_port|9|sasl_username||log_ident|" + id, filter, "original_recipient|a@b|recipient|a@b|offset|10||", []string{""}},
		{"another host", "sender|c@x|log_client_address|IPv6:2001:db8::1|log_client_port|9|sasl_username||log_ident|" + id, filter, "original_recipient|a@b|recipient|a@b|offset|10||",
			[]string{id + " " + id + " 10 c@x a@b->a@b  2001:db8::1:9"}},
		{"from a content filter", "sender|c@x|log_client_address|192.0.2.7|log_client_port|9|sasl_username||log_ident|" + other, filter, "original_recipient|a@b|recipient|a@b|offset|10||", []string{""}},
		{"a list with an owner", "sender|owner-olist@x|log_client_address||log_client_port||sasl_username||log_ident|", local, "original_recipient||recipient|a@b|offset|10||",
			[]string{id + " " + other + " 10 owner-olist@x a@b->a@b  :0"}},
		{"the same, of a login", "sender|owner-olist@x|log_client_address|192.0.2.7|log_client_port||sasl_username|c@box.test|log_ident|" + other, local, "original_recipient||recipient|a@b|offset|10||",
			[]string{id + " " + other + " 10 owner-olist@x a@b->a@b c@box.test 192.0.2.7:0"}},
		{"a bounce", "sender||log_client_address||log_client_port||sasl_username||log_ident|", bounced, "original_recipient|a@b|recipient|a@b|offset|10||",
			[]string{id + " " + id + " 10  a@b->a@b  :0"}},
		{"a .forward", "sender|c@x|log_client_address||log_client_port||sasl_username||log_ident|", alice, "original_recipient|alice@bob.example|recipient|a@b|offset|10||original_recipient||recipient|c@d|offset|20||",
			[]string{id + " " + other + " 10 c@x alice@server.example->a@b  :0", id + " " + other + " 20 c@x alice@server.example->c@d  :0"}},
		{"a .forward of a login", "sender|c@box.test|log_client_address|127.0.0.1|log_client_port|9|sasl_username|c@box.test|log_ident|" + other, alice, "original_recipient|a%b@server.example|recipient|a@b|offset|10||",
			[]string{id + " " + other + " 10 c@box.test alice@server.example->a@b c@box.test 127.0.0.1:9"}},
		{"a .forward of a bounce", "sender||log_client_address||log_client_port||sasl_username||log_ident|", alice, "original_recipient|alice@bob.example|recipient|a@b|offset|10||",
			[]string{id + " " + other + " 10  alice@server.example->a@b  :0"}},
		{"the same, of an address that is not read", "sender||log_client_address||log_client_port||sasl_username||log_ident|", long, "original_recipient|alice+xx@server.example|recipient|a@b|offset|10||",
			[]string{id + " NOQUEUE 10  alice+xx@server.example->a@b  :0"}},
		{"what Postfix routes elsewhere", "sender|c@x|log_client_address|127.0.0.1|log_client_port|9|sasl_username||log_ident|" + id, filter,
			"original_recipient|a%b@bob.example|recipient|a@b|offset|10||original_recipient|b!a@bob.example|recipient|a@b|offset|20||original_recipient|a@b.|recipient|A@b|offset|30||original_recipient|\u212a@b|recipient|k@b|offset|40||",
			[]string{"", "", "", id + " " + id + " 40 c@x \u212a@b->k@b  127.0.0.1:9"}},
		{"bytes that end a line", "sender|c\nrequest=x\n\n@x|log_client_address||log_client_port||sasl_username||log_ident|", pickup,
			"original_recipient|many@hosted.test|recipient|" + strings.Repeat("x", 3000) + "|offset|10||",
			[]string{id + " " + id + " 10 c?request=x??@x many@hosted.test->" + strings.Repeat("x", 2048) + "  :0"}},
		{"a probe", "sender|c@x|log_client_address|192.0.2.7|log_client_port|9|sasl_username||log_ident|" + id + "|flags|256", filter, "original_recipient|a@b|recipient|c@d|offset|10||", []string{""}},
	} {
		file := queueFileOf(t, "active", id, strings.Split(strings.Join(c.content, "\n"), "\n")...)
		flags := "|flags|1025"
		if strings.Contains(c.common, "|flags|") {
			flags = ""
		}
		in := fmt.Sprintf("queue_name|active|queue_id|%s|offset|%d|size|300|%s%s|recipient_count|%d||%s", id, file.offset, c.common, flags, len(c.want), c.recipients)
		q, err := readRequest(bufio.NewReader(bytes.NewReader(bytesOf(in))))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got, err := q.questions(file.queue)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for i, want := range c.want {
			text := ""
			if p := got[i]; p != nil {
				text = fmt.Sprintf("%s %s %d %s %s->%s %s %s:%d", p.QueueID, p.FirstQueueID, p.Number, p.Sender, p.OriginalRecipient, p.Recipient, p.Username, p.ClientAddress, p.ClientPort)
				if p.Arrived != arrived || p.Size != 300 || !p.Delivery {
					t.Errorf("%s: %+v", c.name, p)
				}
				if read, err := policy.ReadRequest(bufio.NewReader(bytes.NewReader(p.Append(nil)))); err != nil || read != *p {
					t.Errorf("%s: mailquotad reads %+v of %+v, %v", c.name, read, p, err)
				}
			}
			if text != want {
				t.Errorf("%s: %q, want %q", c.name, text, want)
			}
		}
	}
}

// mailquotadAt is a server of the policy protocol, whose answers are written by
// a function that has read a connection's requests.
func mailquotadAt(t *testing.T, answer func(w io.Writer, requests *bufio.Reader)) string {
	path := filepath.Join(t.TempDir(), "policy")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				answer(c, bufio.NewReader(c))
			}()
		}
	}()
	return path
}

func TestAsk(t *testing.T) {
	question := func(recipient string) *policy.Request {
		return &policy.Request{Delivery: true, QueueID: "1", FirstQueueID: "1", Arrived: 1, Recipient: recipient}
	}
	limit := verdict{retry, "4.7.1 limit"}
	for _, c := range []struct {
		name    string
		answers string
		want    []verdict // of a, of one that is free, of b
		err     error
	}{
		{"all", "action=452 4.7.1 limit\n\naction=DUNNO\n\n", []verdict{limit, pass, pass}, nil},
		{"none", "", []verdict{later, pass, later}, io.EOF},
		{"half", "action=452 4.7.1 limit\n\naction=DUNNO\n", []verdict{limit, pass, later}, io.EOF},
		{"what is no answer", "action=452 4.7.1 limit\n\nHTTP/1.1 200\n\n", []verdict{limit, pass, later}, errAnswer},
		{"a long line", strings.Repeat("x", 1<<20), []verdict{later, pass, later}, bufio.ErrBufferFull},
	} {
		path := mailquotadAt(t, func(w io.Writer, r *bufio.Reader) {
			for _, recipient := range []string{"a@b", "c@d"} {
				if q, err := policy.ReadRequest(r); err != nil || q.Recipient != recipient {
					t.Errorf("%s: %+v, %v", c.name, q, err)
				}
			}
			io.WriteString(w, c.answers)
		})
		s := &Server{Mailquotad: path}
		got, err := s.ask([]*policy.Request{question("a@b"), nil, question("c@d")})
		if !errors.Is(err, c.err) || fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, %v; want %v, %v", c.name, got, err, c.want, c.err)
		}
	}
	s := &Server{Mailquotad: filepath.Join(t.TempDir(), "nobody")}
	if got, err := s.ask([]*policy.Request{nil, question("a@b")}); err == nil || got[0] != pass || got[1] != later {
		t.Errorf("nobody listens: %v, %v", got, err)
	}
	if got, err := s.ask([]*policy.Request{nil}); err != nil || got[0] != pass {
		t.Errorf("nothing to ask: %v, %v", got, err)
	}
}

// More than the sockets hold is asked of a server that answers as it reads.
func TestAskMany(t *testing.T) {
	const n = 5000
	path := mailquotadAt(t, func(w io.Writer, r *bufio.Reader) {
		for range n {
			q, err := policy.ReadRequest(r)
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprintf(w, "action=452 4.7.1 %s%s\n\n", q.Recipient, strings.Repeat("x", 300))
		}
	})
	questions := make([]*policy.Request, n)
	for i := range questions {
		questions[i] = &policy.Request{Delivery: true, QueueID: "1", Arrived: 1, Recipient: fmt.Sprint(i, "@x"), Sender: strings.Repeat("x", 1000)}
	}
	got, err := (&Server{Mailquotad: path}).ask(questions)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range got {
		if !strings.HasPrefix(v.text, fmt.Sprint("4.7.1 ", i, "@xx")) {
			t.Fatalf("%d: %v", i, v)
		}
	}
}
