package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sendmail-wrapper/config"
	"sendmail-wrapper/policy"
)

const (
	// postfixDir is where files of Postfix stay when it is removed.
	postfixDir = "/etc/postfix"
	// postfixChecks is the file that is made where header_checks names none.
	postfixChecks = "/etc/postfix/mailquota_header_checks"
	// policyAddress is where mailquotad is asked, unless policy-listen says so already.
	policyAddress = "127.0.0.1:10031"
	// postfixMark is behind the lines that are put into mailquotad.conf.
	postfixMark = " # mailctl setup postfix"
)

// postfixOptions is the command line; nil and "" leave a choice as it was made before.
type postfixOptions struct {
	dryRun, remove, print, yes bool
	forwards                   *bool
	whenDown                   string
}

func (a *app) postfixCommand() *cobra.Command {
	var o postfixOptions
	var forwards bool
	c := &cobra.Command{
		Use: "postfix", Short: "let Postfix ask mailquotad about mail by SMTP, and log the trace header", Args: cobra.NoArgs,
		Long: "postfix shows what it would change in main.cf, master.cf, header_checks and mailquotad.conf, asks, and changes it:\n" +
			"each smtpd asks mailquotad at RCPT and at the end of the message (docs/smtp.md), and the header of trace-header is logged\n" +
			"with its queue id, for mailctl trace. With --forwards, what is sent on by aliases, .forward, catch-all addresses and lists\n" +
			"is counted, too, where it leaves. Whatever fails, all is as it was. Run it again after you changed main.cf or master.cf, or\n" +
			"when mailctl status says so.",
		Example: "  mailctl setup postfix --dry-run\n  mailctl setup postfix\n  mailctl setup postfix --forwards --when-down accept --yes\n" +
			"  mailctl setup postfix --remove",
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("forwards") {
				o.forwards = &forwards
			}
			return a.setupPostfix(c.Context(), &o)
		},
	}
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "show what would be changed, and change nothing")
	c.Flags().BoolVar(&o.remove, "remove", false, "take out what was put there")
	c.Flags().BoolVar(&o.print, "print", false, "print the line for header_checks, and change nothing")
	c.Flags().BoolVar(&forwards, "forwards", false, "count what is sent on, too; =false takes that out again")
	c.Flags().StringVar(&o.whenDown, "when-down", "", "what becomes of mail while mailquotad does not answer: `defer` (it is sent again later) or accept")
	addYes(c, &o.yes)
	c.MarkFlagsMutuallyExclusive("print", "remove")
	c.MarkFlagsMutuallyExclusive("remove", "forwards")
	c.MarkFlagsMutuallyExclusive("remove", "when-down")
	return c
}

// postfixSetup is the body of setup postfix --json.
type postfixSetup struct {
	Line    string   `json:"line"`
	Map     string   `json:"map"`   // of header_checks: "regexp:/etc/postfix/header_checks"
	Files   []string `json:"files"` // that were changed, or would be
	Units   bool     `json:"units"` // a socket of systemd was opened or closed, or would be
	Notes   []string `json:"notes"` // what is left to the administrator
	Written bool     `json:"written"`
}

// headerCheck is the line for a header with a message's id. It takes nothing but
// an id, since a stranger's mail may have such a header, too.
func headerCheck(field string) string {
	hex := func(n int) string { return fmt.Sprintf("[0-9a-f]{%d}", n) }
	return fmt.Sprintf("/^%s: %s-%s-%[3]s-%[3]s-%[4]s$/ INFO\n", regexp.QuoteMeta(field), hex(8), hex(4), hex(12))
}

