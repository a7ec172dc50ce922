package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"sendmail-wrapper/admin"
	"sendmail-wrapper/config"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
	"sendmail-wrapper/sqlschema"
	"sendmail-wrapper/wire"
)

// Exit statuses; they are part of the interface.
const (
	exOK          = 0
	exWrong       = 1  // something is wrong, or was found wrong
	exUsage       = 2  // wrong command line
	exRefused     = 3  // no such object, or a change that cannot be made
	exUnavailable = 69 // database or mailquotad not reached, or the schema is of another version
	exNoPerm      = 77 // not permitted
	exConfig      = 78 // the configuration is wrong
)

// onlyRoot is the hint for those who may not read the configuration, or are
// strangers to the database.
const onlyRoot = "only root may do this; mailctl usage shows your own limits"

// failure is an error with the exit status and hint that it was born with.
type failure struct {
	exit int
	text string
	hint string
}

func (f *failure) Error() string { return f.text }

// app is one call of mailctl.
type app struct {
	stdout, stderr io.Writer
	configPath     string
	json           bool
	why            string
	logDir         string // of the mail server's log

	started bool // the command line was right
	config  *config.Daemon
	pool    *pgxpool.Pool
	store   *quota.Store
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	out := &output{Writer: stdout}
	a := &app{stdout: out, stderr: stderr, logDir: "/var/log"}
	exit := a.run(ctx, args)
	if exit == exOK && out.err != nil {
		fmt.Fprintf(stderr, "mailctl: error: %s\n", asLine(out.err.Error()))
		return exWrong
	}
	return exit
}

// output remembers the first error of a write: a report that was cut short is not done.
type output struct {
	io.Writer
	err error
}

// Fd is for who asks whether it is a terminal.
func (o *output) Fd() uintptr {
	if f, ok := o.Writer.(*os.File); ok {
		return f.Fd()
	}
	return math.MaxUint
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.Writer.Write(b)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

func (a *app) run(ctx context.Context, args []string) int {
	defer a.close()
	root := a.root()
	root.SetArgs(args)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exOK
	}
	exit, hint := a.explain(err, command)
	if text := err.Error(); text != "" { // "": the command has said it all
		fmt.Fprintf(a.stderr, "mailctl: error: %s\n", asLine(text))
	}
	if hint != "" {
		fmt.Fprintf(a.stderr, "hint: %s\n", asLine(hint))
	}
	return exit
}

// explain gives an error its exit status and what to do next.
func (a *app) explain(err error, command *cobra.Command) (exit int, hint string) {
	var own *failure
	var change *admin.Error
	var missing *quota.NotFoundError
	var schema *sqlschema.VersionError
	var unreachable *wire.UnreachableError
	var connect *pgconn.ConnectError
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &own):
		return own.exit, own.hint
	case !a.started:
		return exUsage, command.CommandPath() + " --help"
	case errors.As(err, &missing):
		return exRefused, a.nearObject(missing.Object)
	case errors.As(err, &change):
		return exRefused, change.Hint
	case errors.As(err, &schema):
		return exUnavailable, ""
	case os.Geteuid() != 0 && (errors.Is(err, fs.ErrPermission) || errors.As(err, &pg) && strings.HasPrefix(pg.Code, "28")):
		return exNoPerm, onlyRoot
	case errors.As(err, &unreachable):
		return exUnavailable, "systemctl status mailquotad"
	case errors.As(err, &connect) && a.config.Private():
		if !privateCluster().Exists() {
			return exUnavailable, "mailctl database init"
		}
		return exUnavailable, "systemctl status mailquota-postgresql"
	case errors.As(err, &pg) && pg.Code == "22021": // character_not_in_repertoire
		return exUsage, "write it in UTF-8"
	case errors.As(err, &pg) && pg.Code == "57014": // statement_timeout
		return exWrong, "--since and --until ask for less"
	case errors.As(err, &connect):
		return exUnavailable, "is database in " + a.configPath + " right, and does that server run?"
	}
	return exWrong, ""
}

