package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
)

// msmtp has no queue: the smart host it hands mail to is here.
var msmtp = &mta{
	name:   "msmtp",
	start:  startSink,
	queued: func() ([]message, error) { return sunk.take(), nil },
	varies: []pattern{
		{"MESSAGE-ID", regexp.MustCompile(`<[0-9a-f]{32}\.`), false},
		{"TIME", regexp.MustCompile(`(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d\d \d\d:\d\d:\d\d host=`), false}, // of its log
		headerDate,
	},
}

// sink is an SMTP server that takes everything, whatever an address looks like:
// what is to be seen is what msmtp says, not what it should. It offers no DSN.
type sink struct {
	mu    sync.Mutex
	taken []message
}

var sunk sink

func startSink() error {
	l, err := net.Listen("tcp", "127.0.0.1:25")
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go sunk.serve(conn)
		}
	}()
	return nil
}

func (s *sink) take() (taken []message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken, s.taken = s.taken, nil
	return taken
}

func (s *sink) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	say := func(text string) { fmt.Fprintf(conn, "%s\r\n", text) }
	say("220 sink.test.example ESMTP")
	m := message{}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		verb, rest, _ := strings.Cut(line, ":")
		switch strings.ToUpper(verb) {
		case "MAIL FROM":
			m = message{sender: rest}
			say("250 ok")
		case "RCPT TO":
			m.recipients = append(m.recipients, rest)
			say("250 ok")
		case "DATA":
			say("354 go on")
			if m.content, err = readData(in); err != nil {
				return
			}
			s.mu.Lock()
			s.taken = append(s.taken, m)
			s.mu.Unlock()
			say("250 queued")
		case "QUIT":
			say("221 bye")
			return
		default: // HELO, EHLO, RSET
			say("250 ok")
		}
	}
}

func readData(in *bufio.Reader) (string, error) {
	content := strings.Builder{}
	for {
		line, err := in.ReadString('\n')
		switch {
		case err == io.EOF:
			return "", io.ErrUnexpectedEOF
		case err != nil:
			return "", err
		case line == ".\r\n":
			return content.String(), nil
		}
		content.WriteString(strings.TrimPrefix(line, "."))
	}
}
