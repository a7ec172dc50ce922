package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHostNames(t *testing.T) {
	was := mailName
	t.Cleanup(func() { mailName = was })
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{Host: "web1.example"}
	mailName = filepath.Join(t.TempDir(), "mailname")
	if diff := cmp.Diff([]string{"web1.example", host}, d.HostNames()); diff != "" {
		t.Errorf("without /etc/mailname (-want +got):\n%s", diff)
	}
	for text, want := range map[string]string{"shop.example\n": "shop.example", " shop.example ": "shop.example", "a\nb\n": "a", "": ""} {
		if err := os.WriteFile(mailName, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"web1.example", host, want}, d.HostNames()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}
