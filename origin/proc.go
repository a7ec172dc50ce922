package origin

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of what is read of other people's processes.
const (
	maxChain   = 64       // processes
	maxCmdline = 64 << 10 // bytes of one process
	maxSmall   = 16 << 10 // bytes of stat, comm and cgroup
)

// process is an open directory of /proc, and another descriptor of the same
// process that tells its identity. Both stay this process's: once it has ended
// they fail, even if its pid belongs to another by then.
type process struct {
	pid     int
	dir     int // descriptor of /proc/PID
	ids     int // a pidfd, or the open file /proc/PID/status
	byPidfd bool

	identity // as it was when the process was opened

	args    []string // see cmdline
	hasArgs bool
	path    string // see exe
	hasPath bool
}

// identity is what the kernel keeps of a process, and the process cannot forge.
type identity struct {
	ppid int
	uids uids
}

// uids are the real, effective, saved and file system uid of a process.
type uids [4]uint32

// all reports whether each of the uids satisfies is.
func (u uids) all(is func(uint32) bool) bool {
	return is(u[0]) && is(u[1]) && is(u[2]) && is(u[3])
}

// openProcess opens a process, nil if there is none to be seen.
func openProcess(pid int) *process {
	if pid <= 0 {
		return nil
	}
	if pidfdTells() {
		if p := openByPidfd(pid); p != nil {
			return p
		}
		// Linux 6.13 hides one whose parent is outside of our pid namespace (fs/pidfs.c).
	}
	return openByStatus(pid)
}

// openByPidfd needs no file of the process for its identity. The directory is
// opened after the pidfd, and the identity asked last: as the process had not
// been reaped by then, its pid was its own all the time, and the directory is its.
func openByPidfd(pid int) *process {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	p := &process{pid: pid, dir: openDir(pid), ids: pidfd, byPidfd: true}
	if !p.identify() {
		p.close()
		return nil
	}
	return p
}

// openByStatus reads the identity from proc_pid_status(5), which costs twice as
// much. The file stays open, as to read it again takes half of that.
func openByStatus(pid int) *process {
	p := &process{pid: pid, dir: openDir(pid), ids: -1}
	if p.dir < 0 {
		return nil
	}
	var err error
	if p.ids, err = unix.Openat(p.dir, "status", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil || !p.identify() {
		p.close()
		return nil
	}
	return p
}

// openDir returns a descriptor of /proc/PID, -1 if there is none to be seen.
func openDir(pid int) int {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

// identify fills in the identity, and reports whether the process is there.
func (p *process) identify() bool {
	var ok bool
	p.identity, ok = p.now()
	return ok && p.dir >= 0
}

// now returns the identity of this moment; false once the process is gone.
func (p *process) now() (identity, bool) {
	if p.byPidfd {
		return infoOf(p.ids)
	}
	var buf [1024]byte // the lines that count come first
	for {
		n, err := unix.Pread(p.ids, buf[:], 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return identity{}, false
		}
		return parseStatus(buf[:n])
	}
}

// infoOf asks a pidfd (PIDFD_GET_INFO of linux/pidfd.h, Linux 6.13): uids and
// pids are those of our namespaces, as in /proc.
func infoOf(pidfd int) (identity, bool) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_PID | unix.PIDFD_INFO_CREDS}
	err := unix.IoctlPidfdInfo(pidfd, &info)
	if err != nil || info.Mask&unix.PIDFD_INFO_CREDS == 0 {
		return identity{}, false
	}
	return identity{ppid: int(info.Ppid), uids: uids{info.Ruid, info.Euid, info.Suid, info.Fsuid}}, true
}

// pidfdTells reports whether this kernel, and what filters our system calls, let
// a pidfd tell an identity. Tests of the other way replace it.
var pidfdTells = sync.OnceValue(func() bool {
	pidfd, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err != nil {
		return false
	}
	defer unix.Close(pidfd)
	_, ok := infoOf(pidfd)
	return ok
})

func (p *process) close() {
	unix.Close(p.ids) // EBADF for what was not opened
	unix.Close(p.dir)
}

// read returns at most limit bytes of a file of the process, nil if it cannot
// be read. It is likely to be shorter than expect.
func (p *process) read(name string, expect, limit int) []byte {
	fd, err := unix.Openat(p.dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	buf := make([]byte, 0, expect)
	for len(buf) < limit {
		buf = slices.Grow(buf, 1)
		space := buf[len(buf):min(cap(buf), limit)]
		n, err := unix.Read(fd, space)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil
		}
		buf = buf[:len(buf)+n]
		if n < len(space) { // these files give all they have
			break
		}
	}
	return buf
}

