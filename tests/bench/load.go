package main

import (
	"context"
	"fmt"
)

// How customers are made: mailbox m is m<m>@d<d>.example.
const (
	mailboxesPerDomain = 10
	domainsPerCustomer = 2
)

func domainOf(mailbox int) int { return (mailbox-1)/mailboxesPerDomain + 1 }

func customerOf(mailbox int) int { return (domainOf(mailbox)-1)/domainsPerCustomer + 1 }

// database makes a database with that many mailboxes, once, and returns its
// name. Limits of messages and recipients, an hour and a day, hold on all four
// levels, as defaults of the server; every tenth mailbox has its own. None is
// ever reached.
func (b *bench) database(ctx context.Context, name string, mailboxes int) (string, error) {
	if b.databases[name] {
		return name, nil
	}
	if err := b.cloneTemplate(ctx, name); err != nil {
		return "", err
	}
	domains, customers := domainOf(mailboxes), customerOf(mailboxes)
	b.say("loading %s: %d mailboxes, %d domains, %d subscriptions", name, mailboxes, domains, customers)
	err := b.exec(ctx, "mailquota", name,
		fmt.Sprintf(`INSERT INTO subscription (id, plan_id, name)
			SELECT 4::bigint << 40 | n, (SELECT id FROM plan WHERE name = 'default'), 'customer' || n FROM generate_series(1, %d) n`, customers),
		fmt.Sprintf(`INSERT INTO domain (id, subscription_id, name)
			SELECT 3::bigint << 40 | n, 4::bigint << 40 | (n - 1) / %d + 1, 'd' || n || '.example' FROM generate_series(1, %d) n`, domainsPerCustomer, domains),
		fmt.Sprintf(`INSERT INTO mailbox (id, domain_id, address)
			SELECT 2::bigint << 40 | n, 3::bigint << 40 | d, 'm' || n || '@d' || d || '.example'
			  FROM generate_series(1, %d) n, LATERAL (SELECT (n - 1) / %d + 1 AS d) x`, mailboxes, mailboxesPerDomain),
		`SELECT setval('object_number', 100000000)`,
		`INSERT INTO limits (owner_id, class, messages_hour, messages_day, recipients_hour, recipients_day)
			SELECT 6::bigint << 40, c, 2000000000, 2000000000, 2000000000, 2000000000 FROM unnest(ARRAY[1, 2, 3, 4, 6]) c`,
		fmt.Sprintf(`INSERT INTO limits (owner_id, class, messages_hour, messages_day, recipients_hour, recipients_day)
			SELECT 2::bigint << 40 | n, 2, 1000000000, 1000000000, 1000000000, 1000000000 FROM generate_series(10, %d, 10) n`, mailboxes),
		`INSERT INTO usage (id) SELECT id FROM mailbox UNION ALL SELECT id FROM domain UNION ALL SELECT id FROM subscription UNION ALL SELECT id FROM server`,
	)
	if err == nil {
		err = b.settle(ctx, name)
	}
	if err != nil {
		return "", fmt.Errorf("load %s: %w", name, err)
	}
	return name, nil
}

// cloneTemplate makes a database with the schema.
func (b *bench) cloneTemplate(ctx context.Context, name string) error {
	err := b.exec(ctx, "postgres", "postgres", `CREATE DATABASE `+name+` TEMPLATE mailquota OWNER mailquota`)
	b.databases[name] = err == nil
	return err
}

// settle leaves nothing of the loading to be done while something is measured.
func (b *bench) settle(ctx context.Context, database string) error {
	return b.exec(ctx, "postgres", database, `VACUUM (ANALYZE)`, `CHECKPOINT`)
}

// loadMessages lays that many accepted messages into the partitions of the last
// days up to now.
func (b *bench) loadMessages(ctx context.Context, database string, messages, days, mailboxes int) error {
	b.say("loading %d messages of %d days into %s", messages, days, database)
	err := b.exec(ctx, "mailquota", database,
		fmt.Sprintf(`SELECT make_partitions((now() AT TIME ZONE 'UTC')::date - %d, %d)`, days, days+2),
		`INSERT INTO host (name) VALUES ('earlier.example')`)
	if err != nil {
		return err
	}
	const halves = 2 // as many cores as there are at least
	done := make(chan error, halves)
	for half := range halves {
		go func() { done <- b.loadPart(ctx, database, messages, half, halves, days, mailboxes) }()
	}
	for range halves {
		if e := <-done; err == nil {
			err = e
		}
	}
	if err == nil {
		err = b.settle(ctx, database)
	}
	return err
}

// loadPart lays in the messages whose number leaves a remainder of part. Ids are
// of version 7, in order of time, as the daemon makes them.
func (b *bench) loadPart(ctx context.Context, database string, messages, part, parts, days, mailboxes int) error {
	return b.exec(ctx, "mailquota", database, fmt.Sprintf(`
INSERT INTO messages (at, id, size, mailbox_id, domain_id, subscription_id, host_id, recipients, decision, sender, kind, kind_proof)
SELECT at, (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(h, 1, 3) || '8' || substr(h, 4, 15))::uuid,
       2000 + n %% 5000, 2::bigint << 40 | m, 3::bigint << 40 | d, 4::bigint << 40 | (d - 1) / %d + 1,
       (SELECT id FROM host WHERE name = 'earlier.example'), 1, 1, 'm' || m || '@d' || d || '.example', 'smtp', 2
  FROM generate_series(%d, %d, %d) n,
       LATERAL (SELECT now() - interval '%d days' * (1 - n::float8 / %d) - interval '1 second' AS at, md5(n::text) AS h, 1 + (n::bigint * 7919) %% %d AS m) x,
       LATERAL (SELECT (m - 1) / %d + 1 AS d) y`,
		domainsPerCustomer, part, messages-1, parts, days, messages, mailboxes, mailboxesPerDomain))
}
