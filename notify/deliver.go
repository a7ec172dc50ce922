package notify

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"sendmail-wrapper/config"
	"sendmail-wrapper/quota"
)

// Deliverer tells people of events. Its fields are set before Run.
type Deliverer struct {
	Pool   *pgxpool.Pool
	Store  *quota.Store
	Config *config.Daemon
	Log    zerolog.Logger
	Check  func(ctx context.Context) error // whether the database has the schema of this program
	// Sendmail is asked for each mail, since the wrapper may have come meanwhile: the
	// path of the real one, by which nothing is counted, and the sender of the
	// envelope as its option -f has it: "<>", unless it knows no null sender.
	Sendmail func() (path, sender string, err error)

	digested time.Time // end of the time of the last digest that was looked at
}

// leaderLock is held by the connection of the deliverer that is the one.
const leaderLock = 7305419260000004

// Run delivers until ctx ends, as long as no other deliverer does.
func (d *Deliverer) Run(ctx context.Context) {
	complained := ""
	for ctx.Err() == nil {
		led, err := d.lead(ctx)
		if ctx.Err() != nil {
			return
		}
		if text := fmt.Sprint(err); led || text != complained {
			d.Log.Warn().Err(err).Msg("no notifications are delivered for now")
			complained = text
		}
		select {
		case <-ctx.Done():
		case <-time.After(wakeful / 3):
		}
	}
}

// lead waits until no other deliverer is there, and delivers until its connection
// breaks. It tells whether it came to that.
func (d *Deliverer) lead(ctx context.Context) (led bool, err error) {
	if err := d.Check(ctx); err != nil {
		return false, err
	}
	conn, err := pgx.ConnectConfig(ctx, d.Pool.Config().ConnConfig.Copy())
	if err != nil {
		return false, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		var first bool
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, int64(leaderLock)).Scan(&first); err != nil {
			return false, fmt.Errorf("ask for the place of the deliverer: %w", err)
		}
		if first {
			break
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-time.After(wakeful):
		}
	}
	if _, err := conn.Exec(ctx, `LISTEN `+pgChannel); err != nil {
		return false, fmt.Errorf("listen for events: %w", err)
	}
	d.Log.Info().Str("host", d.Config.Host).Msg("this host delivers the notifications")
	return true, d.serve(ctx, conn)
}

// serve makes notices, and has a worker a channel deliver them, so that a web
// server that does not answer holds up no mail.
func (d *Deliverer) serve(ctx context.Context, conn *pgx.Conn) error {
	ctx, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	defer workers.Wait()
	defer stop()
	var wake []chan struct{}
	for _, channel := range Channels {
		w := make(chan struct{}, 1)
		wake = append(wake, w)
		workers.Go(func() { d.work(ctx, channel, w) })
	}
	for {
		if err := d.pass(ctx); err != nil {
			return err
		}
		for _, w := range wake {
			select {
			case w <- struct{}{}:
			default: // it will look
			}
		}
		if err := waitForEvent(ctx, conn); err != nil {
			return err
		}
	}
}

// waitForEvent returns when an event came, or it is time to look at the clock.
func waitForEvent(ctx context.Context, conn *pgx.Conn) error {
	bounded, cancel := context.WithTimeout(ctx, wakeful)
	defer cancel()
	_, err := conn.WaitForNotification(bounded)
	if err != nil && (ctx.Err() != nil || !pgconn.Timeout(err)) {
		return err
	}
	return nil
}

// pass does what is to be done in the database. One that waits too long is cut off.
func (d *Deliverer) pass(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	return errors.Join(d.makeNotices(ctx), d.closeEvents(ctx), d.makeDigest(ctx))
}

// notice is a row of table notice that is being delivered.
type notice struct {
	id      int64
	eventID *int64
	since   *time.Time // of a digest, to period
	period  *time.Time
	madeAt  time.Time
	tries   int
	channel string
	target  string
}

// lease is longer than any delivery takes, so that nobody else begins the same.
const lease = 5 * time.Minute

// work delivers the notices of a channel as they come due.
func (d *Deliverer) work(ctx context.Context, channel string, wake <-chan struct{}) {
	for {
		sleep := wakeful
		for ctx.Err() == nil {
			n, err := d.claim(ctx, channel)
			if err == nil && n == nil {
				sleep, err = d.untilDue(ctx, channel)
			}
			if err != nil && ctx.Err() == nil {
				d.Log.Warn().Err(err).Str("channel", channel).Msg("cannot take a notice")
			}
			if err != nil || n == nil {
				break
			}
			d.deliver(ctx, n)
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-time.After(sleep):
		}
	}
}

