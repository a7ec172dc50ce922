package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A mail server that was closed may be another one by now. Packages leave its files where
// they are: it would refuse users when it comes back. So --remove opens these files, too,
// as text, since nobody is there who could be asked.

// planGonePostfix plans main.cf of a Postfix that is not the mail server.
func planGonePostfix(_ context.Context, h hardenPlan) (*hardenStep, error) {
	if !h.remove || h.mta.profile == "postfix" {
		return nil, nil
	}
	return planGone("Postfix", func() ([]*edit, error) { return gonePostfixEdits(postfixDir) }, nil)
}

// planGoneExim plans the files of an Exim that is not the mail server.
func planGoneExim(_ context.Context, h hardenPlan) (*hardenStep, error) {
	if !h.remove || strings.HasPrefix(h.mta.profile, "exim") {
		return nil, nil
	}
	return planGone("Exim", func() ([]*edit, error) { return goneEximEdits("/etc") }, func(ctx context.Context) {
		// Debian's: each start of Exim does that, too.
		_, _ = command(ctx, "update-exim4.conf")
	})
}

// planGone plans to write what is in files of server without ours; nil if there is nothing.
func planGone(server string, plan func() ([]*edit, error), then func(context.Context)) (*hardenStep, error) {
	edits, err := plan()
	if err != nil || len(edits) == 0 {
		return nil, err
	}
	return &hardenStep{
		Name: "files of " + server, Show: showEdits(edits),
		Notes: []string{server + " is not the mail server of this host: what closed it is taken out of its files"},
		change: func(ctx context.Context) error {
			edits, err := plan() // the step before may have changed them
			if err != nil {
				return err
			}
			if err := applyAll(edits); err != nil {
				return err
			}
			if then != nil {
				then(ctx)
			}
			return nil
		},
	}, nil
}

// gonePostfixEdits opens main.cf in dir, and those of the instances that it names.
func gonePostfixEdits(dir string) (edits []*edit, err error) {
	dirs := []string{dir}
	for i := 0; i < len(dirs); i++ {
		e, err := readEdit(filepath.Join(dirs[i], "main.cf"))
		if err != nil {
			return nil, err
		}
		if e.before == nil {
			continue
		}
		for _, name := range []string{"multi_instance_directories", "alternate_config_directories"} {
			list, _ := setting(e.before, name)
			for _, dir := range postfixWords(list.value) {
				if filepath.IsAbs(dir) && !slices.Contains(dirs, dir) {
					dirs = append(dirs, dir)
				}
			}
		}
		if e.after, _ = closedMain(e.before, true, i == 0); e.changes() {
			edits = append(edits, e)
		}
	}
	return edits, nil
}

// goneEximEdits opens the files below etc where packages have Exim's configuration.
func goneEximEdits(etc string) (edits []*edit, err error) {
	var paths []string
	for _, pattern := range []string{"exim4/exim4.conf*", "exim4/conf.d/main/[^.]*", "exim/exim*.conf", "exim.conf", "mail/exim.conf"} {
		found, _ := filepath.Glob(filepath.Join(etc, pattern)) // the patterns are right
		paths = append(paths, found...)
	}
	for _, path := range paths {
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			continue
		}
		e, err := readEdit(path)
		if err != nil {
			return nil, err
		}
		e.after, _ = withoutHarden(e.before, func(string) bool { return true })
		if !e.changes() {
			continue
		}
		if len(e.after) == 0 { // it was made for us
			e.after = nil
		}
		edits = append(edits, e)
	}
	return edits, nil
}
