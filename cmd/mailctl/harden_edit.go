package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The lines that mailctl harden puts into files of others lie between two comments, and
// so does, as a comment, the setting that they take the place of. So --remove gives back
// each byte. In all these files # begins a comment.
const (
	hardenBegin = "# BEGIN mailctl harden"
	hardenEnd   = "# END mailctl harden"
	hardenWas   = "# mailctl harden: "
)

// withHarden puts now, whole lines, in the place of text[start:end], whole lines too.
// Without such lines start, the beginning of a line, is where they go.
func withHarden(text []byte, start, end int, now string) []byte {
	block := hardenBegin + " (its option --remove takes these lines out)\n"
	was := text[start:end]
	for line := range bytes.Lines(was) {
		block += hardenWas + string(bytes.TrimSuffix(line, []byte("\n"))) + "\n"
	}
	block += now + hardenEnd
	if len(was) == 0 || was[len(was)-1] == '\n' { // else it is the end of the file, and stays so
		block += "\n"
	}
	return slices.Concat(text[:start], []byte(block), text[end:])
}

// withoutHarden is text as it would be had there been none of it. Lines within that are
// not ours are others', and hold in place of what was there before. place is where lines were
// that took no place of others, -1 if none are.
func withoutHarden(text []byte, ours func(line string) bool) (rest []byte, place int) {
	rest, place = make([]byte, 0, len(text)), -1
	var was, others []byte
	inside := false
	for line := range bytes.Lines(text) {
		old, isOld := bytes.CutPrefix(line, []byte(hardenWas))
		if !isOld {
			old, isOld = bytes.CutPrefix(line, []byte(strings.TrimSpace(hardenWas)))
		}
		switch trimmed := strings.TrimSpace(string(line)); {
		case !inside && strings.HasPrefix(trimmed, hardenBegin):
			inside, was, others = true, nil, nil
		case !inside:
			rest = append(rest, line...)
		case trimmed == hardenEnd:
			inside = false
			if was == nil && place < 0 {
				place = len(rest)
			}
			if others == nil {
				others = was
			}
			if line[len(line)-1] != '\n' {
				others = bytes.TrimSuffix(others, []byte("\n"))
			}
			rest = append(rest, others...)
		case isOld:
			was = append(was, old...)
		case !ours(trimmed):
			others = append(others, line...)
		}
	}
	if inside { // its end is gone
		rest = append(rest, others...)
	}
	return rest, place
}

// lastLineStart is where new lines can go at the end of a text: before the last line if that
// has no newline, to leave it as it is.
func lastLineStart(text []byte) int { return bytes.LastIndexByte(text, '\n') + 1 }

// hardenRecord is what --remove must know of how it was before, and no file says. It
// is written before what it tells of is done.
type hardenRecord struct {
	// Network: the network door is ours.
	Network bool `json:"network,omitempty"`
	// Forwards is how Postfix was: "none" or, with mailctl setup postfix, "plain".
	Forwards string `json:"forwards,omitempty"`
	// Mode is Sendmail's, as chmod(1) has it, and Override its dpkg-statoverride(1).
	Mode     string `json:"mode,omitempty"`
	Override string `json:"override,omitempty"`

	path string
}

func (a *app) hardenRecord() string { return filepath.Join(filepath.Dir(a.configPath), "harden.json") }

func readHardenRecord(path string) (*hardenRecord, error) {
	r := &hardenRecord{path: path}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(text, r)
	}
	return r, err
}

// write saves the record; one that says nothing is no file.
func (r *hardenRecord) write() error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if string(text) == "{}" {
		if err := os.Remove(r.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	return replaceFile(r.path, append(text, '\n'), 0o644, 0)
}
