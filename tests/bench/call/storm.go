package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// storm is what became of alice's calls. She and bob are processes of their own, so
// that they share no lock of the runtime.
type storm struct {
	Exits   map[int]int
	Seconds float64
	Longest float64 // ms
}

// playStorm makes n calls, at most that many at a time.
func playStorm(message string, n, atATime int) error {
	s := storm{Exits: map[int]int{}}
	var failed error
	var mu sync.Mutex
	var all sync.WaitGroup
	next := make(chan struct{})
	began := time.Now()
	for range atATime {
		all.Go(func() {
			for range next {
				took, exit, err := timed(message)
				mu.Lock()
				if err == nil {
					s.Exits[exit]++
				} else {
					failed = err
				}
				s.Longest = max(s.Longest, ms(took))
				mu.Unlock()
			}
		})
	}
	for range n {
		next <- struct{}{}
	}
	close(next)
	all.Wait()
	s.Seconds = time.Since(began).Seconds()
	return errors.Join(failed, json.NewEncoder(os.Stdout).Encode(s))
}

// playSteady makes a call each interval until standard input ends, and then one more;
// it prints how long each took, in milliseconds.
func playSteady(message string, interval time.Duration) error {
	over := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(over)
	}()
	list := []float64{}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for last := false; !last; {
		select {
		case <-tick.C:
		case <-over:
			last = true
		}
		took, exit, err := timed(message)
		if err == nil && exit != 0 {
			err = fmt.Errorf("a call ended with %d", exit)
		}
		if err != nil {
			return err
		}
		list = append(list, ms(took))
	}
	return json.NewEncoder(os.Stdout).Encode(list)
}

// timed is one call of sendmail. It fails where there was none, or by a signal.
func timed(message string) (took time.Duration, exit int, err error) {
	in, err := os.Open(message)
	if err != nil {
		return 0, 0, err
	}
	defer in.Close()
	cmd := exec.Command("/usr/sbin/sendmail", "-i", "x@outside.example")
	cmd.Stdin = in
	start := time.Now()
	err = cmd.Run()
	took = time.Since(start)
	if ended := (*exec.ExitError)(nil); errors.As(err, &ended) && ended.Exited() {
		err = nil
	}
	return took, cmd.ProcessState.ExitCode(), err
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// fairness is what measureFairness prints: how long bob's calls took, in milliseconds,
// and what became of alice's.
type fairness struct {
	Alone, Beside []float64
	storm
}

// measureFairness lets bob call alone, ten times a second, then once a second beside
// alice's storm of n calls.
func measureFairness(message string, n, atATime int) error {
	var f fairness
	alone, stop, err := as("bob", "steady", message, "100ms")
	if err != nil {
		return err
	}
	time.Sleep(10 * time.Second)
	stop.Close()
	if err := alone(&f.Alone); err != nil {
		return err
	}
	beside, stop, err := as("bob", "steady", message, "1s")
	if err != nil {
		return err
	}
	time.Sleep(500 * time.Millisecond) // his first call comes in the middle of what follows
	played, _, err := as("alice", "storm", message, strconv.Itoa(n), strconv.Itoa(atATime))
	if err != nil {
		return err
	}
	if err := played(&f.storm); err != nil {
		return err
	}
	stop.Close()
	if err := beside(&f.Beside); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

// as starts this program as a user. result waits for what it prints.
func as(name string, arguments ...string) (result func(any) error, stdin io.WriteCloser, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, nil, err
	}
	uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
	gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
	cmd := exec.Command("/proc/self/exe", arguments...)
	cmd.Dir, cmd.Stderr = "/", os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, Setsid: true}
	stdin, errIn := cmd.StdinPipe()
	stdout, errOut := cmd.StdoutPipe()
	if err := errors.Join(errUID, errGID, errIn, errOut); err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	return func(v any) error { return errors.Join(json.NewDecoder(stdout).Decode(v), cmd.Wait()) }, stdin, nil
}
