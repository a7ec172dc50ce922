// Package config reads mailquotad.conf(5), the file of mailquotad and mailctl.
// It is TOML, and read strictly: an unknown key or a value out of range is an
// error that names file, line, key, and what is allowed; all mistakes of a file
// are told at once.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pelletier/go-toml/v2"
)

// Path is where the file is, unless an option says otherwise.
const Path = "/etc/sendmail-wrapper/mailquotad.conf"

// The private cluster that mailctl database init makes where the file names no
// database.
const (
	PrivateDataDir   = "/var/lib/mailquota/postgresql"
	PrivateSocketDir = "/run/mailquota-postgresql"
)

// Daemon is the content of the file, checked.
type Daemon struct {
	Database         string   `toml:"database"`         // connection string of role mailquotad
	DatabaseOwner    string   `toml:"database-owner"`   // the same database as its owner
	Host             string   `toml:"host"`             // name of this host in the database
	Socket           string   `toml:"socket"`           // path of the unix socket
	SubmitSocket     string   `toml:"submit-socket"`    // path of mailquota-submit's
	FirstUserUID     uint32   `toml:"first-user-uid"`   // lowest uid whose mail is limited
	CallsPerUser     int      `toml:"calls-per-user"`   // at the same time, 1 to 100000
	Calls            int      `toml:"calls"`            // at the same time in all, 1 to 100000
	RequestTimeout   Duration `toml:"request-timeout"`  // 100ms to 10m
	DecisionTimeout  Duration `toml:"decision-timeout"` // 100ms to 10s: the wrapper waits for 30
	OnDatabaseDown   string   `toml:"on-database-down"` // journal, accept, refuse
	Journal          string   `toml:"journal"`          // path of the file
	JournalLimit     int      `toml:"journal-limit"`    // decisions, 1000 to 100000000
	JournalShare     int      `toml:"journal-share"`    // percent, 0 to 100
	PolicySocket     string   `toml:"policy-socket"`    // path; "" is off
	PolicyListen     string   `toml:"policy-listen"`    // address of loopback and port; "" is off
	PolicyUsers      []string `toml:"policy-users"`     // who may connect there, besides root
	SMTPRefusal      string   `toml:"smtp-refusal"`     // defer, reject
	SenderCheck      string   `toml:"sender-check"`     // off, report, refuse
	TrustedUsers     []string `toml:"trusted-users"`    // whose programs send for others
	PostfixQueue     string   `toml:"postfix-queue"`    // directory; "" is off
	Metrics          string   `toml:"metrics"`          // address and port; "" is off
	RetentionDays    int      `toml:"retention-days"`   // 2 to 3650
	SumsMonths       int      `toml:"sums-months"`      // 1 to 120
	DetailsDays      int      `toml:"details-days"`     // 1 to retention-days: subjects, recipients, message ids
	RecordSubjects   bool     `toml:"record-subjects"`
	RecordRecipients bool     `toml:"record-recipients"`
	RecordRequests   bool     `toml:"record-requests"`   // method, URI and client of web requests
	TraceHeader      string   `toml:"trace-header"`      // name of the field; "" is off
	ApacheStatus     string   `toml:"apache-status"`     // URL of server-status; "" is off
	ApacheStatusKey  string   `toml:"apache-status-key"` // path of the file with its password
	LogLevel         string   `toml:"log-level"`         // debug, info, warn, error
	LogFormat        string   `toml:"log-format"`        // json, console

	NotifyAdmin      []string `toml:"notify-admin"`       // addresses; empty is off
	NotifyFrom       string   `toml:"notify-from"`        // address of From
	NotifyWarn       int      `toml:"notify-warn"`        // percent of a limit, 0 (off) to 99
	NotifyDigest     Duration `toml:"notify-digest"`      // divides a day; 0 is off
	NotifyQuiet      Duration `toml:"notify-quiet"`       // 5m to 24h
	NotifyCustomers  bool     `toml:"notify-customers"`   // mail to the contact of the subscription
	NotifyWebhook    string   `toml:"notify-webhook"`     // URL; "" is off
	NotifyWebhookKey string   `toml:"notify-webhook-key"` // path of the file with the key of its signatures
	NotifyHook       string   `toml:"notify-hook"`        // path of a program; "" is off
	NotifyTemplates  string   `toml:"notify-templates"`   // directory

	CustomersSetLimits bool `toml:"customers-set-limits"` // of their own domains and mailboxes
}

