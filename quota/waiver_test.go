package quota

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// modelAccount is an account as a model has it that keeps every event.
type modelAccount struct {
	events []accepted // that count
	all    []accepted // that were counted
	grant  Grant
}

// weigh says, with the plainest arithmetic, whether a message fits, and what the
// grant pays for it.
func (m *modelAccount) weigh(a *Account, cost Cost, now time.Time) (fits bool, price Cost) {
	fits = true
	for l := range RecipientsMessage {
		fits = fits && modelAllows(m.events, modelBound(a, l, now), l, cost, now)
	}
	if live := m.grant.Until.IsZero() || now.Before(m.grant.Until); !fits && live {
		switch {
		case m.grant.Messages >= 1:
			price.Messages = 1
		case m.grant.Recipients >= cost.Recipients:
			price.Recipients = cost.Recipients
		}
		fits = price != Cost{}
	}
	return fits && modelAllows(nil, modelBound(a, RecipientsMessage, now), RecipientsMessage, cost, now), price
}

func modelBound(a *Account, l Limit, now time.Time) int64 {
	var values []int64
	for _, e := range a.raises {
		if e.Limit == l && (e.Until.IsZero() || e.Until.After(now)) {
			values = append(values, e.Value)
		}
	}
	if len(values) == 0 {
		return a.Bounds[l].Max
	}
	highest := values[0]
	for _, v := range values {
		if v == Unlimited || highest == Unlimited {
			highest = Unlimited
		} else {
			highest = max(highest, v)
		}
	}
	return highest
}

func drawRaise(t *rapid.T, now time.Time) *Exception {
	e := &Exception{Kind: Raise, Limit: Limit(rapid.IntRange(0, NumLimits-1).Draw(t, "limit")),
		Value: rapid.SampledFrom([]int64{Unlimited, 0, 1, 5, 60}).Draw(t, "value")}
	if after := rapid.SampledFrom([]int64{0, 1, 100, 5000, 90000}).Draw(t, "for"); after > 0 {
		e.Until = now.Add(time.Duration(after) * time.Second)
	}
	return e
}

func drawGrant(t *rapid.T, now time.Time) Grant {
	g := Grant{Messages: rapid.Int64Range(0, 3).Draw(t, "messages"), Recipients: rapid.Int64Range(0, 12).Draw(t, "recipients")}
	if after := rapid.SampledFrom([]int64{0, 1, 3000, 50000}).Draw(t, "until"); after > 0 {
		g.Until = now.Add(time.Duration(after) * time.Second)
	}
	return g
}

