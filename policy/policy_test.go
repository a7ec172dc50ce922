package policy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

const refuse Action = "452 4.7.1"

// postfix is a request as Postfix 3.7 sends it (smtpd_check.c, check_policy_service).
const postfix = `request=smtpd_access_policy
protocol_state=END-OF-MESSAGE
protocol_name=ESMTP
client_address=192.0.2.7
client_name=unknown
client_port=41234
reverse_client_name=unknown
server_address=192.0.2.1
server_port=587
helo_name=[192.0.2.7]
sender=carol@box.test
recipient=
recipient_count=3
queue_id=4cWq1F0Wn2z9tJ
instance=6d1.6564c1a2.91d2f.0
size=18234
etrn_domain=
stress=
sasl_method=PLAIN
sasl_username=Carol@box.test
sasl_sender=
ccert_subject=
ccert_issuer=
ccert_fingerprint=
ccert_pubkey_fingerprint=
encryption_protocol=TLSv1.3
encryption_cipher=TLS_AES_256_GCM_SHA384
encryption_keysize=256
policy_context=a=b

`

var postfixRequest = Request{
	State: EndOfMessage, Username: "Carol@box.test", Sender: "carol@box.test", Recipients: 3, Size: 18234,
	Instance: "6d1.6564c1a2.91d2f.0", QueueID: "4cWq1F0Wn2z9tJ", ClientAddress: "192.0.2.7", ClientPort: 41234,
	ServerAddress: "192.0.2.1", ServerPort: 587,
}

// transport is a request as our transport sends it.
const transport = `request=mailquota_delivery
queue_id=4cWq1F0Wn2z9tJ
first_queue_id=4cWq1D6bq3z9tG
number=531
arrived=1764320400
sender=m@out.test
recipient=ann@far.test
original_recipient=ann@box.test
sasl_username=carol@box.test
client_address=192.0.2.7
client_port=41234
size=18234

`

var transportRequest = Request{
	Delivery: true, QueueID: "4cWq1F0Wn2z9tJ", FirstQueueID: "4cWq1D6bq3z9tG", Number: 531, Arrived: 1764320400,
	Sender: "m@out.test", Recipient: "ann@far.test", OriginalRecipient: "ann@box.test", Username: "carol@box.test",
	ClientAddress: "192.0.2.7", ClientPort: 41234, Size: 18234,
}

func TestReadRequest(t *testing.T) {
	const head = "request=smtpd_access_policy\n"
	const least = "request=mailquota_delivery\nqueue_id=1A\nrecipient=b@x\narrived=1\n"
	for _, c := range []struct {
		name, in string
		want     Request
	}{
		{"of Postfix", postfix, postfixRequest},
		{"the least", head + "\n", Request{}},
		{"the attribute request last", "sender=a\n" + head + "\n", Request{Sender: "a"}},
		{"names that are not known", head + "junk\x01=\xff=\r\nsize2=x\n\n", Request{}},
		{"of two the last counts", head + "sender=longer\nsize=1\nsender=a\nsize=2\n\n", Request{Sender: "a", Size: 2}},
		{"a value with =", head + "sender==a=b\n\n", Request{Sender: "=a=b"}},
		{"numbers not available", head + "size=\nrecipient_count=0\nclient_port=unknown\n\n", Request{}},
		{"the largest numbers", head + "size=9223372036854775807\nrecipient_count=2147483647\nclient_port=65535\n\n",
			Request{Size: 1<<63 - 1, Recipients: 1<<31 - 1, ClientPort: 65535}},
		{"the longest line", head + "sender=" + strings.Repeat("x", MaxLine-len("sender=\n")) + "\n\n", Request{Sender: strings.Repeat("x", MaxLine-len("sender=\n"))}},
		{"the most attributes", head + strings.Repeat("a=\n", MaxAttributes-1) + "\n", Request{}},
		{"recipient", head + "recipient=b@x\n\n", Request{Recipient: "b@x"}},
		{"a server not known", head + "server_address=unknown\nserver_port=unknown\n\n", Request{ServerAddress: "unknown"}},
		{"attributes of a delivery", head + "number=1\narrived=2\nfirst_queue_id=1B\noriginal_recipient=c@x\n\n", Request{}},
		{"of our transport", transport, transportRequest},
		{"the least of a delivery", least + "\n",
			Request{Delivery: true, QueueID: "1A", FirstQueueID: "1A", Recipient: "b@x", OriginalRecipient: "b@x", Arrived: 1}},
		{"empty attributes of a delivery", least + "first_queue_id=\noriginal_recipient=\nnumber=\nsize=\n\n",
			Request{Delivery: true, QueueID: "1A", FirstQueueID: "1A", Recipient: "b@x", OriginalRecipient: "b@x", Arrived: 1}},
		{"the largest numbers of a delivery", least + "number=9223372036854775807\narrived=253402300799\n\n",
			Request{Delivery: true, QueueID: "1A", FirstQueueID: "1A", Recipient: "b@x", OriginalRecipient: "b@x", Number: 1<<63 - 1, Arrived: 253402300799}},
		{"a delivery with attributes of smtpd", least + "protocol_state=RCPT\nprotocol_name=SMTP\ninstance=1\nrecipient_count=1\nserver_address=::1\nserver_port=25\n\n",
			Request{Delivery: true, QueueID: "1A", FirstQueueID: "1A", Recipient: "b@x", OriginalRecipient: "b@x", Arrived: 1}},
		{"of two kinds the last counts", least + head + "\n", Request{QueueID: "1A", Recipient: "b@x"}},
	} {
		for _, size := range []int{16, 2048, MaxRequest} { // of the buffer
			r := bufio.NewReaderSize(strings.NewReader(c.in+postfix), size)
			got, err := ReadRequest(r)
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
				t.Errorf("%s, buffer of %d: %v\n%s", c.name, size, err, diff)
			}
			if next, err := ReadRequest(r); err != nil || next != postfixRequest {
				t.Errorf("%s, buffer of %d: after it %+v, %v", c.name, size, next, err)
			}
			if _, err := ReadRequest(r); err != io.EOF {
				t.Errorf("%s, buffer of %d: at the end %v", c.name, size, err)
			}
		}
	}
}

