package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// message is one that was queued.
type message struct {
	sender     string
	recipients []string
	envelope   string // all else that the queue file says of it, and whose it is
	content    string
}

// mta is a mail server of tests/layers.
type mta struct {
	name   string
	start  func() error              // what its layer cannot do, as nothing runs yet; nil: nothing
	queued func() ([]message, error) // what came into its queue since the last call, which takes it out
	varies []pattern                 // what differs from run to run
	hasty  bool                      // refuses an SMTP client that speaks before it was greeted

	sizes     func(direct, traced *message, added int) // takes the trace field, of so many bytes with LF, out of what the envelope says of sizes; nil: nothing
	emptyLine bool                                     // an empty line that ends the header is in the queue file as it came
}

// pattern names bytes that differ from run to run. Of an identity the same bytes
// must turn up wherever they did before: the first that is met is ID1, and so on.
type pattern struct {
	name     string
	is       *regexp.Regexp
	identity bool
}

var mtas = []*mta{postfix, exim, sendmail8, opensmtpd, msmtp, nullmailer, dma}

func mtaByName(name string) (*mta, error) {
	known := ""
	for _, m := range mtas {
		if m.name == name {
			return m, nil
		}
		known += " " + m.name
	}
	return nil, fmt.Errorf("no mail server %s: there are%s", name, known)
}

// Dates as the mail servers write them.
var (
	headerDate = pattern{name: "DATE", is: regexp.MustCompile(`(Mon|Tue|Wed|Thu|Fri|Sat|Sun), [ \d]\d (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} \d\d:\d\d:\d\d ([-+]\d{4}( \(UTC\))?|GMT)`)}
	logDate    = pattern{name: "TIME", is: regexp.MustCompile(`\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b`)}
)

// masked is a result with names in the place of what differs from run to run.
func (m *mta) masked(r *result) *result {
	seen := map[string]map[string]string{} // by pattern and bytes
	mask := func(text string) string {
		for _, p := range m.varies {
			text = p.is.ReplaceAllStringFunc(text, func(found string) string {
				if !p.identity {
					return p.name
				}
				if seen[p.name] == nil {
					seen[p.name] = map[string]string{}
				}
				name, ok := seen[p.name][found]
				if !ok {
					name = p.name + strconv.Itoa(len(seen[p.name])+1)
					seen[p.name][found] = name
				}
				return name
			})
		}
		return text
	}
	masked := &result{exit: r.exit, stdout: mask(r.stdout), stderr: mask(r.stderr), files: mask(r.files)}
	for _, q := range r.queued {
		masked.queued = append(masked.queued, message{q.sender, q.recipients, mask(q.envelope), mask(q.content)})
	}
	return masked
}

// take reads and removes the files of a queue directory that match, by name in
// their order. A program may make, rename and remove files of its own meanwhile.
func take(dir, glob string) (files []queueFile, err error) {
	names, err := filepath.Glob(filepath.Join(dir, glob))
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		info, err := os.Lstat(name)
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			continue
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		stat := info.Sys().(*syscall.Stat_t)
		files = append(files, queueFile{filepath.Base(name), string(content), fmt.Sprintf("owner %d:%d mode %04o", stat.Uid, stat.Gid, info.Mode().Perm())})
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
			return nil, err
		}
	}
	return files, nil
}

type queueFile struct {
	name, content string
	owner         string // and mode
}

// cut is strings.Cut that calls a missing separator an error.
func (f *queueFile) cut(text, sep string) (before, after string, err error) {
	before, after, ok := strings.Cut(text, sep)
	if !ok {
		return "", "", fmt.Errorf("queue file %s: no %q in %.200q", f.name, sep, text)
	}
	return before, after, nil
}
