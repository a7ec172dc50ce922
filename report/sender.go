package report

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
)

// Sender is an envelope sender that was added to an object, or to one above it.
type Sender struct {
	Address string `json:"address"` // or @ and a domain: all addresses in it
	SetOn   string `json:"set_on"`
	Since   Time   `json:"since"`
}

// sendersOf returns those of the objects of a chain, of the nearest first.
func sendersOf(ctx context.Context, pool *pgxpool.Pool, chain []link) ([]Sender, error) {
	ids, named := make([]quota.ID, len(chain)), map[quota.ID]string{}
	for i, l := range chain {
		ids[i], named[l.id] = l.id, l.object.String()
	}
	rows, err := pool.Query(ctx, `SELECT object_id, address, made_at FROM sender WHERE object_id = ANY($1::bigint[]) ORDER BY object_id >> 40, address`, ids)
	if err != nil {
		return nil, fmt.Errorf("read senders: %w", err)
	}
	list := []Sender{} // [] and not null
	var id quota.ID
	var address string
	var since time.Time
	_, err = pgx.ForEachRow(rows, []any{&id, &address, &since}, func() error {
		list = append(list, Sender{address, named[id], Time(since)})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read senders: %w", err)
	}
	return list, nil
}
