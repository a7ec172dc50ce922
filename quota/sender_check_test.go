package quota_test

import (
	"fmt"
	"net/netip"
	"testing"

	"sendmail-wrapper/quota"
)

// as is a message with an envelope sender that is looked at.
func as(m quota.Message, sender string, check quota.SenderCheck) quota.Message {
	m.Sender, m.SenderCheck = sender, check
	return m
}

const (
	infoMay  = "envelope sender not allowed: mailbox info@shop.example may use info@shop.example"
	aliceMay = "envelope sender not allowed: user alice may use alice@host1"
)

// senderServer is a server on which alice has two domains, and bob one.
func senderServer(t *testing.T) *server {
	s := newServer(t)
	s.exec(`UPDATE limits SET messages_hour = -1`)
	if _, _, _, err := s.one.EnsureUser(t.Context(), 1002, "bob"); err != nil {
		t.Fatal(err)
	}
	s.exec(`INSERT INTO domain (subscription_id, name) VALUES ($1, 'shop.example'), ($1, 'blog.example')`, s.alice)
	s.exec(`INSERT INTO domain (subscription_id, name) SELECT id, 'bob.example' FROM subscription WHERE name = 'bob'`)
	s.exec(`INSERT INTO mailbox (domain_id, address) SELECT id, 'info@shop.example' FROM domain WHERE name = 'shop.example'`)
	return s
}

// object is SQL for the id of an object of senderServer.
var object = map[string]string{
	"mailbox":      `SELECT id FROM mailbox WHERE address = 'info@shop.example'`,
	"domain":       `SELECT id FROM domain WHERE name = 'shop.example'`,
	"other domain": `SELECT id FROM domain WHERE name = 'blog.example'`,
	"subscription": `SELECT id FROM subscription WHERE name = 'alice'`,
	"user":         `SELECT id FROM system_user WHERE name = 'alice'`,
	"bob":          `SELECT id FROM subscription WHERE name = 'bob'`,
}

// TestSenders: whose an envelope sender is, by what the table and the domains say, from
// the next message on, by each host.
func TestSenders(t *testing.T) {
	s := senderServer(t)
	info := func() quota.Message { return mailboxMessage("info@shop.example") }
	alice := func() quota.Message { return message(1001, "alice", 1) }
	for _, c := range []struct {
		of, allowed    string // a row that is there meanwhile
		from           func() quota.Message
		sender, reason string
	}{
		{"", "", info, "info@shop.example", ""},
		{"", "", info, "sales@shop.example", infoMay},
		{"", "", info, "x@blog.example", infoMay},
		{"mailbox", "sales@shop.example", info, "Sales@Shop.example", ""},
		{"mailbox", "sales@shop.example", info, "sales@shop.example.net", infoMay + ", sales@shop.example"},
		{"mailbox", "@blog.example", info, "any@blog.example", ""},
		{"mailbox", "@blog.example", info, "any@sub.blog.example", infoMay + ", *@blog.example"},
		{"mailbox", "@blog.example", info, "any@blog.example@foreign.example", infoMay + ", *@blog.example"},
		{"domain", "@foreign.example", info, "any@foreign.example", ""},
		{"subscription", "any@foreign.example", info, "any@foreign.example", ""},
		{"other domain", "any@foreign.example", info, "any@foreign.example", infoMay},
		{"user", "any@foreign.example", info, "any@foreign.example", infoMay},
		{"bob", "any@foreign.example", info, "any@foreign.example", infoMay},

		{"", "", alice, "any@shop.example", ""},
		{"", "", alice, "any@BLOG.example", ""},
		{"", "", alice, "alice@host1", ""},
		{"", "", alice, "any", ""},
		{"", "", alice, "any@bob.example", aliceMay + ", *@shop.example, *@blog.example"},
		{"", "", alice, "any@sub.shop.example", aliceMay + ", *@shop.example, *@blog.example"},
		{"user", "any@bob.example", alice, "any@bob.example", ""},
		{"subscription", "@foreign.example", alice, "any@foreign.example", ""},
		{"mailbox", "@foreign.example", alice, "any@foreign.example", aliceMay + ", *@shop.example, *@blog.example"},
		{"bob", "@foreign.example", alice, "any@foreign.example", aliceMay + ", *@shop.example, *@blog.example"},
	} {
		want := "accepted"
		if c.reason != "" {
			want = "refused by " + c.reason
		}
		check := func(when, want string) {
			t.Helper()
			for i, store := range []*quota.Store{s.one, s.other} {
				if i == 1 && c.from().Mailbox == "" {
					continue // alice is a user of one host
				}
				s.expect(fmt.Sprintf("%s as %s, %s has %s, %s", c.from().Mailbox+c.from().Origin.User, c.sender, c.of, c.allowed, when),
					s.decide(store, as(c.from(), c.sender, quota.SenderRefuse)), want)
			}
		}
		if c.of == "" {
			check("without a row", want)
			continue
		}
		if c.reason == "" { // then it is the row that allows it
			d := s.decide(s.one, as(c.from(), c.sender, quota.SenderRefuse))
			if d.Refusal == nil {
				t.Errorf("%s as %s is accepted without the row", c.from().Mailbox, c.sender)
			}
		}
		s.exec(`INSERT INTO sender (object_id, address) SELECT (`+object[c.of]+`), $1`, c.allowed)
		check("with its row", want)
		s.exec(`DELETE FROM sender`)
		if c.reason == "" {
			d := s.decide(s.one, as(c.from(), c.sender, quota.SenderRefuse))
			if d.Refusal == nil {
				t.Errorf("%s as %s is accepted after the row has gone", c.from().Mailbox, c.sender)
			}
		}
	}
	prove(t, s.one, s.owner)
}

