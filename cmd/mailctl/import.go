package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/inventory"
	"sendmail-wrapper/origin"
	"sendmail-wrapper/report"
)

// shownChanges is how many lines of a difference people are shown.
const shownChanges = 200

// importer is one call of mailctl import.
type importer struct {
	*app
	stdin  io.Reader
	system *inventory.System
	dryRun bool
	from   uint32 // uids of passwd
	to     uint32
}

const importLong = `import reads what a panel, a web server or a table says of customers, and makes it so: it adds and changes, and
removes nothing. All of it is done, each change with its row of the audit, or, where something stands against
it, nothing. A second import of the same has nothing to do. --dry-run shows what would be done.

json and csv are your word: what they say replaces what was; what they do not mention stays. The other sources
are what the server says: they fill in what is not known, and never change a plan, a limit, a mode or a document
root that is set. A domain that belongs to another subscription is a conflict: nothing is moved unasked.

A FILE of - is standard input.`

func (a *app) importCommand() *cobra.Command {
	i := &importer{app: a, stdin: os.Stdin}
	csv := i.source("csv FILE", "a table with a line for each object", `csv reads a table (RFC 4180, UTF-8) whose first line names its columns, any of
plan, subscription, contact, user, uid, host, domain, document_root, mailbox, mode, messages/hour, messages/day,
recipients/hour, recipients/day, recipients/message. An empty cell says nothing. Limits and mode are of the mailbox
of a line, else its domain, else its user, else its subscription; on a line with a plan alone, of each of its
subscriptions. They can be unlimited and inherit.

  subscription,plan,contact,user,domain,document_root,mailbox,messages/hour
  acme,gold,post@acme.example,acme,,,,
  acme,,,,acme.example,/home/acme/www,,200
  acme,,,,,,info@acme.example,50`,
		"  mailctl import csv customers.csv --dry-run\n  mailctl import csv customers.csv --why 'move from the old server'", cobra.ExactArgs(1),
		func(args []string) (*inventory.Inventory, error) {
			return i.one(args[0], inventory.MaxFile, func(text []byte) (*inventory.Inventory, error) {
				return inventory.ReadCSV(args[0], text, i.system)
			})
		})
	passwd := i.source("passwd", "the users of a range of uids", `passwd makes a subscription of each user of /etc/passwd from --from to --to. Users of services are left out: who
cannot log in and have no home of a person, such as /nonexistent or one below /var/lib.`,
		"  mailctl import passwd --dry-run\n  mailctl import passwd --from 5000 --to 20000", cobra.NoArgs, i.passwd)
	passwd.Flags().Uint32Var(&i.from, "from", 0, "lowest `uid`; by default first-user-uid of mailquotad.conf")
	passwd.Flags().Uint32Var(&i.to, "to", 60000, "highest `uid`")
	c := group("import", "take in subscriptions, users, domains and mailboxes from elsewhere", "  mailctl import csv customers.csv --dry-run\n  mailctl import cpanel",
		csv, passwd,
		i.source("json FILE", "what mailctl export has written", "json reads what mailctl export has written, or another program in that format (docs/import.md).",
			"  mailctl import json backup.json --dry-run", cobra.ExactArgs(1), func(args []string) (*inventory.Inventory, error) {
				return i.one(args[0], inventory.MaxJSON, func(text []byte) (*inventory.Inventory, error) {
					return inventory.ReadJSON(args[0], text, i.system.Host)
				})
			}),
		i.source("apache [FILE|DIRECTORY]", "the virtual hosts of Apache", `apache reads Apache's configuration with all that it includes: ServerName and ServerAlias become domains, whose
subscription is the user that the virtual host runs as (AssignUserID, SuexecUserGroup, RUidGid), else the owner of its
document root.`, "  mailctl import apache --dry-run\n  mailctl import apache /etc/apache2/sites-enabled", cobra.MaximumNArgs(1), i.apache),
		i.source("fpm [FILE...]", "the pools of PHP-FPM", `fpm reads the configurations of PHP-FPM, of this host or those that are named: the user of a pool becomes a
subscription, and its name a domain if it looks like one.`, "  mailctl import fpm --dry-run\n  mailctl import fpm /etc/php/8.2/fpm/php-fpm.conf", cobra.ArbitraryArgs, i.fpm),
		i.source("cpanel [FILE...]", "cPanel's domains and accounts", `cpanel reads /etc/userdomains and /etc/trueuserdomains, or files of the same form: DOMAIN: USER.`,
			"  mailctl import cpanel --dry-run", cobra.ArbitraryArgs, func(args []string) (*inventory.Inventory, error) {
				return i.owners(args, "/etc/userdomains", "/etc/trueuserdomains")
			}),
		i.source("directadmin [FILE]", "DirectAdmin's domains and accounts", "directadmin reads /etc/virtual/domainowners, or a file of the same form: DOMAIN: USER.",
			"  mailctl import directadmin --dry-run", cobra.MaximumNArgs(1), func(args []string) (*inventory.Inventory, error) {
				return i.owners(args, "/etc/virtual/domainowners")
			}),
		i.source("plesk FILE", "Plesk's subscriptions, domains and mailboxes", `plesk reads what Plesk's database client writes of this query; Plesk has no export for it, and this one is of its
tables as they are publicly known. Plans are not read.

  plesk db -Ne "`+inventory.PleskQuery+`" >plesk.tsv`,
			"  mailctl import plesk plesk.tsv --dry-run", cobra.ExactArgs(1), func(args []string) (*inventory.Inventory, error) {
				return i.one(args[0], inventory.MaxFile, func(text []byte) (*inventory.Inventory, error) {
					return inventory.ReadPlesk(args[0], text, i.system)
				})
			}))
	c.Long = importLong
	return c
}

