package admin_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/quota"
)

func TestLimits(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	b.must(t, b.AddSubscription(ctx, "acme", "default", ""))
	number := func(n int64) *int64 { return &n }
	for _, c := range []struct {
		object, forClass string
		limit            quota.Limit
		value            *int64
		before           string
	}{
		{"subscription:acme", "", quota.MessagesHour, number(5), "unset"},
		{"subscription:acme", "", quota.MessagesHour, number(0), "5"},
		{"subscription:acme", "", quota.MessagesDay, number(quota.Unlimited), "unset"},
		{"subscription:acme", "", quota.MessagesDay, number(admin.MaxLimit), "unlimited"},
		{"subscription:acme", "", quota.MessagesDay, nil, "2147483647"},
		{"plan:default", "", quota.RecipientsHour, number(7), "unset"},
		{"plan:default", "mailbox", quota.RecipientsDay, number(8), "unset"},
		{"server", "", quota.RecipientsMessage, number(9), "unset"},
		{"server", "domain", quota.RecipientsMessage, number(10), "unset"},
	} {
		o, err := quota.ParseObject(c.object)
		b.must(t, err)
		class, err := admin.Governs(o, c.forClass)
		b.must(t, err)
		before, err := b.SetLimit(ctx, o, class, c.limit, c.value)
		if err != nil || before != c.before {
			t.Errorf("%+v: before %q, %v", c, before, err)
		}
	}
	set, err := b.Limits(ctx, nil)
	equal(t, set, err,
		admin.SetLimits{Object: "server", For: "server", Limits: map[string]int64{"recipients/message": 9}},
		admin.SetLimits{Object: "server", For: "domain", Limits: map[string]int64{"recipients/message": 10}},
		admin.SetLimits{Object: "plan:default", For: "subscription", Limits: map[string]int64{"recipients/hour": 7}},
		admin.SetLimits{Object: "plan:default", For: "mailbox", Limits: map[string]int64{"recipients/day": 8}},
		admin.SetLimits{Object: "subscription:acme", For: "subscription", Limits: map[string]int64{"messages/hour": 0}})

	acme := quota.Object{Class: quota.Subscription, Name: "acme"}
	set, err = b.Limits(ctx, &acme)
	equal(t, set, err, admin.SetLimits{Object: "subscription:acme", For: "subscription", Limits: map[string]int64{"messages/hour": 0}})
	usage, err := b.store.Usage(ctx, []quota.Object{acme})
	b.must(t, err)
	from := map[string]string{}
	for name, l := range usage[0].Limits {
		from[name] = l.From
	}
	if diff := cmp.Diff(map[string]string{"messages/hour": "subscription", "messages/day": "", "recipients/hour": "plan", "recipients/day": "", "recipients/message": ""}, from); diff != "" {
		t.Errorf("set on:\n%s", diff)
	}
	audit := b.audit(t)
	equal(t, audit[1:4], nil,
		[4]string{"limit set", "subscription:acme", "messages/hour unset", "messages/hour 5"},
		[4]string{"limit set", "subscription:acme", "messages/hour 5", "messages/hour 0"},
		[4]string{"limit set", "subscription:acme", "messages/day unset", "messages/day unlimited"})
	equal(t, audit[5:8], nil,
		[4]string{"limit unset", "subscription:acme", "messages/day 2147483647", "messages/day unset"},
		[4]string{"limit set", "plan:default", "recipients/hour for subscription unset", "recipients/hour for subscription 7"},
		[4]string{"limit set", "plan:default", "recipients/day for mailbox unset", "recipients/day for mailbox 8"})
}

func TestParseValue(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "500": 500, "2147483647": admin.MaxLimit, "unlimited": quota.Unlimited} {
		if got, err := admin.ParseValue(s); err != nil || got != want {
			t.Errorf("%s: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "-1", "2147483648", "99999999999999999999", "1e3", "0x10", "none", "5 "} {
		if got, err := admin.ParseValue(s); err == nil {
			t.Errorf("%q: %d", s, got)
		}
	}
}

func TestGoverns(t *testing.T) {
	acme, gold, server := quota.Object{Class: quota.Subscription, Name: "acme"}, quota.Object{Class: quota.Plan, Name: "gold"}, quota.Object{Class: quota.Server}
	for _, c := range []struct {
		o        quota.Object
		forClass string
		want     quota.Class
	}{
		{acme, "", quota.Subscription}, {gold, "", quota.Subscription}, {gold, "subscription", quota.Subscription}, {gold, "user", quota.User},
		{server, "", quota.Server}, {server, "mailbox", quota.Mailbox}, {acme, "mailbox", 0}, {gold, "plan", 0}, {server, "server", 0}, {gold, "x", 0},
	} {
		got, err := admin.Governs(c.o, c.forClass)
		if got != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%s --for %q: %s, %v", c.o, c.forClass, got, err)
		}
	}
}
