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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"sendmail-wrapper/notify"
	"sendmail-wrapper/quota"
	"sendmail-wrapper/report"
	"sendmail-wrapper/sqlschema"
	"sendmail-wrapper/wrapper"
)

func (a *app) notify() *cobra.Command {
	limit := peopleRows
	list := &cobra.Command{
		Use: "list", Short: "who was told what, and what waits", Args: cobra.NoArgs,
		Example: "  mailctl notify list\n  mailctl notify list --limit 1000 --json",
		RunE: func(c *cobra.Command, _ []string) error {
			if limit < 1 {
				return &failure{exUsage, fmt.Sprintf("--limit %d: must be a number above 0", limit), ""}
			}
			return a.listNotices(c.Context(), limit)
		},
	}
	list.Flags().IntVar(&limit, "limit", limit, "only the newest `rows`")
	channel := ""
	test := &cobra.Command{
		Use: "test", Short: "send a test by each channel, and say what became of it", Args: cobra.NoArgs,
		Long: "test tells each address of notify-admin, the web hook and the program of an event that has not happened, as the user of\n" +
			"the service, and looks whether the templates are right. What customers would get goes to notify-admin. Its exit status is 1\n" +
			"if anything does not work.",
		Example: "  mailctl notify test\n  mailctl notify test --channel webhook --json",
		RunE: func(c *cobra.Command, _ []string) error {
			if channel != "" && !slices.Contains(notify.Channels, channel) {
				return &failure{exUsage, fmt.Sprintf("--channel %s: must be one of %s", channel, strings.Join(notify.Channels, ", ")), ""}
			}
			return a.testNotifications(c.Context(), channel)
		},
	}
	test.Flags().StringVar(&channel, "channel", "", "only this `channel`: "+strings.Join(notify.Channels, ", "))
	offerFor(test, "channel", notify.Channels...)
	return group("notify", "tell administrators and customers of refusals", test.Example+"\n"+list.Example, list, test,
		&cobra.Command{
			Use: "templates", Short: "write the built-in texts to where they can be changed", Args: cobra.NoArgs,
			Long: "templates writes the texts of the mails into the directory that notify-templates names. A file that is there is left as\n" +
				"it is; to have the built-in text again, remove it.",
			Example: "  mailctl notify templates",
			RunE:    func(*cobra.Command, []string) error { return a.writeTemplates() },
		},
		&cobra.Command{
			Use: "run", Short: "deliver notifications in the foreground, as the service does", Args: cobra.NoArgs,
			Long: "run makes notifications of what the daemons of all hosts record, and delivers them. It may run on every host: one of them\n" +
				"works, the others wait to take its place. It reads the configuration when it starts.",
			Example: "  systemctl restart mailquota-notify",
			RunE:    func(c *cobra.Command, _ []string) error { return a.runNotify(c.Context()) },
		})
}

// deliverer is one with all but a log. It does not connect to the database yet.
func (a *app) deliverer() (*notify.Deliverer, error) {
	if err := a.loadConfig(); err != nil {
		return nil, err
	}
	pool, err := sqlschema.Pool(a.config.Database)
	if err != nil {
		return nil, err
	}
	a.pool = pool
	a.store = quota.NewStore(pool, a.config.Host, a.config.FirstUserUID)
	return &notify.Deliverer{Pool: pool, Store: a.store, Config: a.config, Sendmail: a.realSendmail,
		Check: func(ctx context.Context) error { return sqlschema.Check(ctx, pool) }}, nil
}

// realSendmail is the program that mail is handed to without being counted, since
// by the wrapper notifications of a full limit would be refused, and the sender
// that it is to be given.
func (a *app) realSendmail() (path, sender string, err error) {
	conf, _ := wrapper.LoadConfig(a.wrapperConf()) // mailctl status says what is wrong in it
	real := conf.RealSendmail
	if _, err := os.Stat(real); errors.Is(err, fs.ErrNotExist) {
		real = "/usr/sbin/sendmail" // the wrapper is not installed
	}
	if isWrapper(real) {
		return "", "", &failure{exWrong, real + " is sendmail-wrapper, and not the real sendmail", "see real-sendmail in wrapper.conf(5)"}
	}
	sender = "<>"
	if conf.Profile.Name == "dma" { // it would take that for an address
		sender = a.config.NotifyFrom
	}
	return real, sender, nil // where there is none, each mail says so
}

func (a *app) runNotify(ctx context.Context) error {
	d, err := a.deliverer()
	if err != nil {
		return err
	}
	d.Log = zerolog.New(a.stderr).With().Timestamp().Logger()
	if a.config.LogFormat == "console" {
		d.Log = d.Log.Output(zerolog.ConsoleWriter{Out: a.stderr, TimeFormat: time.DateTime})
	}
	// What else is wrong may mend itself.
	if err := d.Check(ctx); err != nil {
		if exit, _ := a.explain(err, nil); exit == exNoPerm {
			return err
		}
	}
	d.Run(ctx)
	return nil
}

