package daemon

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/config"
	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/wire"
)

// questions asks each line of standard input, and writes the reply to it.
func questions(socket string) {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		reply, err := wire.Ask(socket, &wire.Request{Op: wire.OpAsk, Question: in.Bytes()}, nil, time.Minute)
		if err != nil {
			fmt.Printf("%q\n", err.Error())
			continue
		}
		fmt.Printf("%d %d %s%s\n", reply.Verdict, reply.Exit, reply.Text, reply.Body)
	}
}

const alice, bob, wwwData = 65532, 65531, 33

// askAs asks questions under a uid and returns the replies: verdict, exit status, and
// text or body.
func askAs(t *testing.T, socket string, uid uint32, questions ...string) []string {
	t.Helper()
	path := filepath.Join(filepath.Dir(socket), "asks")
	if _, err := os.Stat(path); err != nil {
		for dir := filepath.Dir(socket); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		exe, err := os.ReadFile("/proc/self/exe") // where the other user can read it
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, exe, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(path)
	cmd.Env = []string{"TEST_AS=questions", "TEST_SOCKET=" + socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	cmd.Stdin = strings.NewReader(strings.Join(questions, "\n") + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != len(questions) {
		t.Fatalf("%d replies to %d questions:\n%s", len(lines), len(questions), out)
	}
	return lines
}

// withCustomers starts a daemon with mail of alice, bob and a web server, a domain
// each of the first two, and a mailbox of alice.
func withCustomers(t *testing.T, change func(*config.Daemon)) *running {
	t.Helper()
	r := start(t, func(c *config.Daemon) {
		c.FirstUserUID = 1000
		if change != nil {
			change(c)
		}
	})
	pool, err := pgxpool.New(t.Context(), r.config().Database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store := quota.NewStore(pool, "host1", 1000)
	send := func(uid uint32, name, sender string) {
		t.Helper()
		m := quota.Message{ID: uuid.Must(uuid.NewV7()), Recipients: 2, Sender: sender,
			Origin: origin.Origin{UID: uid, User: name, Kind: origin.Shell, Script: origin.Fact{Value: "/home/" + name + "/form.php", Proof: origin.System},
				Crontab: origin.Fact{Value: "/etc/cron.d/" + name + ":1 x", Proof: origin.System}}}
		if _, err := store.Decide(t.Context(), []quota.Message{m}); err != nil {
			t.Fatal(err)
		}
	}
	send(alice, "alice", "one@alice.example")
	send(bob, "bob", "secret@bob.example")
	send(wwwData, "www-data", "www-data@host1")
	r.sql(t, `INSERT INTO domain (subscription_id, name) SELECT id, name || '.example' FROM subscription WHERE name IN ('alice', 'bob')`)
	r.sql(t, `INSERT INTO mailbox (domain_id, address) SELECT id, 'info@' || name FROM domain`)
	r.sql(t, `INSERT INTO limits (owner_id, class, messages_hour) SELECT id, 4, 1 FROM subscription WHERE name = 'alice'`)
	r.sql(t, `INSERT INTO limits (owner_id, class, messages_hour) VALUES (6::bigint << 40, 6, 777)`)
	send(alice, "alice", "two@alice.example") // refused
	return r
}

func (r *running) sql(t *testing.T, statement string) {
	t.Helper()
	if _, err := r.owner.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

// TestCustomerSeesHisOwn: each report and why, of his own mail; and nothing of
// somebody else, whatever he asks for.
func TestCustomerSeesHisOwn(t *testing.T) {
	r := withCustomers(t, nil)
	r.sql(t, `UPDATE plan SET name = 'golden-goose' WHERE name = 'default'`)
	r.sql(t, `INSERT INTO exception (kind, object_id, limit_no, value, actor, why) SELECT 'raise', id, 1, 5000, 'somebody', 'whispered' FROM subscription WHERE name = 'alice'`)
	for _, c := range []struct {
		uid                  uint32
		question, want, none string
	}{
		{alice, `{"ask":"why"}`, `1 0 {"object":"user:alice","can_send":false,"verdict":"user:alice cannot send: above it subscription:alice is full until `, "777"},
		{alice, `{"ask":"why","object":"subscription:alice"}`, `"by":"subscription:alice messages/hour","user":"alice"`, "golden"},
		{alice, `{"ask":"why","object":"subscription:alice"}`, `"kind":"raise","limit":"messages/day"`, "somebody"},
		{alice, `{"ask":"why","object":"domain:alice.example"}`, `1 0 {"object":"domain:alice.example"`, "golden"},
		{alice, `{"ask":"why","object":"mailbox:info@alice.example"}`, `1 0 {"object":"mailbox:info@alice.example"`, "whispered"},
		{alice, `{"ask":"messages"}`, `"sender":"two@alice.example"`, "bob"},
		{alice, `{"ask":"messages","rows":1}`, `"sender":"two@alice.example"`, "one@alice"},
		{alice, `{"ask":"messages","filter":{"Refused":true}}`, `"decision":"refused"`, "one@alice"},
		{alice, `{"ask":"attempts"}`, `"attempts":1`, "bob"},
		{alice, `{"ask":"summary"}`, `"sent":{"messages":1,"recipients":2,"refused":1,`, "bob"},
		{alice, `{"ask":"scripts"}`, `"name":"/home/alice/form.php"`, "bob"},
		{alice, `{"ask":"cron"}`, `"name":"/etc/cron.d/alice:1 x"`, "bob"},
		{alice, `{"ask":"history","hours":true}`, `"messages":1,"recipients":2,"refused":1`, "bob"},
		{bob, `{"ask":"messages"}`, `"sender":"secret@bob.example"`, "alice"},
		{bob, `{"ask":"why"}`, `1 0 {"object":"user:bob","can_send":true`, "alice"},
		{wwwData, `{"ask":"messages"}`, `"sender":"www-data@host1"`, "alice"},
		{wwwData, `{"ask":"why"}`, `1 0 {"object":"user:www-data"`, "alice"},
		{65000, `{"ask":"why"}`, `2 77 you have not sent anything yet`, ""},

		// of somebody else
		{alice, `{"ask":"messages","filter":{"User":"bob"}}`, `1 0 []`, ""},
		{alice, `{"ask":"messages","filter":{"Subscription":"bob","SubscriptionID":1}}`, `1 0 []`, ""},
		{alice, `{"ask":"messages","filter":{"Subscription":"' OR 1=1 --"}}`, `1 0 []`, ""},
		{alice, `{"ask":"messages","filter":{"UserID":5}}`, `one@alice`, "bob"},
		{alice, `{"ask":"attempts","filter":{"Script":"bob"}}`, `1 0 []`, ""},
		{alice, `{"ask":"why","object":"subscription:bob"}`, `2 77 "subscription:bob" is not yours, or is not known`, ""},
		{alice, `{"ask":"why","object":"subscription:nobody-at-all"}`, `2 77 "subscription:nobody-at-all" is not yours, or is not known`, ""},
		{alice, `{"ask":"why","object":"domain:bob.example"}`, `2 77 "domain:bob.example" is not yours`, ""},
		{alice, `{"ask":"why","object":"mailbox:info@bob.example"}`, `2 77 `, ""},
		{alice, `{"ask":"why","object":"user:bob"}`, `2 77 `, ""},
		{alice, `{"ask":"why","object":"server"}`, `2 77 `, ""},
		{alice, `{"ask":"why","object":"plan:golden-goose"}`, `2 77 `, ""},
		{wwwData, `{"ask":"why","object":"domain:alice.example"}`, `2 77 `, ""},

		// hostile
		{alice, `{`, `2 2 no question: unexpected EOF`, ""},
		{alice, `[]`, `2 2 no question: `, ""},
		{alice, `{"ask":"why"} {"ask":"why"}`, `2 2 no question: something follows it`, ""},
		{alice, `{"ask":"why","sql":"x"}`, `2 2 no question: json: unknown field "sql"`, ""},
		{alice, `{"ask":"database"}`, `2 2 "database" is no question for an ordinary user`, ""},
		{alice, `{"ask":"messages","rows":-1}`, `2 2 -1 rows: an ordinary user may ask for 1 to 1000`, ""},
		{alice, `{"ask":"messages","rows":1001}`, `2 2 1001 rows`, ""},
		{alice, `{"ask":"messages","rows":99999999999999999999}`, `2 2 no question: `, ""},
		{alice, `{"ask":"messages","filter":{"Since":"2001-01-01T00:00:00Z"}}`, `2 2 an ordinary user may ask for the last 31 days`, ""},
		{alice, `{"ask":"messages","filter":{"Script":"a\u0000b"}}`, `2 2 no question: control characters are in a text`, ""},
		{alice, `{"ask":"why","object":"user:a\u0000b"}`, `2 2 no question: control characters are in a text`, ""},
		{alice, `{"ask":"why","object":"` + strings.Repeat("x", 9000) + `"}`, `4 0 a question of 9025 bytes`, ""},
		{alice, `{"ask":"limit","object":"domain:alice.example","limit":"messages/hour","value":5}`, `2 77 here only the administrator sets limits`, ""},
	} {
		got := askAs(t, r.socket, c.uid, c.question)[0]
		if !strings.Contains(got, c.want) || c.none != "" && strings.Contains(got, c.none) {
			t.Errorf("%.200s\ngot  %s\nwant %s and no %q", c.question, got, c.want, c.none)
		}
	}
	if strings.Contains(r.log.String(), `"level":"error"`) {
		t.Errorf("%s", r.log)
	}
}

// TestCustomersAreBounded: no more than two questions of one user, and of all, are
// worked on at a time.
func TestCustomersAreBounded(t *testing.T) {
	r := withCustomers(t, nil)
	for range asksPerUser {
		if !r.asking.enter(alice, asksPerUser) {
			t.Fatal("full already")
		}
	}
	if got := askAs(t, r.socket, alice, `{"ask":"why"}`)[0]; got != "3 0 two of your questions are worked on already: wait for their answers" {
		t.Error(got)
	}
	for range asksPerUser {
		r.asking.leave(alice)
	}
	var wait sync.WaitGroup
	for _, uid := range []uint32{alice, bob, alice, bob} {
		wait.Go(func() {
			for _, got := range askAs(t, r.socket, uid, `{"ask":"messages"}`, `{"ask":"why"}`, `{"ask":"summary"}`) {
				if !strings.HasPrefix(got, "1 0 ") {
					t.Error(got)
				}
			}
		})
	}
	wait.Wait()
	if n := len(r.asks); n > 0 {
		t.Errorf("%d slots are not given back", n)
	}
}

// TestCustomerSetsLimits: of his own domains and mailboxes, and not over the
// administrator's.
func TestCustomerSetsLimits(t *testing.T) {
	r := withCustomers(t, func(c *config.Daemon) { c.CustomersSetLimits = true })
	set := func(object, value string) string {
		return fmt.Sprintf(`{"ask":"limit","object":%q,"limit":"messages/hour","value":%s}`, object, value)
	}
	for _, c := range []struct {
		uid            uint32
		question, want string
	}{
		{alice, set("domain:alice.example", "50"), `1 0 {"before":"unset"}`},
		{alice, set("domain:alice.example", "1000000"), `1 0 {"before":"50"}`},
		{alice, set("mailbox:info@alice.example", "0"), `1 0 {"before":"unset"}`},
		{alice, set("mailbox:info@alice.example", "null"), `1 0 {"before":"0"}`},
		{alice, set("domain:bob.example", "5"), `2 3 domain bob.example is not yours, or is not known`},
		{alice, set("domain:none.example", "5"), `2 3 domain none.example is not yours, or is not known`},
		{alice, set("mailbox:info@bob.example", "5"), `2 3 mailbox info@bob.example is not yours, or is not known`},
		{alice, set("subscription:alice", "5"), `2 3 you can set limits of your domains and mailboxes, not of a subscription`},
		{alice, set("user:alice", "5"), `2 3 you can set limits of`},
		{alice, set("server", "5"), `2 3 you can set limits of`},
		{alice, set("domain:alice.example", "-1"), `2 2 a limit of your own is a number from 0 to 2147483647`},
		{alice, set("domain:alice.example", "2147483648"), `2 2 a limit of your own`},
		{alice, set("domain:alice.example", `"5"`), `2 2 no question: `},
		{alice, `{"ask":"limit","object":"domain:alice.example","limit":"messages/week"}`, `2 2 "messages/week" is no limit`},
		{alice, `{"ask":"limit","object":"domain:a\u0000b","limit":"messages/hour","value":5}`, `2 2 no question: control characters are in a text`},
		{alice, `{"ask":"limit","object":"mailbox:a\nb@alice.example","limit":"messages/hour","value":5}`, `2 2 no question: control`},
		{wwwData, set("domain:alice.example", "5"), `2 77 here only the administrator sets limits`},
	} {
		if got := askAs(t, r.socket, c.uid, c.question)[0]; !strings.HasPrefix(got, c.want) {
			t.Errorf("%s\ngot  %s\nwant %s", c.question, got, c.want)
		}
	}
	var actor, why, after string
	if err := r.owner.QueryRow(t.Context(), `SELECT actor, why, after FROM audit WHERE object = 'domain:alice.example' ORDER BY id DESC LIMIT 1`).Scan(&actor, &why, &after); err != nil {
		t.Fatal(err)
	}
	if actor != "customer alice" || why != "asked by user alice" || after != "messages/hour 1000000" {
		t.Error(actor, why, after)
	}

	// The administrator's stays, however he set it.
	byHand := `2 3 messages/hour of domain alice.example was set by the administrator: ask him`
	for _, how := range []string{
		`UPDATE limits SET messages_hour = 7 WHERE class = 3`, // nobody knows who
		`INSERT INTO audit (host, actor, action, object, after) VALUES ('host1', 'root', 'limit set', 'domain:alice.example', 'messages/hour 7')`,
	} {
		r.sql(t, how)
		for _, value := range []string{"5", "null"} {
			if got := askAs(t, r.socket, alice, set("domain:alice.example", value))[0]; got != byHand {
				t.Errorf("after %s: %s", how, got)
			}
		}
	}
	if got := askAs(t, r.socket, alice, strings.ReplaceAll(set("domain:alice.example", "5"), "messages/", "recipients/"))[0]; got != `1 0 {"before":"unset"}` {
		t.Errorf("another limit: %s", got)
	}

	// Nor can he have more than the default, of the plan before the server's.
	for _, c := range []struct{ how, object, value, want string }{
		{`INSERT INTO limits (owner_id, class, messages_hour) VALUES (6::bigint << 40, 2, 50)`, "mailbox:info@alice.example", "51", `2 3 messages/hour of mailbox info@alice.example can be 50 at most`},
		{"", "mailbox:info@alice.example", "2147483647", `2 3 messages/hour of mailbox info@alice.example can be 50 at most`},
		{"", "mailbox:info@alice.example", "50", `1 0 {"before":"unset"}`},
		{"", "mailbox:info@alice.example", "0", `1 0 {"before":"50"}`},
		{"", "mailbox:info@alice.example", "null", `1 0 {"before":"0"}`},
		{`INSERT INTO limits (owner_id, class, messages_hour) SELECT plan_id, 2, -1 FROM subscription WHERE name = 'alice'`, "mailbox:info@alice.example", "51", `1 0 {"before":"unset"}`},
		{`UPDATE limits SET messages_hour = 10 WHERE class = 2 AND owner_id IN (SELECT id FROM plan)`, "mailbox:info@alice.example", "11", `2 3 messages/hour of mailbox info@alice.example can be 10 at most`},
		{"", "mailbox:info@alice.example", "10", `1 0 {"before":"51"}`},
	} {
		if c.how != "" {
			r.sql(t, c.how)
		}
		if got := askAs(t, r.socket, alice, set(c.object, c.value))[0]; !strings.HasPrefix(got, c.want) {
			t.Errorf("%s to %s: %s, want %s", c.object, c.value, got, c.want)
		}
	}
	for range changesHour {
		r.changes.allow(r.subscription(t, "alice"), changesHour, time.Now())
	}
	if got := askAs(t, r.socket, alice, set("mailbox:info@alice.example", "5"))[0]; !strings.HasPrefix(got, "2 3 you changed limits often") {
		t.Error(got)
	}
}

func (r *running) subscription(t *testing.T, name string) (id quota.ID) {
	t.Helper()
	if err := r.owner.QueryRow(t.Context(), `SELECT id FROM subscription WHERE name = $1`, name).Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

func FuzzReadQuestion(f *testing.F) {
	for _, seed := range []string{`{"ask":"why","object":"domain:a.example"}`, `{"ask":"limit","limit":"messages/hour","value":-1}`,
		`{"ask":"messages","rows":1,"filter":{"Since":"2026-11-01T00:00:00Z","Refused":true}}`, `{}{}`, `{"filter":{"tried":true}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := readQuestion(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(q)
		if err != nil {
			return // a time out of the range of JSON
		}
		if _, err := readQuestion(bytes.TrimSpace(again)); err != nil {
			t.Errorf("%s: %v", again, err)
		}
	})
}
