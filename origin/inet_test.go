package origin

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tcpServer accepts connections at an address.
func tcpServer(t testing.TB, address string) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := l.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return l
}

// socketOf makes a socket as if a user's process had made it, whose file system uid
// that takes.
func socketOf(t testing.TB, uid, domain, protocol int) int {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0)
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	unix.RawSyscall(unix.SYS_SETFSUID, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func sockaddr(domain int, a netip.AddrPort) unix.Sockaddr {
	if domain == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: zoneOf(a.Addr())}
}

// connect connects a socket to a server, and returns the server's end.
func connect(t testing.TB, fd, domain int, to netip.Addr, l *net.TCPListener) *net.TCPConn {
	t.Helper()
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	if err := unix.Connect(fd, sockaddr(domain, netip.AddrPortFrom(to, port))); err != nil {
		t.Fatal(err)
	}
	c, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func ends(c *net.TCPConn) (client, server netip.AddrPort) {
	return c.RemoteAddr().(*net.TCPAddr).AddrPort(), c.LocalAddr().(*net.TCPAddr).AddrPort()
}

// wantClient asks for a client of this host, of whom nothing is to be known where want
// is 0.
func wantClient(t testing.TB, client, server netip.AddrPort, want uint32) {
	t.Helper()
	p, local, err := new(Finder).Client(client, server)
	if err != nil || !local {
		t.Fatalf("Client(%v, %v): local %v, %v", client, server, local, err)
	}
	switch {
	case want == 0 && p != nil:
		t.Errorf("Client(%v, %v) is uid %d, want none", client, server, p.UID)
	case want != 0 && p == nil:
		t.Errorf("Client(%v, %v) is none, want uid %d", client, server, want)
	case p != nil && p.UID != want:
		t.Errorf("Client(%v, %v) is uid %d, want %d", client, server, p.UID, want)
	}
	if p != nil {
		p.Close()
	}
}

func TestClient(t *testing.T) {
	tests := []struct {
		name       string
		listen, to string
		domain     int
		protocol   int    // 0 is TCP
		device     string // of SO_BINDTODEVICE
	}{
		{name: "IPv4", listen: "127.0.0.1:0", to: "127.0.0.1", domain: unix.AF_INET},
		{name: "IPv4, another address", listen: "0.0.0.0:0", to: "127.8.9.10", domain: unix.AF_INET},
		{name: "IPv6", listen: "[::1]:0", to: "::1", domain: unix.AF_INET6},
		{name: "IPv4 by a socket of IPv6", listen: "127.0.0.1:0", to: "::ffff:127.0.0.1", domain: unix.AF_INET6},
		{name: "IPv4 to a server of IPv6", listen: "[::]:0", to: "127.0.0.1", domain: unix.AF_INET},
		{name: "IPv4 by sockets of IPv6", listen: "[::]:0", to: "::ffff:127.0.0.1", domain: unix.AF_INET6},
		{name: "bound to a device", listen: "127.0.0.1:0", to: "127.0.0.1", domain: unix.AF_INET, device: "lo"},
		{name: "MPTCP", listen: "127.0.0.1:0", to: "127.0.0.1", domain: unix.AF_INET, protocol: unix.IPPROTO_MPTCP},
		{name: "IPv6, bound to a device", listen: "[::1]:0", to: "::1", domain: unix.AF_INET6, device: "lo"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := tcpServer(t, test.listen)
			for _, uid := range []uint32{alice, bob} {
				fd := socketOf(t, int(uid), test.domain, test.protocol)
				defer unix.Close(fd)
				if test.device != "" {
					if err := unix.BindToDevice(fd, test.device); err != nil {
						t.Fatal(err)
					}
				}
				client, server := ends(connect(t, fd, test.domain, netip.MustParseAddr(test.to), l))
				wantClient(t, client, server, uid)
				wantClient(t, unmap(client), unmap(server), uid)
				// The server's end is ours.
				if p, local, err := new(Finder).Client(server, client); err != nil || !local || p == nil || p.UID != 0 {
					t.Errorf("the server's end: %+v, %v, %v", p, local, err)
				}
				// Other connections are not taken for it.
				wantClient(t, client, netip.AddrPortFrom(server.Addr(), server.Port()^1), 0)
				wantClient(t, netip.AddrPortFrom(client.Addr(), 0), server, 0)
			}
		})
	}
}

