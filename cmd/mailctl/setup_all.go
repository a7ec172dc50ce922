package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sendmail-wrapper/report"
)

// setupAllLock is held by a run of mailctl setup; its steps hold setupLock.
const setupAllLock = "/run/mailctl-setup-all.lock"

// allOptions is the command line of mailctl setup.
type allOptions struct {
	yes, dryRun, remove bool
	database, owner     string
	testMail            string
	skip                []string
}

func (a *app) setupAll() *cobra.Command {
	s := &setupRun{app: a, stdin: os.Stdin, group: daemonUser}
	o := &s.options
	c := &cobra.Command{
		Use: "setup", Short: "set up all of it on this host, from the mail server to a test mail that was counted", Args: subcommandOnly,
		Long: "setup does what has to be done from the installation to the first mail that is counted, in this order: the mail server\n" +
			"and the names by which programs call it, the database, mode observe, the services, users and sites, PHP-FPM, Apache,\n" +
			"Postfix, and a test mail. Of each step it says what it would do, and asks. What is so already stays, so it can be run\n" +
			"again at any time, also after it failed or was killed: it goes on where it stopped. The steps are commands of their own,\n" +
			"for which see their --help. --remove undoes all that was set up in other programs and services; data stay.",
		Example: "  mailctl setup\n  mailctl setup --yes\n  mailctl setup --dry-run\n" +
			"  mailctl setup --yes --database 'postgres://mailquotad@db.example/mailquota' --database-owner -\n  mailctl setup --remove",
		RunE: func(c *cobra.Command, _ []string) error { return s.run(c.Context()) },
	}
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "show what would be done, and do nothing")
	c.Flags().BoolVar(&o.remove, "remove", false, "undo what was set up in other programs and services")
	c.Flags().StringVar(&o.database, "database", "", "`URL` of a database that is there, as role mailquotad; - reads it from standard input")
	c.Flags().StringVar(&o.owner, "database-owner", "", "`URL` of the same database as its owner; - reads it from standard input")
	c.Flags().StringVar(&o.testMail, "test-mail", "root", "`address` that the test mail goes to")
	c.Flags().StringSliceVar(&o.skip, "skip", nil, "`steps` that are left out: "+strings.Join(skippable(s.steps()), ", "))
	mustBeDefined(c.RegisterFlagCompletionFunc("skip", offer(skippable(s.steps())...)))
	addYes(c, &o.yes)
	for _, other := range []string{"database", "database-owner", "test-mail", "skip"} {
		c.MarkFlagsMutuallyExclusive("remove", other)
	}
	return c
}

// setupRun is one run of mailctl setup.
type setupRun struct {
	*app
	stdin   *os.File
	answers *bufio.Reader
	options allOptions
	started time.Time
	last    time.Time // when the last step ended
	report  setupReport
	group   string // that reads mailquotad.conf besides root
}

// setupReport is the body of setup --json.
type setupReport struct {
	OK      bool         `json:"ok"`
	Steps   []stepReport `json:"steps"`
	Seconds float64      `json:"seconds"`
	Message string       `json:"message"` // id of the test mail, by which mailctl trace finds it; "" none was sent
	Next    []nextStep   `json:"next"`
}

// nextStep is what an administrator does after it.
type nextStep struct {
	Command string `json:"command"` // "" where it is none
	Why     string `json:"why"`
}

// stepReport is what became of a step.
type stepReport struct {
	Step    string    `json:"step"`
	State   stepState `json:"state"`
	Text    string    `json:"text"`
	Notes   []string  `json:"notes"`   // what is left to the administrator
	Seconds float64   `json:"seconds"` // since the one before
}

type stepState string

const (
	stepDone    stepState = "done"
	stepSo      stepState = "so"      // already
	stepPlanned stepState = "would"   // --dry-run
	stepLeft    stepState = "left"    // by --skip, or an answer
	stepAbsent  stepState = "absent"  // there is no such program here
	stepFailed  stepState = "failed"  // nothing behind it was done
	stepUndone  stepState = "removed" // --remove
)

