package main

import (
	"bufio"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/wire"
)

// wires is a new connection for each message, as the wrapper makes it: callers
// are processes of as many users, each with a memfd, a request, and the daemon
// looking up in /proc who that is. Only the start of the wrapper is left out,
// which costs more than all of that.
func wires() block {
	k := block{name: "a connection a message"}
	for _, callers := range []int{1, 16, 64} {
		kept := "kept connections, 50 mailboxes, " + many(callers, "caller")
		k.experiments = append(k.experiments,
			asked(figure{name: kept}, "hot", 50, callers, oneHost, "", anyOf(50)),
			experiment{[]figure{{"a connection each, " + many(callers, "user"), "decisions/s", kept}},
				func(ctx context.Context, b *bench) ([]sample, error) {
					database, err := b.database(ctx, "hot", 50)
					if err != nil {
						return nil, err
					}
					d, err := b.daemon(ctx, database, "one", "")
					if err != nil {
						return nil, err
					}
					return b.askByProcesses(ctx, d, callers, belowShells)
				}})
	}
	return k
}

// asking is what a process that asks tells at its end.
type asking struct {
	Answers int64 // all, with those before it was measured
	Latency histogram
	Took    time.Duration
	Used    time.Duration
}

// firstUID is the uid of the first caller, above those of any user.
const firstUID = 20001

func (b *bench) askByProcesses(ctx context.Context, d *daemon, callers int, start starter) (s []sample, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("only root can start processes of many users")
	}
	time.Sleep(2 * time.Millisecond)
	began := time.Now()
	var all []*asker
	defer func() {
		for _, a := range all {
			a.stdin.Close()
			a.stdout.Close()
		}
	}()
	for i := range callers {
		a, err := startAsker(ctx, start, d.socket, b.seconds, firstUID+uint32(i))
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	for _, a := range all {
		if err := a.awaitReady(); err != nil {
			return nil, d.failed(err)
		}
	}
	before := b.used([]*daemon{d})
	for _, a := range all {
		a.stdin.Close()
	}
	sum := asking{}
	var measured int64
	for _, a := range all {
		one, err := a.result()
		if err != nil {
			return nil, d.failed(err)
		}
		sum.Answers += one.Answers
		sum.Latency.merge(&one.Latency)
		sum.Took = max(sum.Took, one.Took)
		sum.Used += one.Used
		measured += int64(one.Latency.Total)
	}
	c := b.used([]*daemon{d}).perMessage(before, measured)
	c.Generator = float64(sum.Used.Microseconds()) / float64(measured)
	rows, err := b.rowsBetween(ctx, d.database, began, time.Now())
	if err == nil && rows != sum.Answers {
		err = fmt.Errorf("%d answers, but %d rows", sum.Answers, rows)
	}
	return []sample{{value: float64(measured) / sum.Took.Seconds(), latency: &sum.Latency, cpu: c}}, err
}

// asker is a process that asks. It ends by itself: it has as long to ask as it
// was told, from the end of its standard input on.
type asker struct {
	stdin, stdout *os.File
	lines         *bufio.Reader // of stdout
}

// starter is the command that starts a caller as some user: ask is its program
// and arguments. It must not wait for it.
type starter func(ctx context.Context, uid uint32, ask ...string) *exec.Cmd

// belowShell is a shell's command that starts the rest of its arguments in a
// shell. Neither becomes what it starts, as it has something to do after it.
const belowShell = `sh -c '"$0" ask "$@"; :' "$@"; :`

// belowShells starts a process below two shells and init: what a PHP script's mail
// has above it, too (a shell, a worker and the master of FPM), however make bench
// was called. The time of the look-up goes by the length of that chain.
func belowShells(ctx context.Context, uid uint32, ask ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "setsid", append([]string{"--fork", "sh", "-c", belowShell, "sh"}, ask...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return cmd
}

func startAsker(ctx context.Context, start starter, socket string, seconds int, uid uint32) (*asker, error) {
	own, err := os.Executable()
	if err != nil {
		return nil, err
	}
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, inRead.Close(), inWrite.Close())
	}
	cmd := start(ctx, uid, own, socket, strconv.Itoa(seconds))
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = "/", inRead, outWrite, os.Stderr
	err = errors.Join(cmd.Run(), inRead.Close(), outWrite.Close())
	return &asker{inWrite, outRead, bufio.NewReader(outRead)}, err
}

func (a *asker) awaitReady() error {
	if line, err := a.lines.ReadString('\n'); err != nil || line != "ready\n" {
		return fmt.Errorf("a process that asks said %q: %v", line, err)
	}
	return nil
}

func (a *asker) result() (r asking, err error) {
	if err := gob.NewDecoder(a.lines).Decode(&r); err != nil {
		return r, fmt.Errorf("a process that asks: %w", err)
	}
	return r, nil
}

// askMany is such a process. It asks once, so that its user is known, says so,
// waits until its standard input ends, and asks for that many seconds.
func askMany(socket, seconds string) error {
	n, err := strconv.Atoi(seconds)
	if err != nil {
		return err
	}
	if err := askOnce(socket); err != nil {
		return err
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	r := asking{Answers: 1}
	before, start := usedBy(unix.RUSAGE_SELF), time.Now()
	for now := start; now.Sub(start) < time.Duration(n)*time.Second; {
		if err := askOnce(socket); err != nil {
			return err
		}
		end := time.Now()
		r.Latency.add(end.Sub(now))
		now = end
	}
	r.Took, r.Used = time.Since(start), usedBy(unix.RUSAGE_SELF)-before
	r.Answers += int64(r.Latency.Total)
	return gob.NewEncoder(os.Stdout).Encode(&r)
}

// askOnce does what the wrapper does between its start and the real sendmail.
func askOnce(socket string) error {
	fd, err := unix.MemfdCreate("message", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return err
	}
	message := os.NewFile(uintptr(fd), "message")
	defer message.Close()
	if _, err := unix.Write(fd, []byte("Subject: small\n\nbody\n")); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		return err
	}
	reply, err := wire.Ask(socket, &wire.Request{Op: wire.OpSubmit, Profile: "postfix", Argv: []string{"sendmail", "-i", "x@outside.example"}}, message, patience)
	if err == nil && (reply.Verdict != wire.VerdictAccept || reply.ID == "") {
		err = fmt.Errorf("verdict %d: %s", reply.Verdict, reply.Text)
	}
	return err
}
