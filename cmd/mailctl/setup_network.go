package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sendmail-wrapper/report"
	"sendmail-wrapper/wrapper"
)

const (
	networkFile = "/etc/sendmail-wrapper/network.nft"
	networkUnit = "mailquota-network.service"
	networkDoc  = "docs/network.md"
)

// networkOptions is the command line; nil leaves a choice as it was made before.
type networkOptions struct {
	dryRun, remove, yes bool
	allow               *[]string // users; addresses and networks of containers
	localSMTP           *bool
}

func (a *app) networkCommand() *cobra.Command {
	var o networkOptions
	var allow []string
	var localSMTP bool
	c := &cobra.Command{
		Use: "network", Short: "let only the mail server connect to mail servers", Args: cobra.NoArgs,
		Long: "network lets root, the mail server, trusted-users and those of --allow connect to TCP ports 25, 465 and 587, of other hosts\n" +
			"and of this one, by IPv4 and IPv6. Connections of all other users and their subordinate uids, and of containers and virtual\n" +
			"machines, are refused at once, and counted. The rules are a table of nftables of its own: those of others stay as they are\n" +
			"(" + networkDoc + "). Where it is set up already, it shows who was refused in the last seven days.\n" +
			"--allow takes names of users, and addresses or networks of containers; its list takes the place of the one before, --allow ''\n" +
			"allows none. --local-smtp leaves ports of this host itself open, for webmail and the like: only where its mail server asks\n" +
			"mailquotad (mailctl setup postfix), which charges them to their user.",
		Example: "  mailctl setup network --dry-run\n  mailctl setup network\n  mailctl setup network --allow www-data,172.18.0.5 --yes\n" +
			"  mailctl setup network --local-smtp\n  mailctl setup network --remove",
		RunE: func(c *cobra.Command, _ []string) error {
			if c.Flags().Changed("allow") {
				o.allow = &allow
			}
			if c.Flags().Changed("local-smtp") {
				o.localSMTP = &localSMTP
			}
			return a.setupNetwork(c.Context(), &o)
		},
	}
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "show what would be changed, and change nothing")
	c.Flags().BoolVar(&o.remove, "remove", false, "take it out")
	c.Flags().StringSliceVar(&allow, "allow", nil, "`users` that may connect as well, and addresses of containers")
	c.Flags().BoolVar(&localSMTP, "local-smtp", false, "leave this host's own ports open; =false closes them again")
	addYes(c, &o.yes)
	c.MarkFlagsMutuallyExclusive("remove", "allow")
	c.MarkFlagsMutuallyExclusive("remove", "local-smtp")
	return c
}

// networkSetup is the body of setup network --json.
type networkSetup struct {
	File      string           `json:"file"`
	Active    bool             `json:"active"` // the rules are in the kernel, as the file has them
	Users     []networkUser    `json:"users"`  // that may connect
	Addresses []netip.Prefix   `json:"addresses"`
	LocalSMTP bool             `json:"local_smtp"`
	Refused   []refusedUser    `json:"refused"`
	Forwarded []refusedForward `json:"refused_forwarded"`
	Notes     []string         `json:"notes"`
	Written   bool             `json:"written"`
}