// setupStep is a part of the set-up. It may have been done already, or half of it
// by a run that was killed.
type setupStep struct {
	name   string
	needed bool // no mail is counted without it
	// look says how it is: stepSo, stepAbsent, or stepPlanned for what do would do.
	look func(context.Context) (stepReport, error)
	do   func(context.Context) (stepReport, error)
}

func (s *setupRun) steps() []setupStep {
	return []setupStep{
		{"mail-server", true, s.lookMTA, s.takeNames},
		{"database", true, s.lookDatabase, s.makeDatabase},
		{"mode", false, s.lookMode, s.setMode},
		{"services", true, s.lookUnits, s.startUnits},
		{"import", false, s.lookImport, s.doImport},
		{"fpm", false, s.lookFPM, s.doFPM},
		{"apache", false, s.lookApache, s.doApache},
		{"postfix", false, s.lookPostfix, s.doPostfix},
		{"test-mail", false, s.lookMail, s.sendMail},
	}
}

func skippable(steps []setupStep) (names []string) {
	for _, step := range steps {
		if !step.needed {
			names = append(names, step.name)
		}
	}
	return names
}

func (s *setupRun) run(ctx context.Context) error {
	s.started = time.Now()
	s.last = s.started
	s.report = setupReport{Steps: []stepReport{}, Next: []nextStep{}}
	s.answers = bufio.NewReader(s.stdin)
	for _, name := range s.options.skip {
		if names := skippable(s.steps()); !slices.Contains(names, name) {
			return wrong(fmt.Errorf("--skip %s: there are %s", name, strings.Join(names, ", ")), name, names)
		}
	}
	if os.Geteuid() != 0 {
		return &failure{exNoPerm, "only root can set up this host", "sudo mailctl setup"}
	}
	if !s.options.yes && !s.options.dryRun && !s.isTerminal() {
		return &failure{exUsage, "each step must be confirmed", "mailctl setup --yes does all of them, and --dry-run shows them"}
	}
	if err := s.readURLs(); err != nil {
		return err
	}
	lock, err := lockSetup(setupAllLock)
	if err != nil {
		return err
	}
	defer lock.Close()
	if s.options.remove {
		err = s.removeAll(ctx)
	} else {
		err = s.doAll(ctx)
	}
	s.report.OK = err == nil
	s.report.Seconds = seconds(time.Since(s.started))
	if s.json {
		if err := s.printJSON(s.report); err != nil {
			return err
		}
	}
	return err
}

func seconds(d time.Duration) float64 { return float64(d.Milliseconds()/10) / 100 }

func (s *setupRun) isTerminal() bool {
	_, err := unix.IoctlGetTermios(int(s.stdin.Fd()), unix.TCGETS)
	return err == nil
}

func (s *setupRun) doAll(ctx context.Context) error {
	for _, step := range s.steps() {
		if slices.Contains(s.options.skip, step.name) {
			s.tell(step.name, stepReport{State: stepLeft, Text: "by --skip"})
			continue
		}
		r, err := step.look(ctx)
		if err == nil && r.State == stepPlanned && !s.options.dryRun {
			var yes bool
			yes, err = s.ask(ctx, step.name+": "+r.Text)
			switch {
			case err != nil:
			case yes:
				if r, err = step.do(ctx); err == nil {
					r.State = cmp.Or(r.State, stepDone)
				}
			case step.needed:
				s.tell(step.name, stepReport{State: stepLeft, Text: "without it no mail is counted"})
				return &failure{exRefused, "stopped at " + step.name, "mailctl setup goes on here"}
			default:
				r = stepReport{State: stepLeft, Text: "as you said"}
			}
		}
		if err != nil {
			return s.failed(step, err)
		}
		s.tell(step.name, r)
	}
	s.report.Next = s.next()
	if s.json {
		return nil
	}
	if s.options.dryRun {
		return s.done("nothing was changed")
	}
	fmt.Fprintf(s.stdout, "\nSet up, in %.1f s. What to do next:\n", time.Since(s.started).Seconds())
	for _, n := range s.report.Next {
		fmt.Fprintf(s.stdout, "  %-49s  %s\n", n.Command, n.Why)
	}
	return nil
}

