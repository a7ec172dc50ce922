package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// namesProgram puts the wrapper in the place of sendmail's names, gives them back, and
// says how they stand: packaging/names, or packaging/rpm/names.
const namesProgram = "/usr/libexec/sendmail-wrapper/names"

// namesFindings are about the names by which sendmail is called: whether each leads
// to the wrapper, has a real program behind it, and stays so in updates.
func (a *app) namesFindings(ctx context.Context) []finding {
	var stderr bytes.Buffer
	c := exec.CommandContext(ctx, namesProgram, "show")
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		if said := strings.TrimSpace(stderr.String()); said != "" {
			err = fmt.Errorf("%s show: %s", namesProgram, said)
		}
		return []finding{a.unlooked("names", highSeverity, err)}
	}
	return foundNames(string(out))
}

// foundNames makes findings of what names show says, a line a name: NAME STATE PROGRAM
// [WHY]. What is fine is one finding.
func foundNames(said string) (list []finding) {
	var taken []string
	program := ""
	for line := range strings.Lines(said) {
		words := strings.SplitN(strings.TrimSpace(line), " ", 4)
		for len(words) < 4 {
			words = append(words, "")
		}
		switch name, real, why := words[0], words[2], words[3]; words[1] {
		case "taken":
			taken = append(taken, name)
			program = real
		case "free":
			list = append(list, finding{Check: "names", State: isOpen, Severity: highSeverity,
				Text: name + " is " + real + " itself: mail that is given to it is not counted", Command: namesProgram + " take"})
		default:
			list = append(list, finding{Check: "names", State: isWrong, Severity: highSeverity,
				Text: name + ": " + why, Command: namesProgram + " repair"})
		}
	}
	if len(taken) > 0 {
		list = append(list, finding{Check: "names", State: isFine, Text: strings.Join(taken, ", ") + ": the wrapper, before " + program})
	}
	return list
}
