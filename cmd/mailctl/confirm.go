package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// addYes gives a command that deletes the option without which it asks.
func addYes(c *cobra.Command, yes *bool) {
	c.Flags().BoolVar(yes, "yes", false, "do not ask")
}

// confirm asks before something is deleted, unless --yes was given. Who is not at
// a terminal cannot be asked.
func (a *app) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS); err != nil {
		return &failure{exUsage, question + " must be confirmed", "the same with --yes does it"}
	}
	fmt.Fprintf(a.stderr, "%s? [y/N] ", question)
	answer, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return &failure{exRefused, "nothing was changed", ""}
	}
	return nil
}
