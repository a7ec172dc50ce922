package main

import (
	"math"
	"testing"
	"time"
)

// TestHistogram: a bucket's middle is near all that it takes.
func TestHistogram(t *testing.T) {
	last := -1
	for ns := uint64(0); ns < 1<<36; ns += ns/50 + 1 {
		i := bucket(ns)
		if i < last {
			t.Fatalf("%d ns is in bucket %d, less in %d", ns, i, last)
		}
		last = i
		if m := float64(middle(i)); math.Abs(m-float64(ns)) > 0.016*float64(ns)+0.5 {
			t.Fatalf("%d ns is in the bucket of %.0f", ns, m)
		}
	}
	var h histogram
	for ms := range 1000 {
		h.add(time.Duration(ms+1) * time.Millisecond)
	}
	for part, want := range map[float64]float64{0.5: 500, 0.99: 990, 0.999: 999, 1: 1000} {
		if got := h.quantile(part); math.Abs(got-want) > 0.016*want {
			t.Errorf("quantile %v is %v ms, want %v", part, got, want)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.126: "0.13", 7: "7", 12.34: "12.3", 123.4: "123", 1234: "1,234", 12345678: "12,345,678", -1234: "-1,234"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %s, want %s", v, got, want)
		}
	}
}
