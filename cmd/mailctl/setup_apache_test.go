package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sendmail-wrapper/config"
)

// TestApacheOrder: whenever Apache may be started, the link that makes it read our
// file has a file behind it; and no directory with a password is served.
func TestApacheOrder(t *testing.T) {
	dir := t.TempDir()
	layout := apacheLayout{conf: filepath.Join(dir, "conf-available", apacheConf), enabled: filepath.Join(dir, "conf-enabled", apacheConf), modules: "/usr/lib/apache2/modules", unit: "none.service"}
	layout.control = filepath.Join(dir, "control")
	for _, name := range []string{"conf-available", "conf-enabled", "etc"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(layout.control, []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	a := &app{configPath: filepath.Join(dir, "etc/mailquotad.conf"), config: &config.Daemon{ApacheStatusKey: filepath.Join(dir, "etc/key")}}
	users := filepath.Join(dir, "etc/users")
	there := func(path string) bool { _, err := os.Stat(path); return err == nil }

	var e *apacheEdits
	err := errors.New("no port below 1024")
	for port := 1; err != nil && port < 1024; port++ { // the first that is free
		e, err = a.apacheEdits(layout, users, port, false)
	}
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(e.conf.after), `DocumentRoot "`+filepath.Dir(users)) {
		t.Errorf("the directory of the password is served:\n%s", e.conf.after)
	}
	e.key.group, e.daemon.group = "", "" // a host of developers has no mailquota
	daemon := e.daemon.path
	e.daemon.path = filepath.Join(dir, "none/mailquotad.conf")
	if err := e.change(t.Context(), layout, &setupOptions{noReload: true}); err == nil || !strings.Contains(err.Error(), "Apache is left as it was: ") {
		t.Errorf("%v", err)
	}
	if _, err := os.Lstat(layout.enabled); err == nil || there(layout.conf) || there(users) {
		t.Error("something is left")
	}
	e.daemon.path = daemon
	if err := e.change(t.Context(), layout, &setupOptions{noReload: true}); err != nil {
		t.Fatal(err)
	}
	link, err := os.Lstat(layout.enabled)
	if err != nil {
		t.Fatal(err)
	}
	if conf, err := os.Stat(layout.enabled); err != nil || link.ModTime().Before(conf.ModTime()) {
		t.Errorf("the link was there before the file: %v", err)
	}
	a.config.ApacheStatus = e.url
	if e, err = a.apacheEdits(layout, users, 0, true); err != nil {
		t.Fatal(err)
	}
	if err := e.change(t.Context(), layout, &setupOptions{noReload: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(layout.enabled); err == nil || there(layout.conf) || there(users) || there(daemon) {
		t.Error("something is left by --remove")
	}
}
