package main

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestDifferences: docs/conformance.md has each reason and each row of the table,
// and no others; there are five reasons at most.
func TestDifferences(t *testing.T) {
	doc, err := os.ReadFile("../../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for i, reason := range reasons {
		want = append(want, strconv.Itoa(i+1)+". "+reason)
	}
	if len(reasons) > 5 {
		t.Errorf("%d reasons", len(reasons))
	}
	for i := range differences {
		want = append(want, differences[i].markdown())
	}
	var have []string
	for line := range strings.Lines(string(doc)) {
		line = strings.TrimSuffix(line, "\n")
		if row := strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| mail server ") && !strings.HasPrefix(line, "| ---"); row || line != "" && '1' <= line[0] && line[0] <= '9' {
			have = append(have, line)
		}
	}
	if got, want := strings.Join(have, "\n"), strings.Join(want, "\n"); got != want {
		t.Errorf("docs/conformance.md has\n%s\n\nwant\n%s", got, want)
	}
}
