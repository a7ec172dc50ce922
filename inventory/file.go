package inventory

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"unicode/utf8"
)

const (
	// MaxFile bounds what is read of a source, in bytes.
	MaxFile = 64 << 20
	// MaxJSON bounds what is read of an export, which is of all hosts.
	MaxJSON = 512 << 20

	maxLine = 64 << 10 // bytes of a line of text
)

// File is a file that was read.
type File struct {
	Name string
	Text []byte
}

// ReadFile reads a regular file: what a name leads to may be a pipe that never
// ends, or a device.
func ReadFile(path string, most int64) ([]byte, error) {
	st, err := os.Stat(path) // to open some devices does something
	if err == nil {
		err = regular(path, st)
	}
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err = f.Stat(); err == nil {
		err = regular(path, st)
	}
	if err != nil {
		return nil, err
	}
	return ReadAll(path, f, most)
}

func regular(path string, st fs.FileInfo) error {
	switch {
	case st.IsDir():
		return fmt.Errorf("%s: %w", path, syscall.EISDIR)
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file", path)
	}
	return nil
}

// ReadAll reads a stream up to a bound, beyond which it is an error.
func ReadAll(name string, r io.Reader, most int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > most {
		return nil, fmt.Errorf("%s is larger than %d MB", name, most>>20)
	}
	return text, nil
}

// lenient is text of a file in which comments and names of people may be in any
// character set.
func lenient(text []byte) []byte { return bytes.ToValidUTF8(text, []byte("\uFFFD")) }

// checkText refuses what no text has, and lines beyond longest. Of a byte order
// mark at the beginning (Windows' editors and spreadsheets) nothing is left.
func checkText(file string, text []byte, longest int) ([]byte, error) {
	text = bytes.TrimPrefix(text, []byte("\xEF\xBB\xBF"))
	if bytes.HasPrefix(text, []byte("\xFF\xFE")) || bytes.HasPrefix(text, []byte("\xFE\xFF")) {
		return nil, &Error{file, 1, 1, "this is UTF-16: save it as UTF-8"}
	}
	bad := bytes.IndexByte(text, 0)
	why := "a NUL byte: this is no text"
	if !utf8.Valid(text) {
		for at := 0; at < len(text) && (bad < 0 || at < bad); {
			r, n := utf8.DecodeRune(text[at:])
			if r == utf8.RuneError && n == 1 {
				bad, why = at, fmt.Sprintf("byte 0x%02X: this is no UTF-8: save it so", text[at])
				break
			}
			at += n
		}
	}
	if bad >= 0 {
		before := text[:bad]
		return nil, &Error{file, 1 + bytes.Count(before, []byte("\n")), bad - bytes.LastIndexByte(before, '\n'), why}
	}
	number := 0
	for line := range bytes.Lines(text) {
		if number++; len(line) > longest {
			return nil, &Error{file, number, 0, fmt.Sprintf("line of %d bytes: %d are the most", len(line), longest)}
		}
	}
	return text, nil
}