func (a *app) setupPostfix(ctx context.Context, o *postfixOptions) error {
	if o.whenDown != "" && o.whenDown != whenDownDefer && o.whenDown != whenDownAccept {
		return &failure{exUsage, fmt.Sprintf("--when-down %q: must be defer or accept", o.whenDown), ""}
	}
	if err := a.loadConfig(); err != nil {
		return err
	}
	if o.print {
		return a.printHeaderCheck(ctx)
	}
	if os.Geteuid() != 0 {
		return &failure{exNoPerm, "only root may write the configuration of Postfix", "sudo mailctl setup postfix"}
	}
	lock, err := lockSetup(setupLock)
	if err != nil {
		return err
	}
	defer lock.Close()
	p, err := planPostfix(ctx, a.config, a.configPath, o)
	if err != nil {
		return err
	}
	s := postfixSetup{Map: p.checksMap, Files: []string{}, Notes: p.notes}
	if a.config.TraceHeader != "" {
		s.Line = headerCheck(a.config.TraceHeader)
	}
	for _, e := range p.edits() {
		if !e.changes() {
			continue
		}
		s.Files = append(s.Files, e.path)
		if !a.json {
			fmt.Fprint(a.stdout, e.diff())
		}
	}
	if !a.json {
		for _, note := range p.notes {
			fmt.Fprintln(a.stderr, "note: "+note)
		}
	}
	units := p.unitsWrong(ctx)
	s.Units = units
	p.cutShort = wasCutShort(setupLock, "postfix")
	if (len(s.Files) > 0 || units || p.cutShort) && !o.dryRun {
		if !o.remove {
			if err := a.confirm(o.yes, "to write this and reload Postfix"); err != nil {
				return err
			}
		}
		end, err := begin(ctx, lock, "postfix")
		if err != nil {
			return err
		}
		defer end()
		if err := p.change(ctx); err != nil {
			return &failure{exWrong, "Postfix is left as it was: " + err.Error(), ""}
		}
		s.Written = len(s.Files) > 0 || units
	}
	switch {
	case a.json:
		return a.printJSON(s)
	case len(s.Files) == 0 && !units && o.remove:
		return a.done("there is nothing of mailctl setup postfix")
	case len(s.Files) == 0 && !units:
		return a.done("Postfix is set up as it should be")
	case o.dryRun && len(s.Files) == 0:
		return a.done("nothing is written; a socket of systemd would be opened or closed")
	case o.dryRun:
		return a.done("nothing is written; these files would change: %s", strings.Join(s.Files, ", "))
	case o.remove:
		return a.done("taken out: %s", strings.Join(s.Files, ", "))
	}
	return a.done("Postfix asks mailquotad at %s", p.address)
}

func (a *app) printHeaderCheck(ctx context.Context) error {
	field := a.config.TraceHeader
	if field == "" {
		return &failure{exWrong, "trace-header is off in " + a.configPath, "man 5 mailquotad.conf"}
	}
	now := ""
	if out, err := postconf(ctx, "header_checks"); err == nil {
		now = out[0]
	}
	s := postfixSetup{Line: headerCheck(field), Map: now, Files: []string{}, Notes: []string{}}
	if a.json {
		return a.printJSON(s)
	}
	where := "header_checks is not set: put this line into " + postfixChecks + ", and type postconf header_checks=regexp:" + postfixChecks
	if now != "" {
		where = "header_checks is " + now + ": put this line at the end of that file"
	}
	fmt.Fprintf(a.stdout, "%s", s.Line)
	fmt.Fprintf(a.stderr, "%s; then postfix reload. Or: mailctl setup postfix\n", where)
	return nil
}

// postfixPlan is what becomes of each file.
type postfixPlan struct {
	main, master, checks, daemon *edit
	socket, service              *edit // of mailquota-transport, where its units do not fit

	remove     bool
	gone       bool   // there is no Postfix, and files of it: they are all that is changed of it
	cutShort   bool   // an earlier run has perhaps written, and reloaded nothing
	place      int    // of our block in main.after before that has it
	address    string // of mailquotad
	listens    bool   // policy-listen is its administrator's
	checksMap  string // what header_checks will be, "" where it is not set
	traceLine  string // of header_checks; "" none
	traceField string
	transport  string // ours of default_transport, "" none
	// hadTransport: default_transport is ours already.
	hadTransport bool
	queue        string // Postfix's queue_directory
	notes        []string
}