// setupNetwork opens the ports to the mail server alone, or, with remove, to all again.
func (a *app) setupNetwork(ctx context.Context, o *networkOptions) error {
	if os.Geteuid() != 0 {
		return &failure{exNoPerm, "only root may set rules of the network", "sudo mailctl setup network"}
	}
	lock, err := lockSetup(setupLock)
	if err != nil {
		return err
	}
	defer lock.Close()
	if o.remove {
		return a.removeNetwork(ctx, o.dryRun)
	}
	if err := needNft(); err != nil {
		return err
	}
	if err := a.loadConfig(); err != nil {
		return err
	}
	p, err := a.planNetwork(ctx, o)
	if err != nil {
		return err
	}
	state, err := readNetworkState(ctx)
	if err != nil {
		return err
	}
	s := networkSetup{File: networkFile, Users: p.rules.Users, Addresses: p.rules.Addresses, LocalSMTP: p.rules.LocalSMTP, Notes: p.notes}
	ready := !p.file.changes() && state.is(p.rules) && isEnabled(ctx, networkUnit) && isActive(ctx, networkUnit)
	if !ready {
		if !a.json {
			fmt.Fprint(a.stdout, p.file.diff())
			for _, note := range p.notes {
				fmt.Fprintln(a.stderr, "note: "+note)
			}
		}
		if err := nft(ctx, p.rules.text(), "-c", "-f", "-"); err != nil {
			return &failure{exWrong, "this host's nftables does not take the rules: " + err.Error(), "nft(8) must know meta iifkind, fib, and counters of set elements; 1.0.6 of Debian 12 does"}
		}
		if !o.dryRun {
			if err := a.confirm(o.yes, "to refuse connections of all other users to mail servers"); err != nil {
				return err
			}
			if state, err = p.change(ctx); err != nil {
				return &failure{exWrong, "the rules are left as they were: " + err.Error(), ""}
			}
			s.Written = true
		}
	}
	s.Active, s.Refused, s.Forwarded = state.is(p.rules), state.refused, state.forwarded
	switch {
	case a.json:
		return a.printJSON(s)
	case !ready && o.dryRun:
		return a.done("nothing is written; %s would change, and be loaded", networkFile)
	case !ready:
		return a.done("ports 25, 465 and 587 are open to %s alone", p.rules.names())
	}
	if err := a.done("the network door is as it should be: ports 25, 465 and 587 are open to %s alone", p.rules.names()); err != nil {
		return err
	}
	return a.printRefused(state)
}

func (a *app) printRefused(state *networkState) error {
	if len(state.refused)+len(state.forwarded) == 0 {
		return a.done("nobody was refused")
	}
	rows := make([][]any, 0, len(state.refused)+len(state.forwarded))
	for _, r := range state.refused {
		rows = append(rows, []any{r.Name, int64(r.UID), r.Owner, r.Count, &r.Last})
	}
	for _, f := range state.forwarded {
		rows = append(rows, []any{"interface " + f.Interface, nil, "", f.Count, &f.Last})
	}
	report.Table(a.stdout, []string{"refused", "uid", "subordinate of", "times", "last"}, rows)
	return nil
}

// needNft is an error where there is no nft(8).
func needNft() error {
	if _, err := exec.LookPath("nft"); err == nil {
		return nil
	}
	hint := "dnf install nftables"
	if _, err := exec.LookPath("apt-get"); err == nil {
		hint = "apt-get install nftables"
	}
	return &failure{exWrong, "there is no nft, by which rules of the network are set", hint}
}

// nft runs nft(8).
func nft(ctx context.Context, stdin []byte, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, "nft", args...)
	c.Stdin = bytes.NewReader(stdin)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("nft %s: %w: %s", strings.Join(args, " "), err, firstLine(string(out)))
	}
	return nil
}

func isEnabled(ctx context.Context, unit string) bool {
	_, err := command(ctx, "systemctl", "is-enabled", "--quiet", unit)
	return err == nil
}

// networkPlan is the file to be, and what the administrator should know.
type networkPlan struct {
	file  *edit
	rules *networkRules
	notes []string
}

