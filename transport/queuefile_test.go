package transport

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestIDTime(t *testing.T) {
	for _, c := range []struct {
		id   string
		want int64 // -1: no long id
	}{
		{"4jc4YB1d88z7P8p", 1795857710},
		{"4jc4cQ5VtKz1T1rV", 1795857878},
		{"0000000000z1", 0},
		{"1000000000z1", 380204032},
		{"zzzzzz0000z1", 52*52*52*52*52*52 - 1},
		{"9E2A41C0F1", -1}, // a short one
		{"00000000z1", -1},
		{"00000A0000z1", -1}, // no vowels
		{"zzzzzzzzzzzzzzzzzz0000z1", -1},
		{"z", -1},
		{"", -1},
	} {
		got, ok := idTime(c.id)
		if !ok {
			got = -1
		}
		if got != c.want {
			t.Errorf("%q: %d, want %d", c.id, got, c.want)
		}
	}
}

// records are lines as they stand in a queue file.
func records(kind byte, lines ...string) []byte {
	var b []byte
	for _, line := range lines {
		b = append(b, kind)
		n := len(line)
		for ; n > 0x7f; n >>= 7 {
			b = append(b, byte(n)|0x80)
		}
		b = append(append(b, byte(n)), line...)
	}
	return b
}

// queueFileOf writes a queue file, whose content are lines.
func queueFileOf(t *testing.T, path, id string, lines ...string) queueFile {
	t.Helper()
	queue := t.TempDir()
	envelope := append(records('C', "            257             244               1               0             257"), records('T', "1795857709 445566")...)
	envelope = append(envelope, records('M', "")...)
	content := append(records('N', lines...), records('X', "")...)
	file := filepath.Join(queue, path, id)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(envelope, content...), 0o600); err != nil {
		t.Fatal(err)
	}
	return queueFile{queue, "active", id, int64(len(envelope))}
}

func TestInternal(t *testing.T) {
	const id = "4jc4YB1d88z7P8p"
	for _, c := range []struct {
		name, want, to string // the id of the message that was sent on, "" for one that came in; by which address
		lines          []string
	}{
		{"by pickup", "", "", []string{"Received: by server.example (Postfix, from userid 1001)", "\tid " + id + "; Sat, 28 Nov 2026 09:21:49 +0000 (UTC)", "Subject: t"}},
		{"by smtpd", "", "", []string{"Received: from x (localhost [127.0.0.1])", "\tby server.example (Postfix) with ESMTP id " + id, "\tfor <a@b>; Sat, 28 Nov 2026 09:21:49 +0000 (UTC)"}},
		{"a bounce", "NOQUEUE", "", []string{"Received: by server.example (Postfix)", "\tid " + id + "; Sat, 28 Nov 2026 09:21:49 +0000 (UTC)", "From: MAILER-DAEMON", "", "Received: by x id 1;"}},
		{"forwarded, of pickup", "4jc4YB2CZRz7P8n", "olist@server.example", []string{"Received: by server.example (Postfix)", "\tid " + id + "; Sat, 28 Nov 2026", "Delivered-To: olist@server.example",
			"Received: by server.example (Postfix, from userid 1001)", "\tid 4jc4YB2CZRz7P8n; Sat, 28 Nov 2026"}},
		{"forwarded, of smtpd", "4jc4YB2CZRz7P8n", "olist@server.example", []string{"Received: by server.example (Postfix)", "\tid " + id + "; Sat, 28 Nov 2026", "Delivered-To: olist@server.example",
			"Received: from x (localhost [127.0.0.1])", "\tby server.example (Postfix) with ESMTP id 4jc4YB2CZRz7P8n", "\tfor <a@b>; Sat"}},
		{"forwarded, without Delivered-To", "4jc4YB2CZRz7P8n", "", []string{"Received: by server.example (Postfix)", "\tid " + id + "; Sat, 28 Nov 2026", "Received: by server.example (Postfix, from userid 1001)", "\tid 4jc4YB2CZRz7P8n; Sat, 28 Nov 2026", "Delivered-To: bob@server.example"}},
		{"forwarded, to a long address", "NOQUEUE", "", []string{"Received: by server.example (Postfix)", "\tid " + id + "; Sat, 28 Nov 2026", "Delivered-To: " + strings.Repeat("x", 2*headSize)}},
		{"by smtpd, with a forged Delivered-To", "", "", []string{"Received: from x (localhost [127.0.0.1])", "\tby server.example (Postfix) with ESMTP id " + id, "\tfor <a@b>; Sat", "Delivered-To: bob@server.example"}},
		{"no Received, by header_checks", "", "", []string{"Subject: t"}},
		{"no Received, and a forged one", "", "", []string{"Received: by server.example (Postfix)", "\tid 4jc4YB2CZRz7P8n; Sat, 28 Nov 2026"}},
		{"a Received of a HELO", "", "", []string{"Received: from  id " + id + "; (x [127.0.0.1])", "\tby server.example (Postfix) with ESMTP id 4jc4YB2CZRz7P8n; Sat"}},
		{"no header", "", "", []string{"", "Received: by server.example (Postfix) id " + id + ";"}},
		{"nothing", "", "", nil},
		{"a long header", "NOQUEUE", "", []string{"Received: by server.example (Postfix)", "\tid " + id + "; Sat", "X: " + strings.Repeat("x", 2*headSize)}},
	} {
		for _, path := range []string{"active", "active/4", "active/4/j"} {
			q := queueFileOf(t, path, id, c.lines...)
			below, internal, err := q.internal()
			first := ""
			if internal {
				first = firstID(below)
			}
			if to := deliveredTo(below); err != nil || first != c.want || to != c.to {
				t.Errorf("%s: %q by %q, %v; want %q by %q", c.name, first, to, err, c.want, c.to)
			}
		}
	}
}

func TestArrived(t *testing.T) {
	for _, c := range []struct {
		id   string
		want int64
	}{{"9E2A41C0F1", 1795857709}, {"4jc4YB1d88z7P8p", 1795857710}} {
		q := queueFileOf(t, "active", c.id)
		if got, err := q.arrived(); err != nil || got != c.want {
			t.Errorf("%s: %d, %v", c.id, got, err)
		}
	}
	for _, q := range []queueFile{{"/nonexistent", "active", "9E2A41C0F1", 0}, {"/", "..", "9E2A41C0F1", 0}, {"/", "etc", "../etc/passwd", 0}, {"/", "active", "", 0}} {
		if got, err := q.arrived(); err == nil {
			t.Errorf("%v: %d", q, got)
		}
	}
}

func FuzzQueueFile(f *testing.F) {
	f.Add(append(records('L', strings.Repeat("x", 300)), records('N', "", "Received: by x id 1;", "\ty", " z")...))
	f.Add([]byte{'N', 0xff, 0xff, 0xff, 0xff, 0x7f, 'x'})
	f.Add([]byte{'N', 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		for rest := in; len(rest) > 0; {
			var data []byte
			before := rest
			if _, data, rest = record(rest); len(data)+len(rest) >= len(before) {
				t.Fatalf("%q: a record of %d bytes and %d after it", before, len(data), len(rest))
			}
		}
		deliveredTo(fields(in))
		for _, field := range fields(in) {
			receivedID(field)
		}
	})
}
