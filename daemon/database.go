package daemon

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"sendmail-wrapper/config"
	"sendmail-wrapper/notify"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
	"sendmail-wrapper/sqlschema"
)

// database is where messages are decided. It need not be there.
type database struct {
	pool  *pgxpool.Pool
	store *quota.Store
	queue *quota.Queue

	recorder *notify.Recorder

	customers *pgxpool.Pool // for questions of ordinary users
	theirs    *quota.Store  // on it
}

// maxBatch is the most messages of one transaction. Beyond it a batch takes
// longer without deciding more a second.
const maxBatch = 256

func openDatabase(c *config.Daemon, log func() *zerolog.Logger) (*database, error) {
	pool, err := sqlschema.DaemonPool(c.Database)
	if err != nil {
		return nil, err
	}
	customers, err := sqlschema.CustomerPool(c.Database)
	if err != nil {
		pool.Close()
		return nil, err
	}
	settings := quota.Settings{
		MaxBatch: maxBatch, Timeout: time.Duration(c.DecisionTimeout),
		Journal: c.Journal, ByJournal: c.OnDatabaseDown == "journal", JournalLimit: c.JournalLimit, JournalShare: c.JournalShare,
		Check: func(ctx context.Context) error { return sqlschema.Check(ctx, pool) },
	}
	store := quota.NewStore(pool, c.Host, c.FirstUserUID)
	queue, err := quota.NewQueue(store, settings, log)
	if err != nil {
		pool.Close()
		customers.Close()
		return nil, err
	}
	store.SetWarnPercent(c.NotifyWarn)
	store.SetHostNames(c.HostNames()...)
	return &database{pool: pool, store: store, queue: queue, recorder: notify.NewRecorder(pool, store, log),
		customers: customers, theirs: quota.NewStore(customers, c.Host, c.FirstUserUID)}, nil
}

func (d *database) close() {
	d.queue.Close()
	d.pool.Close()
	d.customers.Close()
}

// lookAfter looks after the database once a minute while it is there, until ctx
// ends; at first as soon as it is.
func (s *Server) lookAfter(ctx context.Context) {
	var maintained time.Time
	complain := func(err error, what string) {
		if err != nil && ctx.Err() == nil {
			s.log().Warn().Err(err).Msg(what)
		}
	}
	wait := 100 * time.Millisecond
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if s.database.queue.State().Trouble != "" {
			continue
		}
		wait = time.Minute
		store := s.database.store
		complain(store.Heartbeat(ctx), "the database does not know that this host is there")
		complain(store.Refresh(ctx), "limits are not known as they are now, for a time without the database")
		complain(report.RollUp(ctx, s.database.pool), "messages are not summed up yet")
		if time.Since(maintained) >= time.Hour {
			complain(store.Maintain(ctx, s.config().RetentionDays, s.config().DetailsDays), "partitions of the messages are not in order yet")
			complain(report.DropSums(ctx, s.database.pool, s.config().SumsMonths), "old sums are not dropped yet")
			complain(store.Acquaint(ctx), "users and mailboxes are not known, for a time without the database")
			maintained = time.Now()
		}
	}
}
