package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sendmail-wrapper/serverstatus"
)

// apacheLayout is where a distribution or panel has Apache.
type apacheLayout struct {
	control string // program that tests the configuration
	conf    string // the file that we write
	enabled string // the link to it that makes Apache read it, "" where it reads the directory
	modules string // directory of modules
	unit    string
}

const (
	apacheConf        = "mailquota-status.conf"
	apacheDefaultPort = 797
)

// The first one whose program and directory are there is it.
var apacheLayouts = []apacheLayout{
	{"/usr/sbin/apache2ctl", "/etc/apache2/conf-available/" + apacheConf, "/etc/apache2/conf-enabled/" + apacheConf, "/usr/lib/apache2/modules", "apache2.service"}, // Debian
	{"/usr/sbin/apachectl", "/etc/apache2/conf.d/" + apacheConf, "", "/etc/apache2/modules", "httpd.service"},                                                       // cPanel
	{"/usr/sbin/apachectl", "/etc/httpd/conf.d/" + apacheConf, "", "/etc/httpd/modules", "httpd.service"},                                                           // RHEL, Fedora
}

func findApache() (apacheLayout, error) {
	for _, l := range apacheLayouts {
		_, errProgram := os.Stat(l.control)
		_, errDir := os.Stat(filepath.Dir(l.conf))
		if errProgram == nil && errDir == nil {
			return l, nil
		}
	}
	return apacheLayout{}, &failure{exWrong, "there is no Apache on this host, or none where it is looked for", "mailctl setup apache --print says what goes into its configuration"}
}

func (a *app) apacheCommand() *cobra.Command {
	var o setupOptions
	var port int
	c := &cobra.Command{
		Use: "apache", Short: "let Apache tell mailquotad which request is served", Args: cobra.NoArgs,
		Long: "apache gives Apache a port of 127.0.0.1, below 1024, where only root can listen. Its server-status is there and nothing\n" +
			"else, under a password that only mailquotad knows: so the site, URI, method and client of a request that sends mail through\n" +
			"mod_php or a CGI program are known, and sure. The configuration is tested before and after; Apache is reloaded gracefully, and\n" +
			"mailquotad restarted, for which callers wait.",
		Example: "  mailctl setup apache --dry-run\n  mailctl setup apache\n  mailctl setup apache --remove",
		RunE:    func(c *cobra.Command, _ []string) error { return a.setupApache(c.Context(), &o, port) },
	}
	o.flags(c)
	c.Flags().IntVar(&port, "port", 0, fmt.Sprintf("`number` of the port, 1 to 1023; by default the one that is set up, else %d", apacheDefaultPort))
	return c
}

// apacheSetup is the body of setup apache --json.
type apacheSetup struct {
	URL     string   `json:"url"`
	Files   []string `json:"files"` // that were changed, or would be
	Written bool     `json:"written"`
}

func (a *app) setupApache(ctx context.Context, o *setupOptions, port int) error {
	if port < 0 || port > 1023 {
		return &failure{exUsage, fmt.Sprintf("port %d: must be 1 to 1023, where only root can listen", port), ""}
	}
	users := filepath.Join(filepath.Dir(a.configPath), "apache-status.htpasswd")
	layout, err := findApache()
	if o.print {
		if err != nil {
			layout = apacheLayouts[0]
		}
		if port == 0 {
			port = apacheDefaultPort
		}
		_, err := fmt.Fprint(a.stdout, apacheText(port, layout.modules, users))
		return err
	}
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return &failure{exNoPerm, "only root may write the configuration of Apache", "sudo mailctl setup apache"}
	}
	lock, err := lockSetup(setupLock)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := a.loadConfig(); err != nil {
		return err
	}
	e, err := a.apacheEdits(layout, users, port, o.remove)
	if err != nil {
		return err
	}
	s := apacheSetup{URL: e.url, Files: []string{}}
	for _, f := range e.all() {
		if f.changes() {
			s.Files = append(s.Files, f.path)
		}
		if o.dryRun && !a.json && f != e.key { // a password is nobody's to see
			fmt.Fprint(a.stdout, f.diff())
		}
	}
	if e.link != "" {
		s.Files = append(s.Files, e.link)
	}
	if (len(s.Files) > 0 || wasCutShort(setupLock, "apache")) && !o.dryRun {
		end, err := begin(ctx, lock, "apache")
		if err != nil {
			return err
		}
		defer end()
		if err := e.change(ctx, layout, o); err != nil {
			return &failure{exWrong, err.Error(), ""}
		}
		s.Written = len(s.Files) > 0
	}
	switch {
	case a.json:
		return a.printJSON(s)
	case len(s.Files) == 0 && o.remove:
		return a.done("there is nothing of mailctl setup apache")
	case len(s.Files) == 0:
		return a.done("%s is as it should be", s.URL)
	case o.dryRun:
		return a.done("nothing is written; these files would change: %s", strings.Join(s.Files, ", "))
	case o.remove:
		return a.done("taken out: %s", strings.Join(s.Files, ", "))
	case o.noReload:
		return a.done("written: %s; now reload Apache, then restart mailquotad", strings.Join(s.Files, ", "))
	}
	return a.done("%s answers mailquotad", s.URL)
}

