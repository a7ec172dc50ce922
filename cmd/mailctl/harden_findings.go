package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"sendmail-wrapper/wrapper"
)

// hardenFindings says whether users can hand mail to the mail server past the counters,
// and whether what they send through the wrapper reaches it.
func (a *app) hardenFindings(ctx context.Context) []finding {
	const command = "mailctl harden"
	handOff := finding{Check: "hand-off", State: isFine}
	mta := finding{Check: "mail-server-closed", State: isFine}
	conf, _ := wrapper.LoadConfig(a.wrapperConf())
	server, err := findMTA(ctx, conf.RealSendmail)
	if err != nil {
		mta.State, mta.Severity, mta.Text = isUnknown, mediumSeverity, err.Error()
		return []finding{mta}
	}
	if why, ok := cannotClose[server.profile]; ok {
		mta.State, mta.Severity, mta.Text, mta.Command = isOpen, mediumSeverity, why+": users can send past the counters", "mailctl setup network"
		return []finding{mta}
	}
	open, err := whoSubmits(ctx, server)
	closed := err == nil && open == ""

	switch {
	case conf.HandOff && !isActive(ctx, submitSocket):
		handOff.State, handOff.Severity = isWrong, highSeverity
		handOff.Text = "mail of users is refused: mailquotad shall have it sent, and " + submitSocket + " is not active"
		handOff.Command = "systemctl enable --now " + submitSocket
	case conf.HandOff:
		handOff.Text = "mailquotad has the mail sent that it accepts"
	case closed:
		handOff.State, handOff.Severity, handOff.Command = isWrong, highSeverity, command
		handOff.Text = "mail of users is refused: they shall send by themselves (hand-off in wrapper.conf), and the mail server is closed to them"
	default:
		handOff.State, handOff.Severity, handOff.Command = isOpen, mediumSeverity, command
		handOff.Text = "users send accepted mail by themselves, so the mail server must take it from them"
	}

	switch {
	case err != nil:
		mta.State, mta.Severity, mta.Text, mta.Command = isUnknown, mediumSeverity, err.Error(), command
	case closed:
		mta.Text = "the mail server takes local mail from root, itself and mailquotad only"
	default:
		mta.State, mta.Severity, mta.Text, mta.Command = isOpen, mediumSeverity, open, command
	}
	return []finding{handOff, mta}
}

// whoSubmits says who else can hand mail to the mail server; "": nobody.
func whoSubmits(ctx context.Context, mta localMTA) (open string, err error) {
	switch mta.profile {
	case "postfix":
		return openPostfix(ctx, mta)
	case "exim", "exim-add-arguments":
		return openExim(ctx, mta)
	}
	m, err := readSendmailMode(mta.program)
	if err != nil || m.mode&0o001 == 0 {
		return "", err
	}
	return fmt.Sprintf("any user can run %s, and send past the counters", mta.program), nil
}

func openPostfix(ctx context.Context, mta localMTA) (open string, err error) {
	dirs, err := postfixInstances(ctx)
	if err != nil {
		return "", err
	}
	for i, dir := range dirs {
		main, err := readEdit(filepath.Join(dir, "main.cf"))
		if err != nil {
			return "", err
		}
		if main.before == nil && i > 0 {
			continue
		}
		out, err := postconfOf(ctx, []string{"-c", dir}, authorizedSubmit)
		if err != nil {
			return "", err
		}
		var others []string
		for _, word := range postfixWords(out[0]) {
			switch {
			case strings.HasPrefix(word, "static:"):
				return fmt.Sprintf("any user can run %s, and send past the counters: %s of %s/main.cf", mta.program, authorizedSubmit, dir), nil
			case !slices.Contains(submitters, word) && !strings.HasPrefix(word, "!"):
				others = append(others, word)
			}
		}
		if others != nil {
			return fmt.Sprintf("%s can run %s, and send past the counters: %s of %s/main.cf", strings.Join(others, ", "), mta.program, authorizedSubmit, dir), nil
		}
	}
	return "", nil
}

func openExim(ctx context.Context, mta localMTA) (open string, err error) {
	uids, err := eximUIDs()
	if err != nil {
		return "", err
	}
	for _, option := range []string{eximNotSMTP, eximConnect} {
		value, err := eximOption(ctx, mta.program, option)
		if err != nil {
			return "", err
		}
		if !strings.Contains(value, eximUsers(uids)) {
			return fmt.Sprintf("any user can run %s, and send past the counters: its %s does not ask who it is", mta.program, option), nil
		}
	}
	return "", nil
}