// TestSendersNamed: a refusal names some, is final, and is the same whatever the sender
// was, since reports are summed up by it.
func TestSendersNamed(t *testing.T) {
	s := senderServer(t)
	s.exec(`INSERT INTO sender (object_id, address) SELECT (` + object["mailbox"] + `), n || '@foreign.example' FROM generate_series(1, 9) n`)
	want := infoMay + ", 1@foreign.example, 2@foreign.example, 3@foreign.example and others"
	for _, sender := range []string{"a@foreign.example", "b@foreign.example", "\xff\x00@é.example"} {
		d := s.decide(s.one, as(mailboxMessage("info@shop.example"), sender, quota.SenderRefuse))
		s.expect(sender, d, "refused by "+want)
		if d.Refusal != nil && (d.Refusal.Code() != "554 5.7.1" || d.Refusal.Exit(false) != 69 || d.Refusal.Text() != want) {
			t.Errorf("%+v", d.Refusal)
		}
	}
	if n := number(t, s.owner, `SELECT count(*) FROM messages WHERE decision = 2 AND refused_limit IS NULL AND refused_object IS NULL AND refused_why = $1`, want); n != 3 {
		t.Errorf("%d rows say so", n)
	}
	if got := used(t, s.one, "mailbox:info@shop.example", "messages/hour"); got != 0 {
		t.Errorf("%d are charged", got)
	}
	// A mailbox of a domain that nobody knows may use its own address alone.
	d := s.decide(s.one, as(mailboxMessage("x@unknown.example"), "y@unknown.example", quota.SenderRefuse))
	s.expect("a domain that is not known", d, "refused by envelope sender not allowed: mailbox x@unknown.example may use x@unknown.example")
	s.expect("itself", s.decide(s.one, as(mailboxMessage("x@unknown.example"), "x@unknown.example", quota.SenderRefuse)), "accepted")
}

// TestSenderCheckByMode: modes and the white list hold for senders as for limits, and a
// limit is named first.
func TestSenderCheckByMode(t *testing.T) {
	s := senderServer(t)
	foreign := func(check quota.SenderCheck) quota.Decision {
		t.Helper()
		m := as(mailboxMessage("info@shop.example"), "ceo@bank.example", check)
		m.Client = netip.MustParseAddr("192.0.2.1")
		return s.decide(s.one, m)
	}
	s.expect("off", foreign(quota.SenderAny), "accepted")
	s.expect("report", foreign(quota.SenderReport), "observed by "+infoMay)
	s.expect("refuse", foreign(quota.SenderRefuse), "refused by "+infoMay)
	s.exec(`UPDATE domain SET mode = 'observe' WHERE name = 'shop.example'`)
	s.expect("refuse, observed", foreign(quota.SenderRefuse), "observed by "+infoMay)
	s.exec(`UPDATE domain SET mode = 'off' WHERE name = 'shop.example'`)
	s.expect("refuse, off", foreign(quota.SenderRefuse), "accepted")
	s.expect("report, off", foreign(quota.SenderReport), "accepted")
	s.exec(`UPDATE domain SET mode = NULL`)
	s.exec(`INSERT INTO exception (kind, network, actor) VALUES ('whitelist', '192.0.2.0/24', 'root')`)
	s.expect("refuse, white list", foreign(quota.SenderRefuse), "accepted")
	s.exec(`DELETE FROM exception`)
	s.exec(`INSERT INTO limits (owner_id, class, messages_hour) SELECT id, 2, 2 FROM mailbox`)
	s.expect("report, over its limit", foreign(quota.SenderReport), "refused by mailbox:info@shop.example messages/hour")
	s.exec(`INSERT INTO exception (kind, object_id, actor) SELECT 'block', id, 'root' FROM mailbox`)
	s.expect("refuse, blocked", foreign(quota.SenderRefuse), "refused by mailbox info@shop.example is blocked by the administrator")
	if n := number(t, s.owner, `SELECT count(*) FROM messages WHERE decision = 3 AND refused_limit IS NULL AND refused_why = $1`, infoMay); n != 2 {
		t.Errorf("%d rows of what was reported, want 2", n)
	}
	prove(t, s.one, s.owner)
}

