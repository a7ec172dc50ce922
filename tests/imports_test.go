package tests

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "sendmail-wrapper/"

// direction is the one way in which the packages may import each other, leaves
// first: each may import what its row names and nothing else of ours. A new
// package gets a row here and a line in docs/flow.md.
var direction = map[string][]string{
	"sendmail":                {},
	"wire":                    {},
	"serverstatus":            {},
	"origin":                  {"serverstatus"},
	"config":                  {},
	"policy":                  {},
	"transport":               {"policy"},
	"sqlschema":               {},
	"pgcluster":               {},
	"systemd":                 {},
	"submit":                  {"wire"},
	"trace":                   {},
	"wrapper":                 {"sendmail", "wire"},
	"quota":                   {"origin"},
	"inventory":               {"origin", "quota"},
	"admin":                   {"config", "inventory", "quota"},
	"notify":                  {"config", "origin", "quota", "trace"},
	"report":                  {"origin", "quota", "trace"},
	"daemon":                  {"admin", "config", "notify", "origin", "policy", "quota", "report", "sendmail", "sqlschema", "submit", "systemd", "wire"},
	"cmd/sendmail-wrapper":    {"wrapper"},
	"cmd/mailquotad":          {"config", "daemon"},
	"cmd/mailquota-transport": {"systemd", "transport"},
	"cmd/mailquota-submit":    {"submit", "systemd", "wrapper"},
	"cmd/mailctl":             {"admin", "config", "inventory", "notify", "origin", "pgcluster", "policy", "quota", "report", "sendmail", "serverstatus", "sqlschema", "trace", "wire", "wrapper"},
	"tests":                   {},
	"tests/bench":             {"origin", "pgcluster", "quota", "report", "sqlschema", "wire"},
	"tests/bench/call":        {"wire"},
	"tests/bench/dial":        {},
	"tests/conform":           {"sendmail"},
	"tests/crash":             {},
	"tests/testpg":            {"pgcluster", "sqlschema"},
}

func TestImportDirection(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "sendmail-wrapper/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		pkg := strings.TrimPrefix(fields[0], module)
		allowed, ok := direction[pkg]
		if !ok {
			t.Errorf("package %s has no row in the table of import directions", pkg)
			continue
		}
		seen++
		for _, imported := range fields[1:] {
			ours, is := strings.CutPrefix(imported, module)
			if is && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s, which its row does not allow", pkg, ours)
			}
		}
	}
	if seen != len(direction) {
		t.Errorf("%d packages checked, the table has %d: take out the rows of those that are gone", seen, len(direction))
	}
}

// TestPackageDocs: each package doc is the package's specification, so each
// package has exactly one.
func TestPackageDocs(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}	{{.Doc}}`, "sendmail-wrapper/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		pkg, doc, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if doc == "" {
			t.Errorf("%s has no package doc", pkg)
		}
	}
}