// TestExceptionsAsModel: with raises that end, allowances, resets and modes, and
// each state going through its encoding, Decide does what the model does; what was
// counted is all that was let through.
func TestExceptionsAsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		accounts := []*Account{{ID: 1, Object: Object{User, "u"}, Bounds: drawBounds(t, "user")}, {ID: 2, Object: Object{Subscription, "s"}, Bounds: drawBounds(t, "subscription")}}
		models := make([]modelAccount, len(accounts))
		now := time.Unix(rapid.Int64Range(1e9, 1e9+1e6).Draw(t, "start"), 0).UTC()
		for range 60 {
			now = now.Add(time.Duration(rapid.Int64Range(0, 5000).Draw(t, "step")) * time.Second)
			which := rapid.IntRange(0, len(accounts)-1).Draw(t, "which")
			a, model := accounts[which], &models[which]
			switch rapid.SampledFrom([]string{"", "", "", "", "reset", "grant", "raise"}).Draw(t, "action") {
			case "reset":
				a.Usage.forgiveAll()
				model.events = nil
			case "grant":
				model.grant = drawGrant(t, now)
				a.Usage.waive().grant = model.grant
			case "raise":
				a.raises = append(a.raises, drawRaise(t, now))
			}
			cost := Cost{1, rapid.Int64Range(1, 6).Draw(t, "recipients")}
			mode := rapid.SampledFrom([]Mode{Enforce, Enforce, Enforce, Observe, Off}).Draw(t, "mode")
			fits, prices := true, make([]Cost, len(accounts))
			for i := range models {
				one, price := models[i].weigh(accounts[i], cost, now)
				fits, prices[i] = fits && one, price
			}
			accounts = clone(t, accounts)
			d := Decide(accounts, cost, mode, 80, now)
			if (d.Refusal == nil) != (fits || mode != Enforce) || (d.Observed != nil) != (!fits && mode == Observe) {
				t.Fatalf("at %v in mode %s: %+v, the model says %v", now, mode, d, fits)
			}
			for i := range models {
				m := &models[i]
				if d.Refusal == nil {
					m.all = append(m.all, accepted{now, cost.Recipients})
					if paid := fits && mode != Off && prices[i] != (Cost{}); paid {
						m.grant.Messages -= prices[i].Messages
						m.grant.Recipients -= prices[i].Recipients
					} else {
						m.events = append(m.events, accepted{now, cost.Recipients})
					}
				}
				for l := range windows {
					if got, sum := accounts[i].Usage.used(l, minuteAt(now)), modelSum(m.events, l, now); got != sum {
						t.Fatalf("%s %s: %d used, the model has %d", accounts[i].Object, l, got, sum)
					}
					if got, sum := accounts[i].Usage.counted(l, minuteAt(now)), modelSum(m.all, l, now); got != sum {
						t.Fatalf("%s %s: %d counted, the model has %d", accounts[i].Object, l, got, sum)
					}
				}
				want := m.grant
				if !want.Until.IsZero() && !now.Before(want.Until) {
					want = Grant{}
				}
				if got := accounts[i].Usage.grantAt(now); got.String() != want.String() {
					t.Fatalf("%s: %s left, the model has %s", accounts[i].Object, got, want)
				}
			}
		}
	})
}

// TestFreeAtWithRaises: "free again at" is exact also where a raise ends before.
func TestFreeAtWithRaises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := &Account{Object: Object{User, "u"}, Bounds: drawBounds(t, "user")}
		a.Bounds[RecipientsMessage].Max = Unlimited
		now := time.Unix(rapid.Int64Range(1e9, 1e9+1e6).Draw(t, "start"), 0).UTC()
		for range 40 {
			now = now.Add(time.Duration(rapid.Int64Range(0, 4000).Draw(t, "step")) * time.Second)
			if rapid.IntRange(0, 9).Draw(t, "raise") == 0 {
				if e := drawRaise(t, now); e.Limit != RecipientsMessage {
					a.raises = append(a.raises, e)
				}
			}
			cost := Cost{1, rapid.Int64Range(1, 6).Draw(t, "recipients")}
			refusal := Decide([]*Account{a}, cost, Enforce, 0, now).Refusal
			if refusal == nil {
				continue
			}
			tried := func(at time.Time) *Refusal {
				return Decide(clone(t, []*Account{a}), cost, Enforce, 0, at).Refusal
			}
			if refusal.FreeAt.IsZero() {
				if tried(now.Add(1000*time.Hour)) == nil {
					t.Fatalf("%+v is said never to pass, but does", refusal)
				}
				continue
			}
			// By this limit; another one may refuse then, if a raise of it ends before.
			if r := tried(refusal.FreeAt); r != nil && r.Limit == refusal.Limit {
				t.Fatalf("refused when it should be free: %+v, then %+v", refusal, r)
			}
			if before := refusal.FreeAt.Add(-time.Second); before.After(now) && tried(before) == nil {
				t.Fatalf("passes before it should be free: %+v", refusal)
			}
		}
	})
}

