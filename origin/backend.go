package origin

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/serverstatus"
)

// connection is the one over which a worker of php-fpm got its request.
type connection struct {
	inode uint32
	peer  uint32 // inode of the other end
}

// connectionOf finds the connection that a worker has accepted at the address of
// its pool. There is one at a time; it is gone when the script has called
// fastcgi_finish_request. A pool on TCP has none that is looked for.
func connectionOf(worker *process, listen string) (connection, bool) {
	if !strings.HasPrefix(listen, "/") {
		return connection{}, false
	}
	diag, err := openNetlink(unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return connection{}, false
	}
	defer diag.close()
	var found connection
	for _, fd := range worker.fds() {
		inode, ok := socketInode(worker.fdLink(fd))
		if !ok {
			continue
		}
		s, ok := diag.unixSocket(inode)
		if !ok || s.name != listen || s.state != established || s.peer == 0 || inode == found.inode {
			continue
		}
		if found.inode != 0 { // two: somebody else has accepted one
			return connection{}, false
		}
		found = connection{inode: inode, peer: s.peer}
	}
	return found, found.inode != 0
}

// maxFrontends bounds how many processes of Apache are looked at for one
// connection.
const maxFrontends = 64

// clientOf finds for whom Apache passed a request to php-fpm: the process of
// Apache that holds the other end of the connection, and what it answers. The
// fact is Claimed: with enablereuse=on a script that goes on after
// fastcgi_finish_request leaves Apache's process free for another's request, which
// then looks like the one that FPM still works on.
func (c *call) clientOf(link connection, r serverstatus.Request) Fact {
	board, ok := c.finder.apache.Scoreboard()
	if !ok {
		return Fact{}
	}
	for _, pid := range frontends(board.Busy(maxFrontendRows), r) {
		if !holdsSocket(pid, link.peer) {
			continue
		}
		client := clientOfRows(board.Of(pid), r)
		if client == "" || !link.stays() {
			return Fact{}
		}
		return Fact{client, Claimed}
	}
	return Fact{}
}

// maxFrontendRows bounds how many busy threads of Apache are compared.
const maxFrontendRows = 1024

// frontends returns processes of Apache in the order in which they are likely to
// have passed on the request: the same line, and begun shortly before.
func frontends(busy map[int][]serverstatus.Request, r serverstatus.Request) []int {
	type candidate struct {
		pid int
		gap time.Duration
	}
	var list []candidate
	for pid, rows := range busy {
		best := candidate{pid: pid, gap: -1}
		for _, row := range rows {
			if row.Earliest.After(r.Latest) {
				continue // began after
			}
			gap := r.Earliest.Sub(row.Earliest)
			if sameLine(row, r) {
				gap = 0
			}
			if best.gap < 0 || gap < best.gap {
				best.gap = max(gap, 0)
			}
		}
		if best.gap >= 0 {
			list = append(list, best)
		}
	}
	slices.SortFunc(list, func(a, b candidate) int { return cmp.Or(cmp.Compare(a.gap, b.gap), cmp.Compare(a.pid, b.pid)) })
	var pids []int
	for _, candidate := range list[:min(len(list), maxFrontends)] {
		pids = append(pids, candidate.pid)
	}
	return pids
}

// clientOfRows returns the client of the requests of one process of Apache that
// can have led to a request of php-fpm, "" if there are several.
func clientOfRows(rows []serverstatus.Request, r serverstatus.Request) string {
	client := ""
	for _, row := range rows {
		if row.Earliest.After(r.Latest) {
			continue
		}
		a := address(row.Client)
		if a == "" || client != "" && a != client {
			return ""
		}
		client = a
	}
	return client
}

// sameLine reports whether a request of Apache is php-fpm's by method and URI, as
// far as both are kept. It is not if the URI was rewritten.
func sameLine(apache, fpm serverstatus.Request) bool {
	a, cutA := strings.CutSuffix(apache.URI, "…")
	b, cutB := strings.CutSuffix(fpm.URI, "…")
	switch {
	case apache.Method != fpm.Method || a == "" || b == "":
		return false
	case cutA && !cutB:
		return strings.HasPrefix(b, a)
	case cutB:
		return false // the path and the query are cut on their own
	}
	return a == b
}

// stays reports whether a connection still has the same other end.
func (link connection) stays() bool {
	diag, err := openNetlink(unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return false
	}
	defer diag.close()
	s, ok := diag.unixSocket(link.inode)
	return ok && s.peer == link.peer
}

// holdsSocket reports whether a process has a socket open.
func holdsSocket(pid int, inode uint32) bool {
	p := openProcess(pid)
	if p == nil {
		return false
	}
	defer p.close()
	return p.socketFD(p.fds(), inode) >= 0
}

// socketInode reads the link of a descriptor, "socket:[INODE]".
func socketInode(link string) (uint32, bool) {
	number, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32)
	return uint32(n), err == nil
}

// unixSocket is what linux/unix_diag.h tells of a socket.
type unixSocket struct {
	state uint8
	name  string // path that it is bound to, or was accepted at
	peer  uint32 // inode of the other end, 0 if there is none
}

// Of linux/unix_diag.h.
const (
	showName, showPeer = 1 << 0, 1 << 2
	diagName, diagPeer = 0, 2

	unixDiagSize = 16 // struct unix_diag_msg
)

// unixSocket asks for a socket by its inode; false if there is none such in our
// network namespace.
func (n netlink) unixSocket(inode uint32) (unixSocket, bool) {
	question := make([]byte, 24) // struct unix_diag_req
	order := binary.NativeEndian
	question[0] = unix.AF_UNIX
	order.PutUint32(question[4:], ^uint32(0)) // all states
	order.PutUint32(question[8:], inode)
	order.PutUint32(question[12:], showName|showPeer)
	order.PutUint64(question[16:], ^uint64(0)) // no cookie
	answer, err := n.ask(unix.SOCK_DIAG_BY_FAMILY, question)
	if err != nil {
		return unixSocket{}, false
	}
	return parseUnixDiag(answer, inode)
}

func parseUnixDiag(b []byte, inode uint32) (s unixSocket, ok bool) {
	order := binary.NativeEndian
	if len(b) < unixDiagSize || b[0] != unix.AF_UNIX || order.Uint32(b[4:]) != inode {
		return unixSocket{}, false
	}
	s.state = b[2]
	for attrs := b[unixDiagSize:]; len(attrs) >= 4; {
		size := int(order.Uint16(attrs))
		if size < 4 || size > len(attrs) {
			return unixSocket{}, false
		}
		value := attrs[4:size]
		switch order.Uint16(attrs[2:]) {
		case diagName:
			name, _, _ := bytes.Cut(value, []byte{0})
			s.name = string(name)
		case diagPeer:
			if len(value) >= 4 {
				s.peer = order.Uint32(value)
			}
		}
		attrs = attrs[min((size+3)&^3, len(attrs)):]
	}
	return s, true
}
