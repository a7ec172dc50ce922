package trace

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Logs are where Postfix logs on one host.
type Logs struct {
	Dir string // of mail.log, maillog and their rotations: /var/log
	now time.Time
}

// NewLogs returns those with files in a directory.
func NewLogs(dir string) *Logs { return &Logs{Dir: dir, now: time.Now()} }

// Source is one log. What is in the files may be in the journal as well, or, where
// no syslogd runs any more, only there.
type Source struct {
	Name  string                 // the directory, or "the journal"
	Lines iter.Seq2[Line, error] // goes on after an error with what can be read
}

// ErrNoLog says that there is no log that can be read.
var ErrNoLog = errors.New("no mail log can be read")

// maxLine bounds what is read of a line; syslogds cut at 8 KiB at the most.
const maxLine = 64 << 10

// Sources are what may hold lines of a time span: first the files, then the
// journal. A zero time is no bound.
func (l *Logs) Sources(ctx context.Context, since, until time.Time) ([]Source, error) {
	files, err := l.files(since)
	if err != nil {
		return nil, err
	}
	var list []Source
	if len(files) > 0 {
		list = append(list, Source{l.Dir, l.bounded(func(yield func(string, error) bool) { readFiles(ctx, files, yield) }, since, until)})
	}
	if _, err := exec.LookPath("journalctl"); err == nil {
		list = append(list, Source{"the journal", l.bounded(func(yield func(string, error) bool) { readJournal(ctx, since, until, yield) }, since, until)})
	}
	if len(list) == 0 {
		return nil, ErrNoLog
	}
	return list, nil
}

// files are the logs that were written to after a time, oldest first.
func (l *Logs) files(since time.Time) ([]string, error) {
	type file struct {
		path  string
		mtime time.Time
	}
	var list []file
	for _, pattern := range []string{"mail.log", "mail.log.*", "mail.log-*", "maillog", "maillog.*", "maillog-*"} {
		paths, err := filepath.Glob(filepath.Join(l.Dir, pattern))
		if err != nil {
			return nil, fmt.Errorf("look for the mail log: %w", err)
		}
		for _, path := range paths {
			st, err := os.Stat(path)
			if errors.Is(err, fs.ErrNotExist) || err == nil && (!st.Mode().IsRegular() || st.Size() == 0) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("look for the mail log: %w", err)
			}
			list = append(list, file{path, st.ModTime()})
		}
	}
	slices.SortFunc(list, func(a, b file) int { return cmp.Or(a.mtime.Compare(b.mtime), -cmp.Compare(a.path, b.path)) })
	var paths []string
	for _, f := range list {
		// Syslog has whole seconds, and clocks are set.
		if f.mtime.After(since.Add(-time.Minute)) {
			paths = append(paths, f.path)
		}
	}
	return paths, nil
}

// bounded are the lines of a time span.
func (l *Logs) bounded(texts iter.Seq2[string, error], since, until time.Time) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		for text, err := range texts {
			if err != nil {
				if !yield(Line{}, err) {
					return
				}
				continue
			}
			line, ok := parseLine(text, l.now)
			if !ok || line.Time.Before(since) || !until.IsZero() && line.Time.After(until) {
				continue
			}
			if !yield(line, nil) {
				return
			}
		}
	}
}

// readFiles reads one log after the other. One that cannot be read, packed with
// xz(1) or cut off, is told and passed over: what is looked for may be in the next.
func readFiles(ctx context.Context, paths []string, yield func(string, error) bool) {
	for _, path := range paths {
		switch goOn, err := readFile(ctx, path, yield); {
		case errors.Is(err, fs.ErrNotExist): // rotated away
		case err != nil:
			if !yield("", fmt.Errorf("read %s: %w", path, err)) || ctx.Err() != nil {
				return
			}
		case !goOn:
			return
		}
	}
}

func readFile(ctx context.Context, path string, yield func(string, error) bool) (goOn bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var r io.Reader = f
	switch filepath.Ext(path) {
	case ".gz":
		if r, err = gzip.NewReader(f); err != nil {
			return false, err
		}
	case ".xz", ".bz2", ".zst":
		return false, errors.New("cannot be read: only gzip(1) can")
	}
	return readLines(ctx, r, yield)
}

// readLines reads what may be lines of Postfix about a queue file. What is too
// long for a line of a log is passed over.
func readLines(ctx context.Context, r io.Reader, yield func(string, error) bool) (goOn bool, err error) {
	buffered := bufio.NewReaderSize(r, maxLine)
	isLong := false
	for {
		line, err := buffered.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			isLong = true
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return false, err
		}
		if !isLong && bytes.Contains(line, []byte("/")) && !yield(strings.TrimRight(string(line), "\r\n"), nil) {
			return false, nil
		}
		isLong = false
		if err != nil {
			return true, nil
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
	}
}

// readJournal reads what Postfix's own unit wrote, as systemd knows from the
// control group: nobody else can write in its name.
func readJournal(ctx context.Context, since, until time.Time, yield func(string, error) bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	args := []string{"-q", "--no-pager", "-o", "short-iso", "-u", "postfix.service", "-u", "postfix@*.service"}
	if !since.IsZero() {
		args = append(args, fmt.Sprintf("--since=@%d", since.Unix()))
	}
	if !until.IsZero() {
		args = append(args, fmt.Sprintf("--until=@%d", until.Unix()+1))
	}
	cmd := exec.CommandContext(ctx, "journalctl", args...)
	cmd.WaitDelay = time.Second
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		yield("", fmt.Errorf("read the journal: %w", err))
		return
	}
	goOn, err := readLines(ctx, out, yield)
	if !goOn {
		cancel()
	}
	if waitErr := cmd.Wait(); err == nil && goOn && waitErr != nil {
		err = fmt.Errorf("%w: %s", waitErr, bytes.TrimSpace(errs.Bytes()))
	}
	if err != nil {
		yield("", fmt.Errorf("read the journal: %w", err))
	}
}
