package quota

import (
	"errors"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"github.com/rs/zerolog"
	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"sendmail-wrapper/origin"
)

func mustOpen(t *testing.T, path string) *journal {
	t.Helper()
	j, err := openJournal(path, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// sample is an entry with all that an entry can have.
func sample(n int) entry {
	return entry{
		Message{ID: uuid.UUID{15: byte(n)}, Mailbox: "m@x.example", Sender: "s\xff\n", Recipients: n, Size: 7, Forbidden: "f",
			Details: Details{MessageID: "<1@x>", Subject: "hello", To: []string{"a@x", "b@x"}},
			Origin: origin.Origin{UID: 7, User: "u", Kind: origin.Cron, KindProof: origin.Kernel, Script: origin.Fact{Value: "/s", Proof: origin.Claimed},
				Crontab: origin.Fact{Value: "c", Proof: origin.System}, Site: origin.Fact{Value: "x", Proof: origin.System},
				URI: origin.Fact{Value: "/x?y", Proof: origin.System}, Chain: []origin.Process{{PID: 7, UID: 8, EUID: 9, Program: "/p"}}}},
		Decision{At: time.Unix(1e9, 5000).UTC(), Subscription: "s", Domain: "d", Refusal: &Refusal{Object: Object{Domain, "d"}, Limit: RecipientsDay,
			Max: 1, Used: 2, Recipients: 3, FreeAt: time.Unix(2e9, 0).UTC(), Away: true, Grant: 4, Reason: "r"}},
	}
}

// TestJournalKeeps: what was written is there after the file was opened again.
func TestJournalKeeps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := mustOpen(t, path)
	var want []entry
	for n := range 5 {
		want = append(want, sample(n))
	}
	for _, err := range []error{j.exact(7), j.append(want[:2]), j.append(want[2:]), j.book(2),
		j.fail(&want[0], errors.New("why")), j.fail(&want[0], errors.New("again")), j.close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	j = mustOpen(t, path)
	defer j.close()
	if j.waiting() != 3 || j.failed.Load() != 1 {
		t.Errorf("%d wait, %d failed", j.waiting(), j.failed.Load())
	}
	if err := j.db.View(func(tx *bolt.Tx) error {
		aside := string(tx.Bucket(failedBucket).Get(want[0].Message.ID[:]))
		if !strings.Contains(aside, "m@x.example") || strings.Contains(aside, "hello") || strings.Contains(aside, "b@x") {
			t.Errorf("set aside: %s", aside)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	for n, want := range map[uint64]bool{7: true, 8: false, 0: false} {
		if exact, err := j.isExact(n); exact != want || err != nil {
			t.Errorf("%d is exact: %v, %v", n, exact, err)
		}
	}
	for i := range want { // as in a column of type text
		want[i].Message.Sender = strings.ToValidUTF8(want[i].Message.Sender, "\uFFFD")
	}
	var got []entry
	if err := j.each(0, math.MaxInt, func(_ uint64, e *entry) error { got = append(got, *e); return nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("entries (-written +read):\n%s", diff)
	}
	if err := j.append(make([]entry, 998)); err != errFull {
		t.Errorf("beyond the limit: %v", err)
	}
	if err := j.clear(); err != nil || j.waiting() != 0 {
		t.Errorf("%d wait after clear, %v", j.waiting(), err)
	}
	if exact, err := j.isExact(7); exact || err != nil {
		t.Errorf("exact after clear: %v, %v", exact, err)
	}
}

// TestJournalIsUsedAgain: a file that an outage has made large is empty for the next.
func TestJournalIsUsedAgain(t *testing.T) {
	j := mustOpen(t, filepath.Join(t.TempDir(), "journal"))
	defer j.close()
	large := sample(1)
	large.Message.Sender = strings.Repeat("x", maxText)
	for range 20 {
		if err := j.append(slices.Repeat([]entry{large}, 40)); err != nil {
			t.Fatal(err)
		}
	}
	full := j.used()
	if err := j.clear(); err != nil {
		t.Fatal(err)
	}
	if err := j.append([]entry{sample(1)}); err != nil { // what clear gave up is free from now on
		t.Fatal(err)
	}
	if used := j.used(); full < 800*maxText || used > full/10 {
		t.Errorf("%d bytes used by 800 large entries, %d after them", full, used)
	}
}

// TestKnowledge: what is remembered is remembered in the next life; as stale, if
// more may have been charged, and never as current.
func TestKnowledge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "known")
	m := newMemory()
	if err := m.read(path, nil); err != nil || !m.empty() {
		t.Errorf("without a file: %v", err)
	}
	m.beat(time.Now().Add(time.Hour), 3, 2, map[Class]Bounds{Mailbox: Unbounded()}, map[string]Mode{DefaultPlan: Observe})
	r := &route{Targets: []target{{ID: ServerID, Plan: 5, Object: Object{Class: Server}}}, Subscription: "s", Domain: "d", Mode: Off}
	for n := range uint32(3 * knowledgePage) {
		m.learnRoutes(map[routeKey]*route{{UID: n, Site: "x"}: r})
	}
	account := &known{Object: Object{Subscription, "s"}, Bounds: Bounds{{Max: 5, From: Plan}}, State: []byte{0, 1, 2, 3}}
	m.accounts.Add(7, account)
	exception := Exception{ID: 3, Kind: Block, Network: netip.MustParsePrefix("192.0.2.0/24"), Script: "/x/", Limit: MessagesDay, Value: Unlimited, Until: time.Unix(2e9, 5000).UTC()}
	m.learnRules(newRules(Observe, []Exception{exception}), m.term)
	number, err := m.write(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, exact := range []bool{true, false} {
		back := newMemory()
		err := back.read(path, func(n uint64) (bool, error) { return n == number && exact, nil })
		if err != nil || back.hosts != 2 || back.routes.Len() != 3*knowledgePage || back.accounts.Len() != 1 {
			t.Errorf("%v, %+v", err, back)
		}
		if diff := cmp.Diff(m.strange, back.strange); diff != "" {
			t.Error(diff)
		}
		if got := back.lastRules().exceptions; len(got) != 1 || got[0] != exception || back.strangeMode(DefaultPlan) != Observe {
			t.Errorf("%+v, %s", got, back.strangeMode(DefaultPlan))
		}
		if ahead := time.Until(back.now()); ahead < 59*time.Minute || ahead > 61*time.Minute {
			t.Errorf("the database's clock is %v ahead", ahead)
		}
		if diff := cmp.Diff(r, back.lastRoute(routeKey{UID: 7, Site: "x"}), cmp.AllowUnexported(route{})); diff != "" {
			t.Error(diff)
		}
		want := *account
		want.Stale = !exact
		got, _ := back.accounts.Get(7)
		if diff := cmp.Diff(&want, got, cmp.AllowUnexported(known{})); diff != "" {
			t.Error(diff)
		}
		if _, _, holds := back.begin(nil); holds != nil {
			t.Error("exceptions of another life are current")
		}
		if _, found, _ := back.begin([]routeKey{{UID: 7, Site: "x"}}); found[0] != nil {
			t.Error("a route of another life is current")
		}
		l := newLedger([]*route{{Targets: []target{{ID: 7}}}}, &rules{}, back.term)
		if missing := back.bounds(l); len(missing) != 1 {
			t.Error("limits of another life are current")
		}
	}
}

// TestKnowledgeOfBefore: a file of before there were modes is read, and who was
// exempt is counted only.
func TestKnowledgeOfBefore(t *testing.T) {
	const before = `{"Number":7,"Offset":0,"Hosts":2,"Strange":{"2":[{"Max":5,"From":6},{"Max":-1,"From":0},{"Max":-1,"From":0},{"Max":-1,"From":0},{"Max":-1,"From":0}]}}
{"Key":{"Mailbox":"","Site":"","Script":"","UID":33},"Route":{"Targets":[{"ID":1,"Plan":0,"Object":{"Class":1,"Name":"www-data"}},{"ID":6597069766656,"Plan":0,"Object":{"Class":6,"Name":""}}],"Subscription":"www-data","Domain":"","Exempt":true}}
{"Key":{"Mailbox":"","Site":"","Script":"","UID":1001},"Route":{"Targets":[{"ID":2,"Plan":0,"Object":{"Class":1,"Name":"alice"}}],"Subscription":"alice","Domain":"","Exempt":false}}
{"ID":2,"Account":{"Object":{"Class":1,"Name":"alice"},"Bounds":[{"Max":0,"From":1},{"Max":-1,"From":0},{"Max":-1,"From":0},{"Max":-1,"From":0},{"Max":-1,"From":0}],"State":"AA==","Stale":false}}
`
	path := filepath.Join(t.TempDir(), "known")
	if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	m := newMemory()
	if err := m.read(path, func(uint64) (bool, error) { return true, nil }); err != nil {
		t.Fatal(err)
	}
	s := &Store{memory: m, firstUserUID: 1000}
	for uid, refused := range map[uint32]bool{33: false, 1001: true, 2: false} {
		message := Message{Origin: origin.Origin{UID: uid, User: "x"}, Recipients: 1}
		r := s.lastRoute(&message)
		var accounts []*Account
		for _, target := range r.Targets {
			a, err := m.account(target, 10)
			if err != nil {
				t.Fatal(err)
			}
			accounts = append(accounts, a)
		}
		if d := m.lastRules().decide(&message, r, accounts, 0, time.Now()); (d.Refusal != nil) != refused {
			t.Errorf("uid %d: %+v", uid, d.Refusal)
		}
	}
}

func TestJournalIsOneDaemons(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	defer mustOpen(t, path).close()
	if _, err := openJournal(path, 1000); err == nil || !strings.Contains(err.Error(), "another mailquotad has it open") {
		t.Error(err)
	}
}

// TestBrokenJournal: whatever happened to the file, it is read, or put aside
// whole, and a journal is there that works.
func TestBrokenJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := mustOpen(t, path)
	for n := range 200 {
		if err := j.append([]entry{sample(n)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	log := zerolog.Nop()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(filepath.Dir(path), "broken")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		content := slices.Clone(whole)
		for range rapid.IntRange(0, 20).Draw(t, "bytes") {
			content[rapid.IntRange(0, len(content)-1).Draw(t, "where")] = rapid.Byte().Draw(t, "byte")
		}
		content = content[:rapid.SampledFrom([]int{len(content), len(content) / 2, 5000, 100, 1}).Draw(t, "length")]
		q := &Queue{settings: Settings{Journal: filepath.Join(dir, "journal"), ByJournal: true, JournalLimit: 10000}, log: func() *zerolog.Logger { return &log },
			store: &Store{memory: newMemory()}}
		err = errors.Join(os.WriteFile(q.settings.Journal, content, 0o600), os.WriteFile(q.knownPath(), content, 0o600))
		if err != nil {
			t.Fatal(err)
		}
		if err := q.openJournal(); err != nil {
			t.Fatal(err)
		}
		if err := q.journal.append([]entry{sample(1)}); err != nil {
			t.Fatal(err)
		}
		q.journal.close()
		aside, err := filepath.Glob(filepath.Join(dir, "journal*.broken-*"))
		if err != nil || len(aside) < 1 || len(aside) > 2 { // what is known is no journal
			t.Fatal(aside, err)
		}
		for _, path := range aside {
			if kept, err := os.ReadFile(path); err != nil || len(kept) < len(content) {
				t.Fatalf("%d bytes kept of %d, %v", len(kept), len(content), err)
			}
		}
	})
}
