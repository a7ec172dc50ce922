package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sendmail-wrapper/wire"
)

// daemon is a mailquotad that runs as a child, or a peer.
type daemon struct {
	key      string
	database string
	config   string // path; the others alike
	policy   string // path of the policy socket, or address and port
	socket   string
	log      string
	process  *os.Process
	done     chan struct{} // closed when it has ended
	peer     *peer         // nil: it is mailquotad; else all but policy and database is empty
}

// state is the protocol_state at which it counts.
func (d *daemon) state() string {
	if d.peer != nil {
		return d.peer.state
	}
	return atEndOfMessage
}

// daemon returns the running daemon of a database and a host, starting it if
// need be. more is added to its configuration.
func (b *bench) daemon(ctx context.Context, database, host, more string) (*daemon, error) {
	key := database + "-" + host
	for _, d := range b.daemons {
		if d.key == key {
			return d, nil
		}
	}
	base := filepath.Join(b.dir, key)
	d := &daemon{key: key, database: database, config: base + ".conf", policy: base + ".policy", socket: base + ".sock", log: base + ".log", done: make(chan struct{})}
	os.Remove(base + ".journal")
	text := fmt.Sprintf("database = %q\nhost = %q\nsocket = %q\npolicy-socket = %q\njournal = %q\nlog-level = \"warn\"\n",
		b.as("mailquotad", database), host+".example", d.socket, d.policy, base+".journal")
	if strings.Contains(more, "log-level") {
		text = strings.Replace(text, "log-level = \"warn\"\n", "", 1)
	}
	if err := os.WriteFile(d.config, []byte(text+more), 0o600); err != nil {
		return nil, err
	}
	if err := d.start(filepath.Join(b.bin, "mailquotad")); err != nil {
		return nil, err
	}
	b.daemons = append(b.daemons, d)
	return d, d.awaitReady(ctx)
}

func (d *daemon) start(program string) error {
	log, err := os.Create(d.log)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, "--config", d.config)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the signal comes when the thread that forked ends
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
		close(d.done)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start mailquotad: %w", err)
	}
	d.process = cmd.Process
	return nil
}

// status is what this program wants to know of wire.OpStatus.
type status struct {
	Database string `json:"database"`
	Journal  struct {
		Messages int `json:"messages"`
		Failed   int `json:"failed"`
	} `json:"journal"`
}

func (d *daemon) status() (s status, err error) {
	reply, err := wire.Ask(d.socket, &wire.Request{Op: wire.OpStatus}, nil, 5*time.Second)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(reply.Body, &s)
}

// awaitReady waits until the daemon has its database.
func (d *daemon) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		s, err := d.status()
		if err == nil && s.Database == "ok" {
			return nil
		}
		select {
		case <-d.done:
			return d.failed(errors.New("mailquotad ended"))
		case <-ctx.Done():
			return d.failed(fmt.Errorf("mailquotad is not ready: %q, %v", s.Database, err))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// failed adds the end of the daemon's log to an error.
func (d *daemon) failed(err error) error {
	if d.peer != nil {
		return d.peer.failed(err)
	}
	text, _ := os.ReadFile(d.log)
	if n := len(text); n > 2000 {
		text = text[n-2000:]
	}
	return fmt.Errorf("%w\n%s", err, bytes.TrimSpace(text))
}

// end ends a daemon, in order; one that does not end is killed.
func (d *daemon) end() {
	if d.peer != nil {
		d.peer.end()
		return
	}
	d.process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(20 * time.Second):
		d.process.Kill()
		<-d.done
	}
}

func (b *bench) endDaemons() {
	for _, d := range b.daemons {
		d.end()
	}
	b.daemons = nil
}

// memory is what /proc/PID/status calls so, in MB: "VmRSS" now, "VmHWM" at most
// so far.
func memoryOf(pid int, what string) (float64, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, what+":"); ok {
			kb, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			return float64(kb) / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has no %s", pid, what)
}
