package sqlschema_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"sendmail-wrapper/sqlschema"
	"sendmail-wrapper/tests/testpg"
)

func TestPool(t *testing.T) {
	database := testpg.NewAs(t, "mailquotad")
	for _, tt := range []struct {
		name  string
		make  func(string) (*pgxpool.Pool, error)
		more  string // in the connection string
		conns int32
		want  map[string]string
	}{
		{"administrator", sqlschema.Pool, " pool_max_conns=7", 7, map[string]string{
			"application_name": "mailctl", "timezone": "UTC", "statement_timeout": "30s", "idle_in_transaction_session_timeout": "10s", "enable_seqscan": "on"}},
		{"daemon", sqlschema.DaemonPool, "", 4, map[string]string{
			"application_name": "mailquotad", "timezone": "UTC", "statement_timeout": "30s", "idle_in_transaction_session_timeout": "2s",
			"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off",
			"enable_bitmapscan": "off", "jit": "off"}},
		// What the administrator wrote into the string comes first.
		{"his own", sqlschema.DaemonPool, " application_name=mine statement_timeout=1000 pool_max_conns=2", 2, map[string]string{
			"application_name": "mine", "statement_timeout": "1s", "enable_seqscan": "off"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pool, err := tt.make(database + tt.more)
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			if n := pool.Stat().TotalConns(); n != 0 {
				t.Errorf("%d connections before the first is asked for", n)
			}
			got := map[string]string{}
			for name := range tt.want {
				var value string
				if err := pool.QueryRow(t.Context(), `SHOW `+name).Scan(&value); err != nil {
					t.Fatal(err)
				}
				got[name] = value
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
			if n := pool.Config().MaxConns; n != tt.conns {
				t.Errorf("%d connections at most, want %d", n, tt.conns)
			}
		})
	}
	if _, err := sqlschema.Pool("port=many"); err == nil || !strings.HasPrefix(err.Error(), "database: ") {
		t.Errorf("no connection string: %v", err)
	}
}

// TestPoolLeavesNobodyWaiting: a host that takes connections and says nothing,
// as one does whose network is cut, gives way to the next, also where nobody
// waits that long: who asks again later has the connection.
func TestPoolLeavesNobodyWaiting(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	host, port, _ := net.SplitHostPort(silent.Addr().String())
	database := testpg.NewAs(t, "mailquotad")
	dir, rest, _ := strings.Cut(strings.TrimPrefix(database, "host="), " ")
	pool, err := sqlschema.DaemonPool("host=" + host + "," + dir + " port=" + port + ",5432 sslmode=disable " + rest)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for err = context.DeadlineExceeded; errors.Is(err, context.DeadlineExceeded); {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		err = sqlschema.Check(ctx, pool)
		cancel()
	}
	if err != nil {
		t.Error(err)
	}
}

// TestPoolFindsThePrimary: a server that only reads, as a stand-by does, is none
// to decide with, unless the administrator says so.
func TestPoolFindsThePrimary(t *testing.T) {
	database := testpg.NewAs(t, "mailquotad")
	super := connect(t, testpg.As(database, "postgres"))
	exec1(t, super, `ALTER DATABASE `+super.Config().Database+` SET default_transaction_read_only = on`)
	for more, want := range map[string]error{"": pgconn.ErrReadOnlyConnection, " target_session_attrs=any": nil} {
		pool, err := sqlschema.Pool(database + more)
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		if err := sqlschema.Check(t.Context(), pool); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", more, err, want)
		}
	}
}
