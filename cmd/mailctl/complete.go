package main

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
)

// What a shell offers at the TAB key are words that are fixed, and to root names of
// objects, where the database answers at once. Nothing is said of what is wrong:
// nobody wants to read that in the middle of a line.

// classesBelow are those that have defaults on the server or a plan.
var classesBelow = []quota.Class{quota.Subscription, quota.Domain, quota.Mailbox, quota.User}

// charged are the classes whose mail is counted.
var charged = append([]quota.Class{quota.Server}, classesBelow...)

// limitable are the classes on which a limit can be set.
var limitable = append([]quota.Class{quota.Server, quota.Plan}, classesBelow...)

// offer has words offered as they are.
func offer(words ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveKeepOrder)
}

// offerObjects offers the beginnings of objects, up to where the name follows, and
// then the names.
func offerObjects(classes []quota.Class) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		directive := cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
		var words []cobra.Completion
		for _, class := range classes {
			word := class.String() + ":"
			if class == quota.Server {
				word = class.String()
			}
			if begin, ok := strings.CutPrefix(toComplete, word); ok && class != quota.Server {
				for _, name := range namesFrom(c, class, begin) {
					words = append(words, word+name)
				}
				continue
			}
			if !strings.HasPrefix(word, toComplete) {
				continue
			}
			words = append(words, word)
			if class != quota.Server {
				directive |= cobra.ShellCompDirectiveNoSpace
			}
		}
		return words, directive
	}
}

// offerTargets offers the beginnings of what can be blocked, or be in the white list.
func offerTargets(kind quota.ExceptionKind) cobra.CompletionFunc {
	others := []string{"script:", "crontab:"}
	if kind == quota.Whitelist {
		others = append(others, "network:")
	}
	objects := offerObjects(classesBelow)
	return func(c *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		words, directive := objects(c, args, toComplete)
		for _, word := range others {
			if strings.HasPrefix(word, toComplete) {
				words, directive = append(words, word), directive|cobra.ShellCompDirectiveNoSpace
			}
		}
		return words, directive
	}
}

// offerNamesOf offers the names of one class.
func offerNamesOf(class quota.Class) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return namesFrom(c, class, toComplete), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

// namesFrom are names of a class that begin with what was typed: some of those
// that can be typed as they are.
func namesFrom(c *cobra.Command, class quota.Class, begin string) (names []cobra.Completion) {
	if os.Geteuid() != 0 || len(begin) > 254 || begin != "" && !plain(begin) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	a := &app{configPath: c.Root().PersistentFlags().Lookup("config").Value.String()}
	defer a.close()
	if a.connect(ctx) != nil {
		return nil
	}
	list, err := report.NamesFrom(ctx, a.pool, class, a.config.Host, begin, 50)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(list, func(name string) bool { return !plain(name) })
}

// offerNames has names offered wherever a command or an option takes some of one
// class, and nothing else is offered.
func offerNames(root *cobra.Command) {
	for class := quota.User; class < quota.Server; class++ {
		if c, _, err := root.Find([]string{class.String()}); err == nil && c != root {
			for _, sub := range c.Commands() {
				_, argument, _ := strings.Cut(sub.Use, " ")
				isName := strings.HasPrefix(argument, "NAME") || strings.HasPrefix(argument, "ADDRESS")
				if isName && sub.Name() != "add" && sub.ValidArgsFunction == nil {
					sub.ValidArgsFunction = offerInTurn(offerNamesOf(class))
				}
			}
		}
	}
	offerNamesToOptions(root)
}

func offerNamesToOptions(c *cobra.Command) {
	for class := quota.User; class < quota.Server; class++ {
		f := c.Flags().Lookup(class.String())
		if f == nil || f.Value.Type() != "string" {
			continue
		}
		if _, taken := c.GetFlagCompletionFunc(f.Name); !taken {
			mustBeDefined(c.RegisterFlagCompletionFunc(f.Name, offerNamesOf(class)))
		}
	}
	for _, sub := range c.Commands() {
		offerNamesToOptions(sub)
	}
}

// limitNames are the names of the limits.
func limitNames() (words []string) {
	for l := range quota.Limit(quota.NumLimits) {
		words = append(words, l.String())
	}
	return words
}

// offerLimits offers the names of the limits.
func offerLimits() cobra.CompletionFunc { return offer(limitNames()...) }

// offerInTurn offers for each argument what may stand in its place.
func offerInTurn(places ...cobra.CompletionFunc) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(places) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return places[len(args)](c, args, toComplete)
	}
}

// offerFor offers words as the value of an option, which must be one of them: see
// checkWords.
func offerFor(c *cobra.Command, option string, words ...string) {
	mustBeDefined(c.RegisterFlagCompletionFunc(option, offer(words...)))
	mustBeDefined(c.Flags().SetAnnotation(option, oneOf, words))
}

// oneOf is the annotation of an option with the words that its value may be.
const oneOf = "mailctl_one_of"

// mustBeDefined panics if an option was not defined before more was said of it: no
// command line can bring this about.
func mustBeDefined(err error) {
	if err != nil {
		panic(err)
	}
}
