package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// exim queues only (queue_only).
var exim = &mta{
	name:   "exim",
	sizes:  eximSizes,
	queued: func() ([]message, error) { return readExim("/var/spool/exim4/input") },
	varies: []pattern{
		{"ID", regexp.MustCompile(`[0-9A-Za-z]{6}-[0-9A-Za-z]{6}-[0-9A-Za-z]{2}\b`), true}, // time, process, fraction in base 62
		headerDate,
		logDate,
		{"received_time", regexp.MustCompile(`(?m)^\d{10} 0$|^-received_time_usec \.\d{6}$|^-received_time_complete \d{10}\.\d{6}$`), false},
		{"pid", regexp.MustCompile(`\bpid=\d+\b`), false}, // of debugging output
	},
}

// The longest line is the trace field, or as it was; and a bounce has it in its body.
var (
	eximLongest = regexp.MustCompile(`(?m)^-max_received_linelength (\d+)$`)
	eximLines   = regexp.MustCompile(`(?m)^-body_linecount (\d+)$`)
)

func eximSizes(direct, traced *message, _ int) {
	resize(eximLongest, direct, traced, func(n int) int { return max(n, traceLen-1) })
	if direct.sender == "" {
		resize(eximLines, direct, traced, func(n int) int { return n + 1 })
	}
}

// readExim reads pairs of files as the chapter "Format of spool files" of the
// specification says: ID-H is the envelope and the header, ID-D the body.
func readExim(dir string) (queued []message, err error) {
	files, err := take(dir, "*-[HD]")
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(files); i += 2 { // D sorts before H
		body, head := files[i], files[i+1]
		if strings.TrimSuffix(body.name, "-D") != strings.TrimSuffix(head.name, "-H") {
			return nil, fmt.Errorf("queue files %s, %s: no pair", body.name, head.name)
		}
		m, err := readEximPair(&head, &body)
		if err != nil {
			return nil, err
		}
		queued = append(queued, m)
	}
	if len(files)%2 != 0 {
		return nil, fmt.Errorf("queue file %s: without the other one", files[len(files)-1].name)
	}
	return queued, nil
}

func readEximPair(head, body *queueFile) (m message, err error) {
	m.envelope = head.owner + "\n"
	_, text, err := body.cut(body.content, "\n") // the name
	if err != nil {
		return m, err
	}
	_, rest, err := head.cut(head.content, "\n")
	if err != nil {
		return m, err
	}
	count := -1
	for n := 0; count < 0; n++ {
		var line string
		if line, rest, err = head.cut(rest, "\n"); err != nil {
			return m, err
		}
		switch {
		case n == 1:
			m.sender = strings.TrimSuffix(strings.TrimPrefix(line, "<"), ">")
		case n > 2 && line != "" && line[0] >= '0' && line[0] <= '9': // after the options and the tree of those who are no recipients
			if count, err = strconv.Atoi(line); err != nil {
				return m, fmt.Errorf("queue file %s: number of recipients: %w", head.name, err)
			}
		default:
			m.envelope += line + "\n"
		}
	}
	for range count {
		var line string
		if line, rest, err = head.cut(rest, "\n"); err != nil {
			return m, err
		}
		m.recipients = append(m.recipients, line)
	}
	m.content = strings.TrimPrefix(rest, "\n") + "\n" + text
	return m, nil
}
