package report

import (
	"io"
	"os"
	"strconv"

	"golang.org/x/term"
)

// Colours are SGR parameters (ECMA-48 8.3.117).
type Colour string

const (
	Bold   Colour = "1"
	Red    Colour = "31"
	Yellow Colour = "33"
)

// Paint gives a text a colour if it goes to a terminal that has colours, and
// nobody said that he wants none (https://no-color.org).
func Paint(w io.Writer, c Colour, text string) string {
	if !paints(w) {
		return text
	}
	return paint(c, text)
}

func paint(c Colour, text string) string { return "\x1b[" + string(c) + "m" + text + "\x1b[0m" }

func paints(w io.Writer) bool {
	_, ok := terminal(w)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && os.Getenv("TERM") != ""
}

// IsTerminal tells whether somebody looks at what is written.
func IsTerminal(w io.Writer) bool {
	_, ok := terminal(w)
	return ok
}

func terminal(w io.Writer) (fd int, ok bool) {
	f, ok := w.(interface{ Fd() uintptr }) // a file, or what writes to one
	if !ok {
		return 0, false
	}
	fd = int(f.Fd())
	return fd, term.IsTerminal(fd)
}

// width is how many columns a line has that must not wrap: 0 where it may, since
// it goes to a program. COLUMNS has the last word, as with ls(1).
func width(w io.Writer) int {
	fd, ok := terminal(w)
	if !ok {
		return 0
	}
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	n, _, err := term.GetSize(fd)
	if err != nil {
		return 0
	}
	return n
}
