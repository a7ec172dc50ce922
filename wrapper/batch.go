package wrapper

import (
	"bytes"
	"strconv"

	"sendmail-wrapper/sendmail"
)

// batch serves a call of Exim's -bS: commands and messages on standard input, and
// no replies. What comes is passed on, but content not before it has been accepted.
// The first message that is refused ends the batch, as an error does in Exim.
func batch(config *Config, call *sendmail.Call, argv []string) int {
	s, failure := newSession(config, call, argv, false)
	if failure != nil {
		return fail(failure.exit, failure.text)
	}
	began, messages := 0, 0 // line before the transaction, and how many were passed on
	for {
		line, ok := s.line()
		if !ok {
			return s.end()
		}
		command, clear := sendmail.ParseCommand(bytes.TrimRight(line, "\r\n"))
		switch {
		case line == nil || !clear:
			return s.abandon("500 5.5.2 Error: command too long, or NUL or CR in it", began, messages)
		case command.Verb == sendmail.Quit, s.mta.deaf: // Exim has ended, and what follows is for nobody
			s.mta.write(line)
			return s.end()
		case command.Verb != sendmail.Data:
			s.mta.write(line)
			s.learn(&command) // what Exim does not take is the end of the batch
			if command.Verb != sendmail.Mail && command.Verb != sendmail.Rcpt {
				began = s.lines // as in smtp_setup_batch_msg() of smtp_in.c
			}
			continue
		case s.recipients == 0: // let Exim say so
			s.mta.write(line)
			return s.end()
		}
		held, ok := s.content()
		if !ok { // Exim says "421 … message abandoned"
			s.mta.write(line)
			return s.end()
		}
		message, reply := s.judge(held)
		if message == nil {
			return s.abandon(reply.Code+" "+reply.Text, began, messages)
		}
		s.mta.write([]byte("DATA\r\n"))
		s.mta.sendTraced(message, held.size, reply)
		s.mta.write([]byte(".\r\n"))
		message.Close()
		s.recipients, s.to, began = 0, nil, s.lines
		messages++
	}
}

// abandon ends a batch: what Exim has got already it finishes, and we print and
// return what it would have for an error in this line (moan_smtp_batch() of
// moan.c), a text for programs on standard output and one for men on standard error.
func (s *session) abandon(text string, began, messages int) int {
	if exit := s.end(); exit != 0 {
		return exit // it has found an error before
	}
	return batchError(text, began, s.lines, messages)
}

// batchError prints what Exim does for an error in a line, and returns its exit status.
func batchError(text string, began, ended, messages int) int {
	transaction, line := strconv.Itoa(began), strconv.Itoa(ended)
	exit, were := 1, "s were"
	switch messages {
	case 0:
		exit = 2
	case 1:
		were = " was"
	}
	writeAll(1, []byte(text+"\nTransaction started in line "+transaction+"\nError detected in line "+line+"\n"))
	writeAll(2, []byte("An error was detected while processing a file of BSMTP input.\nThe error message was:\n\n  "+text+
		"\n\nThe SMTP transaction started in line "+transaction+".\nThe error was detected in line "+line+".\n"+
		strconv.Itoa(messages)+" previous message"+were+" successfully processed.\nThe rest of the batch was abandoned.\n"))
	return exit
}
