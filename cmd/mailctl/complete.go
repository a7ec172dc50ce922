package main

import (
	"strings"

	"github.com/spf13/cobra"

	"sendmail-wrapper/quota"
)

// What a shell offers at the TAB key are words that are fixed. It offers no names
// of objects: most who type may not read the database, and nobody waits for one
// in the middle of a line.

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

// offerObjects offers the beginnings of objects, up to where the name follows.
func offerObjects(classes []quota.Class) cobra.CompletionFunc {
	return func(_ *cobra.Command, _ []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		directive := cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
		var words []cobra.Completion
		for _, class := range classes {
			word := class.String() + ":"
			if class == quota.Server {
				word = class.String()
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

// offerLimits offers the names of the limits.
func offerLimits() cobra.CompletionFunc {
	var words []string
	for l := range quota.Limit(quota.NumLimits) {
		words = append(words, l.String())
	}
	return offer(words...)
}

// offerInTurn offers for each argument what may stand in its place.
func offerInTurn(places ...cobra.CompletionFunc) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(places) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return places[len(args)](c, args, toComplete)
	}
}

// offerFor offers words as the value of an option.
func offerFor(c *cobra.Command, option string, words ...string) {
	mustBeDefined(c.RegisterFlagCompletionFunc(option, offer(words...)))
}

// mustBeDefined panics if an option was not defined before more was said of it: no
// command line can bring this about.
func mustBeDefined(err error) {
	if err != nil {
		panic(err)
	}
}
