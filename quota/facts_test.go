package quota

import (
	"encoding/json"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"sendmail-wrapper/origin"
)

func TestFacts(t *testing.T) {
	for _, tt := range []struct {
		name   string
		origin origin.Origin
		want   string
	}{
		{"nothing", origin.Origin{}, ""},
		{"what has columns", origin.Origin{Script: origin.Fact{Value: "/s", Proof: origin.System}, Crontab: origin.Fact{Value: "c", Proof: origin.System},
			Site: origin.Fact{Value: "x", Proof: origin.Claimed}}, ""},
		{"one", origin.Origin{Unit: origin.Fact{Value: "cron.service", Proof: origin.Kernel}}, `{"unit":["cron.service","kernel"]}`},
		{"an empty one", origin.Origin{Include: origin.Fact{Proof: origin.Claimed}}, `{"include":["","claimed"]}`},
		{"escapes", origin.Origin{URI: origin.Fact{Value: "/a?\"\\\x01\n\x7f\x00\xffü", Proof: origin.System}},
			`{"uri":["/a?\"\\\u0001\u000a` + "\x7f\uFFFD\uFFFDü" + `","system"]}`},
		{"a chain", origin.Origin{Chain: []origin.Process{{PID: 7, UID: 1001, EUID: 0, Program: "/usr/bin/su"}, {PID: 1, Program: "systemd"}}},
			`{"chain":[{"pid":7,"uid":1001,"euid":0,"program":"/usr/bin/su"},{"pid":1,"uid":0,"euid":0,"program":"systemd"}]}`},
		{"both", origin.Origin{Login: origin.Fact{Value: "bob", Proof: origin.Kernel}, Client: origin.Fact{Value: "192.0.2.1", Proof: origin.System},
			Chain: []origin.Process{{PID: 7}}}, `{"client":["192.0.2.1","system"],"login":["bob","kernel"],"chain":[{"pid":7,"uid":0,"euid":0,"program":""}]}`},
	} {
		if diff := cmp.Diff(tt.want, factsOf(&tt.origin)); diff != "" {
			t.Errorf("%s:\n%s", tt.name, diff)
		}
	}
}

// FuzzFacts: whatever the texts are, the JSON is valid, has them as far as they
// can be stored, and what is bounded stays as it is.
func FuzzFacts(f *testing.F) {
	f.Add("/x.php?a=\"b\"", "Grüße \xff\x00", "a@x", 3)
	f.Add(strings.Repeat("ü", 700), strings.Repeat("\x80", 3000), "a\nb@x", 40)
	f.Fuzz(func(t *testing.T, fact, subject, to string, n int) {
		n = min(max(n, 0), 50)
		m := Message{Details: Details{MessageID: fact, Subject: subject}}
		for _, f := range m.Origin.Facts() {
			*f = origin.Fact{Value: fact, Proof: origin.Claimed}
		}
		for range n {
			m.Origin.Chain = append(m.Origin.Chain, origin.Process{PID: n, Program: fact})
			m.Details.To = append(m.Details.To, to)
		}
		b := m.bounded()
		text := factsOf(&m.Origin)
		if again := factsOf(&b.Origin); again != text {
			t.Errorf("%q, and bounded %q", text, again)
		}
		if diff := cmp.Diff(b.Details, b.Details.bounded()); diff != "" {
			t.Errorf("details bounded twice:\n%s", diff)
		}
		if len(text) > 6*(8*maxFact+origin.MaxChain*(maxProgram+100)) || strings.Contains(text, "\x00") || strings.Contains(text, `\u0000`) && !strings.Contains(fact, `u0000`) {
			t.Errorf("%d bytes: %q", len(text), text)
		}
		var got map[string]json.RawMessage
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatalf("%v: %q", err, text)
		}
		var uri [2]string
		if err := json.Unmarshal(got["uri"], &uri); err != nil || uri[0] != b.Origin.URI.Value || uri[1] != "claimed" {
			t.Errorf("%q, %v, want %q", uri, err, b.Origin.URI.Value)
		}
		var chain []origin.Process
		if n > 0 {
			if err := json.Unmarshal(got["chain"], &chain); err != nil {
				t.Error(err)
			}
		}
		if diff := cmp.Diff(b.Origin.Chain, chain); diff != "" {
			t.Errorf("chain:\n%s", diff)
		}
		if d := b.Details; len(d.To) > maxAddresses || len(d.Subject) > maxLine || len(d.MessageID) > maxLine || !utf8.ValidString(d.Subject) ||
			strings.Contains(strings.Join(d.To, ""), "\n") || len(strings.Join(d.To, "")) > maxAddresses*maxTo {
			t.Errorf("details %q", d)
		}
	})
}