func (a *app) planNetwork(ctx context.Context, o *networkOptions) (*networkPlan, error) {
	file, err := readEdit(networkFile)
	if err != nil {
		return nil, err
	}
	if file.before != nil && !bytes.HasPrefix(file.before, []byte(networkHead)) {
		return nil, &failure{exWrong, networkFile + " is there already, and none of ours", ""}
	}
	file.mode = 0o600
	before := parseNetwork(file.before)
	p := &networkPlan{file: file, rules: &networkRules{LocalSMTP: before.LocalSMTP, allow: before.allow, Addresses: []netip.Prefix{}}, notes: []string{}}
	if o.allow != nil {
		p.rules.allow = *o.allow
	}
	if o.localSMTP != nil {
		p.rules.LocalSMTP = *o.localSMTP
	}
	conf, _ := wrapper.LoadConfig(a.wrapperConf()) // mailctl status says what is wrong there
	mta := conf.Profile.Name
	if slices.Contains([]string{"msmtp", "dma"}, mta) {
		return nil, &failure{exWrong, fmt.Sprintf("the sendmail of %s connects as the user who calls it: nobody's mail would leave", mta),
			"install a mail server that delivers as a user of its own, such as Postfix, then: mailctl setup mta"}
	}
	if p.rules.LocalSMTP {
		if err := a.localSMTPAsks(ctx, mta); err != nil {
			return nil, err
		}
	}
	if err := p.addUsers(ctx, a, mta, o.allow != nil); err != nil {
		return nil, err
	}
	route, _ := os.ReadFile("/proc/net/route") // a kernel without IPv6, or IPv4, has no such file
	route6, _ := os.ReadFile("/proc/net/ipv6_route")
	p.rules.Uplinks = uplinks(string(route), string(route6))
	if mta == "sendmail" {
		if g, err := user.LookupGroup("smmsp"); err == nil {
			gid, _ := strconv.ParseUint(g.Gid, 10, 32)
			p.rules.GroupOf = uint32(gid)
		}
	}
	if file.before == nil && !p.rules.LocalSMTP {
		p.notes = append(p.notes, "programs that give mail to this host's mail server by SMTP, such as a webmail, are refused, too: --allow USER lets one user's pass uncounted, --local-smtp all users', if the mail server asks mailquotad")
	}
	file.after = p.rules.text()
	return p, nil
}

// doorUsers may connect wherever they are: ours, and those as which mail servers deliver:
// Postfix, Exim (of Debian, of Red Hat, of cPanel), Sendmail, OpenSMTPD (of Debian, of Red
// Hat), Courier, qmail.
var doorUsers = []string{"root", "mailquota", "mailquota-submit",
	"postfix", "Debian-exim", "exim", "mailnull", "smmsp", "smmta", "opensmtpd", "smtpd", "courier", "qmailr"}

// addUsers fills in who may connect. Users that are not there are left out; those of an
// --allow that isNew are an error.
func (p *networkPlan) addUsers(ctx context.Context, a *app, mta string, isNew bool) error {
	names := slices.Clone(doorUsers)
	if mta == "nullmailer" { // of Debian, of Red Hat
		names = append(names, "mail", "nullmail")
	}
	if hasPostfix() {
		if out, err := postconf(ctx, "mail_owner"); err == nil {
			names = append(names, out[0])
		}
	}
	for _, name := range names {
		if u, err := user.Lookup(name); err == nil {
			p.addUser(u)
		}
	}
	for _, name := range a.config.TrustedUsers {
		if u, err := user.Lookup(name); err == nil {
			p.addUser(u)
		} else {
			p.notes = append(p.notes, fmt.Sprintf("trusted-users in %s has %s, and there is no such user", a.configPath, name))
		}
	}
	asked := p.rules.allow
	p.rules.allow = nil
	for _, name := range asked {
		if prefix, ok := parsePrefix(name); ok {
			p.rules.allow = append(p.rules.allow, name)
			p.rules.Addresses = append(p.rules.Addresses, prefix)
			continue
		}
		u, err := user.Lookup(name)
		if err != nil && isNew {
			return &failure{exRefused, fmt.Sprintf("--allow %s: no user, and no address", name), "getent passwd"}
		}
		if err != nil {
			p.notes = append(p.notes, fmt.Sprintf("%s, whom --allow named, is no user any more", name))
			continue
		}
		p.rules.allow = append(p.rules.allow, name)
		if uid := p.addUser(u); uid >= a.config.FirstUserUID {
			p.notes = append(p.notes, fmt.Sprintf("%s is an ordinary user: what its programs send by SMTP is not counted", name))
		}
	}
	return nil
}

