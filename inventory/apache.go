package inventory

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"sendmail-wrapper/quota"
)

const (
	maxApacheFiles = 50_000
	maxApacheDepth = 128 // includes and sections in each other; Apache's own is 128 (AP_MAX_INCLUDE_DEPTH)
	maxApacheText  = 256 << 20
)

// apacheReader reads Apache's configuration as far as virtual hosts go. All of
// <IfModule> and <IfDefine> counts as if the module were there and the name
// defined; <Macro> is not read.
type apacheReader struct {
	s       *System
	root    string // ServerRoot
	defines map[string]string
	hosts   []*virtualHost
	files   int
	size    int
}

// virtualHost is what a <VirtualHost> says.
type virtualHost struct {
	file  string
	line  int
	names []string // ServerName first
	root  string
	user  string
}

// ReadApache reads the virtual hosts of a configuration: of a file with all that
// it includes, or of the files of a directory. ServerRoot is the file's directory
// until it is set, or the one above where that is named conf, as Debian's and Red
// Hat's are.
//
// The user of a virtual host is whom it runs as (AssignUserID, SuexecUserGroup,
// RUidGid), else the owner of its document root.
func ReadApache(path string, s *System) (*Inventory, error) {
	r := &apacheReader{s: s, root: filepath.Dir(path), defines: make(map[string]string)}
	if filepath.Base(r.root) == "conf" {
		r.root = filepath.Dir(r.root)
	}
	files := []string{path}
	if inside, err := s.Glob(filepath.Join(path, "*.conf")); err == nil && len(inside) > 0 {
		r.root, files = filepath.Dir(path), inside
	}
	for _, file := range files {
		if err := r.file(file, nil, 0); err != nil {
			return nil, err
		}
	}
	return r.inventory()
}

