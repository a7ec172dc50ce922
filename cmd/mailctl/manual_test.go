package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// leaves are the commands that do something, by their words: "limit set".
// completion is cobra's, and one command.
func leaves() map[string]*cobra.Command {
	all := map[string]*cobra.Command{}
	root := (&app{stdout: io.Discard, stderr: io.Discard}).root()
	root.InitDefaultHelpFlag()
	root.InitDefaultVersionFlag()
	root.InitDefaultCompletionCmd("completion")
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		c.InitDefaultHelpFlag()
		// setup does something by itself, besides what is below it.
		if !c.HasSubCommands() || c.Name() == "completion" || c.Name() == "setup" {
			all[strings.TrimPrefix(c.CommandPath(), "mailctl ")] = c
		}
		if c.Name() == "completion" {
			return
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	return all
}

// TestEveryCommandHelps: each has a line that says what it does, and examples that
// can be typed as they are.
func TestEveryCommandHelps(t *testing.T) {
	root := (&app{}).root()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: Short is %q: one line without a period", c.CommandPath(), c.Short)
		}
		if c.Example == "" {
			t.Errorf("%s has no Example", c.CommandPath())
		}
		for line := range strings.Lines(c.Example) {
			if err := acceptedLine(line); err != nil {
				t.Errorf("%s: Example %q: %v", c.CommandPath(), strings.TrimSpace(line), err)
			}
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s has no text", c.CommandPath(), f.Name)
			}
		})
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

// acceptedLine tells whether mailctl would take a line of a shell; a line that is
// no mailctl's is another program's. Three spaces begin what is said of it.
func acceptedLine(line string) error {
	line, _, _ = strings.Cut(strings.TrimSpace(line), "   ")
	for _, end := range []string{" | ", " >", " <", " && ", "; ", " # "} {
		line, _, _ = strings.Cut(line, end)
	}
	words, err := shellWords(line)
	if err != nil || len(words) == 0 {
		return err
	}
	if words[0] == "sudo" {
		words = words[1:]
	}
	if words[0] != "mailctl" {
		return nil
	}
	root := (&app{stdout: io.Discard, stderr: io.Discard}).root()
	root.InitDefaultCompletionCmd("completion")
	c, rest, err := root.Find(words[1:])
	if err != nil {
		return err
	}
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	if err := c.ValidateArgs(c.Flags().Args()); err != nil {
		return err
	}
	return c.ValidateRequiredFlags()
}

// shellWords splits a line into words, with ' and " as sh(1) has them.
func shellWords(line string) (words []string, err error) {
	word, within, quote := "", false, rune(0)
	for _, r := range line {
		switch {
		case r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote, within = r, true
		case quote == 0 && r == ' ':
			if within {
				words = append(words, word)
			}
			word, within = "", false
		default:
			word, within = word+string(r), true
		}
	}
	if within {
		words = append(words, word)
	}
	if quote != 0 {
		return nil, fmt.Errorf("%c has no end", quote)
	}
	return words, nil
}

// manual is what mailctl(8) names.
type manual struct {
	text    string
	entries map[string]string // words of a command → its line .It
	flags   map[string]string // option → a line that names it
	typed   []string          // lines that begin with mailctl
}

// option is how an option is written on a line of a macro: \-since.
var option = regexp.MustCompile(`\\-([a-z][a-z-]*)`)

// readManual reads mailctl(8). An entry of COMMANDS is a line
//
//	.It Cm limit set Ar object limit …
//
// whose command is what follows Cm, up to another macro. Where it is
//
//	.It Cm plan | domain Cm list | show Ar name
//
// it stands for each combination, as .It Cm report scripts | cron does: what is
// behind a | stands for as many words before it.
func readManual(t *testing.T) *manual {
	t.Helper()
	text, err := os.ReadFile("../../man/mailctl.8")
	if err != nil {
		t.Fatal(err)
	}
	m := &manual{string(text), map[string]string{}, map[string]string{}, nil}
	section := ""
	for line := range strings.Lines(m.text) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, ".Sh "); ok {
			section = name
		}
		if entry, ok := strings.CutPrefix(line, ".It "); ok && section == "COMMANDS" && strings.HasPrefix(entry, "Cm ") {
			for _, command := range commandsOf(entry) {
				m.entries[command] = line
			}
		}
		if strings.HasPrefix(line, ".") {
			for _, found := range option.FindAllStringSubmatch(line, -1) {
				m.flags[found[1]] = line
			}
		}
		if strings.HasPrefix(line, "mailctl ") {
			m.typed = append(m.typed, strings.ReplaceAll(line, `\-`, "-"))
		}
		if name, ok := strings.CutPrefix(line, ".Ql mailctl "); ok {
			name, _, _ = strings.Cut(name, " )")
			m.typed = append(m.typed, "mailctl "+strings.ReplaceAll(strings.TrimRight(name, " .,;"), `\-`, "-"))
		}
	}
	return m
}

