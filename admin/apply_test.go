package admin_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/inventory"
	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
)

const exported = `{"format":1,
"server":{"mode":"observe","limits":{"mailbox":{"messages/hour":50},"server":{"messages/day":100000}}},
"plans":[
{"plan":"default","mode":null},
{"plan":"gold","mode":null,"limits":{"subscription":{"messages/hour":500,"recipients/message":-1},"user":{"messages/hour":0}}},
{"plan":"system","mode":"off"}
],
"subscriptions":[
{"subscription":"acme","plan":"gold","contact":"post@acme.example","mode":null,"senders":["@acme.org","boss@bank.example"],"limits":{"messages/day":0}},
{"subscription":"bob","plan":"default","contact":null,"mode":"off"}
],
"domains":[
{"domain":"acme.example","subscription":"acme","document_root":"/home/acme/<www> & more","mode":"enforce","limits":{"recipients/day":2147483647}},
{"domain":"acme.net","subscription":"acme","document_root":null,"mode":null}
],
"mailboxes":[
{"mailbox":"info@acme.example","mode":"enforce","senders":["sales@acme.example"],"limits":{"messages/hour":5}}
],
"users":[
{"user":"acme","uid":1001,"host":"host1","subscription":"acme","mode":null,"limits":{"messages/hour":7}},
{"user":"acme","uid":1001,"host":"host2","subscription":"acme","mode":"off","senders":["@x.example"]},
{"user":"acme","uid":4294967295,"host":"host2","subscription":"bob","mode":null}
],
"exceptions":[
{"kind":"block","crontab":"php old.php"},
{"kind":"block","script":"/home/acme/www/old/"},
{"kind":"raise","object":"mailbox:info@acme.example","limit":"recipients/day","value":2147483647},
{"kind":"raise","object":"subscription:acme","limit":"messages/hour","value":-1,"until":"2130-01-01T00:00:00Z","why":"newsletter"},
{"kind":"whitelist","network":"192.0.2.0/24"},
{"kind":"whitelist","network":"2001:db8::/32"},
{"kind":"whitelist","object":"user:acme@host2","uid":1001}
]}
`

func (b *bench) export(t *testing.T) string {
	t.Helper()
	inv, err := b.Export(t.Context())
	b.must(t, err)
	var text bytes.Buffer
	b.must(t, inv.WriteJSON(&text))
	return text.String()
}