// One Finder that is asked about several clients at a time keeps some of the sockets by
// which it asks, and takes no answer for another's.
func TestClientAtOnce(t *testing.T) {
	f := new(Finder)
	var asking sync.WaitGroup
	l := tcpServer(t, "127.0.0.1:0")
	for n := range 4 * maxIdleNetlinks {
		uid := []uint32{alice, bob}[n%2]
		fd := socketOf(t, int(uid), unix.AF_INET, 0)
		defer unix.Close(fd)
		client, server := ends(connect(t, fd, unix.AF_INET, netip.MustParseAddr("127.0.0.1"), l))
		asking.Go(func() {
			for range 100 {
				if p, local, err := f.Client(client, server); err != nil || !local || p == nil || p.UID != uid {
					t.Errorf("%+v, %v, %v, want uid %d", p, local, err, uid)
				}
				if p, _, err := f.Client(netip.AddrPortFrom(client.Addr(), 0), server); err != nil || p != nil {
					t.Errorf("no client is %+v, %v", p, err)
				}
			}
		})
	}
	asking.Wait()
	if n := len(f.diag.idle); n == 0 || n > maxIdleNetlinks {
		t.Errorf("%d sockets are kept", n)
	}
	for _, n := range f.diag.idle {
		n.close()
	}
}

// A client that has gone is charged right, or not at all, whoever uses its port.
func TestClientGone(t *testing.T) {
	tests := []struct {
		name  string
		leave func(t *testing.T, fd int, accepted *net.TCPConn)
	}{
		{"closed", func(t *testing.T, fd int, _ *net.TCPConn) { unix.Close(fd) }},
		{"closed, with data on the way", func(t *testing.T, fd int, _ *net.TCPConn) {
			if err := unix.SetNonblock(fd, true); err != nil {
				t.Fatal(err)
			}
			for { // more than the server's end holds
				if _, err := unix.Write(fd, make([]byte, 64<<10)); err != nil {
					break
				}
			}
			unix.Close(fd)
		}},
		{"closed by both", func(t *testing.T, fd int, accepted *net.TCPConn) {
			unix.Close(fd)
			if _, err := accepted.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("read of a closed connection: %v", err)
			}
			accepted.Close()
		}},
		{"reset", func(t *testing.T, fd int, accepted *net.TCPConn) {
			if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
				t.Fatal(err)
			}
			unix.Close(fd)
			if _, err := accepted.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("read of a reset connection: %v", err)
			}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := tcpServer(t, "127.0.0.1:0")
			fd, listener := socketOf(t, alice, unix.AF_INET, 0), socketOf(t, bob, unix.AF_INET6, 0)
			defer unix.Close(listener)
			for _, s := range []int{fd, listener} {
				if err := unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
					t.Fatal(err)
				}
			}
			c := connect(t, fd, unix.AF_INET, netip.MustParseAddr("127.0.0.1"), l)
			client, server := ends(c)
			// Bob listens on the port, at all addresses.
			test.leave(t, fd, c)
			if err := unix.Bind(listener, &unix.SockaddrInet6{Port: int(client.Port())}); err != nil {
				t.Fatal(err)
			}
			if err := unix.Listen(listener, 1); err != nil {
				t.Fatal(err)
			}
			p, local, err := new(Finder).Client(client, server)
			if err != nil || !local || p != nil && p.UID != alice {
				t.Errorf("%+v, %v, %v: want alice or none", p, local, err)
			}
		})
	}
}

// A client that has closed its end for writing waits for answers.
func TestClientHalfClosed(t *testing.T) {
	l := tcpServer(t, "127.0.0.1:0")
	fd := socketOf(t, alice, unix.AF_INET, 0)
	defer unix.Close(fd)
	client, server := ends(connect(t, fd, unix.AF_INET, netip.MustParseAddr("127.0.0.1"), l))
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	wantClient(t, client, server, alice)
}

