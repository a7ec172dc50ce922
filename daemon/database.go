package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/config"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/sqlschema"
)

// database is a database that was reached once; its pool reconnects by itself.
type database struct {
	pool  *pgxpool.Pool
	store *quota.Store
	queue *quota.Queue
}

// maxBatch is the most messages of one transaction. Beyond it a batch takes
// longer without deciding more a second.
const maxBatch = 256

func openDatabase(ctx context.Context, c *config.Daemon) (*database, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	pool, err := sqlschema.Open(ctx, c.Database)
	if err != nil {
		return nil, err
	}
	store := quota.NewStore(pool, c.Host, c.FirstUserUID)
	return &database{pool: pool, store: store, queue: quota.NewQueue(store, maxBatch)}, nil
}

func (d *database) close() {
	d.queue.Close()
	d.pool.Close()
}

// Waits between two tries to reach the database.
const (
	firstWait = 100 * time.Millisecond
	lastWait  = 5 * time.Second
)

// keepDatabase tries until the database is reached, and looks after it once an
// hour. It closes tried after the first try.
func (s *Server) keepDatabase(ctx context.Context, tried chan<- struct{}) {
	wait := firstWait
	for first := true; s.database.Load() == nil; first = false {
		d, err := openDatabase(ctx, s.config())
		if err == nil {
			s.database.Store(d)
			s.trouble.Store(nil)
			s.log().Info().Msg("database reached")
		} else if text := err.Error(); ctx.Err() == nil {
			if last := s.trouble.Swap(&text); last == nil || *last != text {
				s.log().Error().Err(err).Msg("database not reached: no mail is counted; trying on")
			}
		}
		if first {
			close(tried)
		}
		if err != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
				wait = min(2*wait, lastWait)
			}
		}
	}
	hourly := time.NewTicker(time.Hour)
	defer hourly.Stop()
	for {
		// To drop an old partition can fail beside a long report; there is
		// another hour.
		if err := s.database.Load().store.Maintain(ctx, s.config().RetentionDays); err != nil && ctx.Err() == nil {
			s.log().Warn().Err(err).Msg("partitions of the messages are not in order yet")
		}
		select {
		case <-ctx.Done():
			return
		case <-hourly.C:
		}
	}
}

// unreached says why there is no database, for a caller.
func (s *Server) unreached() string {
	if s.trouble.Load() != nil {
		return "mailquotad has no database"
	}
	return "mailquotad is starting"
}

// databaseState is "ok", or what is wrong.
func (s *Server) databaseState(ctx context.Context) (state string, schema int) {
	d := s.database.Load()
	if d == nil {
		if text := s.trouble.Load(); text != nil {
			return *text, 0
		}
		return "not reached yet", 0
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	schema, err := sqlschema.Version(ctx, d.pool)
	if err != nil {
		return fmt.Sprint(err), 0
	}
	return "ok", schema
}