// commandsOf are the commands of an entry.
func commandsOf(entry string) []string {
	list := []string{""}
	var alternatives [][]string
	apply := func() {
		if alternatives == nil {
			return
		}
		var longer []string
		for _, begin := range list {
			for _, words := range alternatives {
				words = append(slices.Clone(alternatives[0][:max(len(alternatives[0])-len(words), 0)]), words...)
				longer = append(longer, strings.TrimSpace(begin+" "+strings.Join(words, " ")))
			}
		}
		list, alternatives = longer, nil
	}
	for _, word := range strings.Fields(entry) {
		switch {
		case word == "Cm":
			apply()
			alternatives = [][]string{nil}
		case word == "|" || word == ",":
			alternatives = append(alternatives, nil)
		case len(word) <= 2 && word[0] >= 'A' && word[0] <= 'Z' || word[0] == '\\': // another macro, or an option
			apply()
			return list
		default:
			last := &alternatives[len(alternatives)-1]
			*last = append(*last, word)
		}
	}
	apply()
	return list
}

// TestManual: mailctl(8) has an entry for each command and names each option, and
// no other ones; its examples can be typed as they are.
func TestManual(t *testing.T) {
	m, commands := readManual(t), leaves()
	known := map[string]bool{"help": true, "version": true}
	for _, words := range slices.Sorted(maps.Keys(commands)) {
		c := commands[words]
		if m.entries[words] == "" {
			t.Errorf("mailctl(8) has no entry for %s: add a line .It Cm %s to COMMANDS", words, words)
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			known[f.Name] = true
			if words != "completion" && f.Name != "version" && !f.Hidden && m.flags[f.Name] == "" {
				t.Errorf("mailctl(8) does not name --%s of %s: .Fl \\-%s", f.Name, words, f.Name)
			}
		})
	}
	(&app{}).root().PersistentFlags().VisitAll(func(f *pflag.Flag) {
		known[f.Name] = true
		if m.flags[f.Name] == "" {
			t.Errorf("mailctl(8) does not name --%s", f.Name)
		}
	})
	for _, words := range slices.Sorted(maps.Keys(m.entries)) {
		line := m.entries[words]
		c := commands[words]
		if c == nil {
			t.Errorf("mailctl(8) has an entry for %s, and mailctl has no such command: %s", words, line)
			continue
		}
		for _, found := range option.FindAllStringSubmatch(line, -1) {
			if c.Flags().Lookup(found[1]) == nil && c.InheritedFlags().Lookup(found[1]) == nil {
				t.Errorf("mailctl(8): %s has no option --%s: %s", words, found[1], line)
			}
		}
	}
	for name, line := range m.flags {
		if !known[name] {
			t.Errorf("mailctl(8) names --%s, and no command has it: %s", name, line)
		}
	}
	if len(m.typed) < 5 {
		t.Errorf("mailctl(8) has %d examples", len(m.typed))
	}
	for _, line := range m.typed {
		if err := acceptedLine(line); err != nil {
			t.Errorf("mailctl(8): %q: %v", line, err)
		}
	}
	m.crossReferences(t, commands)
}

