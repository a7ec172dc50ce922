package admin_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/quota"
)

// Limits, mode, exceptions and usage are of an object, whatever its name.
func TestRename(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	b.must(t, b.AddSubscription(ctx, "acme", "default", ""))
	b.must(t, b.AddDomain(ctx, "acme.example", "acme", ""))
	b.must(t, b.AddMailbox(ctx, "info@acme.example"))
	b.must(t, b.AddDomain(ctx, "empty.example", "acme", ""))
	names := []string{"subscription:acme", "domain:acme.example", "domain:empty.example", "mailbox:info@acme.example"}
	objects := func(names []string) (list []quota.Object) {
		for _, name := range names {
			o, err := quota.ParseObject(name)
			b.must(t, err)
			list = append(list, o)
		}
		return list
	}
	for _, o := range objects(names) {
		_, err := b.SetLimit(ctx, o, o.Class, quota.MessagesHour, ptr(int64(7)))
		b.must(t, err)
		_, err = b.SetMode(ctx, o, ptr(quota.Observe))
		b.must(t, err)
		_, err = b.Raise(ctx, o, quota.MessagesDay, 50, time.Now().Add(time.Hour))
		b.must(t, err)
	}
	send := quota.Message{ID: uuid.Must(uuid.NewV7()), Recipients: 2, Sender: "info@acme.example", Mailbox: "info@acme.example"}
	decisions, err := b.store.Decide(ctx, []quota.Message{send})
	b.must(t, err)
	if decisions[0].Refusal != nil {
		t.Fatalf("%+v", decisions[0])
	}

	before, err := b.store.Usage(ctx, objects(names))
	b.must(t, err)
	b.must(t, b.SetSubscription(ctx, "acme", ptr("acme2"), nil, nil))
	b.must(t, b.SetDomain(ctx, "empty.example", ptr("full.example"), nil, nil))
	b.must(t, b.SetMailbox(ctx, "info@acme.example", "office@acme.example"))
	renamed := []string{"subscription:acme2", "domain:acme.example", "domain:full.example", "mailbox:office@acme.example"}
	after, err := b.store.Usage(ctx, objects(renamed))
	b.must(t, err)
	for i := range after {
		before[i].Object = after[i].Object
		if u := after[i].Limits["messages/hour"]; u.Limit == nil || *u.Limit != 7 || after[i].Mode != string(quota.Observe) {
			t.Errorf("%s: messages/hour %+v, mode %s", renamed[i], u, after[i].Mode)
		}
	}
	if used := after[3].Limits["messages/hour"].Used; used != 1 {
		t.Errorf("%s has used %d, want 1", renamed[3], used)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
	exceptions, err := b.Exceptions(ctx, quota.Raise, false)
	b.must(t, err)
	var of []string
	for _, x := range exceptions {
		of = append(of, x.Subject)
	}
	slices.Sort(of)
	slices.Sort(renamed)
	equal(t, of, nil, renamed...)
}

// A plan says what nobody has set by hand.
func TestPlanChangeSparesOwnLimits(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	limit := func(object string, l quota.Limit, value int64) {
		t.Helper()
		o, err := quota.ParseObject(object)
		b.must(t, err)
		class, err := admin.Governs(o, "")
		b.must(t, err)
		_, err = b.SetLimit(ctx, o, class, l, &value)
		b.must(t, err)
	}
	for _, plan := range []string{"gold", "silver"} {
		b.must(t, b.AddPlan(ctx, plan, nil))
	}
	for _, name := range []string{"own", "plain"} {
		b.must(t, b.AddSubscription(ctx, name, "gold", ""))
	}
	limit("plan:gold", quota.MessagesHour, 100)
	limit("plan:gold", quota.MessagesDay, 1000)
	limit("plan:silver", quota.MessagesHour, 10)
	limit("plan:silver", quota.MessagesDay, 20)
	limit("subscription:own", quota.MessagesHour, 500)
	check := func(name string, hour, day int64) {
		t.Helper()
		usage, err := b.store.Usage(ctx, []quota.Object{{Class: quota.Subscription, Name: name}})
		b.must(t, err)
		got := []int64{*usage[0].Limits["messages/hour"].Limit, *usage[0].Limits["messages/day"].Limit}
		equal(t, got, nil, hour, day)
	}
	check("own", 500, 1000)
	check("plain", 100, 1000)
	limit("plan:gold", quota.MessagesHour, 150)
	limit("plan:gold", quota.MessagesDay, 1500)
	check("own", 500, 1500)
	check("plain", 150, 1500)
	for _, name := range []string{"own", "plain"} {
		b.must(t, b.SetSubscription(ctx, name, nil, ptr("silver"), nil))
	}
	check("own", 500, 20)
	check("plain", 10, 20)
}