// TestCut: a text is cut between characters, and its end is not lost for one that
// fits.
func TestCut(t *testing.T) {
	for _, tt := range []struct {
		text string
		most int
		want string
	}{
		{"", 4, ""}, {"abcd", 4, "abcd"}, {"abcde", 4, "abcd"}, {"abcü", 5, "abcü"}, {"abcü", 4, "abc"}, {"ab€", 4, "ab"}, {"a\U0001F600", 4, "a"},
		{"a\x00b", 8, "a\uFFFDb"}, {"a\x00b", 4, "a\uFFFD"}, {"abc\x00", 4, "abc"}, {"\xff\xff\xff\xff\xff", 4, "\uFFFD"},
	} {
		if got := cut(tt.text, tt.most); got != tt.want {
			t.Errorf("cut(%q, %d) = %q, want %q", tt.text, tt.most, got, tt.want)
		}
	}
}

// TestEntryOfBefore: an entry as the version before facts and details wrote it is
// read, and what this one writes is read by that one, which looks for less.
func TestEntryOfBefore(t *testing.T) {
	const before = `{"Message":{"ID":"00000000-0000-0000-0000-000000000003","Origin":{"UID":7,"User":"u","Kind":"other","KindProof":1,` +
		`"Script":{"Value":"/s","Proof":1},"Crontab":{"Value":"c","Proof":2},"Site":{"Value":"x","Proof":2}},"Mailbox":"","Sender":"s","Recipients":3,"Size":7,"Forbidden":""},` +
		`"Decision":{"At":"2001-09-09T01:46:40.000005Z","Refusal":null,"Subscription":"s","Domain":"d"}}`
	path := filepath.Join(t.TempDir(), "journal")
	j := mustOpen(t, path)
	err := j.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(entriesBucket)
		seq, err := b.NextSequence()
		if err != nil {
			return err
		}
		return b.Put(key(seq), []byte(before))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, path)
	defer j.close()
	var got []entry
	if err := j.each(0, math.MaxInt, func(_ uint64, e *entry) error { got = append(got, *e); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Message.Origin.Script.Value != "/s" || got[0].Message.Recipients != 3 || got[0].Decision.Domain != "d" ||
		got[0].Message.Origin.Chain != nil || !got[0].Message.Details.isZero() {
		t.Errorf("%+v", got)
	}
	again, err := json.Marshal(&got[0])
	if err != nil {
		t.Fatal(err)
	}
	var was, is map[string]map[string]any
	if err := json.Unmarshal([]byte(before), &was); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(again, &is); err != nil {
		t.Fatal(err)
	}
	for part, fields := range was {
		for name, value := range fields {
			if inner, ok := value.(map[string]any); ok {
				for name := range inner {
					if diff := cmp.Diff(inner[name], is[part]["Origin"].(map[string]any)[name]); diff != "" {
						t.Errorf("%s.Origin.%s:\n%s", part, name, diff)
					}
				}
			} else if diff := cmp.Diff(value, is[part][name]); diff != "" {
				t.Errorf("%s.%s:\n%s", part, name, diff)
			}
		}
	}
}

func BenchmarkFacts(b *testing.B) {
	o := origin.Origin{URI: origin.Fact{Value: "/shop/checkout.php?id=17", Proof: origin.System}, Client: origin.Fact{Value: "192.0.2.17", Proof: origin.System},
		Method: origin.Fact{Value: "POST", Proof: origin.System}, Unit: origin.Fact{Value: "php8.2-fpm.service", Proof: origin.Kernel},
		Chain: []origin.Process{{PID: 4321, UID: 1001, EUID: 1001, Program: "/usr/lib/sendmail-wrapper/sendmail"}, {PID: 4320, UID: 1001, EUID: 1001, Program: "/usr/bin/dash"},
			{PID: 4000, UID: 1001, EUID: 1001, Program: "/usr/sbin/php-fpm8.2"}, {PID: 900, Program: "/usr/sbin/php-fpm8.2"}, {PID: 1, Program: "/usr/lib/systemd/systemd"}}}
	b.ReportAllocs()
	for b.Loop() {
		factsOf(&o)
	}
}
