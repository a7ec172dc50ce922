//go:build power

package crash

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/quota"
)

// disk is an ext4 file system of its own, whose power can be cut.
type disk struct{ image, dir string }

func newDisk(t *testing.T) *disk {
	t.Helper()
	work := testDir(t)
	d := &disk{filepath.Join(work, "image"), filepath.Join(work, "disk")}
	must(t, os.Mkdir(d.dir, 0o711))
	command(t, "truncate", "-s", "1G", d.image)
	command(t, "mkfs.ext4", "-q", d.image)
	d.mount(t)
	t.Cleanup(func() { unix.Unmount(d.dir, unix.MNT_DETACH) })
	return d
}

func (d *disk) mount(t *testing.T) {
	t.Helper()
	command(t, "mount", "-o", "loop", d.image, d.dir)
	must(t, os.Chmod(d.dir, 0o711))
}

// cutPower has the file system stop at once: what was not made durable is lost,
// and all that comes now fails.
func (d *disk) cutPower(t *testing.T) {
	t.Helper()
	const (
		shutdown = 0x8004587d // EXT4_IOC_SHUTDOWN, fs/ext4/ext4.h
		noFlush  = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH
	)
	f, err := os.Open(d.dir)
	must(t, err)
	defer f.Close()
	must(t, unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noFlush))
}

// powerOn mounts what is left. All processes that used it must have ended.
func (d *disk) powerOn(t *testing.T) {
	t.Helper()
	await(t, "nobody to use the disk", func() bool { return unix.Unmount(d.dir, 0) == nil })
	d.mount(t)
}

// TestPowerCut is TestKill for a whole server whose power is cut: of what was
// written, only what was made durable is left. PostgreSQL and the journal are on
// one disk; in half of the rounds the daemon runs on the journal at that moment.
func TestPowerCut(t *testing.T) {
	seed := fromEnv(t, "CRASH_SEED", rand.Uint64()>>32)
	rounds := int(fromEnv(t, "CRASH_ROUNDS", 20))
	t.Logf("CRASH_SEED=%d CRASH_ROUNDS=%d", seed, rounds)
	d := newDisk(t)
	p := newPostgresIn(t, d.dir)
	p.start(t)
	limits := map[quota.Class]limit{quota.User: {60, 110}, quota.Mailbox: {150, 400}, quota.Domain: {700, 1300}}
	p.setLimits(t, limits)
	home := filepath.Join(d.dir, "host1")
	must(t, os.Mkdir(home, 0o711))
	h := newHostIn(t, home, "host1", p.forHosts(), map[string]string{"decision-timeout": `"500ms"`, "journal-share": "0"})
	command(t, "sync", "-f", d.dir) // the copy of the cluster, and the configuration
	k := &killer{p: p, h: h, l: newLedger(), random: rand.New(rand.NewPCG(seed, 0))}
	for round := range rounds {
		var callers []caller
		mailboxes := p.addDomain(t, fmt.Sprintf("r%d.example", round), 5)
		for i := range 8 {
			callers = append(callers, caller{mailboxes: mailboxes}, caller{uid: 3000 + round*8 + i})
		}
		began, before := time.Now(), k.l.counts
		stop := k.l.load(t, fmt.Sprintf("r%d", round), seed+uint64(round), []*host{h}, callers)
		k.l.awaitMore(t, k.random.IntN(300), accepted, refused)
		onJournal := k.chance(2)
		if onJournal {
			p.kill(t)
			h.awaitJournal(t)
			k.l.awaitMore(t, 50+k.random.IntN(300), anyAnswer...)
		}
		k.moment()
		d.cutPower(t)
		if !onJournal {
			p.kill(t)
		}
		h.kill(t)
		d.powerOn(t)
		p.start(t)
		h.start(t)
		k.l.awaitMore(t, k.random.IntN(100), accepted, refused)
		stop()
		h.awaitWell(t)
		k.l.check(t, p, limits)
		after := k.l.counts
		t.Logf("round %d: on the journal %v: %d accepted, %d refused, %d undecided, %d without an answer; %v", round, onJournal,
			after[accepted]-before[accepted], after[refused]-before[refused], after[undecided]-before[undecided], after[none]-before[none], time.Since(began).Round(time.Millisecond))
		if t.Failed() {
			t.FailNow()
		}
	}
}
