package quota_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/tests/testpg"
)

// detailed is a message with facts and details.
func detailed(uid uint32, user, subject string) quota.Message {
	m := message(uid, user, 2)
	m.Origin.URI = origin.Fact{Value: "/x.php?\"a\\\x00\xff", Proof: origin.System}
	m.Origin.Unit = origin.Fact{Value: "php8.2-fpm.service", Proof: origin.Kernel}
	m.Origin.Chain = []origin.Process{{PID: 9, UID: uid, EUID: uid, Program: "/usr/bin/sh"}, {PID: 1, Program: "systemd"}}
	m.Details = quota.Details{MessageID: "<1@x.example>", Subject: subject, To: []string{"a@x.example", "", "b\n\x00@x.example"}}
	return m
}

// texts returns the one column of a query.
func texts(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) (list []string) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), `SELECT coalesce(array_agg(v), '{}') FROM (`+sql+`) q(v)`, args...).Scan(&list); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return list
}

const (
	factsSQL   = `SELECT coalesce(facts::text, 'NULL') FROM messages ORDER BY at, id`
	detailsSQL = `SELECT concat_ws(' ', coalesce(d.message_id, 'NULL'), coalesce(d.subject, 'NULL'), coalesce(array_to_string(d.recipients, ','), 'NULL'))
		FROM details d JOIN messages m USING (id, at) ORDER BY at, id`
	wantFacts = `{"uri": ["/x.php?\"a\\` + "\uFFFD\uFFFD" + `", "system"], "unit": ["php8.2-fpm.service", "kernel"], ` +
		`"chain": [{"pid": 9, "uid": 1001, "euid": 1001, "program": "/usr/bin/sh"}, {"pid": 1, "uid": 0, "euid": 0, "program": "systemd"}]}`
)

// TestDetails: facts stand in the row, details beside it where there are any, in
// one trip by memory as in two with locks; a message that comes twice has them once.
func TestDetails(t *testing.T) {
	store, pool := newStore(t)
	for range 2 {
		plain, bare, full, subject := message(1001, "alice", 1), message(1001, "alice", 1), detailed(1001, "alice", "Grüße"), message(1001, "alice", 1)
		bare.Details.To = []string{""}
		subject.Details.Subject = "s"
		if _, err := store.Decide(t.Context(), []quota.Message{plain, full, bare, full, subject}); err != nil {
			t.Fatal(err)
		}
	}
	if n := quota.RememberedOf(store); n != 1 {
		t.Errorf("%d of two batches decided by memory", n)
	}
	row := []string{"NULL", "NULL", wantFacts, "NULL"}
	if diff := cmp.Diff(append(row, row...), texts(t, pool, factsSQL)); diff != "" {
		t.Errorf("facts:\n%s", diff)
	}
	kept := []string{"<1@x.example> Grüße a@x.example,b\uFFFD\uFFFD@x.example", "NULL s NULL"}
	if diff := cmp.Diff(append(kept, kept...), texts(t, pool, detailsSQL)); diff != "" {
		t.Errorf("details:\n%s", diff)
	}
	if n := number(t, pool, `SELECT count(*) FROM details`); n != 4 {
		t.Errorf("%d rows of details", n)
	}
	prove(t, store, pool)
}

// TestLongDetails: texts of any length and bytes are recorded as far as they fit.
func TestLongDetails(t *testing.T) {
	store, pool := newStore(t)
	m := message(1001, "alice", 1)
	long := strings.Repeat("\\\"\x01\x00\xff\xed\xa0\x80ü", 3000)
	for _, f := range m.Origin.Facts() {
		*f = origin.Fact{Value: long, Proof: origin.Claimed}
	}
	for range 100 {
		m.Origin.Chain = append(m.Origin.Chain, origin.Process{PID: -1, UID: 1<<32 - 1, Program: long})
		m.Details.To = append(m.Details.To, long)
	}
	m.Details.Subject, m.Details.MessageID = long, long
	if _, err := store.Decide(t.Context(), []quota.Message{m}); err != nil {
		t.Fatal(err)
	}
	if n := number(t, pool, `SELECT count(*) FROM messages m JOIN details d USING (id, at) WHERE jsonb_array_length(m.facts->'chain') = 16
		AND octet_length(facts->'uri'->>0) BETWEEN 990 AND 1000 AND cardinality(d.recipients) = 20 AND octet_length(d.subject) BETWEEN 990 AND 998
		AND octet_length(d.recipients[20]) BETWEEN 250 AND 254`); n != 1 {
		t.Errorf("%d rows", n)
	}
}

