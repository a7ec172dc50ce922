// Command mailquota-transport passes mail on from Postfix's queue manager to its
// delivery agents, where mailquotad lets it; see mailquota-transport(8).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

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
	return serve(&transport.Server{Mailquotad: *mailquotad, Log: zerolog.New(stderr).With().Timestamp().Logger()}, listeners)
}

// serve takes requests until SIGTERM, and answers those that it has taken.
func serve(s *transport.Server, listeners []*net.UnixListener) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ended := make(chan error)
	for _, l := range listeners {
		context.AfterFunc(ctx, func() { l.Close() })
		go func() { ended <- s.Serve(l) }()
	}
	status := 0
	for range listeners {
		if err := <-ended; err != nil {
			s.Log.Error().Err(err).Msg("mailquota-transport ends")
			status = exUnavailable
			stop() // all of them, for systemd to start all of them again
		}
	}
	return status
}
