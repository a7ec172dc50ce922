package report

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"sendmail-wrapper/quota"
)

type sent struct{ minute, messages, recipients int64 }

// naive adds up, at each message, what lies in the window that ends with it.
func naive(list []sent) (peak Peak) {
	for _, end := range list {
		var now Peak
		for _, e := range list {
			if e.minute > end.minute {
				continue
			}
			if e.minute > end.minute-61 {
				now[0] += e.messages
				now[2] += e.recipients
			}
			if e.minute/15 > end.minute/15-97 {
				now[1] += e.messages
				now[3] += e.recipients
			}
		}
		for i := range peak {
			peak[i] = max(peak[i], now[i])
		}
	}
	return peak
}

// TestSlidingPeak: one pass finds what adding up each window does.
func TestSlidingPeak(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var list []sent
		minute := rapid.Int64Range(0, 100).Draw(t, "begin")
		for range rapid.IntRange(1, 60).Draw(t, "times") {
			minute += rapid.OneOf(rapid.Int64Range(0, 3), rapid.Int64Range(55, 65), rapid.Int64Range(1430, 1480)).Draw(t, "later")
			list = append(list, sent{minute, rapid.Int64Range(1, 50).Draw(t, "messages"), rapid.Int64Range(1, 500).Draw(t, "recipients")})
		}
		var s sliding
		for _, e := range list {
			s.add(e.minute, e.messages, e.recipients)
		}
		if want := naive(list); s.peak != want {
			t.Fatalf("%v, want %v", s.peak, want)
		}
		if n := len(s.hour.slots); n > hourMinutes || len(s.day.slots) > dayQuarters {
			t.Fatalf("%d and %d slots are kept", n, len(s.day.slots))
		}
	})
}

// TestRule: a suggestion is never below what it is made of, is round, and lets
// those through whom it is made for.
func TestRule(t *testing.T) {
	for _, c := range []struct {
		peak     int64
		headroom float64
		want     int64
	}{
		{0, 0.5, 10}, {1, 0, 10}, {7, 0.5, 12}, {10, 0, 10}, {11, 0, 12}, {21, 0, 25}, {61, 0, 80}, {81, 0, 100}, {100, 0, 100}, {101, 0, 120},
		{66, 0.5, 100}, {67, 0.5, 120}, {40_000, 0.25, 50_000}, {3_000_000_000, 0, 2147483647},
	} {
		if got := (Rule{Headroom: c.headroom, Round: true}).limit(c.peak); got != c.want {
			t.Errorf("%d + %g: %d, want %d", c.peak, c.headroom, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(1, 1<<40).Draw(t, "n")
		up := roundUp(n)
		if up < n || float64(up) > max(10, 1.34*float64(n)) || roundUp(up) != up {
			t.Fatalf("%d becomes %d", n, up)
		}
	})
}

func TestPercentile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(rapid.Int64Range(0, 20), 1, 300).Draw(t, "list")
		slices.Sort(list)
		p := rapid.Float64Range(0.1, 100).Draw(t, "p")
		v := percentile(list, p)
		within := 0
		for _, x := range list {
			if x <= v {
				within++
			}
		}
		// p percent do not exceed it, and of a lower value that is not so.
		if float64(within) < p/100*float64(len(list))-1e-6 || v != list[0] && float64(slices.Index(list, v)) >= p/100*float64(len(list)) {
			t.Fatalf("%g%% of %v: %d", p, list, v)
		}
	})
}

// TestOutliers: who has a limit of his own is none.
func TestOutliers(t *testing.T) {
	var objects []measured
	for i := range int64(98) {
		objects = append(objects, measured{name: string(rune('a' + i%26)), peak: Peak{10 + i%10, 50, 10, 50}})
	}
	objects = append(objects, measured{name: "shop", peak: Peak{700, 50, 700, 50}}, measured{name: "own", peak: Peak{900, 50, 900, 50}, own: [4]bool{0: true}})
	p := Rule{Percentile: 95, Headroom: 0.5, Round: true}.suggest("gold", quota.Subscription, objects, [4]*int64{})
	first := p.Limits[0]
	if p.Objects != 100 || first.Limit != "messages/hour" || first.Max != 900 || first.P95 != 19 || first.Suggestion != 30 || first.Above != 1 ||
		first.Outliers[0] != (Outlier{"subscription:shop", 700, 1200}) {
		t.Errorf("%+v", p)
	}
	if recipients := p.Limits[2]; recipients.Above != 2 || recipients.Outliers[0].Object != "subscription:own" {
		t.Errorf("%+v", recipients)
	}
}