func parse(t *testing.T, text string) *inventory.Inventory {
	t.Helper()
	inv, err := inventory.ReadJSON("x", []byte(text), "host1")
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// TestRoundTrip: an export goes into an empty database, and comes out again as it
// was; a second import of it has nothing to do.
func TestRoundTrip(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	empty := b.export(t)
	dry, err := b.Apply(ctx, parse(t, exported), admin.Import{Source: "json", DryRun: true})
	b.must(t, err)
	if diff := cmp.Diff(empty, b.export(t)); diff != "" {
		t.Error("a dry run changed something:", diff)
	}
	done := 0
	diff, err := b.Apply(ctx, parse(t, exported), admin.Import{Source: "json", Progress: func(n, total int) {
		if n <= done || n > total {
			t.Errorf("progress from %d to %d of %d", done, n, total)
		}
		done = n
	}})
	b.must(t, err)
	if d := cmp.Diff(dry, diff); d != "" {
		t.Error("the dry run said something else:", d)
	}
	if d := cmp.Diff(exported, b.export(t)); d != "" {
		t.Error(d)
	}
	again, err := b.Apply(ctx, parse(t, exported), admin.Import{Source: "json"})
	b.must(t, err)
	// 1 server, 3 plans, 2 subscriptions, 2 domains, 1 mailbox, 3 users, 7 exceptions
	if len(again.Added)+len(again.Changed) != 0 || again.Same != 19 {
		t.Errorf("the second time: %+v", again)
	}
	audit := b.audit(t)
	if len(audit) != 17 || len(diff.Added)+len(diff.Changed) != 17 { // not the plans default and system
		t.Errorf("%d rows of the audit, %d changes", len(audit), len(diff.Added)+len(diff.Changed))
	}
	for _, want := range [][4]string{
		{"import json", "server", "mode inherit, messages/hour for mailbox unset, messages/day unset", "mode observe, messages/hour for mailbox 50, messages/day 100000"},
		{"import json", "plan:gold", "", "messages/hour for user 0, messages/hour for subscription 500, recipients/message for subscription unlimited"},
		{"import json", "subscription:acme", "", "plan gold, contact post@acme.example, senders @acme.org boss@bank.example, messages/day 0"},
		{"import json", "user:acme", "", "login acme, uid 1001, subscription acme, messages/hour 7"},
		{"import json", "user:acme@host2", "", "login acme, uid 1001, subscription acme, mode off, senders @x.example"},
		{"import json", "script:/home/acme/www/old/", "", "block"},
		{"import json", "subscription:acme", "", "raise messages/hour unlimited until 2130-01-01T00:00:00Z"},
	} {
		found := false
		for _, row := range audit {
			found = found || row == want
		}
		if !found {
			t.Errorf("the audit has no %q", want)
		}
	}
}

// TestImportChanges: what is said replaces what was, what is not said stays.
func TestImportChanges(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	_, err := b.Apply(ctx, parse(t, exported), admin.Import{Source: "json"})
	b.must(t, err)
	before := len(b.audit(t))
	diff, err := b.Apply(ctx, parse(t, `{"format":1,
"subscriptions":[{"subscription":"acme","plan":"default","contact":null,"senders":["New@acme.org","@acme.org","@acme.org"]},{"subscription":"bob"}],
"domains":[{"domain":"ACME.example","document_root":null,"mode":null,"limits":{"recipients/day":null,"messages/day":3}}],
"mailboxes":[{"mailbox":"new@acme.net","senders":["@acme.net"]},{"mailbox":"info@acme.example","senders":null}],
"users":[{"user":"acme2","uid":1001,"subscription":"bob"}],
"exceptions":[{"kind":"block","script":"/home/x","until":"2020-01-01T00:00:00Z"}]}`), admin.Import{Source: "json"})
	b.must(t, err)
	want := &admin.Difference{
		Added: []admin.Change{{Object: "mailbox:new@acme.net", After: "senders @acme.net"}},
		Changed: []admin.Change{
			{"subscription:acme", "plan gold, contact post@acme.example, senders @acme.org boss@bank.example",
				"plan default, no contact, senders @acme.org new@acme.org"},
			{"domain:acme.example", "document root /home/acme/<www> & more, mode enforce, recipients/day 2147483647, messages/day unset",
				"no document root, mode inherit, recipients/day unset, messages/day 3"},
			{"mailbox:info@acme.example", "senders sales@acme.example", "no senders"},
			{"user:acme", "login acme, subscription acme", "login acme2, subscription bob"},
		},
		Kept:      []admin.Change{{"script:/home/x", "no block", "block until 2020-01-01T00:00:00Z, which is over"}},
		Same:      1,
		Conflicts: []admin.Conflict{},
	}
	if d := cmp.Diff(want, diff); d != "" {
		t.Error(d)
	}
	if n := len(b.audit(t)) - before; n != 5 {
		t.Errorf("%d rows of the audit", n)
	}
	after := b.export(t)
	for _, line := range []string{
		`{"subscription":"acme","plan":"default","contact":null,"mode":null,"senders":["@acme.org","new@acme.org"],"limits":{"messages/day":0}}`,
		`{"mailbox":"info@acme.example","mode":"enforce","limits":{"messages/hour":5}}`,
		`{"mailbox":"new@acme.net","mode":null,"senders":["@acme.net"]}`,
		`{"domain":"acme.example","subscription":"acme","document_root":null,"mode":null,"limits":{"messages/day":3}}`,
		`{"user":"acme2","uid":1001,"host":"host1","subscription":"bob","mode":null,"limits":{"messages/hour":7}}`,
	} {
		if !strings.Contains(after, line) {
			t.Errorf("%s is not in\n%s", line, after)
		}
	}
}

func noScript(s string) string {
	return fmt.Sprintf("%q is no path of a script: write an absolute one without . and .., or a directory with / at its end", s)
}

// TestConflicts: all are told, and nothing is changed.
func TestConflicts(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	_, err := b.Apply(ctx, parse(t, exported), admin.Import{Source: "json"})
	b.must(t, err)
	diff, err := b.Apply(ctx, parse(t, `{"format":1,
"plans":[{"plan":"new one"},{"plan":"fine"}],
"subscriptions":[{"subscription":"acme","plan":"lead"},{"subscription":"x","plan":"lead"},{"subscription":"bob","contact":"no body"}],
"domains":[{"domain":"acme.example","subscription":"bob"},{"domain":"y.example","subscription":"y"},{"domain":"z.example"},{"domain":"acme.net","document_root":"www"}],
"mailboxes":[{"mailbox":"a@nowhere.example"},{"mailbox":"a b@acme.net"},{"mailbox":"info@acme.example","senders":["acme.net"]}],
"users":[{"user":"a/b","uid":5,"subscription":"bob"},{"user":"c","uid":6}],
"exceptions":[{"kind":"block","object":"domain:gone.example"},{"kind":"block","network":"192.0.2.0/24"},{"kind":"whitelist","network":"192.0.2.1/24"},
{"kind":"block","script":"x.php"},{"kind":"block","crontab":"a\u0000bcd"},
{"kind":"block","object":"server"},{"kind":"whitelist","object":"plan:gold"},{"kind":"block","crontab":"x"},
{"kind":"block","script":"/"},{"kind":"block","script":"/a/../b"},{"kind":"whitelist","network":"0.0.0.0/0"},
{"kind":"raise","object":"plan:gold","limit":"messages/hour","value":1},{"kind":"block","crontab":"abcd","why":"a\nb"}]}`), admin.Import{Source: "json"})
	refused(t, err, "26 conflicts: nothing was changed", "")
	want := []admin.Conflict{
		{2, "plan:new one", `"new one" cannot be the name of a plan: use 1 to 254 printable characters without spaces`, ""},
		{3, "subscription:acme", "there is no plan lead", "mailctl plan add lead"},
		{3, "subscription:x", "there is no plan lead", "mailctl plan add lead"},
		{3, "subscription:bob", `contact "no body" is no address`, ""},
		{4, "domain:acme.example", "belongs to subscription acme, not bob", "mailctl domain set acme.example --subscription bob"},
		{4, "domain:y.example", "there is no subscription y", "mailctl subscription add y"},
		{4, "domain:z.example", "is new here: say of which subscription it is", ""},
		{4, "domain:acme.net", `document root "www" is no absolute path`, ""},
		{5, "mailbox:a@nowhere.example", "there is no domain nowhere.example", "mailctl domain add nowhere.example --subscription NAME"},
		{5, "mailbox:a b@acme.net", `"a b@acme.net" cannot be the name of a mailbox: use 1 to 254 printable characters without spaces`, ""},
		{5, "mailbox:info@acme.example", `sender "acme.net" is no address: write info@shop.example, or @shop.example for all of the domain`, ""},
		{6, "user:a/b", `"a/b" cannot be the name of a user: use a login name`, ""},
		{6, "user:c", "is new here: say of which subscription it is", ""},
		{7, "domain:gone.example", "block of an object that is not there", ""},
		{7, "network:192.0.2.0/24", "a network is in a white list, and its address is the first one in it", ""},
		{7, "network:192.0.2.1/24", "a network is in a white list, and its address is the first one in it", ""},
		{8, "script:x.php", noScript("x.php"), ""},
		{8, "crontab:a\x00bcd", `"a\x00bcd" cannot be part of a crontab line: write 4 to 1000 bytes on one line`, ""},
		{9, "server", `"server" cannot be the subject of a block: write user:, mailbox:, domain:, subscription:, script:PATH or crontab:TEXT`, ""},
		{9, "plan:gold", `"plan:gold" cannot be the subject of a whitelist: write user:, mailbox:, domain:, subscription:, script:PATH or crontab:TEXT or network:CIDR`, ""},
		{9, "crontab:x", `"x" cannot be part of a crontab line: write 4 to 1000 bytes on one line`, ""},
		{10, "script:/", noScript("/"), ""},
		{10, "script:/a/../b", noScript("/a/../b"), ""},
		{10, "network:0.0.0.0/0", "is everybody: mailctl whitelist add network:0.0.0.0/0 --yes", ""},
		{11, "plan:gold", "a plan is charged nothing: it holds the defaults of its subscriptions", ""},
		{11, "crontab:abcd", "a text that is too long, or has control characters", ""},
	}
	if d := cmp.Diff(want, diff.Conflicts); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(exported, b.export(t)); d != "" {
		t.Error("something was changed:", d)
	}
}

// TestObserved: what a server's files say fills in what is not known, and takes
// nothing from an administrator.
func TestObserved(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	system := inventory.NewSystem("host1", 1000, []byte("alice:x:1001:1001::/home/alice:/bin/sh\nbob:x:1002:1002::/home/bob:/bin/sh\ncarol:x:1003:1003::/home/carol:/bin/sh\n"))
	owners := func() *inventory.Inventory {
		inv, err := inventory.ReadOwners([]inventory.File{{Name: "x", Text: []byte("a.example: alice\nstayed.example: alice\nb.example: bob\nc.example: carol\n")}}, system)
		b.must(t, err)
		return inv
	}
	// alice has sent mail, and was put under acme; b.example is known already.
	_, _, _, err := b.store.EnsureUser(ctx, 1001, "alice")
	b.must(t, err)
	b.must(t, b.AddSubscription(ctx, "acme", "default", ""))
	b.must(t, b.AddDomain(ctx, "stayed.example", "alice", ""))
	b.must(t, b.SetUser(ctx, "alice", "acme"))
	b.must(t, b.AddSubscription(ctx, "bob", "system", ""))
	b.must(t, b.AddDomain(ctx, "b.example", "bob", "/set/by/hand"))

	diff, err := b.Apply(ctx, owners(), admin.Import{Source: "cpanel"})
	b.must(t, err)
	want := []admin.Change{
		{Object: "domain:a.example", After: "subscription acme"},
		{Object: "user:bob", After: "login bob, uid 1002, subscription bob"},
		{Object: "subscription:carol", After: "plan default"},
		{Object: "user:carol", After: "login carol, uid 1003, subscription carol"},
		{Object: "domain:c.example", After: "subscription carol"},
	}
	if d := cmp.Diff(want, diff.Added); d != "" || len(diff.Changed) > 0 {
		t.Error(d, diff.Changed)
	}
	again, err := b.Apply(ctx, owners(), admin.Import{Source: "cpanel"})
	b.must(t, err)
	if len(again.Added)+len(again.Changed) > 0 {
		t.Errorf("the second time: %+v", again)
	}

	// A document root that is known stays, another is filled in; a plan stays.
	apache := owners()
	for i := range apache.Objects {
		switch o := &apache.Objects[i]; {
		case o.Class == quota.Domain:
			o.DocumentRoot = inventory.Say("/www/" + o.Name)
		case o.Class == quota.Subscription:
			o.Parent = "system"
		}
	}
	diff, err = b.Apply(ctx, apache, admin.Import{Source: "apache"})
	b.must(t, err)
	if d := cmp.Diff([]admin.Change{{"domain:a.example", "no document root", "document root /www/a.example"},
		{"domain:stayed.example", "no document root", "document root /www/stayed.example"}, {"domain:c.example", "no document root", "document root /www/c.example"}}, diff.Changed); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]admin.Change{{"domain:b.example", "document root /set/by/hand", "document root /www/b.example"}}, diff.Kept); d != "" {
		t.Error(d)
	}

	// Another panel calls the subscription by its domain; one whose domain is
	// another's is a conflict.
	plesk, err := inventory.ReadPlesk("x", []byte("bob.example\tbob.example\tbob\tNULL\tinfo@bob.example\na.example\ta.example\tcarol\tNULL\tNULL\n"), system)
	b.must(t, err)
	diff, err = b.Apply(ctx, plesk, admin.Import{Source: "plesk"})
	refused(t, err, "a conflict: nothing was changed", "mailctl domain set a.example --subscription carol")
	if d := cmp.Diff([]admin.Change{{Object: "domain:bob.example", After: "subscription bob"}, {Object: "mailbox:info@bob.example"}}, diff.Added); d != "" {
		t.Error(d)
	}
}

