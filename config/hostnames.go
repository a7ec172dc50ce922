package config

import (
	"os"
	"strings"
)

// mailName is the file with the domain of mail that has none (mailname(5)).
var mailName = "/etc/mailname"

// HostNames are those that this host has in envelope senders of its users: Host, the
// kernel's, and the one in /etc/mailname. Some may be empty, or the same.
func (d *Daemon) HostNames() []string {
	names := []string{d.Host}
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	text, err := os.ReadFile(mailName)
	if err == nil {
		name, _, _ := strings.Cut(string(text), "\n")
		names = append(names, strings.TrimSpace(name))
	}
	return names
}