// Duration is a time.Duration as people write it: "10s".
type Duration time.Duration

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q: must be a time such as \"10s\"", text)
	}
	*d = Duration(v)
	return nil
}

// Default is what holds where the file says nothing.
func Default() Daemon {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	from := "mailquota@" + host
	if !isAddress(from) { // the kernel takes any bytes as a name
		from = "mailquota@localhost"
	}
	return Daemon{
		Database:         "host=" + PrivateSocketDir + " user=mailquotad dbname=mailquota",
		DatabaseOwner:    "host=" + PrivateSocketDir + " user=mailquota dbname=mailquota",
		Host:             host,
		Socket:           "/run/mailquota/mailquotad.sock",
		SubmitSocket:     "/run/mailquota-submit/submit.sock",
		FirstUserUID:     1000,
		CallsPerUser:     1024,
		Calls:            4096,
		RequestTimeout:   Duration(10 * time.Second),
		DecisionTimeout:  Duration(5 * time.Second),
		OnDatabaseDown:   "journal",
		Journal:          "/var/lib/mailquota/journal",
		JournalLimit:     1000000,
		JournalShare:     10,
		PolicyUsers:      []string{"postfix", "Debian-exim", "exim"},
		SMTPRefusal:      "defer",
		SenderCheck:      "off",
		TrustedUsers:     []string{},
		PostfixQueue:     "/var/spool/postfix",
		RetentionDays:    31,
		SumsMonths:       13,
		DetailsDays:      31,
		RecordSubjects:   true,
		RecordRecipients: true,
		RecordRequests:   true,
		TraceHeader:      "X-Mail-Trace",
		ApacheStatusKey:  "/etc/sendmail-wrapper/apache-status.key",
		LogLevel:         "info",
		LogFormat:        "json",

		NotifyAdmin:      []string{"root"},
		NotifyFrom:       from,
		NotifyWarn:       80,
		NotifyDigest:     Duration(time.Hour),
		NotifyQuiet:      Duration(time.Hour),
		NotifyWebhookKey: "/etc/sendmail-wrapper/webhook.key",
		NotifyTemplates:  "/etc/sendmail-wrapper/templates",
	}
}

// Private tells whether the database is the private cluster.
func (d *Daemon) Private() bool { return d.Database == Default().Database }

// Load reads the file. Where there is none at Path the defaults hold; one that was
// named by an option must be there. The error joins one line for each mistake.
func Load(path string) (Daemon, error) { return load(path, path == Path) }

func load(path string, optional bool) (Daemon, error) {
	d := Default()
	content, err := os.ReadFile(path)
	if optional && errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err != nil {
		return Daemon{}, fmt.Errorf("read configuration: %w", err)
	}
	const unset = math.MinInt
	d.DetailsDays = unset // a file of before it was a key may have fewer retention-days than its default
	mistakes := &mistakes{name: filepath.Base(path), lines: strings.Split(string(content), "\n")}
	if err := toml.NewDecoder(bytes.NewReader(content)).DisallowUnknownFields().Decode(&d); err != nil {
		mistakes.addDecode(err)
		return Daemon{}, errors.Join(mistakes.list...)
	}
	if d.DetailsDays == unset {
		d.DetailsDays = min(Default().DetailsDays, d.RetentionDays)
	}
	d.check(mistakes)
	checkSecret(path, &d, mistakes)
	if len(mistakes.list) > 0 {
		return Daemon{}, errors.Join(mistakes.list...)
	}
	return d, nil
}

type mistakes struct {
	name  string
	lines []string
	list  []error // in the order of the keys in Daemon
}

// add names the line on which a key stands.
func (m *mistakes) add(key, format string, args ...any) {
	number := 0
	for i, line := range m.lines {
		if word, _, ok := strings.Cut(line, "="); ok && strings.Trim(strings.TrimSpace(word), `"'`) == key {
			number = i + 1
		}
	}
	m.list = append(m.list, fmt.Errorf("%s:%d: %s %s", m.name, number, key, fmt.Sprintf(format, args...)))
}

