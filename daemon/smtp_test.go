package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"sendmail-wrapper/config"
	"sendmail-wrapper/policy"
	"sendmail-wrapper/wire"
)

// connect connects this process, which is root's, with itself, and returns the ends
// as they are named in a question about it.
func connect(t *testing.T, address string) (client *net.TCPConn, q *policy.Request) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	from, to := c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
	return c.(*net.TCPConn), &policy.Request{State: policy.EndOfMessage, Sender: "a@x", Recipients: 2, Size: 9,
		Instance: newInstance(), ClientAddress: from.Addr().String(), ClientPort: from.Port(), ServerAddress: to.Addr().String(), ServerPort: to.Port()}
}

func reset(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if err := c.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// wantAction asks, and compares the beginning of the answer.
func (p *peer) wantAction(t *testing.T, what string, q *policy.Request, want string) {
	t.Helper()
	if got, err := p.ask(q); err != nil || !strings.HasPrefix(got, want) || want == "DUNNO" && got != want {
		t.Errorf("%s: action %q, %v; want %q", what, got, err, want)
	}
}

func dial(t *testing.T, socket string) *peer {
	t.Helper()
	p, err := dialPolicy(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// at is a question about the same message at another stage.
func at(q *policy.Request, state string, recipients int) *policy.Request {
	earlier := *q
	earlier.State, earlier.Recipients = state, recipients
	return &earlier
}

// TestLocalClient: a client of this host is charged to its uid, also if it has gone
// after the first question; if it has gone before, it is deferred.
func TestLocalClient(t *testing.T) {
	r, socket := startPolicy(t, nil)
	p := dial(t, socket)
	const root = "uid = 0 AND mailbox_id IS NULL AND recipients = 2 AND sender = 'a@x'"
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		for _, c := range []struct {
			name        string
			rcpt, reset bool
			username    string
			want, row   string
		}{
			{"there", false, false, "", "DUNNO", root},
			{"gone after RCPT", true, true, "", "DUNNO", root},
			{"gone before", false, true, "", "421 4.3.0 whose program", ""},
			{"logged in", false, false, "carol@box.test", "DUNNO", "uid IS NULL AND mailbox_id IS NOT NULL AND kind = 'smtp'"},
			{"logged in and gone", false, true, "carol@box.test", "DUNNO", "uid IS NULL AND mailbox_id IS NOT NULL AND kind = 'smtp'"},
		} {
			client, q := connect(t, address)
			q.Username = c.username
			before := r.count(t, "true")
			if c.rcpt {
				p.wantAction(t, c.name, at(q, "RCPT", 0), "DUNNO")
			}
			if c.reset {
				reset(t, client)
			}
			p.wantAction(t, c.name, q, c.want)
			rows := 0
			if c.row != "" {
				rows = 1
				if n := r.count(t, c.row+" AND id = (SELECT id FROM messages ORDER BY at DESC LIMIT 1)"); n != 1 {
					t.Errorf("%s, %s: the row is another than %s", address, c.name, c.row)
				}
			}
			if n := r.count(t, "true") - before; n != rows {
				t.Errorf("%s, %s: %d rows", address, c.name, n)
			}
		}
	}
	if n := r.counts.unknownClients.Load(); n != 2 {
		t.Errorf("%d clients not known", n)
	}
	for _, address := range []string{"192.0.2.7", "2001:db8::7"} { // another host's mail comes in
		q := message("")
		q.ClientAddress = address
		before := r.count(t, "true")
		p.wantAction(t, address, at(q, "RCPT", 0), "DUNNO")
		p.wantAction(t, address, q, "DUNNO")
		if n := r.count(t, "true") - before; n != 0 {
			t.Errorf("%s: %d rows of mail that comes in", address, n)
		}
	}
	unknown := message("")
	unknown.ClientAddress = "unknown"
	p.wantAction(t, "an unknown address", unknown, "421 4.3.0 ")
}

// TestInstance: one message is charged once, however often it is asked about, at the
// same time or after a restart; and another time if it was not charged before.
func TestInstance(t *testing.T) {
	r, socket := startPolicy(t, nil)
	q := message("carol@box.test")
	var peers sync.WaitGroup
	for range 8 {
		peers.Go(func() {
			p, err := dialPolicy(socket)
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Close()
			for range 4 {
				if action, err := p.ask(q); err != nil || action != "DUNNO" {
					t.Errorf("%q, %v", action, err)
				}
			}
		})
	}
	peers.Wait()
	if n := r.count(t, "true"); n != 1 {
		t.Errorf("%d rows", n)
	}
	unasked := message("carol@box.test")
	r.stop()
	again := start(t, func(c *config.Daemon) {
		*c = *r.config()
	})
	p := dial(t, socket)
	p.wantAction(t, "charged before the restart", q, "DUNNO")
	p.wantAction(t, "charged before the restart", q, "DUNNO")
	if n := r.count(t, "true"); n != 1 {
		t.Errorf("%d rows after a restart", n)
	}
	p.wantAction(t, "begun before the restart", unasked, "DUNNO")
	p.wantAction(t, "a new one", message("carol@box.test"), "DUNNO")
	exim := message("carol@box.test")
	exim.Instance = "1rABCD-0000ab-CD"
	p.wantAction(t, "of Exim", exim, "DUNNO")
	p.wantAction(t, "of Exim", exim, "DUNNO")
	exim.Instance = ""
	p.wantAction(t, "no instance", exim, "DUNNO")
	p.wantAction(t, "no instance", exim, "DUNNO")
	if n := r.count(t, "true"); n != 6 {
		t.Errorf("%d rows, want 6", n)
	}
	again.stop()
}

// TestEarlyRefusal: who would be refused at the end as far as is remembered is refused at
// RCPT, with one row a message; and not any more once the limit is higher. At the end of a
// message the code ends the session of smtpd(8), and no other mail server's.
func TestEarlyRefusal(t *testing.T) {
	for _, refusal := range []struct{ setting, code, atEnd string }{{"defer", "452 4.7.1", "421 4.7.1"}, {"reject", "554 5.7.1", "521 5.7.1"}} {
		r, socket := startPolicy(t, func(c *config.Daemon) { c.SMTPRefusal = refusal.setting })
		p := dial(t, socket)
		r.limitOf(t, "mailbox", 1)
		text := " limit of 1 messages per hour of mailbox carol@box.test reached (1 used); free again at "
		first := message("carol@box.test")
		p.wantAction(t, "of whom nothing is known", at(first, "RCPT", 0), "DUNNO")
		p.wantAction(t, "the first", first, "DUNNO")
		second := message("carol@box.test")
		p.wantAction(t, "the second, that was not asked about before", second, refusal.atEnd+text)
		p.wantAction(t, "the same again", second, refusal.atEnd+text)
		exim := message("carol@box.test")
		exim.Instance = "exim-1abcDE-000abc-XY"
		p.wantAction(t, "of another mail server", exim, refusal.code+text)
		third := message("carol@box.test")
		for range 3 {
			p.wantAction(t, "at each recipient", at(third, "RCPT", 0), refusal.code+text)
		}
		p.wantAction(t, "before the content", at(third, "DATA", 0), refusal.code+text)
		if n := r.count(t, "decision = 2"); n != 3 {
			t.Errorf("%d rows of refusals", n)
		}
		p.wantAction(t, "another mailbox", at(message("dave@box.test"), "RCPT", 0), "DUNNO")
		r.limitOf(t, "mailbox", 3)
		fourth := message("carol@box.test")
		p.wantAction(t, "a higher limit", at(fourth, "RCPT", 0), "DUNNO")
		p.wantAction(t, "a higher limit", at(fourth, "DATA", 1), "DUNNO")
		p.wantAction(t, "a higher limit", fourth, "DUNNO")
		p.wantAction(t, "an earlier one that goes on", third, "DUNNO")
		if a, n := r.count(t, "decision = 1"), r.count(t, "decision = 2"); a != 3 || n != 3 {
			t.Errorf("%d rows accepted, %d refused", a, n)
		}
		if n := r.counts.early.Load(); n != 1 {
			t.Errorf("%d early refusals", n)
		}
	}
}

// limitOf sets messages/hour of the one mailbox or domain there is.
func (r *running) limitOf(t *testing.T, table string, n int) {
	t.Helper()
	class := map[string]int{"mailbox": 2, "domain": 3}[table]
	_, err := r.owner.Exec(t.Context(), fmt.Sprintf(`INSERT INTO limits (owner_id, class, messages_hour) SELECT id, id >> 40, $1 FROM %s WHERE id >> 40 = $2
		ON CONFLICT (owner_id, class) DO UPDATE SET messages_hour = $1`, table), n, class)
	if err != nil {
		t.Fatal(err)
	}
}

// delivery is a question about a recipient that leaves.
func delivery() *policy.Request {
	n := messages.Add(1)
	return &policy.Request{Delivery: true, Number: 17, QueueID: fmt.Sprintf("4cWq1F%d", n), Arrived: time.Now().Unix(), Sender: "s@out.test", Recipient: "r@out.test", Size: 5}
}

// TestDelivery: whose a message is that is about to leave, and which are free.
func TestDelivery(t *testing.T) {
	r, socket := startPolicy(t, nil)
	p := dial(t, socket)
	const (
		nobody = "uid IS NULL AND user_id IS NULL AND "
		server = nobody + "domain_id IS NULL AND "
		box    = nobody + "domain_id = (SELECT id FROM domain WHERE name = 'box.test') AND "
		root   = "uid = 0 AND user_id = (SELECT id FROM system_user WHERE name = 'root') AND domain_id IS NULL AND kind = 'forward'"
		www    = "uid = 33 AND user_id = (SELECT id FROM system_user WHERE name = 'www-data') AND domain_id IS NULL AND kind = 'forward'"
	)
	byLocal := func(original string) func(*policy.Request) {
		return func(q *policy.Request) { q.FirstQueueID, q.OriginalRecipient = "4cWq1E", original }
	}
	for _, c := range []struct {
		name   string
		change func(*policy.Request)
		where  string // of the row; "" is free
	}{
		{"a mailbox sends on", func(q *policy.Request) { q.OriginalRecipient = "Carol@box.test" }, box + "mailbox_id = (SELECT id FROM mailbox) AND kind = 'forward' AND sender = 's@out.test'"},
		{"an alias", func(q *policy.Request) { q.OriginalRecipient = "info@box.test" }, box + "mailbox_id IS NULL AND kind = 'forward'"},
		{"also for a client that logged in", func(q *policy.Request) { q.OriginalRecipient, q.Username = "info@box.test", "carol@box.test" }, box + "kind = 'forward'"},
		{"an alias of nobody's domain", func(q *policy.Request) { q.OriginalRecipient = "info@host" }, server + "kind = 'forward'"},
		{"an alias of nobody's domain, of a user's name", func(q *policy.Request) { q.OriginalRecipient = "Root@host" }, root},
		{"an alias of a user's name", func(q *policy.Request) { q.OriginalRecipient = "root@box.test" },
			"uid = 0 AND user_id IS NULL AND domain_id = (SELECT id FROM domain WHERE name = 'box.test') AND mailbox_id IS NULL AND kind = 'forward'"},
		{"letters of the other case", func(q *policy.Request) { q.OriginalRecipient, q.Username = "R@OUT.test", "carol@box.test" }, ""},
		{"what Postfix routes elsewhere", func(q *policy.Request) { q.OriginalRecipient, q.Username = "r%out.test@box.test", "carol@box.test" }, ""},
		{"the same with a dot", func(q *policy.Request) { q.OriginalRecipient, q.Username = "r@out.test.", "carol@box.test" }, ""},
		{"letters that ASCII has not", func(q *policy.Request) { q.OriginalRecipient, q.Recipient = "\u212a@out.test", "k@out.test" }, server + "kind = 'forward'"},
		{"a .forward", byLocal("root@host"), root},
		{"a .forward, by another's domain", byLocal("root@box.test"), root},
		{"a .forward, of a bounce", func(q *policy.Request) { byLocal("root@box.test")(q); q.Sender = "" }, root + " AND sender = ''"},
		{"a .forward, of a client that logged in", func(q *policy.Request) { byLocal("root@box.test")(q); q.Username = "carol@box.test" }, root},
		{"a .forward, by an extension", byLocal("root+a+b@box.test"), root},
		{"a .forward, by another extension", byLocal("root-a@box.test"), root},
		{"a .forward, no domain left", byLocal("root+xxx"), root},
		{"a .forward of a name with a dash", byLocal("www-data@box.test"), www},
		{"a .forward of a name with a dash, by an extension", byLocal("www-data+root@box.test"), www},
		{"aliases(5)", byLocal("info+root@box.test"), box + "mailbox_id IS NULL AND kind = 'forward'"},
		{"aliases(5), of a number", byLocal("0@box.test"), box + "kind = 'forward'"},
		{"aliases(5), of a mailbox", byLocal("carol@box.test"), box + "mailbox_id = (SELECT id FROM mailbox) AND kind = 'forward'"},
		{"aliases(5), of nobody's domain", byLocal("info@host"), server + "kind = 'forward'"},
		{"no name", byLocal("+root@box.test"), box + "kind = 'forward'"},
		{"a list of aliases(5)", func(q *policy.Request) { q.FirstQueueID, q.Sender = "4cWq1E", "owner-info@box.test" }, box + "kind = 'forward' AND sender = 'owner-info@box.test'"},
		{"local(8) made another of it", func(q *policy.Request) { q.FirstQueueID = "4cWq1E" }, server + "kind = 'forward'"},
		{"a sender that is a user's name", func(q *policy.Request) { q.FirstQueueID, q.Sender = "4cWq1E", "root@host" }, server + "kind = 'forward'"},
		{"logged in", func(q *policy.Request) { q.Username = "carol@box.test" }, ""},
		{"by sendmail", func(q *policy.Request) { q.FirstQueueID = q.QueueID }, ""},
		{"a bounce", func(q *policy.Request) { q.Sender = "" }, server + "kind = 'bounce' AND sender = ''"},
		{"a client of this host", func(q *policy.Request) { q.ClientAddress, q.ClientPort = "127.0.0.1", 9 }, ""},
		{"a client of another host", func(q *policy.Request) { q.ClientAddress, q.ClientPort = "192.0.2.7", 9 }, server + "kind = 'relay'"},
		{"a client that had gone", func(q *policy.Request) { q.ClientAddress = "unknown" }, server + "kind = 'relay'"},
	} {
		q := delivery()
		c.change(q)
		before := r.count(t, "true")
		for range 2 { // it is tried again
			p.wantAction(t, c.name, q, "DUNNO")
		}
		rows := 0
		if c.where != "" {
			rows = 1
			if n := r.count(t, "decision = 1 AND recipients = 1 AND "+c.where+" AND at = (SELECT max(at) FROM messages)"); n != 1 {
				t.Errorf("%s: the row is another than %s", c.name, c.where)
			}
		}
		if n := r.count(t, "true") - before; n != rows {
			t.Errorf("%s: %d rows", c.name, n)
		}
	}
}

// TestDeliveryRefused: it stays in the queue until the limit lets it go, and is then
// charged once, but a bounce of the mail server goes.
func TestDeliveryRefused(t *testing.T) {
	for _, refusal := range []struct{ setting, code string }{{"defer", "452 4.7.1"}, {"reject", "554 5.7.1"}} {
		r, socket := startPolicy(t, func(c *config.Daemon) { c.SMTPRefusal = refusal.setting })
		p := dial(t, socket)
		r.limitOf(t, "domain", 1)
		var tries [3]*policy.Request
		for n := range tries {
			tries[n] = delivery()
			tries[n].OriginalRecipient = "info@box.test"
			want := "DUNNO"
			if n > 0 {
				want = refusal.code + " limit of 1 messages per hour of domain box.test reached"
			}
			p.wantAction(t, "a forward", tries[n], want)
		}
		r.limitOf(t, "domain", 0)
		p.wantAction(t, "where time does not help", tries[1], refusal.code+" domain box.test may send no mail")
		r.limitOf(t, "domain", 3)
		for range 2 {
			for _, q := range tries {
				p.wantAction(t, "a higher limit", q, "DUNNO")
			}
		}
		if n := r.count(t, "decision = 1"); n != 3 {
			t.Errorf("%d rows accepted", n)
		}
		r.limit(t, 0)
		bounce := delivery()
		bounce.Sender = ""
		p.wantAction(t, "a bounce", bounce, "DUNNO")
	}
}

// TestTrustedUsers: programs of a trusted user send on behalf of the list, or of the
// mailbox that Sieve names; those of others do not.
func TestTrustedUsers(t *testing.T) {
	r, socket := startPolicy(t, nil)
	p := dial(t, socket)
	for _, c := range []struct {
		trusted        bool
		sender, header string
		where          string
	}{
		{false, "carol@box.test", "", "mailbox_id IS NULL AND domain_id IS NULL AND uid = 0"},
		{true, "carol@box.test", "", "mailbox_id IS NOT NULL AND uid = 0"},
		{true, "News-bounces+x=y@BOX.test", "", "mailbox_id IS NULL AND domain_id IS NOT NULL AND uid = 0"},
		{true, "news@elsewhere.test", "", "domain_id IS NULL AND uid = 0"},
		{true, "someone@out.test", "X-Sieve-Redirected-From: <Carol@box.test>\n", "mailbox_id IS NOT NULL AND sender = 'someone@out.test'"},
		{false, "someone@out.test", "X-Sieve-Redirected-From: carol@box.test\n", "mailbox_id IS NULL AND domain_id IS NULL AND uid = 0"},
	} {
		trusting := *r.config()
		if trusting.TrustedUsers = nil; c.trusted {
			trusting.TrustedUsers = []string{"nobody", "root"}
		}
		r.Reload(trusting)
		before := r.count(t, c.where)
		check := func(by string) {
			t.Helper()
			if before++; r.count(t, c.where) != before {
				t.Errorf("%v %s by %s: the row is another than %s", c.trusted, c.sender, by, c.where)
			}
		}
		if reply, err := ask(r.socket, c.header+"\nx\n", "sendmail", "-f", c.sender, "a@x"); err != nil || reply.Verdict != wire.VerdictAccept {
			t.Fatalf("%+v, %v", reply, err)
		}
		check("sendmail")
		if c.header != "" {
			continue
		}
		_, q := connect(t, "127.0.0.1:0")
		q.Sender = c.sender
		p.wantAction(t, c.sender, q, "DUNNO")
		check("SMTP")
	}
}

func TestListAddress(t *testing.T) {
	for sender, want := range map[string]string{
		"owner-news@box.test":               "news@box.test",
		"news-owner@box.test":               "news@box.test",
		"news-request@box.test":             "news@box.test",
		"News-Bounces@Box.test":             "news@box.test",
		"news-bounces+a=x.test@box.test":    "news@box.test",
		"news+bounces-17-a=x.test@box.test": "news@box.test",
		"carol+shop@box.test":               "carol@box.test",
		"carol@box.test":                    "carol@box.test",
		"+a@box.test":                       "+a@box.test",
		"owner-@box.test":                   "owner-@box.test",
		"-bounces@box.test":                 "-bounces@box.test",
		"\"a@b\"@box.test":                  "\"a@b\"@box.test",
		"":                                  "",
		"carol":                             "",
		"@box.test":                         "",
	} {
		if got := listAddress(sender); got != want {
			t.Errorf("%s: %q, want %q", sender, got, want)
		}
	}
}

func TestEndpoint(t *testing.T) {
	if got := endpoint("::1", 25); got != netip.MustParseAddrPort("[::1]:25") {
		t.Error(got)
	}
	if got := endpoint("unknown", 0); got.IsValid() {
		t.Error(got)
	}
}
