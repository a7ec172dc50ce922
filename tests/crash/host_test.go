package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sendmail-wrapper/wire"
)

// host is a mail host: a mailquotad with its directory, which survives it.
type host struct {
	dir, socket, policy string
	process             *os.Process   // nil: does not run
	done                chan struct{} // closed when it has ended
	ended               *os.ProcessState
	poisoned            int // decisions of its journal that the database must not take
}

// newHost starts a mailquotad. Settings are lines of its configuration, by key,
// as they are written there.
func newHost(t *testing.T, name, database string, settings map[string]string) *host {
	t.Helper()
	return newHostIn(t, testDir(t), name, database, settings)
}

func newHostIn(t *testing.T, dir, name, database string, settings map[string]string) *host {
	t.Helper()
	h := &host{dir: dir, socket: filepath.Join(dir, "wire"), policy: filepath.Join(dir, "policy")}
	all := map[string]string{
		"host": quoted(name), "database": quoted(database), "socket": quoted(h.socket), "policy-socket": quoted(h.policy),
		"journal": quoted(filepath.Join(dir, "journal")), "first-user-uid": "1000",
	}
	maps.Copy(all, settings)
	text := ""
	for _, key := range slices.Sorted(maps.Keys(all)) {
		text += key + " = " + all[key] + "\n"
	}
	must(t, os.WriteFile(h.config(), []byte(text), 0o600))
	t.Cleanup(func() {
		if h.process != nil {
			h.process.Kill()
			<-h.done
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, h.logTail())
		}
	})
	h.start(t)
	return h
}

func quoted(s string) string { return fmt.Sprintf("%q", s) }

func (h *host) config() string { return filepath.Join(h.dir, "mailquotad.conf") }

func (h *host) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(h.dir, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	must(t, err)
	defer log.Close()
	cmd := exec.Command(mailquotad, "--config", h.config())
	cmd.Dir, cmd.Stderr = "/", log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	done := make(chan struct{})
	h.done = done
	go func() {
		runtime.LockOSThread() // Pdeathsig is of this thread
		err := cmd.Start()
		started <- err
		if err == nil {
			h.ended, _ = cmd.Process.Wait()
		}
		close(done)
	}()
	must(t, <-started)
	h.process = cmd.Process
	await(t, "mailquotad to answer", func() bool {
		select {
		case <-done:
			t.Fatalf("mailquotad ended: %v", h.ended)
		default:
		}
		_, err := h.status()
		if err != nil && !errors.As(err, new(*wire.UnreachableError)) {
			t.Fatal(err)
		}
		return err == nil
	})
}

// kill is kill -9.
func (h *host) kill(t *testing.T) {
	t.Helper()
	must(t, h.process.Kill())
	<-h.done
	h.process = nil
}

// stop is systemctl stop.
func (h *host) stop(t *testing.T) {
	t.Helper()
	must(t, h.process.Signal(syscall.SIGTERM))
	<-h.done
	h.process = nil
	if !h.ended.Success() {
		t.Errorf("mailquotad ended with %v", h.ended)
	}
}

// status is what the tests look at of a daemon's answer to wire.OpStatus.
type status struct {
	Database string
	Waiting  int
	Journal  struct{ Messages, Failed, Unrecorded int }
}

func (h *host) status() (s status, err error) {
	reply, err := wire.Ask(h.socket, &wire.Request{Op: wire.OpStatus}, nil, 30*time.Second)
	if err == nil {
		err = json.Unmarshal(reply.Body, &s)
	}
	return s, err
}

func (h *host) await(t *testing.T, what string, holds func(status) bool) {
	t.Helper()
	var last status
	var err error
	defer func() {
		if t.Failed() {
			t.Logf("last status: %+v, %v", last, err)
		}
	}()
	await(t, "mailquotad: "+what, func() bool {
		last, err = h.status()
		return err == nil && holds(last)
	})
}

// awaitWell waits until the daemon works with its database as ever.
func (h *host) awaitWell(t *testing.T) {
	t.Helper()
	h.await(t, "database reached, journal booked", func(s status) bool { return s.Database == "ok" && s.Journal.Messages == 0 && s.Waiting == 0 })
	if n := h.failed(t); n > 0 {
		t.Errorf("%d decisions of the journal could not be booked", n)
	}
}

// failed is how many decisions of the journal the database did not take.
func (h *host) failed(t *testing.T) int {
	t.Helper()
	s, err := h.status()
	must(t, err)
	return s.Journal.Failed - h.poisoned
}

// awaitJournal waits until it runs on the journal.
func (h *host) awaitJournal(t *testing.T) {
	t.Helper()
	h.await(t, "database not reached", func(s status) bool { return s.Database != "ok" })
}

func (h *host) log() string {
	b, err := os.ReadFile(filepath.Join(h.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// logTail is the end of the log, without the lines of single messages.
func (h *host) logTail() string {
	var kept []string
	for line := range strings.Lines(h.log()) {
		if !strings.Contains(line, `"message":"message"`) && !strings.Contains(line, `"message":"no decision"`) {
			kept = append(kept, line[:min(len(line)-1, 300)]+"\n")
		}
	}
	return strings.Join(kept[max(0, len(kept)-30):], "")
}