func (p *postfixPlan) edits() []*edit {
	return []*edit{p.daemon, p.socket, p.service, p.checks, p.master, p.main}
}

// planPostfix reads what there is, and says what is to be written. It has no effect.
func planPostfix(ctx context.Context, c *config.Daemon, configPath string, o *postfixOptions) (*postfixPlan, error) {
	out, err := postconf(ctx, "config_directory", "queue_directory")
	if o.remove && errors.Is(err, exec.ErrNotFound) {
		return planPostfixIn(ctx, postfixDir, c.PostfixQueue, true, c, configPath, o)
	}
	if err != nil {
		hint := "postfix check"
		if errors.Is(err, exec.ErrNotFound) {
			hint = "is there a Postfix?"
		}
		return nil, &failure{exWrong, err.Error(), hint}
	}
	return planPostfixIn(ctx, out[0], out[1], false, c, configPath, o)
}

// planPostfixIn is planPostfix, with main.cf in dir.
func planPostfixIn(ctx context.Context, dir, queue string, gone bool, c *config.Daemon, configPath string, o *postfixOptions) (p *postfixPlan, err error) {
	p = &postfixPlan{remove: o.remove, gone: gone, queue: queue, notes: []string{}}
	for _, f := range []struct {
		to   **edit
		path string
	}{{&p.main, filepath.Join(dir, "main.cf")}, {&p.master, filepath.Join(dir, "master.cf")}, {&p.daemon, configPath},
		{&p.socket, socketDropIn}, {&p.service, serviceDropIn}} {
		if *f.to, err = readEdit(f.path); err != nil {
			return nil, err
		}
	}
	if !gone && (p.main.before == nil || p.master.before == nil) {
		return nil, &failure{exWrong, "there is no " + p.main.path + " or " + p.master.path, "is there a Postfix?"}
	}
	p.daemon.group, p.daemon.mode = daemonUser, 0o640
	// What was chosen before holds until something else is.
	whenDown := o.whenDown
	if q, ok := setting(p.main.before, mailquotaPolicy); ok && whenDown == "" {
		whenDown = whenDownOf(q.value)
	}
	t, _ := setting(p.main.before, "default_transport")
	p.hadTransport = isOurTransport(t.value)
	forwards := p.hadTransport
	if o.forwards != nil {
		forwards = *o.forwards
	}
	if err := p.planChecks(c.TraceHeader, filepath.Join(dir, filepath.Base(postfixChecks))); err != nil {
		return nil, err
	}
	p.master.after = masterWithout(p.master.before)
	p.planDaemon(c)
	p.socket.after, p.service.after = nil, nil
	if p.hadTransport && (o.remove || !forwards) {
		for _, s := range otherTransports(p.main.before) {
			p.notes = append(p.notes, s.name+" = "+s.value+": what it sends to a transport mailquota-… waits in the queue from now on")
		}
	}
	if o.remove {
		return p, nil
	}
	if p.listens && !isActive(ctx, policyUnit) {
		p.notes = append(p.notes, fmt.Sprintf("policy-listen = %q is not held by systemd: while mailquotad restarts, any user of this host can take that port and answer Postfix in its place, uncounted: take the line out and run this again, or give %s that port", p.address, policyUnit))
	}
	w := mainSettings{question: policyQuestion(p.address, whenDown)}
	if s, _ := setting(p.main.after, "header_checks"); p.traceLine != "" && s.value != p.checksMap {
		w.checks = p.checksMap
	}
	if forwards {
		if w.transport, err = p.planTransport(); err != nil {
			return nil, err
		}
		if names := expandedBeforeFilter(p.main.before, p.master.before); names != nil {
			p.notes = append(p.notes, fmt.Sprintf("content_filter of %s in master.cf gets mail with its aliases expanded: what other hosts sent to them is not counted when it is sent on, unless receive_override_options has no_address_mappings there (docs/smtp.md)", strings.Join(names, ", ")))
		}
	}
	for _, name := range trustsXCLIENT(p.main.before, p.master.before) {
		p.notes = append(p.notes, fmt.Sprintf("service %s of master.cf believes programs of this host which mailbox they are of (XCLIENT): let only Dovecot connect to it (docs/smtp.md)", name))
	}
	p.main.after = mainWith(p.main.after, p.place, w)
	var left []string
	p.master.after, left = masterWith(p.master.after)
	for _, name := range left {
		p.notes = append(p.notes, fmt.Sprintf("service %s of master.cf does not ask, as mail comes back there from a filter: let only the filter connect to it (docs/smtp.md)", name))
	}
	return p, nil
}