func TestBadRequest(t *testing.T) {
	const head = "request=smtpd_access_policy\n"
	for _, c := range []struct{ name, in, want string }{
		{"no attribute", "\n", "without the attribute request"},
		{"no request", "sender=a\n\n", "without the attribute request"},
		{"another request", "request=junk\n\n", "another kind"},
		{"the second request is another", head + "request=\n\n", "another kind"},
		{"no =", head + "sender\n\n", "not NAME=VALUE"},
		{"no name", head + "=a\n\n", "not NAME=VALUE"},
		{"HTTP", "GET / HTTP/1.1\r\n\r\n", "not NAME=VALUE"},
		{"NUL", head + "sender=a\x00b\n\n", "not NAME=VALUE"},
		{"a number", head + "size=1k\n\n", "size is no number"},
		{"a negative number", head + "recipient_count=-1\n\n", "recipient_count is no number"},
		{"a number too large", head + "size=9223372036854775808\n\n", "too large"},
		{"a port of the server", head + "server_port=smtp\n\n", "server_port is no number"},
		{"a delivery without a queue id", "request=mailquota_delivery\nrecipient=b@x\narrived=1\n\n", "without queue_id"},
		{"a delivery without a recipient", "request=mailquota_delivery\nqueue_id=1A\narrived=1\n\n", "without queue_id, recipient"},
		{"a delivery without its time", "request=mailquota_delivery\nqueue_id=1A\nrecipient=b@x\n\n", "recipient or arrived"},
		{"a delivery of the year 10000", "request=mailquota_delivery\narrived=253402300800\n\n", "arrived is no number, or too large"},
		{"a delivery before 1970", "request=mailquota_delivery\narrived=-1\n\n", "arrived is no number"},
		{"a negative number of a recipient", "request=mailquota_delivery\nnumber=-1\n\n", "number is no number"},
		{"a port too large", head + "client_port=65536\n\n", "too large"},
		{"many recipients", head + "recipient_count=2147483648\n\n", "too large"},
		{"a line too long", head + "sender=" + strings.Repeat("x", MaxLine) + "\n\n", "a line of more than 8192"},
		{"an endless line", head + strings.Repeat("x", 1<<20), "a line of more than 8192"},
		{"too many attributes", head + strings.Repeat("a=\n", MaxAttributes) + "\n", "more than 128 attributes"},
		{"too many bytes", head + strings.Repeat(strings.Repeat("a=", MaxLine/2-1)+"\n", 9) + "\n", "or 65536 bytes"},
	} {
		var wrong *ProtocolError
		_, err := ReadRequest(bufio.NewReaderSize(strings.NewReader(c.in), 2048))
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	for end := 1; end < len(postfix); end++ {
		if _, err := ReadRequest(bufio.NewReader(strings.NewReader(postfix[:end]))); err != io.ErrUnexpectedEOF {
			t.Fatalf("after %d bytes: %v", end, err)
		}
	}
	broken := errors.New("broken")
	if _, err := ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(head), iotest.ErrReader(broken)))); err != broken {
		t.Errorf("an error of the reader: %v", err)
	}
}

