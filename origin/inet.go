package origin

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Client returns who is at the other end of a TCP connection to this host: client is
// the address there, server that of the program that accepted it. local tells whether
// client is an address of this host at all; then p is nil where the kernel knows no such
// connection any more, or not whose it was. The uid of p is the kernel's, of the process
// that made the socket; which of the user's processes has it open now, Find looks for,
// so that it is to be asked while the client waits. PID and GID of p are 0. After an
// error nothing is known, not even that client is another host's. Close p after use.
func (f *Finder) Client(client, server netip.AddrPort) (p *Peer, local bool, err error) {
	client, server = unmap(client), unmap(server)
	if !client.IsValid() {
		return nil, false, errors.New("find the client of a connection: no address")
	}
	if local, err = f.local.isLocal(client.Addr()); err != nil {
		return nil, false, fmt.Errorf("ask the kernel for the route to %v: %w", client.Addr(), err)
	}
	if !local || !server.IsValid() {
		return nil, local, nil
	}
	s, ok, err := f.clientSocket(client, server)
	if err != nil {
		return nil, false, fmt.Errorf("ask the kernel for the connection from %v to %v: %w", client, server, err)
	}
	if !ok {
		return nil, true, nil
	}
	return &Peer{UID: s.uid, pidfd: -1, smtp: true, socket: s.inode}, true, nil
}

// unmap turns ::ffff:192.0.2.1, as which a server on an IPv6 socket sees a client by
// IPv4, into 192.0.2.1.
func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// addresses remembers of addresses whether they are this host's. It is asked about each
// client of the mail server, and few of them are.
type addresses struct {
	mu    sync.Mutex
	known map[netip.Addr]standing
}

type standing struct {
	local bool
	asked time.Time
}

// An address that is given to this host, or taken from it, is noticed after addressAge.
const (
	addressAge   = time.Second
	maxAddresses = 4096
)

func (h *addresses) isLocal(a netip.Addr) (bool, error) {
	if a.IsLoopback() { // a whole /8, of which a client has his choice
		return true, nil
	}
	now := time.Now()
	h.mu.Lock()
	known, ok := h.known[a]
	h.mu.Unlock()
	if ok && now.Sub(known.asked) < addressAge {
		return known.local, nil
	}
	local, err := isLocal(a)
	if err != nil {
		return false, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known == nil || len(h.known) >= maxAddresses {
		h.known = map[netip.Addr]standing{}
	}
	h.known[a] = standing{local, now}
	return local, nil
}

// isLocal reports whether packets to an address stay on this host. Whether one can bind
// to it tells less: with net.ipv4.ip_nonlocal_bind one can to any.
func isLocal(a netip.Addr) (bool, error) {
	n, err := openNetlink(unix.NETLINK_ROUTE)
	if err != nil {
		return false, err
	}
	defer n.close()
	answer, err := n.ask(unix.RTM_GETROUTE, routeQuestion(a))
	switch {
	// None, or one of type unreachable, prohibit or blackhole (fib_props of
	// net/ipv4/fib_semantics.c).
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL):
		return false, nil
	case err != nil:
		return false, err
	}
	kind, ok := parseRoute(answer)
	if !ok {
		return false, errors.New("no route in the answer")
	}
	return kind == unix.RTN_LOCAL, nil
}

// routeQuestion is a struct rtmsg of linux/rtnetlink.h and its attributes.
func routeQuestion(a netip.Addr) []byte {
	q := make([]byte, unix.SizeofRtMsg)
	q[0], q[1] = familyOf(a), uint8(a.BitLen())
	order := binary.NativeEndian
	attribute := func(kind uint16, value []byte) {
		q = order.AppendUint16(q, uint16(unix.SizeofRtAttr+len(value)))
		q = order.AppendUint16(q, kind)
		q = append(q, value...)
	}
	attribute(unix.RTA_DST, a.AsSlice())
	if device := zoneOf(a); device != 0 {
		attribute(unix.RTA_OIF, order.AppendUint32(nil, device))
	}
	return q
}

// parseRoute returns the type of a route, rtm_type.
func parseRoute(b []byte) (kind uint8, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return 0, false
	}
	return b[7], true
}

