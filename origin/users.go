package origin

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// firstUser is the lowest uid of an ordinary user (login.defs(5), UID_MIN). Only
// these get their subordinate uids mapped back: lower ones are often not
// limited, and a container that root gave a range to must not inherit that.
const firstUser = 1000

// users keeps passwd(5) and subuid(5), and reads them again when one has changed.
type users struct {
	passwd, subuid string // paths

	mu          sync.Mutex
	passwdStamp stamp
	subuidStamp stamp
	table       *userTable
}

// userTable is what these files say at one time. It does not change.
type userTable struct {
	names  map[uint32]string
	full   map[uint32]string // names of the first field of GECOS
	uids   map[string]uint32
	ranges []uidRange
}

// stamp tells two states of a file apart.
type stamp struct {
	size  int64
	mtime time.Time
	there bool
}

func stampOf(path string) stamp {
	st, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{size: st.Size(), mtime: st.ModTime(), there: true}
}

// uidRange is a line of subuid(5), its owner resolved.
type uidRange struct {
	owner        uint32
	first, count uint32
}

// current returns the users of this moment. A file that cannot be read counts as
// empty.
func (u *users) current() *userTable {
	passwd, subuid := stampOf(u.passwd), stampOf(u.subuid)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.table != nil && passwd == u.passwdStamp && subuid == u.subuidStamp {
		return u.table
	}
	table := new(userTable)
	text, _ := os.ReadFile(u.passwd)
	table.names, table.uids, table.full = parsePasswd(string(text))
	text, _ = os.ReadFile(u.subuid)
	table.ranges = parseSubuid(string(text), table.uids)
	u.table, u.passwdStamp, u.subuidStamp = table, passwd, subuid
	return table
}

// owner returns whose uid that is: itself, or the user whose subordinate it is.
func (u *userTable) owner(uid uint32) uint32 {
	if _, real := u.names[uid]; real {
		return uid
	}
	for _, r := range u.ranges {
		if uid >= r.first && uid-r.first < r.count {
			return r.owner
		}
	}
	return uid
}

// name returns the login name of a uid, or "#UID".
func (u *userTable) name(uid uint32) string {
	if name := u.names[uid]; name != "" {
		return name
	}
	return fmt.Sprintf("#%d", uid)
}

// lookup returns the uid of a login name or of a number.
func (u *userTable) lookup(name string) (uid uint32, ok bool) {
	if uid, ok = u.uids[name]; ok {
		return uid, true
	}
	return parseUID(name)
}

func parseUID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil
}

// parsePasswd reads passwd(5). Of several names of a uid, and of several lines of
// a name, the first counts, as with getpwuid(3) and getpwnam(3). A full name is GECOS up
// to the first comma, where "&" stands for the login name.
func parsePasswd(text string) (names map[uint32]string, uids map[string]uint32, full map[uint32]string) {
	names, uids, full = make(map[uint32]string), make(map[string]uint32), make(map[uint32]string)
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 4)
		if len(fields) < 4 || fields[0] == "" || strings.ContainsAny(fields[0][:1], "#+-") {
			continue
		}
		uid, ok := parseUID(fields[2])
		if !ok {
			continue
		}
		if _, seen := names[uid]; !seen {
			names[uid] = fields[0]
			_, gecos, _ := strings.Cut(fields[3], ":")
			gecos, _, _ = strings.Cut(gecos, ":")
			gecos, _, _ = strings.Cut(gecos, ",")
			full[uid] = strings.ReplaceAll(gecos, "&", strings.ToUpper(fields[0][:1])+fields[0][1:])
		}
		if _, seen := uids[fields[0]]; !seen {
			uids[fields[0]] = uid
		}
	}
	return names, uids, full
}

// parseSubuid reads subuid(5), OWNER:FIRST:COUNT with an owner by name or by
// number. Lines of owners that are no ordinary users are left out.
func parseSubuid(text string, uids map[string]uint32) []uidRange {
	var ranges []uidRange
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) != 3 {
			continue
		}
		owner, known := uids[fields[0]]
		if !known {
			owner, known = parseUID(fields[0])
		}
		first, okFirst := parseUID(fields[1])
		count, okCount := parseUID(fields[2])
		if known && okFirst && okCount && owner >= firstUser && first > 0 && count > 0 {
			ranges = append(ranges, uidRange{owner: owner, first: first, count: count})
		}
	}
	return ranges
}

// UserNames returns a function that names uids as /etc/passwd has them now, "#UID" where
// it has none, and the ordinary user whose subordinate uid (subuid(5)) one is, "" of others.
func UserNames() func(uid uint32) (name, owner string) {
	u := users{passwd: "/etc/passwd", subuid: "/etc/subuid"}
	table := u.current()
	return func(uid uint32) (name, owner string) {
		if of := table.owner(uid); of != uid {
			owner = table.name(of)
		}
		return table.name(uid), owner
	}
}