// failed says where the set-up stopped, and what to do.
func (s *setupRun) failed(step setupStep, err error) error {
	exit, hint := s.explain(err, nil)
	s.tell(step.name, stepReport{State: stepFailed, Text: err.Error()})
	again := "mailctl setup again goes on here"
	if !step.needed {
		again += "; --skip " + step.name + " goes on without it"
	}
	if hint != "" {
		again = hint + "; then " + again
	}
	return &failure{exit, "stopped at " + step.name + ": " + err.Error(), again}
}

// tell shows what became of a step.
func (s *setupRun) tell(name string, r stepReport) {
	now := time.Now()
	r.Step, r.Seconds = name, seconds(now.Sub(s.last))
	s.last = now
	if r.Notes == nil {
		r.Notes = []string{}
	}
	s.report.Steps = append(s.report.Steps, r)
	if s.json {
		return
	}
	if r.State != stepFailed { // that is told as an error
		fmt.Fprintf(s.stdout, "%-7s %-11s  %s\n", r.State, name, report.Printable(r.Text))
	}
	for _, note := range r.Notes {
		fmt.Fprintln(s.stdout, "note:", report.Printable(note))
	}
}

// ask asks whether to do what was said. A signal ends the wait, and so does the end
// of the terminal.
func (s *setupRun) ask(ctx context.Context, what string) (bool, error) {
	if s.options.yes {
		return true, nil
	}
	stopped := &failure{exRefused, "stopped before that was done", "mailctl setup goes on here"}
	for {
		fmt.Fprintf(s.stderr, "%s\n        Do it? [Y/n] ", report.Printable(what))
		answer := make(chan string, 1)
		go func() {
			line, err := s.answers.ReadString('\n')
			if err != nil && line == "" {
				line = "\x04" // ^D
			}
			answer <- line
		}()
		select {
		case line := <-answer:
			switch strings.ToLower(strings.TrimSpace(line)) {
			case "", "y", "yes":
				return true, nil
			case "n", "no":
				return false, nil
			case "\x04":
				fmt.Fprintln(s.stderr)
				return false, stopped
			}
		case <-ctx.Done():
			fmt.Fprintln(s.stderr)
			return false, stopped
		}
	}
}

// call runs a command of mailctl with --json, reads its answer into v, and returns
// what it said on standard error: a step is what an administrator could type. The
// answer is read also where there is an error.
func (s *setupRun) call(ctx context.Context, v any, args ...string) (said string, err error) {
	var out, errs bytes.Buffer
	sub := &app{stdout: &out, stderr: &errs, logDir: s.logDir}
	defer sub.close()
	root := sub.root()
	root.SetArgs(append([]string{"--config", s.configPath, "--json"}, args...))
	root.SetOut(io.Discard)
	root.SetErr(io.Discard)
	command, err := root.ExecuteContextC(ctx)
	if err != nil {
		exit, hint := sub.explain(err, command)
		err = &failure{exit, cmp.Or(err.Error(), lastLine(errs.String())), hint}
	}
	if v != nil && out.Len() > 0 {
		if wrong := json.Unmarshal(out.Bytes(), v); wrong != nil {
			err = errors.Join(err, fmt.Errorf("mailctl %s --json: %w", strings.Join(args, " "), wrong))
		}
	}
	return errs.String(), err
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// fresh is an app that reads the configuration anew, as a step may have changed it.
func (s *setupRun) fresh() *app {
	return &app{stdout: io.Discard, stderr: io.Discard, configPath: s.configPath, logDir: s.logDir, why: "mailctl setup"}
}

// next is what an administrator does from here on.
func (s *setupRun) next() []nextStep {
	list := []nextStep{
		{"mailctl doctor", "what is still open, and the command that closes it"},
		{"mailctl report top", "who sends"},
		{"mailctl suggest-limits", "after some days: limits that fit what was sent"},
		{"mailctl limit set plan:default messages/hour 100", "a limit for each customer"},
		{"mailctl report attempts", "what limits would have refused, where the mode is observe"},
		{"mailctl mode set server enforce", "from then on it is refused"},
		{"mailctl harden", "closes the ways past sendmail"},
	}
	if strings.HasPrefix(s.mta(), "exim") {
		list = append(list, nextStep{"", "Exim asks about mail by SMTP by some lines in its configuration: docs/smtp.md, /usr/share/sendmail-wrapper/exim"})
	}
	return list
}
