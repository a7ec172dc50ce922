package origin

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of descriptors of a process. A worker of Apache has its logs below those of
// a request, one or two for each virtual host.
const (
	listedFDs = 8192
	maxFDs    = 1024 // that are looked at
)

// fds returns the numbers of the open descriptors, rising, none if they may not
// be read.
func (p *process) fds() []int {
	dir, err := unix.Openat(p.dir, "fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(dir)
	var list []int
	buf := make([]byte, 8<<10)
	for len(list) < listedFDs {
		n, err := unix.ReadDirent(dir, buf)
		if err != nil || n <= 0 {
			break
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			if fd, err := strconv.Atoi(name); err == nil {
				list = append(list, fd)
			}
		}
	}
	slices.Sort(list)
	return list
}

// fdLink returns what a descriptor is open on, such as "/a/file", "socket:[7]" and
// "pipe:[8]"; "" if it is not open.
func (p *process) fdLink(fd int) string { return p.readlink("fd/" + strconv.Itoa(fd)) }

// socketFD returns the first of some descriptors that is open on a socket, -1 if none
// is.
func (p *process) socketFD(fds []int, inode uint32) int {
	link := socketLink(inode)
	for _, fd := range fds {
		if p.fdLink(fd) == link {
			return fd
		}
	}
	return -1
}

func socketLink(inode uint32) string { return "socket:[" + strconv.FormatUint(uint64(inode), 10) + "]" }

// fdFlags returns the flags of open(2) of a descriptor.
func (p *process) fdFlags(fd int) (int, bool) {
	text := p.read("fdinfo/"+strconv.Itoa(fd), 256, maxSmall)
	return parseFDFlags(text)
}

// parseFDFlags reads the field "flags", in octal, of proc_pid_fdinfo(5).
func parseFDFlags(text []byte) (int, bool) {
	for line := range bytes.Lines(text) {
		if value, ok := bytes.CutPrefix(line, []byte("flags:")); ok {
			flags, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 8, 31)
			return int(flags), err == nil
		}
	}
	return 0, false
}

// entryScript returns the path of the lowest descriptor above 2 of a regular file
// that is open for reading only and passed on to children: PHP opens the script
// that a request asks for before it runs anything, keeps it open unless it has it in
// opcache, and does not set close-on-exec, as libraries do. What the server that
// forked the process has open under the same number was there before: data files of
// extensions. Logs and locks are open for writing. "" if there is none.
func (p *process) entryScript(server *process) string {
	fds := p.fds()
	for _, fd := range fds[:min(len(fds), maxFDs)] {
		path := p.fdLink(fd)
		if fd <= 2 || !strings.HasPrefix(path, "/") || server != nil && server != p && server.fdLink(fd) == path {
			continue
		}
		flags, ok := p.fdFlags(fd)
		if !ok || flags&unix.O_ACCMODE != unix.O_RDONLY || flags&(unix.O_PATH|unix.O_CLOEXEC) != 0 {
			continue
		}
		// Not to wait for the server of a network file system.
		var st unix.Statx_t
		err := unix.Statx(p.dir, "fd/"+strconv.Itoa(fd), unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_NLINK, &st)
		if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		if st.Nlink == 0 { // the file may have been replaced, or has removed itself
			path = strings.TrimSuffix(path, " (deleted)")
		}
		return path
	}
	return ""
}

// awaitTime is for how long a worker may run before it waits: it has just closed
// the pipe by which the caller got his message, and needs a processor.
const awaitTime = 20 * time.Millisecond

// awaits reports whether the only thread of a process waits for this child of its
// own: for its end, in wait4(2) or waitid(2) with its pid (pclose, proc_close, and
// so mail()), or at the other end of a pipe of it.
func (p *process) awaits(child *process) bool {
	var fds []int
	for end := time.Now().Add(awaitTime); ; time.Sleep(200 * time.Microsecond) {
		doing := p.read("syscall", 256, maxSmall)
		if waitsForPID(doing, child.pid) { // as with mail(), nearly always at once
			return true
		}
		if fds == nil {
			fds = p.fds()
		}
		if p.feeds(child, fds) {
			return true
		}
		if !bytes.HasPrefix(doing, []byte("running")) || time.Now().After(end) {
			return false
		}
	}
}

// waitsForPID reads proc_pid_syscall(5).
func waitsForPID(text []byte, pid int) bool {
	call, ok := parseSystemCall(text)
	if !ok || pid <= 0 {
		return false
	}
	switch call.number {
	case unix.SYS_WAIT4:
		return call.arguments[0] == uint64(pid)
	case unix.SYS_WAITID:
		return call.arguments[0] == unix.P_PID && call.arguments[1] == uint64(pid)
	}
	return false
}

// systemCall is one in which a thread waits.
type systemCall struct {
	number    int
	arguments [6]uint64
}