// TestPoisonedDetails: a message whose details the database does not take fails
// alone, and leaves neither row nor charge.
func TestPoisonedDetails(t *testing.T) {
	database := testpg.New(t)
	owner := connect(t, database)
	if _, err := owner.Exec(t.Context(), `ALTER TABLE details ADD CONSTRAINT details_no_poison CHECK (subject <> 'poison')`); err != nil {
		t.Fatal(err)
	}
	store := newStoreOn(t, testpg.As(database, "mailquotad"))
	queue := newQueue(t, store, 64)
	defer queue.Close()
	var wg sync.WaitGroup
	for i := range 40 {
		m := detailed(1001, "alice", "fine")
		if i == 17 {
			m.Details.Subject = "poison"
		}
		wg.Go(func() {
			if _, err := queue.Submit(t.Context(), m); (err != nil) != (m.Details.Subject == "poison") {
				t.Errorf("message with subject %q: %v", m.Details.Subject, err)
			}
		})
	}
	wg.Wait()
	for _, table := range []string{"messages", "details"} {
		if n := number(t, owner, `SELECT count(*) FROM `+table); n != 39 {
			t.Errorf("%d rows of %s", n, table)
		}
	}
	prove(t, store, owner)
}

// TestMissingDetailsPartition is made when a message needs it, beside one of
// messages that is there.
func TestMissingDetailsPartition(t *testing.T) {
	database := testpg.New(t)
	owner := connect(t, database)
	store := newStoreOn(t, testpg.As(database, "mailquotad"))
	decideOne(t, store)
	for _, part := range texts(t, owner, `SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'details'::regclass`) {
		if _, err := owner.Exec(t.Context(), `DROP TABLE `+part); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := store.Decide(t.Context(), []quota.Message{detailed(1001, "alice", "s")}); err != nil {
		t.Fatal(err)
	}
	if n := number(t, owner, `SELECT count(*) FROM details JOIN messages USING (id, at)`); n != 1 {
		t.Errorf("%d rows", n)
	}
	prove(t, store, owner)
}

// TestDetailsOfAnOutage are booked with their message, once, also by a daemon that
// was killed while it booked; a poisoned one is set apart.
func TestDetailsOfAnOutage(t *testing.T) {
	o := newOutage(t)
	if _, err := o.owner.Exec(t.Context(), `ALTER TABLE details ADD CONSTRAINT details_no_poison CHECK (subject <> 'poison')`); err != nil {
		t.Fatal(err)
	}
	o.limitAlice(100)
	q := o.host("host1", o.journal)
	o.send(q, 1, 1001, "alice")
	o.away()
	for i := range 40 {
		m := detailed(1001, "alice", "away")
		if i == 17 {
			m.Details.Subject = "poison"
		}
		if _, err := q.Submit(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	killed := o.copyJournal()
	o.back(q)
	o.reached(q)
	again := o.host("host1", killed) // killed after the booking, before it noted it
	o.reached(again)
	if n := q.State().Journal.Failed; n != 1 {
		t.Errorf("%d set apart", n)
	}
	if n := number(t, o.owner, `SELECT count(*) FROM messages WHERE facts IS NOT NULL`); n != 39 {
		t.Errorf("%d messages with facts", n)
	}
	if diff := cmp.Diff(wantFacts, texts(t, o.owner, `SELECT DISTINCT facts::text FROM messages WHERE facts IS NOT NULL`)[0]); diff != "" {
		t.Errorf("facts:\n%s", diff)
	}
	if n := number(t, o.owner, `SELECT count(*) FROM details d JOIN messages USING (id, at) WHERE d.recipients[1] = 'a@x.example' AND subject = 'away'`); n != 39 {
		t.Errorf("%d rows of details", n)
	}
	prove(t, quota.NewStore(o.owner, "host1", 1000), o.owner)
}

// TestVirtualHostInOutage: a site of mod_php is known without the database if it,
// or its domain, sent mail before; a claim, and an ordinary user, go on being
// charged to their own.
func TestVirtualHostInOutage(t *testing.T) {
	o := newOutage(t)
	store := newStoreOn(t, testpg.As(o.database, "mailquotad"))
	ids := customers(t, store, "alice", "bob", "carol")
	for i, name := range []string{"alice", "bob", "carol"} {
		if _, err := o.owner.Exec(t.Context(), `INSERT INTO domain (subscription_id, name) VALUES ($1, $2)`, ids[i], name+".example"); err != nil {
			t.Fatal(err)
		}
		setLimit(t, o.owner, ids[i], quota.Subscription, "messages_hour", 4)
	}
	q := o.host("host1", o.journal)
	send := func(m quota.Message, domain, subscription string, refused bool) {
		t.Helper()
		d, err := q.Submit(t.Context(), m)
		if err != nil || d.Domain != domain || d.Subscription != subscription || (d.Refusal != nil) != refused {
			t.Errorf("%s from %s: domain %q of %q, %+v, %v; want %q of %q, refused %v", m.Origin.User, m.Origin.Site.Value, d.Domain, d.Subscription, d.Refusal, err, domain, subscription, refused)
		}
	}
	of := func(uid uint32, user, site string, proof origin.Proof) quota.Message {
		return vhost(uid, user, origin.ModPHP, origin.Fact{Value: site, Proof: proof})
	}
	system := func(site string) quota.Message { return of(33, "www-data", site, origin.System) }
	send(system("none.example"), "", "www-data", false)
	send(system("bob.example"), "bob.example", "bob", false)
	send(message(1003, "carol", 1), "carol.example", "carol", false) // and so her domain is known
	o.away()
	for range 3 {
		send(system("bob.example"), "bob.example", "bob", false)
		send(system("carol.example"), "carol.example", "carol", false)
	}
	send(system("bob.example"), "bob.example", "bob", true)
	send(system("carol.example"), "carol.example", "carol", true)
	send(of(33, "www-data", "bob.example", origin.Claimed), "", "www-data", false)
	send(of(1003, "carol", "bob.example", origin.System), "carol.example", "carol", true)
	o.back(q)
	o.reached(q)
	for object, want := range map[string]int64{"subscription:bob": 4, "domain:bob.example": 4, "subscription:carol": 4, "domain:carol.example": 4,
		"subscription:www-data": 2, "user:www-data": 9, "server": 10} {
		if n := used(t, store, object, "messages/hour"); n != want {
			t.Errorf("%d charged to %s, want %d", n, object, want)
		}
	}
	prove(t, quota.NewStore(o.owner, "host1", 1000), o.owner)
}

// TestDetailsRetention: details older than their days are gone, the messages
// beside them stay; beside a reader of details mail goes on, and he is named.
func TestDetailsRetention(t *testing.T) {
	store, pool := newStore(t)
	if _, err := pool.Exec(t.Context(), `INSERT INTO host (name) VALUES ('host1') ON CONFLICT DO NOTHING`); err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	for _, days := range []int{40, 20, 8, 7, 1, 0} {
		at := now.AddDate(0, 0, -days)
		if err := quota.MakePartitions(store, t.Context(), at); err != nil {
			t.Fatal(err)
		}
		summed(t, pool, at)
		if _, err := pool.Exec(t.Context(), insertRow, at); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.Exec(t.Context(), `INSERT INTO details (at, id, subject) SELECT at, id, $2 FROM messages WHERE at = $1`, at, at.Format(time.DateOnly)); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(what string, messages, details int64) {
		t.Helper()
		if m, d := number(t, pool, `SELECT count(*) FROM messages`), number(t, pool, `SELECT count(*) FROM details`); m != messages || d != details {
			t.Errorf("%s: %d messages, %d details, want %d and %d", what, m, d, messages, details)
		}
	}
	super := connect(t, testpg.As(pool.Config().ConnString(), "postgres")) // whom nothing ends
	reader, err := super.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Exec(t.Context(), `SELECT count(*) FROM details`); err != nil {
		t.Fatal(err)
	}
	if err := store.Maintain(t.Context(), 31, 7); err == nil || !strings.Contains(err.Error(), "somebody reads details: process ") {
		t.Errorf("beside a reader: %v", err)
	}
	expect("beside a reader of details", 5, 6)
	if err := reader.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		retention, details int
		wantM, wantD       int64
	}{{31, 7, 5, 3}, {31, 31, 5, 3}, {31, 1, 5, 2}, {7, 7, 3, 2}} {
		if err := store.Maintain(t.Context(), step.retention, step.details); err != nil {
			t.Fatal(err)
		}
		expect("after maintenance", step.wantM, step.wantD)
	}
}
