package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	submitUser    = "mailquota-submit"
	submitSocket  = "mailquota-submit.socket"
	submitService = "mailquota-submit.service"

	handOffLine = `hand-off = "mailquotad"`
)

// planHandOff plans wrapper.conf's hand-off. The wrapper reads it at each call.
func planHandOff(ctx context.Context, h hardenPlan) (*hardenStep, error) {
	e, err := readEdit(h.conf)
	if err != nil {
		return nil, err
	}
	rest, place := withoutHarden(e.before, func(line string) bool { return line == handOffLine })
	e.after = rest
	start, end, given := confLine(rest, "hand-off")
	switch {
	case h.remove && len(e.before) > 0 && len(e.after) == 0: // it was made for that line
		e.after = nil
	case h.remove:
	case given && confValue(e.after[start:end]) == "mailquotad": // by its administrator
		e.after = e.before
	case given:
		e.after = withHarden(e.after, start, end, handOffLine+"\n")
	default:
		if place < 0 {
			place = min(start, lastLineStart(rest))
		}
		e.after = withHarden(rest, place, place, handOffLine+"\n")
	}
	s := &hardenStep{Name: "hand-off", Show: e.diff()}
	runs := isActive(ctx, submitSocket)
	if h.remove {
		s.change = func(ctx context.Context) error { return handOffByCaller(ctx, h, e) }
		if _, _, given := confLine(e.after, "hand-off"); runs && e.changes() && !given {
			s.Show += "systemctl disable --now " + submitSocket + "\n"
		}
		return s, nil
	}
	if _, err := user.Lookup(submitUser); err != nil {
		return nil, &failure{exWrong, "there is no user " + submitUser, "systemd-sysusers /usr/lib/sysusers.d/sendmail-wrapper.conf"}
	}
	if !runs {
		s.Show += "systemctl enable --now " + submitSocket + "\n"
	}
	s.change = func(ctx context.Context) error { return handOffByDaemon(ctx, h, e) }
	return s, nil
}

// confValue is the text of a line of wrapper.conf.
func confValue(line []byte) string {
	_, value, _ := strings.Cut(string(line), `"`)
	value, _, _ = strings.Cut(value, `"`)
	return value
}

func handOffByDaemon(ctx context.Context, h hardenPlan, e *edit) error {
	ran := isActive(ctx, submitSocket)
	undo := func(err error) error {
		ctx := context.WithoutCancel(ctx)
		err = errors.Join(err, e.undo())
		if !ran {
			_, errStop := command(ctx, "systemctl", "disable", "--now", submitSocket)
			err = errors.Join(err, errStop)
		}
		return err
	}
	if out, err := command(ctx, "systemctl", "enable", "--now", submitSocket); err != nil {
		return undo(fmt.Errorf("systemctl enable --now %s: %s", submitSocket, out))
	}
	if err := e.apply(); err != nil {
		return undo(err)
	}
	waitForCalls(ctx, h.mta)
	return nil
}

// handOffByCaller has callers send by themselves again. What mailquotad was asked for
// before is brought to its end.
func handOffByCaller(ctx context.Context, h hardenPlan, e *edit) error {
	if err := e.apply(); err != nil {
		return err
	}
	if start, end, given := confLine(e.after, "hand-off"); given && confValue(e.after[start:end]) == "mailquotad" {
		return nil
	}
	waitForCalls(ctx, h.mta)
	if out, err := command(ctx, "systemctl", "disable", "--now", submitSocket); err != nil {
		return fmt.Errorf("systemctl disable --now %s: %s", submitSocket, out)
	}
	return nil
}

// callsEnd bounds the time for which a change waits for calls that began before it.
const callsEnd = 30 * time.Second

// waitForCalls waits until the calls of sendmail that run now have ended: a wrapper that
// has read its configuration goes by it to the end. What is called from now on is not
// waited for, so that nobody can hold it up; nor is one that takes very long, whose
// message the mail server then refuses, which its caller is told.
func waitForCalls(ctx context.Context, mta localMTA) {
	ctx, cancel := context.WithTimeout(ctx, callsEnd)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	calls := runningCalls(mta)
	for len(calls) > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		calls = slices.DeleteFunc(calls, func(c call) bool { return startOf(c.pid) != c.start })
	}
}

// call is a process of sendmail; start tells it from a later one of the same number.
type call struct {
	pid   int
	start string
}

// runningCalls are the processes of users who hand mail to the mail server, or are about
// to. exec keeps pid and start.
func runningCalls(mta localMTA) (calls []call) {
	programs := []string{"/usr/sbin/sendmail-wrapper", mta.program, "/usr/sbin/postdrop"}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		exe, err := os.Readlink(filepath.Join("/proc", entry.Name(), "exe"))
		if err != nil || !slices.Contains(programs, strings.TrimSuffix(exe, " (deleted)")) && !isWrapper(filepath.Join("/proc", entry.Name(), "exe")) {
			continue
		}
		if uid, err := realUID(pid); err != nil || alwaysTaken(uid) {
			continue
		}
		if start := startOf(pid); start != "" {
			calls = append(calls, call{pid, start})
		}
	}
	return calls
}

// alwaysTaken tells whether the mail server takes mail from uid, closed or not: root, or
// one of its own, whose processes may run for ever.
func alwaysTaken(uid int) bool {
	names := []string{daemonUser, submitUser, "postfix", "Debian-exim", "exim", "smmta", "smmsp"}
	return uid == 0 || slices.ContainsFunc(names, func(name string) bool {
		u, err := user.Lookup(name)
		return err == nil && u.Uid == strconv.Itoa(uid)
	})
}

func realUID(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "\nUid:\t")
	first, _, _ := strings.Cut(rest, "\t")
	return strconv.Atoi(first)
}

// startOf is when a process began, "" if there is none or it has ended and is only not
// waited for yet (proc_pid_stat(5), the fields 3 and 22).
func startOf(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return ""
	}
	return fields[19]
}
