package quota

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// accepted is an event as the message row records it.
type accepted struct {
	at         time.Time
	recipients int64
}

// sumOver adds up, by brute force, what events hold in the interval of a
// length that ends with, and includes, the moment end.
func sumOver(events []accepted, l Limit, end time.Time, length time.Duration) (sum int64) {
	for _, e := range events {
		if e.at.After(end.Add(-length)) && !e.at.After(end) {
			sum += Cost{1, e.recipients}.of(l)
		}
	}
	return sum
}

var windows = map[Limit]time.Duration{MessagesHour: time.Hour, RecipientsHour: time.Hour, MessagesDay: 24 * time.Hour, RecipientsDay: 24 * time.Hour}

// TestNoWindowEverHoldsMore: whatever arrives whenever, by a clock that may
// also run backwards, no 60 minutes and no 24 hours of recorded times hold more
// than the limit, wherever they begin.
func TestNoWindowEverHoldsMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := &Account{Object: Object{Subscription, "s"}, Bounds: Unbounded()}
		a.Bounds[MessagesHour].Max = rapid.Int64Range(1, 8).Draw(t, "messages/hour")
		a.Bounds[RecipientsHour].Max = rapid.Int64Range(1, 30).Draw(t, "recipients/hour")
		a.Bounds[MessagesDay].Max = rapid.Int64Range(1, 40).Draw(t, "messages/day")
		a.Bounds[RecipientsDay].Max = rapid.Int64Range(1, 150).Draw(t, "recipients/day")
		now := time.Unix(rapid.Int64Range(1e9, 1e9+1e6).Draw(t, "start"), 0).UTC()
		var events []accepted
		for range rapid.IntRange(1, 200).Draw(t, "arrivals") {
			// Mostly bursts, now and then a jump to about where a window ends.
			step := rapid.OneOf(rapid.Int64Range(-90, 600), rapid.SampledFrom([]int64{0, 0, 0, 3539, 3540, 3599, 3600, 3601, 3660, 86399, 86400, 87300})).Draw(t, "step")
			now = now.Add(time.Duration(step) * time.Second)
			cost := Cost{1, rapid.Int64Range(1, 6).Draw(t, "recipients")}
			d := Decide([]*Account{a}, cost, Enforce, 0, now)
			if d.Refusal != nil {
				continue
			}
			at := d.At
			if at.Before(now) || len(events) > 0 && minuteAt(at) < minuteAt(events[len(events)-1].at) {
				t.Fatalf("recorded at %v, decided at %v", at, now)
			}
			events = append(events, accepted{at, cost.Recipients})
		}
		for _, e := range events { // a fullest interval ends with an event
			for l, length := range windows {
				if sum := sumOver(events, l, e.at, length); sum > a.Bounds[l].Max {
					t.Fatalf("%d %s until %v, the limit is %d", sum, l, e.at, a.Bounds[l].Max)
				}
			}
		}
	})
}

// TestFreeAt: a refused message would be refused until one second before
// FreeAt and pass at FreeAt, if nothing else came.
func TestFreeAt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		accounts := []*Account{{Object: Object{User, "u"}, Bounds: drawBounds(t, "user")}, {Object: Object{Class: Server}, Bounds: drawBounds(t, "server")}}
		now := time.Unix(rapid.Int64Range(1e9, 1e9+1e6).Draw(t, "start"), 0).UTC()
		for range 60 {
			now = now.Add(time.Duration(rapid.Int64Range(0, 4000).Draw(t, "step")) * time.Second)
			cost := Cost{1, rapid.Int64Range(1, 6).Draw(t, "recipients")}
			refusal := Decide(accounts, cost, Enforce, 0, now).Refusal
			if refusal == nil {
				continue
			}
			tried := func(at time.Time) *Refusal {
				return Decide(clone(t, accounts), cost, Enforce, 0, at).Refusal
			}
			if refusal.FreeAt.IsZero() {
				if tried(now.Add(1000*time.Hour)) == nil {
					t.Fatalf("%+v is said never to pass, but does", refusal)
				}
				continue
			}
			if r := tried(refusal.FreeAt); r != nil {
				t.Fatalf("refused when it should be free: %+v, then %+v", refusal, r)
			}
			if tried(refusal.FreeAt.Add(-time.Second)) == nil {
				t.Fatalf("passes before it should be free: %+v", refusal)
			}
		}
	})
}

