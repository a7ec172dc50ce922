package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

// TestTrouble: the database runs, but decides nothing. That is an outage like
// any other: exactly 50 of 300 attempts pass, and are counted afterwards.
func TestTrouble(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		begin, end func(*testing.T, *outage)
	}{
		{"a lock is held", nil, nil},
		{"a session of an administrator ends all others", func(t *testing.T, o *outage) {
			o.p.execAs(t, "postgres", `ALTER ROLE mailquotad NOLOGIN`)
			o.p.execAs(t, "postgres", endDaemons)
		}, func(t *testing.T, o *outage) { o.p.execAs(t, "postgres", `ALTER ROLE mailquotad LOGIN`) }},
		{"too many connections", func(t *testing.T, o *outage) {
			o.p.execAs(t, "postgres", `ALTER ROLE mailquotad CONNECTION LIMIT 0`)
			o.p.execAs(t, "postgres", endDaemons)
		}, func(t *testing.T, o *outage) { o.p.execAs(t, "postgres", `ALTER ROLE mailquotad CONNECTION LIMIT -1`) }},
		{"read-only", func(t *testing.T, o *outage) { o.p.setReadOnly(t, "on") }, func(t *testing.T, o *outage) { o.p.setReadOnly(t, "off") }},
		{"a table is gone for a while", func(t *testing.T, o *outage) { o.p.exec(t, `ALTER TABLE usage RENAME TO usage_away`) },
			func(t *testing.T, o *outage) { o.p.exec(t, `ALTER TABLE usage_away RENAME TO usage`) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPostgres(t)
			o := newOutage(t, p, p.forHosts(), true, nil)
			if c.begin == nil {
				release := p.holdLock(t, `id = 6::bigint << 40`)
				c.begin, c.end = func(*testing.T, *outage) {}, func(*testing.T, *outage) { release() }
			}
			c.begin(t, o)
			if n := o.send(t, "during", 300); n != 50 {
				t.Errorf("%d accepted in the outage, want 50", n)
			}
			if s, err := o.h.status(); err != nil || s.Journal.Messages == 0 {
				t.Errorf("not on the journal: %+v, %v", s, err)
			}
			c.end(t, o)
			o.end(t, 100, 350)
		})
	}
}

// endDaemons ends the connections of the daemons.
const endDaemons = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mailquotad'`

// setReadOnly has all transactions be as on a standby, also of connections that
// are there.
func (p *postgres) setReadOnly(t *testing.T, value string) {
	t.Helper()
	p.execAs(t, "postgres", `ALTER SYSTEM SET default_transaction_read_only = `+value)
	p.execAs(t, "postgres", `SELECT pg_reload_conf()`)
	p.awaitNumber(t, map[string]int64{"on": 1, "off": 0}[value], `SELECT (current_setting('default_transaction_read_only') = 'on')::int`)
}

// TestDiskFull: PostgreSQL's disk is full. At first a table cannot grow (error
// 53100), and at last there is no room for the log, which ends PostgreSQL.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	p := newStoppedPostgres(t)
	disk := p.cluster.DataDir
	must(t, os.Rename(disk, disk+".moved"))
	smallDisk(t, disk, "160m")
	command(t, "cp", "-a", disk+".moved/.", disk)
	p.start(t)
	o := newOutage(t, p, p.forHosts(), true, nil)
	filler := filepath.Join(disk, "filler")
	rows := int64(50)

	fill(t, filler)
	granted := 0
	for n := 0; o.journaled(t) == 0; n++ { // until what the tables had free is full, too
		granted += o.send(t, fmt.Sprintf("tables%d", n), 200)
		rows += 200
	}
	if !strings.Contains(o.h.log(), "53100") {
		t.Error("PostgreSQL did not say that its disk is full")
	}
	if granted != 50 {
		t.Errorf("%d accepted, want 50", granted)
	}
	must(t, os.Remove(filler))
	o.end(t, 100, rows)

	second := p.addDomain(t, "b.example", 1)[0]
	o.l.sendAll(t, o.h, "second", second, 50, 8)
	fill(t, filler)
	await(t, "PostgreSQL to end", func() bool { return p.wasteLog(t) != nil })
	if n := o.l.sendAll(t, o.h, "log", second, 300, 8); n != 50 {
		t.Errorf("%d of the second mailbox accepted without a database, want 50", n)
	}
	if o.journaled(t) == 0 {
		t.Error("not on the journal")
	}
	must(t, os.Remove(filler))
	p.end() // if it has not ended by itself
	p.start(t)
	o.end(t, 200, rows+350)
}

// smallDisk makes a directory with a disk of its own.
func smallDisk(t *testing.T, dir, size string) {
	t.Helper()
	must(t, os.Mkdir(dir, 0o700))
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size+",mode=0700"))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// TestDiskOfJournalFull: what cannot be kept is not accepted, and it goes on
// when there is room again.
func TestDiskOfJournalFull(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	disk := filepath.Join(testDir(t), "disk")
	smallDisk(t, disk, "4m")
	o := newOutage(t, p, p.forHosts(), true, map[string]string{"journal": quoted(filepath.Join(disk, "journal"))})
	filler := filepath.Join(disk, "filler")
	fill(t, filler)
	p.stop(t)
	granted := 0
	for n := 0; o.l.count(undecided) == 0; n++ { // until what the file had free is full, too
		granted += o.send(t, fmt.Sprintf("full%d", n), 50)
	}
	must(t, os.Remove(filler))
	if granted += o.send(t, "room", 300); granted != 50 {
		t.Errorf("%d accepted in the outage, want 50", granted)
	}
	o.h.kill(t)
	fill(t, filler)
	o.h.start(t)
	if n := o.send(t, "again", 10); n != 0 {
		t.Errorf("%d more accepted", n)
	}
	must(t, os.Remove(filler))
	p.start(t)
	o.end(t, 100, int64(o.l.count(accepted, refused)))
}

// journaled is how many decisions are in the journal.
func (o *outage) journaled(t *testing.T) int {
	t.Helper()
	s, err := o.h.status()
	must(t, err)
	return s.Journal.Messages
}

// wasteLog begins a new file of the log.
func (p *postgres) wasteLog(t *testing.T) error {
	conn, err := pgx.Connect(t.Context(), p.as("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), `SELECT pg_switch_wal(), txid_current()`)
	return err
}

// fill makes a file that leaves nothing free.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for _, size := range []int{1 << 20, 1 << 12} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}
