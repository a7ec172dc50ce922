package report_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
	"sendmail-wrapper/tests/testpg"
)

func TestNearestWord(t *testing.T) {
	words := []string{"acme", "acme-shop", "gold", "golden", "messages/hour", "recipients/hour", "b"}
	for _, c := range []struct{ wrote, want string }{
		{"acme", "acme"}, {"amce", "acme"}, {"acm", "acme"}, {"akme", "acme"}, {"aacmee", "acme"}, {"akne", "acme"}, {"xyz", ""}, {"x", ""}, {"", ""},
		{"golde", "gold"}, {"acme-", "acme"}, {"acme-s", "acme"}, {"acme-sh", "acme-shop"}, {"mesages/hour", "messages/hour"}, {"message/hours", "messages/hour"},
		{"messages", "messages/hour"}, {"rec", "recipients/hour"}, {"ac", "acme"}, {"\xff\xff\xff", ""},
	} {
		if got := report.NearestWord(c.wrote, words); got != c.want {
			t.Errorf("%q: %q, want %q", c.wrote, got, c.want)
		}
	}
}

// TestNames: those of a class by their beginning, and the nearest one, also where
// there are more than anybody reads.
func TestNames(t *testing.T) {
	pool, err := pgxpool.New(t.Context(), testpg.New(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	for _, sql := range []string{
		`INSERT INTO host (name) VALUES ('host1'), ('host2')`,
		`INSERT INTO subscription (plan_id, name, removed_at) SELECT id, n, r FROM plan,
   (SELECT 'a' || n, NULL::timestamptz FROM generate_series(100000, 119999) n UNION ALL SELECT unnest(ARRAY['zebra', 'zoo', 'zoé']), NULL UNION ALL SELECT 'zodiac', now()) s (n, r)
  WHERE plan.name = 'default'`,
		`INSERT INTO system_user (subscription_id, uid, host_id, name) SELECT s.id, 1000 + h.id, h.id, 'zora' FROM subscription s, host h WHERE s.name = 'zoo'`,
		`INSERT INTO domain (subscription_id, name) SELECT id, 'zoo.example' FROM subscription WHERE name = 'zoo'`,
		`INSERT INTO mailbox (domain_id, address) SELECT id, 'info@zoo.example' FROM domain`,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	for _, c := range []struct {
		object string
		want   []string
	}{
		{"subscription:z", []string{"zebra", "zoo", "zoé"}}, {"subscription:zo", []string{"zoo", "zoé"}}, {"subscription:a1199", nil},
		{"domain:Zoo", []string{"zoo.example"}}, {"mailbox:info@", []string{"info@zoo.example"}}, {"plan:d", []string{"default"}},
		{"user:z", []string{"zora", "zora@host2"}}, {"user:zora@h", []string{"zora@host2"}}, {"subscription:%", nil}, {"subscription:zz", nil},
	} {
		o, err := quota.ParseObject(c.object)
		if err != nil {
			t.Fatal(err)
		}
		got, err := report.NamesFrom(t.Context(), pool, o.Class, "host1", o.Name, 50)
		if c.object == "subscription:a1199" {
			for n := range 50 {
				c.want = append(c.want, fmt.Sprint("a", 119900+n))
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" && len(c.want)+len(got) > 0 || err != nil {
			t.Errorf("%s: %s%v", c.object, diff, err)
		}
	}
	for _, c := range []struct{ object, want string }{
		{"subscription:zebar", "zebra"}, {"subscription:ebra", "zebra"}, {"subscription:a119998x", "a119998"}, {"subscription:zodiak", ""}, {"subscription:quite-another", ""},
		{"user:zoora", "zora"}, {"user:zora@host3", "zora@host2"}, {"domain:zoo.exmaple", "zoo.example"}, {"domain:zoo", "zoo.example"},
		{"mailbox:inof@zoo.example", "info@zoo.example"}, {"plan:defautl", "default"},
	} {
		o, err := quota.ParseObject(c.object)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := report.Nearest(t.Context(), pool, o, "host1"); got != c.want || err != nil {
			t.Errorf("%s: %q, want %q; %v", c.object, got, c.want, err)
		}
	}
}
