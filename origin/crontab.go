package origin

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Where cron daemons keep crontabs: Debian, SUSE and Red Hat, in this order.
var crontabSpools = []string{"/var/spool/cron/crontabs", "/var/spool/cron/tabs", "/var/spool/cron"}

const (
	systemCrontab = "/etc/crontab"
	systemCronDir = "/etc/cron.d"

	maxCrontab     = 1 << 20 // bytes of a file that is read
	maxCronFiles   = 1000    // files of systemCronDir
	cachedCrontabs = 4096    // files whose jobs are kept

	// crontabSlack is how much older than a job a file must be to count as what
	// cron had read: cron reads first and starts jobs later.
	crontabSlack = 2 * time.Second
)

// cronJob is a line of a crontab that runs something.
type cronJob struct {
	file     string
	line     int    // from 1
	schedule string // "*/5 * * * *", "@daily"; of anacron "PERIOD DELAY ID"
	user     string // of files in /etc; "" in a user's own
	command  string // up to the first bare %, escapes kept
	literal  bool   // % and its escape mean nothing: a job of anacron
}

// String returns "FILE:LINE SCHEDULE COMMAND", one blank between its words.
func (j *cronJob) String() string {
	return fmt.Sprintf("%s:%d %s %s", j.file, j.line, j.schedule, j.text(false))
}

// text returns the command as the shell gets it.
func (j *cronJob) text(backslashes bool) string {
	if j.literal {
		return j.command
	}
	return unescapePercent(j.command, backslashes)
}

// runs reports whether cron starts this job as the shell command seen. Whether
// "\\" stands for one backslash differs between cron's relatives, and Debian's
// keeps the blanks between user and command but for one.
func (j *cronJob) runs(command string) bool {
	command = strings.TrimLeft(command, " \t")
	return command == j.text(false) || command == j.text(true)
}

// becomes is runs for a shell that replaced itself by the only program of its
// line, as bash does.
func (j *cronJob) becomes(args []string) bool {
	return strings.Join(strings.Fields(j.text(false)), " ") == strings.Join(args, " ")
}

// parseCrontab returns the jobs of a crontab(5). Lines of a system file name the
// user before the command.
func parseCrontab(file, text string, system bool) []cronJob {
	var jobs []cronJob
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimLeft(strings.TrimSuffix(line, "\n"), " \t")
		if line == "" || line[0] == '#' || isCronSetting(line) {
			continue
		}
		fields := 5
		if line[0] == '@' {
			fields = 1
		}
		job := cronJob{file: file, line: number}
		var rest string
		var ok bool
		job.schedule, rest, ok = cutFields(line, fields)
		if ok && system {
			job.user, rest, ok = cutBlank(rest)
		}
		if !ok || rest == "" {
			continue
		}
		job.command = rest[:commandEnd(rest)]
		jobs = append(jobs, job)
	}
	return jobs
}

// isCronSetting tells NAME=VALUE, with blanks and quotes allowed, from a job.
func isCronSetting(line string) bool {
	if quote := line[0]; quote == '"' || quote == '\'' {
		_, after, closed := strings.Cut(line[1:], line[:1])
		return closed && strings.HasPrefix(strings.TrimLeft(after, " \t"), "=")
	}
	name := strings.IndexAny(line, " \t=")
	return name > 0 && strings.HasPrefix(strings.TrimLeft(line[name:], " \t"), "=")
}

// cutBlank splits a line after its first word.
func cutBlank(s string) (word, rest string, ok bool) {
	end := strings.IndexAny(s, " \t")
	if end <= 0 {
		return s, "", false
	}
	return s[:end], strings.TrimLeft(s[end:], " \t"), true
}

// cutFields splits a line after some words, which it returns with one blank
// between them.
func cutFields(line string, fields int) (words, rest string, ok bool) {
	list := make([]string, 0, 5)
	for rest, ok = line, true; fields > 0 && ok; fields-- {
		var word string
		word, rest, ok = cutBlank(rest)
		list = append(list, word)
	}
	return strings.Join(list, " "), rest, ok
}

// commandEnd returns where the bare % stands that begins the command's input.
func commandEnd(s string) int {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '%':
			return i
		}
	}
	return len(s)
}

// unescapePercent makes \% a %, and if asked \\ a \.
func unescapePercent(s string, backslashes bool) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			if s[i+1] != '%' && !(backslashes && s[i+1] == '\\') {
				b.WriteByte('\\')
			}
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// crontabs reads the crontabs of this host and keeps what it has parsed.
type crontabs struct {
	root string // before every path; "" but in tests

	mu      sync.Mutex
	files   map[string]*crontabFile
	listing cronListing
}