func (p *networkPlan) addUser(u *user.User) uint32 {
	uid, _ := strconv.ParseUint(u.Uid, 10, 32) // package user has read it as one
	n := networkUser{u.Username, uint32(uid)}
	if !slices.ContainsFunc(p.rules.Users, func(o networkUser) bool { return o.UID == n.UID }) {
		p.rules.Users = append(p.rules.Users, n)
	}
	return n.UID
}

// parsePrefix reads an address or a network.
func parsePrefix(s string) (netip.Prefix, bool) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), true
	}
	prefix, err := netip.ParsePrefix(s)
	return prefix.Masked(), err == nil && !prefix.Addr().Is4In6()
}

// localSMTPAsks is an error where mailquotad is not asked about mail that programs of
// this host give to its mail server by SMTP.
func (a *app) localSMTPAsks(ctx context.Context, mta string) error {
	asked := a.config.PolicyListen != "" || a.config.PolicySocket != ""
	if mta == "postfix" {
		asked = false
		if out, err := postconf(ctx, "config_directory"); err == nil {
			main, err := os.ReadFile(filepath.Join(out[0], "main.cf"))
			asked = err == nil && bytes.Contains(main, []byte(mailquotaPolicy))
		}
	}
	if asked {
		return nil
	}
	return &failure{exWrong, "--local-smtp leaves this host's own ports open to all users, and its mail server does not ask mailquotad about them",
		"mailctl setup postfix (Exim: docs/smtp.md), or mailctl setup network --local-smtp=false"}
}

// change writes the file and loads it. Whatever fails, all is as it was.
func (p *networkPlan) change(ctx context.Context) (*networkState, error) {
	run := func(args ...string) error {
		if out, err := command(ctx, "systemctl", args...); err != nil {
			return fmt.Errorf("systemctl %s: %s", strings.Join(args, " "), out)
		}
		return nil
	}
	undo := func(err error) (*networkState, error) {
		ctx = context.WithoutCancel(ctx)
		all := []error{err, p.file.undo()}
		if p.file.before == nil {
			all = append(all, run("disable", "--quiet", "--now", networkUnit))
		} else {
			all = append(all, run("reload-or-restart", networkUnit))
		}
		return nil, errors.Join(all...)
	}
	if err := p.file.apply(); err != nil {
		return undo(err)
	}
	if err := run("enable", "--quiet", networkUnit); err != nil {
		return undo(err)
	}
	// A reload where it runs: a restart would delete the table first.
	if err := run("reload-or-restart", networkUnit); err != nil {
		return undo(err)
	}
	state, err := readNetworkState(ctx)
	if err != nil {
		return undo(err)
	}
	if !state.is(p.rules) {
		return undo(errors.New(networkUnit + " has not loaded them"))
	}
	return state, nil
}

// removeNetwork takes away table, unit and file.
func (a *app) removeNetwork(ctx context.Context, dryRun bool) error {
	file, err := readEdit(networkFile)
	if err != nil {
		return err
	}
	s := networkSetup{File: networkFile, Users: []networkUser{}, Addresses: []netip.Prefix{}, Refused: []refusedUser{}, Forwarded: []refusedForward{}, Notes: []string{}}
	there := file.before != nil || isEnabled(ctx, networkUnit) || isActive(ctx, networkUnit)
	file.after = nil
	if there && !dryRun {
		if out, err := command(ctx, "systemctl", "disable", "--quiet", "--now", networkUnit); err != nil {
			return &failure{exWrong, fmt.Sprintf("systemctl disable --now %s: %s", networkUnit, out), ""}
		}
		if err := file.apply(); err != nil {
			return err
		}
		s.Written = true
	}
	switch {
	case a.json:
		return a.printJSON(s)
	case !there:
		return a.done("there is nothing of mailctl setup network")
	case dryRun:
		return a.done("nothing is written; %s would go, and its rules with it", networkFile)
	}
	return a.done("taken out: %s; every user may connect to mail servers", networkFile)
}