// source makes the command of one source. read gets its arguments once the system
// is known.
func (i *importer) source(use, short, long, example string, args cobra.PositionalArgs, read func(args []string) (*inventory.Inventory, error)) *cobra.Command {
	name, _, _ := strings.Cut(use, " ")
	c := &cobra.Command{Use: use, Short: short, Long: long, Example: example, Args: args, ValidArgsFunction: offerFiles,
		RunE: func(c *cobra.Command, args []string) error {
			ad, err := i.admin(c.Context())
			if err != nil {
				return err
			}
			if i.system, err = inventory.ThisHost(i.config.Host, i.config.FirstUserUID); err != nil {
				return err
			}
			inv, err := read(args)
			if err != nil {
				return err
			}
			for _, note := range inv.Notes[:min(len(inv.Notes), shownChanges)] {
				fmt.Fprintln(i.stderr, report.Printable(note))
			}
			if more := len(inv.Notes) - shownChanges; more > 0 {
				fmt.Fprintf(i.stderr, "left out: %d more\n", more)
			}
			return i.apply(c.Context(), ad, name, inv)
		}}
	c.Flags().BoolVar(&i.dryRun, "dry-run", false, "show what would be done")
	i.addWhy(c)
	return c
}

func offerFiles(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

// file reads a file of the command line.
func (i *importer) file(path string, most int64) ([]byte, error) {
	if path == "-" {
		return inventory.ReadAll("standard input", i.stdin, most)
	}
	return inventory.ReadFile(path, most)
}

func (i *importer) one(path string, most int64, read func([]byte) (*inventory.Inventory, error)) (*inventory.Inventory, error) {
	text, err := i.file(path, most)
	if err != nil {
		return nil, err
	}
	return read(text)
}

func (i *importer) passwd([]string) (*inventory.Inventory, error) {
	from := i.from
	if from == 0 {
		from = i.config.FirstUserUID
	}
	if from > i.to {
		return nil, &failure{exUsage, fmt.Sprintf("there is no uid from %d to %d", from, i.to), "mailctl import passwd --help"}
	}
	return i.one("/etc/passwd", inventory.MaxFile, func(text []byte) (*inventory.Inventory, error) {
		return inventory.ReadPasswd("/etc/passwd", text, i.system, from, i.to)
	})
}

// apacheConfigs is where distributions and panels have Apache's configuration.
var apacheConfigs = []string{"/etc/apache2/apache2.conf", "/etc/apache2/conf/httpd.conf", "/etc/httpd/conf/httpd.conf"} // Debian, cPanel, Red Hat

func (i *importer) apache(args []string) (*inventory.Inventory, error) {
	if len(args) == 1 {
		return inventory.ReadApache(args[0], i.system)
	}
	for _, path := range apacheConfigs {
		if _, err := os.Stat(path); err == nil {
			return inventory.ReadApache(path, i.system)
		}
	}
	return nil, &failure{exWrong, "there is no Apache on this host, or none where it is looked for", "mailctl import apache FILE"}
}

func (i *importer) fpm(args []string) (*inventory.Inventory, error) {
	if len(args) == 0 {
		for _, m := range fpmMasters("") {
			args = append(args, m.Config)
		}
	}
	if len(args) == 0 {
		return nil, &failure{exWrong, "there is no PHP-FPM on this host, or none where it is looked for", "mailctl import fpm FILE"}
	}
	var pools []origin.Pool
	for _, path := range args {
		more, err := origin.ReadPools(path)
		if err != nil {
			return nil, err
		}
		pools = append(pools, more...)
	}
	return inventory.ReadFPM(pools, i.system)
}

func (i *importer) owners(args []string, usual ...string) (*inventory.Inventory, error) {
	if len(args) == 0 {
		args = usual
	}
	var files []inventory.File
	for _, path := range args {
		text, err := i.file(path, inventory.MaxFile)
		if err != nil {
			return nil, err
		}
		files = append(files, inventory.File{Name: path, Text: text})
	}
	return inventory.ReadOwners(files, i.system)
}

func (i *importer) apply(ctx context.Context, ad *admin.Admin, source string, inv *inventory.Inventory) error {
	o := admin.Import{Source: source, DryRun: i.dryRun, Progress: i.progress()}
	diff, err := ad.Apply(ctx, inv, o)
	if diff == nil {
		return err
	}
	if i.json {
		if err := i.printJSON(map[string]any{"source": source, "done": err == nil && !i.dryRun, "added": diff.Added, "changed": diff.Changed,
			"kept": diff.Kept, "same": diff.Same, "conflicts": diff.Conflicts}); err != nil {
			return err
		}
		return err
	}
	i.showDifference(diff)
	if err != nil {
		return err
	}
	return i.showSums(diff)
}

func (i *importer) showDifference(diff *admin.Difference) {
	var rows [][]any
	for _, part := range []struct {
		word    string
		changes []admin.Change
	}{{"add", diff.Added}, {"change", diff.Changed}, {"keep", diff.Kept}} {
		for _, c := range part.changes[:min(len(part.changes), shownChanges)] {
			rows = append(rows, []any{part.word, c.Object, c.Before, c.After})
		}
		if more := len(part.changes) - shownChanges; more > 0 {
			rows = append(rows, []any{part.word, fmt.Sprintf("and %d more", more), "", ""})
		}
	}
	if len(rows) > 0 {
		report.Table(i.stdout, []string{"", "object", "is", "becomes, or the source says"}, rows)
	}
	for _, c := range diff.Conflicts[:min(len(diff.Conflicts), shownChanges)] {
		where := ""
		if c.Line > 0 {
			where = fmt.Sprintf("line %d: ", c.Line)
		}
		fmt.Fprintf(i.stderr, "mailctl: conflict: %s%s: %s\n", where, report.Printable(c.Object), report.Printable(c.Text))
	}
	if more := len(diff.Conflicts) - shownChanges; more > 0 {
		fmt.Fprintf(i.stderr, "mailctl: conflict: and %d more: --json shows them all\n", more)
	}
}

func (i *importer) showSums(diff *admin.Difference) error {
	if len(diff.Added)+len(diff.Changed) == 0 {
		return i.done("nothing to do: %d are as they should be", diff.Same+len(diff.Kept))
	}
	sums := fmt.Sprintf("%d added, %d changed, %d as they were", len(diff.Added), len(diff.Changed), diff.Same)
	if i.dryRun {
		return i.done("dry run, nothing was changed: would be %s", sums)
	}
	return i.done("%s", sums)
}

// progress shows on a terminal how far an import is.
func (i *importer) progress() func(done, total int) {
	f, isFile := i.stderr.(*os.File)
	if !isFile {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	return func(done, total int) {
		fmt.Fprintf(f, "\r%d of %d", done, total)
		if done == total {
			fmt.Fprint(f, "\r\x1b[K")
		}
	}
}
