package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sendmail-wrapper/report"
)

func (a *app) doctor() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "look for what is wrong, and for ways past the counters", Args: cobra.NoArgs,
		Long: "doctor looks at everything that mail is counted by, from the names of sendmail to the clock, and at each way by which mail\n" +
			"may leave uncounted. Of each it says whether it is fine, or what is open or wrong, how bad that is, and what to type.\n" +
			"It changes nothing. A severity is high where mail leaves uncounted, is lost or refused now, medium where somebody who tries\n" +
			"gets mail out uncounted, low for the rest.\n" +
			"Its exit status is 1 if something is open or wrong that is more than low, so that monitoring can call it.",
		Example: "  mailctl doctor\n  mailctl doctor --json",
		RunE:    func(c *cobra.Command, _ []string) error { return a.showFindings(c.Context()) },
	}
}

// diagnosis is the body of doctor --json.
type diagnosis struct {
	OK       bool      `json:"ok"` // nothing is open or wrong that is more than low
	Findings []finding `json:"findings"`
}

// lookBound bounds the time of one area's checks: what does not answer is a finding,
// too.
const lookBound = 20 * time.Second

func (a *app) showFindings(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return &failure{exNoPerm, "doctor looks at what only root may see", "sudo mailctl doctor"}
	}
	d := diagnosis{OK: true, Findings: a.findings(ctx)}
	for i := range d.Findings {
		d.OK = d.OK && !d.Findings[i].isAlarm()
	}
	if a.json {
		if err := a.printJSON(d); err != nil {
			return err
		}
	} else {
		a.printFindings(d.Findings)
	}
	if !d.OK {
		return &failure{exWrong, "", ""}
	}
	return nil
}

// findings are those of all areas, in the order in which mail passes.
func (a *app) findings(ctx context.Context) (list []finding) {
	for _, look := range []func(context.Context) []finding{
		a.namesFindings, a.mtaFindings, a.daemonFindings, a.databaseFindings, a.roomFindings, a.limitFindings, a.hostFindings,
		a.phpFindings, a.apacheFindings, a.postfixFindings, a.hardenFindings, a.networkFindings, a.notifyFindings, a.senderFindings,
	} {
		ctx, cancel := context.WithTimeout(ctx, lookBound)
		list = append(list, look(ctx)...)
		cancel()
	}
	return list
}

// isAlarm tells whether monitoring shall hear of it.
func (f *finding) isAlarm() bool {
	return (f.State == isOpen || f.State == isWrong) && f.Severity != lowSeverity || f.State == isUnknown && f.Severity == highSeverity
}

func (a *app) printFindings(list []finding) {
	open := 0
	for i := range list {
		f := &list[i]
		state := string(f.State)
		if f.State != isFine {
			state += ", " + string(f.Severity)
			open++
		}
		line := fmt.Sprintf("%-14s %-18s %s", state, f.Check, report.Printable(f.Text))
		if f.isAlarm() {
			line = report.Paint(a.stdout, report.Yellow, line)
		}
		fmt.Fprintln(a.stdout, line)
		if f.Command != "" {
			fmt.Fprintf(a.stdout, "%-33s %s\n", "", report.Printable(f.Command))
		}
	}
	fmt.Fprintf(a.stdout, "%d checks, %d of them not fine\n", len(list), open)
}

// asFinding makes one of a sentence of mailctl status, which ends with the command.
func asFinding(check string, state findingState, s severity, text string) finding {
	f := finding{Check: check, State: state, Severity: s, Text: text}
	if at := strings.LastIndex(text, ": "); at >= 0 {
		first, _, _ := strings.Cut(text[at+2:], " ")
		if slices.Contains([]string{"mailctl", "systemctl", "journalctl"}, first) {
			f.Text, f.Command = text[:at], text[at+2:]
		}
	}
	return f
}

