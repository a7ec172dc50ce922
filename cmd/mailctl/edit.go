package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// edit is a file as it is, and as a set-up wants it.
type edit struct {
	path          string
	before, after []byte      // nil: there is no file
	mode          fs.FileMode // of a file that is new; of another one everything stays but the content
	group         string      // of a file that is new; "" is root
	exactly       bool        // mode and group are those of a file that is there, too
}

// readEdit begins an edit with what is there.
func readEdit(path string) (*edit, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &edit{path: path, mode: 0o644}, nil
	}
	if err != nil {
		return nil, err
	}
	if text == nil {
		text = []byte{}
	}
	return &edit{path: path, before: text, after: text, mode: 0o644}, nil
}

func (e *edit) changes() bool { return !same(e.before, e.after) }

// apply writes what is wanted, if it is not there yet, unless somebody else has written
// the file since it was read. What an earlier run has begun to write, and did not come to
// rename, goes.
func (e *edit) apply() error {
	if err := sweep(e.path); err != nil {
		return err
	}
	now, err := readEdit(e.path)
	if err != nil {
		return err
	}
	if e.changes() && !same(now.before, e.before) && !same(now.before, e.after) {
		return &failure{exWrong, e.path + " was changed meanwhile", "the same again"}
	}
	return e.write(e.before, e.after)
}

// same is whether two contents are, nil being no file.
func same(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

// undo brings back what was there, unless somebody else has written it since.
func (e *edit) undo() error {
	if !e.changes() {
		return nil
	}
	now, err := readEdit(e.path)
	if err != nil {
		return err
	}
	if !bytes.Equal(now.before, e.after) {
		return nil
	}
	return e.write(e.after, e.before)
}

func (e *edit) write(from, to []byte) error {
	switch {
	case same(from, to):
		return nil
	case to == nil:
		return os.Remove(e.path)
	}
	gid := 0
	if (from == nil || e.exactly) && e.group != "" {
		g, err := user.LookupGroup(e.group)
		if err != nil {
			return err
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return err
		}
	}
	if e.exactly && from != nil {
		return replaceExactly(e.path, to, e.mode, gid)
	}
	return replaceFile(e.path, to, e.mode, gid)
}

// undoAll brings back what was there before edits.
func undoAll(edits []*edit) error {
	var all []error
	for _, e := range edits {
		all = append(all, e.undo())
	}
	return errors.Join(all...)
}

// replaceFile leaves either the old content or the new one, whatever happens
// meanwhile: the wrapper reads wrapper.conf at each call. A file that is there
// keeps its owner, mode and extended attributes, which are access control list
// and SELinux label; one that is new gets mode and group.
func replaceFile(path string, content []byte, mode fs.FileMode, gid int) error {
	uid := 0
	attributes := make(map[string][]byte)
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		sys := info.Sys().(*syscall.Stat_t)
		mode, uid, gid = info.Mode().Perm(), int(sys.Uid), int(sys.Gid)
		if attributes, err = xattrs(path); err != nil {
			return err
		}
	}
	return writeFile(path, content, mode, uid, gid, attributes)
}

// replaceExactly is replaceFile for a file that is there and gets another mode and
// group with its new content, in one step: at no time everybody can read a password.
func replaceExactly(path string, content []byte, mode fs.FileMode, gid int) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	attributes, err := xattrs(path)
	if err != nil {
		return err
	}
	delete(attributes, "system.posix_acl_access") // it would bring back the old mode
	return writeFile(path, content, mode, 0, gid, attributes)
}

func writeFile(path string, content []byte, mode fs.FileMode, uid, gid int, attributes map[string][]byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), unfinished(path)+"*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already if all went well
	_, err = f.Write(content)
	if os.Geteuid() == 0 {
		err = errors.Join(err, f.Chown(uid, gid))
	}
	err = errors.Join(err, f.Chmod(mode))
	for name, value := range attributes {
		err = errors.Join(err, unix.Fsetxattr(int(f.Fd()), name, value, 0))
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync() // what is told of it comes after it, whatever cuts the power
}

// unfinished is how the name of a file begins that is to become path.
func unfinished(path string) string { return "." + filepath.Base(path) + ".mailctl-" }

