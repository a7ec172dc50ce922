package origin

import (
	"os"
	"strings"
	"testing"
)

// Links are followed where the caller may go, and nothing is told of other places.
func TestResolve(t *testing.T) {
	dir := t.TempDir()
	for d := dir; d != "/tmp" && d != "/"; d = d[:strings.LastIndexByte(d, '/')] {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir+"/web/a.php", "", 0o644, alice)
	write(t, dir+"/closed/secret.php", "", 0o644, 0)
	write(t, dir+"/hers/x.php", "", 0o600, alice)
	write(t, dir+"/deep/inner/x", "", 0o644, alice)
	write(t, dir+"/deep/c.php", "", 0o644, alice)
	links := map[string]string{
		"file":            dir + "/web/a.php",
		"dir":             "web",
		"up":              "../" + dir[strings.LastIndexByte(dir, '/')+1:] + "/web",
		"two":             "dir/a.php",
		"odd":             "web/../web/a.php",
		"loop":            "loop",
		"to-closed":       "closed/secret.php",
		"to-hers":         "hers/x.php",
		"nowhere":         "none/x.php",
		"proc":            "/proc/self/exe",
		"closed/out":      dir + "/web/a.php",
		"through-closed":  "closed/out",
		"deep0":           "web/a.php",
		"hers/back.php":   "../web/a.php",
		"web/relative.ph": "a.php",
		"inner":           "deep/inner",
		"climbing":        "inner/../../web/a.php",
	}
	for name, target := range links {
		if err := os.Symlink(target, dir+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]os.FileMode{"closed": 0o700, "hers": 0o700} {
		if err := os.Chmod(dir+"/"+name, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(dir+"/hers", alice, alice); err != nil {
		t.Fatal(err)
	}
	self := openProcess(os.Getpid())
	defer self.close()
	tests := []struct {
		uid        uint32
		path, want string
	}{
		{alice, "web/a.php", "web/a.php"},
		{alice, "web/./../web//a.php", "web/a.php"},
		{alice, "file", "web/a.php"},
		{alice, "dir/a.php", "web/a.php"},
		{alice, "up/a.php", "web/a.php"},
		{alice, "two", "web/a.php"},
		{alice, "web/relative.ph", "web/a.php"},
		{alice, "odd", "web/a.php"},
		// ".." is the parent of where a link leads.
		{alice, "inner/../../web/a.php", "web/a.php"},
		{alice, "inner/../c.php", "deep/c.php"},
		{alice, "climbing", "web/a.php"},
		{alice, "dir/../web/a.php", "web/a.php"},
		{alice, "closed/../web/a.php", ""}, // she cannot go there
		{alice, "none/../web/a.php", ""},
		{alice, "web/a.php/../a.php", ""},
		{alice, "loop", "loop"},
		{alice, "none", "none"},
		{alice, "nowhere", "nowhere"},
		{alice, "proc", "proc"}, // other for each reader
		{alice, "to-closed", "to-closed"},
		{alice, "through-closed", "through-closed"},
		{alice, "closed/out", "closed/out"},
		{0, "closed/out", "web/a.php"},
		{alice, "to-hers", "hers/x.php"},
		{alice, "hers/back.php", "web/a.php"},
		{bob, "to-hers", "to-hers"},
		{bob, "hers/back.php", "hers/back.php"},
		{1000005, "to-hers", "hers/x.php"}, // a subordinate uid of hers
	}
	users := &userTable{ranges: []uidRange{{alice, 1000000, 65536}}}
	for _, test := range tests {
		c := call{users: users, origin: Origin{UID: users.owner(test.uid)}}
		want := dir + "/" + test.want
		if test.want == "" {
			want = ""
		}
		if got := c.resolve(self, dir+"/"+test.path); got != want {
			t.Errorf("resolve(%s) of %d = %q, want %q", test.path, test.uid, got, want)
		}
	}
	c := call{users: users}
	for _, path := range []string{"relative/x", "/", ""} {
		if got := c.resolve(self, path); got != path {
			t.Errorf("resolve(%q) = %q", path, got)
		}
	}
}
