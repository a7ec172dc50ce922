package crash

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"sendmail-wrapper/pgcluster"
	"sendmail-wrapper/quota"
)

// standbyOf makes and starts a synchronous standby: no transaction of the primary
// is answered before it is on the standby's disk. The function that it returns
// promotes it.
func standbyOf(t *testing.T, primary, standby *postgres) (promote func()) {
	t.Helper()
	must(t, os.RemoveAll(standby.cluster.DataDir))
	bin, err := pgcluster.Find()
	must(t, err)
	command(t, filepath.Join(bin, "pg_basebackup"), "-h", primary.cluster.SocketDir, "-U", "postgres",
		"-D", standby.cluster.DataDir, "-R", "-X", "stream", "-c", "fast", "--no-sync")
	command(t, "chown", "-R", "postgres", standby.cluster.DataDir)
	standby.configure(t, "unix_socket_directories", standby.cluster.SocketDir)
	// Start returns once the cluster can be written to: when it is promoted.
	started := make(chan error, 1)
	go func() {
		var err error
		standby.server, err = standby.cluster.Start(context.Background())
		started <- err
	}()
	primary.execAs(t, "postgres", `ALTER SYSTEM SET synchronous_standby_names = '*'`)
	primary.execAs(t, "postgres", `SELECT pg_reload_conf()`)
	primary.awaitNumber(t, 1, `SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'`)
	return func() {
		t.Helper()
		standby.execAs(t, "postgres", `ALTER SYSTEM SET synchronous_standby_names = ''`)
		standby.execAs(t, "postgres", `SELECT pg_promote(true, 120)`)
		must(t, <-started)
	}
}

// TestPromotion kills the primary under load and promotes its standby, back and
// forth. Nothing that was answered is lost, and the daemon finds the new primary
// by itself.
func TestPromotion(t *testing.T) {
	t.Parallel()
	primary := newPostgres(t)
	standby, err := makePostgres(filepath.Join(testDir(t), "standby"))
	must(t, err)
	t.Cleanup(standby.end)
	limits := map[quota.Class]limit{quota.Mailbox: {60, 1000}, quota.Server: {900, 100000}}
	primary.setLimits(t, limits)
	var mailboxes []string
	for d := range 8 {
		mailboxes = append(mailboxes, primary.addDomain(t, fmt.Sprintf("d%d.example", d), 5)...)
	}
	h := newHost(t, "host1", fmt.Sprintf("host=%s,%s user=mailquotad dbname=mailquota target_session_attrs=read-write",
		primary.cluster.SocketDir, standby.cluster.SocketDir), map[string]string{"decision-timeout": briefly})
	h.awaitWell(t)
	var callers []caller
	for i := range 8 {
		callers = append(callers, caller{mailboxes: mailboxes}, caller{uid: 4000 + i})
	}
	l := newLedger()
	for round := range 3 {
		promote := standbyOf(t, primary, standby)
		stop := l.load(t, fmt.Sprintf("r%d", round), uint64(round), []*host{h}, callers)
		l.awaitMore(t, 150, accepted, refused)
		primary.kill(t)
		l.awaitMore(t, 30, anyAnswer...)
		promote()
		primary, standby = standby, primary
		h.awaitWell(t)
		l.awaitMore(t, 100, accepted, refused)
		stop()
		h.awaitWell(t)
		l.check(t, primary, limits)
	}
}

// TestStandbyAway: a synchronous standby is gone, so commits are done and never
// answered, and keep their locks. What was not answered in time is decided
// without the database; when the standby is back all is there once.
func TestStandbyAway(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	o := newOutage(t, p, p.forHosts(), true, nil)
	set := func(standbys string) {
		p.execAs(t, "postgres", `ALTER SYSTEM SET synchronous_standby_names = '`+standbys+`'`)
		p.execAs(t, "postgres", `SELECT pg_reload_conf()`)
	}
	waiting := func() bool {
		return p.number(t, `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`) > 0
	}
	set("nobody")
	var probes sync.WaitGroup
	for n := 0; !waiting(); n++ { // until the setting has reached all processes
		probes.Wait()
		answered := make(chan struct{})
		probes.Go(func() {
			defer close(answered)
			o.send(t, fmt.Sprintf("probe%d", n), 1)
		})
		await(t, "an answer, or a commit that waits", func() bool {
			select {
			case <-answered:
				return true
			default:
				return waiting()
			}
		})
	}
	o.send(t, "during", 300)
	probes.Wait()
	if n := o.l.count(accepted); n != 100 {
		t.Errorf("%d accepted, want 100", n)
	}
	if o.journaled(t) == 0 {
		t.Error("not on the journal")
	}
	set("")
	o.end(t, 100, int64(o.l.count(accepted, refused)))
}
