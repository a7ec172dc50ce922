package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sendmail-wrapper/inventory"
)

// Import says how an Inventory is applied.
type Import struct {
	Source   string                // the word in the audit: "csv"
	DryRun   bool                  // only the difference
	Progress func(done, total int) // may be nil; rows that have been written
}

// Apply makes what an Inventory says so: it adds and changes objects, and removes
// none. All of it is done, with a row of the audit for each object, or, where
// something stands against it, nothing. The Difference is returned in any case, if
// it could be found; of an Inventory whose Difference has conflicts the error is
// an *Error.
//
// It reads all objects as of one moment and compares. What somebody else changes
// after that moment, and the import too, ends the transaction (PostgreSQL's
// REPEATABLE READ), and it starts again.
func (a *Admin) Apply(ctx context.Context, inv *inventory.Inventory, i Import) (*Difference, error) {
	for n := 1; ; n++ {
		diff, err := a.apply(ctx, inv, i)
		var pg *pgconn.PgError
		switch {
		case err == nil:
			return diff, nil
		case errors.As(err, new(*Error)):
			return diff, err
		case n < attempts && errors.As(err, &pg) && (pg.Code == "40001" || pg.Code == "40P01" || pg.Code == "23505"):
			continue // serialization_failure, deadlock_detected, unique_violation
		}
		return nil, fmt.Errorf("import: %w", err)
	}
}

func (a *Admin) apply(ctx context.Context, inv *inventory.Inventory, i Import) (diff *Difference, err error) {
	err = pgx.BeginFunc(ctx, a.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`); err != nil {
			return err
		}
		current, err := readInventory(ctx, tx)
		if err != nil {
			return err
		}
		var w *work
		diff, w = difference(current, inv, a.host, time.Now())
		if n := len(diff.Conflicts); n > 0 {
			what := "a conflict"
			if n > 1 {
				what = fmt.Sprintf("%d conflicts", n)
			}
			return &Error{what + ": nothing was changed", diff.Conflicts[0].Hint}
		}
		if i.DryRun || w.total() == 0 {
			return nil
		}
		done := 0
		writer := &writer{a: a, tx: tx, action: "import " + i.Source, done: func(rows int) {
			if done += rows; i.Progress != nil {
				i.Progress(done, w.total())
			}
		}}
		return writer.write(ctx, w, diff, byKey(current.Objects))
	})
	return diff, err
}
