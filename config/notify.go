package config

import (
	"net/mail"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"
)

const day = 24 * time.Hour

func (d *Daemon) checkNotify(m *mistakes) {
	for _, a := range d.NotifyAdmin {
		if !IsRecipient(a) {
			m.add("notify-admin", "= %q: must be addresses such as \"root\" or \"ops@example.com\"", a)
		}
	}
	if !isAddress(d.NotifyFrom) {
		m.add("notify-from", "= %q: must be an address such as \"mailquota@example.com\"", d.NotifyFrom)
	}
	if d.NotifyWarn < 0 || d.NotifyWarn > 99 {
		m.add("notify-warn", "= %d: must be 1 to 99 percent, or 0 for no warnings", d.NotifyWarn)
	}
	// Then each begins at the same times of every day.
	if v := time.Duration(d.NotifyDigest); v != 0 && (v < 5*time.Minute || v > day || day%v != 0) {
		m.add("notify-digest", "= %q: must be 5m to 24h and divide a day, or \"0\" for no digests", v)
	}
	if v := time.Duration(d.NotifyQuiet); v < 5*time.Minute || v > day {
		m.add("notify-quiet", "= %q: must be 5m0s to 24h0m0s", v)
	}
	if d.NotifyWebhook != "" && !isWebhook(d.NotifyWebhook) {
		m.add("notify-webhook", "= %q: must be a URL such as \"https://ops.example.com/mail\", without user and password, or empty", d.NotifyWebhook)
	}
	for _, p := range []struct{ key, value string }{{"notify-webhook-key", d.NotifyWebhookKey}, {"notify-hook", d.NotifyHook}, {"notify-templates", d.NotifyTemplates}} {
		if optional := p.key == "notify-hook"; (p.value != "" || !optional) && (!path.IsAbs(p.value) || strings.Contains(p.value, "\x00")) {
			empty := ""
			if optional {
				empty = ", or empty"
			}
			m.add(p.key, "= %q: must be an absolute path%s", p.value, empty)
		}
	}
}

var localName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}$`)

// IsRecipient tells whether mail can be sent there: to an address, or a name of
// this host's, such as root. What a mail server would take for an option, a
// program or a file is neither.
func IsRecipient(s string) bool { return localName.MatchString(s) || isAddress(s) }

// isAddress is narrower than RFC 5321: it goes into headers and command lines.
func isAddress(s string) bool {
	a, err := mail.ParseAddress(s)
	if err != nil || a.Address != s || len(s) > 254 {
		return false
	}
	local, domain := s[:strings.LastIndexByte(s, '@')], s[strings.LastIndexByte(s, '@')+1:]
	return !strings.HasPrefix(local, "-") && !strings.ContainsAny(s, "\"|/\\:%!<> \t\r\n") && !strings.HasPrefix(domain, "[")
}

// isWebhook tells whether a URL can be posted to. A password would be in the list
// of notices.
func isWebhook(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() != "" && u.User == nil && u.Fragment == ""
}
