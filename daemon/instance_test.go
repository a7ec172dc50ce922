package daemon

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"sendmail-wrapper/origin"
)

func TestInstanceTime(t *testing.T) {
	for _, c := range []struct {
		instance string
		want     time.Time // zero: none
	}{
		{"10a4.6928f1c2.f423f.0", time.Unix(0x6928f1c2, 999999000)}, // by smtpd of Postfix 3.7
		{"1.0.0.0", time.Unix(0, 0)},
		{"10a4.6928f1c2.f4240.0", time.Time{}},
		{"10a4.6928f1c2.0", time.Time{}},
		{"10a4.6928f1c2.0.0.0", time.Time{}},
		{"10a4.-1.0.0", time.Time{}},
		{"10a4.ffffffffffffffff.0.0", time.Time{}},
		{"1rABCD-0000ab-CD", time.Time{}},
		{"...", time.Time{}},
		{"", time.Time{}},
	} {
		got, ok := instanceTime(c.instance)
		if ok == c.want.IsZero() || !got.Equal(c.want) {
			t.Errorf("%q: %v, %v", c.instance, got, ok)
		}
	}
}

// FuzzInstances: any name has one message, until it is forgotten.
func FuzzInstances(f *testing.F) {
	f.Add("10a4.6928f1c2.f423f.0")
	f.Add("")
	f.Add("1rABCD-0000ab-CD")
	f.Fuzz(func(t *testing.T, name string) {
		var all instances
		all.init("host", time.Now())
		now := time.Now()
		one, another := all.get(name, false, now), all.get(name, false, now)
		if (one == another) != (name != "") || one.id.Version() != 7 || one.id.Variant() != uuid.RFC4122 {
			t.Errorf("%q: %+v, %+v", name, one, another)
		}
		all.forget(one)
		if len(all.byName) != 0 || all.order.Len() != 0 {
			t.Errorf("%q: kept", name)
		}
	})
}

// TestInstancesForget: what is forgotten is remembered as that.
func TestInstancesForget(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	name := func(began time.Time, n int) string { return fmt.Sprintf("1.%x.0.%x", began.Unix(), n) }
	var all instances
	all.init("host", start)
	if i := all.get(name(start.Add(-time.Second), 0), false, start); !i.again {
		t.Error("one that began before the start is taken for new")
	}
	start = start.Add(time.Second)
	first := all.get(name(start, 0), false, start)
	if first.again || all.get(name(start, 0), false, start) != first {
		t.Error("one that began after the start is not remembered")
	}
	for n := range maxInstances {
		all.get(name(start, n), false, start)
	}
	if all.order.Len() != maxInstances || len(all.byName) != maxInstances {
		t.Errorf("%d are remembered", all.order.Len())
	}
	later := start.Add(instanceAge)
	kept := all.get(name(start, 9), false, later)
	late := all.get(name(later, 0), false, later.Add(time.Second))
	if all.order.Len() != 2 || late.again {
		t.Errorf("%d are remembered after their age; %v", all.order.Len(), late.again)
	}
	if again := all.get(name(start, 9), false, later); again != kept {
		t.Error("one that was asked about is forgotten")
	}
	all.forget(late)
	all.get(name(later, 1), false, later.Add(2*instanceAge))
	if i := all.get(name(start.Add(-time.Second), 0), false, later); !i.again || i.id == kept.id {
		t.Errorf("%+v", i)
	}
	if i, j := all.get(name(start, 3), false, later), messageID(start, "smtp", "host", name(start, 3)); i.id != j || !i.again {
		t.Errorf("%v, then %v; again is %v", j, i.id, i.again)
	}
	// The one that began last is the only one that is forgotten.
	var few instances
	few.init("host", start)
	last := start.Add(time.Second)
	few.get(name(last, 0), true, last)
	few.get(name(last.Add(instanceAge), 0), true, last.Add(instanceAge+time.Second))
	if i := few.get(name(last, 0), true, last.Add(instanceAge)); !i.again {
		t.Error("the one that was forgotten last is taken for new")
	}
}

