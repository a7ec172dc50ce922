package quota

import (
	"strings"
	"testing"
	"unicode/utf8"

	"sendmail-wrapper/origin"
)

// TestOwnSenderByName: what is own without a look into the database.
func TestOwnSenderByName(t *testing.T) {
	s := NewStore(nil, "old.example", 1000)
	s.SetHostNames("Web1.example", "", "mail.example")
	alice := Message{Origin: origin.Origin{UID: 1001, User: "alice"}}
	info := Message{Mailbox: "Info@shop.example", Origin: alice.Origin}
	login := Message{Mailbox: "info"}
	with := func(m Message, sender string) *Message { m.Sender = sender; return &m }
	onBehalf, noUser, passes := with(alice, "x@foreign.example"), with(alice, "x@foreign.example"), with(info, "x@foreign.example")
	onBehalf.OnBehalf, noUser.NoUser, passes.Passes = "list@shop.example", true, true
	loggedIn := with(info, "x@foreign.example")
	loggedIn.OnBehalf = "list@shop.example"
	for _, c := range []struct {
		m    *Message
		want bool
	}{
		{with(info, ""), true},
		{with(info, "info@shop.example"), true},
		{with(info, "INFO@Shop.Example"), true},
		{with(info, "info+orders@shop.example"), true},
		{with(info, "infox@shop.example"), false},
		{with(info, "info@foreign.example"), false},
		{with(info, "info@shop.example.foreign.example"), false},
		{with(info, "info@shop.example@foreign.example"), false},
		{with(info, "info"), false},
		{with(info, "alice"), false},
		{with(info, "alice@web1.example"), false},
		{with(info, "info@"), false},
		{with(info, "@shop.example"), false},

		{with(alice, ""), true},
		{with(alice, "alice"), true},
		{with(alice, "anybody"), true},
		{with(alice, "alice@web1.example"), true},
		{with(alice, "Alice@MAIL.example"), true},
		{with(alice, "alice+cron@localhost"), true},
		{with(alice, "alice@old.example"), false}, // names were set anew
		{with(alice, "bob@web1.example"), false},
		{with(alice, "alice@foreign.example"), false},
		{with(alice, "alice@"), false},
		{with(alice, "bob@web1.example@foreign.example"), false},

		{with(login, "info"), true},
		{with(login, "info@web1.example"), true},
		{with(login, "alice@web1.example"), false},

		{onBehalf, true}, {noUser, true}, {passes, true}, {loggedIn, false},
	} {
		if got := s.ownSender(c.m); got != c.want {
			t.Errorf("mailbox %q, user %q: sender %q own: %v, want %v", c.m.Mailbox, c.m.Origin.User, c.m.Sender, got, c.want)
		}
	}
}

// TestSenderKey: an address that is too long does not become one that is shorter, and
// bytes that are no text do not reach the database.
func TestSenderKey(t *testing.T) {
	r := &route{Targets: []target{{ID: 1, Object: Object{User, "alice"}}, {ID: 3, Object: Object{Domain, "shop.example"}},
		{ID: 4, Object: Object{Subscription, "alice"}}, serverTarget}}
	for sender, want := range map[string]string{
		"Ceo@Bank.example": "ceo@bank.example",
		strings.Repeat("x", maxAddress-len("@shop.example")) + "@shop.example.foreign.example": "",
		"\xffa\x00@b": "\ufffda\ufffd@b",
	} {
		k := senderKeyOf(&Message{Sender: sender, Origin: origin.Origin{User: "alice"}}, r)
		if want := (senderKey{Object{User, "alice"}, 1, 3, 4, want}); k != want {
			t.Errorf("%q: %+v, want %+v", sender, k, want)
		}
	}
}

// TestSendersAreBounded: whoever makes up a sender for each message takes the room of
// others, and no more.
func TestSendersAreBounded(t *testing.T) {
	s := newSenders("host1")
	for i := range 2 * maxSenders {
		s.learn(map[senderKey]*Refusal{{nearest: ID(i)}: nil}, 1)
	}
	if n := s.known.Len(); n != maxSenders {
		t.Errorf("%d senders are remembered, want %d", n, maxSenders)
	}
	if _, ok := s.last(senderKey{nearest: 2*maxSenders - 1}, 1); !ok {
		t.Error("the last one is not remembered")
	}
	if _, ok := s.last(senderKey{nearest: 2*maxSenders - 1}, 2); ok {
		t.Error("what an earlier term knew is taken for current")
	}
}

// FuzzSender: whatever bytes a sender is, it is the mailbox's only if its last domain and
// the name before it are; and the database is asked with text only.
func FuzzSender(f *testing.F) {
	for _, sender := range []string{"", "info@shop.example", "INFO+x@SHOP.example", "info@shop.example@x", "\xff\x00@", "İnfo@shop.example", "ınfo@shop.example", "info@ſhop.example"} {
		f.Add(sender)
	}
	s := NewStore(nil, "host1", 1000)
	f.Fuzz(func(t *testing.T, sender string) {
		m := &Message{Mailbox: "info@shop.example", Sender: sender}
		if s.ownSender(m) && sender != "" {
			lower := strings.ToLower(sender)
			name, isAlone := strings.CutSuffix(lower, "@shop.example")
			if !isAlone || name != "info" && !strings.HasPrefix(name, "info+") {
				t.Errorf("%q is taken for the mailbox's own", sender)
			}
		}
		k := senderKeyOf(m, &route{Targets: []target{serverTarget}})
		if !utf8.ValidString(k.address) || strings.Contains(k.address, "\x00") {
			t.Errorf("%q: the database would be asked for %q", sender, k.address)
		}
	})
}
