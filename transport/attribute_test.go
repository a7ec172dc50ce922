package transport

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

// bytesOf is lists as they are sent: names and values with "|" for each NUL.
func bytesOf(s string) []byte { return []byte(strings.ReplaceAll(s, "|", "\x00")) }

func TestReadList(t *testing.T) {
	long := strings.Repeat("x", maxList-len("a||")-1)
	for _, c := range []struct {
		in   string
		want list
		err  error
	}{
		{"a|1||", list{{"a", "1"}}, nil},
		{"a|1|a|2|||", list{{"a", "1"}, {"a", "2"}}, nil}, // more follows
		{"a|||", list{{"a", ""}}, nil},
		{"a|" + long + "||", list{{"a", long}}, nil},
		{"a|x" + long + "||", nil, errMalformed},
		{strings.Repeat("x", 1<<20), nil, errMalformed},
		{"|", nil, errMalformed},
		{"", nil, io.EOF},
		{"a", nil, io.ErrUnexpectedEOF},
		{"a|", nil, io.ErrUnexpectedEOF},
		{"a|1", nil, io.ErrUnexpectedEOF},
		{"a|1|", nil, io.ErrUnexpectedEOF},
		{"a|1|b", nil, io.ErrUnexpectedEOF},
	} {
		for _, size := range []int{16, 4096} { // of the buffer
			got, err := readList(bufio.NewReaderSize(bytes.NewReader(bytesOf(c.in)), size))
			if !errors.Is(err, c.err) || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%.40q, buffer of %d: %.40v, %v; want %.40v, %v", c.in, size, got, err, c.want, c.err)
			}
		}
	}
}

func TestReadRequest(t *testing.T) {
	many := strings.Repeat("recipient|"+strings.Repeat("x", maxList/2)+"||", maxRequest/(maxList/2)+1)
	for _, c := range []struct {
		in  string
		err error
	}{
		{"recipient_count|2||recipient|a||recipient|b||", nil},
		{"recipient_count|0||", errMalformed},
		{"recipient_count|||", errMalformed},
		{"recipient_count|-1||", errMalformed},
		{"recipient_count|20001||", errMalformed},
		{"recipient_count|4294967296||", errMalformed},
		{"sender|a||", errMalformed},
		{"recipient_count|2||recipient|a||", io.ErrUnexpectedEOF},
		{"recipient_count|1||", io.ErrUnexpectedEOF},
		{"", io.EOF},
		{"recipient_count|20000||" + many, errMalformed},
	} {
		if _, err := readRequest(bufio.NewReader(bytes.NewReader(bytesOf(c.in)))); !errors.Is(err, c.err) {
			t.Errorf("%.60q: %v, want %v", c.in, err, c.err)
		}
	}
}

func TestRequestToSome(t *testing.T) {
	in := "flags|1|unheard of|x|nexthop|out.example|recipient_count|3||recipient|a|offset|1||recipient|b||recipient|c||"
	q, err := readRequest(bufio.NewReader(bytes.NewReader(bytesOf(in))))
	if err != nil {
		t.Fatal(err)
	}
	refused := request{common: q.common.with(attrNexthop, "4.7.1 no")}
	for _, c := range []struct {
		got  []byte
		want string
	}{
		{q.append(nil, q.recipients), in},
		{q.append(nil, q.recipients[1:2]), "flags|1|unheard of|x|nexthop|out.example|recipient_count|1||recipient|b||"},
		{refused.append(nil, q.recipients[:1]), "flags|1|unheard of|x|nexthop|4.7.1 no|recipient_count|1||recipient|a|offset|1||"},
	} {
		if want := bytesOf(c.want); !bytes.Equal(c.got, want) {
			t.Errorf("%q, want %q", c.got, want)
		}
	}
	// Of two with one name, the last is the result of an answer.
	answer := list{{"status", ""}, {"reason", ""}, {"status", "0"}}
	if got := answer.with(attrStatus, "4294967295"); got[0].value != "" || got.result() != "4294967295" || answer.result() != done {
		t.Errorf("%v, of %v", got, answer)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(bytesOf("flags|1|recipient_count|2||recipient|a|offset|1||recipient|b||rest"))
	f.Add(bytesOf("recipient_count|20000||recipient|a||"))
	f.Fuzz(func(t *testing.T, in []byte) {
		q, err := readRequest(bufio.NewReaderSize(bytes.NewReader(in), 64))
		if err != nil {
			return
		}
		again, err := readRequest(bufio.NewReader(bytes.NewReader(q.append(nil, q.recipients))))
		if err != nil || !reflect.DeepEqual(again.recipients, q.recipients) || len(again.common) != len(q.common) {
			t.Errorf("%q became %v, %v", in, again, err)
		}
		_, _ = q.questions("/nonexistent")
	})
}
