package origin

import (
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxResolve bounds the parts of a path that are looked at, links followed.
const maxResolve = 64

// climbs reports whether a path has ".." behind a name. If that name is a link, the
// kernel goes on at the parent of where it leads: what the path means cannot be told
// from its text, and [filepath.Clean] would make it another file's.
func climbs(path string) bool {
	return strings.Contains("/"+strings.TrimLeft(path, "./")+"/", "/../")
}

// resolve follows the symbolic links and ".." in an absolute path as the kernel does
// for p, in its own root directory. Where a part is missing, or lies in a directory
// that the caller may not enter, it returns the path as it is, "" if it climbs: the
// daemon may enter all, and must tell nobody what is there. Right by the mode counts,
// of the owner and of all; right by a group or an access list only does not.
func (c *call) resolve(p *process, path string) string {
	if !filepath.IsAbs(path) {
		return path
	}
	plain := ""
	if !climbs(path) {
		plain = filepath.Clean(path)
	}
	root, err := unix.Openat(p.dir, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return plain
	}
	defer unix.Close(root)
	for limit := maxResolve; ; {
		next, whole, n := c.followOne(root, path, limit)
		switch {
		case next == "":
			return plain
		case whole:
			return next
		}
		path, limit = next, limit-n
	}
}

// followOne replaces the first symbolic link or ".." in a path by what it says. It
// returns the whole path, clean, if there is none, "" if it cannot be said, and the
// number of parts that it has looked at.
func (c *call) followOne(root int, path string, limit int) (next string, whole bool, n int) {
	dir := root
	defer func() {
		if dir != root {
			unix.Close(dir)
		}
	}()
	done, rest := "/", path
	var st unix.Stat_t // of dir
	if unix.Fstat(dir, &st) != nil {
		return "", false, 1
	}
	for n = 1; n <= limit; n++ {
		name, after, _ := strings.Cut(strings.TrimLeft(rest, "/"), "/")
		switch {
		case name == "":
			return done, true, n
		case !c.maySearch(&st), done == "/" && name == "proc": // links there differ from reader to reader
			return "", false, n
		case name == "..": // done has no links
			return filepath.Dir(done) + "/" + after, false, n
		}
		fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", false, n
		}
		if dir != root {
			unix.Close(dir)
		}
		dir = fd
		if unix.Fstat(dir, &st) != nil {
			return "", false, n
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			var buf [unix.PathMax]byte
			size, err := unix.Readlinkat(dir, "", buf[:])
			if err != nil {
				return "", false, n
			}
			target := string(buf[:size])
			if !filepath.IsAbs(target) {
				target = done + "/" + target
			}
			return target + "/" + after, false, n
		}
		done, rest = filepath.Join(done, name), after
	}
	return "", false, limit
}

// maySearch reports whether the caller may pass a directory.
func (c *call) maySearch(dir *unix.Stat_t) bool {
	const all = 0o011 // who is in the group has no right by the last bit
	return c.origin.UID == 0 || dir.Mode&all == all || c.isCaller(dir.Uid) && dir.Mode&0o100 != 0
}