// parseSystemCall reads proc_pid_syscall(5): "NUMBER ARGUMENTS…" in hexadecimal but for
// the number; false for "running", and for a thread that waits elsewhere ("-1").
func parseSystemCall(text []byte) (call systemCall, ok bool) {
	fields := strings.Fields(string(text))
	if len(fields) <= len(call.arguments) {
		return systemCall{}, false
	}
	var err error
	if call.number, err = strconv.Atoi(fields[0]); err != nil || call.number < 0 {
		return systemCall{}, false
	}
	for i := range call.arguments {
		if call.arguments[i], err = strconv.ParseUint(strings.TrimPrefix(fields[1+i], "0x"), 16, 64); err != nil {
			return systemCall{}, false
		}
	}
	return call, true
}

// reads reports whether the only thread of a process waits for what comes at one of its
// descriptors, and perhaps at others.
func (p *process) reads(fd int) bool {
	m, err := p.openMemory()
	if err != nil {
		return false
	}
	defer m.close()
	for end := time.Now().Add(awaitTime); ; time.Sleep(200 * time.Microsecond) {
		doing := p.read("syscall", 256, maxSmall)
		if call, ok := parseSystemCall(doing); ok {
			return call.reads(fd, m.read)
		}
		if !bytes.HasPrefix(doing, []byte("running")) || time.Now().After(end) {
			return false
		}
	}
}

// maxPolled bounds the descriptors of poll(2) that are looked at.
const maxPolled = 64

// reads reports whether it is one that waits for what comes at a descriptor. What
// poll(2) and select(2) wait for lies in memory of the process; pread reads that, and
// returns how many bytes it read.
func (call systemCall) reads(fd int, pread func(b []byte, at uint64) int) bool {
	first, second := call.arguments[0], call.arguments[1]
	switch call.number {
	case unix.SYS_READ, unix.SYS_RECVFROM:
		return first == uint64(fd)
	case sysPoll, unix.SYS_PPOLL: // struct pollfd: int fd; short events, revents
		b := make([]byte, 8*min(second, maxPolled))
		for b = b[:pread(b, first)]; len(b) >= 8; b = b[8:] {
			if binary.NativeEndian.Uint32(b) == uint32(fd) && binary.NativeEndian.Uint16(b[4:])&unix.POLLIN != 0 {
				return true
			}
		}
	case sysSelect, unix.SYS_PSELECT6: // fd_set: bits of words
		if fd < 0 || uint64(fd) >= first {
			return false
		}
		var word [8]byte
		return pread(word[:], second+8*uint64(fd/64)) == len(word) && binary.NativeEndian.Uint64(word[:])>>(fd%64)&1 != 0
	}
	return false
}

// feeds reports whether a process holds the other end of a pipe that is standard
// input, output or error of its child (popen, proc_open, exec, system), and has no
// other child. The latter since an old child could open the pipe of a new one by
// /proc, where both have the same uid; but the one for which the pipe was made is
// a child until its parent has closed the pipe and waited for it.
func (p *process) feeds(child *process, fds []int) bool {
	fd, link := p.pipeTo(child, fds)
	return fd >= 0 && p.onlyChild() == child.pid && p.fdLink(fd) == link
}

// pipeTo returns the one of the descriptors that is the other end of a pipe of a
// child's, -1 if there is none. It begins with the highest: logs are opened first.
func (p *process) pipeTo(child *process, fds []int) (int, string) {
	ends := make(map[string]int) // what our end has to be open for
	for fd := range 3 {
		link := child.fdLink(fd)
		if flags, ok := child.fdFlags(fd); ok && strings.HasPrefix(link, "pipe:[") {
			switch flags & unix.O_ACCMODE {
			case unix.O_RDONLY:
				ends[link] = unix.O_WRONLY
			case unix.O_WRONLY:
				ends[link] = unix.O_RDONLY
			}
		}
	}
	if len(ends) == 0 {
		return -1, ""
	}
	for _, fd := range slices.Backward(fds[max(len(fds)-maxFDs, 0):]) {
		link := p.fdLink(fd)
		mode, ok := ends[link]
		if fd <= 2 || !ok {
			continue
		}
		if flags, known := p.fdFlags(fd); known && flags&unix.O_ACCMODE == mode {
			return fd, link
		}
	}
	return -1, ""
}

// hasOneThread reports whether a process has no thread but the first.
func (p *process) hasOneThread() bool {
	return bytes.Contains(p.read("status", 4<<10, maxSmall), []byte("\nThreads:\t1\n"))
}

// onlyChild returns the pid of the only child of the thread that leads the
// process, ended ones that were not waited for included (proc_tid_children(5)); 0
// if it has none, several or they are not to be known.
func (p *process) onlyChild() int {
	text := p.read("task/"+strconv.Itoa(p.pid)+"/children", 64, 64)
	pid, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil {
		return 0
	}
	return pid
}
