package main

import (
	"regexp"
	"strings"
)

// nullmailer does not run: nullmailer-queue(8) leaves files in the queue.
var nullmailer = &mta{
	name:   "nullmailer",
	queued: func() ([]message, error) { return readNullmailer("/var/spool/nullmailer/queue") },
	varies: []pattern{
		headerDate,
		{"DATE", regexp.MustCompile(`(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} \d\d:\d\d:\d\d -0000`), false},
		{"pid", regexp.MustCompile(`\(nullmailer pid \d+ `), false},
		{"MESSAGE-ID", regexp.MustCompile(`<\d{10}\.\d{6}\.\d+\.nullmailer@`), false},
	},
}

// readNullmailer reads files as nullmailer-queue(8) says: the sender, the
// recipients, an empty line, the message.
func readNullmailer(dir string) (queued []message, err error) {
	files, err := take(dir, "*")
	for _, f := range files {
		envelope, content, err := f.cut(f.content, "\n\n")
		if err != nil {
			return nil, err
		}
		lines := strings.Split(envelope, "\n")
		queued = append(queued, message{sender: lines[0], recipients: lines[1:], envelope: f.owner + "\n", content: content})
	}
	return queued, err
}