// TestImportAndOthers: mail goes on meanwhile, and what somebody else makes is
// neither lost nor made twice.
func TestImportAndOthers(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	b.must(t, b.AddSubscription(ctx, "acme", "default", ""))
	many := new(inventory.Inventory)
	for i := range 20_000 {
		many.Objects = append(many.Objects, inventory.Object{Ref: inventory.Ref{Class: quota.Domain, Name: fmt.Sprintf("d%d.example", i)}, Parent: "acme"})
	}
	mail := func() {
		_, err := b.store.Decide(ctx, []quota.Message{{ID: uuid.Must(uuid.NewV7()), Recipients: 1, Sender: "alice@host1.example",
			Origin: origin.Origin{UID: 1001, User: "alice", Kind: origin.Shell, KindProof: origin.Claimed}}})
		b.must(t, err)
	}
	mail()
	other := make(chan error, 1)
	var once sync.Once
	diff, err := b.Apply(ctx, many, admin.Import{Source: "json", Progress: func(int, int) {
		mail() // goes on, and so does an export
		if strings.Contains(b.export(t), "d1.example") {
			t.Error("what is not committed was seen")
		}
		once.Do(func() { go func() { other <- b.AddDomain(ctx, "d19999.example", "acme", "") }() })
	}})
	b.must(t, err)
	want := 20_000
	if err := <-other; err == nil { // it was first, and the import began again
		want--
	} else {
		refused(t, err, "domain d19999.example exists already", "mailctl domain show d19999.example")
	}
	if len(diff.Added) != want {
		t.Errorf("%d added, want %d", len(diff.Added), want)
	}
	var n int
	b.must(t, b.pool.QueryRow(ctx, `SELECT count(*) FROM domain`).Scan(&n))
	if n != 20_000 {
		t.Errorf("%d domains", n)
	}
}

