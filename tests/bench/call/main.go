// Command call measures whole calls of sendmail in a throw-away server, each
// beside its reference: the two take turns, A B A B …, so that both meet the
// machine in the same mood. It prints JSON for command bench, which starts it.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/wire"
)

// call is one command to be timed; input is what stands on its standard input.
type call struct {
	argv  []string
	input string
	exit  int // the exit status that shows it did what is measured
}

func (c call) run() (time.Duration, error) {
	in, err := os.Open(c.input)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	cmd := exec.Command(c.argv[0], c.argv[1:]...)
	cmd.Stdin = in
	start := time.Now()
	cmd.Run()
	took := time.Since(start)
	if got := cmd.ProcessState.ExitCode(); got != c.exit {
		return 0, fmt.Errorf("%q: exit %d, want %d", c.argv, got, c.exit)
	}
	return took, nil
}

// pairs is what was measured: medians in milliseconds, and the ratio pair by
// pair with its middle half.
type pairs struct {
	Pairs     int     `json:"pairs"`
	Measured  float64 `json:"measured"`
	Reference float64 `json:"reference"`
	Ratio     float64 `json:"ratio"`
	Low       float64 `json:"low"`
	High      float64 `json:"high"`
}

// compare makes n calls each of a and of its reference b.
func compare(a, b call, n int) error {
	var as, bs []time.Duration
	var ratios []float64
	for i := range n + 1 {
		ta, errA := a.run()
		tb, errB := b.run()
		if err := errors.Join(errA, errB); err != nil {
			return err
		}
		if i == 0 { // the first finds nothing in memory
			continue
		}
		as, bs, ratios = append(as, ta), append(bs, tb), append(ratios, float64(ta)/float64(tb))
	}
	slices.Sort(as)
	slices.Sort(bs)
	slices.Sort(ratios)
	return json.NewEncoder(os.Stdout).Encode(pairs{n, ms(as[n/2]), ms(bs[n/2]), ratios[n/2], ratios[n/4], ratios[3*n/4]})
}

// memory is the most that the wrapper holds while it waits for the answer about
// a message, in MB; this program is the daemon then.
func memory(message string) error {
	const socket = "/run/mailquota/mailquotad.sock"
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	defer l.Close()
	in, err := os.Open(message)
	if err != nil {
		return err
	}
	defer in.Close()
	cmd := exec.Command("/usr/sbin/sendmail", "-i", "x@outside.example")
	cmd.Stdin = in
	if err := cmd.Start(); err != nil {
		return err
	}
	defer cmd.Wait()
	c, err := l.AcceptUnix()
	if err != nil {
		return err
	}
	defer c.Close()
	_, content, err := wire.ReadRequest(c)
	if err != nil {
		return err
	}
	defer content.Close()
	size, err := wire.CheckSealed(content)
	if err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/status")
	if err != nil {
		return err
	}
	if err := wire.WriteReply(c, &wire.Reply{Verdict: wire.VerdictRefuse, Exit: 69, Text: "measured"}); err != nil {
		return err
	}
	var own unix.Stat_t
	if err := unix.Stat(message, &own); err != nil || own.Size != size {
		return fmt.Errorf("a message of %d bytes arrived with %d, %v", own.Size, size, err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			if err != nil {
				return err
			}
			return json.NewEncoder(os.Stdout).Encode(float64(kb) / 1024)
		}
	}
	return errors.New("the kernel does not tell")
}

func run(args []string) error {
	if len(args) == 4 && (args[0] == "storm" || args[0] == "fairness") {
		n, errN := strconv.Atoi(args[2])
		atATime, err := strconv.Atoi(args[3])
		if err := errors.Join(errN, err); err != nil {
			return err
		}
		if args[0] == "storm" {
			return playStorm(args[1], n, atATime)
		}
		return measureFairness(args[1], n, atATime)
	}
	if len(args) == 3 && args[0] == "steady" {
		interval, err := time.ParseDuration(args[2])
		if err != nil {
			return err
		}
		return playSteady(args[1], interval)
	}
	if len(args) != 2 {
		return errors.New("usage: call dial|send|memory MESSAGE, or fairness MESSAGE CALLS AT-A-TIME   (in the throw-away server, by command bench)")
	}
	message := args[1]
	wrapper := call{[]string{"/usr/sbin/sendmail", "-i", "x@outside.example"}, message, 0}
	switch args[0] {
	case "dial": // without a daemon
		wrapper.exit = 69
		return compare(wrapper, call{[]string{"/tmp/dial", "/run/mailquota/mailquotad.sock"}, "/dev/null", 69}, 500)
	case "send":
		return compare(wrapper, call{[]string{"/usr/sbin/sendmail.real", "-i", "x@outside.example"}, message, 0}, 200)
	case "memory":
		return memory(message)
	}
	return fmt.Errorf("%q is not dial, send or memory", args[0])
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "call:", err)
		os.Exit(1)
	}
}
