// Command bench measures whole calls in a throw-away server, each beside its
// reference in the same run: the two take turns, A B A B …, so that both meet
// the machine in the same mood, and the median of the pairs' ratios is printed.
// It never judges: a bar is a reader's to hold against the figure.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"
)

// call is one command to be timed; input is what stands on its standard input.
type call struct {
	argv  []string
	input string
	exit  int // the exit status that shows it did what is measured
}

func (c call) run() time.Duration {
	in, err := os.Open(c.input)
	if err != nil {
		fatal(err)
	}
	defer in.Close()
	cmd := exec.Command(c.argv[0], c.argv[1:]...)
	cmd.Stdin = in
	start := time.Now()
	cmd.Run()
	took := time.Since(start)
	if got := cmd.ProcessState.ExitCode(); got != c.exit {
		fatal(fmt.Errorf("%q: exit %d, want %d", c.argv, got, c.exit))
	}
	return took
}

// compare prints the medians of n calls each of a and of its reference b, and
// the median of the ratios pair by pair.
func compare(what string, a, b call, n int) {
	a.run()
	b.run()
	var as, bs []time.Duration
	var ratios []float64
	for range n {
		ta, tb := a.run(), b.run()
		as, bs = append(as, ta), append(bs, tb)
		ratios = append(ratios, float64(ta)/float64(tb))
	}
	slices.Sort(as)
	slices.Sort(bs)
	slices.Sort(ratios)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	fmt.Printf("%-58s %8.2f ms %8.2f ms   %.2f×  (middle half %.2f–%.2f, %d pairs)\n",
		what, ms(as[n/2]), ms(bs[n/2]), ratios[n/2], ratios[n/4], ratios[3*n/4], n)
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: bench start|syslog|call MESSAGE   (in the throw-away server, by tests/bench-run)")
		os.Exit(2)
	}
	message := os.Args[2]
	switch os.Args[1] {
	case "start", "syslog":
		what := "wrapper without a daemon : program that only dials"
		if os.Args[1] == "syslog" {
			what = "the same, with journald taking its line at each call"
		}
		compare(what,
			call{[]string{"/usr/sbin/sendmail", "-i", "x@outside.example"}, message, 69},
			call{[]string{"/tmp/dial", "/run/mailquota/mailquotad.sock"}, "/dev/null", 69}, 500)
	case "call":
		compare("sendmail through the wrapper : real sendmail",
			call{[]string{"/usr/sbin/sendmail", "-i", "x@outside.example"}, message, 0},
			call{[]string{"/usr/sbin/sendmail.real", "-i", "x@outside.example"}, message, 0}, 200)
	default:
		fatal(fmt.Errorf("%q is not start, syslog or call", os.Args[1]))
	}
}