// Addresses of this host, those that one can only bind to, and others'.
func TestClientLocal(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1": true, "127.255.0.3": true, "::ffff:127.0.0.1": true, "::1": true,
		"198.51.100.7": false, "2001:db8::7": false, "::ffff:198.51.100.7": false, "fe80::7%lo": false, "fe80::7%none": false,
		"224.0.0.1": false, "255.255.255.255": false, "ff02::1": false, "::": false,
	} {
		client, server := netip.AddrPortFrom(netip.MustParseAddr(address), 12345), netip.MustParseAddrPort("127.0.0.1:25")
		p, local, err := new(Finder).Client(client, server)
		if err != nil || p != nil || local != want {
			t.Errorf("%s: %+v, %v, %v, want local %v", address, p, local, err, want)
		}
		if _, local, err := new(Finder).Client(client, netip.AddrPort{}); err != nil || local != want {
			t.Errorf("%s, server not known: %v, %v", address, local, err)
		}
	}
	if _, _, err := new(Finder).Client(netip.AddrPort{}, netip.AddrPort{}); err == nil {
		t.Error("no address is a client")
	}
}

// inNetwork runs a test in a network of its own, whose loopback device is up and has
// an address.
func inNetwork(t *testing.T, address netip.Addr, test func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and the thread ends with this
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		up, err := unix.NewIfreq("lo")
		if err != nil {
			t.Error(err)
			return
		}
		up.SetUint16(unix.IFF_UP)
		// struct in6_ifreq of linux/ipv6.h
		assign := make([]byte, 24)
		copy(assign, address.AsSlice())
		binary.NativeEndian.PutUint32(assign[16:], 64)
		binary.NativeEndian.PutUint32(assign[20:], loopback)
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, up); err != nil {
			t.Error(err)
			return
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(&assign[0]))); errno != 0 {
			t.Error(errno)
			return
		}
		test()
	}()
	<-done
}

// Sockets of link-local addresses are bound to their link, which Postfix does not tell.
func TestClientZone(t *testing.T) {
	address := netip.MustParseAddr("fe80::7")
	inNetwork(t, address, func() {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv6unspecified})
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
		fd := socketOf(t, alice, unix.AF_INET6, 0)
		defer unix.Close(fd)
		// Until the kernel has made the address usable.
		own := sockaddr(unix.AF_INET6, netip.AddrPortFrom(address.WithZone("lo"), 0))
		for end := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
			if err = unix.Bind(fd, own); err == nil || time.Now().After(end) {
				break
			}
		}
		port := l.Addr().(*net.TCPAddr).AddrPort().Port()
		if err := unix.Connect(fd, sockaddr(unix.AF_INET6, netip.AddrPortFrom(address.WithZone("lo"), port))); err != nil {
			t.Error(err)
			return
		}
		c, err := l.AcceptTCP()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		client, server := ends(c)
		if client.Addr().Zone() != "lo" {
			t.Errorf("the client's address is %v", client)
		}
		for _, zone := range []string{"lo", "1", "", "none"} {
			at := netip.AddrPortFrom(client.Addr().WithZone(zone), client.Port())
			p, local, err := new(Finder).Client(at, withoutZone(server))
			if err != nil || !local || p == nil || p.UID != alice {
				t.Errorf("zone %q: %+v, %v, %v", zone, p, local, err)
			}
		}
		for _, other := range []string{"fe80::8", "fe80::8%lo"} {
			if _, local, err := new(Finder).Client(netip.AddrPortFrom(netip.MustParseAddr(other), 7), server); err != nil || local {
				t.Errorf("%s: local %v, %v", other, local, err)
			}
		}
	})
}

// inetAnswer is a struct inet_diag_msg.
func inetAnswer(local, remote netip.AddrPort, state uint8, uid, inode uint32) []byte {
	b := make([]byte, inetAnswerSize)
	b[0], b[1] = familyOf(local.Addr()), state
	binary.BigEndian.PutUint16(b[4:], local.Port())
	binary.BigEndian.PutUint16(b[6:], remote.Port())
	copy(b[8:], local.Addr().AsSlice())
	copy(b[24:], remote.Addr().AsSlice())
	binary.NativeEndian.PutUint32(b[64:], uid)
	binary.NativeEndian.PutUint32(b[68:], inode)
	return b
}