const long = `mailctl sets limits for outgoing mail, shows usage, and reports who sends.

Objects are written server, plan:NAME, subscription:NAME, domain:NAME, mailbox:ADDRESS, user:NAME.
Limits are messages/hour, messages/day, recipients/hour, recipients/day, recipients/message.

Exit status: 0 done; 1 something is wrong; 2 wrong command line; 3 no such object, or a change that
cannot be made; 69 database or mailquotad not reached, or of another version; 77 not permitted; 78 wrong configuration.`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use: "mailctl", Short: "limits and reports of outgoing mail", Long: long, Version: version,
		Example: "  mailctl usage\n  mailctl limit set plan:default messages/hour 100\n  mailctl report attempts --since 24h",
		Args:    subcommandOnly,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			// Cobra looks for options that must be there, and that exclude each other, only after this.
			err := cmp.Or(c.ValidateRequiredFlags(), c.ValidateFlagGroups(), checkWords(c))
			a.started = err == nil
			return err
		},
		SilenceErrors: true, SilenceUsage: true,
	}
	root.PersistentFlags().StringVar(&a.configPath, "config", config.Path, "configuration `file`")
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	mustBeDefined(root.MarkPersistentFlagFilename("config", "conf"))
	root.PersistentFlags().BoolVar(&a.json, "json", false, "write JSON for programs")
	for _, class := range a.classes() {
		root.AddCommand(class)
	}
	root.AddCommand(a.limit(), a.usage(), a.commandWhy(), a.check(), a.report(), a.trace(), a.notify(), a.status(), a.doctor(), a.setup(), a.hardenCommand(), a.databaseCommands())
	root.AddCommand(a.importCommand(), a.exportCommand(), a.suggestLimits())
	root.AddCommand(a.mode(), a.exception(), a.block(), a.whitelist(), a.sender(), a.audit())
	root.SetFlagErrorFunc(wrongFlag)
	offerNames(root)
	return root
}

// group is a command that has others below it.
func group(use, short, example string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Example: example, Args: subcommandOnly,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(commands...)
	return c
}

func (a *app) loadConfig() error {
	if a.config != nil {
		return nil
	}
	c, err := config.Load(a.configPath)
	if errors.Is(err, fs.ErrPermission) {
		return &failure{exNoPerm, err.Error(), onlyRoot}
	}
	if err != nil {
		return &failure{exConfig, err.Error(), "man 5 mailquotad.conf"}
	}
	a.config = &c
	return nil
}

// connect opens the database.
func (a *app) connect(ctx context.Context) error {
	if a.pool != nil {
		return nil
	}
	if err := a.loadConfig(); err != nil {
		return err
	}
	pool, err := sqlschema.Open(ctx, a.config.Database)
	if err != nil {
		return err
	}
	a.pool = pool
	a.store = quota.NewStore(pool, a.config.Host, a.config.FirstUserUID)
	return nil
}

func (a *app) close() {
	if a.pool != nil {
		a.pool.Close()
	}
}

func (a *app) admin(ctx context.Context) (*admin.Admin, error) {
	if err := a.connect(ctx); err != nil {
		return nil, err
	}
	return admin.New(a.pool, a.store, a.config.Host, a.why), nil
}

// object reads an OBJECT of the command line.
func object(s string) (quota.Object, error) {
	o, err := quota.ParseObject(s)
	if err != nil {
		return o, &failure{exUsage, err.Error(), nearForm(s)}
	}
	return o, nil
}

func (a *app) printJSON(v any) error { return encoder(a.stdout).Encode(v) }

// encoder writes one value a line, with <, > and & as they are.
func encoder(w io.Writer) *json.Encoder {
	e := json.NewEncoder(escaper{w})
	e.SetEscapeHTML(false)
	return e
}

// escaper writes JSON so that a terminal obeys nothing in it: package json escapes
// of the characters that are not printable only those of ASCII. Others are in
// strings only, where all may be escaped (RFC 8259 7).
type escaper struct{ w io.Writer }

func (e escaper) Write(p []byte) (int, error) {
	isSafe := func(r rune) bool { return r < 0x80 || unicode.IsPrint(r) }
	if bytes.IndexFunc(p, func(r rune) bool { return !isSafe(r) }) < 0 {
		return e.w.Write(p)
	}
	var b []byte
	for _, r := range string(p) {
		if isSafe(r) {
			b = utf8.AppendRune(b, r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			b = fmt.Appendf(b, `\u%04x`, unit)
		}
	}
	if _, err := e.w.Write(b); err != nil {
		return 0, err
	}
	return len(p), nil
}

// done tells people what was changed.
func (a *app) done(format string, args ...any) error {
	if a.json {
		return nil
	}
	_, err := fmt.Fprintln(a.stdout, report.Printable(fmt.Sprintf(format, args...)))
	return err
}
