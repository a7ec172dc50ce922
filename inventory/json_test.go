package inventory_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"sendmail-wrapper/inventory"
)

const export = `{"format":1,
"server":{"mode":"observe","limits":{"mailbox":{"messages/hour":50},"server":{"messages/day":100000}}},
"plans":[
{"plan":"default","mode":null},
{"plan":"evil\u001b[2J\u009b\u202e\udb40\udc01ü€","mode":null},
{"plan":"gold","mode":null,"limits":{"subscription":{"messages/hour":500,"recipients/message":-1}}}
],
"subscriptions":[
{"subscription":"acme","plan":"gold","contact":"post@acme.example","mode":null,"senders":["@acme.org","boss@bank.example"],"limits":{"messages/day":0}},
{"subscription":"bob","plan":"default","contact":null,"mode":"off"}
],
"domains":[
{"domain":"acme.example","subscription":"acme","document_root":"/home/acme/<www> & more","mode":null}
],
"mailboxes":[
{"mailbox":"info@acme.example","mode":"enforce","senders":["sales@acme.example"],"limits":{"messages/hour":5}}
],
"users":[
{"user":"acme","uid":1001,"host":"host1","subscription":"acme","mode":null},
{"user":"acme","uid":1001,"host":"host2","subscription":"acme","mode":null,"senders":["@x.example"]}
],
"exceptions":[
{"kind":"block","script":"/home/acme/www/old/"},
{"kind":"raise","object":"subscription:acme","limit":"messages/hour","value":5000,"until":"2030-01-01T00:00:00Z","why":"newsletter"},
{"kind":"whitelist","network":"192.0.2.0/24"},
{"kind":"whitelist","object":"user:acme@host2","uid":1001}
]}
`

// TestJSON: what is read is written as it was.
func TestJSON(t *testing.T) {
	inv, err := inventory.ReadJSON("x", []byte(export), "host1")
	if err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	if err := inv.WriteJSON(&again); err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(export, again.String()); diff != "" {
		t.Error(diff)
	}
	check(t, inv, err, false,
		"server < - mode=observe messages/hour[mailbox]=50 messages/day[server]=100000",
		"plan:default < - mode=", "plan:evil\x1b[2J\u009b\u202e\U000E0001ü€ < - mode=", "plan:gold < - mode= messages/hour[subscription]=500 recipients/message[subscription]=unlimited",
		"subscription:acme < gold contact=post@acme.example mode= messages/day[subscription]=0", "subscription:bob < default contact= mode=off",
		"domain:acme.example < acme root=/home/acme/<www> & more mode=",
		"mailbox:info@acme.example < acme.example mode=enforce messages/hour[mailbox]=5",
		"user:acme@host1 1001 < acme mode=", "user:acme@host2 1001 < acme mode=")

	// By hand: in any order, with what is said alone, and users of this host.
	inv, err = inventory.ReadJSON("x", []byte(`{"users": [{"user": "a", "uid": 7, "limits": {"messages/day": null}}], "format": 1, "domains": [ ]}`), "host1")
	check(t, inv, err, false, "user:a@host1 7 < - messages/day[user]=inherit")
}

