package inventory

import (
	"fmt"
	"strings"

	"sendmail-wrapper/quota"
)

// PleskQuery asks Plesk's database for what ReadPlesk reads. A domain that is a
// subscription has webspace_id 0, and its own name; those below it have its id.
const PleskQuery = `SELECT coalesce(w.name, d.name), d.name, u.login, h.www_root, concat(m.mail_name, '@', d.name)` +
	` FROM domains d LEFT JOIN domains w ON w.id = d.webspace_id LEFT JOIN hosting h ON h.dom_id = d.id` +
	` LEFT JOIN sys_users u ON u.id = h.sys_user_id LEFT JOIN mail m ON m.dom_id = d.id AND m.postbox = 'true'`

// unescapeMySQL undoes what mysql(1) does to columns in batch mode.
var unescapeMySQL = strings.NewReplacer(`\\`, `\`, `\t`, "\t", `\n`, "\n", `\0`, "\x00")

// ReadPlesk reads what plesk db -Ne with PleskQuery writes: a line each mailbox or
// domain without one, five columns separated by tabs, NULL where there is none.
func ReadPlesk(file string, text []byte, s *System) (*Inventory, error) {
	text, err := checkText(file, text, maxLine)
	if err != nil {
		return nil, err
	}
	b := newBuilder()
	b.inv.Observed = true
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			continue
		}
		columns := strings.Split(line, "\t")
		if len(columns) != 5 {
			return nil, &Error{file, number, 0, fmt.Sprintf("%d columns instead of 5, separated by tabs: subscription, domain, login, document root, mailbox", len(columns))}
		}
		for i, c := range columns {
			if columns[i] = unescapeMySQL.Replace(c); c == "NULL" {
				columns[i] = ""
			}
		}
		if err := putPlesk(b, s, columns, number); err != nil {
			return nil, &Error{file, number, 0, err.Error()}
		}
	}
	return b.inv, nil
}

func putPlesk(b *builder, s *System, columns []string, line int) error {
	subscription, domain, login := strings.ToLower(columns[0]), strings.ToLower(columns[1]), columns[2]
	root, mailbox := columns[3], strings.ToLower(columns[4])
	if subscription == "" || domain == "" {
		return fmt.Errorf("no subscription, or no domain")
	}
	objects := []Object{{Ref: Ref{Class: quota.Subscription, Name: subscription}}}
	d := Object{Ref: Ref{Class: quota.Domain, Name: domain}, Parent: subscription}
	if root != "" {
		d.DocumentRoot = Say(root)
	}
	objects = append(objects, d)
	if uid, there := s.uids[login]; there && s.ordinary(uid) {
		objects = append(objects, Object{Ref: s.user(login, uid), Parent: subscription})
	}
	if mailbox != "" {
		objects = append(objects, Object{Ref: Ref{Class: quota.Mailbox, Name: mailbox}, Parent: domain})
	}
	for _, o := range objects {
		o.Line = line
		if err := b.put(o); err != nil {
			return err
		}
	}
	return nil
}
