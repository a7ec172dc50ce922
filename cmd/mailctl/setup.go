package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sendmail-wrapper/sendmail"
	"sendmail-wrapper/wrapper"
)

func (a *app) setup() *cobra.Command {
	var dryRun bool
	mta := &cobra.Command{
		Use: "mta", Short: "find out of which mail server the real sendmail is, and configure it", Args: cobra.NoArgs,
		Long: "mta looks into the real sendmail, which wrapper.conf names, or /usr/sbin/sendmail where the wrapper is not installed yet,\n" +
			"and writes what it is into wrapper.conf, which is in the directory of --config. The rest of that file stays as it is.\n" +
			"Of Exim it asks whether arguments are taken from the recipients of -t, as is its default, or added to them.\n" +
			"A program that is not known is left as wrapper.conf says; where that says nothing, the exit status is 1.",
		Example: "  mailctl setup mta --dry-run\n  mailctl setup mta",
		RunE:    func(c *cobra.Command, _ []string) error { return a.setupMTA(c.Context(), dryRun) },
	}
	mta.Flags().BoolVar(&dryRun, "dry-run", false, "show what would be written, and write nothing")
	c := a.setupAll()
	c.AddCommand(mta, a.fpmCommand(), a.apacheCommand(), a.postfixCommand(), a.networkCommand())
	return c
}

// setupLock is held by who writes the configuration of PHP-FPM or Apache.
const setupLock = "/run/mailctl-setup.lock"

// lockSetup keeps a second set-up from running until the file is closed: one that
// takes out what another one puts in would leave pools with sockets in a directory
// that nobody makes.
func lockSetup(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, &failure{exWrong, "another mailctl setup or harden is running: " + path + " is locked", "try again when it has ended"}
	}
	return f, nil
}

// begin notes in the lock's file what is about to be changed. The note goes with end,
// and stays where the program is killed, or told to stop: then files may be written
// that nobody has read yet. It is gone after a boot, as then all of them are read.
func begin(ctx context.Context, lock *os.File, what string) (end func(), err error) {
	before, err := os.ReadFile(lock.Name())
	if err != nil {
		return nil, err
	}
	if _, err := lock.WriteAt([]byte(what+"\n"), int64(len(before))); err != nil {
		return nil, err
	}
	return func() {
		if ctx.Err() != nil {
			return
		}
		rest := slices.DeleteFunc(lines(before), func(line string) bool { return line == what+"\n" })
		_ = lock.Truncate(0) // a note that stays costs one more reload
		_, _ = lock.WriteAt([]byte(strings.Join(rest, "")), 0)
	}, nil
}

// wasCutShort tells whether an earlier run did not come to its end.
func wasCutShort(path, what string) bool {
	text, _ := os.ReadFile(path) // there is none before the first run
	return slices.Contains(lines(text), what+"\n")
}

// wrapperConf is the wrapper's configuration: it lies beside mailquotad's.
func (a *app) wrapperConf() string { return filepath.Join(filepath.Dir(a.configPath), "wrapper.conf") }

// mtaSetup is the body of setup mta --json.
type mtaSetup struct {
	Program string `json:"program"` // the real sendmail, links resolved
	MTA     string `json:"mta"`     // its profile
	Was     string `json:"was"`     // the profile that was in force
	Written bool   `json:"written"`
}

