package origin

import (
	"path/filepath"
	"strings"
)

// login names who became the caller by su or sudo. The kernel keeps the real uid
// of such a process, which is that of who started it, and nobody but root can
// read or trace it. The nearest ordinary user counts, root only if there is none:
// in "sudo su - bob" su is root's and sudo is alice's.
func (c *call) login() Fact {
	found := Fact{}
	end := len(c.chain)
	if c.at > 0 {
		end = c.at // what is above the daemon did not start this program
	}
	for _, p := range c.chain[1:end] {
		real, effective := p.uids[0], p.uids[1]
		if effective != 0 || c.isCaller(real) || !becomesOther(strings.TrimPrefix(p.exe(), c.finder.root)) {
			continue
		}
		fact := Fact{Value: c.users.name(c.users.owner(real)), Proof: c.best(System)}
		if real != 0 {
			return fact
		}
		if found.Value == "" {
			found = fact
		}
	}
	if found.Value != "" {
		return found
	}
	if user := c.claims.Env["SUDO_USER"]; user != c.origin.User {
		return Fact{Value: user, Proof: Claimed}
	}
	return Fact{}
}

// becomesOther knows the programs that stay above what they start as another user.
func becomesOther(exe string) bool {
	dir, base := filepath.Split(exe)
	if dir != "/usr/bin/" && dir != "/bin/" && dir != "/usr/sbin/" && dir != "/usr/lib/cargo/bin/" {
		return false
	}
	switch base {
	case "su", "sudo", "sudo-rs", "su-rs", "doas":
		return true
	}
	return false
}
