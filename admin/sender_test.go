package admin_test

import (
	"errors"
	"strings"
	"testing"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/quota"
)

func TestParseSender(t *testing.T) {
	for in, want := range map[string]string{
		"Info@Shop.Example": "info@shop.example", "@Shop.Example": "@shop.example", "root@web1": "root@web1",
		`"a@b"@shop.example`: `"a@b"@shop.example`, "größe@müller.example": "größe@müller.example",
	} {
		if got, err := admin.ParseSender(in); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
	for in, hint := range map[string]string{
		"": "", "info": "", "info@": "", "@": "", "a b@shop.example": "", "a@shop.example\n": "", "a@.example": "", "a@example.": "", "a@b..example": "",
		"a@*.example": "", "Name <a@shop.example>": "", "<a@shop.example>": "", "a@shop.example,b@shop.example": "", strings.Repeat("x", 321) + "@a": "",
		"shop.example":   "@shop.example is all addresses of the domain",
		"*@shop.example": "@shop.example is all addresses of the domain",
	} {
		got, err := admin.ParseSender(in)
		var e *admin.Error
		if !errors.As(err, &e) || e.Hint != hint {
			t.Errorf("%.40q: %q, %v, hint %q", in, got, err, hint)
		}
	}
}

// TestSenders: what is added is listed, once, with its row of the audit, and goes with
// its object.
func TestSenders(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	b.must(t, b.AddSubscription(ctx, "acme", quota.DefaultPlan, ""))
	b.must(t, b.AddDomain(ctx, "acme.example", "acme", ""))
	b.must(t, b.AddMailbox(ctx, "info@acme.example"))
	b.must(t, b.AddMailbox(ctx, "sales@acme.example"))
	before := len(b.audit(t))
	info, acme := quota.Object{Class: quota.Mailbox, Name: "info@acme.example"}, quota.Object{Class: quota.Subscription, Name: "acme"}
	add := func(o quota.Object, address string, want bool) {
		t.Helper()
		added, err := b.AddSender(ctx, o, address)
		if err != nil || added != want {
			t.Errorf("%s %s: added %v, %v, want %v", o, address, added, err, want)
		}
	}
	add(info, "sales@acme.example", true)
	add(info, "sales@acme.example", false)
	add(acme, "@acme.net", true)
	all, err := b.Match(ctx, admin.Pattern{Object: quota.Object{Class: quota.Mailbox, Name: "*"}})
	b.must(t, err)
	b.must(t, b.AddSenders(ctx, all, "sales@acme.example"))
	b.must(t, b.AddSenders(ctx, all, "both@acme.example"))
	b.must(t, b.RemoveSenders(ctx, all, "both@acme.example"))

	listed := func(of *quota.Object, want ...string) {
		t.Helper()
		list, err := b.Senders(ctx, of)
		b.must(t, err)
		var got []string
		for _, s := range list {
			if s.Made.IsZero() {
				t.Errorf("%+v has no time", s)
			}
			got = append(got, s.Object+" "+s.Address)
		}
		equal(t, got, nil, want...)
	}
	listed(nil, "subscription:acme @acme.net", "mailbox:info@acme.example sales@acme.example", "mailbox:sales@acme.example sales@acme.example")
	listed(&info, "mailbox:info@acme.example sales@acme.example")

	b.must(t, b.RemoveSender(ctx, info, "sales@acme.example"))
	refused(t, b.RemoveSender(ctx, info, "sales@acme.example"), "mailbox:info@acme.example has no sender sales@acme.example of its own", "mailctl sender list mailbox:info@acme.example")
	for _, o := range []quota.Object{{Class: quota.Server}, {Class: quota.Plan, Name: quota.DefaultPlan}} {
		_, err := b.AddSender(ctx, o, "@acme.net")
		refused(t, err, o.String()+" can have no senders: write user:, mailbox:, domain: or subscription:", "")
	}
	_, err = b.AddSender(ctx, quota.Object{Class: quota.Domain, Name: "gone.example"}, "@acme.net")
	if !errors.As(err, new(*quota.NotFoundError)) {
		t.Errorf("a domain that is not there: %v", err)
	}

	b.must(t, b.Remove(ctx, quota.Object{Class: quota.Mailbox, Name: "sales@acme.example"}))
	listed(nil, "subscription:acme @acme.net")
	b.must(t, b.AddMailbox(ctx, "sales@acme.example"))
	listed(nil, "subscription:acme @acme.net")

	equal(t, b.audit(t)[before:], nil,
		[4]string{"sender add", "mailbox:info@acme.example", "", "sales@acme.example"},
		[4]string{"sender add", "subscription:acme", "", "@acme.net"},
		[4]string{"sender add", "mailbox:info@acme.example", "sales@acme.example", "sales@acme.example"},
		[4]string{"sender add", "mailbox:sales@acme.example", "", "sales@acme.example"},
		[4]string{"sender add", "mailbox:info@acme.example", "", "both@acme.example"},
		[4]string{"sender add", "mailbox:sales@acme.example", "", "both@acme.example"},
		[4]string{"sender remove", "mailbox:info@acme.example", "both@acme.example", "no both@acme.example"},
		[4]string{"sender remove", "mailbox:sales@acme.example", "both@acme.example", "no both@acme.example"},
		[4]string{"sender remove", "mailbox:info@acme.example", "sales@acme.example", "no sales@acme.example"},
		[4]string{"mailbox remove", "mailbox:sales@acme.example", "sales@acme.example", ""},
		[4]string{"mailbox add", "mailbox:sales@acme.example", "", "domain acme.example"})
}