func apacheURL(port int) string { return fmt.Sprintf("http://127.0.0.1:%d/server-status", port) }

// apacheText is the configuration. Modules are loaded here, where they are not yet,
// and not by a2enmod: that would enable the package's own /server-status as well,
// which each user of the host can read. The handler answers every path, so that
// nothing else is served; the document root is no customer's, so that there is no
// .htaccess, and has nothing but what every host has. Without a log of its own each
// look would be a line in another's.
func apacheText(port int, modules, users string) string {
	var b strings.Builder
	b.WriteString("# BEGIN mailctl setup apache (its option --remove takes this file away)\n")
	b.WriteString("# Which requests Apache serves, for mailquotad(8). Below port 1024 only root can listen.\n")
	for _, m := range []string{"auth_basic", "authn_file", "authz_user", "status"} {
		fmt.Fprintf(&b, "<IfModule !%s_module>\n\tLoadModule %[1]s_module %s/mod_%[1]s.so\n</IfModule>\n", m, modules)
	}
	fmt.Fprintf(&b, `Listen 127.0.0.1:%d
ExtendedStatus On
<VirtualHost 127.0.0.1:%[1]d>
	ServerName mailquota-status.invalid
	DocumentRoot "%s"
	CustomLog /dev/null "%%h"
	<Location "/">
		SetHandler server-status
		AuthType Basic
		AuthName "mailquotad"
		AuthBasicProvider file
		AuthUserFile "%s"
		Require user %s
	</Location>
</VirtualHost>
# END mailctl setup apache
`, port, modules, users, daemonUser)
	return b.String()
}

// apacheEdits are the files of the set-up.
type apacheEdits struct {
	url                      string
	conf, users, key, daemon *edit
	link                     string // to be made or taken away; "" none
	remove                   bool
}

// all are the edits in their order: by conf a run that goes on where one was cut short knows
// the port.
func (e *apacheEdits) all() []*edit {
	if e.remove {
		return []*edit{e.daemon, e.users, e.key, e.conf}
	}
	return []*edit{e.users, e.key, e.conf, e.daemon}
}

func (a *app) apacheEdits(layout apacheLayout, users string, port int, remove bool) (*apacheEdits, error) {
	e := &apacheEdits{remove: remove}
	if _, err := os.Lstat(layout.enabled); layout.enabled != "" && (err == nil) == remove {
		e.link = layout.enabled
	}
	for _, f := range []struct {
		to    **edit
		path  string
		group string
	}{{&e.conf, layout.conf, ""}, {&e.users, users, ""}, {&e.key, a.config.ApacheStatusKey, daemonUser}, {&e.daemon, a.configPath, daemonUser}} {
		var err error
		if *f.to, err = readEdit(f.path); err != nil {
			return nil, err
		}
		if (*f.to).group = f.group; f.group != "" {
			(*f.to).mode = 0o640
		}
	}
	ours := e.conf.before == nil || bytes.HasPrefix(e.conf.before, []byte("# BEGIN mailctl setup apache"))
	if !ours {
		return nil, &failure{exWrong, layout.conf + " is there already, and none of ours", ""}
	}
	was := apachePort.FindSubmatch(e.conf.before)
	if was != nil && port == 0 {
		port, _ = strconv.Atoi(string(was[1])) // digits
	} else if port == 0 {
		port = apacheDefaultPort
	}
	e.url = apacheURL(port)
	set := a.config.ApacheStatus
	own := was != nil && set == fmt.Sprintf("http://127.0.0.1:%s/server-status", was[1])
	if remove {
		if e.conf.before != nil {
			e.conf.after, e.users.after, e.key.after = nil, nil, nil
		}
		if own {
			e.daemon.after = setLine(e.daemon.before, "apache-status", "")
			if len(e.daemon.after) == 0 { // it was made for this line
				e.daemon.after = nil
			}
		}
		return e, nil
	}
	if set != "" && set != e.url && !own {
		return nil, &failure{exWrong, fmt.Sprintf("apache-status = %q is in %s already", set, a.configPath), "take that line out first, or leave it so"}
	}
	if was == nil || string(was[1]) != strconv.Itoa(port) {
		if err := freePort(port); err != nil {
			return nil, err
		}
	}
	e.conf.after = []byte(apacheText(port, layout.modules, users))
	password := strings.TrimSpace(string(e.key.before))
	if password == "" || string(e.users.before) != passwordLine(password) {
		password = rand.Text() + rand.Text()
		e.key.after = []byte(password + "\n")
	}
	e.users.after = []byte(passwordLine(password))
	if set != e.url {
		e.daemon.after = setLine(e.daemon.before, "apache-status", fmt.Sprintf("apache-status = %q\n", e.url))
	}
	return e, nil
}

