package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// postfixChecks is the file that is made where header_checks names none.
const postfixChecks = "/etc/postfix/mailquota_header_checks"

func (a *app) postfixCommand() *cobra.Command {
	var print, remove bool
	c := &cobra.Command{
		Use: "postfix", Short: "let Postfix write the trace header into its log", Args: cobra.NoArgs,
		Long: "postfix adds the line of header_checks(5) by which Postfix logs the header of trace-header with each queue id, so that\n" +
			"mailctl trace finds the row of a queue id, and the log lines of a row. The line goes to the end of the file that\n" +
			"header_checks names, or into one of its own where it names none. Where that is not one regexp or pcre file it is left to\n" +
			"you: --print shows the line.",
		Example: "  mailctl setup postfix --print\n  mailctl setup postfix\n  mailctl setup postfix --remove",
		RunE:    func(c *cobra.Command, _ []string) error { return a.setupPostfix(c.Context(), print, remove) },
	}
	c.Flags().BoolVar(&print, "print", false, "print the line, and change nothing")
	c.Flags().BoolVar(&remove, "remove", false, "take out what was put there")
	c.MarkFlagsMutuallyExclusive("print", "remove")
	return c
}

// postfixSetup is the body of setup postfix --json.
type postfixSetup struct {
	Line    string `json:"line"`
	Map     string `json:"map"` // of header_checks: "regexp:/etc/postfix/header_checks"
	Written bool   `json:"written"`
}

// headerCheck is the line for a header with a message's id. It takes nothing but
// an id, since a stranger's mail may have such a header, too.
func headerCheck(field string) string {
	hex := func(n int) string { return fmt.Sprintf("[0-9a-f]{%d}", n) }
	return fmt.Sprintf("/^%s: %s-%s-%[3]s-%[3]s-%[4]s$/ INFO\n", regexp.QuoteMeta(field), hex(8), hex(4), hex(12))
}

func (a *app) setupPostfix(ctx context.Context, print, remove bool) error {
	if err := a.loadConfig(); err != nil {
		return err
	}
	field := a.config.TraceHeader
	if field == "" && !remove {
		return &failure{exWrong, "trace-header is off in " + a.configPath, "man 5 mailquotad.conf"}
	}
	s := postfixSetup{Line: headerCheck(field)}
	now, err := command(ctx, "postconf", "-h", "header_checks")
	if err != nil {
		if !print {
			return &failure{exWrong, "postconf -h header_checks: " + now, "is there a Postfix?"}
		}
		now = ""
	}
	s.Map = now
	if print {
		if a.json {
			return a.printJSON(s)
		}
		where := "header_checks is not set: put this line into " + postfixChecks + ", and type postconf header_checks=regexp:" + postfixChecks
		if now != "" {
			where = "header_checks is " + now + ": put this line at the end of that file"
		}
		fmt.Fprintf(a.stdout, "%s", s.Line)
		fmt.Fprintf(a.stderr, "%s; then postfix reload. Or: mailctl setup postfix\n", where)
		return nil
	}
	if os.Geteuid() != 0 {
		return &failure{exNoPerm, "only root may write the configuration of Postfix", "sudo mailctl setup postfix"}
	}
	file, ok := checksFile(now)
	if now == "" {
		file, ok = postfixChecks, true
	}
	if !ok && remove {
		return a.done("there is nothing of mailctl setup postfix")
	}
	if !ok {
		return &failure{exWrong, "header_checks = " + now + " is not one regexp or pcre file", "put the line where it belongs: mailctl setup postfix --print"}
	}
	e, err := readEdit(file)
	if err != nil {
		return err
	}
	ours := func(line string) bool { return strings.HasSuffix(line, "$/ INFO") }
	rest, _, err := withoutBlocks(e.before, "#", "postfix", ours)
	if err != nil {
		return &failure{exWrong, file + ": " + err.Error(), ""}
	}
	e.after = rest
	if !remove {
		// At the end: an earlier line that takes the header wins, as it did before.
		if len(rest) > 0 && rest[len(rest)-1] != '\n' {
			return &failure{exWrong, file + " has no end of its last line", "add it"}
		}
		e.after = append(bytes.Clone(rest), block("#", "postfix", s.Line)...)
	}
	setting := now
	switch {
	case !remove && now == "":
		setting = "regexp:" + postfixChecks
	case remove && file == postfixChecks && len(rest) == 0:
		e.after = nil
		if now != "" {
			setting = ""
		}
	}
	if s.Written = e.changes() || setting != now; s.Written {
		if err := postfixChange(ctx, e, now, setting, s.Line, field); err != nil {
			return &failure{exWrong, "Postfix is left as it was: " + err.Error(), ""}
		}
		s.Map = setting
	}
	switch {
	case a.json:
		return a.printJSON(s)
	case !s.Written && remove:
		return a.done("there is nothing of mailctl setup postfix")
	case !s.Written:
		return a.done("%s has the line", file)
	case remove:
		return a.done("taken out of %s", file)
	}
	return a.done("%s has the line; Postfix logs %s", file, field)
}

// checksFile is the one file of a setting of header_checks, if it is one that has
// lines of patterns.
func checksFile(setting string) (string, bool) {
	kind, file, ok := strings.Cut(setting, ":")
	if !ok || kind != "regexp" && kind != "pcre" || !strings.HasPrefix(file, "/") || strings.ContainsAny(file, ", \t") {
		return "", false
	}
	return file, true
}

func postfixChange(ctx context.Context, e *edit, from, to, line, field string) error {
	set := func(value string) error {
		args := []string{"-e", "header_checks = " + value}
		if value == "" { // its default
			args = []string{"-X", "header_checks"}
		}
		if out, err := command(ctx, "postconf", args...); err != nil {
			return fmt.Errorf("postconf %s: %s", strings.Join(args, " "), out)
		}
		return nil
	}
	undo := func(err error) error {
		if undone := e.undo(); undone != nil {
			err = fmt.Errorf("%w; %w", err, undone)
		}
		if from != to {
			if undone := set(from); undone != nil {
				err = fmt.Errorf("%w; %w", err, undone)
			}
		}
		return err
	}
	if to == "" && from != "" { // before its file goes
		if err := set(to); err != nil {
			return err
		}
	}
	if err := e.apply(); err != nil {
		return undo(err)
	}
	if to != "" && bytes.Contains(e.after, []byte(line)) {
		header := field + ": 01234567-89ab-7cde-8f01-23456789abcd"
		// An answer of any kind: an earlier line of the administrator's may take it.
		if out, err := command(ctx, "postmap", "-q", header, to); err != nil {
			return undo(fmt.Errorf("postmap -q %q %s: %s", header, to, out))
		}
	}
	if to != from && to != "" {
		if err := set(to); err != nil {
			return undo(err)
		}
	}
	if out, err := command(ctx, "postfix", "reload"); err != nil && !strings.Contains(out, "not running") {
		return undo(fmt.Errorf("postfix reload: %s", out))
	}
	return nil
}