func TestBadJSON(t *testing.T) {
	with := func(section, values string) string { return "{\"format\":1,\n\"" + section + "\":[\n" + values + "]}" }
	for _, c := range []struct{ text, want string }{
		{"", "x:1: the file ends too early"},
		{"[]", "x:1: [ where { should be"},
		{"{}", `x:1: "format" is missing`},
		{`{"format":2}`, "x:1: format 2: this program knows 1"},
		{`{"format":"1"}`, "x:1: a string is not what should be here"},
		{`{"format":1,"format":1}`, `x:1: "format" stands there twice`},
		{"{\"format\":1,\n\"colour\":1}", `x:2: "colour" is not in this format`},
		{`{"format":1} {}`, "x:1: something follows the end"},
		{`{"format":1`, "x:1: the file ends too early"},
		{"{\"format\":1,\n\"plans\":{}}", "x:2: { where [ should be"},
		{with("plans", `{"plan":"a"},`+"\n"+`{"plan":"a"}`), "x:4: plan:a stands there twice, first on line 3"},
		{with("plans", `{"plan":"a","plan":"b"}`), `x:3: "plan" stands there twice`},
		{with("plans", `{"plan":"a","Plan":"b"}`), `x:3: "plan" stands there twice`},
		{with("plans", `{"plan":"a","colour":"b"}`), `x:3: unknown field "colour"`},
		{with("plans", `{"plan":7}`), "x:3: plan cannot be a number"},
		{with("plans", `{"plan":"a","mode":"maybe"}`), `x:3: "maybe" is no mode`},
		{with("plans", `{"plan":"a","mode":""}`), `x:3: write null instead of ""`},
		{with("plans", `{"plan":"a","limits":{"messages/hour":5}}`), "x:3: limits cannot be a number"},
		{with("plans", `{"plan":"a","limits":{"plan":{"messages/hour":5}}}`), `x:3: plan:a: "plan" is no class with defaults`},
		{with("plans", `{"plan":"a","limits":{"server":{"messages/hour":5}}}`), `x:3: plan:a: "server" is no class with defaults`},
		{with("plans", `{"plan":"a","limits":{"user":{"messages/hour":5,"messages/hour":6}}}`), `x:3: "messages/hour" stands there twice`},
		{with("domains", `{"domain":"a.example","limits":{"messages/week":5}}`), `x:3: "messages/week" is no limit`},
		{with("domains", `{"domain":"a.example","limits":{"messages/hour":-2}}`), "x:3: domain:a.example messages/hour: -2 is no limit"},
		{with("domains", `{"domain":"a.example","limits":{"messages/hour":2147483648}}`), "2147483648 is no limit"},
		{with("domains", `{"domain":"a.example","limits":{"messages/hour":1e99}}`), "cannot be a number 1e99"},
		{with("domains", strings.Repeat("[", 200_000)), "exceeded max depth"},
		{with("domains", strings.Repeat(`{"a":`, 20)+"1"+strings.Repeat("}", 20)), "x:3: values too deep in each other"},
		{with("plans", `{"plan":"a","senders":["a@b.example"]}`), `x:3: unknown field "senders"`},
		{with("domains", `{"domain":"a.example","senders":"a@b.example"}`), "x:3: "},
		{with("domains", `{"domain":"a.example","senders":["a@b.example",""]}`), `x:3: senders: "" is no address`},
		{with("domains", `{"domain":"a.example","senders":["a@b.example c@d.example"]}`), `x:3: senders: "a@b.example c@d.example" is no address`},
		{with("users", `{"user":"a"}`), `x:3: uid of user "a": a number from 0 to 4294967295 must be given`},
		{with("users", `{"user":"a","uid":-1}`), `x:3: uid of user "a"`},
		{with("exceptions", `{"kind":"pardon","script":"/x"}`), `x:3: kind "pardon": write raise`},
		{with("exceptions", `{"kind":"block"}`), "x:3: an exception has one of"},
		{with("exceptions", `{"kind":"block","script":"/x","crontab":"y"}`), "x:3: an exception has one of"},
		{with("exceptions", `{"kind":"block","script":"/x","value":1}`), "x:3: a raise has limit and value"},
		{with("exceptions", `{"kind":"raise","script":"/x","value":1,"limit":"messages/hour"}`), "x:3: a raise is of an object"},
		{with("exceptions", `{"kind":"raise","object":"server","value":-5,"limit":"messages/hour"}`), "x:3: value -5"},
		{with("exceptions", `{"kind":"raise","object":"server","value":2147483648,"limit":"messages/hour"}`), "x:3: value 2147483648"},
		{with("exceptions", `{"kind":"block","object":"user:a"}`), "x:3: uid is given of a user"},
		{with("exceptions", `{"kind":"block","object":"acme"}`), `x:3: "acme" is no object`},
		{with("exceptions", `{"kind":"block","object":"server","until":"tomorrow"}`), "x:3: "},
		{with("plans", "{\"plan\":\"a\x00\"}"), "x:3:11: a NUL byte"},
		{with("plans", "{\"plan\":\"\xff\"}"), "x:3:10: byte 0xFF"},
		{with("plans", "{\"plan\":\"a\n\"}"), "x:3: invalid character"},
	} {
		_, err := inventory.ReadJSON("x", []byte(c.text), "host1")
		if !errors.As(err, new(*inventory.Error)) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.80q: %v, want %q", c.text, err, c.want)
		}
	}
}
