package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"
)

// lookups is what it costs to find out who calls: the daemon's own clock around
// that part, beside the whole decision as the caller sees it. Both are of the
// same messages, so that neither the chain nor the load differs.
func lookups() block {
	k := block{name: "look-up of the caller"}
	for _, callers := range []int{1, 64} {
		decision := "decision below php-fpm, " + many(callers, "caller")
		k.experiments = append(k.experiments, experiment{[]figure{
			{name: decision, unit: "ms"}, {"look-up in it, " + many(callers, "caller"), "ms", decision},
		}, func(ctx context.Context, b *bench) ([]sample, error) { return b.lookUp(ctx, callers) }})
	}
	return k
}

func (b *bench) lookUp(ctx context.Context, callers int) ([]sample, error) {
	database, err := b.database(ctx, "hot", 50)
	if err != nil {
		return nil, err
	}
	d, err := b.daemon(ctx, database, "lookup", fmt.Sprintf("metrics = %q\n", b.metricsAddress()))
	if err != nil {
		return nil, err
	}
	start, err := b.fpm()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	before, err := b.lookUpTimes(ctx)
	if err != nil {
		return nil, d.failed(err)
	}
	s, err := b.askByProcesses(ctx, d, callers, start)
	if err != nil {
		return nil, err
	}
	after, err := b.lookUpTimes(ctx)
	if err != nil {
		return nil, d.failed(err)
	}
	took := after.since(before)
	known, err := b.ask(ctx, database, `SELECT count(*) FROM messages WHERE id >= $1 AND id < $2 AND kind = 'php-fpm' AND kind_proof >= 2`,
		firstID(began), firstID(time.Now().Add(time.Millisecond)))
	if err == nil && (known == 0 || uint64(known) != took.Total) {
		err = fmt.Errorf("%d look-ups, but %d rows of php-fpm with a proof", took.Total, known)
	}
	s[0].value = s[0].latency.quantile(0.5)
	return append(s, sample{value: took.quantile(0.5), latency: took}), err
}

// metricsAddress is one that is free, the same in one run.
func (b *bench) metricsAddress() string {
	if b.metrics == "" {
		b.metrics = "127.0.0.1:9825"
		if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
			b.metrics = l.Addr().String()
			l.Close()
		}
	}
	return b.metrics
}

// buckets are those of a histogram of Prometheus: how many took at most that
// long, by seconds in ascending order.
type buckets struct {
	most  []float64
	count []uint64
}

var lookUpBucket = regexp.MustCompile(`^mailquotad_origin_duration_seconds_bucket\{le="([^"]+)"\} (\d+)$`)

func (b *bench) lookUpTimes(ctx context.Context) (h buckets, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.metricsAddress()+"/metrics", nil)
	if err != nil {
		return h, err
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		return h, err
	}
	defer reply.Body.Close()
	lines := bufio.NewScanner(reply.Body)
	for lines.Scan() {
		if m := lookUpBucket.FindStringSubmatch(lines.Text()); m != nil {
			most, errMost := strconv.ParseFloat(m[1], 64)
			count, errCount := strconv.ParseUint(m[2], 10, 64)
			if err := errors.Join(errMost, errCount); err != nil {
				return h, err
			}
			h.most, h.count = append(h.most, most), append(h.count, count)
		}
	}
	return h, lines.Err()
}

// since returns what came after an earlier state, spread evenly over each bucket.
// What is above the last bound counts as that.
func (h buckets) since(earlier buckets) *histogram {
	var times histogram
	from, counted := 0.0, uint64(0)
	for i, most := range h.most {
		upTo := h.count[i]
		if i < len(earlier.count) {
			upTo -= earlier.count[i]
		}
		n := upTo - counted
		most = min(most, max(from, 1)) // the last is +Inf
		for j := range n {
			seconds := from + (most-from)*(float64(j)+0.5)/float64(n)
			times.add(time.Duration(seconds * float64(time.Second)))
		}
		from, counted = most, upTo
	}
	return &times
}

// fpm returns how a caller is started below what is php-fpm to the daemon: a
// master of root with that title and that name of an executable, a worker of the
// caller's uid, and two shells. With the caller they are five processes.
func (b *bench) fpm() (starter, error) {
	own, err := os.Executable()
	if err != nil {
		return nil, err
	}
	program, config := filepath.Join(b.dir, "php-fpm8.2"), filepath.Join(b.dir, "php-fpm.conf")
	text, err := os.ReadFile(own)
	if err == nil && !exists(program) {
		err = os.WriteFile(program, text, 0o755)
	}
	if err == nil {
		err = os.WriteFile(config, []byte("[bench]\nuser = "+strconv.Itoa(firstUID)+"\n"), 0o644)
	}
	return func(ctx context.Context, uid uint32, ask ...string) *exec.Cmd {
		arguments := append([]string{"--fork", "bash", "-c", `exec -a "$0" "$@"`, "php-fpm: master process (" + config + ")",
			program, "master", strconv.FormatUint(uint64(uid), 10)}, ask...)
		return exec.CommandContext(ctx, "setsid", arguments...)
	}, err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// playMaster starts a worker as the user whose uid comes first, playWorker a
// shell of a shell of who asks. Both wait, as php-fpm does.
func playMaster(arguments []string) error {
	own, err := os.Executable()
	if err != nil {
		return err
	}
	uid, err := strconv.ParseUint(arguments[0], 10, 32)
	if err != nil {
		return err
	}
	worker := exec.Command(own)
	worker.Args = append([]string{"php-fpm: pool bench", "worker"}, arguments[1:]...)
	worker.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	return runAsIs(worker)
}

func playWorker(ask []string) error {
	return runAsIs(exec.Command("sh", append([]string{"-c", belowShell, "sh"}, ask...)...))
}

func runAsIs(cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}
