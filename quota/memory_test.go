package quota

import "testing"

// TestLearnLate: limits that were read in a term are not taken for those of the
// next, which began while the transaction was on its way.
func TestLearnLate(t *testing.T) {
	routes := []*route{{Targets: []target{{ID: 7}}}}
	m := newMemory()
	term := m.current(1)
	m.learn(&ledger{term: term, folios: newLedger(routes, &rules{}, term).folios})
	l, err := m.recall(routes, &rules{}, term)
	if err != nil || l == nil {
		t.Fatalf("%v, %v", l, err)
	}
	if m.current(2) == term { // by a heartbeat
		t.Fatal("another epoch is the same")
	}
	m.learn(l)
	if missing := m.bounds(newLedger(routes, &rules{}, m.term)); len(missing) != 1 {
		t.Error("limits of the term before are current")
	}
	if l, err := m.recall(routes, &rules{}, term+1); err != nil || l != nil {
		t.Errorf("remembered: %v, %v", l, err)
	}
}

// TestRefreshLate: what was charged while the database was asked is newer than its
// answer.
func TestRefreshLate(t *testing.T) {
	m := newMemory()
	was, charged, read := &known{Stale: true}, &known{State: []byte{1}}, &known{}
	for id, k := range map[ID]*known{7: charged, 8: was} {
		m.accounts.Add(id, k)
	}
	m.refresh(map[ID]*known{7: was, 8: was}, map[ID]*known{7: read, 8: read})
	if k, _ := m.accounts.Get(7); k != charged {
		t.Error("a charge was forgotten")
	}
	if k, _ := m.accounts.Get(8); k != read {
		t.Error("not refreshed")
	}
}

// TestVersions: no two daemons give a row the same version.
func TestVersions(t *testing.T) {
	seen := map[int64]bool{}
	for range 100 {
		v := newVersions()
		for range 100 {
			n := v.take()
			if seen[n] || n <= 0 {
				t.Fatalf("version %d comes twice", n)
			}
			seen[n] = true
		}
	}
}