func drawBounds(t *rapid.T, of string) Bounds {
	b := Unbounded()
	for l := range b {
		b[l].Max = rapid.SampledFrom([]int64{Unlimited, 0, 1, 3, 10, 40}).Draw(t, of+" "+Limit(l).String())
	}
	return b
}

func clone(t *rapid.T, accounts []*Account) (copies []*Account) {
	for _, a := range accounts {
		copies = append(copies, &Account{ID: a.ID, Object: a.Object, Bounds: a.Bounds, Usage: through(t, &a.Usage), raises: a.raises})
	}
	return copies
}

// through is what the database makes of a Usage.
func through(t *rapid.T, u *Usage) (back Usage) {
	state, err := u.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := back.UnmarshalBinary(state); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(u.minutes, back.minutes, cmp.AllowUnexported(slot{})); diff != "" && len(u.minutes) > 0 {
		t.Fatal(diff)
	}
	if diff := cmp.Diff(u.quarters, back.quarters, cmp.AllowUnexported(slot{})); diff != "" && len(u.quarters) > 0 {
		t.Fatal(diff)
	}
	return back
}

// TestDecideAsModel: Decide, with each state going through its encoding, does
// what a model does that keeps every event and knows no slots beyond rounding
// times down to them.
func TestDecideAsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		accounts := []*Account{{Object: Object{User, "u"}, Bounds: drawBounds(t, "user")}, {Object: Object{Subscription, "s"}, Bounds: drawBounds(t, "subscription")}}
		var model []accepted
		now := time.Unix(rapid.Int64Range(1e9, 1e9+1e6).Draw(t, "start"), 0).UTC()
		for range 80 {
			now = now.Add(time.Duration(rapid.Int64Range(0, 5000).Draw(t, "step")) * time.Second)
			cost := Cost{1, rapid.Int64Range(1, 6).Draw(t, "recipients")}
			mode := rapid.SampledFrom([]Mode{Enforce, Enforce, Enforce, Off}).Draw(t, "mode")
			want := true
			for _, a := range accounts {
				for l := range Limit(NumLimits) {
					want = want && modelAllows(model, a.Bounds[l].Max, l, cost, now)
				}
			}
			accounts = clone(t, accounts)
			refusal := Decide(accounts, cost, mode, 0, now).Refusal
			if (refusal == nil) != (want || mode == Off) {
				t.Fatalf("at %v: %+v, the model says %v", now, refusal, want)
			}
			if refusal == nil {
				model = append(model, accepted{now, cost.Recipients})
			}
			for _, a := range accounts {
				for l := range windows {
					if got, sum := a.Usage.used(l, minuteAt(now)), modelSum(model, l, now); got != sum {
						t.Fatalf("%s: counter %d, events %d", l, got, sum)
					}
				}
			}
		}
	})
}

func modelSum(model []accepted, l Limit, now time.Time) (sum int64) {
	length, slots := int64(60), int64(61)
	if windows[l] > time.Hour {
		length, slots = 900, 97
	}
	for _, e := range model {
		if now.Unix()/length-e.at.Unix()/length < slots {
			sum += Cost{1, e.recipients}.of(l)
		}
	}
	return sum
}

func modelAllows(model []accepted, bound int64, l Limit, cost Cost, now time.Time) bool {
	if l == RecipientsMessage {
		return bound == Unlimited || cost.Recipients <= bound
	}
	return bound == Unlimited || modelSum(model, l, now)+cost.of(l) <= bound
}

