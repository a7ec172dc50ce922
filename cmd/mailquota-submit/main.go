// Command mailquota-submit gives mail that mailquotad has accepted to the mail server;
// see mailquota-submit(8).
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"sendmail-wrapper/submit"
	"sendmail-wrapper/systemd"
	"sendmail-wrapper/wrapper"
)

var version = "unknown"

// Exit statuses: 2 for wrong options, and of sysexits(3).
const (
	exUsage       = 2
	exUnavailable = 69
)

const help = `mailquota-submit gives mail that mailquotad has accepted to the mail server, where wrapper.conf says hand-off = "mailquotad".

Usage: mailquota-submit [--config FILE] [--from USER]

systemd starts it with its socket: systemctl enable --now mailquota-submit.socket

Options:
%s
See mailquota-submit(8).
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := pflag.NewFlagSet("mailquota-submit", pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	config := flags.String("config", "/etc/sendmail-wrapper/wrapper.conf", "wrapper.conf, for its real-sendmail")
	from := flags.String("from", "mailquota", "user that mailquotad runs as")
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
		fmt.Fprintf(stderr, "mailquota-submit: error: %v\nhint: mailquota-submit --help\n", err)
		return exUsage
	case *printVersion:
		fmt.Fprintln(stdout, "mailquota-submit", version)
		return 0
	}
	listeners, err := systemd.UnixListeners()
	if err != nil {
		fmt.Fprintf(stderr, "mailquota-submit: error: %v\nhint: systemctl enable --now mailquota-submit.socket\n", err)
		return exUnavailable
	}
	uid, err := uidOf(*from)
	if err != nil {
		fmt.Fprintf(stderr, "mailquota-submit: error: %v\nhint: systemd-sysusers\n", err)
		return exUnavailable
	}
	log := zerolog.New(stderr).With().Timestamp().Logger()
	// Read at each message, as the wrapper does.
	program := func(profile string) (string, error) {
		config, _ := wrapper.LoadConfig(*config) // which says itself what is wrong
		if profile != config.Profile.Name {
			return "", fmt.Errorf("mail for %q, but mta is %q in wrapper.conf", profile, config.Profile.Name)
		}
		return config.RealSendmail, nil
	}
	if err := systemd.Serve(listeners, submit.New(uid, program, log).Serve); err != nil {
		log.Error().Err(err).Msg("mailquota-submit ends")
		return exUnavailable
	}
	return 0
}

// uidOf returns the uid of a login name.
func uidOf(name string) (uint32, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(uid), err
}
