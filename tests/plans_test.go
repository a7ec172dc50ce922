package tests

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/origin"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
	"sendmail-wrapper/sqlschema"
	"sendmail-wrapper/tests/testpg"
)

func TestMain(m *testing.M) { testpg.Main(m) }

// objects is how many users, subscriptions, domains and mailboxes there are: so
// many that to read one is cheaper by index.
const objects = 5000

// large are the tables that grow with the customers or with the mail.
var large = regexp.MustCompile(`Seq Scan on (usage|returned|limits|subscription|domain|mailbox|system_user|sender|(?:messages|details)_[0-9]{8})\b`)

// partition is a day of messages or details, read in whatever way.
var partition = regexp.MustCompile(`Scan (?:using \w+ )?on ((?:messages|details)_[0-9]{8})\b`)

// plans are those of all that was run, as auto_explain sends them.
type plans struct {
	mu   sync.Mutex
	list []string
}

func (p *plans) add(_ *pgconn.PgConn, n *pgconn.Notice) {
	if _, plan, ok := strings.Cut(n.Message, "plan:\n"); ok {
		p.mu.Lock()
		p.list = append(p.list, plan)
		p.mu.Unlock()
	}
}

func (p *plans) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.list
	p.list = nil
	return list
}

// open has a pool send the plans of all it runs.
func (p *plans) open(t *testing.T, pool *pgxpool.Pool, err error) *pgxpool.Pool {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	config := pool.Config()
	pool.Close()
	config.ConnConfig.OnNotice = p.add
	if pool, err = pgxpool.NewWithConfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// fill makes objects, limits, usage and messages of three days, and has each
// plan sent to whoever runs a statement.
func fill(t *testing.T, database string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), testpg.As(database, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	name := conn.Config().Database
	for _, sql := range []string{
		`SELECT make_partitions((now() AT TIME ZONE 'UTC')::date - 2, 4)`,
		`INSERT INTO host (name) VALUES ('host1')`,
		fmt.Sprintf(`INSERT INTO subscription (plan_id, name) SELECT id, 'c' || n FROM plan, generate_series(1, %d) n WHERE plan.name = 'default'`, objects),
		`INSERT INTO domain (subscription_id, name, document_root) SELECT id, name || '.example', '/srv/' || name FROM subscription`,
		`INSERT INTO mailbox (domain_id, address) SELECT id, 'info@' || name FROM domain`,
		`INSERT INTO system_user (subscription_id, uid, host_id, name) SELECT id, 100000 + substr(name, 2)::bigint, 1, name FROM subscription`,
		`INSERT INTO limits (owner_id, class, messages_hour) SELECT id, 4, 1000 FROM subscription UNION ALL SELECT id, 3, 1000 FROM domain
			UNION ALL SELECT id, 2, 1000 FROM mailbox UNION ALL SELECT id, 1, 1000 FROM system_user`,
		`INSERT INTO sender (object_id, address) SELECT id, a || '@out.example' FROM mailbox, unnest('{sales,news}'::text[]) a`,
		`INSERT INTO usage (id) SELECT owner_id FROM limits UNION ALL SELECT id FROM server`,
		// Each day some fifty customers send.
		`INSERT INTO messages (at, id, uid, size, user_id, domain_id, subscription_id, host_id, recipients, decision, refused_object, refused_limit, refused_why, sender, kind, script)
		 SELECT least(day + n * interval '1 second', now()), gen_random_uuid(), u.uid, n, u.id, d.id, u.subscription_id, 1, 1, CASE WHEN n % 4 = 0 THEN 2 ELSE 1 END,
		        CASE WHEN n % 4 = 0 THEN u.subscription_id END, CASE WHEN n % 4 = 0 THEN 0 END, CASE WHEN n % 4 = 0 THEN 'full' END, 's', 'cron', '/srv/' || u.name
		   FROM generate_series(date_trunc('day', now(), 'UTC') - interval '2 days', now(), interval '1 day') day, generate_series(1, 4000) n
		   JOIN system_user u ON u.name = 'c' || n % 50 + 1 JOIN domain d ON d.subscription_id = u.subscription_id`,
		`INSERT INTO details SELECT at, id, '<' || id || '@x>', 'hello', '{a@example.net}' FROM messages`,
		`INSERT INTO returned (at, id) SELECT at, id FROM messages WHERE decision = 1`,
		`ANALYZE details, returned, subscription, domain, mailbox, system_user, limits, usage, messages, plan, host, sender`,
		`ALTER DATABASE ` + name + ` SET session_preload_libraries = 'auto_explain'`,
		`ALTER DATABASE ` + name + ` SET auto_explain.log_min_duration = 0`,
		`ALTER DATABASE ` + name + ` SET auto_explain.log_level = 'notice'`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// TestPlans: whatever is run takes indexes, and of messages the days that it is
// about. To read a large table as a whole must be wanted, and said here.
func TestPlans(t *testing.T) {
	t.Setenv("SUDO_USER", "operator")
	database := testpg.NewAs(t, "mailquotad")
	fill(t, database)
	p := &plans{}
	deciding, err := sqlschema.DaemonPool(database)
	deciding = p.open(t, deciding, err)
	asking, err := sqlschema.Pool(database)
	asking = p.open(t, asking, err)
	daemon := quota.NewStore(deciding, "host1", 1000)
	store := quota.NewStore(asking, "host1", 1000)
	mailctl := admin.New(asking, store, "host1", "")

	now := time.Now().UTC()
	today := now.Truncate(24 * time.Hour)
	day := func(t time.Time) string { return "messages_" + t.Format("20060102") }
	details := func(messages string) string { return strings.Replace(messages, "messages", "details", 1) }
	var ahead []string // partitions that are made, and empty
	for n := range 7 {
		next := day(today.AddDate(0, 0, n+1))
		ahead = append(ahead, next, details(next))
	}
	thisDay, lastDays := []string{day(today)}, []string{day(today), day(today.AddDate(0, 0, -1))}
	nothing := func(_ any, err error) error { return err }
	of := func(s string) quota.Object {
		o, err := quota.ParseObject(s)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	one, number := "c7", int64(500)
	filters := map[string]report.Filter{
		"all": {Since: today}, "user": {Since: today, User: one}, "subscription": {Since: today, Subscription: one},
		"domain": {Since: today, Domain: one + ".example"}, "client": {Since: today, Client: one, Kind: "cron"}, "script": {Since: today, Script: one, Refused: true},
	}
	daemonUser, err := user.Lookup("daemon")
	if err != nil {
		t.Fatal(err)
	}

	type step struct {
		name  string
		do    func(ctx context.Context) error
		days  []string // of messages that may be read, and may be read whole; of their details a few
		whole string   // large tables that are asked for as a whole
	}
	steps := []step{
		{"decide", func(ctx context.Context) error {
			return nothing(daemon.Decide(ctx, []quota.Message{scripted("c1", 100001), scripted("c2", 100002), scripted("new", 1000), mailbox("info@c3.example")}))
		}, nil, ""},
		{"decide again", func(ctx context.Context) error {
			return nothing(daemon.Decide(ctx, []quota.Message{scripted("c1", 100001), mailbox("info@c3.example"), mailbox("new@c3.example")}))
		}, nil, ""},
		{"decide by virtual host", func(ctx context.Context) error {
			return nothing(daemon.Decide(ctx, []quota.Message{virtualHost("c4.example"), virtualHost("c5.example"), virtualHost("none.example")}))
		}, nil, ""},
		{"decide, whose the senders are", func(ctx context.Context) error {
			return nothing(daemon.Decide(ctx, []quota.Message{from(scripted("c1", 100001), "x@c1.example"), from(scripted("c2", 100002), "x@c1.example"),
				from(mailbox("info@c3.example"), "sales@out.example"), from(mailbox("info@c3.example"), "x@c3.example")}))
		}, nil, ""},
		{"decide on behalf of addresses, and of no user", func(ctx context.Context) error {
			return nothing(daemon.Decide(ctx, []quota.Message{onBehalf("info@c6.example"), onBehalf("all@c6.example"), onBehalf("x@none.example"), onBehalf("")}))
		}, nil, ""},
		{"decide what may have been accepted before", func(ctx context.Context) error {
			m := onBehalf("info@c6.example")
			m.Again = true
			return errors.Join(nothing(daemon.Decide(ctx, []quota.Message{m})), nothing(daemon.Decide(ctx, []quota.Message{m})))
		}, lastDays, ""},
		{"decide what may have been accepted days before", func(ctx context.Context) error {
			m := onBehalf("info@c6.example")
			m.Again, m.ID[1] = true, m.ID[1]-1 // an ID of 50 days ago
			return nothing(daemon.Decide(ctx, []quota.Message{m}))
		}, nil, ""},
		{"give back", func(ctx context.Context) error {
			m := onBehalf("info@c6.example")
			decisions, err := daemon.Decide(ctx, []quota.Message{m})
			if err != nil {
				return err
			}
			return errors.Join(daemon.GiveBack(ctx, m.ID, decisions[0].At), daemon.GiveBack(ctx, m.ID, decisions[0].At))
		}, nil, ""},
		{"heartbeat", daemon.Heartbeat, nil, ""},
		{"refresh after a change", func(ctx context.Context) error {
			if _, err := mailctl.SetLimit(ctx, of("server"), quota.Server, quota.MessagesDay, &number); err != nil {
				return err
			}
			return errors.Join(daemon.Heartbeat(ctx), daemon.Refresh(ctx))
		}, nil, ""},
		{"usage of a caller", func(ctx context.Context) error { return nothing(daemon.UsageOfUser(ctx, 100007)) }, nil, ""},
		{"maintain", func(ctx context.Context) error { return daemon.Maintain(ctx, 31, 7) }, nil, ""},

		{"usage", func(ctx context.Context) error {
			return nothing(store.Usage(ctx, []quota.Object{of("server"), of("subscription:c7"), of("domain:c7.example"), of("mailbox:info@c7.example"), of("user:c7")}))
		}, nil, ""},
		{"usage of all", func(ctx context.Context) error { return nothing(store.UsageOfAll(ctx)) }, nil, "usage subscription domain mailbox system_user limits"},
		// All counters against the messages of a day.
		{"prove", func(ctx context.Context) error { return nothing(store.Prove(ctx)) }, lastDays, "usage subscription domain mailbox system_user"},
		{"health", func(ctx context.Context) error { return nothing(report.CheckHealth(ctx, asking)) }, nil, ""},

		{"add", func(ctx context.Context) error {
			for _, err := range []error{
				mailctl.AddPlan(ctx, "gold", nil), mailctl.AddSubscription(ctx, "acme", "gold", ""), mailctl.AddDomain(ctx, "acme.example", "acme", "/srv/acme"),
				mailctl.AddMailbox(ctx, "x@acme.example"), mailctl.AddUser(ctx, daemonUser.Username, "acme"),
				nothing(mailctl.Register(ctx, of("user:bin"))),
			} {
				if err != nil {
					return err
				}
			}
			return nil
		}, nil, ""},
		{"set", func(ctx context.Context) error {
			name, domain, plan := "acme2", "acme2.example", "default"
			for _, err := range []error{
				mailctl.SetMailbox(ctx, "x@acme.example", "y@acme.example"), mailctl.Remove(ctx, of("mailbox:y@acme.example")),
				mailctl.SetDomain(ctx, "acme.example", &domain, &one, &domain), mailctl.SetUser(ctx, daemonUser.Username, one),
				mailctl.SetSubscription(ctx, "acme", &name, &plan, nil), mailctl.SetPlan(ctx, "gold", &name, true, nil),
				nothing(mailctl.SetLimit(ctx, of("subscription:c7"), quota.Subscription, quota.MessagesDay, &number)),
			} {
				if err != nil && !strings.Contains(err.Error(), "absolute path") {
					return err
				}
			}
			return nil
		}, nil, ""},
		{"remove", func(ctx context.Context) error {
			for _, o := range []string{"domain:acme.example", "user:daemon", "subscription:acme2", "plan:acme2"} {
				if err := mailctl.Remove(ctx, of(o)); err != nil {
					return err
				}
			}
			return nil
		}, nil, ""},
		{"show", func(ctx context.Context) error {
			object := of("subscription:c7")
			for _, err := range []error{
				nothing(mailctl.Subscriptions(ctx, "c7")), nothing(mailctl.Domains(ctx, "c7.example")), nothing(mailctl.Mailboxes(ctx, "info@c7.example")),
				nothing(mailctl.Users(ctx, "c7")), nothing(mailctl.Users(ctx, "c7@host1")), nothing(mailctl.Limits(ctx, &object)),
				nothing(mailctl.Senders(ctx, &object)), nothing(mailctl.AddSender(ctx, object, "@c7.net")), mailctl.RemoveSender(ctx, object, "@c7.net"),
			} {
				if err != nil {
					return err
				}
			}
			return nil
		}, nil, ""},
		// A plan says how many subscriptions it has, and nearly all have this one.
		{"show the plan", func(ctx context.Context) error { return nothing(mailctl.Plans(ctx, "default")) }, nil, "subscription"},
		{"list", func(ctx context.Context) error {
			for _, err := range []error{
				nothing(mailctl.Plans(ctx, "")), nothing(mailctl.Subscriptions(ctx, "")), nothing(mailctl.Domains(ctx, "")), nothing(mailctl.Mailboxes(ctx, "")),
				nothing(mailctl.Users(ctx, "")), nothing(mailctl.Limits(ctx, nil)),
			} {
				if err != nil {
					return err
				}
			}
			return nil
		}, nil, "subscription domain mailbox system_user limits"},
	}
	// The id of a message of a trace header; a Message-ID, for which there is no index;
	// and what a mail server knows.
	oneID, someUID := uuid.Must(uuid.NewV7()), int64(100007)
	steps = append(steps,
		step{"find", func(ctx context.Context) error { return nothing(report.Find(ctx, asking, oneID)) }, nil, ""},
		step{"find by Message-ID", func(ctx context.Context) error {
			return nothing(report.FindByMessageID(ctx, asking, []string{"<" + one + "@x>"}, report.Filter{Since: today}, func(time.Time) {}))
		}, nil, details(day(today))},
		step{"find by uid and time", func(ctx context.Context) error {
			return nothing(report.FindSubmissions(ctx, asking, report.Submission{UID: &someUID, Recipients: 1, Since: today, Until: now}))
		}, thisDay, ""},
		step{"find by login and time", func(ctx context.Context) error {
			return nothing(report.FindSubmissions(ctx, asking, report.Submission{Login: "info@c7.example", Recipients: 1, Since: today, Until: now}))
		}, thisDay, ""})
	for name, f := range filters {
		steps = append(steps,
			step{"newest messages, " + name, func(ctx context.Context) error {
				return report.Messages(ctx, asking, f, 100, func(*report.Message) error { return nil })
			}, thisDay, ""},
			step{"messages, " + name, func(ctx context.Context) error {
				return report.Messages(ctx, asking, f, 0, func(*report.Message) error { return nil })
			}, thisDay, ""},
			step{"attempts, " + name, func(ctx context.Context) error { return nothing(report.Attempts(ctx, asking, f, 20)) }, thisDay, ""})
		for _, by := range report.SourceColumns {
			steps = append(steps, step{"sources by " + by + ", " + name, func(ctx context.Context) error { return nothing(report.Sources(ctx, asking, f, by, 20)) }, thisDay, ""})
		}
		for _, by := range report.TopColumns {
			steps = append(steps, step{"top " + by + ", " + name, func(ctx context.Context) error { return nothing(report.Top(ctx, asking, f, by, 20)) }, thisDay, ""})
		}
	}

	steps = append(steps,
		step{"names to complete", func(ctx context.Context) error {
			for class := quota.User; class < quota.Server; class++ {
				if _, err := report.NamesFrom(ctx, asking, class, "host1", "c7", 50); err != nil {
					return err
				}
			}
			return nil
		}, nil, ""},
		// Of some that begin alike, or are about as long: never more than 5000 each.
		step{"nearest name", func(ctx context.Context) error {
			return nothing(report.Nearest(ctx, asking, of("subscription:c77x"), "host1"))
		}, nil, "subscription"},
		step{"suggest limits", func(ctx context.Context) error {
			peaks, err := report.MeasurePeaks(ctx, asking, quota.Subscription, today, func(time.Time) {})
			if err != nil {
				return err
			}
			return nothing(report.Suggest(ctx, asking, quota.Subscription, "", peaks, report.Rule{Percentile: 99}))
		}, thisDay, "limits"})
	steps = append(steps, step{"decide, where rows may be there already", func(ctx context.Context) error {
		// A partition that is missing makes the same batch be tried once more.
		super, err := pgx.Connect(ctx, testpg.As(database, "postgres"))
		if err != nil {
			return err
		}
		defer super.Close(ctx)
		if _, err := super.Exec(ctx, `DROP TABLE `+day(today)); err != nil {
			return err
		}
		return nothing(daemon.Decide(ctx, []quota.Message{scripted("c1", 100001)}))
	}, nil, ""})
	for _, s := range steps {
		p.take()
		if err := s.do(t.Context()); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		list := p.take()
		if len(list) == 0 {
			t.Errorf("%s: no plan was seen", s.name)
		}
		for _, plan := range list {
			var wrong []string
			for _, scan := range large.FindAllStringSubmatch(plan, -1) {
				if table := scan[1]; !slices.Contains(s.days, table) && !slices.Contains(ahead, table) && !slices.Contains(strings.Fields(s.whole), table) {
					wrong = append(wrong, table+" is read as a whole")
				}
			}
			for _, scan := range partition.FindAllStringSubmatch(plan, -1) {
				isOf := func(messages string) bool { return scan[1] == messages || scan[1] == details(messages) }
				if s.days != nil && !slices.ContainsFunc(s.days, isOf) && !slices.Contains(ahead, scan[1]) {
					wrong = append(wrong, scan[1]+" is of another day")
				}
			}
			if len(wrong) > 0 {
				t.Errorf("%s: %s\n%s", s.name, strings.Join(wrong, ", "), plan)
			}
		}
	}
}

func scripted(name string, uid uint32) quota.Message {
	return quota.Message{ID: uuid.Must(uuid.NewV7()), Recipients: 1, Size: 100, Sender: name,
		Origin: origin.Origin{UID: uid, User: name, Kind: origin.Shell, KindProof: origin.Claimed, Script: origin.Fact{Value: "/srv/" + name + "/x.php", Proof: origin.System}}}
}

// from has the sender of a message looked at.
func from(m quota.Message, sender string) quota.Message {
	m.Sender, m.SenderCheck = sender, quota.SenderRefuse
	return m
}

// virtualHost is a message of mod_php, with all that is kept of one.
func virtualHost(site string) quota.Message {
	m := scripted("www-data", 33)
	m.Origin.Kind, m.Origin.Site = origin.ModPHP, origin.Fact{Value: site, Proof: origin.System}
	m.Origin.URI, m.Origin.Chain = origin.Fact{Value: "/x", Proof: origin.System}, []origin.Process{{PID: 1, Program: "/usr/bin/sh"}}
	m.Details = quota.Details{MessageID: "<1@x>", Subject: "s", To: []string{"a@x"}}
	return m
}

// onBehalf is a message that is sent on.
func onBehalf(address string) quota.Message {
	return quota.Message{ID: uuid.Must(uuid.NewV7()), Recipients: 1, Size: 100, OnBehalf: address, NoUser: true, Origin: origin.Origin{Kind: origin.Forward}}
}

func mailbox(address string) quota.Message {
	return quota.Message{ID: uuid.Must(uuid.NewV7()), Recipients: 1, Size: 100, Sender: address, Mailbox: address}
}