func TestRefusalText(t *testing.T) {
	free := time.Date(2026, 11, 23, 14, 5, 0, 0, time.UTC)
	alice := Object{Subscription, "alice"}
	for _, c := range []struct {
		refusal Refusal
		text    string
		by      string
		code    string
	}{
		{Refusal{Object: alice, Limit: MessagesHour, Max: 20, Used: 20, Recipients: 1, FreeAt: free},
			"limit of 20 messages per hour of subscription alice reached (20 used); free again at 2026-11-23 14:05 UTC", "subscription:alice messages/hour", "452 4.7.1"},
		{Refusal{Object: Object{Class: Server}, Limit: RecipientsDay, Max: 50, Used: 48, Recipients: 5, FreeAt: free},
			"limit of 50 recipients per day of server: 48 used, this message has 5; free again at 2026-11-23 14:05 UTC", "server recipients/day", "452 4.7.1"},
		{Refusal{Object: alice, Limit: RecipientsHour, Max: 4, Used: 0, Recipients: 5},
			"limit of 4 recipients per hour of subscription alice: this message has 5 recipients and can never pass; send it to fewer at a time", "subscription:alice recipients/hour", "554 5.7.1"},
		{Refusal{Object: alice, Limit: RecipientsMessage, Max: 4, Used: 5, Recipients: 5},
			"limit of 4 recipients per message of subscription alice: this message has 5; send it to fewer at a time", "subscription:alice recipients/message", "554 5.7.1"},
		{Refusal{Object: alice, Limit: MessagesDay}, "subscription alice may send no mail (limit of 0 messages per day of subscription alice)", "subscription:alice messages/day", "554 5.7.1"},
		{Refusal{Reason: "limit reached", Later: true}, "limit reached", "limit reached", "452 4.7.1"},
		{Refusal{Reason: "too many at once"}, "too many at once", "too many at once", "554 5.7.1"},
	} {
		if got := c.refusal.Text(); got != c.text {
			t.Errorf("got  %s\nwant %s", got, c.text)
		}
		if got := c.refusal.By(); got != c.by {
			t.Errorf("by %s, want %s", got, c.by)
		}
		if got := c.refusal.Code(); got != c.code {
			t.Errorf("%s: code %s, want %s", c.text, got, c.code)
		}
	}
}

// TestWhichRefusal: of several limits the one that is free again last is named,
// and of equals the nearest account's.
func TestWhichRefusal(t *testing.T) {
	now := time.Unix(1e9, 0)
	bounded := func(o Object, l Limit, max int64) *Account {
		a := &Account{Object: o, Bounds: Unbounded()}
		a.Bounds[l].Max = max
		return a
	}
	user := bounded(Object{User, "u"}, MessagesHour, 1)
	subscription := bounded(Object{Subscription, "s"}, MessagesDay, 1)
	server := bounded(Object{Class: Server}, MessagesDay, 1)
	accounts := []*Account{user, subscription, server}
	if r := Decide(accounts, Cost{1, 1}, Enforce, 0, now).Refusal; r != nil {
		t.Fatal(r)
	}
	if r := Decide(accounts, Cost{1, 1}, Enforce, 0, now).Refusal; r == nil || r.Object != subscription.Object {
		t.Errorf("got %+v, want the subscription's day", r)
	}
	user.Bounds[RecipientsMessage].Max = 3
	if r := Decide(accounts, Cost{1, 4}, Enforce, 0, now).Refusal; r == nil || r.Limit != RecipientsMessage {
		t.Errorf("got %+v, want the limit under which it can never pass", r)
	}
}

func FuzzUnmarshalUsage(f *testing.F) {
	var u Usage
	u.charge(29_000_000, Cost{1, 5})
	u.charge(29_000_020, Cost{1, 1})
	state, err := u.AppendBinary(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(state)
	f.Add([]byte{})
	f.Add([]byte{97, 1, 1, 1})
	u.forgiveAll()
	u.waive().grant = Grant{Messages: 3, Recipients: 400, Until: time.Unix(2e9, 5000)}
	if state, err = u.AppendBinary(nil); err != nil {
		f.Fatal(err)
	}
	f.Add(state)
	f.Fuzz(func(t *testing.T, b []byte) {
		var u Usage
		if u.UnmarshalBinary(b) != nil || len(b) == 0 {
			return
		}
		again, err := u.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		var back Usage
		if err := back.UnmarshalBinary(again); err != nil {
			t.Fatalf("what was written is not read: %v", err)
		}
		// Whatever was stored, the arithmetic holds: sums are not negative and
		// a charge adds what it says.
		minute := max(29_000_000, u.newest())
		for l := range windows {
			before := u.used(l, minute)
			if before < 0 {
				t.Fatalf("%s: %d used", l, before)
			}
		}
		before := u.used(MessagesHour, minute)
		u.charge(minute, Cost{1, 1})
		if after := u.used(MessagesHour, minute); after != before+1 {
			t.Fatalf("%d used, then %d", before, after)
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	accounts := []*Account{{Bounds: Unbounded()}, {Bounds: Unbounded()}, {Bounds: Unbounded()}, {Bounds: Unbounded()}}
	for _, a := range accounts {
		for m := range int64(61) {
			a.Usage.charge(1_000_000+m, Cost{1, 1})
		}
		a.Bounds[MessagesHour].Max, a.Bounds[MessagesDay].Max = 1<<40, 1<<40
	}
	now := time.Unix(1_000_060*60, 0)
	for b.Loop() {
		Decide(accounts, Cost{1, 1}, Enforce, 80, now)
	}
}