// planChecks plans the file of header_checks, and takes ours out of main.cf.
func (p *postfixPlan) planChecks(field, own string) (err error) {
	now := ""
	if s, ok := setting(p.main.before, "header_checks"); ok {
		now = s.value
	}
	file, ok := checksFile(now)
	if now == "" {
		file, ok = own, true
	}
	p.checksMap, p.traceField = now, field
	if !ok {
		p.checks = &edit{path: own}
		p.main.after, p.place = withoutOurs(p.main.before, own, false)
		if field != "" && !p.remove {
			p.notes = append(p.notes, "header_checks = "+now+" is not one regexp or pcre file: put the line where it belongs, mailctl setup postfix --print")
		}
		return nil
	}
	if p.checks, err = readEdit(file); err != nil {
		return err
	}
	ours := func(line string) bool { return strings.HasSuffix(line, "$/ INFO") }
	rest, _, err := withoutBlocks(p.checks.before, "#", "postfix", ours)
	if err != nil {
		return &failure{exWrong, file + ": " + err.Error(), ""}
	}
	made := file == own && len(rest) == 0 // by us, and for our line alone
	p.main.after, p.place = withoutOurs(p.main.before, own, made)
	switch {
	case !p.remove && field != "":
		// At the end: an earlier line that takes the header wins, as it did before.
		if len(rest) > 0 && rest[len(rest)-1] != '\n' {
			return &failure{exWrong, file + " has no end of its last line", "add it"}
		}
		p.traceLine = headerCheck(field)
		p.checks.after = append(bytes.Clone(rest), block("#", "postfix", p.traceLine)...)
		if now == "" {
			p.checksMap = "regexp:" + own
		}
	case made:
		p.checks.after, p.checksMap = nil, ""
	case p.checks.before != nil:
		p.checks.after = rest
	}
	return nil
}

// planDaemon plans mailquotad.conf. What its administrator has set there stays.
func (p *postfixPlan) planDaemon(c *config.Daemon) {
	text := p.daemon.before
	for _, s := range []struct{ key, now, want string }{
		{"policy-listen", c.PolicyListen, policyAddress},
		{"postfix-queue", c.PostfixQueue, p.queue},
	} {
		ours := isOurs(text, s.key)
		switch {
		case p.remove && ours:
			text = setLine(text, s.key, "")
		case p.remove:
		case s.key == "policy-listen" && s.now == "", s.key == "postfix-queue" && s.now != s.want && (ours || s.now == config.Default().PostfixQueue):
			text = setLine(text, s.key, fmt.Sprintf("%s = %q%s\n", s.key, s.want, postfixMark))
		}
	}
	if p.daemon.after = text; len(p.daemon.before) > 0 && len(text) == 0 { // it was made for these lines
		p.daemon.after = nil
	}
	p.listens = c.PolicyListen != "" && !isOurs(p.daemon.before, "policy-listen")
	p.address = cmp.Or(c.PolicyListen, policyAddress)
}

// isOurs tells whether a line of mailquotad.conf is one that we wrote.
func isOurs(text []byte, key string) bool {
	start, end, given := confLine(text, key)
	return given && bytes.HasSuffix(bytes.TrimSpace(text[start:end]), []byte(postfixMark))
}

