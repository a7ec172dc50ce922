package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
)

// meant is the hint for who wrote a word that is none of those there are; "" if
// he can have meant none of them.
func meant(wrote string, words []string) string {
	if word := report.NearestWord(wrote, words); word != "" {
		return "did you mean " + word + "?"
	}
	return ""
}

// wrong is the error of a word on the command line that should be one of some.
func wrong(err error, wrote string, words []string) error {
	return &failure{exUsage, err.Error(), meant(wrote, words)}
}

// subcommandOnly are the arguments of a command that has others below it: none.
func subcommandOnly(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	hint := c.CommandPath() + " --help"
	if name := report.NearestWord(args[0], names); name != "" {
		hint = "did you mean " + c.CommandPath() + " " + name + "?"
	}
	return &failure{exUsage, fmt.Sprintf("unknown command %q for %q", args[0], c.CommandPath()), hint}
}

// wrongFlag is the error of an option that cannot be read.
func wrongFlag(c *cobra.Command, err error) error {
	var none *pflag.NotExistError
	if !errors.As(err, &none) {
		return err
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, "--"+f.Name)
		}
	})
	hint := meant("--"+none.GetSpecifiedName(), names)
	if hint == "" {
		hint = c.CommandPath() + " --help"
	}
	return &failure{exUsage, err.Error(), hint}
}

// checkWords refuses the value of an option that is none of those it may have. An
// empty one is as if it were not there.
func checkWords(c *cobra.Command) (err error) {
	c.Flags().Visit(func(f *pflag.Flag) {
		words, value := f.Annotations[oneOf], f.Value.String()
		if err == nil && len(words) > 0 && value != "" && !slices.Contains(words, value) {
			err = wrong(fmt.Errorf("--%s %s: must be one of %s", f.Name, value, strings.Join(words, ", ")), value, words)
		}
	})
	return err
}

// nearObject is the hint for who named an object that there is not: the one that
// he may have meant, or where to look.
func (a *app) nearObject(o quota.Object) string {
	list := "mailctl " + o.Class.String() + " list"
	if a.pool == nil {
		return list
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	name, err := report.Nearest(ctx, a.pool, o, a.config.Host)
	if err != nil || name == "" || name == o.Name || !plain(name) {
		return list
	}
	return "did you mean " + quota.Object{Class: o.Class, Name: name}.String() + "?"
}

// nearForm is the hint for who wrote something that is no object.
func nearForm(wrote string) string {
	word, name, named := strings.Cut(wrote, ":")
	var classes []string
	for _, class := range limitable {
		if named != (class == quota.Server) {
			classes = append(classes, class.String())
		}
	}
	class := report.NearestWord(word, classes)
	switch {
	case named && class != "" && plain(name):
		return "did you mean " + class + ":" + name + "?"
	case named || !plain(word):
		return ""
	case class != "":
		return "did you mean " + class + "?"
	case strings.Contains(word, "@"):
		return "did you mean mailbox:" + word + "?"
	case strings.Contains(word, "."):
		return "did you mean domain:" + word + "?"
	}
	return "did you mean subscription:" + word + ", or user:" + word + "?"
}

// plain tells whether a name can stand on a command line as it is.
func plain(name string) bool {
	return name != "" && len(name) <= 254 && !strings.ContainsFunc(name, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._-@+:/=", r))
	})
}

// typed is a word as a shell reads it.
func typed(word string) string {
	if plain(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// asLine is the text of an error for a terminal: strangers' names may be in it,
// and somebody's mistake of a megabyte.
func asLine(text string) string {
	const most = 2000
	lines := slices.DeleteFunc(strings.Split(text, "\n"), func(s string) bool { return strings.TrimSpace(s) == "" })
	if text = report.Printable(strings.Join(lines, "; ")); len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// problem writes what a command that looks for problems has found.
func (a *app) problem(text string) {
	fmt.Fprintln(a.stderr, report.Paint(a.stderr, report.Yellow, "mailctl: problem: "+asLine(text)))
}

// warning is a line on standard error that is no error.
func (a *app) warning(text string) string {
	return report.Paint(a.stderr, report.Yellow, "warning: "+asLine(text))
}