// allOf makes findings of the sentences of one check, or the one that it is fine.
func allOf(check, fine string, problems []string, bad severity, hints []string, notSetUp severity) (list []finding) {
	for _, text := range problems {
		list = append(list, asFinding(check, isWrong, bad, text))
	}
	for _, text := range hints {
		list = append(list, asFinding(check, isOpen, notSetUp, text))
	}
	if len(list) == 0 && fine != "" {
		list = append(list, finding{Check: check, State: isFine, Text: fine})
	}
	return list
}

// unlooked is the finding of what could not be looked at.
func (a *app) unlooked(check string, s severity, err error) finding {
	_, hint := a.explain(err, nil)
	return finding{Check: check, State: isUnknown, Severity: s, Text: err.Error(), Command: hint}
}

func (a *app) mtaFindings(ctx context.Context) []finding {
	return allOf("mta", "mail is counted as the mail server of this host does", a.mtaProblems(ctx), highSeverity, nil, "")
}

func (a *app) notifyFindings(ctx context.Context) []finding {
	if a.connect(ctx) != nil {
		return nil // databaseFindings says why
	}
	c := a.config
	if len(c.NotifyAdmin) == 0 && c.NotifyWebhook == "" && c.NotifyHook == "" {
		return []finding{{Check: "notifications", State: isOpen, Severity: lowSeverity, Text: "nobody is told of refusals", Command: "set notify-admin in " + a.configPath}}
	}
	problems, hints := a.notifyState(ctx)
	return allOf("notifications", "refusals are told", problems, lowSeverity, hints, lowSeverity)
}

func (a *app) apacheFindings(ctx context.Context) []finding {
	if a.loadConfig() != nil {
		return nil // daemonFindings says why
	}
	problems, hints := apacheState(ctx, a.config)
	if layout, err := findApache(); err != nil || !installed(layout.unit) && a.config.ApacheStatus == "" {
		return nil
	}
	return allOf("apache", "Apache tells the request that mail comes from", problems, lowSeverity, hints, lowSeverity)
}

// postfixFindings: a hint is a way past the counters.
func (a *app) postfixFindings(ctx context.Context) []finding {
	if a.loadConfig() != nil {
		return nil
	}
	problems, hints := postfixState(ctx, a.config, a.configPath)
	var list []finding
	for _, text := range problems {
		list = append(list, asFinding("smtp", isWrong, highSeverity, text))
	}
	for _, text := range hints {
		check, s := "smtp", mediumSeverity
		switch {
		case strings.Contains(text, "sends on"):
			check = "sent-on"
		case strings.Contains(text, "does not log"):
			check, s = "trace-log", lowSeverity
		}
		list = append(list, asFinding(check, isOpen, s, text))
	}
	if len(list) == 0 && hasPostfix() {
		list = append(list, finding{Check: "smtp", State: isFine, Text: "mail by SMTP, and what Postfix sends on, is counted"})
	}
	return list
}

// senderFindings are about senders that are not the caller's.
func (a *app) senderFindings(context.Context) []finding {
	if a.loadConfig() != nil {
		return nil
	}
	list := []finding{{Check: "sender", State: isFine, Text: "senders that are not the caller's: " + a.config.SenderCheck}}
	if a.config.SenderCheck == "off" {
		list[0] = finding{Check: "sender", State: isOpen, Severity: lowSeverity,
			Text: "scripts and mailboxes may send as anybody (-f, MAIL FROM): it is counted to whom it comes from, and not reported", Command: `set sender-check = "report" in ` + a.configPath}
	}
	for _, name := range a.config.TrustedUsers {
		if uid, err := uidOf(name); err == nil && uid >= a.config.FirstUserUID {
			list = append(list, finding{Check: "sender", State: isOpen, Severity: mediumSeverity,
				Text: name + " is one of trusted-users, whose mail is charged to whom it names, and is no system user", Command: "take it out of trusted-users in " + a.configPath})
		}
	}
	return list
}

// daemonAnswer asks mailquotad for its state.
func (a *app) daemonAnswer() (d daemonState, err error) {
	reply, err := a.askStatus()
	if err == nil {
		err = json.Unmarshal(reply.Body, &d)
	}
	return d, err
}
