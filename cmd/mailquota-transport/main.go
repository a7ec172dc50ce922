// Command mailquota-transport passes mail on from Postfix's queue manager to its
// delivery agents, where mailquotad lets it; see mailquota-transport(8).
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"sendmail-wrapper/systemd"
	"sendmail-wrapper/transport"
)

var version = "unknown"

// Exit statuses: 2 for wrong options, and of sysexits(3).
const (
	exUsage       = 2
	exUnavailable = 69
)

const help = `mailquota-transport counts what Postfix sends on: aliases, .forward files, lists.

Usage: mailquota-transport [--mailquotad ADDRESS]

systemd starts it with its sockets: systemctl enable --now mailquota-transport.socket

Options:
%s
See mailquota-transport(8).
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := pflag.NewFlagSet("mailquota-transport", pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	mailquotad := flags.String("mailquotad", "127.0.0.1:10031", "policy-listen or policy-socket of mailquotad")
	printVersion := flags.Bool("version", false, "print the version and exit")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprintf(stdout, help, flags.FlagUsages())
		return 0
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
		fallthrough
	case err != nil:
		fmt.Fprintf(stderr, "mailquota-transport: error: %v\nhint: mailquota-transport --help\n", err)
		return exUsage
	case *printVersion:
		fmt.Fprintln(stdout, "mailquota-transport", version)
		return 0
	}
	listeners, err := systemd.UnixListeners()
	if err != nil {
		fmt.Fprintf(stderr, "mailquota-transport: error: %v\nhint: systemctl enable --now mailquota-transport.socket\n", err)
		return exUnavailable
	}
	log := zerolog.New(stderr).With().Timestamp().Logger()
	server := transport.Server{Mailquotad: *mailquotad, Log: log}
	if err := systemd.Serve(listeners, server.Serve); err != nil {
		log.Error().Err(err).Msg("mailquota-transport ends")
		return exUnavailable
	}
	return 0
}