func familyOf(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// zoneOf returns the index of the interface that is an address's zone (RFC 4007), 0 if
// it names none that there is.
func zoneOf(a netip.Addr) uint32 {
	if a.Zone() == "" {
		return 0
	}
	if number, ok := parseUID(a.Zone()); ok {
		return number
	}
	device, err := net.InterfaceByName(a.Zone())
	if err != nil {
		return 0
	}
	return uint32(device.Index)
}

// loopback is the index of the interface by which packets of this host reach it, the
// first of each network namespace.
const loopback = 1

// clientSocket finds the client's end of a connection of this host with itself, false
// if there is none that has an owner.
func (f *Finder) clientSocket(client, server netip.AddrPort) (tcpSocket, bool, error) {
	devices, err := devicesOf(client.Addr())
	if err != nil {
		return tcpSocket{}, false, err
	}
	n, err := f.diag.take(unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return tcpSocket{}, false, err
	}
	var found []tcpSocket
	for _, device := range devices {
		s, ok, err := n.tcpSocket(client, server, device)
		if err != nil {
			n.close() // an answer may be on it yet
			return tcpSocket{}, false, err
		}
		if ok && s.isEnd(client, server) && !slices.Contains(found, s) {
			found = append(found, s)
		}
	}
	f.diag.giveBack(n)
	if len(found) != 1 { // of several links with one address
		return tcpSocket{}, false, nil
	}
	return found[0], true, nil
}

// devicesOf returns the interfaces by which a connection from an address can have come.
// The kernel finds a socket that is bound to one (SO_BINDTODEVICE, which all may set)
// only by it, one that is not by any; and those of link-local addresses are bound. Postfix
// tells these without their zone (smtpd_peer.c).
func devicesOf(a netip.Addr) ([]uint32, error) {
	if !a.Is6() || !a.IsLinkLocalUnicast() {
		return []uint32{loopback}, nil
	}
	if device := zoneOf(a); device != 0 {
		return []uint32{device}, nil
	}
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var devices []uint32
	for _, link := range links {
		devices = append(devices, uint32(link.Index))
	}
	return devices, nil
}

// tcpSocket is what linux/inet_diag.h tells of an end of a connection.
type tcpSocket struct {
	local, remote netip.AddrPort // without zones, IPv4 as IPv4
	state         uint8
	uid           uint32 // of who made it; 0 if that is not known any more
	inode         uint32 // 0 if no process has it open
}

// States of a connection (net/tcp_states.h) in which it has two ends.
const (
	established     = 1
	connectedStates = 1<<established | 1<<unix.BPF_TCP_FIN_WAIT1 | 1<<unix.BPF_TCP_FIN_WAIT2 |
		1<<unix.BPF_TCP_CLOSE_WAIT | 1<<unix.BPF_TCP_LAST_ACK | 1<<unix.BPF_TCP_CLOSING
)

// isEnd reports whether a socket is the end at local of a connection to remote, and has
// an owner. Where there is no such connection, the kernel answers with a socket that
// listens on the port. What is left of a connection after its end (TIME_WAIT, which shows
// FIN_WAIT2 at first) has uid and inode 0; one that was closed and has still to send has
// inode 0 and keeps its uid with Linux 6.18, and older kernels say that it is root's.
func (s tcpSocket) isEnd(local, remote netip.AddrPort) bool {
	return s.local == withoutZone(local) && s.remote == withoutZone(remote) &&
		1<<s.state&connectedStates != 0 && (s.uid != 0 || s.inode != 0)
}

func withoutZone(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().WithZone(""), a.Port())
}

const (
	inetQuestionSize = 56 // struct inet_diag_req_v2
	inetAnswerSize   = 72 // struct inet_diag_msg
)

// tcpSocket asks for the end at local of a connection to remote that came by a device,
// false if there is none in our network namespace. Sockets of AF_INET6 that are
// connected by IPv4 are found as those of AF_INET are (inet_diag_find_one_icsk of
// net/ipv4/inet_diag.c).
func (n netlink) tcpSocket(local, remote netip.AddrPort, device uint32) (tcpSocket, bool, error) {
	if local.Addr().Is4() != remote.Addr().Is4() {
		return tcpSocket{}, false, nil
	}
	q := make([]byte, inetQuestionSize)
	order := binary.NativeEndian
	q[0], q[1] = familyOf(local.Addr()), unix.IPPROTO_TCP
	order.PutUint32(q[4:], ^uint32(0)) // all states
	binary.BigEndian.PutUint16(q[8:], local.Port())
	binary.BigEndian.PutUint16(q[10:], remote.Port())
	copy(q[12:28], local.Addr().AsSlice())
	copy(q[28:44], remote.Addr().AsSlice())
	order.PutUint32(q[44:], device)
	order.PutUint64(q[48:], ^uint64(0)) // no cookie
	answer, err := n.ask(unix.SOCK_DIAG_BY_FAMILY, q)
	if errors.Is(err, unix.ENOENT) {
		return tcpSocket{}, false, nil
	}
	if err != nil {
		return tcpSocket{}, false, err
	}
	s, ok := parseInetDiag(answer)
	if !ok {
		return tcpSocket{}, false, errors.New("no socket in the answer")
	}
	return s, true, nil
}

func parseInetDiag(b []byte) (tcpSocket, bool) {
	if len(b) < inetAnswerSize {
		return tcpSocket{}, false
	}
	size := 16
	switch b[0] {
	case unix.AF_INET:
		size = 4
	case unix.AF_INET6:
	default:
		return tcpSocket{}, false
	}
	end := func(address, port []byte) netip.AddrPort {
		a, _ := netip.AddrFromSlice(address[:size])
		return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(port))
	}
	order := binary.NativeEndian
	return tcpSocket{
		local:  end(b[8:], b[4:]),
		remote: end(b[24:], b[6:]),
		state:  b[1],
		uid:    order.Uint32(b[64:]),
		inode:  order.Uint32(b[68:]),
	}, true
}
