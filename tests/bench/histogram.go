package main

import (
	"math/bits"
	"time"
)

// histogram counts durations in buckets that are 1.6 % wide at most.
type histogram struct {
	Counts []uint32
	Total  uint64
}

// Below 2^7 ns each has a bucket of its own, then each power of two has 64.
const fine = 7

func bucket(ns uint64) int {
	if ns < 1<<fine {
		return int(ns)
	}
	shift := bits.Len64(ns) - fine
	return shift<<(fine-1) + int(ns>>shift)
}

// middle is the duration in the middle of a bucket.
func middle(bucket int) time.Duration {
	if bucket < 1<<fine {
		return time.Duration(bucket)
	}
	shift := bucket>>(fine-1) - 1
	low := uint64(bucket-shift<<(fine-1)) << shift
	return time.Duration(low + uint64(1)<<shift/2)
}

func (h *histogram) add(d time.Duration) {
	i := bucket(uint64(max(d, 0)))
	for i >= len(h.Counts) {
		h.Counts = append(h.Counts, make([]uint32, 512)...)
	}
	h.Counts[i]++
	h.Total++
}

func (h *histogram) merge(other *histogram) {
	if n := len(other.Counts) - len(h.Counts); n > 0 {
		h.Counts = append(h.Counts, make([]uint32, n)...)
	}
	for i, n := range other.Counts {
		h.Counts[i] += n
	}
	h.Total += other.Total
}

// quantile returns the duration below which that part of all lies, in
// milliseconds.
func (h *histogram) quantile(part float64) float64 {
	want := uint64(part * float64(h.Total))
	var seen uint64
	for i, n := range h.Counts {
		if seen += uint64(n); n > 0 && seen >= want {
			return float64(middle(i)) / float64(time.Millisecond)
		}
	}
	return 0
}
