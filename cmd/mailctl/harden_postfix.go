package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// authorizedSubmit is the parameter of main.cf by which sendmail(1) and postdrop(1) ask
// at each start whether the user who runs them may hand in mail. root and Postfix's own
// user may whatever it says, and root is named for who reads it.
const authorizedSubmit = "authorized_submit_users"

// submitters are whom it names: who sends what mailquotad accepts, and notifications.
var submitters = []string{"root", daemonUser, submitUser}

// planClosePostfix plans main.cf, of each instance: a user may name another instance to
// sendmail -C if the main one names it (sendmail(1), "alternate_config_directories").
func planClosePostfix(ctx context.Context, h hardenPlan) (*hardenStep, error) {
	s := &hardenStep{Name: "mail server"}
	edits, err := postfixEdits(ctx, h, s)
	if err != nil {
		return nil, err
	}
	if len(edits) > 1 && !h.remove {
		s.Notes = append(s.Notes, "programs that call sendmail -C for another instance of Postfix are refused")
	}
	s.Show = showEdits(edits)
	s.change = func(ctx context.Context) error {
		// The step before may have changed main.cf.
		edits, err := postfixEdits(ctx, h, new(hardenStep))
		if err != nil {
			return err
		}
		// Both programs read it when they start: nothing has to be reloaded.
		if err := applyAll(edits); err != nil {
			return err
		}
		if err := checkPostfix(ctx, h); err != nil {
			return errors.Join(err, undoAll(edits))
		}
		return nil
	}
	return s, nil
}

// postfixEdits plans main.cf of each instance, and notes what is to be known.
func postfixEdits(ctx context.Context, h hardenPlan, s *hardenStep) (edits []*edit, err error) {
	dirs, err := postfixInstances(ctx)
	if err != nil {
		return nil, err
	}
	for i, dir := range dirs {
		e, err := readEdit(filepath.Join(dir, "main.cf"))
		if err != nil {
			return nil, err
		}
		if e.before == nil {
			if i == 0 {
				return nil, &failure{exWrong, "there is no " + e.path, "is there a Postfix?"}
			}
			continue // an alternate directory may be gone; Postfix then refuses it, too
		}
		note := ""
		if e.after, note = closedMain(e.before, h.remove, i == 0); note != "" && e.changes() {
			s.Notes = append(s.Notes, e.path+": "+note)
		}
		edits = append(edits, e)
	}
	return edits, nil
}

// postfixInstances are the directories of main.cf to which sendmail(1) and postdrop(1)
// go; the first is that which they go to by themselves.
func postfixInstances(ctx context.Context) ([]string, error) {
	out, err := postconf(ctx, "config_directory", "multi_instance_directories", "alternate_config_directories")
	if err != nil {
		return nil, &failure{exWrong, err.Error(), "postfix check"}
	}
	dirs := out[:1:1]
	for _, list := range out[1:] {
		for _, dir := range postfixWords(list) {
			if !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs, nil
}

// postfixWords splits a list of main.cf (postconf(5): comma or white space).
func postfixWords(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) })
}

// closedMain is main.cf with the users who may hand in mail: ours, and whom its
// administrator named, unless he named all. note is what he should know of that.
func closedMain(text []byte, remove, own bool) (after []byte, note string) {
	after, place := withoutHarden(text, func(line string) bool {
		return strings.HasPrefix(line, authorizedSubmit) && strings.Contains(line, submitUser)
	})
	if remove {
		return after, ""
	}
	was, given := setting(after, authorizedSubmit)
	words := postfixWords(was.value)
	if given && slices.Contains(words, submitUser) { // by its administrator
		return text, ""
	}
	if given && len(words) == 0 && !own { // nobody may, as postmulti -e create leaves it
		return text, ""
	}
	kept := slices.DeleteFunc(words, func(word string) bool { return strings.HasPrefix(word, "static:") || slices.Contains(submitters, word) })
	if given && (len(kept) > 0 || len(words) == 0) {
		note = fmt.Sprintf("%s = %s: whom it kept from sending can send by mailquotad now (mailctl block add user:NAME keeps him from that), and whom it names sends past the counters still", authorizedSubmit, was.value)
	}
	// A word with ! must come before those that match the same name.
	kept = slices.Concat(submitters, kept)
	line := authorizedSubmit + " = " + strings.Join(kept, ", ") + "\n"
	if given {
		return withHarden(after, was.start, was.end, line), note
	}
	if place < 0 {
		place = blockPlace(after)
	}
	return withHarden(after, place, place, line), note
}

// checkPostfix asks Postfix, once it is closed, whether it takes mail of mailquota-submit, and
// of nobody else. A message without recipients is refused as well, but only after that
// question. Where it is opened again, who was let in before is its administrator's matter.
func checkPostfix(ctx context.Context, h hardenPlan) error {
	if h.remove {
		return nil
	}
	for name, taken := range map[string]bool{"nobody": false, submitUser: true} {
		out, err := commandAs(ctx, name, "", h.mta.program, "-i", "-t")
		if err == nil {
			continue // taken: no Postfix does that without recipients, and nothing is lost
		}
		if refused := strings.Contains(out, "not allowed to submit mail"); refused == taken {
			return fmt.Errorf("%s of user %s: %s", h.mta.program, name, out)
		}
	}
	return nil
}
