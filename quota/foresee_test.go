package quota_test

import (
	"testing"

	"sendmail-wrapper/quota"
)

// TestForesees: what is foreseen is what a probe says, of those who are remembered, also
// after a reset; it charges nothing. Of others nothing is foreseen.
func TestForesees(t *testing.T) {
	store, pool := newStore(t)
	_, alice, _, err := store.EnsureUser(t.Context(), 1001, "alice")
	if err != nil {
		t.Fatal(err)
	}
	setLimit(t, pool, alice, quota.Subscription, "recipients_hour", 5)
	want := func(what string, recipients int, foreseen bool) {
		t.Helper()
		m := message(1001, "alice", recipients)
		if got := store.Foresees(m); got != foreseen {
			t.Errorf("%s: %v", what, got)
		}
		m.Probe = true
		if refused := ask(t, store, m) != "accepted"; foreseen && !refused {
			t.Errorf("%s: a probe passes", what)
		}
	}
	want("not remembered yet", 6, false)
	ask(t, store, message(1001, "alice", 4))
	for range 3 {
		want("what fits", 1, false)
		want("what does not", 2, true)
	}
	ask(t, store, message(1001, "alice", 1))
	want("nothing fits", 1, true)
	if store.Foresees(message(1002, "bob", 100)) {
		t.Error("of a stranger")
	}
	if _, err := pool.Exec(t.Context(), `INSERT INTO exception (kind, object_id, actor) VALUES ('whitelist', $1, 'root')`, alice); err != nil {
		t.Fatal(err)
	}
	ask(t, store, message(1001, "alice", 1))
	want("in the white list", 1, false)
	prove(t, store, pool)
}
