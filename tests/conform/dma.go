package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// dma queues only (DEFER).
var dma = &mta{
	name:   "dma",
	queued: func() ([]message, error) { return readDMA("/var/spool/dma") },
	varies: []pattern{
		{"MESSAGE-ID", regexp.MustCompile(`<[0-9a-f]{1,8}\.[0-9a-f]+\.[0-9a-f]{1,8}@`), false},
		{"ID", regexp.MustCompile(`(?m)^\tid [0-9a-f]+(\.[0-9a-f]+)?$`), false},
		headerDate,
	},
}

// readDMA reads pairs of files as dma's spool.c says: Q is a recipient, M the
// message, one and the same for all its recipients; what they are called begins
// with the number of the first file.
func readDMA(dir string) (queued []message, err error) {
	files, err := take(dir, "[MQ]*")
	if err != nil {
		return nil, err
	}
	contents := map[string]string{}
	byID := map[string]*message{}
	for _, f := range files {
		if name, ok := strings.CutPrefix(f.name, "M"); ok {
			contents[name] = f.content
			continue
		}
		name := f.name[1:]
		id, _, _ := strings.Cut(name, ".")
		m := byID[id]
		if m == nil {
			m = &message{envelope: f.owner + "\n", content: contents[name]}
			byID[id] = m
		}
		if contents[name] != m.content {
			return nil, fmt.Errorf("queue file M%s: not the same as for the other recipients", name)
		}
		for line := range strings.Lines(f.content) {
			field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			switch field {
			case "ID":
			case "Sender":
				m.sender = value
			case "Recipient":
				m.recipients = append(m.recipients, value)
			default: // a line break in an address goes into the file as it is
				m.envelope += line
			}
		}
	}
	for _, m := range byID {
		slices.Sort(m.recipients) // the names of the files are addresses in memory
		queued = append(queued, *m)
	}
	return queued, nil
}
