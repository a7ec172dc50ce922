package trace

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const first = "0198f2c4-7a10-7d3c-9b52-6f1e8a0c4d21"

// now is when the samples are read.
var now = time.Date(2026, 11, 28, 2, 0, 0, 0, time.UTC)

func inUTC(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = local })
}

func TestParseLine(t *testing.T) {
	inUTC(t)
	long := "4jbsBv0m5Cz3p"
	for in, want := range map[string]string{
		"Nov 28 00:50:15 host1 postfix/pickup[811]: 5C1A31F4E2: uid=1001 from=<a>":                   "2026-11-28T00:50:15Z pickup 5C1A31F4E2 uid=1001 from=<a>",
		"Dec  5 00:50:15 host1 postfix/pickup[811]: 5C1A31F4E2: x":                                   "2025-12-05T00:50:15Z pickup 5C1A31F4E2 x",
		"Nov 29 01:59:59 host1 postfix/pickup[811]: 5C1A31F4E2: x":                                   "2026-11-29T01:59:59Z pickup 5C1A31F4E2 x", // a clock that is ahead
		"Feb 29 00:50:15 host1 postfix/qmgr[8]: 5C1A31F4E2: removed":                                 "2026-03-01T00:50:15Z qmgr 5C1A31F4E2 removed",
		"2026-11-28T00:50:15.114203+01:00 host1 postfix/qmgr[8]: " + long + ": removed":              "2026-11-27T23:50:15Z qmgr " + long + " removed",
		"2026-11-28T00:50:15+0000 host1 postfix-out/submission/smtpd[9]: 6A00F1F4E2: client=x[1]: y": "2026-11-28T00:50:15Z smtpd 6A00F1F4E2 client=x[1]: y",
		"Nov 28 00:50:15 host1 postfix/smtp[815]: connect to mx[192.0.2.9]:25: timed out":            "",
		"Nov 28 00:50:15 host1 postfix/master[815]: warning: x":                                      "",
		"Nov 28 00:50:15 host1 dovecot: 5C1A31F4E2: x":                                               "",
		"Nov 28 00:50:15 host1 pure-ftpd: (?@x/y) 5C1A31F4E2: x":                                     "",
		"Nov 31 00:50:15 host1 postfix/qmgr[8]: 5C1A31F4E2: removed":                                 "",
		"Nov 28 00:50:15": "", "": "", "x": "", "2026-11-28": "", "2026-11-28T00:50:15Z": "", "Nov 28 00:50:15 ": "", "Nov 28 00:50:15 h a/b[": "",
	} {
		l, ok := parseLine(in, now)
		got := ""
		if ok {
			got = l.Time.UTC().Format(time.RFC3339) + " " + l.Program + " " + l.Queue + " " + l.Text
		}
		if got != want {
			t.Errorf("%q:\n%s, want\n%s", in, got, want)
		}
	}
}

func TestIsQueueID(t *testing.T) {
	for in, want := range map[string]bool{
		"5C1A31F4E2": true, "ABCDEF": true, "ABCDE": false, "5c1a31f4e2": false, "4jbsBv0m5Cz3p": true, "4jbsBv0m5C": false, "4jbsBa0m5Cz3p": false,
		"warning": false, "": false, "connect to mx": false, "4jbsBv0m5Cz": false,
	} {
		if got := IsQueueID(in); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
}

// TestQueueTime: the seconds of a long id.
func TestQueueTime(t *testing.T) {
	want := time.Date(2026, 11, 28, 0, 50, 15, 0, time.UTC)
	if got := QueueTime("4jbsBv0m5Cz3p"); !got.Equal(want) {
		t.Errorf("%s, want %s", got.UTC(), want)
	}
	if !QueueTime("5C1A31F4E2").IsZero() {
		t.Error("a short id has no time")
	}
}

func sample(t *testing.T, name string) iter.Seq2[Line, error] {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata/log", name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	return func(yield func(Line, error) bool) {
		for text := range strings.Lines(string(content)) {
			if l, ok := parseLine(strings.TrimSuffix(text, "\n"), now); ok && !yield(l, nil) {
				return
			}
		}
	}
}

