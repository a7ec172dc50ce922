package main

import (
	"fmt"
	"regexp"
	"strings"
)

// sendmail8 is Sendmail as it takes mail (submit.cf), in the mode that queues only.
var sendmail8 = &mta{
	name:   "sendmail",
	sizes:  sendmailSizes,
	queued: func() ([]message, error) { return readSendmail("/var/spool/mqueue-client") },
	hasty:  true,
	varies: []pattern{
		{"ADDRESS", regexp.MustCompile(`\b0x[0-9a-f]{8,}\b`), false},        // in memory, of debugging output
		{"ID", regexp.MustCompile(`[0-9A-Za-z]{8}\d{6}\b`), true},           // time in base 60, process
		{"pid", regexp.MustCompile(`\b\d{5} (>>>|<<<|===)`), false},         // of the log that -X writes
		{"SECOND", regexp.MustCompile(`\.\d{10}/mx\.test\.example`), false}, // of a MIME boundary
		headerDate,
		{"LOAD", regexp.MustCompile(`(?m)^getla\(\): \d+\.\d\d$`), false},
		{"DAY", regexp.MustCompile(`<20\d{10}\.`), false}, // of a Message-Id
	},
}

// The priority of a message in the queue is its size, and more.
var sendmailPriority = regexp.MustCompile(`(?m)^P(\d+)$`)

func sendmailSizes(direct, traced *message, added int) {
	resize(sendmailPriority, direct, traced, func(n int) int { return n + added })
}

// readSendmail reads pairs of files as sendmail/queue.c says: a line of qf is a
// letter and a value; df is the body.
func readSendmail(dir string) (queued []message, err error) {
	files, err := take(dir, "[dq]f*")
	if err != nil {
		return nil, err
	}
	bodies := map[string]string{}
	for _, f := range files {
		if id, ok := strings.CutPrefix(f.name, "df"); ok {
			bodies[id] = f.content
			continue
		}
		m := message{envelope: f.owner + "\n"}
		header := strings.Builder{}
		inHeader, ended := false, false
		for line := range strings.Lines(f.content) {
			switch line = strings.TrimSuffix(line, "\n"); {
			case line == ".":
				ended = true
			case line == "":
				return nil, fmt.Errorf("queue file %s: an empty line", f.name)
			case line[0] == '\t' || line[0] == ' ':
				if inHeader {
					header.WriteString(line + "\n")
				} else {
					m.envelope += line + "\n"
				}
				continue
			case line[0] == 'T', line[0] == 'K', line[0] == 'I': // when it came, when it was tried, where df lies
			case line[0] == 'S':
				m.sender = line[1:]
			case line[0] == 'R': // flags, a colon, the address
				flags, address, err := f.cut(line[1:], ":")
				if err != nil {
					return nil, err
				}
				m.recipients = append(m.recipients, address)
				m.envelope += "R" + flags + "\n"
			case line[0] == 'H':
				header.WriteString(line[1:] + "\n")
			default:
				m.envelope += line + "\n"
			}
			inHeader = line[0] == 'H'
		}
		if !ended {
			return nil, fmt.Errorf("queue file %s: has no end", f.name)
		}
		body, ok := bodies[strings.TrimPrefix(f.name, "qf")]
		if !ok {
			return nil, fmt.Errorf("queue file %s: without its body", f.name)
		}
		m.content = header.String() + "\n" + body
		queued = append(queued, m)
	}
	if len(bodies) != len(queued) {
		return nil, fmt.Errorf("%d bodies, %d envelopes in %s", len(bodies), len(queued), dir)
	}
	return queued, nil
}
