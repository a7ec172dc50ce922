package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"sendmail-wrapper/config"
	"sendmail-wrapper/daemon"
)

// Exit statuses of sysexits(3), and 2 for wrong options.
const (
	exUsage       = 2
	exUnavailable = 69
	exConfig      = 78
)

const help = `mailquotad decides about every mail of this host, and counts it.

Usage: mailquotad [--config FILE] [--check-config]

Examples:
  mailquotad --check-config                 say what is wrong in the configuration
  mailquotad --config ./mailquotad.conf     run in the foreground with another one
  systemctl reload mailquotad               read the configuration again

Options:
%s
See mailquotad(8) and mailquotad.conf(5).
`

func run(args []string, stdout, stderr io.Writer) int {
	flags := pflag.NewFlagSet("mailquotad", pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	path := flags.String("config", config.Path, "configuration file")
	check := flags.Bool("check-config", false, "check the configuration and exit")
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
		fmt.Fprintf(stderr, "mailquotad: error: %v\nhint: mailquotad --help\n", err)
		return exUsage
	case *printVersion:
		fmt.Fprintln(stdout, "mailquotad", version)
		return 0
	}
	c, err := config.Load(*path)
	if err != nil {
		fmt.Fprintf(stderr, "%v\nmailquotad: error: the configuration is wrong\nhint: man 5 mailquotad.conf\n", err)
		return exConfig
	}
	if *check {
		fmt.Fprintf(stdout, "%s: ok\n", *path)
		return 0
	}
	return serve(c, *path, stderr)
}

// What lives is some ten megabytes, and each message leaves a few kilobytes behind:
// so garbage is collected less often than by default while there is little, and
// soon enough when objects by the ten thousand are remembered. GOGC and GOMEMLIMIT
// (package runtime) say otherwise.
const (
	gcPercent   = 400
	memoryLimit = 96 << 20
)

func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}

func serve(c config.Daemon, path string, stderr io.Writer) int {
	tuneMemory()
	log := newLog(c, stderr)
	listener, err := daemon.Listen(c.Socket)
	if err != nil {
		log.Error().Err(err).Msg("cannot listen")
		return exUnavailable
	}
	defer listener.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	server, err := daemon.New(c, version, log)
	if err != nil {
		log.Error().Err(err).Msg("cannot start")
		return exUnavailable
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	go func() {
		for range hup {
			reload(server, path, log)
		}
	}()
	if err := server.Serve(ctx, listener); err != nil {
		log.Error().Err(err).Msg("mailquotad ends")
		return exUnavailable
	}
	return 0
}

func reload(server *daemon.Server, path string, log zerolog.Logger) {
	daemon.NotifyReloading()
	defer daemon.NotifyReady()
	c, err := config.Load(path)
	if err != nil {
		log.Error().Err(err).Msg("configuration not reloaded")
		return
	}
	server.Reload(c)
}

func newLog(c config.Daemon, stderr io.Writer) zerolog.Logger {
	if c.LogFormat == "console" {
		stderr = zerolog.ConsoleWriter{Out: stderr, TimeFormat: time.DateTime}
	}
	return zerolog.New(stderr).With().Timestamp().Logger()
}