// sweep removes files that were to become path, of runs that were killed. One that
// is being written by another run at this moment makes that one fail, and no harm.
func sweep(path string) error {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), unfinished(path)) && entry.Type().IsRegular() {
			if err := remove(filepath.Join(filepath.Dir(path), entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func xattrs(path string) (map[string][]byte, error) {
	names := make([]byte, 64<<10) // XATTR_LIST_MAX, and XATTR_SIZE_MAX (xattr(7))
	n, err := unix.Listxattr(path, names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("extended attributes of %s: %w", path, err)
	}
	all := make(map[string][]byte)
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Getxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("extended attribute %s of %s: %w", name, path, err)
		}
		all[name] = value[:n]
	}
	return all, nil
}

// diff shows an edit as diff -u does.
func (e *edit) diff() string {
	if !e.changes() {
		return ""
	}
	var b strings.Builder
	name := func(sign, path string, text []byte) {
		if text == nil {
			path = "/dev/null"
		}
		fmt.Fprintf(&b, "%s %s\n", sign, path)
	}
	name("---", e.path, e.before)
	name("+++", e.path, e.after)
	all := compare(lines(e.before), lines(e.after))
	for first := 0; first < len(all); {
		if all[first].sign == ' ' {
			first++
			continue
		}
		// A hunk ends where more than twice the lines around it are the same.
		end := first
		for i := first; i < len(all) && i <= end+2*diffContext; i++ {
			if all[i].sign != ' ' {
				end = i
			}
		}
		from, to := max(first-diffContext, 0), min(end+1+diffContext, len(all))
		at := func(without byte) string {
			before, n := 0, 0
			for i, line := range all[:to] {
				switch {
				case line.sign == without:
				case i < from:
					before++
				default:
					n++
				}
			}
			if n == 0 {
				return fmt.Sprintf("%d,0", before)
			}
			return fmt.Sprintf("%d,%d", before+1, n)
		}
		fmt.Fprintf(&b, "@@ -%s +%s @@\n", at('+'), at('-'))
		for _, line := range all[from:to] {
			b.WriteByte(line.sign)
			b.WriteString(strings.TrimSuffix(line.text, "\n") + "\n")
		}
		first = end + 1
	}
	return b.String()
}

// diffContext is how many lines are shown around a change.
const diffContext = 3

type diffLine struct {
	sign byte // ' ', '-', '+'
	text string
}

// compare is a way from old to now. What both begin and end with stays: a long file
// in which little is changed is compared in little room.
func compare(old, now []string) (all []diffLine) {
	for len(old) > 0 && len(now) > 0 && old[0] == now[0] {
		all = append(all, diffLine{' ', old[0]})
		old, now = old[1:], now[1:]
	}
	end := 0
	for end < min(len(old), len(now)) && old[len(old)-1-end] == now[len(now)-1-end] {
		end++
	}
	all = append(all, compareMiddle(old[:len(old)-end], now[:len(now)-end])...)
	for _, line := range old[len(old)-end:] {
		all = append(all, diffLine{' ', line})
	}
	return all
}

// compareMiddle is a shortest way: a longest common subsequence stays.
func compareMiddle(old, now []string) []diffLine {
	common := make([][]int, len(old)+1) // of old[i:] and now[j:]
	for i := range common {
		common[i] = make([]int, len(now)+1)
	}
	for i, line := range slices.Backward(old) {
		for j, other := range slices.Backward(now) {
			if common[i][j] = max(common[i+1][j], common[i][j+1]); line == other {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var all []diffLine
	i, j := 0, 0
	for i < len(old) || j < len(now) {
		switch {
		case i < len(old) && j < len(now) && old[i] == now[j]:
			all = append(all, diffLine{' ', old[i]})
			i, j = i+1, j+1
		case j == len(now) || i < len(old) && common[i+1][j] >= common[i][j+1]:
			all = append(all, diffLine{'-', old[i]})
			i++
		default:
			all = append(all, diffLine{'+', now[j]})
			j++
		}
	}
	return all
}

func lines(text []byte) []string {
	if len(text) == 0 {
		return nil
	}
	list := strings.SplitAfter(string(text), "\n")
	if list[len(list)-1] == "" {
		list = list[:len(list)-1]
	}
	return list
}

// A block of lines that a set-up has put into a file of others lies between two
// comments, so that it can be taken out again. They say who wrote it: "; BEGIN
// mailctl setup fpm".
func block(comment, name, body string) string {
	return comment + " BEGIN mailctl setup " + name + " (its option --remove takes these lines out)\n" + body +
		comment + " END mailctl setup " + name + "\n"
}

// withoutBlocks takes out the blocks of name; n is how many. A block that has no
// end, or another's line in it, is an error: what to do then only its author knows.
func withoutBlocks(text []byte, comment, name string, ours func(line string) bool) (rest []byte, n int, err error) {
	begin := comment + " BEGIN mailctl setup " + name
	end := comment + " END mailctl setup " + name
	rest = make([]byte, 0, len(text))
	inside, number := false, 0
	for line := range bytes.Lines(text) {
		number++
		trimmed := strings.TrimSpace(string(line))
		switch {
		case !inside && strings.HasPrefix(trimmed, begin):
			inside = true
			n++
		case !inside:
			rest = append(rest, line...)
		case trimmed == end:
			inside = false
		case !ours(trimmed):
			return nil, 0, fmt.Errorf("line %d, within what mailctl setup %s wrote, is another's: take it out by hand", number, name)
		}
	}
	if inside {
		return nil, 0, fmt.Errorf("what mailctl setup %s wrote has no end: take it out by hand", name)
	}
	return rest, n, nil
}

// setLine sets key in a file of lines "key = value": on its first line, else
// behind the one that a comment is made of, else at the end. A line "" takes the
// key out.
func setLine(text []byte, key, line string) []byte {
	start, end, given := confLine(text, key)
	if line == "" && !given {
		return text
	}
	if line != "" && start > 0 && text[start-1] != '\n' {
		line = "\n" + line
	}
	return bytes.Join([][]byte{text[:start], []byte(line), text[end:]}, nil)
}

// confLine is where the line that sets key is, or, if none is given, where it
// should go.
func confLine(text []byte, key string) (start, end int, given bool) {
	comment := -1
	at := 0
	for line := range bytes.Lines(text) {
		word, _, _ := strings.Cut(string(line), "=")
		switch strings.TrimSpace(word) {
		case key:
			return at, at + len(line), true // the first one holds
		case "#" + key:
			comment = at + len(line)
		}
		at += len(line)
	}
	if comment >= 0 {
		return comment, comment, false
	}
	return at, at, false
}