func (m *mistakes) addDecode(err error) {
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		for _, e := range unknown.Errors {
			row, _ := e.Position()
			m.list = append(m.list, fmt.Errorf("%s:%d: unknown key %s: there are %s", m.name, row, strings.Join(e.Key(), "."), strings.Join(keys(), ", ")))
		}
	case errors.As(err, &wrong):
		row, _ := wrong.Position()
		text := strings.TrimPrefix(wrong.Error(), "toml: ")
		switch { // the library speaks of Go's types here
		case strings.HasSuffix(text, "of type int"), strings.HasSuffix(text, "of type uint32"), strings.HasSuffix(text, "in uint32"):
			text = "must be a whole number, not negative"
		case strings.HasSuffix(text, "of type string"), strings.HasSuffix(text, "in a string"):
			text = "must be a text in quotes"
		case strings.HasSuffix(text, "of type []string"), strings.HasSuffix(text, "in a slice"):
			text = "must be a list of texts such as [\"root\"]"
		case strings.HasSuffix(text, "of type bool"):
			text = "must be true or false, without quotes"
		}
		if key := strings.Join(wrong.Key(), "."); key != "" {
			text = key + ": " + text
		}
		m.list = append(m.list, fmt.Errorf("%s:%d: %s", m.name, row, text))
	default:
		m.list = append(m.list, fmt.Errorf("%s: %w", m.name, err))
	}
}

func (d *Daemon) check(m *mistakes) {
	number := func(key string, v, low, high int64) {
		if v < low || v > high {
			m.add(key, "= %d: must be %d to %d", v, low, high)
		}
	}
	duration := func(key string, v Duration, low, high time.Duration) {
		if v := time.Duration(v); v < low || v > high {
			m.add(key, "= %q: must be %s to %s", v, low, high)
		}
	}
	word := func(key, v string, allowed ...string) {
		for _, a := range allowed {
			if v == a {
				return
			}
		}
		m.add(key, "= %q: must be %s", v, strings.Join(allowed, ", "))
	}
	number("first-user-uid", int64(d.FirstUserUID), 0, 65533)
	number("calls-per-user", int64(d.CallsPerUser), 1, 100000)
	number("calls", int64(d.Calls), 1, 100000)
	number("retention-days", int64(d.RetentionDays), 2, 3650)
	number("sums-months", int64(d.SumsMonths), 1, 120)
	if d.RetentionDays >= 2 && (d.DetailsDays < 1 || d.DetailsDays > d.RetentionDays) {
		m.add("details-days", "= %d: must be 1 to %d, which is retention-days", d.DetailsDays, d.RetentionDays)
	}
	if d.TraceHeader != "" && !isFieldName(d.TraceHeader) {
		m.add("trace-header", "= %q: must be the name of a header field that begins with X-, of at most 64 bytes, or empty", d.TraceHeader)
	}
	if d.ApacheStatus != "" && !isLocalURL(d.ApacheStatus) {
		m.add("apache-status", "= %q: must be like \"http://127.0.0.1:981/server-status\", on 127.0.0.1 or [::1] and a port below 1024, where only root can listen, or empty", d.ApacheStatus)
	}
	if !strings.HasPrefix(d.ApacheStatusKey, "/") {
		m.add("apache-status-key", "= %q: must be an absolute path", d.ApacheStatusKey)
	}
	duration("request-timeout", d.RequestTimeout, 100*time.Millisecond, 10*time.Minute)
	duration("decision-timeout", d.DecisionTimeout, 100*time.Millisecond, 10*time.Second)
	word("on-database-down", d.OnDatabaseDown, "journal", "accept", "refuse")
	if !strings.HasPrefix(d.Journal, "/") {
		m.add("journal", "= %q: must be an absolute path", d.Journal)
	}
	number("journal-limit", int64(d.JournalLimit), 1000, 100000000)
	number("journal-share", int64(d.JournalShare), 0, 100)
	word("log-level", d.LogLevel, "debug", "info", "warn", "error")
	word("log-format", d.LogFormat, "json", "console")
	d.checkNotify(m)
	if d.Host == "" || strings.ContainsAny(d.Host, "@ \t\n") || len(d.Host) > 253 {
		m.add("host", "= %q: must be a name of at most 253 bytes without space and @", d.Host)
	}
	// sun_path holds 107 bytes and a NUL (unix(7)).
	if !strings.HasPrefix(d.Socket, "/") || len(d.Socket) > 107 {
		m.add("socket", "= %q: must be an absolute path of at most 107 bytes", d.Socket)
	}
	if !strings.HasPrefix(d.SubmitSocket, "/") || len(d.SubmitSocket) > 107 {
		m.add("submit-socket", "= %q: must be an absolute path of at most 107 bytes", d.SubmitSocket)
	}
	if d.PolicySocket != "" && (!strings.HasPrefix(d.PolicySocket, "/") || len(d.PolicySocket) > 107) {
		m.add("policy-socket", "= %q: must be an absolute path of at most 107 bytes, or empty", d.PolicySocket)
	}
	if d.PolicyListen != "" && !isLoopback(d.PolicyListen) {
		m.add("policy-listen", "= %q: must be a loopback address and a port such as \"127.0.0.1:10031\", or empty", d.PolicyListen)
	}
	word("smtp-refusal", d.SMTPRefusal, "defer", "reject")
	word("sender-check", d.SenderCheck, "off", "report", "refuse")
	for _, list := range []struct {
		key   string
		names []string
	}{{"policy-users", d.PolicyUsers}, {"trusted-users", d.TrustedUsers}} {
		for _, name := range list.names {
			if !isLogin(name) {
				m.add(list.key, "has %q: must be login names such as \"postfix\"", name)
			}
		}
	}
	if d.PostfixQueue != "" && !strings.HasPrefix(d.PostfixQueue, "/") {
		m.add("postfix-queue", "= %q: must be an absolute path, or empty", d.PostfixQueue)
	}
	if _, port, err := net.SplitHostPort(d.Metrics); d.Metrics != "" && (err != nil || port == "") {
		m.add("metrics", "= %q: must be an address and a port such as \"127.0.0.1:9187\", or empty", d.Metrics)
	}
	for _, c := range []struct{ key, value string }{{"database", d.Database}, {"database-owner", d.DatabaseOwner}} {
		if _, err := pgconn.ParseConfig(c.value); err != nil {
			m.add(c.key, "must be like \"postgres://mailquotad@db.example/mailquota\": %v", err)
		}
	}
	if own := Default(); d.Database != own.Database && d.DatabaseOwner == own.DatabaseOwner {
		d.DatabaseOwner = "" // of another database: mailctl says what is missing when it needs it
	}
}