func (a *app) setupMTA(ctx context.Context, dryRun bool) error {
	path := a.wrapperConf()
	conf, _ := wrapper.LoadConfig(path) // lines that are wrong stay so, and mailctl status says so
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, _, given := confLine(text, "mta")

	real := conf.RealSendmail
	if _, err := os.Stat(real); errors.Is(err, fs.ErrNotExist) {
		real = "/usr/sbin/sendmail"
	}
	s := mtaSetup{Was: conf.Profile.Name}
	s.Program, s.MTA, err = identify(ctx, real)
	switch {
	case errors.As(err, new(*unknownError)) && given:
		s.MTA = s.Was
		if !a.json {
			fmt.Fprintf(a.stderr, "mailctl: %v\n", err)
		}
	case err != nil:
		return err
	}
	if _, err := sendmail.ProfileByName(s.MTA); err != nil {
		return err
	}

	if s.MTA != s.Was && !dryRun {
		e, err := readEdit(path) // again: to identify takes seconds, and others write it, too
		if err != nil {
			return err
		}
		e.after = setLine(e.before, "mta", fmt.Sprintf("mta = %q\n", s.MTA))
		if err := e.apply(); err != nil {
			return err
		}
		s.Written = true
	}
	switch {
	case a.json:
		return a.printJSON(s)
	case s.MTA == s.Was:
		return a.done("%s: mta = %q, as %s has it", s.Program, s.MTA, path)
	case dryRun:
		return a.done("%s: mta = %q would go into %s, was %q", s.Program, s.MTA, path, s.Was)
	}
	return a.done("%s: mta = %q is written into %s, was %q", s.Program, s.MTA, path, s.Was)
}

// unknownError: the program is none that we know.
type unknownError struct{ error }

func (e *unknownError) Unwrap() error { return e.error }

// identify says of which program path is a name, and its profile. The error is an
// *unknownError if it can be read and is of no known mail server.
func identify(ctx context.Context, path string) (program, profile string, err error) {
	program, err = filepath.EvalSymlinks(path)
	if err != nil {
		return "", "", err
	}
	if isWrapper(program) {
		return "", "", &failure{exWrong, path + " is sendmail-wrapper, and not the real sendmail", "see real-sendmail in wrapper.conf(5)"}
	}
	f, err := os.Open(program)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	if profile, err = sendmail.Identify(program, f); err != nil {
		return program, "", &unknownError{err}
	}
	if profile == "exim" {
		profile, err = eximProfile(ctx, program)
	}
	return program, profile, err
}

// eximProfile asks Exim for the one setting that its profile depends on. -bP
// writes a boolean as its name, with no_ before it if it is false (the Exim
// specification, 5.2).
func eximProfile(ctx context.Context, program string) (string, error) {
	const option = "extract_addresses_remove_arguments"
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "-bP", option).CombinedOutput()
	switch answer := strings.TrimSpace(string(out)); {
	case err == nil && answer == option:
		return "exim", nil
	case err == nil && answer == "no_"+option:
		return "exim-add-arguments", nil
	case err == nil:
		err = errors.New("not understood")
		fallthrough
	default:
		return "", &failure{exWrong, fmt.Sprintf("%s -bP %s: %v: %s", program, option, err, answer), "is its configuration right?"}
	}
}

// mtaProblems says where the profile in force is not that of the real sendmail,
// and what is wrong in wrapper.conf. Where the wrapper is not installed there may
// be no sendmail.
func (a *app) mtaProblems(ctx context.Context) (problems []string) {
	path := a.wrapperConf()
	conf, wrong := wrapper.LoadConfig(path)
	for _, err := range wrong {
		problems = append(problems, err.Error())
	}
	if _, err := os.Stat(conf.RealSendmail); errors.Is(err, fs.ErrNotExist) {
		if isWrapper("/usr/sbin/sendmail") {
			problems = append(problems, "no mail can leave: there is no real sendmail "+conf.RealSendmail)
		}
		return problems
	}
	program, profile, err := identify(ctx, conf.RealSendmail)
	if errors.As(err, new(*unknownError)) {
		if text, readErr := os.ReadFile(path); readErr == nil {
			if _, _, given := confLine(text, "mta"); given {
				return problems // an administrator knows better
			}
		}
	}
	switch {
	case err != nil:
		problems = append(problems, err.Error())
	case profile != conf.Profile.Name:
		problems = append(problems, fmt.Sprintf("mail is counted as %s does, and %s is %s: mailctl setup mta", conf.Profile.Name, program, profile))
	}
	return problems
}
