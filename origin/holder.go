package origin

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of the search for a socket. A user who has more open hides which of his
// programs sends, and nothing else.
const (
	maxSearchedFDs = 1 << 15 // descriptors of his processes
	maxHolders     = 64      // processes that have it open
)

// holder is a process that has a socket open.
type holder struct {
	*process
	fd   int
	link string // what fd is open on
}

// stays reports whether the process has run all the time, and has the socket open as
// before.
func (h holder) stays() bool { return h.fdLink(h.fd) == h.link }

// readClient reads the chain of the process that has the socket of an SMTP client open,
// if there is one. It stands there twice: as sendmail does that a program calls, and as
// that program.
func (c *call) readClient(socket uint32) {
	h, ok := c.holderOf(socket)
	if !ok {
		return
	}
	c.readChain(h.pid)
	c.chain = slices.Insert(c.chain, 0, h.process)
	if c.at > 0 {
		c.at++
	}
	c.client = h
	c.claims.Env = h.environment()
	c.awaited = c.at == 2 && h.reads(h.fd)
}

// holderOf finds the process of the caller that has a socket open: the only one, or of
// several the one that is the parent of all others, as of a program that has started
// others without closing it. False if there is none such.
func (c *call) holderOf(socket uint32) (found holder, ok bool) {
	var holders []holder
	defer func() {
		for _, h := range holders {
			if h != found {
				h.close()
			}
		}
	}()
	searched := 0
	for _, pid := range processIDs() {
		p := c.openOwn(pid)
		if p == nil {
			continue
		}
		fds := p.fds()
		if fd := p.socketFD(fds, socket); fd >= 0 {
			holders = append(holders, holder{p, fd, socketLink(socket)})
		} else {
			p.close()
		}
		searched += len(fds)
		if searched > maxSearchedFDs || len(fds) >= listedFDs || len(holders) > maxHolders {
			return holder{}, false // there may be others
		}
	}
	for _, h := range holders {
		if !slices.ContainsFunc(holders, func(other holder) bool { return other != h && other.ppid != h.pid }) {
			return h, true
		}
	}
	return holder{}, false
}

// processIDs returns the pids of all processes that can be seen.
func processIDs() []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// openOwn opens a process if its effective uid is the caller's, nil if it is not. That is
// the owner of its directory, even where others may not trace it (task_dump_owner of
// fs/proc/base.c), which costs less than to open all processes of the host.
func (c *call) openOwn(pid int) *process {
	var st unix.Stat_t
	if unix.Stat("/proc/"+strconv.Itoa(pid), &st) != nil || !c.isCaller(st.Uid) {
		return nil
	}
	p := openProcess(pid)
	if p != nil && !c.isCaller(p.uids[1]) { // the pid is another's by now
		p.close()
		return nil
	}
	return p
}

// environment returns the variables with which the program was started
// (proc_pid_environ(5)); only the first 64 KiB are read.
func (p *process) environment() map[string]string {
	env := make(map[string]string)
	for _, variable := range parseCmdline(p.read("environ", 4<<10, maxCmdline)) {
		if name, value, ok := strings.Cut(variable, "="); ok {
			env[name] = value
		}
	}
	return env
}
