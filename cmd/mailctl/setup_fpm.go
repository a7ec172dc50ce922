package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

const (
	fpmDir        = "/run/mailquota-fpm"
	fpmStatusPath = "/mailquota-status-" // and random letters
	// tmpfiles.d(5): the same name in /etc takes the place of the package's, and
	// stays when the package goes. Without the directory PHP-FPM does not start.
	fpmTmpfiles        = "/etc/tmpfiles.d/mailquota-fpm.conf"
	fpmTmpfilesPackage = "/usr/lib/tmpfiles.d/mailquota-fpm.conf"
)

// fpmPool is what becomes of a pool.
type fpmPool struct {
	Name   string `json:"name"`
	File   string `json:"file"`
	Socket string `json:"socket"` // where its status is, "" nowhere
	State  string `json:"state"`  // of the words below
	Why    string `json:"why"`    // that a pool is left, or that mailquotad does not reach its socket

	line   int  // of its section
	path   bool // has a pm.status_path
	listen string
}

const (
	poolSet     = "set"     // our lines are there
	poolNew     = "new"     // our lines are put there
	poolRemoved = "removed" // our lines are taken out
	poolOwn     = "own"     // has a pm.status_listen of its administrator
	poolLeft    = "left"    // has none, and gets none
)

type setupOptions struct{ dryRun, remove, print, noReload bool }

func (o *setupOptions) flags(c *cobra.Command) {
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "show what would be changed, and change nothing")
	c.Flags().BoolVar(&o.remove, "remove", false, "take out what was put there")
	c.Flags().BoolVar(&o.print, "print", false, "print it for a panel's template, and change nothing")
	c.Flags().BoolVar(&o.noReload, "no-reload", false, "reload nothing: it takes effect at the next reload")
	c.MarkFlagsMutuallyExclusive("remove", "print")
}

func (a *app) fpmCommand() *cobra.Command {
	var o setupOptions
	c := &cobra.Command{
		Use: "fpm", Short: "let PHP-FPM tell mailquotad which script it runs", Args: cobra.NoArgs,
		Long: "fpm gives each pool of each PHP-FPM of this host, from PHP 8.0 on, a status page on a socket of its own, below " + fpmDir + ",\n" +
			"which only mailquotad can reach: that proves which script and which pool sent a mail (docs/origin.md).\n" +
			"It writes two marked lines into each pool's own file, tests the configuration before and after, and reloads PHP-FPM.\n" +
			"A pool that has a pm.status_listen keeps it. Where a panel writes the files of pools, put what --print says into its template.",
		Example: "  mailctl setup fpm --dry-run\n  mailctl setup fpm\n  mailctl setup fpm --remove",
		RunE:    func(c *cobra.Command, _ []string) error { return a.setupFPM(c.Context(), &o) },
	}
	o.flags(c)
	return c
}

// fpmSetup is the body of setup fpm --json.
type fpmSetup struct {
	Masters []*fpmMaster `json:"masters"`
	Written bool         `json:"written"`
}

