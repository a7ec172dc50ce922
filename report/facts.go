package report

import (
	"encoding/json"
	"fmt"

	"sendmail-wrapper/origin"
)

// Kinds are those of programs that send mail, as messages have them.
var Kinds = kinds(origin.PHPFPM, origin.ModPHP, origin.PHPCGI, origin.PHPCLI, origin.CGI, origin.Cron, origin.Anacron, origin.At,
	origin.Systemd, origin.Shell, origin.Pipe, origin.Program, origin.SMTP, origin.Forward, origin.Relay, origin.Bounce, origin.Unknown)

func kinds(list ...origin.Kind) (words []string) {
	for _, kind := range list {
		words = append(words, string(kind))
	}
	return words
}

// fact is where a message has a fact of origin.Origin.Facts; nil for a name that
// this version does not know.
func (m *Message) fact(name string) **string {
	switch name {
	case "script":
		return &m.Script
	case "include":
		return &m.Include
	case "crontab":
		return &m.Crontab
	case "site":
		return &m.Site
	case "document_root":
		return &m.DocumentRoot
	case "method":
		return &m.Method
	case "uri":
		return &m.URI
	case "client":
		return &m.Client
	case "unit":
		return &m.Unit
	case "login":
		return &m.Login
	case "container":
		return &m.Container
	case "via":
		return &m.Via
	}
	return nil
}

// Fact is the value of one of the names of origin.Origin.Facts; nil if it is not
// known.
func (m *Message) Fact(name string) *string {
	if f := m.fact(name); f != nil {
		return *f
	}
	return nil
}

// setFacts takes what column facts has: {"unit": ["cron.service", "kernel"], …,
// "chain": […]}. A name that a later version wrote is passed over.
func (m *Message) setFacts(column []byte) error {
	m.Chain = []origin.Process{}
	if column == nil {
		return nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(column, &all); err != nil {
		return fmt.Errorf("facts of message %s: %w", m.ID, err)
	}
	for name, text := range all {
		if name == "chain" {
			if err := json.Unmarshal(text, &m.Chain); err != nil {
				return fmt.Errorf("chain of message %s: %w", m.ID, err)
			}
			continue
		}
		f := m.fact(name)
		var pair [2]string
		if f == nil {
			continue
		}
		if err := json.Unmarshal(text, &pair); err != nil {
			return fmt.Errorf("%s of message %s: %w", name, m.ID, err)
		}
		*f, m.Proof[name] = &pair[0], pair[1]
	}
	return nil
}
