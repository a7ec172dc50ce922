package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"sendmail-wrapper/wrapper"
)

// hardenOptions is the command line.
type hardenOptions struct{ dryRun, remove, yes bool }

func (a *app) hardenCommand() *cobra.Command {
	var o hardenOptions
	c := &cobra.Command{
		Use: "harden", Short: "leave users no way to send mail but by the counters", Args: cobra.NoArgs,
		Long: "harden shows what it would change, asks, and does it step by step, so that mail flows all the while:\n" +
			"mailquotad has the mail that it accepts sent by a user of its own (hand-off of wrapper.conf); the mail server takes local\n" +
			"mail from that user, root and itself only; connections to the ports of SMTP are for the mail server alone (setup network);\n" +
			"what Postfix sends on is counted (setup postfix --forwards). A step that fails is as it was, and those before it hold. May\n" +
			"be run again at any time, and after the mail server was changed. docs/harden.md says what it closes and what it costs.",
		Example: "  mailctl harden --dry-run\n  mailctl harden\n  mailctl harden --remove",
		RunE:    func(c *cobra.Command, _ []string) error { return a.harden(c.Context(), &o) },
	}
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "show what would be changed, and change nothing")
	c.Flags().BoolVar(&o.remove, "remove", false, "put everything back as it was")
	addYes(c, &o.yes)
	return c
}

// hardenStep is one step: what it would change, and how.
type hardenStep struct {
	Name  string   `json:"step"`
	Show  string   `json:"change"` // as it is shown; "": it is as it should be
	Notes []string `json:"notes"`  // what is to be known before
	Done  bool     `json:"done"`
	// Cannot says why it cannot be done on this host; the others are.
	Cannot string `json:"cannot"`

	// change does it, and puts back its own part where it fails.
	change func(context.Context) error
}

// hardenReport is the body of harden --json.
type hardenReport struct {
	MTA   string        `json:"mta"`
	Steps []*hardenStep `json:"steps"`
}

func (a *app) harden(ctx context.Context, o *hardenOptions) error {
	if os.Geteuid() != 0 {
		return &failure{exNoPerm, "only root may close the mail server", "sudo mailctl harden"}
	}
	if err := a.loadConfig(); err != nil {
		return err
	}
	lock, err := lockSetup(setupLock)
	if err != nil {
		return err
	}
	defer lock.Close()
	r, err := a.planHarden(ctx, lock, o.remove)
	if err != nil {
		return err
	}
	open := a.showHarden(r)
	if open && !o.dryRun {
		if !o.remove {
			if err := a.confirm(o.yes, "to do this"); err != nil {
				return err
			}
		}
		if err := a.changeHarden(ctx, r); err != nil {
			return err
		}
	}
	if a.json {
		if err := a.printJSON(r); err != nil {
			return err
		}
	}
	for _, s := range r.Steps {
		if s.Cannot != "" {
			return &failure{exWrong, s.Name + " stays open: " + s.Cannot, "then the same command again"}
		}
	}
	switch {
	case !open && o.remove:
		return a.done("there is nothing of mailctl harden")
	case !open:
		return a.done("the mail server is closed to all but mailquotad, as it should be")
	case o.dryRun:
		return a.done("nothing is changed")
	case o.remove:
		return a.done("the mail server takes mail from everybody again")
	}
	return a.done("the mail server takes local mail from root, itself and mailquotad only; undo: mailctl harden --remove")
}

// showHarden prints what the steps would change; open tells whether any would.
func (a *app) showHarden(r *hardenReport) (open bool) {
	for _, s := range r.Steps {
		open = open || s.Show != ""
		if a.json {
			continue
		}
		if s.Show != "" {
			fmt.Fprintf(a.stdout, "%s:\n%s", s.Name, s.Show)
		}
		for _, note := range s.Notes {
			fmt.Fprintf(a.stderr, "note: %s: %s\n", s.Name, note)
		}
	}
	return open
}

// changeHarden takes the steps. What was done before one that fails holds: mail flows
// between any two of them.
func (a *app) changeHarden(ctx context.Context, r *hardenReport) error {
	var before []string
	for _, s := range r.Steps {
		if s.Show == "" {
			continue
		}
		if err := s.change(ctx); err != nil {
			text := fmt.Sprintf("%s is left as it was: %v", s.Name, err)
			if before != nil {
				text += "; done before: " + strings.Join(before, ", ")
			}
			return &failure{exWrong, text, "the same command again goes on; mailctl harden --remove puts everything back"}
		}
		s.Done = true
		before = append(before, s.Name)
	}
	return nil
}

