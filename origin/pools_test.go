package origin

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadPools(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a := write("a.pool", "; of alice\n\n[alice]\nuser = alice\nlisten = /run/$pool.sock\nuser = al\n")
	b := write("b.pool", "[bob]\nlisten = \"/run/b;ob.sock\" ; quoted\n[alice]\npm.status_path = /status\n")
	main := write("php-fpm.conf", "[global]\npid = /run/p\ninclude="+dir+"/*.pool\n[www]\nlisten = 9000\n")
	got, err := ReadPools(main)
	if err != nil {
		t.Fatal(err)
	}
	want := []Pool{
		{"alice", a, 3, map[string]string{"user": "al", "listen": "/run/alice.sock", "pm.status_path": "/status"}},
		{"bob", b, 1, map[string]string{"listen": "/run/b;ob.sock"}},
		{"www", main, 4, map[string]string{"listen": "9000"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, text := range []string{"include=pool.d/*.conf\n", "include=" + filepath.Join(dir, "loop.conf") + "\n", "include=/[\n"} {
		if pools, err := ReadPools(write("loop.conf", text)); err == nil {
			t.Errorf("%q: %v", text, pools)
		}
	}
}
