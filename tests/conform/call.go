package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"sendmail-wrapper/sendmail"
)

// testCase is a call: of cases.json, or one of ours.
type testCase struct {
	ID     string            `json:"id"`
	Title  string            `json:"title"`
	Argv   []string          `json:"argv"`
	Stdin  string            `json:"stdin"`
	Env    map[string]string `json:"env"`
	Is     stdin             `json:"stdin_is"`
	Offset int               `json:"stdin_offset"`

	Observed map[string]observed `json:"observed"` // by mail server; none for our own
	only     string              // the mail servers that it is for, "" all
}

// observed is what was recorded of a case.
type observed struct {
	Exit           any // a number or TIMEOUT
	Stdout, Stderr string
	Messages       []struct {
		Sender      string
		Recipients  []string
		HasAfterDot bool `json:"has_text_after_dot"`
	}
}

// stdin is what standard input is.
type stdin string

const (
	pipe     stdin = "pipe"
	file     stdin = "file"     // a regular file, read from an offset
	socket   stdin = "socket"   // a unix socket, as node makes it
	lockstep stdin = "lockstep" // a pipe from an SMTP client that waits for each reply
)

// result is all that can be seen of a call.
type result struct {
	exit           string // a number, the name of a signal, or TIMEOUT
	stdout, stderr string
	queued         []message
	files          string // left in the directory it was called in
}

// callTimeout is when a call hangs.
const callTimeout = 20 * time.Second

// home is where calls are made: a directory that only alice can enter, so that
// one that runs as somebody else is noticed.
const home = "/home/alice/conform"

// callUmask is none that anybody has by default.
const callUmask = 0o027

// caller makes calls of one mail server's sendmail as the user alice, and reads
// what they queued and what they were charged.
type caller struct {
	mta     *mta
	profile *sendmail.Profile
	ids     *syscall.Credential
	charge  *charges
}

func newCaller(m *mta) (*caller, error) {
	profile, err := sendmail.ProfileByName(m.name)
	if err != nil {
		return nil, err
	}
	alice, err := user.Lookup("alice")
	if err != nil {
		return nil, err
	}
	uid, err1 := strconv.Atoi(alice.Uid)
	gid, err2 := strconv.Atoi(alice.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if m.start != nil {
		if err := m.start(); err != nil {
			return nil, err
		}
	}
	c := &caller{mta: m, profile: profile, ids: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: []uint32{uint32(gid)}}}
	if c.charge, err = connect(uid); err != nil {
		return nil, err
	}
	syscall.Umask(callUmask)
	_, err = m.queued() // what an earlier run left
	return c, err
}

func (c *caller) close() { c.charge.close() }

// call runs a program with all that the case says.
func (c *caller) call(program string, tc *testCase, is stdin) (*result, error) {
	if err := c.freshHome(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	var stderr bytes.Buffer
	stdout := newReplies()
	cmd := exec.CommandContext(ctx, program)
	cmd.Args = tc.Argv
	cmd.Dir = home
	cmd.Env = environment(tc.Env)
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.ids, Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	in, feed, err := open(is, tc)
	if err != nil {
		return nil, err
	}
	cmd.Stdin = in
	err = cmd.Start()
	in.Close()
	if err != nil {
		return nil, err
	}
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		if feed != nil {
			feed(stdout)
		}
	}()
	err = cmd.Wait()
	stdout.end()
	<-fed
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, fmt.Errorf("case %s: %w", tc.ID, err)
	}
	r := &result{exit: strconv.Itoa(cmd.ProcessState.ExitCode()), stdout: stdout.String(), stderr: stderr.String()}
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		r.exit = status.Signal().String()
	}
	if ctx.Err() != nil {
		r.exit = "TIMEOUT"
	}
	if r.files, err = listFiles(home); err != nil {
		return nil, err
	}
	if r.queued, err = c.mta.queued(); err != nil {
		return nil, fmt.Errorf("case %s: %w", tc.ID, err)
	}
	sortQueued(r.queued)
	return r, nil
}

func sortQueued(queued []message) {
	slices.SortFunc(queued, func(a, b message) int {
		return strings.Compare(a.sender+" "+strings.Join(a.recipients, " ")+a.content, b.sender+" "+strings.Join(b.recipients, " ")+b.content)
	})
}

