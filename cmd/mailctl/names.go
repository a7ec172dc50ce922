package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// namesProgram puts the wrapper in the place of sendmail's names, gives them back, and
// says how they stand: packaging/names, or packaging/rpm/names.
const namesProgram = "/usr/libexec/sendmail-wrapper/names"

// takenName is how one of the names by which sendmail is called stands, a line of names
// show: NAME STATE PROGRAM [WHY].
type takenName struct{ name, state, program, why string }

func readNames(ctx context.Context) (names []takenName, err error) {
	var stderr bytes.Buffer
	c := exec.CommandContext(ctx, namesProgram, "show")
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return nil, &failure{exWrong, fmt.Sprintf("%s show: %s", namesProgram, cmp.Or(strings.TrimSpace(stderr.String()), err.Error())), namesProgram + " show"}
	}
	return parseNames(string(out)), nil
}

func parseNames(said string) (names []takenName) {
	for line := range strings.Lines(said) {
		words := append(strings.SplitN(strings.TrimSpace(line), " ", 4), "", "", "")
		names = append(names, takenName{words[0], words[1], words[2], words[3]})
	}
	return names
}

func free(names []takenName) []takenName {
	return slices.DeleteFunc(slices.Clone(names), func(n takenName) bool { return n.state == "taken" })
}

func namesOf(names []takenName) string {
	var list []string
	for _, n := range names {
		list = append(list, n.name)
	}
	return strings.Join(list, ", ")
}

// namesFindings are about the names: whether each leads to the wrapper, has a real
// program behind it, and stays so in updates. What is fine is one finding.
func (a *app) namesFindings(ctx context.Context) []finding {
	names, err := readNames(ctx)
	if err != nil {
		return []finding{a.unlooked("names", highSeverity, err)}
	}
	return foundNames(names)
}

func foundNames(names []takenName) (list []finding) {
	var taken []takenName
	for _, n := range names {
		switch n.state {
		case "taken":
			taken = append(taken, n)
		case "free":
			list = append(list, finding{Check: "names", State: isOpen, Severity: highSeverity,
				Text: n.name + " is " + n.program + " itself: mail that is given to it is not counted", Command: namesProgram + " take"})
		default:
			list = append(list, finding{Check: "names", State: isWrong, Severity: highSeverity,
				Text: n.name + ": " + n.why, Command: namesProgram + " repair"})
		}
	}
	if len(taken) > 0 {
		list = append(list, finding{Check: "names", State: isFine, Text: namesOf(taken) + ": the wrapper, before " + taken[len(taken)-1].program})
	}
	return list
}