// claim takes the next notice that is due; nil if there is none.
func (d *Deliverer) claim(ctx context.Context, channel string) (*notice, error) {
	n := notice{channel: channel}
	err := d.Pool.QueryRow(ctx, `UPDATE notice SET due_at = now() + $2::interval WHERE id = (
  SELECT id FROM notice WHERE sent_at IS NULL AND due_at <= now() AND channel = $1 ORDER BY due_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, event_id, since, period, made_at, tries, target`, channel, lease).Scan(&n.id, &n.eventID, &n.since, &n.period, &n.madeAt, &n.tries, &n.target)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return &n, err
}

// untilDue is how long to sleep until the next notice is due.
func (d *Deliverer) untilDue(ctx context.Context, channel string) (sleep time.Duration, err error) {
	err = d.Pool.QueryRow(ctx, `SELECT least(min(due_at) - now(), $2::interval) FROM notice WHERE sent_at IS NULL AND due_at < 'infinity' AND channel = $1`,
		channel, wakeful).Scan(&sleep)
	if err != nil {
		return wakeful, err
	}
	return max(sleep, 100*time.Millisecond), nil // somebody else may have just that row
}

// errNotBooked says that the row of an event's message is still to come: from the
// journal, after an outage.
var errNotBooked = errors.New("its message is not booked yet")

// bookTime is how long a notice waits for the row of its message.
const bookTime = 2 * time.Minute

// deliver delivers a notice, and notes what became of it. What has begun is
// brought to its end: each channel has its bound.
func (d *Deliverer) deliver(ctx context.Context, n *notice) {
	ctx = context.WithoutCancel(ctx)
	told, err := d.content(ctx, n)
	if err == nil {
		err = d.send(ctx, n.channel, n.target, told)
	}
	log := func(e *zerolog.Event) *zerolog.Event {
		return e.Int64("notice", n.id).Str("channel", n.channel).Str("target", n.target)
	}
	switch {
	case err == nil:
		err = d.note(ctx, `UPDATE notice SET sent_at = now(), error = NULL WHERE id = $1`, n.id)
		log(d.Log.Info()).AnErr("not_noted", err).Msg("notification delivered")
	case errors.Is(err, errNotBooked):
		if err := d.note(ctx, `UPDATE notice SET due_at = now() + $2::interval WHERE id = $1`, n.id, wakeful/6); err != nil {
			d.Log.Warn().Err(err).Msg("cannot put off a notice")
		}
	default:
		wait, again := retry(n.tries, time.Since(n.madeAt))
		log(d.Log.Warn()).Err(err).Int("tries", n.tries+1).Bool("given_up", !again).Msg("notification not delivered")
		err := d.note(ctx, `UPDATE notice SET tries = tries + 1, error = left($2, 500),
 due_at = CASE WHEN $3 THEN now() + $4::interval ELSE 'infinity' END WHERE id = $1`, n.id, printable(err.Error()), again, wait)
		if err != nil {
			d.Log.Warn().Err(err).Msg("cannot note that a notification was not delivered")
		}
	}
}

func (d *Deliverer) note(ctx context.Context, sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, writeBound)
	defer cancel()
	_, err := d.Pool.Exec(ctx, sql, args...)
	return err
}

// waits are those between tries, the last one again and again, until a day is over.
var waits = []time.Duration{30 * time.Second, 2 * time.Minute, 10 * time.Minute, time.Hour, 6 * time.Hour}

// retry says how long to wait before the next try of a notice that failed so many
// times before, and whether there is one.
func retry(tries int, age time.Duration) (wait time.Duration, again bool) {
	wait = waits[min(tries, len(waits)-1)]
	return wait, age+wait <= 24*time.Hour
}

// send delivers one content by one channel.
func (d *Deliverer) send(ctx context.Context, channel, target string, told *Told) error {
	switch channel {
	case Webhook:
		return d.post(ctx, target, told)
	case Hook:
		return runHook(ctx, target, told)
	}
	subject, body, err := d.render(channel, told)
	if err != nil {
		return err
	}
	return d.mail(ctx, &letter{to: target, subject: subject, body: body, id: told.ID})
}

// messageID is the same at each try.
func (n *notice) messageID() string {
	return fmt.Sprintf("notice-%d.%d", n.id, n.madeAt.Unix())
}
