package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

// machine is on what a run was made.
type machine struct {
	Date       string            `json:"date"`
	Commit     string            `json:"commit"`
	Cores      int               `json:"cores"`
	Processor  string            `json:"processor"`
	MemoryMB   uint64            `json:"memory_mb"`
	Kernel     string            `json:"kernel"`
	PostgreSQL string            `json:"postgresql"`
	Go         string            `json:"go"`
	FsyncUS    float64           `json:"fsync_us"` // to write 8 kB and wait for the disk (fdatasync), median
	LoadBefore string            `json:"load_before"`
	Settings   map[string]string `json:"settings"` // of PostgreSQL, those that matter
}

func (m *machine) String() string {
	return fmt.Sprintf("%s, commit %s; %d cores (%s), %d MB, Linux %s, PostgreSQL %s, %s; write + fdatasync %.0f µs; load before %s",
		m.Date, m.Commit, m.Cores, m.Processor, m.MemoryMB, m.Kernel, m.PostgreSQL, m.Go, m.FsyncUS, m.LoadBefore)
}

func (b *bench) machine(ctx context.Context) machine {
	m := machine{Date: time.Now().UTC().Format(time.DateTime), Cores: runtime.NumCPU(), Go: runtime.Version(), Settings: map[string]string{}}
	if out, err := exec.CommandContext(ctx, filepath.Join(b.bin, "mailquotad"), "--version").Output(); err == nil {
		m.Commit = strings.TrimSpace(strings.TrimPrefix(string(out), "mailquotad "))
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, rest, _ := strings.Cut(string(text), "model name")
		line, _, _ := strings.Cut(rest, "\n")
		m.Processor = strings.Trim(line, " \t:")
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.LoadBefore, _, _ = strings.Cut(string(text), " ")
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.MemoryMB = info.Totalram * uint64(info.Unit) >> 20
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	m.FsyncUS = fsyncTime(filepath.Join(b.dir, "fsync"))
	conn, err := pgx.Connect(ctx, b.as("postgres", "postgres"))
	if err != nil {
		return m
	}
	defer conn.Close(ctx)
	for _, name := range []string{"server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers",
		"max_wal_size", "checkpoint_timeout", "autovacuum", "max_connections", "data_checksums"} {
		var value string
		if conn.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&value) == nil {
			m.Settings[name] = value
		}
	}
	m.PostgreSQL = m.Settings["server_version"]
	return m
}

// fsyncTime is the median time to write a page and have it on the disk, as a
// commit does, in microseconds; 0 if that cannot be tried.
func fsyncTime(path string) float64 {
	f, err := os.Create(path)
	if err != nil {
		return 0
	}
	defer os.Remove(path)
	defer f.Close()
	// Into a file that is there already, as a segment of the log is.
	if _, err := f.Write(make([]byte, 16<<20)); err != nil || f.Sync() != nil {
		return 0
	}
	page := make([]byte, 8192)
	var times []time.Duration
	for range 1000 {
		start := time.Now()
		if _, err := f.WriteAt(page, int64(len(times)%2048)*8192); err != nil {
			return 0
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	return float64(times[len(times)/2].Nanoseconds()) / 1000
}