// planTransport is the transport in front of which ours is put; mailquota-transport
// gets a socket for it, if it is another one than smtp.
func (p *postfixPlan) planTransport() (string, error) {
	transport := "smtp" // postconf(5)
	if s, ok := setting(p.main.after, "default_transport"); ok {
		transport = s.value
	}
	name, _, _ := strings.Cut(transport, ":")
	there := func(s masterService) bool { return s.name == name && (s.kind == "unix" || s.kind == "fifo") }
	if !slices.ContainsFunc(masterServices(p.master.before), there) {
		return "", &failure{exWrong, fmt.Sprintf("default_transport = %s is no service of master.cf: nothing can be put in front of it", transport), "mailctl setup postfix without --forwards"}
	}
	p.transport = ourTransport(name)
	p.planUnits(name)
	for _, s := range otherTransports(p.main.before) {
		p.notes = append(p.notes, fmt.Sprintf("%s = %s stays: what goes by it past default_transport is not counted when it is sent on (docs/smtp.md)", s.name, s.value))
	}
	return transport, nil
}

// otherTransports are settings by which mail goes past default_transport.
func otherTransports(main []byte) (all []parameter) {
	for _, name := range []string{"transport_maps", "sender_dependent_default_transport_maps", "relay_transport"} {
		if s, _ := setting(main, name); s.value != "" {
			all = append(all, s)
		}
	}
	return all
}

// change writes the files so that Postfix never asks where nobody answers: what it asks
// comes first and goes last. Whatever fails, all is as it was.
func (p *postfixPlan) change(ctx context.Context) error {
	if out, err := p.command(ctx, "postfix", "check"); err != nil {
		return fmt.Errorf("its configuration is wrong already: postfix check: %s", out)
	}
	steps := []func(context.Context) error{p.changeDaemon, p.changeTransport, p.changePostfix}
	switch {
	case p.remove:
		slices.Reverse(steps)
	case p.transport == "":
		steps = []func(context.Context) error{p.changeDaemon, p.changePostfix, p.changeTransport}
	}
	for i, step := range steps {
		err := step(ctx)
		if err != nil && p.remove && i == len(steps)-1 { // a question to a mailquotad in trouble would keep all mail waiting
			return fmt.Errorf("Postfix asks mailquotad no more, but: %w", err)
		}
		if err != nil {
			return p.undo(context.WithoutCancel(ctx), err)
		}
	}
	return nil
}

// command runs a command, unless it is of a Postfix that is gone.
func (p *postfixPlan) command(ctx context.Context, name string, args ...string) (out string, err error) {
	if p.gone && name == "postfix" {
		return "", nil
	}
	return command(ctx, name, args...)
}

func (p *postfixPlan) undo(ctx context.Context, err error) error {
	units := []*edit{p.socket, p.service}
	all := []error{err, undoAll(slices.DeleteFunc(p.edits(), func(e *edit) bool { return slices.Contains(units, e) }))}
	run := func(name string, args ...string) {
		if out, err := p.command(ctx, name, args...); err != nil && !strings.Contains(out, "not running") {
			all = append(all, fmt.Errorf("%s %s: %s", name, strings.Join(args, " "), out))
		}
	}
	run("postfix", "reload")
	if p.unitsChange() {
		run("systemctl", "stop", transportService, transportSocket) // as changeTransport
		all = append(all, undoAll(units))
		for _, e := range units {
			_ = os.Remove(filepath.Dir(e.path)) // unless there is a file in it
		}
		run("systemctl", "daemon-reload")
	}
	switch {
	case p.hadTransport:
		run("systemctl", "enable", "--now", transportSocket)
	case p.transport != "":
		run("systemctl", "disable", "--now", transportSocket, transportService)
	}
	if p.daemon.changes() {
		all = append(all, p.restartDaemon(ctx, isOurs(p.daemon.before, "policy-listen")))
	}
	return errors.Join(all...)
}