func (a *app) testNotifications(ctx context.Context, channel string) error {
	if again, err := asService(ctx, a); again {
		return err
	}
	d, err := a.deliverer()
	if err != nil {
		return err
	}
	if err := d.Check(ctx); err != nil { // whoever may not enter the database sends nothing
		return err
	}
	d.Log = zerolog.Nop() // the results say it
	results, err := d.Try(ctx, channel)
	if err != nil {
		return &failure{exWrong, err.Error(), "set notify-admin, notify-webhook or notify-hook in " + a.configPath}
	}
	ok := true
	for _, r := range results {
		ok = ok && r.OK
	}
	if a.json {
		err = a.printJSON(results)
	} else {
		var rows [][]any
		for _, r := range results {
			state := "taken"
			if !r.OK {
				state = "failed"
			}
			rows = append(rows, []any{r.Channel, r.Target, state, r.Error})
		}
		report.Table(a.stdout, []string{"channel", "target", "result", "why"}, rows)
	}
	if err != nil || ok {
		return err
	}
	return &failure{exWrong, "", ""}
}

// asService runs this command again as the user of the service, if it is root who
// asks: what root can read, and whom root can send mail as, says nothing of what
// the service can.
func asService(ctx context.Context, a *app) (again bool, err error) {
	who, err := credential(daemonUser)
	if os.Geteuid() != 0 || err != nil {
		return false, nil
	}
	who.Groups = serviceGroups(ctx)
	self, err := os.Executable()
	if err != nil {
		return true, err
	}
	cmd := exec.CommandContext(ctx, self, os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = a.stdout, a.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	err = cmd.Run()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		return true, &failure{max(failed.ExitCode(), 1), "", ""}
	}
	return true, err
}

// serviceGroups are the groups that the service has beside its own, as by mailctl harden.
func serviceGroups(ctx context.Context) (gids []uint32) {
	names, err := command(ctx, "systemctl", "show", "--property=SupplementaryGroups", "--value", "mailquota-notify.service")
	if err != nil {
		return nil // no systemd
	}
	for name := range strings.FieldsSeq(names) {
		if g, err := user.LookupGroup(name); err == nil {
			gid, _ := strconv.ParseUint(g.Gid, 10, 32) // package user has read it as one
			gids = append(gids, uint32(gid))
		}
	}
	return gids
}

func (a *app) listNotices(ctx context.Context, limit int) error {
	if err := a.connect(ctx); err != nil {
		return err
	}
	list, err := notify.List(ctx, a.pool, a.config.Host, limit)
	if err != nil {
		return err
	}
	if a.json {
		if list == nil {
			list = []notify.Notice{}
		}
		return a.printJSON(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(a.stderr, "nobody was told anything yet")
		return nil
	}
	var rows [][]any
	for _, n := range list {
		what := strings.TrimSpace(string(n.Kind) + " " + n.Object + " " + n.Limit)
		state := string(n.State)
		if n.NextTry != nil && n.Tries > 0 {
			state = "again at " + n.NextTry.Local().Format("2006-01-02 15:04:05")
		}
		rows = append(rows, []any{report.Time(n.Time), what, n.Channel, n.Target, state, n.Error})
	}
	report.Table(a.stdout, []string{"time", "event", "channel", "target", "state", "why"}, rows)
	return nil
}

func (a *app) writeTemplates() error {
	if err := a.loadConfig(); err != nil {
		return err
	}
	dir := a.config.NotifyTemplates
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// The service reads them, whatever the umask here.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for _, name := range notify.Templates {
		path := filepath.Join(dir, name)
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, fs.ErrExist) {
			if err := a.done("%s is there already, and left as it is", path); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		_, err = f.Write(notify.BuiltIn(name))
		if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
			return err
		}
		if err := a.done("%s is written", path); err != nil {
			return err
		}
	}
	return nil
}

// notifyState says whether those who are to be told are.
func (a *app) notifyState(ctx context.Context) (problems, hints []string) {
	c := a.config
	if len(c.NotifyAdmin) == 0 && c.NotifyWebhook == "" && c.NotifyHook == "" && !c.NotifyCustomers {
		return nil, nil
	}
	h, err := notify.CheckHealth(ctx, a.pool)
	if err != nil {
		return []string{err.Error()}, nil
	}
	if h.GivenUp > 0 {
		problems = append(problems, fmt.Sprintf("notifications of the last three days that could not be delivered: %d: mailctl notify list", h.GivenUp))
	}
	if h.Late > 0 {
		problems = append(problems, fmt.Sprintf("notifications that have been waiting for more than an hour: %d: mailctl notify list", h.Late))
	}
	if !h.Runs {
		hint := "nobody is told of refusals: systemctl enable --now mailquota-notify"
		if _, err := command(ctx, "systemctl", "is-active", "mailquota-notify"); err == nil {
			hint = "mailquota-notify runs, and is not connected to the database: journalctl -u mailquota-notify"
		}
		hints = append(hints, hint)
	}
	return problems, hints
}
