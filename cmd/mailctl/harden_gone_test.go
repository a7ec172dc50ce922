package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sendmail-wrapper/config"
)

// writeFiles makes files below dir.
func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func isFile(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s: %q, %v; want %q", path, got, err, want)
	}
}

// TestHardenGonePostfix: what closed a Postfix that was removed is taken out of its files,
// and what others wrote stays.
func TestHardenGonePostfix(t *testing.T) {
	dir := t.TempDir()
	other, none := filepath.Join(dir, "other"), filepath.Join(dir, "none")
	main := fmt.Sprintf("multi_instance_directories = %s, %s $x\nauthorized_submit_users = bob\n", other, none)
	const instance = "b = 2\n"
	closed := func(text string, own bool) string {
		after, _ := closedMain([]byte(text), false, own)
		return string(after)
	}
	writeFiles(t, dir, map[string]string{"main.cf": closed(main, true), "other/main.cf": closed(instance, false)})

	plan := func() ([]*edit, error) { return gonePostfixEdits(dir) }
	s, err := planGone("Postfix", plan, nil)
	if err != nil || s == nil || !strings.Contains(s.Show, "-authorized_submit_users = root, mailquota, mailquota-submit, bob") {
		t.Fatalf("%+v, %v", s, err)
	}
	// A step before this one writes main.cf.
	writeFiles(t, dir, map[string]string{"main.cf": closed(main, true) + "c = 3\n"})
	if err := s.change(t.Context()); err != nil {
		t.Fatal(err)
	}
	isFile(t, filepath.Join(dir, "main.cf"), main+"c = 3\n")
	isFile(t, filepath.Join(other, "main.cf"), instance)
	if s, err := planGone("Postfix", plan, nil); s != nil || err != nil {
		t.Errorf("again: %+v, %v", s, err)
	}
	if edits, err := gonePostfixEdits(none); edits != nil || err != nil {
		t.Errorf("without files: %v, %v", edits, err)
	}
}

func TestHardenGoneExim(t *testing.T) {
	etc := t.TempDir()
	const template = "begin acl\n"
	ours := func(text string) string { return string(withHarden([]byte(text), 0, 0, "acl_not_smtp = x\n")) }
	writeFiles(t, etc, map[string]string{
		"exim4/exim4.conf.template":            ours(template),
		"exim4/conf.d/main/00_mailctl_harden":  ours(""),
		"exim4/conf.d/main/01_others":          "a = b\n",
		"exim4/conf.d/main/directory/is-no/it": ours(""),
		"exim/exim.conf":                       ours(template),
	})
	edits, err := goneEximEdits(etc)
	if err != nil || len(edits) != 3 {
		t.Fatalf("%d files, %v", len(edits), err)
	}
	if err := applyAll(edits); err != nil {
		t.Fatal(err)
	}
	isFile(t, filepath.Join(etc, "exim4/exim4.conf.template"), template)
	isFile(t, filepath.Join(etc, "exim/exim.conf"), template)
	isFile(t, filepath.Join(etc, "exim4/conf.d/main/01_others"), "a = b\n")
	if _, err := os.Stat(filepath.Join(etc, "exim4/conf.d/main/00_mailctl_harden")); !os.IsNotExist(err) {
		t.Errorf("a file that was made for ours stays: %v", err)
	}
}

