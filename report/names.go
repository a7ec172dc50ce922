package report

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
)

// names are those of objects and hosts by id, also of removed ones, as far as
// they were met. The ids of hosts are below those of all objects.
type names map[quota.ID]*string

// maxNames bounds what is kept from page to page.
const maxNames = 100_000

// namesSQL has each name looked up by key, whatever the planner thinks of it: it
// may read a table of all customers for those of a page. namesAtOnce is few
// enough that PostgreSQL does not compile the statement, which takes longer than
// to run it (jit_above_cost).
const (
	namesSQL = `SELECT k.id, CASE k.id >> 40
       WHEN 0 THEN (SELECT name FROM host WHERE id = k.id)
       WHEN 1 THEN (SELECT name FROM system_user WHERE id = k.id)
       WHEN 2 THEN (SELECT address FROM mailbox WHERE id = k.id)
       WHEN 3 THEN (SELECT name FROM domain WHERE id = k.id)
       WHEN 4 THEN (SELECT name FROM subscription WHERE id = k.id)
       WHEN 5 THEN (SELECT name FROM plan WHERE id = k.id)
       WHEN 6 THEN '' END
  FROM unnest($1::bigint[]) k (id)`
	namesAtOnce = 1000
)

// learn looks up the names that a page needs.
func (n names) learn(ctx context.Context, pool *pgxpool.Pool, page []stored) error {
	if len(n) > maxNames {
		clear(n)
	}
	var missing []quota.ID
	for i := range page {
		s := &page[i]
		for _, id := range []*quota.ID{&s.host, s.user, s.subscription, s.domain, s.mailbox, s.refuser} {
			if id == nil {
				continue
			}
			if _, met := n[*id]; !met {
				n[*id] = nil
				missing = append(missing, *id)
			}
		}
	}
	return n.lookUp(ctx, pool, missing)
}

func (n names) lookUp(ctx context.Context, pool *pgxpool.Pool, missing []quota.ID) error {
	for some := range slices.Chunk(missing, namesAtOnce) {
		rows, err := pool.Query(ctx, namesSQL, some)
		if err != nil {
			return fmt.Errorf("read names: %w", err)
		}
		var id quota.ID
		var name *string
		_, err = pgx.ForEachRow(rows, []any{&id, &name}, func() error {
			n[id] = name
			return nil
		})
		if err != nil {
			return fmt.Errorf("read names: %w", err)
		}
	}
	return nil
}

// apply gives a message the names of its objects.
func (n names) apply(s *stored) *Message {
	m := &s.Message
	if host := n.of(&s.host); host != nil {
		m.Host = *host
	}
	m.User, m.Subscription, m.Domain, m.Mailbox = n.of(s.user), n.of(s.subscription), n.of(s.domain), n.of(s.mailbox)
	if m.Decision != "accepted" {
		m.RefusedBy = m.RefusedWhy
		if refuser := n.of(s.refuser); refuser != nil && s.limit != nil {
			by := refusedBy(*s.refuser, *refuser, *s.limit)
			m.RefusedBy = &by
		}
	}
	return m
}

// of is the name of an object; nil if there is none.
func (n names) of(id *quota.ID) *string {
	if id == nil {
		return nil
	}
	return n[*id]
}