func TestInetDiag(t *testing.T) {
	client, server := netip.MustParseAddrPort("127.0.0.1:40000"), netip.MustParseAddrPort("127.0.0.1:25")
	mapped := func(a netip.AddrPort) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
	}
	const listens, timeWait, finWait2, synReceived = 10, 6, 5, 3
	tests := []struct {
		name string
		b    []byte
		want bool
	}{
		{"connected", inetAnswer(client, server, established, alice, 7), true},
		{"of IPv6", inetAnswer(mapped(client), mapped(server), established, alice, 7), true},
		{"root's", inetAnswer(client, server, established, 0, 7), true},
		{"closed early", inetAnswer(client, server, finWait2, alice, 0), true},
		{"closed early, uid not known", inetAnswer(client, server, finWait2, 0, 0), false},
		{"over", inetAnswer(client, server, timeWait, 0, 0), false},
		{"a request", inetAnswer(client, server, synReceived, 0, 0), false},
		{"a request, with its listener's uid", inetAnswer(client, server, synReceived, bob, 0), false},
		{"a listener", inetAnswer(client, netip.MustParseAddrPort("0.0.0.0:0"), listens, bob, 7), false},
		{"the server's end", inetAnswer(server, client, established, bob, 7), false},
		{"to another server", inetAnswer(client, netip.MustParseAddrPort("127.0.0.2:25"), established, bob, 7), false},
		{"to another port", inetAnswer(client, netip.MustParseAddrPort("127.0.0.1:587"), established, bob, 7), false},
		{"from another port", inetAnswer(netip.MustParseAddrPort("127.0.0.1:40001"), server, established, bob, 7), false},
	}
	for _, test := range tests {
		s, ok := parseInetDiag(test.b)
		if got := ok && s.isEnd(client, server); got != test.want {
			t.Errorf("%s: %+v, %v", test.name, s, got)
		}
	}
}

// FuzzNetlink reads what the kernel answers.
func FuzzNetlink(f *testing.F) {
	message := func(kind uint16, body []byte) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		return append(append(b, make([]byte, unix.NLMSG_HDRLEN-len(b))...), body...)
	}
	a, b := netip.MustParseAddrPort("127.0.0.1:40000"), netip.MustParseAddrPort("[::1]:25")
	f.Add(message(unix.SOCK_DIAG_BY_FAMILY, inetAnswer(a, a, established, alice, 7)))
	f.Add(message(unix.SOCK_DIAG_BY_FAMILY, inetAnswer(b, b, established, alice, 7)))
	f.Add(message(unix.RTM_NEWROUTE, []byte{unix.AF_INET, 32, 0, 0, 0, 0, 0, unix.RTN_LOCAL, 0, 0, 0, 0}))
	f.Add(message(unix.NLMSG_ERROR, []byte{0xfe, 0xff, 0xff, 0xff}))
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := parseNetlink(b)
		if err != nil && body != nil || len(body) > max(len(b)-unix.NLMSG_HDRLEN, 0) {
			t.Errorf("parseNetlink(%q) = %q, %v", b, body, err)
		}
		if s, ok := parseInetDiag(body); ok && (len(body) < inetAnswerSize || !s.local.IsValid() || s.local.Addr().Is4In6()) {
			t.Errorf("parseInetDiag(%q) = %+v", body, s)
		}
		if _, ok := parseRoute(body); ok && len(body) < unix.SizeofRtMsg {
			t.Errorf("parseRoute(%q)", body)
		}
		parseUnixDiag(body, 0)
	})
}

func BenchmarkClient(b *testing.B) {
	l := tcpServer(b, "127.0.0.1:0")
	fd := socketOf(b, alice, unix.AF_INET, 0)
	defer unix.Close(fd)
	client, server := ends(connect(b, fd, unix.AF_INET, netip.MustParseAddr("127.0.0.1"), l))
	var f Finder
	reportCPU(b, func() {
		if p, _, err := f.Client(client, server); err != nil || p.UID != alice {
			b.Fatal(p, err)
		}
	})
}
