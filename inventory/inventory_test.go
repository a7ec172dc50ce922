package inventory_test

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"sendmail-wrapper/inventory"
	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
)

// system is a host with the users of testdata/passwd.
func system(t testing.TB) *inventory.System {
	passwd, err := os.ReadFile("testdata/passwd")
	if err != nil {
		t.Fatal(err)
	}
	s := inventory.NewSystem("host1", 1000, passwd)
	s.Read = func(path string) ([]byte, error) { return inventory.ReadFile(path, inventory.MaxFile) }
	s.Glob = filepath.Glob
	s.Owner = func(path string) (uint32, bool) {
		uid, ok := map[string]uint32{"/var/www/html": 33, "/home/bob/public_html": 1002}[path]
		return uid, ok
	}
	return s
}

func text(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// lines shows an inventory, a line an object.
func lines(inv *inventory.Inventory) (list []string) {
	for _, o := range inv.Objects {
		line := o.Ref.String()
		if o.Class == quota.User {
			line += fmt.Sprintf(" %d", o.UID)
		}
		line += " < " + cmp.Or(o.Parent, "-")
		for _, p := range []struct {
			name string
			inventory.Text
		}{{"contact", o.Contact}, {"root", o.DocumentRoot}, {"mode", o.Mode}} {
			if p.Said {
				line += fmt.Sprintf(" %s=%s", p.name, p.Value)
			}
		}
		for _, l := range o.Limits {
			line += fmt.Sprintf(" %s[%s]=%s", l.Limit, l.For, cmp.Or(inventory.ValueText(l.Value), "inherit"))
		}
		list = append(list, line)
	}
	for _, n := range inv.Notes {
		list = append(list, "note: "+n)
	}
	return list
}

func check(t *testing.T, inv *inventory.Inventory, err error, observed bool, want ...string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if inv.Observed != observed {
		t.Errorf("observed: %v", inv.Observed)
	}
	if diff := gocmp.Diff(want, lines(inv)); diff != "" {
		t.Error(diff)
	}
}

func TestPasswd(t *testing.T) {
	inv, err := inventory.ReadPasswd("passwd", text(t, "passwd"), system(t), 1000, 60000)
	check(t, inv, err, true,
		"subscription:alice < -", "user:alice@host1 1001 < alice",
		"subscription:bob < -", "user:bob@host1 1002 < bob",
		"subscription:carol < -", "user:carol@host1 1005 < carol",
		"note: left out: 2 users of services, who cannot log in and have no home of a person")
	inv, err = inventory.ReadPasswd("passwd", text(t, "passwd"), system(t), 0, 100)
	check(t, inv, err, true,
		"subscription:root < system", "user:root@host1 0 < root",
		"subscription:www-data < system", "user:www-data@host1 33 < www-data",
		"note: left out: 1 users of services, who cannot log in and have no home of a person")
}

func TestOwners(t *testing.T) {
	inv, err := inventory.ReadOwners([]inventory.File{{"userdomains", text(t, "userdomains")}, {"trueuserdomains", text(t, "trueuserdomains")}}, system(t))
	check(t, inv, err, true,
		"subscription:alice < -", "user:alice@host1 1001 < alice",
		"domain:acme.example < alice", "domain:blog.acme.example < alice", "domain:parked.example < alice",
		"subscription:bob < -", "user:bob@host1 1002 < bob",
		"domain:bob.example < bob", "domain:addon.bob.example < bob",
		"subscription:gone < -", "domain:copied.example < gone",
		"note: left out: domain server1.hoster.example of nobody, who is no customer")
	inv, err = inventory.ReadOwners([]inventory.File{{"domainowners", text(t, "domainowners")}}, system(t))
	check(t, inv, err, true,
		"subscription:alice < -", "user:alice@host1 1001 < alice", "domain:acme.example < alice",
		"subscription:bob < -", "user:bob@host1 1002 < bob", "domain:bob.example < bob",
		"note: left out: domain hoster.example of root, who is no customer")
}

func TestPlesk(t *testing.T) {
	inv, err := inventory.ReadPlesk("plesk.tsv", text(t, "plesk.tsv"), system(t))
	check(t, inv, err, true,
		"subscription:acme.example < -", "domain:acme.example < acme.example root=/var/www/vhosts/acme.example/httpdocs",
		"user:alice@host1 1001 < acme.example", "mailbox:info@acme.example < acme.example", "mailbox:post@acme.example < acme.example",
		"domain:shop.example < acme.example root=/var/www/vhosts/acme.example/shop",
		"subscription:mail-only.example < -", "domain:mail-only.example < mail-only.example", "mailbox:john@mail-only.example < mail-only.example")
}

func TestFPM(t *testing.T) {
	pools, err := origin.ReadPools("testdata/fpm.conf")
	if err != nil {
		t.Fatal(err)
	}
	inv, err := inventory.ReadFPM(pools, system(t))
	check(t, inv, err, true,
		"subscription:alice < -", "user:alice@host1 1001 < alice", "domain:acme.example < alice",
		"subscription:bob < -", "user:bob@host1 1002 < bob",
		`note: left out: pool www of "www-data", who is no customer`)
}

func TestApache(t *testing.T) {
	const sites = "testdata/apache/sites-enabled/"
	want := []string{
		"subscription:alice < -", "user:alice@host1 1001 < alice",
		`domain:acme.example < alice root=/var/www/vhosts/acme.example/htt"p docs`, "domain:acme.net < alice", "domain:more.example < alice",
		"subscription:bob < -", "user:bob@host1 1002 < bob",
		"domain:www.bob.example < bob root=/home/bob/public_html", "domain:bob.example < bob",
		"domain:bob.acme.net < bob root=/home/bob/public_html",
		"note: left out: virtual host at " + sites + "000-default.conf:1: its user www-data is no customer",
		"note: left out: acme.net of bob at " + sites + "bob.conf:11: a virtual host of alice has that name before",
		"note: left out: virtual host at " + sites + "bob.conf:16: it has no document root and no user",
		"note: left out: virtual host at " + sites + "bob.conf:19: its document root /home/gone is not there",
	}
	inv, err := inventory.ReadApache("testdata/apache/apache2.conf", system(t))
	check(t, inv, err, true, want...)
	inv, err = inventory.ReadApache("testdata/apache/sites-enabled", system(t))
	want[2] = strings.Replace(want[2], "root=/var/www/vhosts/acme", "root=/nowhere/acme", 1)
	if err != nil {
		t.Fatal(err)
	}
	// What apache2.conf defines is not known there.
	if got := lines(inv); slices.Contains(got, want[2]) || !slices.Contains(got, want[7]) {
		t.Errorf("%q", got)
	}
}

// TestApacheFiles: nothing but regular files is read, and not for ever.
func TestApacheFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"loop": "Include loop", "device": "Include /dev/zero", "missing": "Include nothing", "open": "<VirtualHost *>",
		"crossed": "<IfModule a>\n<VirtualHost *>\n</IfModule>", "end": "</VirtualHost>", "bracket": "<VirtualHost *", "nested": strings.Repeat("<IfModule x>\n", 200),
		"in": "<VirtualHost *>\n<VirtualHost *>", "nul": "a\x00", "optional": "IncludeOptional nothing\nIncludeOptional dangling*\nInclude empty"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("/nowhere", filepath.Join(dir, "dangling")), os.Mkdir(filepath.Join(dir, "empty"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"loop": "loop: too many files, or they include each other", "device": "/dev/zero is no regular file",
		"missing": "missing:1: include " + dir + "/nothing: there is no such file", "open": "open:1: <virtualhost> has no end",
		"crossed": "crossed:3: </ifmodule> without its beginning", "end": "end:1: </virtualhost> without its beginning", "bracket": "bracket:1: <VirtualHost *: > is missing",
		"nested": "nested:129: too many sections in each other", "in": "in:2: <VirtualHost> within another", "nul": "nul:1:2: a NUL byte: this is no text", "optional": ""} {
		_, err := inventory.ReadApache(filepath.Join(dir, name), system(t))
		if got := fmt.Sprint(cmp.Or(err, errors.New(""))); strings.TrimPrefix(got, dir+"/") != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestCSV(t *testing.T) {
	for _, name := range []string{"customers.csv", "customers-windows.csv"} {
		inv, err := inventory.ReadCSV(name, text(t, name), system(t))
		check(t, inv, err, false,
			"plan:gold < - messages/hour[subscription]=500",
			"subscription:acme < gold contact=post@acme.example", "user:alice@host1 1001 < acme",
			"domain:acme.example < acme root=/home/alice/www messages/hour[domain]=200 recipients/day[domain]=1000",
			"mailbox:info@acme.example < acme.example mode=observe messages/hour[mailbox]=50 recipients/day[mailbox]=unlimited",
			"mailbox:post@acme.example < acme.example messages/hour[mailbox]=inherit",
			"subscription:bob < -", "user:bob@host2 2002 < bob mode=off")
	}
}

// TestBadCSV: each error says where.
func TestBadCSV(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "x:1: there is no line that names the columns"},
		{"subscription,colour\n", `x:1:14: "colour" is no column: there are plan, subscription`},
		{"subscription;plan\n", "columns are separated by commas"},
		{"plan,subscription,Plan \n", "x:1:19: column plan stands there twice"},
		{"plan\n\"a", `x:2:3: extraneous or missing " in quoted-field`},
		{"plan,mode\na\n", "x:2:1: wrong number of fields"},
		{"plan,mode\na,b,c\n", "x:2:1: wrong number of fields"},
		{"plan,mode\ngold,off\nlead,maybe\n", `x:3: "maybe" is no mode`},
		{"plan\n=HYPERLINK(1)\n", `x:2:1: plan "=HYPERLINK(1)" begins as a formula does`},
		{"mode,plan\noff,@SUM(1)\n", `x:2:5: plan "@SUM(1)" begins`},
		{"plan\na\x00b\n", "x:2:2: a NUL byte"},
		{"plan\r\na\r\n\xff\r\n", "x:3:1: byte 0xFF: this is no UTF-8"},
		{"\xff\xfep\x00l\x00", "x:1:1: this is UTF-16"},
		{"plan\n" + strings.Repeat("a", 70000), "x:2: line of 70000 bytes: 65536 are the most"},
		{strings.Repeat(",", 1_000_000), "x:1: line of 1000000 bytes"},
		{strings.Repeat(",", 1000), `x:1:1: "" is no column`},
		{"user,mode\nalice,\n", `x:2: user "alice" without a subscription`},
		{"subscription,uid\na,5\n", `x:2: uid "5" without a user`},
		{"subscription,document_root\na,/x\n", `x:2: document_root "/x" without a domain`},
		{"plan,domain\na,x.example\n", `x:2: plan "a" without a subscription`},
		{"mode,plan\noff,\n", "x:2: no object: name a plan"},
		{"subscription,user\na,nosuch\n", "x:2: there is no login nosuch on host1 that is known here: give his uid"},
		{"subscription,user,host\na,alice,host2\n", "x:2: there is no login alice on host2"},
		{"subscription,user,uid\na,alice,4294967296\n", `x:2: uid "4294967296" is no number`},
		{"mailbox\nnobody\n", `x:2: mailbox "nobody" is no address`},
		{"mailbox,domain\na@b.example,c.example\n", "x:2: mailbox a@b.example is not of domain c.example"},
		{"plan,messages/hour\na,2147483648\n", `x:2: messages/hour: "2147483648" is no limit`},
		{"plan,messages/hour\na,1.5\n", `x:2: messages/hour: "1.5" is no limit`},
		{"subscription,user,domain,messages/hour\na,alice,x.example,5\n", "x:2: limits of domain:x.example, or of the user? Write two lines"},
		{"subscription,plan\na,gold\na,lead\n", `x:3: subscription:a: plan "lead", but line 2 says "gold"`},
		{"subscription,contact\na,a@b.example\na,c@b.example\n", `x:3: subscription:a: contact "c@b.example", but line 2 says "a@b.example"`},
		{"plan,messages/hour\na,5\na,6\n", `x:3: plan:a: messages/hour "6", but line 2 says "5"`},
		{"subscription,user,uid\na,alice,5\na,bob,5\n", `x:3: user:bob@host1: uid "bob", but line 2 says "alice"`},
	} {
		_, err := inventory.ReadCSV("x", []byte(c.text), system(t))
		if !errors.As(err, new(*inventory.Error)) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: %v, want %q", c.text, err, c.want)
		}
	}
}