// freshHome makes the directory anew, with one in it that paths of cases name.
func (c *caller) freshHome() error {
	if err := os.RemoveAll(home); err != nil {
		return err
	}
	for _, dir := range []string{home, filepath.Join(home, "scratch")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := os.Chown(dir, int(c.ids.Uid), int(c.ids.Gid)); err != nil {
			return err
		}
	}
	return nil
}

func environment(more map[string]string) []string {
	env := map[string]string{"HOME": "/home/alice", "LOGNAME": "alice", "USER": "alice", "SHELL": "/bin/bash", "LANG": "C.UTF-8",
		"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
	for name, value := range more {
		env[name] = value
	}
	var list []string
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list
}

// lookup is a variable of a case's environment.
func lookup(tc *testCase, name string) (string, bool) {
	for _, e := range environment(tc.Env) {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			return value, true
		}
	}
	return "", false
}

// open returns standard input for the program, and what fills it.
func open(is stdin, tc *testCase) (in *os.File, feed func(*replies), err error) {
	switch is {
	case file:
		f, err := os.CreateTemp("", "stdin")
		if err != nil {
			return nil, nil, err
		}
		os.Remove(f.Name()) // as mutt and at(1) do
		if _, err := f.WriteString(tc.Stdin); err != nil {
			return nil, nil, err
		}
		_, err = f.Seek(int64(tc.Offset), io.SeekStart)
		return f, nil, err
	case socket:
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, nil, err
		}
		ours := os.NewFile(uintptr(fds[1]), "socket")
		return os.NewFile(uintptr(fds[0]), "socket"), func(*replies) { fill(ours, tc.Stdin[tc.Offset:]) }, nil
	}
	in, ours, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	if is == lockstep {
		return in, func(replies *replies) { talk(ours, tc.Stdin, replies) }, nil
	}
	return in, func(*replies) { fill(ours, tc.Stdin[tc.Offset:]) }, nil
}

// fill writes all. A program that reads no further is free to.
func fill(w io.WriteCloser, text string) {
	io.WriteString(w, text)
	w.Close()
}

// talk is an SMTP client that waits: for the greeting, for the reply to each
// command, and after a 354 for the one to the lone dot. A chunk goes out with its
// command (RFC 3030).
func talk(w io.WriteCloser, dialogue string, replies *replies) {
	defer w.Close()
	replies.next()
	inMessage := false
	for dialogue != "" {
		line, rest, _ := strings.Cut(dialogue, "\n")
		send := min(len(line)+1, len(dialogue))
		var chunk int
		if n, _ := fmt.Sscanf(line, "BDAT %d", &chunk); n == 1 && !inMessage {
			send += min(chunk, len(rest))
		}
		if _, err := io.WriteString(w, dialogue[:send]); err != nil {
			return
		}
		dialogue = dialogue[send:]
		if !inMessage || strings.TrimRight(line, "\r") == "." {
			inMessage = strings.HasPrefix(replies.next(), "354")
		}
	}
}

// replies is standard output, which can be waited for reply by reply.
type replies struct {
	mu    sync.Mutex
	more  *sync.Cond
	text  strings.Builder
	read  int // as much of it was taken by next
	ended bool
}

func newReplies() *replies {
	r := &replies{}
	r.more = sync.NewCond(&r.mu)
	return r
}

func (r *replies) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.more.Broadcast()
	return r.text.Write(b)
}

// end says that nothing more will come.
func (r *replies) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	r.more.Broadcast()
}

func (r *replies) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// next waits for a whole reply and returns its last line; "" at the end.
func (r *replies) next() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		line, _, whole := strings.Cut(r.text.String()[r.read:], "\n")
		if whole {
			r.read += len(line) + 1
			if len(line) < 4 || line[3] != '-' {
				return line
			}
			continue
		}
		if r.ended {
			return ""
		}
		r.more.Wait()
	}
}

// listFiles says what is in a directory: path, mode, owner, size or target.
func listFiles(dir string) (string, error) {
	list := strings.Builder{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		content := []byte{}
		if info.Mode().IsRegular() {
			if content, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		fmt.Fprintf(&list, "%s %v %d:%d %q\n", strings.TrimPrefix(path, dir), info.Mode(), stat.Uid, stat.Gid, content)
		return nil
	})
	return list.String(), err
}