// readlink returns where a link of the process leads, such as "root" or
// "ns/user"; "" if it may not be read.
func (p *process) readlink(name string) string {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(p.dir, name, buf[:])
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// cmdline returns the arguments, none for a zombie or a kernel thread. Only the
// first 64 KiB are read.
func (p *process) cmdline() []string {
	if !p.hasArgs {
		p.args, p.hasArgs = parseCmdline(p.read("cmdline", 512, maxCmdline)), true
	}
	return p.args
}

// exe returns the path of the executable, "" if it may not be read. A file that
// was replaced by a package's update while the program runs counts as it was.
func (p *process) exe() string {
	if !p.hasPath {
		p.path, p.hasPath = strings.TrimSuffix(p.readlink("exe"), " (deleted)"), true
	}
	return p.path
}

// cwd returns the working directory, "" if it may not be read or was removed.
func (p *process) cwd() string {
	dir := p.readlink("cwd")
	if !strings.HasPrefix(dir, "/") || strings.HasSuffix(dir, " (deleted)") {
		return ""
	}
	return dir
}

// holds reports whether the working directory has a file of that name. It is
// asked of the process's directory and not of a path, so that it tells nobody
// of files in directories that he could not enter himself.
func (p *process) holds(name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(p.dir, "cwd/"+name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// cgroup returns the path of the control group, "" if unknown.
func (p *process) cgroup() string { return parseCgroup(p.read("cgroup", 512, maxSmall)) }

// comm returns the name that the process gave to itself (proc_pid_comm(5)).
func (p *process) comm() string {
	return strings.TrimSuffix(string(p.read("comm", 64, maxSmall)), "\n")
}

// startTicks returns when the process was started, in clock ticks since boot; it
// stays the same when the process executes another program.
func (p *process) startTicks() (uint64, bool) {
	st, ok := parseStat(p.read("stat", 512, maxSmall))
	return st.start, ok
}

// started is the same as a time of day, the zero Time if it is not known.
func (p *process) started() time.Time {
	ticks, ok := p.startTicks()
	if !ok {
		return time.Time{}
	}
	return startedAt(ticks)
}

type statFields struct {
	comm  string
	ppid  int
	start uint64 // clock ticks since boot
}

// parseStat reads proc_pid_stat(5). The name stands in parentheses and may hold
// parentheses, blanks and line ends itself: the last one closes it.
func parseStat(b []byte) (statFields, bool) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return statFields{}, false
	}
	rest := strings.Fields(string(b[end+1:]))
	const ppidField, startField = 4 - 3, 22 - 3 // counted from the third field on
	if len(rest) <= startField {
		return statFields{}, false
	}
	ppid, err := strconv.Atoi(rest[ppidField])
	if err != nil || ppid < 0 {
		return statFields{}, false
	}
	start, err := strconv.ParseUint(rest[startField], 10, 63)
	if err != nil {
		return statFields{}, false
	}
	return statFields{comm: string(b[open+1 : end]), ppid: ppid, start: start}, true
}

// parseStatus reads PPid and Uid of proc_pid_status(5). The name of the process
// comes first and is escaped there, so that it cannot pretend to be a line.
func parseStatus(b []byte) (identity, bool) {
	var f identity
	var hasPPid, hasUids bool
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		switch key {
		case "PPid":
			n, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil || n < 0 || hasPPid {
				return identity{}, false
			}
			f.ppid, hasPPid = n, true
		case "Uid":
			words := strings.Fields(value)
			if len(words) != len(f.uids) || hasUids {
				return identity{}, false
			}
			for i, w := range words {
				n, err := strconv.ParseUint(w, 10, 32)
				if err != nil {
					return identity{}, false
				}
				f.uids[i] = uint32(n)
			}
			hasUids = true
		}
	}
	return f, hasPPid && hasUids
}

// parseCgroup returns the path of the unified hierarchy (cgroups(7): "0::PATH")
// or, where a system has version 1 only, of systemd's own.
func parseCgroup(b []byte) string {
	var systemd string
	for line := range strings.Lines(string(b)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		switch {
		case len(fields) < 3:
		case fields[0] == "0" && fields[1] == "":
			return fields[2]
		case fields[1] == "name=systemd":
			systemd = fields[2]
		}
	}
	return systemd
}

// parseCmdline splits proc_pid_cmdline(5). A title that a program wrote over its
// arguments (setproctitle) is one argument; the rest of the old ones that it
// left as zero bytes is dropped.
func parseCmdline(b []byte) []string {
	text := strings.TrimRight(string(b), "\x00")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\x00")
}
