package main

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// used is processor time used so far.
type used struct{ postgres, daemon, generator time.Duration }

func (b *bench) used(daemons []*daemon) used {
	return used{b.postgresTime(), usedByDaemons(daemons), usedBy(unix.RUSAGE_SELF)}
}

func usedByDaemons(daemons []*daemon) (sum time.Duration) {
	for _, d := range daemons {
		if d.peer != nil {
			sum += d.peer.used()
			continue
		}
		own, _ := processTime(d.process.Pid)
		sum += own
	}
	return sum
}

// perMessage divides what was used since before.
func (u used) perMessage(before used, messages int64) *cpu {
	if messages == 0 {
		return nil
	}
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(messages) }
	return &cpu{Postgres: each(u.postgres - before.postgres), Daemon: each(u.daemon - before.daemon), Generator: each(u.generator - before.generator)}
}

func usedBy(who int) time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(who, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// postgresTime is the time of all processes of the cluster, also of those that
// have ended.
func (b *bench) postgresTime() time.Duration {
	own, ended := processTime(b.server.PID())
	total := own + ended
	tasks, err := os.ReadFile("/proc/" + strconv.Itoa(b.server.PID()) + "/task/" + strconv.Itoa(b.server.PID()) + "/children")
	if err != nil {
		return total
	}
	for child := range strings.FieldsSeq(string(tasks)) {
		pid, _ := strconv.Atoi(child)
		own, _ := processTime(pid)
		total += own
	}
	return total
}

// tick is the unit of the times in /proc/PID/stat, USER_HZ: 100 on Linux
// everywhere (proc(5), time(7)).
const tick = 10 * time.Millisecond

// processTime reads the time of a process and that of its children that have
// ended (proc(5), fields 14 to 17); zero for one that is gone.
func processTime(pid int) (own, ended time.Duration) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0
	}
	// The name, in parentheses, may hold anything; what follows begins with field 3.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 15 {
		return 0, 0
	}
	field := func(n int) time.Duration {
		ticks, _ := strconv.ParseInt(fields[n-3], 10, 64)
		return time.Duration(ticks) * tick
	}
	return field(14) + field(15), field(16) + field(17)
}