// TestHardenGoneServer: the files of the server that is there are not touched as text.
func TestHardenGoneServer(t *testing.T) {
	for _, h := range []hardenPlan{{remove: true, mta: localMTA{profile: "postfix"}}, {mta: localMTA{profile: "exim"}}} {
		if s, err := planGonePostfix(t.Context(), h); s != nil || err != nil {
			t.Errorf("%+v: %+v, %v", h, s, err)
		}
	}
	if s, err := planGoneExim(t.Context(), hardenPlan{remove: true, mta: localMTA{profile: "exim-add-arguments"}}); s != nil || err != nil {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestSetupPostfixGone: setup postfix --remove needs no Postfix.
func TestSetupPostfixGone(t *testing.T) {
	dir := t.TempDir()
	const main, master = "a = 1\ndefault_transport = slow\n", "smtp inet n - n - - smtpd\n  -o smtpd_recipient_restrictions=reject\n"
	with, _ := masterWith([]byte(master))
	configPath := filepath.Join(dir, "mailquotad.conf")
	writeFiles(t, dir, map[string]string{
		"main.cf":         string(setUpMain(main, mainSettings{question: testQuestion, transport: "slow"})),
		"master.cf":       string(with),
		"mailquotad.conf": fmt.Sprintf("policy-listen = %q%s\n", policyAddress, postfixMark),
	})
	c := config.Default()
	p, err := planPostfixIn(t.Context(), dir, c.PostfixQueue, true, &c, configPath, &postfixOptions{remove: true})
	if err != nil {
		t.Fatal(err)
	}
	if !p.hadTransport {
		t.Error("the socket of mailquota-transport stays open")
	}
	t.Setenv("PATH", dir) // no command is needed
	if err := p.changePostfix(t.Context()); err != nil {
		t.Fatal(err)
	}
	isFile(t, filepath.Join(dir, "main.cf"), main)
	isFile(t, filepath.Join(dir, "master.cf"), master)
	if p.daemon.after != nil {
		t.Errorf("mailquotad.conf: %q", p.daemon.after)
	}

	empty := t.TempDir()
	p, err = planPostfixIn(t.Context(), empty, c.PostfixQueue, true, &c, filepath.Join(empty, "mailquotad.conf"), &postfixOptions{remove: true})
	if err != nil || showEdits([]*edit{p.main, p.master, p.checks, p.daemon}) != "" {
		t.Errorf("without files: %+v, %v", p, err)
	}
}

// TestHardenCutShort: a run that was killed before Postfix was reloaded is gone on with.
func TestHardenCutShort(t *testing.T) {
	dir := t.TempDir()
	configPath, lockPath, seen := filepath.Join(dir, "mailquotad.conf"), filepath.Join(dir, "lock"), filepath.Join(dir, "seen")
	writeFiles(t, dir, map[string]string{
		"main.cf":         "",
		"master.cf":       "smtp unix - - n - - smtp\n",
		"mailquotad.conf": fmt.Sprintf("policy-listen = %q%s\n", policyAddress, postfixMark),
		"bin/postconf": fmt.Sprintf("#!/bin/sh\nfor name; do case $name in config_directory) echo %s;; queue_directory) echo %s;; esac; done\n",
			dir, config.Default().PostfixQueue),
		"bin/systemctl": "#!/bin/sh\n",
		"bin/postfix":   fmt.Sprintf("#!/bin/sh\ncat %s >%s; echo wrong; exit 1\n", lockPath, seen),
	})
	for _, name := range []string{"postconf", "systemctl", "postfix"} {
		if err := os.Chmod(filepath.Join(dir, "bin", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	c := config.Default()
	c.PolicyListen = policyAddress
	yes := true
	p, err := planPostfix(t.Context(), &c, configPath, &postfixOptions{forwards: &yes})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []*edit{p.main, p.master, p.checks} { // all is written, and nothing is reloaded
		if e.changes() {
			if err := os.WriteFile(e.path, e.after, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}

	lock, err := lockSetup(lockPath)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	a := &app{config: &c, configPath: configPath}
	h := hardenPlan{mta: localMTA{profile: "postfix"}, record: &hardenRecord{path: filepath.Join(dir, "harden.json")}, lock: lock}
	s, err := a.planForwards(t.Context(), h)
	if err != nil || s.Show != "" {
		t.Fatalf("%+v, %v", s, err)
	}
	if err := os.WriteFile(lockPath, []byte("postfix\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err = a.planForwards(t.Context(), h); err != nil || s.Show == "" {
		t.Fatalf("after a run that was cut short: %+v, %v", s, err)
	}
	if err := os.Truncate(lockPath, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.change(t.Context()); err == nil {
		t.Error("postfix check said nothing")
	}
	if text, err := os.ReadFile(seen); err != nil || !bytes.Equal(text, []byte("postfix\n")) {
		t.Errorf("noted while it is changed: %q, %v", text, err)
	}
	if wasCutShort(lockPath, "postfix") {
		t.Error("the note stays after the end")
	}
}
