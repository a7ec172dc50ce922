package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// isOursHere is for texts that have our lines only.
func isOursHere(string) bool { return true }

func TestClosedMain(t *testing.T) {
	const ours = "authorized_submit_users = root, mailquota, mailquota-submit"
	for _, c := range []struct {
		text string
		own  bool   // the main instance
		want string // a line; "" nothing is changed
		note string
	}{
		{"", true, ours, ""},
		{"a = 1\n", true, ours, ""},
		{"a = 1", true, ours, ""},
		{"a =\n  1", true, ours, ""},
		{"authorized_submit_users = static:anyone\nb = 2\n", true, ours, ""},
		{"authorized_submit_users = !www-data,static:all", true, ours + ", !www-data", "= !www-data,static:all: whom it kept"},
		{"authorized_submit_users =\n  root # x\n\n  bob\nb = 2\n", true, ours + ", #, x, bob", "whom it names"},
		{"authorized_submit_users =\nb = 2\n", true, ours, "whom it kept"},
		{"authorized_submit_users =\nb = 2\n", false, "", ""},
		{"authorized_submit_users = root, mailquota-submit, nagios\n", true, "", ""},
		{"authorized_submit_users = a\nauthorized_submit_users = b\n", true, ours + ", b", "whom it kept"},
	} {
		closed, note := closedMain([]byte(c.text), false, c.own)
		if c.want == "" && string(closed) != c.text || !strings.Contains("\n"+string(closed)+"\n", "\n"+c.want+"\n") {
			t.Errorf("%q: no line %q in:\n%s", c.text, c.want, closed)
		}
		if !strings.Contains(note, c.note) || note != "" && c.note == "" {
			t.Errorf("%q: note %q, want %q", c.text, note, c.note)
		}
		if p, _ := setting(closed, authorizedSubmit); c.want != "" && authorizedSubmit+" = "+p.value != c.want {
			t.Errorf("%q: %s = %s holds", c.text, authorizedSubmit, p.value)
		}
		if again, _ := closedMain(closed, false, c.own); string(again) != string(closed) {
			t.Errorf("%q again:\n%s", c.text, again)
		}
		if open, _ := closedMain(closed, true, c.own); string(open) != c.text {
			t.Errorf("%q comes back as %q", c.text, open)
		}
	}
}

// TestClosedMainOthers: what others write meanwhile stays.
func TestClosedMainOthers(t *testing.T) {
	closed, _ := closedMain([]byte("a = 1\nauthorized_submit_users = bob\n"), false, true)
	edited := strings.Replace("# mine\n"+string(closed)+"b = 2\n", "mailquota, mailquota-submit, bob", "carol", 1) // as postconf -e does
	open, _ := closedMain([]byte(edited), true, true)
	if want := "# mine\na = 1\nauthorized_submit_users = root, carol\nb = 2\n"; string(open) != want {
		t.Errorf("%q, want %q", open, want)
	}
	stripped := strings.ReplaceAll(string(closed), " \n", "\n")
	if open, _ := closedMain([]byte(stripped), true, true); string(open) != "a = 1\nauthorized_submit_users = bob\n" {
		t.Errorf("without blanks at line ends: %q", open)
	}
}

func TestCloseExim(t *testing.T) {
	const test = "inlist{$caller_uid}{0:7:8:$exim_uid}"
	notSMTP := func(then string) string { return "acl_not_smtp = " + eximACL(eximNotSMTP, then, []string{"7", "8"}) }
	connect := func(then string) string {
		return "acl_smtp_connect = " + eximACL(eximConnect, then, []string{"7", "8"})
	}
	for _, c := range []struct {
		name  string
		files []string
		want  [][]string // lines of each file
	}{
		{"nothing set", []string{"primary_hostname = a\nbegin acl\nacl_not_smtp = no setting\n"},
			[][]string{{notSMTP("accept"), connect("accept"), "trusted_users = 8"}}},
		{"all set", []string{"acl_not_smtp = mine\n  hide acl_smtp_connect = \\\n # why\n  ${if eq{a}{b}{x}{y}}\ntrusted_users = uucp : www\nbegin acl\n"},
			[][]string{{notSMTP("mine"), connect("${if eq{a}{b}{x}{y}}"), "trusted_users = uucp : www : 8"}}},
		{"another separator, no end", []string{"trusted_users = <; a ; b"}, [][]string{{"trusted_users = <; a ; b ; 8"}}},
		{"Debian", []string{"", ".ifndef MAIN_TRUSTED_USERS\nMAIN_TRUSTED_USERS = uucp\n.endif\ntrusted_users = MAIN_TRUSTED_USERS\nbegin acl\n"},
			[][]string{{notSMTP("accept"), "MAIN_TRUSTED_USERS = uucp : 8"}, {"MAIN_TRUSTED_USERS = uucp"}}},
		{"Debian, a macro of the administrator", []string{"MAIN_TRUSTED_USERS = www", ".ifndef MAIN_TRUSTED_USERS\nMAIN_TRUSTED_USERS = uucp\n.endif\ntrusted_users = MAIN_TRUSTED_USERS\n"},
			[][]string{{"MAIN_TRUSTED_USERS = www : 8", connect("accept")}, {"MAIN_TRUSTED_USERS = uucp"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			edits := make([]*edit, len(c.files))
			for i, text := range c.files {
				edits[i] = &edit{before: []byte(text), after: []byte(text)}
			}
			if err := closeExim(edits, 0, []string{"7", "8"}); err != nil {
				t.Fatal(err)
			}
			for i, e := range edits {
				for _, want := range c.want[i] {
					if !strings.Contains("\n"+string(e.after)+"\n", "\n"+want+"\n") {
						t.Errorf("no line %q in:\n%s", want, e.after)
					}
				}
				if got, _ := withoutHarden(e.after, isOursHere); string(got) != c.files[i] {
					t.Errorf("%q comes back as %q", c.files[i], got)
				}
			}
			if !strings.Contains(string(edits[0].after), test) && c.name != "another separator, no end" {
				t.Errorf("no %s in:\n%s", test, edits[0].after)
			}
		})
	}
	for _, value := range []string{"${if eq{a}{b}", `"quoted"`, "a}{b"} {
		if err := closeExim([]*edit{{after: []byte("acl_not_smtp = " + value + "\n")}}, 0, []string{"7"}); err == nil {
			t.Errorf("%s is put within braces", value)
		}
	}
}

// TestStartOf: a process is known by its number and start, and one that has ended by none.
func TestStartOf(t *testing.T) {
	if startOf(os.Getpid()) == "" {
		t.Error("this process has not started")
	}
	if got := startOf(1 << 30); got != "" {
		t.Errorf("a process that is not there has started at %q", got)
	}
	if uid, err := realUID(os.Getpid()); err != nil || uid != os.Getuid() {
		t.Errorf("uid %d, %v", uid, err)
	}
}

func TestHardenRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "harden.json")
	r, err := readHardenRecord(path)
	if err != nil {
		t.Fatal(err)
	}
	r.Network, r.Forwards = true, "plain"
	if err := r.write(); err != nil {
		t.Fatal(err)
	}
	again, err := readHardenRecord(path)
	if err != nil || *again != *r {
		t.Errorf("%+v, %v; want %+v", again, err, r)
	}
	again.Network, again.Forwards = false, ""
	if err := again.write(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("a record of nothing stays: %v", err)
	}
}