// cronListing is what the directory of the system's crontabs held when it had that
// change time.
type cronListing struct {
	changed time.Time
	paths   []string
}

type crontabFile struct {
	changed time.Time // ctime: no program sets it
	inode   uint64
	owner   uint32
	exposed bool // others than the owner may write it
	jobs    []cronJob
}

var errNoCrontab = errors.New("not a crontab")

// jobsOf returns the jobs that cron runs as a user. They are steady if all that
// could tell was read and none of it has changed since the time given, so that
// a job which started then is one of them.
func (c *crontabs) jobsOf(user string, uid uint32, since time.Time) (jobs []cronJob, steady bool) {
	if user == "" || strings.ContainsAny(user, "/\x00") || user[0] == '.' {
		return nil, false
	}
	newest := since.Add(-crontabSlack)
	steady = true
	spools := 0
	for _, dir := range crontabSpools {
		st, err := os.Stat(c.root + dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		spools++
		// A crontab that is replaced or removed changes its directory.
		if err != nil || !changeTime(st).Before(newest) {
			steady = false
		}
		f, err := c.file(dir+"/"+user, false)
		if err == nil && (f.exposed || f.owner != 0 && f.owner != uid) {
			err = errNoCrontab
		}
		if err == nil {
			jobs = append(jobs, f.jobs...)
			steady = steady && f.changed.Before(newest)
		} else if !errors.Is(err, fs.ErrNotExist) {
			steady = false
		}
	}
	if spools == 0 {
		steady = false
	}
	system, ok := c.systemFiles(newest)
	steady = steady && ok
	for _, path := range system {
		f, err := c.file(path, true)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			steady = false
			continue
		}
		// A file that has changed may have had a job of this user before.
		steady = steady && f.changed.Before(newest)
		if f.owner != 0 || f.exposed { // cron takes no such file either
			continue
		}
		for _, job := range f.jobs {
			if job.user == user {
				jobs = append(jobs, job)
			}
		}
	}
	return jobs, steady
}

func (c *crontabs) systemFiles(newest time.Time) (paths []string, steady bool) {
	paths = []string{systemCrontab}
	st, err := os.Stat(c.root + systemCronDir)
	if errors.Is(err, fs.ErrNotExist) {
		return paths, true
	}
	if err != nil {
		return paths, false
	}
	changed := changeTime(st)
	c.mu.Lock()
	known := c.listing
	c.mu.Unlock()
	if known.changed.Equal(changed) {
		return known.paths, changed.Before(newest)
	}
	dir, err := os.Open(c.root + systemCronDir)
	if err != nil {
		return paths, false
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxCronFiles)
	for _, name := range names {
		if name[0] != '.' && name[0] != '#' && !strings.HasSuffix(name, "~") {
			paths = append(paths, filepath.Join(systemCronDir, name))
		}
	}
	if err != nil && err != io.EOF || len(names) == maxCronFiles || !changed.Before(newest) {
		return paths, false
	}
	// It has not changed for some time, so that another change has another time.
	c.mu.Lock()
	c.listing = cronListing{changed, paths}
	c.mu.Unlock()
	return paths, true
}

// file returns a crontab, parsed again if it has changed.
func (c *crontabs) file(path string, system bool) (*crontabFile, error) {
	return c.parsed(path, func(text string) []cronJob { return parseCrontab(path, text, system) })
}

func (c *crontabs) parsed(path string, parse func(text string) []cronJob) (*crontabFile, error) {
	st, err := os.Stat(c.root + path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxCrontab {
		return nil, errNoCrontab
	}
	sys := st.Sys().(*syscall.Stat_t)
	c.mu.Lock()
	f := c.files[path]
	c.mu.Unlock()
	if f != nil && f.changed.Equal(changeTime(st)) && f.inode == sys.Ino {
		return f, nil
	}
	text, st, err := readRegular(c.root+path, maxCrontab)
	if err != nil {
		return nil, err
	}
	sys = st.Sys().(*syscall.Stat_t)
	f = &crontabFile{
		changed: changeTime(st), inode: sys.Ino, owner: sys.Uid, exposed: sys.Mode&0o022 != 0,
		jobs: parse(text),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files == nil || len(c.files) >= cachedCrontabs {
		c.files = make(map[string]*crontabFile)
	}
	c.files[path] = f
	return f, nil
}

// readRegular reads at most limit bytes of a file that is not a device or a
// pipe, and says what it was when it was opened.
func readRegular(path string, limit int64) (string, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		return "", nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, limit))
	return string(text), st, err
}

func changeTime(st fs.FileInfo) time.Time {
	sys := st.Sys().(*syscall.Stat_t)
	return time.Unix(int64(sys.Ctim.Sec), int64(sys.Ctim.Nsec))
}