func (a *app) setupFPM(ctx context.Context, o *setupOptions) error {
	if o.print {
		fmt.Fprintln(a.stderr, "into the section of each pool, with PHP's version (8.2) for VERSION, so that pools of one name have two sockets; FPM replaces $pool:")
		_, err := fmt.Fprint(a.stdout, fpmBlock(fpmDir+"/VERSION-$pool.sock", true))
		return err
	}
	if os.Geteuid() != 0 {
		return &failure{exNoPerm, "only root may write the configuration of PHP-FPM", "sudo mailctl setup fpm"}
	}
	lock, err := lockSetup(setupLock)
	if err != nil {
		return err
	}
	defer lock.Close()
	s := fpmSetup{Masters: fpmMasters("")}
	if len(s.Masters) == 0 {
		return &failure{exWrong, "there is no PHP-FPM on this host, or none where it is looked for", "mailctl setup fpm --print says what goes into each pool"}
	}
	fpmPlan(ctx, s.Masters)
	cutShort := wasCutShort(setupLock, "fpm")
	if !o.dryRun {
		end, err := begin(ctx, lock, "fpm")
		if err != nil {
			return err
		}
		defer end()
	}
	wanted := 0
	for _, m := range s.Masters {
		m.cutShort = cutShort
		for _, p := range m.Pools {
			if p.State == poolNew || p.State == poolSet {
				wanted++
			}
		}
	}
	if !o.dryRun && !o.remove && wanted > 0 {
		if err := makeFPMDir(ctx); err != nil {
			return err
		}
	}
	failed, left := false, 0
	for _, m := range s.Masters {
		var edits []*edit
		if m.Error == "" {
			var err error
			if edits, err = m.edits(o.remove); err == nil && !o.dryRun {
				err = m.change(ctx, edits, o)
			}
			if err != nil {
				m.Error = err.Error()
			}
		}
		failed = failed || m.Error != ""
		if m.Error != "" {
			left++
		}
		for _, e := range edits {
			if o.dryRun && !a.json {
				fmt.Fprint(a.stdout, e.diff())
			}
			s.Written = s.Written || !o.dryRun && m.Error == "" && e.changes()
		}
	}
	if o.remove && !o.dryRun && left == 0 {
		// Some pool of a panel may still have it from a template, and does not start without it.
		if used, _ := filepath.Glob(fpmDir + "/*.sock"); len(used) == 0 && !isFPMDirNamed("") {
			if err := os.Remove(fpmTmpfiles); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	if a.json {
		if err := a.printJSON(s); err != nil {
			return err
		}
	} else {
		a.tellFPM(s.Masters, o)
	}
	if failed {
		return &failure{exWrong, "", ""}
	}
	return nil
}

func (a *app) tellFPM(masters []*fpmMaster, o *setupOptions) {
	for _, m := range masters {
		if m.Error != "" {
			fmt.Fprintf(a.stderr, "mailctl: %s is left as it was: %s\n", m.Config, m.Error)
			continue
		}
		count := make(map[string]int)
		for _, p := range m.Pools {
			count[p.State]++
			if p.Why != "" {
				fmt.Fprintf(a.stderr, "mailctl: pool %s of %s: %s\n", p.Name, p.File, p.Why)
			}
		}
		would := ""
		if o.dryRun {
			would = " (nothing is written)"
		}
		fmt.Fprintf(a.stdout, "%s, PHP %s: of %d pools %d changed, %d as they should be, %d with a status of their own, %d left%s\n", m.Config, m.Version,
			len(m.Pools), count[poolNew]+count[poolRemoved], count[poolSet], count[poolOwn], count[poolLeft], would)
	}
}

// fpmBlock is what goes behind the section's name of a pool. FPM replaces $pool
// in each value: a copy of the file under another pool's name has another socket.
// The path cannot be guessed, since FPM answers it on the pool's main listener, too
// (fpm_status.c): a web server that passes on any SCRIPT_NAME, with one script for
// all of them, would show it to every visitor.
func fpmBlock(socket string, path bool) string {
	body := "pm.status_listen = " + socket + "\n"
	if path {
		body = "pm.status_path = " + fpmStatusPath + rand.Text() + "\n" + body
	}
	return block(";", "fpm", body)
}

func ourFPMLine(line string) bool {
	return strings.HasPrefix(line, "pm.status_listen = "+fpmDir+"/") || strings.HasPrefix(line, "pm.status_path = "+fpmStatusPath)
}

// edits are the files of the master's pools with our lines, or without them.
func (m *fpmMaster) edits(remove bool) ([]*edit, error) {
	byFile := make(map[string][]*fpmPool)
	var files []string
	for _, p := range m.Pools {
		if byFile[p.File] == nil {
			files = append(files, p.File)
		}
		byFile[p.File] = append(byFile[p.File], p)
	}
	var edits []*edit
	for _, file := range files {
		e, err := readEdit(file)
		if err != nil {
			return nil, err
		}
		if remove {
			rest, n, err := withoutBlocks(e.before, ";", "fpm", ourFPMLine)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			if e.after = rest; n == 0 {
				continue
			}
			for _, p := range byFile[file] {
				if p.State == poolSet {
					p.State, p.Why = poolRemoved, ""
				}
			}
		} else {
			pools := slices.Clone(byFile[file])
			slices.SortFunc(pools, func(a, b *fpmPool) int { return b.line - a.line })
			for _, p := range pools { // from the end, so that lines above keep their numbers
				if p.State == poolNew {
					if e.after, err = insertAfter(e.after, p.line, fpmBlock(p.listen, p.path)); err != nil {
						return nil, fmt.Errorf("%s: %w", file, err)
					}
				}
			}
		}
		if e.changes() {
			edits = append(edits, e)
		}
	}
	if remove {
		for _, p := range m.Pools {
			switch p.State {
			case poolNew:
				if _, err := os.Lstat(p.Socket); err == nil && m.cutShort {
					p.State = poolRemoved // from the file, and PHP-FPM does not know
					continue
				}
				p.State, p.Socket, p.Why = poolLeft, "", ""
			case poolLeft:
				p.Why = ""
			}
		}
	}
	return edits, nil
}

// insertAfter puts text behind the line of a section's name, counted from 1.
func insertAfter(content []byte, line int, text string) ([]byte, error) {
	list := strings.SplitAfter(string(content), "\n")
	if line > len(list) || !strings.HasPrefix(strings.TrimSpace(list[line-1]), "[") || !strings.HasSuffix(list[line-1], "\n") {
		return nil, fmt.Errorf("there is no section of a pool on line %d any more: try again", line)
	}
	return []byte(strings.Join(list[:line], "") + text + strings.Join(list[line:], "")), nil
}

// change writes the edits, between two tests of the configuration, and reloads.
// Whatever fails, all is as it was.
func (m *fpmMaster) change(ctx context.Context, edits []*edit, o *setupOptions) error {
	if m.cutShort {
		for _, p := range m.Pools {
			if err := sweep(p.File); err != nil {
				return err
			}
		}
	} else if len(edits) == 0 {
		return nil
	}
	if err := m.test(ctx); err != nil {
		return fmt.Errorf("it is wrong already: %w", err)
	}
	var err error
	for _, e := range edits {
		if err = e.apply(); err != nil {
			break
		}
	}
	if err == nil {
		err = m.test(ctx)
	}
	if err != nil {
		return errors.Join(err, undoAll(edits))
	}
	if m.PID == 0 || o.noReload {
		return nil
	}
	follows := func() bool { return m.follows() || !m.runs() }
	if err = m.reload(ctx); err == nil && (!await(ctx, follows) || !m.runs()) {
		err = errors.New("after the reload it does not listen as it should; its log says why")
	}
	if err != nil {
		return errors.Join(err, undoAll(edits), m.revive(context.WithoutCancel(ctx)))
	}
	for _, p := range m.Pools {
		if p.State == poolNew {
			if err := reachable(p.Socket); err != nil {
				p.Why = "mailquotad cannot reach its status: " + err.Error()
			}
		}
	}
	return nil
}

// follows tells whether the master has read its new configuration: it has made
// the sockets, or taken them away.
func (m *fpmMaster) follows() bool {
	for _, p := range m.Pools {
		info, err := os.Lstat(p.Socket)
		there := err == nil && info.Mode()&fs.ModeSocket != 0
		wanted := p.State == poolNew || p.State == poolSet && m.cutShort
		if wanted && !there || p.State == poolRemoved && there {
			return false
		}
	}
	return true
}

// makeFPMDir makes the directory of the sockets, now and at each boot.
func makeFPMDir(ctx context.Context) error {
	text, err := os.ReadFile(fpmTmpfilesPackage)
	if err != nil {
		return &failure{exWrong, err.Error(), "make install"}
	}
	e, err := readEdit(fpmTmpfiles)
	if err != nil {
		return err
	}
	e.after = text
	if err := e.apply(); err != nil {
		return err
	}
	if out, err := command(ctx, "systemd-tmpfiles", "--create", fpmTmpfiles); err != nil {
		return &failure{exWrong, "systemd-tmpfiles --create " + fpmTmpfiles + ": " + out, ""}
	}
	// Nothing works without the list, and setfacl(1) could not help: it is the file
	// system, or a systemd that was built without.
	if _, err := unix.Getxattr(fpmDir, "system.posix_acl_default", nil); err != nil {
		return &failure{exWrong, fpmDir + " has no default access control list: " + err.Error(), "is /run a tmpfs with POSIX ACLs?"}
	}
	return nil
}
