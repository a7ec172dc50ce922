package main

import (
	"bytes"
	"errors"
	"regexp"
	"slices"
	"strings"
)

// eximSetting is a setting of the main part of Exim's configuration, or a macro.
type eximSetting struct {
	name, value string
	start, end  int  // of its lines
	isDefault   bool // of a macro that is set where nobody else has: .ifndef NAME is before it
}

var (
	eximLine  = regexp.MustCompile(`^\s*(?:hide\s+)?([A-Za-z]\w*)\s*==?\s*(.*)$`)
	eximBegin = regexp.MustCompile(`^\s*begin\s`)
	macroName = regexp.MustCompile(`^[A-Z]\w*$`)
)

// eximSettings reads the main part, which ends at the first "begin" (the Exim
// specification, 6.2: a line that ends in \ goes on in the next one, with comments between).
func eximSettings(text []byte) (all []eximSetting) {
	offset, guard := 0, ""
	open := false // the setting before goes on
	for line := range bytes.Lines(text) {
		start := offset
		offset += len(line)
		trimmed := strings.TrimSpace(string(line))
		if trimmed == "" || trimmed[0] == '#' {
			continue
		}
		if open {
			s := &all[len(all)-1]
			s.value, open = strings.CutSuffix(s.value+trimmed, `\`)
			s.end = offset
			continue
		}
		if eximBegin.MatchString(trimmed) {
			break
		}
		if words := strings.Fields(trimmed); words[0] == ".ifndef" && len(words) == 2 {
			guard = words[1]
			continue
		}
		if m := eximLine.FindStringSubmatch(trimmed); m != nil {
			s := eximSetting{name: m[1], start: start, end: offset, isDefault: m[1] == guard}
			s.value, open = strings.CutSuffix(m[2], `\`)
			all = append(all, s)
		}
		guard = ""
	}
	return all
}

// setsExim tells whether somebody has set name. A default is only for where nobody has.
func setsExim(text []byte, name string) bool {
	return slices.ContainsFunc(eximSettings(text), func(s eximSetting) bool { return s.name == name && !s.isDefault })
}

// replaceEximSetting puts value(was) in the place of each setting of name.
func replaceEximSetting(e *edit, name string, value func(was eximSetting) (string, error)) error {
	for _, s := range slices.Backward(eximSettings(e.after)) {
		if s.name != name || s.isDefault {
			continue
		}
		now, err := value(s)
		if err != nil {
			return err
		}
		e.after = withHarden(e.after, s.start, s.end, name+" = "+now+"\n")
	}
	return nil
}

// eximMacro is the macro that is all of the value of an option, if it has a default:
// Debian's way to let an administrator set the option without a change of its files.
func eximMacro(edits []*edit, option string) (macro eximSetting, ok bool) {
	name := ""
	for _, e := range edits {
		for _, s := range eximSettings(e.after) {
			if s.name == option && macroName.MatchString(s.value) {
				name = s.value
			}
		}
	}
	if name == "" {
		return macro, false
	}
	for _, e := range edits {
		for _, s := range eximSettings(e.after) {
			if s.name == name && s.isDefault {
				return s, true
			}
		}
	}
	return macro, false
}

// balanced tells whether a value can stand within braces.
func balanced(value string) error {
	depth, quoted := 0, false
	for _, r := range value {
		switch {
		case quoted:
			quoted = false
		case r == '\\':
			quoted = true
		case r == '{':
			depth++
		case r == '}':
			depth--
		}
		if depth < 0 {
			break
		}
	}
	if depth != 0 || quoted || strings.HasPrefix(value, `"`) {
		return errors.New("this cannot be made a part of another value")
	}
	return nil
}