var apachePort = regexp.MustCompile(`(?m)^Listen 127\.0\.0\.1:(\d+)$`)

// passwordLine is a line of htpasswd(1). SHA-1 without a salt is enough for 260
// random bits, and Apache computes it for each look. Everybody may read it, as the
// processes of Apache are www-data's.
func passwordLine(password string) string {
	sum := sha1.Sum([]byte(password))
	return daemonUser + ":{SHA}" + base64.StdEncoding.EncodeToString(sum[:]) + "\n"
}

// freePort tells whether only root could listen on the port, and nobody does.
func freePort(port int) error {
	if !serverstatus.RootsPort(uint16(port)) {
		return &failure{exWrong, fmt.Sprintf("net.ipv4.ip_unprivileged_port_start lets every user listen on port %d", port),
			"sysctl net.ipv4.ip_unprivileged_port_start, then mailctl setup apache --port N, with one below that"}
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return &failure{exWrong, fmt.Sprintf("port %d of 127.0.0.1 is taken: %v", port, err), "mailctl setup apache --port N, with another below 1024"}
	case err != nil:
		return &failure{exWrong, fmt.Sprintf("nobody can listen at 127.0.0.1: %v", err), "ip address show dev lo"}
	}
	return l.Close()
}

// change writes the files between two tests of Apache's configuration, reloads
// Apache and restarts mailquotad. Whatever fails of Apache, all is as it was. The
// link is never there without its file: Apache would not start.
func (e *apacheEdits) change(ctx context.Context, layout apacheLayout, o *setupOptions) error {
	test := func() error {
		if out, err := command(ctx, layout.control, "configtest"); err != nil {
			return fmt.Errorf("%s configtest: %s", layout.control, out)
		}
		return nil
	}
	if err := test(); err != nil {
		return fmt.Errorf("Apache is left as it was: its configuration is wrong already: %w", err)
	}
	runs := func() bool {
		_, err := command(ctx, "systemctl", "is-active", "--quiet", layout.unit)
		return err == nil
	}
	running := runs()
	undo := func(err error) error {
		ctx := context.WithoutCancel(ctx)
		var all []error
		if e.link != "" && !e.remove {
			all = append(all, remove(e.link))
		}
		all = append(all, undoAll(e.all()))
		if e.link != "" && e.remove {
			all = append(all, relink(layout))
		}
		if running {
			if !runs() {
				all = append(all, restart(ctx, layout.unit))
			} else if out, err := command(ctx, "systemctl", "reload", layout.unit); err != nil {
				all = append(all, fmt.Errorf("systemctl reload %s: %s", layout.unit, out))
			}
		}
		return fmt.Errorf("Apache is left as it was: %w", errors.Join(append([]error{err}, all...)...))
	}
	if e.link != "" && e.remove {
		if err := remove(e.link); err != nil {
			return undo(err)
		}
	}
	for _, edit := range e.all() {
		if err := edit.apply(); err != nil {
			return undo(err)
		}
	}
	if e.link != "" && !e.remove {
		if err := relink(layout); err != nil {
			return undo(err)
		}
	}
	if err := test(); err != nil {
		return undo(err)
	}
	if o.noReload {
		return nil
	}
	if running {
		if out, err := command(ctx, "systemctl", "reload", layout.unit); err != nil {
			return undo(fmt.Errorf("systemctl reload %s: %s", layout.unit, out))
		}
		if !e.remove {
			var err error
			if !await(ctx, func() bool { err = askApache(ctx, e.url, e.key.path); return err == nil }) {
				return undo(err)
			}
		}
	}
	if out, err := command(ctx, "systemctl", "try-restart", "mailquotad.service"); err != nil {
		return fmt.Errorf("Apache is set, and mailquotad does not know yet: systemctl try-restart mailquotad: %s", out)
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// relink does what a2enconf does.
func relink(layout apacheLayout) error {
	if err := remove(layout.enabled); err != nil {
		return err
	}
	return os.Symlink(filepath.Join("../conf-available", apacheConf), layout.enabled)
}

// askApache tells whether server-status answers with the password, and not
// without one.
func askApache(ctx context.Context, url, key string) error {
	text, err := os.ReadFile(key)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		password string
		want     int
	}{{"", http.StatusUnauthorized}, {strings.TrimSpace(string(text)), http.StatusOK}} {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
		if err != nil {
			return err
		}
		if c.password != "" {
			request.SetBasicAuth(daemonUser, c.password)
		}
		reply, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			return err
		}
		reply.Body.Close()
		switch {
		case reply.StatusCode == c.want:
		case c.password == "":
			return fmt.Errorf("%s answers without a password: %s", url, reply.Status)
		default:
			return fmt.Errorf("%s does not take the password in %s: %s", url, key, reply.Status)
		}
	}
	return nil
}
