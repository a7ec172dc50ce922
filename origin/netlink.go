package origin

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// netlink is a socket on which the kernel answers questions (netlink(7)): about
// sockets (sock_diag(7)) and routes (rtnetlink(7)). No capability is needed.
type netlink struct{ fd int }

func openNetlink(protocol int) (netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return netlink{-1}, fmt.Errorf("socket of netlink: %w", err)
	}
	return netlink{fd}, nil
}

func (n netlink) close() { unix.Close(n.fd) }

// netlinks are sockets of one protocol that are kept for the next question, since to open
// one costs more than to ask.
type netlinks struct {
	mu   sync.Mutex
	idle []netlink
}

// maxIdleNetlinks bounds those that are kept, not those that are in use.
const maxIdleNetlinks = 8

func (k *netlinks) take(protocol int) (netlink, error) {
	k.mu.Lock()
	if last := len(k.idle) - 1; last >= 0 {
		n := k.idle[last]
		k.idle = k.idle[:last]
		k.mu.Unlock()
		return n, nil
	}
	k.mu.Unlock()
	return openNetlink(protocol)
}

// giveBack keeps a socket, of which every answer must have been read: what is left there
// would be taken for that of the next question.
func (k *netlinks) giveBack(n netlink) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.idle) >= maxIdleNetlinks {
		n.close()
		return
	}
	k.idle = append(k.idle, n)
}

// ask puts a question, and returns what follows the header of the answer. An error
// of the kernel is its errno. There is one question at a time.
func (n netlink) ask(kind uint16, question []byte) ([]byte, error) {
	request := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(question))
	order := binary.NativeEndian
	order.PutUint32(request, uint32(cap(request)))
	order.PutUint16(request[4:], kind)
	order.PutUint16(request[6:], unix.NLM_F_REQUEST)
	request = append(request, question...)
	if err := unix.Sendto(n.fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("sendto of netlink: %w", err)
	}
	// The kernel has answered before sendto returns.
	answer := make([]byte, 2048)
	size, from, err := unix.Recvfrom(n.fd, answer, unix.MSG_DONTWAIT)
	if err != nil {
		return nil, fmt.Errorf("recvfrom of netlink: %w", err)
	}
	if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
		return nil, errors.New("a netlink message that is not the kernel's")
	}
	return parseNetlink(answer[:size])
}

// parseNetlink returns what follows the header of a message.
func parseNetlink(b []byte) ([]byte, error) {
	order := binary.NativeEndian
	if len(b) < unix.NLMSG_HDRLEN || order.Uint32(b) < unix.NLMSG_HDRLEN || uint64(order.Uint32(b)) > uint64(len(b)) {
		return nil, fmt.Errorf("a netlink message of %d bytes is not whole", len(b))
	}
	body := b[unix.NLMSG_HDRLEN:order.Uint32(b)]
	if order.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return body, nil
	}
	if len(body) < 4 || order.Uint32(body) == 0 {
		return nil, errors.New("a netlink error without a number")
	}
	return nil, unix.Errno(-int32(order.Uint32(body)))
}