// TestStateOfBefore: states without a waiver are byte for byte what they always
// were, also once what was forgiven is a day old.
func TestStateOfBefore(t *testing.T) {
	const before = "\x02\xb3\xa8\xef\x01\x01\x05\x01\x03\x07\x80\xde\x85\x1c\x01\x05\x0f\x03\x07"
	u := Usage{minutes: []slot{{n: 58814208, Cost: Cost{1, 5}}, {n: 58814223, Cost: Cost{3, 7}}}, quarters: []slot{{n: 3920947, Cost: Cost{1, 5}}, {n: 3920948, Cost: Cost{3, 7}}}}
	state, err := u.AppendBinary(nil)
	if err != nil || string(state) != before {
		t.Fatalf("%q, %v", state, err)
	}
	var back Usage
	if err := back.UnmarshalBinary([]byte(before)); err != nil || back.waiver != nil {
		t.Fatalf("%+v, %v", back, err)
	}
	minute := back.newest()
	back.forgiveAll()
	back.waive().grant = Grant{Messages: 1, Until: time.Unix(minute*60+30, 0)}
	if state, err = back.AppendBinary(nil); err != nil || state[0] != waiverMark {
		t.Fatalf("%q, %v", state, err)
	}
	if err := back.UnmarshalBinary(state); err != nil || back.used(MessagesDay, minute) != 0 || back.counted(MessagesDay, minute) != 4 {
		t.Fatalf("%+v, %v", back, err)
	}
	back.charge(minute+97*15, Cost{1, 1}) // a day later
	var fresh Usage
	fresh.charge(minute+97*15, Cost{1, 1})
	a, _ := back.AppendBinary(nil)
	b, _ := fresh.AppendBinary(nil)
	if !bytes.Equal(a, b) {
		t.Errorf("%q, and %q of an object that was never reset", a, b)
	}
}

// TestBrokenWaiver: what was forgiven is part of what was counted.
func TestBrokenWaiver(t *testing.T) {
	for _, w := range []waiver{
		{minutes: []slot{{5, Cost{1, 1}}}},
		{quarters: []slot{{1, Cost{2, 1}}}},
		{quarters: []slot{{1, Cost{1, 6}}}},
	} {
		u := Usage{minutes: []slot{{20, Cost{1, 5}}}, quarters: []slot{{1, Cost{1, 5}}}, waiver: &w}
		state, err := u.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		var back Usage
		if err := back.UnmarshalBinary(state); err != errState {
			t.Errorf("%+v: %v", w, err)
		}
	}
}

// TestSharedGrant: without the database a host uses its part of an allowance, and
// what it takes back is there again.
func TestSharedGrant(t *testing.T) {
	now := time.Unix(1e9, 0)
	a := &Account{Object: Object{Subscription, "s"}, Bounds: Unbounded(), share: &share{part: 1, of: 3}}
	a.Bounds[MessagesHour].Max = 0
	a.Usage.waive().grant = Grant{Messages: 10, Until: now.Add(time.Hour)}
	passed := 0
	for range 10 {
		if d := Decide([]*Account{a}, Cost{1, 2}, Enforce, 0, now); d.Refusal == nil {
			passed++
		}
	}
	if passed != 3 || a.Usage.waiver.grant.Messages != 7 {
		t.Errorf("%d passed, %+v left", passed, a.Usage.waiver.grant)
	}
	a.charge(minuteAt(now), Cost{-1, -2}, Cost{Messages: -1})
	if d := Decide([]*Account{a}, Cost{1, 2}, Enforce, 0, now); d.Refusal != nil || a.Usage.used(MessagesHour, minuteAt(now)) != 0 {
		t.Errorf("%+v, %+v", d.Refusal, a.Usage)
	}
	a.Usage.waive().grant.take(Cost{Messages: 100})
	if left := a.Usage.waiver.grant.Messages; left != 0 {
		t.Errorf("%d left", left)
	}
}