// planHarden reads what there is, and says what is to be done, in this order: users are
// sent by mailquotad before the mail server refuses them, and the other way round.
func (a *app) planHarden(ctx context.Context, lock *os.File, remove bool) (*hardenReport, error) {
	conf, _ := wrapper.LoadConfig(a.wrapperConf())
	mta, err := findMTA(ctx, conf.RealSendmail)
	if err != nil && remove { // its names were never taken or are given back, or it is gone
		if mta, err = findMTA(ctx, "/usr/sbin/sendmail"); err != nil {
			mta, err = localMTA{}, nil // what is not the mail server's own is taken out all the same
		}
	}
	if err != nil {
		return nil, err
	}
	if err := a.canHarden(mta, &conf); err != nil && !remove {
		return nil, err
	}
	record, err := readHardenRecord(a.hardenRecord())
	if err != nil {
		return nil, err
	}
	r := &hardenReport{MTA: mta.profile}
	plans := []func(context.Context, hardenPlan) (*hardenStep, error){planHandOff, planMTA, planGonePostfix, planGoneExim, a.planNetworkDoor, a.planForwards}
	h := hardenPlan{mta: mta, remove: remove, conf: a.wrapperConf(), record: record, lock: lock}
	for _, plan := range plans {
		s, err := plan(ctx, h)
		if err != nil {
			return nil, err
		}
		if s == nil {
			continue
		}
		if s.Notes == nil {
			s.Notes = []string{}
		}
		if r.Steps = append(r.Steps, s); remove {
			copy(r.Steps[1:], r.Steps)
			r.Steps[0] = s
		}
	}
	return r, nil
}

// hardenPlan is what a step plans with.
type hardenPlan struct {
	mta    localMTA
	remove bool
	conf   string // wrapper.conf
	record *hardenRecord
	lock   *os.File // of lockSetup
}

// localMTA is the mail server to which this host's programs give their mail.
type localMTA struct {
	program string // its sendmail, links resolved
	profile string // "postfix", "exim", "exim-add-arguments", "sendmail", or one that cannot be closed
}

func findMTA(ctx context.Context, real string) (localMTA, error) {
	program, profile, err := identify(ctx, real)
	if err != nil {
		return localMTA{}, &failure{exWrong, err.Error(), "mailctl doctor"}
	}
	return localMTA{program, profile}, nil
}

// cannotClose says of mail servers why none can be told from another there, and what
// helps.
var cannotClose = map[string]string{
	"msmtp":      "msmtp has no queue: it connects to its relay as the user who calls it, with a password that he can read",
	"nullmailer": "nullmailer takes mail from whoever runs it, and has no list of users",
	"dma":        "dma takes mail from whoever runs it, and has no list of users",
	"opensmtpd":  "OpenSMTPD asks by no rule which user gives it mail by its socket",
}

func (a *app) canHarden(mta localMTA, conf *wrapper.Config) error {
	if why, ok := cannotClose[mta.profile]; ok {
		return &failure{exWrong, "this mail server cannot be closed: " + why,
			"what can be done: mailctl setup network, and Postfix, Exim or Sendmail in its place; Postfix can send all by a relay (relayhost) as well"}
	}
	if mta.profile != conf.Profile.Name {
		return &failure{exWrong, fmt.Sprintf("mail is counted as %s does, and %s is %s", conf.Profile.Name, mta.program, mta.profile), "mailctl setup mta"}
	}
	if !isWrapper("/usr/sbin/sendmail") {
		return &failure{exWrong, "programs do not call the wrapper: /usr/sbin/sendmail is another program, and the mail server would refuse their mail",
			"install sendmail-wrapper first"}
	}
	return nil
}

// planMTA plans to have the mail server take mail from few users, each in its own way.
func planMTA(ctx context.Context, h hardenPlan) (*hardenStep, error) {
	switch h.mta.profile {
	case "postfix":
		return planClosePostfix(ctx, h)
	case "exim", "exim-add-arguments":
		return planCloseExim(ctx, h)
	case "sendmail":
		return planCloseSendmail(ctx, h)
	}
	return nil, nil
}

// showEdits is what is shown of files.
func showEdits(edits []*edit) string {
	var b strings.Builder
	for _, e := range edits {
		b.WriteString(e.diff())
	}
	return b.String()
}

// applyAll writes files, all or none.
func applyAll(edits []*edit) error {
	for _, e := range edits {
		if err := e.apply(); err != nil {
			return errors.Join(err, undoAll(edits))
		}
	}
	return nil
}
