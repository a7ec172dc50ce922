package sqlschema

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sys/unix"
)

// session are settings of every connection. The time-outs bound how long a
// report keeps a snapshot open: dead counters stay as long as it does, and slow
// down all mail (docs/performance.md).
var session = map[string]string{
	"application_name":                    "mailctl",
	"timezone":                            "UTC",
	"statement_timeout":                   "30s",
	"idle_in_transaction_session_timeout": "10s",
	"jit":                                 "off", // it compiles longer than any query here runs
}

// daemonSession are the settings for decisions. They take a few rows by key from
// tables of any size, always: so one plan for ever, by index, in the order of
// the keys. Left to itself the planner reads a small table as a whole and sorts
// it, and plans anew when it has grown.
//
// A daemon that stops in the middle of a transaction, with its whole host or
// with the network, holds the server's row, for which all other hosts wait: not
// longer than the time-out. That of a statement is longer than the daemon itself
// waits: it would end a COMMIT that waits for a synchronous stand-by, and call it
// done (SyncRepWaitForLSN, syncrep.c), whereas who stops waiting gets no answer.
var daemonSession = map[string]string{
	"application_name":                    "mailquotad",
	"idle_in_transaction_session_timeout": "2s",
	"plan_cache_mode":                     "force_generic_plan",
	"enable_seqscan":                      "off",
	"enable_hashjoin":                     "off",
	"enable_mergejoin":                    "off",
	"enable_bitmapscan":                   "off",
}

// customerSession are the settings for questions of ordinary users. The server
// ends what takes too long, also where nobody waits for it any more.
var customerSession = map[string]string{
	"application_name":  "mailquotad for users",
	"statement_timeout": "10s",
}

// CustomerConns is the most connections for questions of ordinary users.
const CustomerConns = 4

// daemonConns is the most connections of a daemon: one decides, the others are
// for users who ask for their usage, and for partitions.
const daemonConns = 4

// connectTimeout bounds the try to connect to one host. Of several, the next has
// its turn then.
const connectTimeout = 3 * time.Second

// Pool returns connections for an administrator. It makes none yet, so it fails
// only if the connection string is none. What the string says comes before what
// this package would set. Where it names several hosts, the one is taken that
// can be written to.
func Pool(connString string) (*pgxpool.Pool, error) { return newPool(connString, nil, 0) }

// DaemonPool is Pool for a daemon that decides.
func DaemonPool(connString string) (*pgxpool.Pool, error) {
	return newPool(connString, daemonSession, daemonConns)
}

// CustomerPool is Pool for what a daemon asks on behalf of ordinary users, apart from
// its decisions.
func CustomerPool(connString string) (*pgxpool.Pool, error) {
	return newPool(connString, customerSession, CustomerConns)
}

func newPool(connString string, more map[string]string, maxConns int32) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(connString)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	settings := maps.Clone(session)
	maps.Copy(settings, more)
	for key, value := range settings {
		if _, set := config.ConnConfig.RuntimeParams[key]; !set {
			config.ConnConfig.RuntimeParams[key] = value
		}
	}
	if maxConns > 0 && !strings.Contains(connString, "pool_max_conns") {
		config.MaxConns = maxConns
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	if !strings.Contains(connString, "target_session_attrs") && os.Getenv("PGTARGETSESSIONATTRS") == "" {
		config.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	config.ConnConfig.DialFunc = dialer.DialContext
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	return pool, nil
}

// dialer notices after some 15 seconds that nobody is at the other end any more,
// whether it waits for an answer (keep-alive) or for a receipt
// (TCP_USER_TIMEOUT, tcp(7)); the kernel alone takes hours, or 15 minutes.
var dialer = net.Dialer{
	KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 2},
	Control: func(network, _ string, c syscall.RawConn) (err error) {
		if !strings.HasPrefix(network, "tcp") {
			return nil
		}
		const ms = 15000
		if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, ms) }); e != nil {
			return e
		}
		return err
	},
}

// Check connects, and tells whether the schema is the one that this program works
// with. The error is a *VersionError if it is another.
func Check(ctx context.Context, pool *pgxpool.Pool) error {
	have, err := Version(ctx, pool)
	if want := Latest(); err == nil && have != want {
		err = &VersionError{have, want}
	}
	return err
}

// Open is Pool and Check.
func Open(ctx context.Context, connString string) (*pgxpool.Pool, error) {
	pool, err := Pool(connString)
	if err != nil {
		return nil, err
	}
	if err := Check(ctx, pool); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}