// crossReferences checks what the text names as a command: .Cm report messages. A
// word that no command begins with is another thing, such as a key.
func (m *manual) crossReferences(t *testing.T, commands map[string]*cobra.Command) {
	t.Helper()
	groups := map[string]bool{}
	for words := range commands {
		for i := range strings.Fields(words) {
			groups[strings.Join(strings.Fields(words)[:i+1], " ")] = true
		}
	}
	for line := range strings.Lines(m.text) {
		names, ok := strings.CutPrefix(strings.TrimSpace(line), ".Cm ")
		if !ok {
			continue
		}
		for name := range strings.SplitSeq(names, " , ") {
			words := slices.DeleteFunc(strings.Fields(name), func(w string) bool { return len(w) == 1 || w[0] == '\\' })
			if len(words) > 1 && groups[words[0]] && !groups[strings.Join(words, " ")] {
				t.Errorf("mailctl(8) speaks of %s, and there is no such command: %s", strings.Join(words, " "), strings.TrimSpace(line))
			}
		}
	}
}

// inline is a command in the text of a document: `mailctl limit set OBJECT …`.
var inline = regexp.MustCompile("`mailctl ([^`]+)`")

// TestDocuments: what the documents have to type can be typed, and the commands
// that they speak of are there.
func TestDocuments(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	files = slices.DeleteFunc(files, func(f string) bool { return filepath.Base(f) == "features.md" }) // ahead of the commands
	typed := 0
	root := (&app{}).root()
	root.InitDefaultCompletionCmd("completion")
	for _, file := range append(files, "../../README.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			line = strings.TrimPrefix(strings.TrimSpace(line), "# ")
			if strings.HasPrefix(line, "mailctl ") || strings.HasPrefix(line, "sudo mailctl ") {
				typed++
				if err := acceptedLine(line); err != nil {
					t.Errorf("%s: %q: %v", filepath.Base(file), line, err)
				}
			}
			for _, found := range inline.FindAllStringSubmatch(line, -1) {
				c, rest, err := root.Find(strings.Fields(found[1]))
				if err != nil || c.HasSubCommands() && len(rest) > 0 && strings.Trim(rest[0], "abcdefghijklmnopqrstuvwxyz-") == "" && rest[0][0] != '-' {
					t.Errorf("%s speaks of mailctl %s, and there is no such command", filepath.Base(file), found[1])
				}
			}
		}
	}
	if typed < 10 {
		t.Errorf("the documents have %d lines to type", typed)
	}
}

// exits are the statuses of mailctl.
var exits = []int{exOK, exWrong, exUsage, exRefused, exUnavailable, exNoPerm, exConfig}

// TestExitStatuses: the manual, docs/exit-codes.md and the help have the statuses
// that there are, and no others.
func TestExitStatuses(t *testing.T) {
	m := readManual(t)
	doc, err := os.ReadFile("../../docs/exit-codes.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(doc), "\n## mailctl\n")
	if !found {
		t.Fatal("docs/exit-codes.md has no section mailctl")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	_, status, _ := strings.Cut(m.text, ".Sh EXIT STATUS\n")
	status, _, _ = strings.Cut(status, "\n.Sh ")
	_, help, _ := strings.Cut(long, "Exit status: ")
	for name, c := range map[string]struct{ text, pattern string }{
		"mailctl(8)":         {status, `(?m)^\.It (\d+)$`},
		"docs/exit-codes.md": {section, `(?m)^\| (\d+) \|`},
		"mailctl --help":     {help, `(?:^|;\s)(\d+) `},
	} {
		var got []string
		for _, found := range regexp.MustCompile(c.pattern).FindAllStringSubmatch(c.text, -1) {
			got = append(got, found[1])
		}
		if want := strings.Trim(fmt.Sprint(exits), "[]"); strings.Join(got, " ") != want {
			t.Errorf("%s has exit statuses %s, want %s", name, strings.Join(got, " "), want)
		}
	}
}

// TestCommandsOfEntry: the grammar of entries.
func TestCommandsOfEntry(t *testing.T) {
	for entry, want := range map[string]string{
		"Cm limit set Ar object limit number Ns | Ns Cm unlimited": "limit set",
		"Cm plan | domain Cm list | show Ar name":                  "plan list, plan show, domain list, domain show",
		"Cm setup fpm Op Fl \\-dry-run | \\-remove":                "setup fpm",
		"Cm block Cm add | remove Ar target":                       "block add, block remove",
		"Cm import fpm | csv Oo Ar":                                "import fpm, import csv",
		"Cm status":                                                "status",
	} {
		if got := strings.Join(commandsOf(entry), ", "); got != want {
			t.Errorf("%s: %s, want %s", entry, got, want)
		}
	}
}
