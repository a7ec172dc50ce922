package origin

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, path, text string, mode os.FileMode, uid int) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), mode)
	}
	if err == nil {
		err = os.Chmod(path, mode)
	}
	if err == nil {
		err = os.Chown(path, uid, uid)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Jobs are steady only for a time at which no file had been changed for a while.
func TestJobsOf(t *testing.T) {
	root := t.TempDir()
	own := root + "/var/spool/cron/crontabs/alice"
	write(t, own, "@daily a\n", 0o600, alice)
	write(t, root+"/etc/crontab", "@daily alice b\n@daily bob c\n", 0o644, 0)
	write(t, root+"/etc/cron.d/open", "@daily alice open\n", 0o666, 0)
	write(t, root+"/etc/cron.d/foreign", "@daily alice foreign\n", 0o644, bob)
	write(t, root+"/etc/cron.d/.hidden", "@daily alice hidden\n", 0o644, 0)
	edited := root + "/etc/cron.d/edited"
	write(t, edited, "# nothing\n", 0o644, 0)
	write(t, root+"/var/spool/cron/crontabs/mallory", "@daily m\n", 0o600, bob)
	later, earlier := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	c := crontabs{root: root}
	commands := func(user string, uid uint32, since time.Time) ([]string, bool) {
		var list []string
		jobs, steady := c.jobsOf(user, uid, since)
		for _, job := range jobs {
			list = append(list, job.command)
		}
		return list, steady
	}
	tests := []struct {
		user   string
		uid    uint32
		since  time.Time
		want   []string
		steady bool
	}{
		{"alice", alice, later, []string{"a", "b"}, true},
		{"alice", alice, earlier, []string{"a", "b"}, false},
		{"alice", alice, time.Now(), []string{"a", "b"}, false},
		{"bob", bob, later, []string{"c"}, true},
		{"carol", 1, later, nil, true},
		{"mallory", 7, later, nil, false}, // not his file
		{"../alice", alice, later, nil, false},
		{"", alice, later, nil, false},
	}
	for _, test := range tests {
		got, steady := commands(test.user, test.uid, test.since)
		if !slices.Equal(got, test.want) || steady != test.steady {
			t.Errorf("jobsOf(%q, %v) = %q, %v, want %q, %v", test.user, test.since, got, steady, test.want, test.steady)
		}
	}
	// A file edited in place may have had a job of anybody. Its directory stays as it was.
	changed := func(path string) time.Time {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return changeTime(st)
	}
	newest := changed(filepath.Dir(edited))
	for !changed(edited).After(newest) {
		if err := os.Chmod(edited, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, steady := commands("alice", alice, changed(edited).Add(crontabSlack)); steady {
		t.Error("jobs are steady where a file without one of hers has changed")
	}
	// A file that is new is seen, once the kernel's clock for files has moved on.
	added := filepath.Dir(edited) + "/added"
	for same := changed(filepath.Dir(edited)); changed(filepath.Dir(edited)).Equal(same); {
		os.Remove(added)
		write(t, added, "@daily alice d\n", 0o644, 0)
	}
	if got, _ := commands("alice", alice, later); !slices.Contains(got, "d") {
		t.Errorf("jobs with a file that is new: %q", got)
	}
	if err := os.Remove(added); err != nil {
		t.Fatal(err)
	}
	// A crontab put in the place of another is read again.
	write(t, own+".new", "@daily z\n", 0o600, alice)
	if err := os.Rename(own+".new", own); err != nil {
		t.Fatal(err)
	}
	if got, _ := commands("alice", alice, later); len(got) < 2 || got[0] != "z" || got[1] != "b" {
		t.Errorf("jobs of a replaced crontab: %q", got)
	}
	if _, steady := (&crontabs{root: root + "/none"}).jobsOf("alice", alice, later); steady {
		t.Error("jobs are steady on a host without crontabs")
	}
}

// A configuration counts only if nobody but root can have written it.
func TestFPMPools(t *testing.T) {
	root := t.TempDir()
	conf, pool := root+"/fpm/fpm.conf", root+"/fpm/pool.d/a.conf"
	write(t, conf, "include="+root+"/fpm/pool.d/*.conf\n", 0o644, 0)
	write(t, pool, "[a]\nuser=alice\n", 0o600, 0)
	want := []fpmPool{{name: "a", user: "alice"}}
	read := func() []fpmPool { return new(fpmConfigs).master(conf).pools }
	same := cmp.AllowUnexported(fpmPool{})
	if diff := cmp.Diff(want, read(), same); diff != "" {
		t.Fatalf("pools (-want +got):\n%s", diff)
	}
	// undone is of the change before, and pools is read after both.
	check := func(what string, undone, changed error, pools []fpmPool) {
		t.Helper()
		if undone != nil || changed != nil {
			t.Fatal(undone, changed)
		}
		if pools != nil {
			t.Errorf("%s: pools %v are believed", what, pools)
		}
	}
	dir := filepath.Dir(pool)
	check("file of another", nil, os.Chown(pool, alice, 0), read())
	check("file written by a group", os.Chown(pool, 0, 0), os.Chmod(pool, 0o664), read())
	check("directory of another", os.Chmod(pool, 0o644), os.Chown(dir, alice, 0), read())
	check("directory written by all, sticky", os.Chown(dir, 0, 0), os.Chmod(dir, 0o777|os.ModeSticky), read())
	check("directory above it of a group", os.Chmod(dir, 0o755), os.Chmod(root+"/fpm", 0o775), read())
	check("symbolic link", os.Chmod(root+"/fpm", 0o755), os.Symlink(pool, dir+"/b.conf"), read())
	if err := os.Remove(dir + "/b.conf"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, read(), same); diff != "" {
		t.Errorf("pools after all (-want +got):\n%s", diff)
	}
	if got := new(fpmConfigs).master("fpm.conf").pools; got != nil {
		t.Errorf("pools of a relative path: %v", got)
	}
	// What was read is kept, and read again when a file has come or changed.
	kept := new(fpmConfigs)
	kept.master(conf)
	write(t, dir+"/c.conf", "[c]\nuser=bob\n", 0o644, 0)
	if got := kept.master(conf).pools; len(got) != 1 {
		t.Errorf("a configuration is read at each call: %v", got)
	}
	kept.checked[conf] = time.Now().Add(-time.Minute)
	if got := kept.master(conf).pools; len(got) != 2 {
		t.Errorf("a changed configuration is not read again: %v", got)
	}
}

// Pools are found by the user that passwd names, of this moment.
func TestFPMOwners(t *testing.T) {
	conf := t.TempDir() + "/fpm.conf"
	write(t, conf, "[a]\nuser=alice\n[b]\nuser=54321\n[c]\nuser=bob\n[d]\nuser=carol\n[e]\n", 0o644, 0)
	m := new(fpmConfigs).master(conf)
	names := func(pools []*fpmPool) string {
		var list []string
		for _, p := range pools {
			list = append(list, p.name)
		}
		slices.Sort(list)
		return strings.Join(list, " ")
	}
	before := &userTable{uids: map[string]uint32{"alice": alice, "bob": bob}}
	after := &userTable{uids: map[string]uint32{"alice": bob, "bob": bob, "carol": alice}}
	for range 2 {
		for _, test := range []struct {
			users         *userTable
			uid           uint32
			mine, unknown string
		}{
			{before, alice, "a b", "d e"},
			{before, bob, "c", "d e"},
			{before, 5, "", "d e"},
			{after, alice, "b d", "e"},
			{after, bob, "a c", "e"},
		} {
			mine, unknown := m.ownedBy(test.uid, test.users)
			if names(mine) != test.mine || names(unknown) != test.unknown {
				t.Errorf("pools of %d: %q, unknown %q, want %q, %q", test.uid, names(mine), names(unknown), test.mine, test.unknown)
			}
		}
	}
}

// What passwd and subuid say is read again when they change.
func TestUsers(t *testing.T) {
	root := t.TempDir()
	u := users{passwd: root + "/passwd", subuid: root + "/subuid"}
	if got := u.current().name(alice); got != "#54321" {
		t.Errorf("name without passwd is %q", got)
	}
	write(t, u.passwd, "alice:x:54321:1::/:/\nlodger:x:100007:1::/:/\n", 0o644, 0)
	write(t, u.subuid, "alice:100000:10\n", 0o644, 0)
	table := u.current()
	for uid, want := range map[uint32]uint32{alice: alice, 99999: 99999, 100000: alice, 100009: alice, 100010: 100010, 100007: 100007, 0: 0} {
		if got := table.owner(uid); got != want {
			t.Errorf("owner(%d) = %d, want %d", uid, got, want)
		}
	}
	if table.name(alice) != "alice" || u.current() != table {
		t.Error("unchanged files are read again, or alice has no name")
	}
	write(t, u.subuid, "alice:100000:100\n", 0o644, 0)
	if got := u.current().owner(100010); got != alice {
		t.Errorf("owner(100010) = %d after a change", got)
	}
}
