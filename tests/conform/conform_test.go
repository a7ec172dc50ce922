package main

import (
	"os"
	"strings"
	"testing"
)

// TestOwnCases: no two cases of a mail server have the same name.
func TestOwnCases(t *testing.T) {
	for _, m := range mtas {
		cases, err := loadCases(m.name)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, c := range cases {
			if seen[c.ID] {
				t.Errorf("%s: two cases %s", m.name, c.ID)
			}
			seen[c.ID] = true
		}
	}
}

// TestMask: what varies is named, and nothing beside it.
func TestMask(t *testing.T) {
	for _, c := range []struct{ mta, text, want string }{
		{"postfix", "250 2.0.0 Ok: queued as 98E3AA44479\n", "250 2.0.0 Ok: queued as ID1\n"},
		{"postfix", "250-8BITMIME\n250 CHUNKING\nFACADE\n", "250-8BITMIME\n250 CHUNKING\nID1\n"},
		{"exim", "250 OK id=1xVQKf-00001F-2G\n\t<E1xVQKf-00001F-2G@x> 1xVQKf-00001F-2H", "250 OK id=ID1\n\t<EID1@x> ID2"},
		{"exim", "Date: Mon, 23 Nov 2026 09:27:29 +0000\n", "Date: DATE\n"},
		{"exim", "Mon, 32 Foo 2026", "Mon, 32 Foo 2026"},
		{"sendmail", "id 6AP0wkIt001445; <202611250040.6AP0wkIt001445@x> qf6AP0wkIt001445", "id ID1; DAYID1@x> qfID1"},
		{"opensmtpd", "250 2.0.0 0e52bba2 Message accepted", "250 2.0.0 ID1 Message accepted"},
		{"nullmailer", "(nullmailer pid 150 invoked by uid 1001)", "pidinvoked by uid 1001)"},
		{"dma", "\tid d01e6\n\tid d01e6x\n", "ID\n\tid d01e6x\n"},
	} {
		m, err := mtaByName(c.mta)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.masked(&result{stdout: c.text}).stdout; got != c.want {
			t.Errorf("%s: %q becomes %q, want %q", c.mta, c.text, got, c.want)
		}
	}
}

// TestMaildrop reads a queue file that postdrop(1) wrote.
func TestMaildrop(t *testing.T) {
	dir := t.TempDir()
	file := "T\x111795567223 816407A\x15rewrite_context=localS\x05aliceR\x09c@x.y.z.wM\x00N\x0aSubject: sN\x00L\x02paN\x02rtX\x00R\x05a@x.yE\x00"
	if err := os.WriteFile(dir+"/C76ACD02B4", []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	queued, err := readMaildrop(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(queued) != 1 || queued[0].sender != "alice" || strings.Join(queued[0].recipients, " ") != "c@x.y.z.w a@x.y" || queued[0].content != "Subject: s\n\npart\n" {
		t.Errorf("%+v", queued)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left in the queue: %v", left)
	}
	if err := os.WriteFile(dir+"/x", []byte(file[:40]), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readMaildrop(dir); err == nil {
		t.Error("a file that is cut short is read without an error")
	}
}
