package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Sendmail asks nobody who hands it mail: whoever may run it gets the group of the
// queue by its mode, root:smmsp 2755. So its mode is what can be closed: 2750, with
// those who send for mailquotad in that group, by their units and not by /etc/group.

// sendmailUnits are those services.
var sendmailUnits = []string{submitService, "mailquota-notify.service"}

func sendmailDropIn(unit string) string {
	return filepath.Join("/etc/systemd/system", unit+".d", "mailctl-harden.conf")
}

// sendmailMode is who may run a program.
type sendmailMode struct {
	mode  fs.FileMode // as stat(2) has it, set-group-ID included
	owner string
	group string
	gid   uint32
}

func readSendmailMode(path string) (m sendmailMode, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return m, err
	}
	sys := info.Sys().(*syscall.Stat_t)
	m.mode, m.gid = fs.FileMode(sys.Mode&0o7777), sys.Gid
	u, errUser := user.LookupId(strconv.Itoa(int(sys.Uid)))
	g, errGroup := user.LookupGroupId(strconv.Itoa(int(sys.Gid)))
	if err := errors.Join(errUser, errGroup); err != nil {
		return m, err
	}
	m.owner, m.group = u.Username, g.Name
	return m, nil
}

func planCloseSendmail(ctx context.Context, h hardenPlan) (*hardenStep, error) {
	m, err := readSendmailMode(h.mta.program)
	if err != nil {
		return nil, err
	}
	override, err := statOverride(ctx, h.mta.program)
	if err != nil {
		return nil, err
	}
	var edits []*edit
	for _, unit := range sendmailUnits {
		e, err := readEdit(sendmailDropIn(unit))
		if err != nil {
			return nil, err
		}
		if e.after = nil; !h.remove {
			e.after = fmt.Appendf(nil, "# mailctl harden: Sendmail's queue is this group's.\n[Service]\nSupplementaryGroups=%s\n", m.group)
		}
		edits = append(edits, e)
	}
	s := &hardenStep{Name: "mail server", Show: showEdits(edits)}
	closed := m.mode&0o001 == 0
	switch {
	case h.remove && closed && h.record.Mode != "":
		s.Show += fmt.Sprintf("%s: mode %s\n", h.mta.program, h.record.Mode)
	case h.remove || closed && h.record.Mode != "":
	case closed:
		s.Notes = append(s.Notes, h.mta.program+" may be run by few already, and stays so")
	case m.mode&0o2000 == 0:
		return nil, &failure{exWrong, fmt.Sprintf("%s has mode %04o: it gets its right to the queue in a way that is not known here", h.mta.program, m.mode), "docs/harden.md"}
	default:
		s.Show += fmt.Sprintf("%s: mode %04o %s:%s instead of %04o\n", h.mta.program, m.mode&^0o007, m.owner, m.group, m.mode)
		s.Notes = append(s.Notes, "mailq, newaliases and sendmail -bt are for root and group "+m.group+" from now on")
	}
	s.change = func(ctx context.Context) error {
		if h.remove {
			return openSendmail(ctx, h, edits)
		}
		err := closeSendmail(ctx, h, m, override, closed, edits)
		if err == nil {
			return nil
		}
		ctx = context.WithoutCancel(ctx)
		if closed { // and stays so
			return errors.Join(err, undoAll(edits), restartSubmitters(ctx))
		}
		return errors.Join(err, openSendmail(ctx, h, edits))
	}
	return s, nil
}

func closeSendmail(ctx context.Context, h hardenPlan, m sendmailMode, override string, closed bool, edits []*edit) error {
	for _, e := range edits {
		if err := os.MkdirAll(filepath.Dir(e.path), 0o755); err != nil {
			return err
		}
	}
	if err := applyAll(edits); err != nil {
		return err
	}
	if err := restartSubmitters(ctx); err != nil {
		return err
	}
	if closed {
		return nil
	}
	if h.record.Mode == "" { // else somebody opened it again, and the override may be ours
		h.record.Mode, h.record.Override = fmt.Sprintf("%04o", m.mode), override
		if err := h.record.write(); err != nil {
			return err
		}
	}
	want := fmt.Sprintf("%s %s %04o", m.owner, m.group, m.mode&^0o007)
	if err := setFileMode(ctx, h.mta.program, want, true); err != nil {
		return err
	}
	if out, err := commandAs(ctx, "nobody", "", h.mta.program, "-bV"); !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("nobody can run %s: %s", h.mta.program, out)
	}
	return nil
}

// openSendmail gives the program back to all, as it was before.
func openSendmail(ctx context.Context, h hardenPlan, edits []*edit) error {
	if h.record.Mode != "" {
		m, err := readSendmailMode(h.mta.program)
		if err != nil {
			return err
		}
		was := h.record.Override
		if was == "" {
			was = fmt.Sprintf("%s %s %s", m.owner, m.group, h.record.Mode)
		}
		if err := setFileMode(ctx, h.mta.program, was, h.record.Override != ""); err != nil {
			return err
		}
		h.record.Mode, h.record.Override = "", ""
		if err := h.record.write(); err != nil {
			return err
		}
	}
	there := false
	for _, e := range edits {
		if err := os.Remove(e.path); err == nil {
			there = true
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		_ = os.Remove(filepath.Dir(e.path)) // unless there is a file in it
	}
	if !there {
		return nil
	}
	return restartSubmitters(ctx)
}

// restartSubmitters gives services the groups that their units say.
func restartSubmitters(ctx context.Context) error {
	if out, err := command(ctx, "systemctl", "daemon-reload"); err != nil {
		return fmt.Errorf("systemctl daemon-reload: %s", out)
	}
	if out, err := command(ctx, "systemctl", append([]string{"try-restart"}, sendmailUnits...)...); err != nil {
		return fmt.Errorf("systemctl try-restart: %s", out)
	}
	return nil
}

// statOverride is what dpkg-statoverride(1) has of a path, "OWNER GROUP MODE", so that a
// mode stays when the package is upgraded; "" if nothing, or where there is no dpkg.
func statOverride(ctx context.Context, path string) (string, error) {
	if _, err := exec.LookPath("dpkg-statoverride"); err != nil {
		return "", nil
	}
	out, err := command(ctx, "dpkg-statoverride", "--list", path)
	var status *exec.ExitError
	if errors.As(err, &status) && status.ExitCode() == 1 { // none matches
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("dpkg-statoverride --list %s: %s", path, out)
	}
	return strings.TrimSpace(strings.TrimSuffix(out, path)), nil
}

// setFileMode gives a program owner, group and mode, and has dpkg keep them, or forget what
// it kept. The file is never without a mode that one of both wants.
func setFileMode(ctx context.Context, path, want string, keep bool) error {
	words := strings.Fields(want)
	if len(words) != 3 {
		return fmt.Errorf("owner, group and mode of %s: %q", path, want)
	}
	if _, err := exec.LookPath("dpkg-statoverride"); err == nil {
		args := []string{"--force-statoverride-add", "--update", "--add", words[0], words[1], words[2], path}
		if !keep {
			args = []string{"--force-statoverride-remove", "--remove", path}
		}
		if out, err := command(ctx, "dpkg-statoverride", args...); err != nil {
			return fmt.Errorf("dpkg-statoverride %s: %s", strings.Join(args, " "), out)
		}
		if keep {
			return nil
		}
	}
	// chown(2) takes set-group-ID away, so the mode is last. The owner stays.
	if out, err := command(ctx, "chmod", words[2], path); err != nil {
		return fmt.Errorf("chmod %s %s: %s", words[2], path, out)
	}
	return nil
}