// file reads a file; v is the virtual host from within which it is included.
func (r *apacheReader) file(path string, v *virtualHost, depth int) error {
	if r.files++; r.files > maxApacheFiles || depth > maxApacheDepth {
		return &Error{path, 0, 0, "too many files, or they include each other"}
	}
	text, err := r.s.Read(path)
	if err != nil {
		return err
	}
	if r.size += len(text); r.size > maxApacheText {
		return &Error{path, 0, 0, fmt.Sprintf("the configuration is larger than %d MB", maxApacheText>>20)}
	}
	if text, err = checkText(path, lenient(text), maxLine); err != nil {
		return err
	}
	f := &apacheFile{apacheReader: r, path: path, depth: depth, host: v}
	number := 0
	for len(text) > 0 {
		first := number + 1
		var line []byte
		for { // a backslash at its end continues a line
			part, rest, _ := bytes.Cut(text, []byte("\n"))
			text = rest
			number++
			part = bytes.TrimSuffix(part, []byte("\r"))
			more, goesOn := bytes.CutSuffix(part, []byte(`\`))
			line = append(line, more...)
			if !goesOn || len(text) == 0 {
				break
			}
			if len(line) > maxLine {
				return &Error{path, first, 0, "line too long"}
			}
		}
		if err := f.directive(string(line), first); err != nil {
			return err
		}
	}
	if len(f.sections) > 0 {
		return &Error{path, number, 0, fmt.Sprintf("<%s> has no end", f.sections[len(f.sections)-1])}
	}
	return nil
}

// apacheFile is one file as far as it has been read.
type apacheFile struct {
	*apacheReader
	path     string
	depth    int
	sections []string // open ones, in lower case
	skipped  int      // as many of them, the innermost, do not count
	host     *virtualHost
}

func (f *apacheFile) directive(line string, number int) error {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return nil
	}
	if line[0] == '<' {
		return f.section(line, number)
	}
	words := apacheWords(f.expand(line))
	if f.skipped > 0 || len(words) < 2 {
		return nil
	}
	name, args := strings.ToLower(words[0]), words[1:]
	switch name {
	case "include", "includeoptional":
		return f.include(args[0], name == "include", number)
	case "define":
		f.defines[args[0]] = strings.Join(args[1:], " ")
	case "serverroot":
		if filepath.IsAbs(args[0]) {
			f.root = filepath.Clean(args[0])
		}
	}
	if f.host == nil || slices.ContainsFunc(f.sections, func(s string) bool { return s == "directory" || s == "location" || s == "files" || s == "if" }) {
		return nil
	}
	switch v := f.host; name {
	case "servername":
		v.names = append([]string{apacheName(args[0])}, v.names...)
	case "serveralias":
		for _, alias := range args {
			v.names = append(v.names, apacheName(alias))
		}
	case "documentroot":
		v.root = args[0]
		if !filepath.IsAbs(v.root) {
			v.root = filepath.Join(f.root, v.root)
		}
	case "assignuserid", "suexecusergroup", "ruidgid":
		v.user = args[0]
	}
	return nil
}

func (f *apacheFile) section(line string, number int) error {
	wrong := func(format string, a ...any) error { return &Error{f.path, number, 0, fmt.Sprintf(format, a...)} }
	inner, closed := strings.CutSuffix(line[1:], ">")
	if !closed {
		return wrong("%s: > is missing", cut(line))
	}
	if name, isEnd := strings.CutPrefix(inner, "/"); isEnd {
		name = strings.ToLower(strings.TrimSpace(name))
		if len(f.sections) == 0 || f.sections[len(f.sections)-1] != name {
			return wrong("</%s> without its beginning", cut(name))
		}
		f.sections = f.sections[:len(f.sections)-1]
		f.skipped = max(f.skipped-1, 0)
		if name == "virtualhost" && f.skipped == 0 {
			f.host = nil
		}
		return nil
	}
	words := apacheWords(inner)
	if len(words) == 0 {
		return wrong("a section without a name")
	}
	if len(f.sections) >= maxApacheDepth {
		return wrong("too many sections in each other")
	}
	name := strings.ToLower(words[0])
	f.sections = append(f.sections, name)
	switch {
	case f.skipped > 0, name == "macro", strings.HasPrefix(name, "if") && len(words) > 1 && strings.HasPrefix(words[1], "!"):
		f.skipped++
	case name == "virtualhost":
		if f.host != nil {
			return wrong("<VirtualHost> within another")
		}
		f.host = &virtualHost{file: f.path, line: number}
		f.hosts = append(f.hosts, f.host)
	}
	return nil
}

// include reads the files of a pattern, as ap_process_fnmatch_configs does: a
// directory stands for all files in it.
func (f *apacheFile) include(pattern string, mustBe bool, number int) error {
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(f.root, pattern)
	}
	files, err := f.s.Glob(pattern)
	if err != nil {
		return &Error{f.path, number, 0, fmt.Sprintf("include %s: %v", cut(pattern), err)}
	}
	if len(files) == 0 && mustBe && !strings.ContainsAny(pattern, "*?[") {
		return &Error{f.path, number, 0, fmt.Sprintf("include %s: there is no such file", cut(pattern))}
	}
	for _, file := range files {
		err := f.tree(file, f.host, f.depth+1)
		if errors.Is(err, fs.ErrNotExist) && !mustBe { // a dangling link
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tree reads a file, or all below a directory.
func (r *apacheReader) tree(path string, v *virtualHost, depth int) error {
	inside, err := r.s.Glob(filepath.Join(path, "*"))
	if err != nil || len(inside) == 0 {
		err := r.file(path, v, depth)
		if errors.Is(err, syscall.EISDIR) {
			return nil
		}
		return err
	}
	for _, path := range inside {
		if err := r.tree(path, v, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// expand replaces ${NAME} of what is defined.
func (f *apacheFile) expand(line string) string {
	if len(f.defines) == 0 || !strings.Contains(line, "${") {
		return line
	}
	var b strings.Builder
	for b.Len() <= maxLine {
		before, after, found := strings.Cut(line, "${")
		name, rest, closed := strings.Cut(after, "}")
		b.WriteString(before)
		if !found {
			break
		}
		value, defined := f.defines[name]
		if !closed || !defined {
			b.WriteString("${")
			line = after
			continue
		}
		b.WriteString(value)
		line = rest
	}
	return b.String()
}

// apacheWords splits a directive as ap_getword_conf does: at spaces, but for
// quoted words, in which a backslash takes the quote or backslash behind it.
func apacheWords(line string) (words []string) {
	for {
		line = strings.TrimLeft(line, " \t\v\f")
		if line == "" {
			return words
		}
		quote := line[0]
		if quote != '"' && quote != '\'' {
			at := strings.IndexAny(line, " \t\v\f")
			if at < 0 {
				at = len(line)
			}
			words, line = append(words, line[:at]), line[at:]
			continue
		}
		var word strings.Builder
		i := 1
		for ; i < len(line) && line[i] != quote; i++ {
			if line[i] == '\\' && i+1 < len(line) && (line[i+1] == '\\' || line[i+1] == quote) {
				i++
			}
			word.WriteByte(line[i])
		}
		words, line = append(words, word.String()), line[min(i+1, len(line)):]
	}
}

// apacheName is the name of [SCHEME://]NAME[:PORT], in lower case.
func apacheName(s string) string {
	if _, after, found := strings.Cut(s, "://"); found {
		s = after
	}
	s, _, _ = strings.Cut(s, ":")
	return strings.TrimSuffix(strings.ToLower(s), ".")
}

func cut(s string) string { return s[:min(len(s), 100)] }

// inventory makes subscriptions and domains of virtual hosts. A name that is below
// another of the same host, such as www, is no domain of its own: mail has the
// other. The document root belongs to ServerName, which is what a request's site
// is called.
func (r *apacheReader) inventory() (*Inventory, error) {
	b := newBuilder()
	b.inv.Observed = true
	for _, v := range r.hosts {
		owner, why := r.owner(v)
		customer := false
		if owner != "" {
			var err error
			if customer, err = r.s.owner(b, owner, v.line); err != nil {
				return nil, &Error{v.file, v.line, 0, err.Error()}
			}
			why = "its user " + owner + " is no customer"
		}
		names := slices.DeleteFunc(v.names, func(name string) bool { return !isDomain(name) })
		if !customer || len(names) == 0 {
			if customer {
				why = "it has no name of a domain"
			}
			b.inv.Notes = append(b.inv.Notes, fmt.Sprintf("left out: virtual host at %s:%d: %s", v.file, v.line, why))
			continue
		}
		for i, name := range names {
			if i > 0 && slices.ContainsFunc(names, func(other string) bool { return strings.HasSuffix(name, "."+other) }) {
				continue
			}
			d := Object{Ref: Ref{Class: quota.Domain, Name: name}, Parent: owner, Line: v.line}
			at, again := b.at[d.Key()]
			if again && b.inv.Objects[at].Parent != owner {
				b.inv.Notes = append(b.inv.Notes, fmt.Sprintf("left out: %s of %s at %s:%d: a virtual host of %s has that name before", name, owner, v.file, v.line, b.inv.Objects[at].Parent))
				continue
			}
			// Of several virtual hosts of a name, such as http and https, the first one's.
			if i == 0 && filepath.IsAbs(v.root) && !strings.ContainsRune(v.root, utf8.RuneError) && (!again || !b.inv.Objects[at].DocumentRoot.Said) {
				d.DocumentRoot = Say(filepath.Clean(v.root))
			}
			if err := b.put(d); err != nil {
				return nil, &Error{v.file, v.line, 0, err.Error()}
			}
		}
	}
	return b.inv, nil
}

func (r *apacheReader) owner(v *virtualHost) (login, why string) {
	if v.user != "" {
		return r.s.login(v.user), ""
	}
	if v.root == "" {
		return "", "it has no document root and no user"
	}
	uid, there := r.s.Owner(v.root)
	if !there {
		return "", "its document root " + v.root + " is not there"
	}
	if name := r.s.names[uid]; name != "" {
		return name, ""
	}
	return "", fmt.Sprintf("its document root %s belongs to uid %d, who has no name", v.root, uid)
}