func (p *postfixPlan) changeDaemon(ctx context.Context) error {
	if !p.remove && !p.listens && !isActive(ctx, policyUnit) && !isOurs(p.daemon.before, "policy-listen") {
		l, err := net.Listen("tcp", p.address)
		if err != nil {
			return fmt.Errorf("policy-listen = %q, by default, is taken: set another: %w", p.address, err)
		}
		l.Close()
	}
	if err := p.daemon.apply(); err != nil {
		return err
	}
	if p.daemon.changes() || p.policyWrong(ctx) || p.cutShort {
		if err := p.restartDaemon(ctx, !p.remove); err != nil {
			return err
		}
	}
	if p.remove {
		return nil
	}
	var err error
	if !await(ctx, func() bool { err = askPolicy(ctx, p.address); return err == nil }) {
		return err
	}
	return nil
}

func (p *postfixPlan) changePostfix(ctx context.Context) error {
	// A map is there before, and gone after, main.cf names it.
	first, last := p.checks, p.main
	if p.checks.after == nil {
		first, last = p.main, p.checks
	}
	for _, e := range []*edit{first, p.master, last} {
		if err := e.apply(); err != nil {
			return err
		}
	}
	if p.gone {
		return nil
	}
	if p.traceLine != "" {
		header := p.traceField + ": 01234567-89ab-7cde-8f01-23456789abcd"
		// An answer of any kind: an earlier line of the administrator's may take it.
		if out, err := command(ctx, "postmap", "-q", header, p.checksMap); err != nil {
			return fmt.Errorf("postmap -q %q %s: %s", header, p.checksMap, out)
		}
	}
	if out, err := command(ctx, "postfix", "check"); err != nil {
		return fmt.Errorf("postfix check: %s", out)
	}
	for _, name := range policyRestrictions {
		out, err := postconf(ctx, name)
		if err != nil {
			return err
		}
		if !p.remove && !strings.HasPrefix(out[0], "check_policy_service { inet:"+p.address) {
			return fmt.Errorf("%s = %s", name, out[0])
		}
	}
	if out, err := command(ctx, "postfix", "reload"); err != nil && !strings.Contains(out, "not running") {
		return fmt.Errorf("postfix reload: %s", out)
	}
	return nil
}

// postconf asks for values of main.cf, with what they refer to. It warns of settings
// that no service has; ours of a transport that is not in master.cf are such.
func postconf(ctx context.Context, names ...string) ([]string, error) {
	return postconfOf(ctx, nil, names...)
}

// postconfOf asks with options, such as -c and the directory of another instance.
func postconfOf(ctx context.Context, options []string, names ...string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var said strings.Builder
	c := exec.CommandContext(ctx, "postconf", slices.Concat(options, []string{"-xh"}, names)...)
	c.Stderr = &said
	out, err := c.Output()
	values := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if err == nil && len(values) != len(names) {
		err = errors.New("not understood")
	}
	if err != nil {
		return nil, fmt.Errorf("postconf -xh %s: %w: %s", strings.Join(names, " "), err, firstLine(said.String()))
	}
	for i, value := range values {
		values[i] = strings.TrimSpace(value)
	}
	return values, nil
}

// askPolicy tells whether mailquotad answers at an address, by a question about nothing.
func askPolicy(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("mailquotad does not answer at policy-listen: %w", err)
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	question := policy.Request{State: "CONNECT"}
	if _, err := c.Write(question.Append(nil)); err != nil {
		return fmt.Errorf("mailquotad does not answer at policy-listen: %w", err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "action=") {
		return fmt.Errorf("no policy service at policy-listen = %q: %q, %v", address, line, err)
	}
	return nil
}

// checksFile is the one file of a setting of header_checks, if it is one that has
// lines of patterns.
func checksFile(setting string) (string, bool) {
	kind, file, ok := strings.Cut(setting, ":")
	if !ok || kind != "regexp" && kind != "pcre" || !strings.HasPrefix(file, "/") || strings.ContainsAny(file, ", \t") {
		return "", false
	}
	return file, true
}