// TestSenderMoves: a domain that goes to another customer takes its senders with it.
func TestSenderMoves(t *testing.T) {
	s := senderServer(t)
	alice := func() quota.Decision {
		return s.decide(s.one, as(message(1001, "alice", 1), "x@blog.example", quota.SenderRefuse))
	}
	bob := func() quota.Decision {
		return s.decide(s.one, as(message(1002, "bob", 1), "x@blog.example", quota.SenderRefuse))
	}
	const bobMay = "refused by envelope sender not allowed: user bob may use bob@host1, "
	s.expect("hers", alice(), "accepted")
	s.expect("not his", bob(), bobMay+"*@bob.example")
	s.exec(`UPDATE domain SET subscription_id = (` + object["bob"] + `) WHERE name = 'blog.example'`)
	s.expect("not hers", alice(), "refused by "+aliceMay+", *@shop.example")
	s.expect("his", bob(), "accepted")
	s.exec(`UPDATE domain SET removed_at = now() WHERE name = 'blog.example'`)
	s.expect("nobody's", bob(), bobMay+"*@bob.example")
	s.exec(`INSERT INTO domain (subscription_id, name) VALUES ($1, 'blog.example')`, s.alice)
	s.expect("hers again", alice(), "accepted")
}

// TestSendersAreRemembered: whose a sender is, is asked once; a batch with many of them
// asks once, too.
func TestSendersAreRemembered(t *testing.T) {
	s := senderServer(t)
	m := func() quota.Message { return as(message(1001, "alice", 1), "x@shop.example", quota.SenderRefuse) }
	s.decide(s.one, m())
	quota.Trust(s.one)
	before := quota.RememberedOf(s.one)
	s.exec(`ALTER TABLE sender RENAME TO sender_gone`)
	s.expect("remembered", s.decide(s.one, m()), "accepted")
	if quota.RememberedOf(s.one) == before {
		t.Error("not decided by memory")
	}
	s.exec(`ALTER TABLE sender_gone RENAME TO sender`)
	for _, sender := range []string{"1@new.example", "2@new.example"} {
		s.expect("not yet allowed", s.decide(s.one, as(m(), sender, quota.SenderRefuse)), "refused by "+aliceMay+", *@shop.example, *@blog.example")
	}
	s.exec(`INSERT INTO sender (object_id, address) SELECT (` + object["user"] + `), '@new.example'`)
	for _, sender := range []string{"1@new.example", "2@new.example"} {
		s.expect("allowed since", s.decide(s.one, as(m(), sender, quota.SenderRefuse)), "accepted")
	}
	var batch []quota.Message
	for i := range 50 {
		batch = append(batch, as(message(1001, "alice", 1), fmt.Sprintf("%d@%s", i, [2]string{"shop.example", "foreign.example"}[i%2]), quota.SenderRefuse))
	}
	decisions, err := s.one.Decide(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range decisions {
		if refused := d.Refusal != nil; refused != (i%2 == 1) {
			t.Errorf("%s: refused %v", batch[i].Sender, refused)
		}
	}
	prove(t, s.one, s.owner)
}

// TestSenderInOutage: without the database, what was known of a sender holds, and others
// pass: a refusal would be final.
func TestSenderInOutage(t *testing.T) {
	o := newOutage(t)
	o.limitAlice(100)
	q := o.host("host1", o.journal)
	sent := func(sender string) string {
		d, err := q.Submit(o.Context(), as(message(1001, "alice", 1), sender, quota.SenderRefuse))
		switch {
		case err != nil:
			return err.Error()
		case d.Refusal != nil:
			return d.Refusal.By()
		}
		return "accepted"
	}
	check := func(when string, want map[string]string) {
		t.Helper()
		for sender, want := range want {
			if got := sent(sender); got != want {
				t.Errorf("%s, %s: %s, want %s", when, sender, got, want)
			}
		}
	}
	check("before", map[string]string{"known@foreign.example": aliceMay, "alice@host1": "accepted"})
	o.away()
	check("away", map[string]string{"known@foreign.example": aliceMay, "new@foreign.example": "accepted", "alice": "accepted"})
	o.back(q)
	check("after", map[string]string{"new@foreign.example": aliceMay})
	o.booked(q, "subscription:alice", 3, 6)
}