// TestInstancesUnended: a program that begins one message after the other makes its own
// forgotten, and no other user's; what came to its end stays.
func TestInstancesUnended(t *testing.T) {
	var all instances
	start := time.Unix(1_800_000_000, 0)
	all.init("host", start)
	begin := func(uid uint32, n int) (i *instance, name string) {
		name = fmt.Sprintf("%x.%x.0.%x", uid, start.Unix()+1, n)
		i = all.get(name, false, start)
		all.keep(i, &origin.Origin{UID: uid})
		return i, name
	}
	other, otherName := begin(1001, 0)
	charged, chargedName := begin(1002, 0)
	if all.get(chargedName, true, start) != charged {
		t.Fatal("forgotten")
	}
	all.keep(charged, &origin.Origin{}) // the end came before the look-up's
	first, firstName := begin(1002, 1)
	for n := range maxUnended {
		begin(1002, 2+n)
	}
	if n := all.unended[1002].Len(); n != maxUnended || all.order.Len() != maxUnended+2 {
		t.Errorf("%d of the user are kept, %d of all", n, all.order.Len())
	}
	if all.get(otherName, false, start) != other || all.get(chargedName, false, start) != charged {
		t.Error("another user's, or one that was charged, is forgotten")
	}
	if i := all.get(firstName, true, start); i == first || i.id != first.id || i.again {
		t.Errorf("the oldest one is kept, or taken for charged: %+v", i)
	}
	all.keep(first, &origin.Origin{UID: 1002}) // forgotten while it was looked for
	for _, e := range slices.Collect(maps.Values(all.byName)) {
		all.forget(e.Value.(*instance))
	}
	if len(all.unended) != 0 || all.order.Len() != 0 {
		t.Errorf("left are %v", all.unended)
	}
}

// TestInstancesMemory: of the most messages that are remembered, the longest names and
// refusals; and of one user's programs, the longest facts.
func TestInstancesMemory(t *testing.T) {
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	var all instances
	start := time.Unix(1_800_000_000, 0)
	all.init("host", start)
	before := heap()
	for n := range maxInstances {
		question := fmt.Sprintf("ffffffff.%x.f423f.%x", start.Unix(), n) + strings.Repeat("x", 1000)
		i := all.get(question[:len(question)-1000], true, start)
		i.final = &answer{"452 4.7.1", strings.Repeat("x", 200)}
	}
	decided := heap() - before
	for n := range 8 * maxUnended {
		long := func() string { return string(make([]byte, 4096)) }
		o := &origin.Origin{UID: 1001}
		for _, fact := range o.Facts() {
			fact.Value = long()
		}
		for range origin.MaxChain {
			o.Chain = append(o.Chain, origin.Process{Program: long()})
		}
		all.keep(all.get(fmt.Sprintf("ffffffff.%x.0.%x", start.Unix()+1, n), false, start), o)
	}
	begun := heap() - before
	t.Logf("%d bytes decided, %d begun", decided, begun)
	if decided > 16<<20 || begun > 24<<20 {
		t.Errorf("%d bytes of messages that were decided, %d of those that one user has begun", decided, begun)
	}
	runtime.KeepAlive(&all)
}

func TestMessageID(t *testing.T) {
	at := time.UnixMilli(1_800_000_000_123)
	id := messageID(at, "a", "b")
	if seconds, nanoseconds := id.Time().UnixTime(); id.Version() != 7 || id.Variant() != uuid.RFC4122 || !time.Unix(seconds, nanoseconds).Equal(at) {
		t.Errorf("%v of %d.%d", id, seconds, nanoseconds)
	}
	if id != messageID(at, "a", "b") || id == messageID(at, "ab") || id == messageID(at.Add(time.Millisecond), "a", "b") {
		t.Error("not one ID for each")
	}
}
