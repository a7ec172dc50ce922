package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// charges reads the rows of the messages that alice was charged for.
type charges struct {
	db   *pgx.Conn
	uid  int
	last string // id of the newest row seen; ids grow with time (RFC 9562, version 7)
}

// charged is what the database says of one call.
type charged struct {
	messages, recipients int
	refused              string // why, of the last one refused
	senders              []string
	ids                  []string // of those that were accepted
}

func connect(uid int) (*charges, error) {
	db, err := pgx.Connect(context.Background(), "host=/run/mailquota-postgresql user=mailquotad dbname=mailquota")
	if err != nil {
		return nil, fmt.Errorf("the database of sendmail-wrapper: %w", err)
	}
	c := &charges{db: db, uid: uid, last: "00000000-0000-0000-0000-000000000000"}
	_, err = c.sinceLast()
	return c, err
}

func (c *charges) close() { c.db.Close(context.Background()) }

// sinceLast returns what was charged since it was called last.
func (c *charges) sinceLast() (charged, error) {
	var sum charged
	rows, err := c.db.Query(context.Background(),
		`SELECT id::text, recipients, sender, coalesce(refused_why, '') FROM messages WHERE uid = $1 AND id > $2::uuid ORDER BY id`, c.uid, c.last)
	if err != nil {
		return sum, err
	}
	var recipients int
	var sender, why string
	_, err = pgx.ForEachRow(rows, []any{&c.last, &recipients, &sender, &why}, func() error {
		if why != "" {
			sum.refused = why
			return nil
		}
		sum.messages++
		sum.recipients += recipients
		sum.senders = append(sum.senders, sender)
		sum.ids = append(sum.ids, c.last)
		return nil
	})
	return sum, err
}