func TestSearch(t *testing.T) {
	inUTC(t)
	at := time.Date(2026, 11, 28, 0, 50, 15, 500_000_000, time.UTC)
	alice, bob, root := int64(1001), int64(1002), int64(0)
	fields := []string{"X-Mail-Trace"}
	for _, c := range []struct {
		name, log string
		query     Query
		match     Match
		want      []string // queue id, uid or login, sender, recipients, lines, last line
	}{
		{"queue id used twice", "rfc3164", Query{Queue: "5C1A31F4E2"}, ByQueue, []string{
			"5C1A31F4E2 1001 alice@shop.example 2 8 removed", "5C1A31F4E2 1002 bob@host1.example 1 4 from=<bob@host1.example>, size=4096, nrcpt=1 (queue active)"}},
		{"queue id that is not there", "rfc3164", Query{Queue: "5C1A31F4EF"}, None, nil},
		{"trace header, not the copy of another user", "rfc3164", Query{Trace: first, UID: &alice}, ByTrace, []string{"5C1A31F4E2 1001 alice@shop.example 2 8 removed"}},
		{"trace header, user not known", "rfc3164", Query{Trace: first}, ByTrace, []string{
			"5C1A31F4E2 1001 alice@shop.example 2 8 removed", "5C1A31F4E2 1002 bob@host1.example 1 4 from=<bob@host1.example>, size=4096, nrcpt=1 (queue active)"}},
		{"a copy is nobody's", "rfc3164", Query{Trace: first, MessageID: "<a1@shop.example>", UID: &root, At: at, Recipients: 2}, None, nil},
		{"trace header on a mail with another Message-ID", "rfc3164", Query{Trace: first, MessageID: "<x@x>", UID: &alice, At: at, Recipients: 2}, None, nil},
		{"message id", "rfc3164", Query{MessageID: "<a1@shop.example>", UID: &alice}, ByMessageID, []string{"5C1A31F4E2 1001 alice@shop.example 2 8 removed"}},
		{"message id after the header was not logged", "rfc3339", Query{Trace: first, MessageID: "<20261128005015.4jbsBv0m5Cz3p@host1.example>", UID: &alice}, ByMessageID,
			[]string{"4jbsBv0m5Cz3p 1001 alice@host1.example 1 3 from=<alice@host1.example>, size=700, nrcpt=1 (queue active)"}},
		{"likely: two", "rfc3339", Query{Trace: first, UID: &alice, At: at, Recipients: 1}, Likely,
			[]string{"4jbsBv0m5Cz3p 1001 alice@host1.example 1 3 from=<alice@host1.example>, size=700, nrcpt=1 (queue active)",
				"4jbsFC3Zw1z3q 1001 alice@host1.example 1 3 from=<alice@host1.example>, size=700, nrcpt=1 (queue active)"}},
		{"likely: other recipients", "rfc3339", Query{UID: &alice, At: at, Recipients: 3}, None, nil},
		{"likely: other user", "rfc3339", Query{UID: &bob, At: at, Recipients: 1}, None, nil},
		{"likely: another header was logged", "rfc3164", Query{Trace: "0198f2c4-7a11-7000-8000-000000000002", UID: &alice, At: at, Recipients: 2}, None, nil},
		{"likely: another Message-ID was logged", "rfc3339", Query{MessageID: "<x@x>", UID: &alice, At: at, Recipients: 1}, None, nil},
		{"login", "short-iso", Query{Login: "info@shop.example", At: at, Recipients: 3}, Likely,
			[]string{"6A00F1F4E2 info@shop.example info@shop.example 3 4 from=<info@shop.example>, size=1500, nrcpt=3 (queue active)"}},
		{"another login", "short-iso", Query{Login: "x@shop.example", At: at, Recipients: 3}, None, nil},
	} {
		c.query.Fields = fields
		list, match, err := Search(sample(t, c.log), c.query)
		if err != nil || match != c.match {
			t.Errorf("%s: %s, %v, want %s", c.name, match, err, c.match)
		}
		var got []string
		for _, m := range list {
			who := m.Login
			if m.UID != nil {
				who = fmt.Sprint(*m.UID)
			}
			got = append(got, fmt.Sprintf("%s %s %s %d %d %s", m.Queue, who, m.Sender, m.Recipients, len(m.Lines), m.Lines[len(m.Lines)-1].Text))
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

// TestSearchIsBounded: a log without ends, and one of a mail with many recipients.
func TestSearchIsBounded(t *testing.T) {
	lines := func(yield func(Line, error) bool) {
		for n := range 3 * maxOpen {
			if !yield(Line{Time: now, Program: "cleanup", Queue: fmt.Sprintf("%010X", n), Text: "message-id=<x>"}, nil) {
				return
			}
		}
		for range 1000 {
			if !yield(Line{Time: now, Program: "smtp", Queue: "FFFFFFFFFF", Text: "to=<x>"}, nil) {
				return
			}
		}
		yield(Line{Time: now, Program: "cleanup", Queue: "FFFFFFFFFF", Text: "message-id=<x>"}, nil)
	}
	list, match, err := Search(lines, Query{MessageID: "<x>"})
	if err != nil || match != ByMessageID || len(list) != maxFound {
		t.Fatalf("%d, %s, %v", len(list), match, err)
	}
	if last := list[len(list)-1]; last.Queue != "FFFFFFFFFF" || len(last.Lines) != maxLines {
		t.Errorf("%s with %d lines", last.Queue, len(last.Lines))
	}
}

// TestDeferredMail: one that waits in the queue while many others come and go stays
// one mail.
func TestDeferredMail(t *testing.T) {
	lines := func(yield func(Line, error) bool) {
		yield(Line{Time: now, Program: "cleanup", Queue: "FFFFFFFFFF", Text: "message-id=<x>"}, nil)
		for n := range 2 * maxOpen {
			yield(Line{Time: now, Program: "qmgr", Queue: fmt.Sprintf("%010X", n), Text: "removed"}, nil)
		}
		yield(Line{Time: now, Program: "qmgr", Queue: "FFFFFFFFFF", Text: "removed"}, nil)
	}
	list, _, err := Search(lines, Query{MessageID: "<x>"})
	if err != nil || len(list) != 1 || len(list[0].Lines) != 2 {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestNearest: those that are as near stay in their order.
func TestNearest(t *testing.T) {
	var list []*Mail
	for i := range 30 {
		list = append(list, &Mail{Queue: fmt.Sprint(i), First: now.Add(time.Duration(i%3-1) * time.Second)})
	}
	Nearest(list, now)
	var got []string
	for _, m := range list {
		got = append(got, m.Queue)
	}
	if want := "1 4 7 10 13 16 19 22 25 28 0 2 3 5 6 8 9 11 12 14 15 17 18 20 21 23 24 26 27 29"; strings.Join(got, " ") != want {
		t.Errorf("%v", got)
	}
}

// TestLogs: rotations are read in order, as far back as is asked for.
func TestLogs(t *testing.T) {
	inUTC(t)
	dir := t.TempDir()
	write := func(name string, at time.Time, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, ".gz") {
			z := gzip.NewWriter(f)
			if _, err := z.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
		} else if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	line := func(at time.Time, id string) string {
		return at.Format("Jan _2 15:04:05") + " host1 postfix/qmgr[1]: " + id + ": removed\n"
	}
	day := 24 * time.Hour
	write("mail.log", now, strings.Repeat("x/", maxLine)+"\n"+line(now, "AAAAAA")+strings.TrimSuffix(line(now, "AAAAAB"), "\n"))
	write("mail.log.1", now.Add(-day), line(now.Add(-day), "BBBBBB"))
	write("mail.log.2.gz", now.Add(-2*day), line(now.Add(-2*day), "CCCCCC"))
	write("mail.log.3.gz", now.Add(-3*day), "")
	write("mail.err", now, line(now, "DDDDDD"))
	logs := &Logs{Dir: dir, now: now}
	read := func(since, until time.Time) (string, error) {
		sources, err := logs.Sources(context.Background(), since, until)
		if err != nil {
			return "", err
		}
		if len(sources) == 0 || sources[0].Name != logs.Dir {
			return "", nil
		}
		var ids []string
		var failure error
		for l, err := range sources[0].Lines {
			if err != nil {
				failure = errors.Join(failure, err)
				continue
			}
			ids = append(ids, l.Queue)
		}
		return strings.Join(ids, " "), failure
	}
	for _, c := range []struct {
		since, until time.Time
		want         string
	}{
		{time.Time{}, time.Time{}, "CCCCCC BBBBBB AAAAAA AAAAAB"},
		{now.Add(-day), time.Time{}, "BBBBBB AAAAAA AAAAAB"},
		{time.Time{}, now.Add(-day), "CCCCCC BBBBBB"},
		{now.Add(day), time.Time{}, ""},
	} {
		if got, err := read(c.since, c.until); err != nil || got != c.want {
			t.Errorf("%s to %s: %q, %v, want %q", c.since, c.until, got, err, c.want)
		}
	}
	// Those that cannot be read do not hide the others.
	write("mail.log.4.xz", now.Add(-4*day), "x")
	write("mail.log.5.gz", now.Add(-5*day), "")
	if err := os.WriteFile(filepath.Join(dir, "mail.log.5.gz"), []byte("no gzip"), 0o600); err != nil {
		t.Fatal(err)
	}
	write("mail.log.6.gz", now.Add(-6*day), strings.Repeat(line(now.Add(-6*day), "DDDDDD"), 2))
	if err := os.Truncate(filepath.Join(dir, "mail.log.6.gz"), 60); err != nil { // less than its end
		t.Fatal(err)
	}
	for _, path := range []string{"mail.log.5.gz", "mail.log.6.gz"} {
		if err := os.Chtimes(filepath.Join(dir, path), now.Add(-5*day), now.Add(-5*day)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := read(time.Time{}, time.Time{})
	if want := "CCCCCC BBBBBB AAAAAA AAAAAB"; !strings.HasSuffix(got, want) || err == nil {
		t.Errorf("beside logs that cannot be read: %q, %v", got, err)
	}
	for _, name := range []string{"mail.log.4.xz: cannot be read", "mail.log.5.gz: ", "mail.log.6.gz: unexpected EOF"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q is not told: %v", name, err)
		}
	}
	sources, err := logs.Sources(context.Background(), time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if list, match, err := Search(sources[0].Lines, Query{Queue: "AAAAAA"}); err == nil || match != ByQueue || len(list) != 1 {
		t.Errorf("a mail beside logs that cannot be read: %v, %s, %v", list, match, err)
	}
	t.Setenv("PATH", t.TempDir())
	logs.Dir = t.TempDir()
	if _, err := read(time.Time{}, time.Time{}); !errors.Is(err, ErrNoLog) {
		t.Errorf("without a log: %v", err)
	}
}

// TestJournal asks a journalctl, which says what it was asked.
func TestJournal(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	script := "#!/bin/sh\necho '2026-11-28T00:50:15+0000 host1 postfix/qmgr[8]: 5C1A31F4E2:' \"$*\"\n"
	if err := os.WriteFile(filepath.Join(dir, "journalctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	logs := &Logs{Dir: t.TempDir(), now: now}
	at := time.Date(2026, 11, 28, 0, 50, 15, 0, time.UTC)
	sources, err := logs.Sources(t.Context(), at.Add(-time.Second), at)
	if err != nil || len(sources) != 1 || sources[0].Name != "the journal" {
		t.Fatal(sources, err)
	}
	for l, err := range sources[0].Lines {
		if want := "-q --no-pager -o short-iso -u postfix.service -u postfix@*.service --since=@1795827014 --until=@1795827016"; err != nil || l.Text != want {
			t.Errorf("%q, want %q; %v", l.Text, want, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "journalctl"), []byte("#!/bin/sh\necho no right >&2; exit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	failed := false
	for _, err := range sources[0].Lines {
		failed = err != nil && strings.Contains(err.Error(), "no right")
	}
	if !failed {
		t.Error("an error of journalctl was not told")
	}
}

func FuzzParseLine(f *testing.F) {
	for _, name := range []string{"rfc3164", "rfc3339", "short-iso"} {
		content, err := os.ReadFile(filepath.Join("testdata/log", name+".log"))
		if err != nil {
			f.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			f.Add(line)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, ok := parseLine(text, now)
		if !ok {
			return
		}
		if !strings.Contains(text, l.Queue+": "+l.Text) || l.Time.IsZero() {
			t.Errorf("%+v", l)
		}
		m := &Mail{}
		m.add(l, []string{"X-Mail-Trace"})
		q := Query{Trace: first, At: now}
		q.match(m)
		QueueTime(l.Queue)
	})
}
