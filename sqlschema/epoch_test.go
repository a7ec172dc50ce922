package sqlschema_test

import (
	"testing"

	"sendmail-wrapper/tests/testpg"
)

// TestEpoch: what decides whom a message is charged to, or a limit, changes the
// epoch once a statement; what is merely new does not.
func TestEpoch(t *testing.T) {
	database := testpg.NewAs(t, "mailquotad")
	conn := connect(t, database)
	epoch := func() string { return names(t, conn, `SELECT n::text FROM epoch`)[0] }
	for _, tt := range []struct{ sql, want string }{
		{`INSERT INTO host (name) VALUES ('host1')`, "0"},
		{`UPDATE host SET last_seen = now()`, "0"},
		{`INSERT INTO plan (name) VALUES ('gold'), ('lead')`, "0"},
		{`UPDATE plan SET mode = 'off' WHERE name IN ('gold', 'lead')`, "1"},
		{`DELETE FROM plan WHERE name = 'lead'`, "2"},
		{`INSERT INTO subscription (plan_id, name) SELECT id, s FROM plan, (VALUES ('acme'), ('rival')) v (s) WHERE plan.name = 'gold'`, "2"},
		{`UPDATE subscription SET name = name || '2'`, "3"},
		{`DELETE FROM subscription WHERE name = 'rival2'`, "4"},
		{`INSERT INTO domain (subscription_id, name) SELECT id, d FROM subscription, (VALUES ('a.example'), ('b.example')) v (d)`, "5"},
		{`UPDATE domain SET document_root = '/srv'`, "6"},
		{`DELETE FROM domain WHERE name = 'b.example'`, "7"},
		{`INSERT INTO mailbox (domain_id, address) SELECT id, m || '@a.example' FROM domain, (VALUES ('x'), ('y')) v (m)`, "7"},
		{`UPDATE mailbox SET removed_at = now()`, "8"},
		{`DELETE FROM mailbox`, "9"},
		{`INSERT INTO system_user (subscription_id, uid, host_id, name) SELECT id, 1000, 1, 'alice' FROM subscription`, "9"},
		{`UPDATE system_user SET name = 'alicia'`, "10"},
		{`DELETE FROM system_user`, "11"},
		{`INSERT INTO limits (owner_id, class, messages_hour) SELECT id, 4, 5 FROM subscription`, "12"},
		{`UPDATE limits SET messages_hour = 6`, "13"},
		{`DELETE FROM limits`, "14"},
		{`INSERT INTO sender (object_id, address) SELECT id, 'x@b.example' FROM subscription`, "15"},
		{`UPDATE sender SET address = '@b.example'`, "16"},
		{`DELETE FROM sender`, "17"},
		{`INSERT INTO usage (id) SELECT id FROM server`, "17"},
		{`UPDATE usage SET state = ''`, "17"},
		{`DELETE FROM usage`, "17"},
	} {
		exec1(t, conn, tt.sql)
		if got := epoch(); got != tt.want {
			t.Fatalf("after %s: epoch %s, want %s", tt.sql, got, tt.want)
		}
	}
	for _, sql := range []string{`UPDATE epoch SET n = 0`, `DELETE FROM epoch`, `INSERT INTO epoch VALUES (0)`, `TRUNCATE epoch`,
		`SELECT n FROM epoch FOR UPDATE`, `ALTER TABLE limits DISABLE TRIGGER limits_epoch`, `DROP TRIGGER limits_epoch ON limits`} {
		if got := code(t, conn, sql); got != denied {
			t.Errorf("%s: %q, want to be denied", sql, got)
		}
	}

	// Not even the owner can change a limit without it.
	owner := connect(t, testpg.As(database, "mailquota"))
	exec1(t, owner, `TRUNCATE limits`)
	if got := epoch(); got != "18" {
		t.Errorf("after TRUNCATE: epoch %s, want 18", got)
	}
	if got := code(t, owner, `INSERT INTO epoch VALUES (1)`); got != "23505" {
		t.Errorf("a second row: %q, want a unique violation", got)
	}

	// A change that is undone leaves it as it was.
	exec1(t, conn, `BEGIN; DELETE FROM limits; ROLLBACK`)
	if got := epoch(); got != "18" {
		t.Errorf("after a rollback: epoch %s, want 18", got)
	}
}
