package wrapper

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// served is what an MTA of the tests has got.
type served struct {
	Argv     []string
	Commands []string // with their line ends
	Messages []mail
}

type mail struct {
	Sender     string
	Recipients []string
	Content    []byte // a string would lose bytes in JSON
}

// serveSMTP is the MTA of the tests: it reads lines as Postfix does, and does wrong
// what the word in TEST_MTA says.
func serveSMTP(record, wrong string) int {
	m := mta{Reader: bufio.NewReaderSize(os.Stdin, 100), wrong: wrong, batch: slices.Contains(os.Args, "-bS")}
	m.Argv = os.Args
	exit := m.serve()
	out, err := json.Marshal(&m.served)
	if err == nil {
		err = os.WriteFile(record, out, 0o600)
	}
	if err != nil {
		panic(err)
	}
	return exit
}

type mta struct {
	*bufio.Reader
	served
	wrong   string
	batch   bool
	current *mail
}

func (m *mta) say(text string) {
	if !m.batch {
		os.Stdout.WriteString(text + "\r\n")
	}
}

const ehloReply = "250-mta\r\n250-SIZE 1000\r\n250-CHUNKING\r\n250-8BITMIME\r\n250 STARTTLS"

func (m *mta) serve() (exit int) {
	switch m.wrong {
	case "greets 554":
		m.say("554 no service")
		return 7
	case "greets in two lines":
		m.say("220-mta\r\n220 second line")
	case "dies at once":
		return 9
	case "never ends a line":
		os.Stdout.Write(bytes.Repeat([]byte("x"), 200_000))
		return 0
	default:
		m.say("220 mta")
	}
	for {
		line, err := m.ReadString('\n')
		if err != nil && m.batch {
			return 0
		}
		if err != nil {
			return 5
		}
		m.Commands = append(m.Commands, line)
		verb, argument, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		switch verb = strings.ToUpper(verb); {
		case verb == "HELP" && m.wrong == "says 421 and ends":
			m.say("421 going down")
			return 6
		case verb == "HELP" && m.wrong == "dies":
			os.Stdout.WriteString("214-half a reply\r\n")
			return 8
		case verb == "HELP" && m.wrong == "replies twice":
			m.say("214 one\r\n250 two")
		case verb == "HELP" && m.wrong == "wants data":
			m.say("354 go on")
		case verb == "HELP":
			m.say("214-help\r\n214-more\r\n214 help")
		case verb == "EHLO":
			m.say(ehloReply)
		case verb == "MAIL" && strings.Contains(argument, "refused"):
			m.say("550 5.7.1 not you")
		case verb == "MAIL" && m.current != nil:
			m.say("503 nested")
		case verb == "MAIL":
			m.current = &mail{Sender: argument}
			m.say("250 2.1.0 sender")
		case (verb == "RCPT" || verb == "XRCPT") && m.current == nil:
			m.say("503 need MAIL")
		case verb == "RCPT" && strings.Contains(argument, "refused"):
			m.say("550-5.1.1 nobody\r\n550 5.1.1 of that name")
		case verb == "RCPT", verb == "XRCPT":
			m.current.Recipients = append(m.current.Recipients, argument)
			m.say("250 2.1.5 recipient")
		case verb == "RSET":
			m.current = nil
			m.say("250 reset")
		case verb == "QUIT":
			m.say("221 bye")
			return 0
		case verb == "NOOP", verb == "HELO":
			m.say("250 " + verb)
		case verb != "DATA":
			m.say("500 what?")
			if m.batch {
				fmt.Println("500 what?")
				return 2
			}
		case m.current == nil || len(m.current.Recipients) == 0:
			m.say("503 need RCPT")
			if m.batch {
				return 2
			}
		case m.wrong == "refuses DATA":
			m.say("451 not now")
		default:
			if !m.data() {
				return 4
			}
		}
	}
}

// data reads the content, and ends at "." after CR LF or LF.
func (m *mta) data() bool {
	m.say("354 End data with <CR><LF>.<CR><LF>")
	if m.wrong == "dies in the content" {
		io.CopyN(io.Discard, m, 1000)
		m.say("452 disk full")
		return false
	}
	var content bytes.Buffer
	for {
		line, err := m.ReadString('\n')
		if err != nil {
			return false
		}
		if strings.TrimRight(line, "\r\n") == "." {
			break
		}
		content.WriteString(strings.TrimPrefix(line, "."))
		if m.wrong == "talks in the content" {
			m.say("250-talk " + strings.Repeat("x", 60))
		}
	}
	m.current.Content = content.Bytes()
	m.Messages = append(m.Messages, *m.current)
	m.current = nil
	m.say(fmt.Sprintf("250 queued as %d", len(m.Messages)))
	return true
}
