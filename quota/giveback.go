package quota

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// ErrNoRow says that the database has no row of an accepted message: it was never
// accepted, or while the database was away, and is not booked yet.
var ErrNoRow = errors.New("there is no such message, or it is not booked yet")

// giveBackTime bounds how long decisions wait for a charge that is given back.
const giveBackTime = 3 * time.Second

const (
	// chargedSQL: the accounts of a message are those of its row; whom a message would
	// be charged to now may be somebody else.
	chargedSQL = `SELECT user_id, mailbox_id, domain_id, subscription_id, recipients FROM messages WHERE id = $1 AND at = $2 AND decision <> 2`

	returnedSQL = `INSERT INTO returned (at, id) VALUES ($1, $2) ON CONFLICT DO NOTHING`
)

// GiveBack takes back the charge of the accepted message id that the mail server itself
// refused afterwards: its cost is forgiven in the slots in which it was charged, as far as
// these still count, and a row of returned says so; once, however often it is called. at
// is the Decision.At of the message. One that passed by a Grant is given back to the
// limits, not to the Grant. Where its charge was forgiven meanwhile (Forgive), and another
// message was charged in the same slot since, that one's is forgiven: slots do not tell
// messages apart.
//
// The error is ErrNoRow, or the database's. In both cases it may be called again later.
func (s *Store) GiveBack(ctx context.Context, id uuid.UUID, at time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, giveBackTime)
	defer cancel()
	ids, cost, err := s.charged(ctx, id, at)
	if err == nil {
		err = s.giveBack(ctx, id, at, ids, cost)
	}
	if err != nil {
		return fmt.Errorf("give back the charge of message %s: %w", id, err)
	}
	return nil
}

// charged returns what a message was charged to, in the order of the ids.
func (s *Store) charged(ctx context.Context, id uuid.UUID, at time.Time) (ids []int64, cost Cost, err error) {
	var of [4]*int64
	cost.Messages = 1
	err = s.pool.QueryRow(ctx, chargedSQL, pgtype.UUID{Bytes: id, Valid: true}, at).Scan(&of[0], &of[1], &of[2], &of[3], &cost.Recipients)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, cost, ErrNoRow
	}
	for _, charged := range of {
		if charged != nil {
			ids = append(ids, *charged)
		}
	}
	return append(ids, int64(ServerID)), cost, err
}

// giveBack writes the counters of a message without it. Meanwhile nothing is decided
// here, so that memory stays right.
func (s *Store) giveBack(ctx context.Context, id uuid.UUID, at time.Time, ids []int64, cost Cost) error {
	s.deciding.Lock()
	defer s.deciding.Unlock()
	version := s.versions.take()
	states := make(pgtype.FlatArray[[]byte], len(ids))
	before := make([]int64, len(ids))
	first := false
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		trip := &pgx.Batch{}
		trip.Queue(returnedSQL, at, pgtype.UUID{Bytes: id, Valid: true}).Exec(func(tag pgconn.CommandTag) error {
			first = tag.RowsAffected() > 0
			return nil
		})
		trip.Queue(lockSQL, ids).Query(func(rows pgx.Rows) error {
			var of, version int64
			var state []byte
			_, err := pgx.ForEachRow(rows, []any{&of, &version, &state}, func() (err error) {
				i := slices.Index(ids, of)
				before[i] = version
				states[i], err = withoutCharge(state, minuteAt(at), cost)
				return err
			})
			return err
		})
		if err := tx.SendBatch(ctx, trip).Close(); err != nil || !first {
			return err
		}
		_, err := tx.Exec(ctx, saveSQL, ids, states, version)
		return err
	})
	if err == nil && first {
		s.memory.giveBack(ids, before, states, version)
	}
	return err
}

// withoutCharge is the state of a Usage after a cost was given back.
func withoutCharge(state []byte, minute int64, cost Cost) ([]byte, error) {
	var u Usage
	if err := u.UnmarshalBinary(state); err != nil {
		return nil, err
	}
	u.giveBack(minute, cost)
	return u.AppendBinary(nil)
}