func TestAction(t *testing.T) {
	for _, c := range []struct {
		action     Action
		text, want string
	}{
		{Dunno, "", "action=DUNNO\n\n"},
		{refuse, "carol@box.test: limit reached", "action=452 4.7.1 carol@box.test: limit reached\n\n"},
		{Defer, "no database", "action=DEFER_IF_PERMIT 4.3.0 no database\n\n"},
		{refuse, "a\n\naction=OK\r\x00\x7f\tkäse\xff", "action=452 4.7.1 a??action=OK????k?se?\n\n"},
		{refuse, strings.Repeat("x", 1000), "action=452 4.7.1 " + strings.Repeat("x", 400) + "\n\n"},
	} {
		if got := string(c.action.Append([]byte("before "), c.text)); got != "before "+c.want {
			t.Errorf("%s %q: %q", c.action, c.text, got)
		}
	}
}

// TestAllocations: a request is on the way of every message.
func TestAllocations(t *testing.T) {
	in := strings.NewReader(postfix)
	r := bufio.NewReaderSize(in, 2048)
	var answer []byte
	n := testing.AllocsPerRun(100, func() {
		in.Reset(postfix)
		r.Reset(in)
		if _, err := ReadRequest(r); err != nil {
			t.Fatal(err)
		}
		answer = refuse.Append(answer[:0], "carol@box.test: limit reached")
	})
	if n > 1 {
		t.Errorf("%v allocations a request", n)
	}
}

// FuzzReadRequest: whatever comes ends in a request of one kind or an error, is read
// within the bounds, does not depend on the buffer; and what was read is the same when
// written and read again.
func FuzzReadRequest(f *testing.F) {
	for _, in := range []string{postfix, postfix + postfix, transport, transport + postfix, "request=mailquota_delivery\nqueue_id=1\nrecipient=a\narrived=1\n\n", "", "\n", "request=smtpd_access_policy\n", "request=smtpd_access_policy\nsize=-1\n\n",
		"request=smtpd_access_policy\nsender=\x00\n\n", "request=smtpd_access_policy\nclient_port=unknown\nsender=a\nsender=\n\n", strings.Repeat("a=", 5000)} {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in string) {
		source := strings.NewReader(in)
		q, err := ReadRequest(bufio.NewReaderSize(source, 16))
		if read := len(in) - source.Len(); read > MaxRequest+MaxLine+16 {
			t.Errorf("%d bytes read", read)
		}
		large, largeErr := ReadRequest(bufio.NewReaderSize(strings.NewReader(in), 2*MaxRequest))
		if q != large || fmt.Sprint(err) != fmt.Sprint(largeErr) {
			t.Fatalf("with a small buffer %+v, %v; with a large one %+v, %v", q, err, large, largeErr)
		}
		if err != nil {
			return
		}
		if q.Delivery && (q.QueueID == "" || q.FirstQueueID == "" || q.Recipient == "" || q.OriginalRecipient == "" || q.Arrived < 1 || q.Number < 0 || q.Instance != "") ||
			!q.Delivery && (q.FirstQueueID != "" || q.OriginalRecipient != "" || q.Arrived != 0 || q.Number != 0) {
			t.Errorf("%+v is of no kind", q)
		}
		again, err := ReadRequest(bufio.NewReader(strings.NewReader(string(q.Append(nil)))))
		if err != nil || q != again {
			t.Errorf("%+v became %+v, %v", q, again, err)
		}
	})
}

func BenchmarkReadRequest(b *testing.B) {
	in := strings.NewReader(postfix)
	r := bufio.NewReaderSize(in, 2048)
	b.ReportAllocs()
	for b.Loop() {
		in.Reset(postfix)
		r.Reset(in)
		if _, err := ReadRequest(r); err != nil {
			b.Fatal(err)
		}
	}
}