// TestEvents: a limit that refuses, would refuse, or is nearly full.
func TestEvents(t *testing.T) {
	now := time.Unix(1e9, 0).UTC()
	for _, c := range []struct {
		name string
		mode Mode
		max  int64
		used int64
		warn int64
		want string
	}{
		{"far from it", Enforce, 10, 6, 80, ""},
		{"at 80 percent", Enforce, 10, 7, 80, "warned 8 of 10"},
		{"full", Enforce, 10, 9, 80, "warned 10 of 10"},
		{"not wanted", Enforce, 10, 9, 0, ""},
		{"refused", Enforce, 10, 10, 80, "refused 10 of 10"},
		{"observed", Observe, 10, 10, 0, "observed 10 of 10"},
		{"observed, and nearly full it is, too", Observe, 10, 10, 80, "observed 10 of 10, warned 11 of 10"},
		{"counted only", Off, 10, 10, 80, ""},
		{"no mail at all", Enforce, 0, 0, 80, "refused 0 of 0"},
		{"huge", Enforce, maxCount, 0, 100, ""},
	} {
		a := &Account{ID: 7, Object: Object{Subscription, "s"}, Bounds: Unbounded()}
		a.Bounds[MessagesHour].Max = c.max
		for range c.used {
			a.Usage.charge(minuteAt(now), Cost{1, 1})
		}
		got := ""
		for _, e := range Decide([]*Account{a}, Cost{1, 1}, c.mode, c.warn, now).Events {
			if got != "" {
				got += ", "
			}
			got += fmt.Sprintf("%s %d of %d", e.Kind, e.Used, e.Max)
			if e.ID != 7 || e.Limit != MessagesHour || e.Object != a.Object || !e.At.Equal(now) {
				t.Errorf("%s: %+v", c.name, e)
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestGiveBackAsModel: used is what was charged and not given back, whatever is given
// back in what order and however late, and each state can be read again.
func TestGiveBackAsModel(t *testing.T) {
	type event struct {
		minute int64
		cost   Cost
	}
	rapid.Check(t, func(t *rapid.T) {
		var u Usage
		var events []event
		minute := rapid.Int64Range(1e7, 1e7+100).Draw(t, "start")
		for range 60 {
			minute += rapid.SampledFrom([]int64{0, 0, 1, 7, 40, 200, 1500}).Draw(t, "step")
			if len(events) > 0 && rapid.Bool().Draw(t, "give back") {
				i := rapid.IntRange(0, len(events)-1).Draw(t, "which")
				u.giveBack(events[i].minute, events[i].cost)
				events = append(events[:i], events[i+1:]...)
			} else {
				e := event{minute, Cost{1, rapid.Int64Range(1, 9).Draw(t, "recipients")}}
				u.charge(e.minute, e.cost)
				events = append(events, e)
			}
			state, err := u.AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := u.UnmarshalBinary(state); err != nil {
				t.Fatal(err)
			}
			for l := range RecipientsMessage {
				var want int64
				for _, e := range events {
					live := e.minute > minute-minuteSlots
					if l == MessagesDay || l == RecipientsDay {
						live = e.minute/minutesPerQuarter > minute/minutesPerQuarter-quarterSlots
					}
					if live {
						want += e.cost.of(l)
					}
				}
				if got := u.used(l, minute); got != want {
					t.Fatalf("%s: %d used, want %d", l, got, want)
				}
			}
		}
	})
}

// TestGiveBackNoMore than counts: of a slot that was forgiven nothing is left.
func TestGiveBackNoMore(t *testing.T) {
	for _, c := range []struct {
		name      string
		forgive   bool
		minute    int64
		back      Cost
		wantHour  int64
		wantDay   int64
		wantEmpty bool
	}{
		{"all", false, 1000, Cost{1, 5}, 0, 0, false},
		{"more than was counted", false, 1000, Cost{9, 50}, 0, 0, false},
		{"some", false, 1000, Cost{1, 2}, 3, 3, false},
		{"a minute without mail", false, 1001, Cost{1, 2}, 5, 3, false},
		{"long ago", false, 10, Cost{1, 5}, 5, 5, true},
		{"what was forgiven", true, 1000, Cost{1, 5}, 0, 0, false},
	} {
		var u Usage
		u.charge(1000, Cost{1, 5})
		if c.forgive {
			u.forgiveAll()
		}
		u.giveBack(c.minute, c.back)
		if hour, day := u.used(RecipientsHour, 1000), u.used(RecipientsDay, 1000); hour != c.wantHour || day != c.wantDay || u.waiver.isEmpty() != c.wantEmpty {
			t.Errorf("%s: %d of the hour and %d of the day used, %+v", c.name, hour, day, u.waiver)
		}
	}
}