func TestBadLines(t *testing.T) {
	s := system(t)
	for _, c := range []struct {
		name string
		read func(text string) error
		text string
		want string
	}{
		{"passwd", func(x string) error { _, err := inventory.ReadPasswd("x", []byte(x), s, 0, 9); return err }, "root:x:0:0::/:/bin/sh\nroot 0\n", "x:2: no line of passwd(5)"},
		{"owners", func(x string) error {
			_, err := inventory.ReadOwners([]inventory.File{{"x", []byte(x)}}, s)
			return err
		}, "a.example: alice\na.example bob\n", "x:2: no line DOMAIN: USER"},
		{"owners", func(x string) error {
			_, err := inventory.ReadOwners([]inventory.File{{"x", []byte(x)}}, s)
			return err
		}, "a.example: alice\na.example: bob\n", `x:2: domain:a.example: subscription "bob", but line 1 says "alice"`},
		{"plesk", func(x string) error { _, err := inventory.ReadPlesk("x", []byte(x), s); return err }, "a\tb\tc\td\n", "x:1: 4 columns instead of 5"},
		{"plesk", func(x string) error { _, err := inventory.ReadPlesk("x", []byte(x), s); return err }, "NULL\tb\tc\td\te\n", "x:1: no subscription, or no domain"},
	} {
		if err := c.read(c.text); !errors.As(err, new(*inventory.Error)) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestReadFile: a pipe or device is not even opened.
func TestReadFile(t *testing.T) {
	for _, path := range []string{"/dev/zero", "/dev/null", "testdata"} {
		if _, err := inventory.ReadFile(path, 100); err == nil {
			t.Errorf("%s was read", path)
		}
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := inventory.ReadFile(pipe, 100); err == nil {
		t.Error("a pipe was read")
	}
	if _, err := origin.ReadPools(pipe); err == nil {
		t.Error("a pipe was read for PHP-FPM")
	}
	if _, err := inventory.ReadFile("testdata/passwd", 100); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a file that is too large: %v", err)
	}
}
