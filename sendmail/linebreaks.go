package sendmail

import (
	"bytes"
	"strings"
)

// Some MTAs put values of their command line as they are into the SMTP dialogue
// with the server that takes the mail. There an argument with a line break is
// several commands, each perhaps a recipient; and since the replies are then one
// step late, the message itself can be made to be read as commands.

// lineBreaks is how many there are in some words.
func lineBreaks(words []string) (n int) {
	for _, word := range words {
		n += strings.Count(word, "\n")
	}
	return n
}

// lineCounter counts each line of the message as a recipient, beside those that
// the machine finds. No program means an argument with a line break.
type lineCounter struct {
	machine machine
	lines   int
	done    bool // the machine needs no more
}

func (l *lineCounter) piece(b []byte) bool {
	l.lines += bytes.Count(b, []byte("\n"))
	l.done = l.done || !l.machine.piece(b)
	return true
}

func (l *lineCounter) end(e *Envelope) {
	operands := e.Recipients
	l.machine.end(e)
	// Lines of the argument itself: operands that the server takes may come to
	// nothing in the MTA's own eyes.
	e.Recipients = max(e.Recipients, operands) + l.lines
}
