package report

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/quota"
)

// Find returns the message with an id; nil if there is none. Of one that was tried
// several times it is the last try. It looks at the days on which there can be one,
// from that before the id was made, since rows have the time of the database's clock
// and ids that of the host's.
func Find(ctx context.Context, pool *pgxpool.Pool, id uuid.UUID) (*Message, error) {
	made := quota.IDTime(id)
	if made.IsZero() {
		return nil, nil
	}
	span := Filter{Since: made.Add(-24 * time.Hour), Until: made.AddDate(0, 0, quota.RepeatDays).Add(24 * time.Hour)}
	keys, err := readKeys(ctx, pool, `SELECT at, id FROM messages WHERE at >= $1 AND at < $2 AND id = $3 ORDER BY at DESC LIMIT 1`,
		[]any{span.Since, span.Until, id})
	if err != nil {
		return nil, err
	}
	list, err := byKeys(ctx, pool, &span, keys)
	if len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

func byKeys(ctx context.Context, pool *pgxpool.Pool, span *Filter, keys []key) (list []*Message, err error) {
	err = names{}.read(ctx, pool, span, keys, func(m *Message) error {
		list = append(list, m)
		return nil
	})
	return list, err
}

// maxFound bounds how many messages the searches return.
const maxFound = 10

// FindByMessageID returns messages that have one of some Message-IDs: for each those
// of the newest day (UTC) that has any, newest day first, and of many the newest
// ten. It reads the details of each day, and calls progress before, until all are
// found.
func FindByMessageID(ctx context.Context, pool *pgxpool.Pool, ids []string, f Filter, progress func(day time.Time)) (found []*Message, err error) {
	list, err := days(ctx, pool, f)
	if err != nil {
		return nil, err
	}
	ids = slices.Clone(ids)
	for _, day := range slices.Backward(list) {
		if len(ids) == 0 {
			break
		}
		progress(day.Since)
		keys, err := readKeys(ctx, pool, fmt.Sprintf(`SELECT at, id FROM details WHERE at >= $1 AND at < $2 AND message_id = ANY($3)
 ORDER BY at DESC, id DESC LIMIT %d`, maxFound), []any{day.Since, day.Until, ids})
		if err != nil {
			return nil, err
		}
		slices.Reverse(keys)
		messages, err := byKeys(ctx, pool, &day, keys)
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			ids = slices.DeleteFunc(ids, func(id string) bool { return m.MessageID != nil && *m.MessageID == id })
		}
		found = append(found, messages...)
	}
	return found, nil
}

// Submission is what a mail server knows of a mail that was handed to it.
type Submission struct {
	UID          *int64
	Login        string // of SMTP AUTH
	Recipients   int
	Since, Until time.Time // when it was decided
}

// FindSubmissions returns the messages let through that may be a submission,
// oldest first, of many the newest ten. It reads the partitions of the span, which
// are one or two days.
func FindSubmissions(ctx context.Context, pool *pgxpool.Pool, s Submission) ([]*Message, error) {
	var rows pgx.Rows
	var err error
	const sql = `SELECT m.at, m.id FROM messages m WHERE m.at >= $1 AND m.at < $2 AND m.decision <> 2 AND m.recipients = $3 AND `
	order := fmt.Sprintf(` ORDER BY m.at DESC, m.id DESC LIMIT %d`, maxFound)
	switch {
	case s.Login != "":
		rows, err = pool.Query(ctx, sql+`m.mailbox_id IN (SELECT id FROM mailbox WHERE address = lower($4) AND removed_at IS NULL)`+order, s.Since, s.Until, s.Recipients, s.Login)
	case s.UID != nil:
		rows, err = pool.Query(ctx, sql+`m.uid = $4`+order, s.Since, s.Until, s.Recipients, *s.UID)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find messages: %w", err)
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k key, err error) {
		var at time.Time
		err = row.Scan(&at, &k.id)
		k.at = at.UnixMicro()
		return k, err
	})
	if err != nil {
		return nil, fmt.Errorf("find messages: %w", err)
	}
	slices.Reverse(keys)
	return byKeys(ctx, pool, &Filter{Since: s.Since, Until: s.Until}, keys)
}
