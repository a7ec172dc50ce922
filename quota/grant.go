package quota

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Forgive lets an object begin anew: what was counted stays counted, and does not
// count against its limits any more. It returns what did, for the audit.
func (s *Store) Forgive(ctx context.Context, tx pgx.Tx, id ID) (before string, err error) {
	return changeUsage(ctx, tx, id, func(u *Usage, now time.Time) string {
		before := u.sums(now)
		u.forgiveAll()
		return before
	})
}

// MaxGrant is the most that a Grant may have of each.
const MaxGrant = 1_000_000_000

// Grant gives an object an allowance, in place of one that it has; the zero Grant
// takes that away. It returns what there was, for the audit.
func (s *Store) Grant(ctx context.Context, tx pgx.Tx, id ID, g Grant) (before string, err error) {
	if min(g.Messages, g.Recipients) < 0 || max(g.Messages, g.Recipients) > MaxGrant {
		return "", fmt.Errorf("an allowance is a number from 0 to %d", MaxGrant)
	}
	g.Until = g.Until.UTC().Truncate(time.Microsecond)
	return changeUsage(ctx, tx, id, func(u *Usage, now time.Time) string {
		before := u.grantAt(now).String()
		u.waive().grant = g
		return before
	})
}

// String says what is left of an allowance, "" where nothing is.
func (g Grant) String() string {
	var parts []string
	if g.Messages > 0 {
		parts = append(parts, fmt.Sprintf("%d messages", g.Messages))
	}
	if g.Recipients > 0 {
		parts = append(parts, fmt.Sprintf("%d recipients", g.Recipients))
	}
	text := strings.Join(parts, ", ")
	if text != "" && !g.Until.IsZero() {
		text += " until " + g.Until.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	return text
}

// changeUsage changes what one object has used, under the lock of its row.
//
// It has a version then that nobody else gives, so that a daemon which decides by
// memory notices. A Store's own numbers are not for this: its mutex, which guards
// them, may be held by a batch that waits for this very row.
func changeUsage(ctx context.Context, tx pgx.Tx, id ID, change func(u *Usage, now time.Time) (before string)) (before string, err error) {
	if c := id.Class(); c < User || c > Server || c == Plan {
		return "", errors.New("nothing is counted of it: it holds the defaults of its subscriptions")
	}
	if _, err := tx.Exec(ctx, `INSERT INTO usage (id) VALUES ($1) ON CONFLICT DO NOTHING`, id); err != nil {
		return "", fmt.Errorf("make a usage row: %w", err)
	}
	var state []byte
	var now time.Time
	var u Usage
	err = tx.QueryRow(ctx, `SELECT state FROM usage WHERE id = $1 FOR UPDATE`, id).Scan(&state)
	if err == nil {
		err = tx.QueryRow(ctx, clockSQL).Scan(&now) // once the row is locked
	}
	if err == nil {
		err = u.UnmarshalBinary(state)
	}
	if err != nil {
		return "", fmt.Errorf("read what was used: %w", err)
	}
	before = change(&u, now)
	if state, err = u.AppendBinary(nil); err == nil {
		_, err = tx.Exec(ctx, `UPDATE usage SET state = $2, version = $3 WHERE id = $1`, id, state, rand.Int64())
	}
	if err != nil {
		return "", fmt.Errorf("write what was used: %w", err)
	}
	return before, nil
}

// sums says what counts against limits.
func (u *Usage) sums(now time.Time) string {
	minute := max(minuteAt(now), u.newest())
	return fmt.Sprintf("%d messages, %d recipients in the last hour, %d messages, %d recipients in the last day",
		u.used(MessagesHour, minute), u.used(RecipientsHour, minute), u.used(MessagesDay, minute), u.used(RecipientsDay, minute))
}