// isLoopback tells whether a text is an address of loopback and a port.
func isLoopback(s string) bool {
	a, err := netip.ParseAddrPort(s)
	return err == nil && a.Addr().IsLoopback() && a.Addr().Zone() == "" && a.Port() > 0
}

// isLogin tells whether a text can be a name of passwd(5); a number is a uid, which the
// next user of that number would inherit.
func isLogin(s string) bool {
	_, err := strconv.ParseUint(s, 10, 64)
	return s != "" && err != nil && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == ':' || r == '/' })
}

// isFieldName tells whether a text can be the name of a header field (RFC 5322,
// 3.6.8: printable ASCII without the colon) of our own: one that means something
// to mail servers would change what they do.
func isFieldName(s string) bool {
	if len(s) > 64 || len(s) < 3 || !strings.EqualFold(s[:2], "X-") {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' })
}

// isLocalURL tells whether a status can be asked there and believed: by HTTP, on
// this host, at a port below 1024. Whether only root can listen there is asked with
// each question (serverstatus.RootsPort).
func isLocalURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" || u.User != nil || u.Fragment != "" {
		return false
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	return (u.Hostname() == "127.0.0.1" || u.Hostname() == "::1") && err == nil && port > 0 && port < 1024
}

// checkSecret refuses a file with a password that others can read: every
// customer of a server can read /etc.
func checkSecret(path string, d *Daemon, m *mistakes) {
	st, err := os.Stat(path)
	if err != nil || st.Mode()&0o004 == 0 {
		return
	}
	for _, c := range []struct{ key, value string }{{"database", d.Database}, {"database-owner", d.DatabaseOwner}} {
		if c.value == "" {
			continue
		}
		if parsed, err := pgconn.ParseConfig(c.value); err == nil && parsed.Password != "" {
			m.add(c.key, "holds a password, and everybody can read the file: type chown root:mailquota %s && chmod 0640 %s", path, path)
		}
	}
}

// keys are all keys of the file.
func keys() []string {
	return []string{"database", "database-owner", "host", "socket", "submit-socket", "first-user-uid", "calls-per-user", "calls",
		"request-timeout", "decision-timeout", "on-database-down", "journal", "journal-limit", "journal-share",
		"policy-socket", "policy-listen", "policy-users", "smtp-refusal", "sender-check", "trusted-users", "postfix-queue",
		"metrics", "retention-days", "sums-months", "details-days", "record-subjects", "record-recipients", "record-requests",
		"trace-header", "apache-status", "apache-status-key", "log-level", "log-format",
		"notify-admin", "notify-from", "notify-warn", "notify-digest", "notify-quiet", "notify-customers", "notify-webhook",
		"notify-webhook-key", "notify-hook", "notify-templates", "customers-set-limits"}
}
