package inventory

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"sendmail-wrapper/quota"
)

// System is what readers ask about the host that their files are of.
type System struct {
	Host     string // as mailquotad.conf names it
	FirstUID uint32 // of ordinary users
	Read     func(path string) ([]byte, error)
	Glob     func(pattern string) ([]string, error)
	Owner    func(path string) (uid uint32, ok bool) // of a file or directory

	names map[uint32]string
	uids  map[string]uint32
}

// NewSystem returns a System with the users of a passwd(5).
func NewSystem(host string, firstUID uint32, passwd []byte) *System {
	s := &System{Host: host, FirstUID: firstUID, names: make(map[uint32]string), uids: make(map[string]uint32)}
	for line := range strings.Lines(string(passwd)) {
		u, ok := parsePasswd(line)
		if !ok {
			continue
		}
		// The first of several counts, as with getpwuid(3) and getpwnam(3).
		if _, seen := s.names[u.uid]; !seen {
			s.names[u.uid] = u.name
		}
		if _, seen := s.uids[u.name]; !seen {
			s.uids[u.name] = u.uid
		}
	}
	return s
}

// ThisHost is the System of this host.
func ThisHost(host string, firstUID uint32) (*System, error) {
	passwd, err := ReadFile("/etc/passwd", MaxFile)
	if err != nil {
		return nil, err
	}
	s := NewSystem(host, firstUID, passwd)
	s.Read = func(path string) ([]byte, error) { return ReadFile(path, MaxFile) }
	s.Glob = filepath.Glob
	s.Owner = func(path string) (uint32, bool) {
		st, err := os.Stat(path)
		if err != nil {
			return 0, false
		}
		return st.Sys().(*syscall.Stat_t).Uid, true
	}
	return s, nil
}

// nobody is the uid of processes that have none of their own (passwd(5) of all
// distributions; the kernel's overflow uid).
const nobody = 65534

// ordinary tells whether a uid is a customer's.
func (s *System) ordinary(uid uint32) bool { return uid >= s.FirstUID && uid != nobody }

// owner puts a login with a subscription of its name: what it owns comes under
// that. It tells whether the login is a customer's; one that is not on this host,
// since the file is another's, is taken to be.
func (s *System) owner(b *builder, login string, line int) (bool, error) {
	uid, there := s.uids[login]
	if login == "" || login == "root" || login == "nobody" || there && !s.ordinary(uid) {
		return false, nil
	}
	if err := b.put(Object{Ref: Ref{Class: quota.Subscription, Name: login}, Line: line}); err != nil || !there {
		return true, err
	}
	return true, b.put(Object{Ref: s.user(login, uid), Parent: login, Line: line})
}

// login is the name of a user who is given by name or by number.
func (s *System) login(user string) string {
	uid, err := strconv.ParseUint(strings.TrimPrefix(user, "#"), 10, 32)
	if name := s.names[uint32(uid)]; err == nil && name != "" {
		return name
	}
	return user
}

func (s *System) user(login string, uid uint32) Ref {
	return Ref{quota.User, login, s.Host, int64(uid)}
}

// passwdEntry is a line of passwd(5).
type passwdEntry struct {
	name, home, shell string
	uid               uint32
}

// parsePasswd reads a line; lines of other kinds (comments, NIS) are none.
func parsePasswd(line string) (u passwdEntry, ok bool) {
	fields := strings.Split(strings.TrimRight(line, "\r\n"), ":")
	if len(fields) != 7 || fields[0] == "" || strings.ContainsAny(fields[0][:1], "#+-") {
		return u, false
	}
	uid, err := strconv.ParseUint(fields[2], 10, 32)
	return passwdEntry{fields[0], fields[5], fields[6], uint32(uid)}, err == nil
}

// ReadPasswd makes a subscription of each user of a range of uids. Services are
// left out: who cannot log in, and whose home is none of a person's. A customer of
// a panel often cannot log in, either, so that alone says nothing.
func ReadPasswd(file string, text []byte, s *System, from, to uint32) (*Inventory, error) {
	text, err := checkText(file, lenient(text), maxLine)
	if err != nil {
		return nil, err
	}
	b := newBuilder()
	b.inv.Observed = true
	known := make(map[string]bool)
	services, number := 0, 0
	for line := range strings.Lines(string(text)) {
		number++
		u, ok := parsePasswd(line)
		if !ok {
			if t := strings.TrimSpace(line); t != "" && !strings.ContainsAny(t[:1], "#+-") {
				return nil, &Error{file, number, 0, "no line of passwd(5): NAME:PASSWORD:UID:GID:COMMENT:HOME:SHELL"}
			}
			continue
		}
		user := s.user(u.name, u.uid)
		if _, again := b.at[user.Key()]; again || u.uid < from || u.uid > to || u.uid == nobody || known[u.name] {
			continue
		}
		if u.isService() {
			services++
			continue
		}
		known[u.name] = true
		subscription := Object{Ref: Ref{Class: quota.Subscription, Name: u.name}, Line: number}
		if !s.ordinary(u.uid) {
			subscription.Parent = quota.SystemPlan
		}
		for _, o := range []Object{subscription, {Ref: user, Parent: u.name, Line: number}} {
			if err := b.put(o); err != nil {
				return nil, &Error{file, number, 0, err.Error()}
			}
		}
	}
	if services > 0 {
		b.inv.Notes = append(b.inv.Notes, fmt.Sprintf("left out: %d users of services, who cannot log in and have no home of a person", services))
	}
	return b.inv, nil
}

func (u passwdEntry) isService() bool {
	switch filepath.Base(u.shell) {
	case "nologin", "false", "true", "sync", "halt", "shutdown":
	default:
		return false
	}
	if strings.HasPrefix(u.name, "systemd-") {
		return true
	}
	top, below, _ := strings.Cut(strings.TrimPrefix(filepath.Clean(u.home), "/"), "/")
	switch top {
	case "", ".", "nonexistent", "bin", "boot", "dev", "etc", "lib", "proc", "run", "sbin", "sys", "tmp", "usr":
		return true
	case "var":
		second, _, _ := strings.Cut(below, "/")
		return second != "www" && second != "home" && second != "vhosts"
	}
	return false
}
