package admin_test

import (
	"testing"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/quota"
)

// manyObjects makes two subscriptions under gold and one under default, with what
// belongs to them.
func manyObjects(t *testing.T) *bench {
	t.Helper()
	b, ctx := newBench(t), t.Context()
	b.must(t, b.AddPlan(ctx, "gold", nil))
	for name, plan := range map[string]string{"acme": "gold", "acme_2": "gold", "small": "default"} {
		b.must(t, b.AddSubscription(ctx, name, plan, ""))
	}
	for domain, subscription := range map[string]string{"a.example": "acme", "b.example": "acme_2", "b-small.example": "small"} {
		b.must(t, b.AddDomain(ctx, domain, subscription, ""))
		b.must(t, b.AddMailbox(ctx, "info@"+domain))
	}
	b.must(t, b.AddUser(ctx, "daemon", "acme"))
	return b
}

func TestMatch(t *testing.T) {
	b, ctx := manyObjects(t), t.Context()
	if _, err := b.pool.Exec(ctx, `INSERT INTO host (name) VALUES ('host2')`); err != nil {
		t.Fatal(err)
	}
	if _, err := b.pool.Exec(ctx, `INSERT INTO system_user (subscription_id, uid, host_id, name) SELECT s.id, 7, h.id, 'bob' FROM subscription s, host h WHERE s.name = 'small' AND h.name = 'host2'`); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		pattern, plan, of string
		want              []string
	}{
		{"subscription:*", "", "", []string{"acme", "acme_2", "small"}},
		{"subscription:acme?2", "", "", []string{"acme_2"}},
		{"subscription:*", "gold", "", []string{"acme", "acme_2"}},
		{"domain:B*", "", "", []string{"b-small.example", "b.example"}},
		{"domain:b*", "gold", "", []string{"b.example"}},
		{"domain:*", "gold", "acme", []string{"a.example"}},
		{"mailbox:*@?.example", "", "", []string{"info@a.example", "info@b.example"}},
		{"mailbox:*", "", "small", []string{"info@b-small.example"}},
		{"user:*", "", "", []string{"daemon", "bob@host2"}},
		{"user:*@host2", "", "", []string{"bob@host2"}},
		{"plan:*", "", "", []string{"default", "gold", "system"}},
	} {
		o, err := quota.ParseObject(c.pattern)
		b.must(t, err)
		m, err := b.Match(ctx, admin.Pattern{Object: o, Plan: c.plan, Of: c.of})
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		equal(t, m.Names, nil, c.want...)
	}
	match := func(object, plan, of string) error {
		o, err := quota.ParseObject(object)
		b.must(t, err)
		_, err = b.Match(ctx, admin.Pattern{Object: o, Plan: plan, Of: of})
		return err
	}
	refused(t, match("subscription:acme%*", "", ""), "no subscription matches", "mailctl subscription list")
	refused(t, match(`subscription:acme\*`, "", ""), "no subscription matches", "mailctl subscription list")
	refused(t, match("subscription:*", "lead", ""), "there is no plan lead", "mailctl plan list")
	refused(t, match("domain:*", "", "nobody"), "there is no subscription nobody", "mailctl subscription list")
	refused(t, match("plan:*", "gold", ""), "plans belong to no plan and to no subscription", "")
	refused(t, b.AddPlan(ctx, "g*", nil), `"g*" cannot be the name of a plan: * and ? stand for any characters`, "")
	refused(t, b.SetSubscription(ctx, "acme", ptr("a?"), nil, nil), `"a?" cannot be the name of a subscription: * and ? stand for any characters`, "")
}

// All objects are changed, each with its row in the audit, or none.
func TestChangeMany(t *testing.T) {
	b, ctx := manyObjects(t), t.Context()
	acme := quota.Object{Class: quota.Subscription, Name: "acme"}
	_, err := b.SetLimit(ctx, acme, quota.Subscription, quota.MessagesHour, ptr(int64(5)))
	b.must(t, err)
	_, err = b.SetMode(ctx, acme, ptr(quota.Off))
	b.must(t, err)
	before := len(b.audit(t))
	gold, err := b.Match(ctx, admin.Pattern{Object: quota.Object{Class: quota.Subscription, Name: "*"}, Plan: "gold"})
	b.must(t, err)
	b.must(t, b.SetLimits(ctx, gold, quota.Subscription, quota.MessagesHour, ptr(int64(100))))
	set, err := b.Limits(ctx, nil)
	equal(t, set, err,
		admin.SetLimits{Object: "subscription:acme", For: "subscription", Limits: map[string]int64{"messages/hour": 100}},
		admin.SetLimits{Object: "subscription:acme_2", For: "subscription", Limits: map[string]int64{"messages/hour": 100}})
	b.must(t, b.SetLimits(ctx, gold, quota.Subscription, quota.MessagesHour, nil))
	if set, err = b.Limits(ctx, nil); err != nil || len(set) != 0 {
		t.Errorf("limits %v, %v", set, err)
	}
	plans, err := b.Match(ctx, admin.Pattern{Object: quota.Object{Class: quota.Plan, Name: "gol?"}})
	b.must(t, err)
	b.must(t, b.SetLimits(ctx, plans, quota.Mailbox, quota.RecipientsDay, ptr(int64(quota.Unlimited))))
	b.must(t, b.SetModes(ctx, gold, ptr(quota.Observe)))
	b.must(t, b.SetModes(ctx, gold, nil))
	want := [][4]string{
		{"limit set", "subscription:acme", "messages/hour 5", "messages/hour 100"},
		{"limit set", "subscription:acme_2", "messages/hour unset", "messages/hour 100"},
		{"limit unset", "subscription:acme", "messages/hour 100", "messages/hour unset"},
		{"limit unset", "subscription:acme_2", "messages/hour 100", "messages/hour unset"},
		{"limit set", "plan:gold", "recipients/day for mailbox unset", "recipients/day for mailbox unlimited"},
		{"mode set", "subscription:acme", "off", "observe"},
		{"mode set", "subscription:acme_2", "inherit", "observe"},
		{"mode set", "subscription:acme", "observe", "inherit"},
		{"mode set", "subscription:acme_2", "observe", "inherit"},
	}
	equal(t, b.audit(t)[before:], nil, want...)

	b.must(t, b.Remove(ctx, quota.Object{Class: quota.Mailbox, Name: "info@b.example"}))
	b.must(t, b.Remove(ctx, quota.Object{Class: quota.Domain, Name: "b.example"}))
	b.must(t, b.Remove(ctx, quota.Object{Class: quota.Subscription, Name: "acme_2"}))
	before = len(b.audit(t))
	refused(t, b.SetModes(ctx, gold, ptr(quota.Off)), "1 of them have just been removed: nothing was changed", "try again")
	if n := len(b.audit(t)); n != before {
		t.Errorf("%d rows of the audit, want %d", n, before)
	}
}
