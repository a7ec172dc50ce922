package main

import (
	"fmt"
	"regexp"
	"strings"
)

// postfix does not run: postdrop(1) leaves records in the maildrop queue.
var postfix = &mta{
	name:      "postfix",
	emptyLine: true,
	queued:    func() ([]message, error) { return readMaildrop("/var/spool/postfix/maildrop") },
	varies: []pattern{
		{"ID", regexp.MustCompile(`\b[0-9A-F]{6,12}\b`), true}, // mail_queue.h: microseconds and inode number in hexadecimal
		headerDate,
	},
}

// readMaildrop reads files as src/global/rec_type.h and record.c of Postfix say:
// a type, the length in portions of seven bits, lowest first, the data.
func readMaildrop(dir string) (queued []message, err error) {
	files, err := take(dir, "*")
	for _, f := range files {
		m := message{envelope: f.owner + "\n"}
		text := strings.Builder{}
		rest := f.content
		for ended := false; rest != ""; {
			kind, data := rest[0], ""
			if data, rest, err = cutRecord(rest[1:]); err != nil {
				return nil, fmt.Errorf("queue file %s: %w", f.name, err)
			}
			if ended {
				return nil, fmt.Errorf("queue file %s: goes on after its end", f.name)
			}
			switch kind {
			case 'T': // when it came
			case 'S':
				m.sender = data
			case 'R':
				m.recipients = append(m.recipients, data)
			case 'N':
				text.WriteString(data + "\n")
			case 'L': // a part of a line
				text.WriteString(data)
			case 'E':
				ended = true
			default:
				m.envelope += fmt.Sprintf("%c %s\n", kind, data)
			}
		}
		m.content = text.String()
		queued = append(queued, m)
	}
	return queued, err
}

func cutRecord(s string) (data, rest string, err error) {
	length := 0
	for i := 0; i < len(s) && i < 5; i++ {
		length |= int(s[i]&0x7f) << (7 * i)
		if s[i] < 0x80 {
			if length > len(s)-i-1 {
				break
			}
			return s[i+1 : i+1+length], s[i+1+length:], nil
		}
	}
	return "", "", fmt.Errorf("a record is cut short")
}
