package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// opensmtpd runs, and is told to deliver nothing.
var opensmtpd = &mta{
	name: "opensmtpd",
	start: func() error {
		for _, what := range []string{"mta", "mda"} {
			if out, err := exec.Command("smtpctl", "pause", what).CombinedOutput(); err != nil {
				return fmt.Errorf("smtpctl pause %s: %w: %s", what, err, out)
			}
		}
		return nil
	},
	queued: func() ([]message, error) { return readOpenSMTPD("/var/spool/smtpd/queue") },
	varies: []pattern{
		{"MESSAGE-ID", regexp.MustCompile(`<[0-9a-f]{16}@`), false},
		{"ID", regexp.MustCompile(`\b[0-9a-f]{8}\b`), true},
		headerDate,
		{"ctime", regexp.MustCompile(`(?m)^ctime: \d{10}$`), false},
	},
}

// readOpenSMTPD reads directories as smtpd/queue_fs.c and envelope.c say: one a
// message, in it the content and a file of fields for each recipient.
func readOpenSMTPD(dir string) (queued []message, err error) {
	dirs, err := filepath.Glob(filepath.Join(dir, "??", "????????"))
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		m := message{}
		files, err := take(d, "*")
		if err != nil {
			return nil, err
		}
		var envelopes []string
		for _, f := range files {
			if f.name == "message" {
				m.content = f.content
				m.envelope = f.owner + "\n"
				continue
			}
			rest := strings.Builder{}
			for line := range strings.Lines(f.content) {
				name, value, err := f.cut(strings.TrimSuffix(line, "\n"), ":")
				if err != nil {
					return nil, err
				}
				switch value = strings.TrimPrefix(value, " "); name {
				case "sender":
					m.sender = value
				case "rcpt":
					m.recipients = append(m.recipients, value)
					rest.WriteString(line)
				default:
					rest.WriteString(line)
				}
			}
			envelopes = append(envelopes, rest.String())
		}
		// The names of the files are random.
		slices.Sort(m.recipients)
		slices.Sort(envelopes)
		m.envelope += strings.Join(envelopes, "")
		queued = append(queued, m)
		if err := os.Remove(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return queued, nil
}