// TestLargeImport: 50,000 objects in a few seconds.
func TestLargeImport(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	var csv strings.Builder
	csv.WriteString("subscription,user,uid,domain,document_root,mailbox,messages/hour\n")
	for i := range 10_000 {
		fmt.Fprintf(&csv, "s%[1]d,u%[1]d,%[2]d,,,,\ns%[1]d,,,d%[1]d.example,/home/u%[1]d,,\n,,,,,a@d%[1]d.example,100\n,,,,,b@d%[1]d.example,\n", i, 10_000+i)
	}
	read := func() *inventory.Inventory {
		inv, err := inventory.ReadCSV("x", []byte(csv.String()), inventory.NewSystem("host1", 1000, nil))
		b.must(t, err)
		return inv
	}
	start := time.Now()
	diff, err := b.Apply(ctx, read(), admin.Import{Source: "csv"})
	b.must(t, err)
	t.Logf("%d objects in %v", len(diff.Added), time.Since(start))
	if len(diff.Added) != 50_000 || time.Since(start) > time.Minute {
		t.Errorf("%d added in %v", len(diff.Added), time.Since(start))
	}
	again, err := b.Apply(ctx, read(), admin.Import{Source: "csv"})
	b.must(t, err)
	if again.Same != 50_000 {
		t.Errorf("%d the same", again.Same)
	}
	if n := strings.Count(b.export(t), "\n"); n != 50_000+2+7*2 {
		t.Errorf("%d lines", n)
	}
}
