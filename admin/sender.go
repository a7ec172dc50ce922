package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/quota"
)

// Sender is an envelope sender that an object, and all that belongs to it, may use
// besides its own: see sender-check in mailquotad.conf(5).
type Sender struct {
	Object  string    `json:"object"`
	Address string    `json:"address"` // or @ and a domain: all addresses in it
	Made    time.Time `json:"made"`
}

// maxSender bounds an address, in bytes (RFC 5321, 4.5.3.1).
const maxSender = 64 + 1 + 255

// ParseSender reads an address, or @ and a domain, in lower case.
func ParseSender(s string) (string, error) {
	address := strings.ToLower(s)
	at := strings.LastIndexByte(address, '@')
	local, domain := address[:max(at, 0)], address[at+1:]
	hint := ""
	switch {
	case (at < 0 && strings.Contains(address, ".") || local == "*") && isMailDomain(domain):
		hint = "@" + domain + " is all addresses of the domain"
	case at >= 0 && len(address) <= maxSender && isLocalPart(local) && isMailDomain(domain):
		return address, nil
	}
	return "", &Error{fmt.Sprintf("%.60q is no address: write info@shop.example, or @shop.example for all of the domain", s), hint}
}

// isLocalPart tells whether a text can be what stands before the @; "" can. What needs
// quotes must have them (RFC 5321, 4.1.2).
func isLocalPart(s string) bool {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }) {
		return false
	}
	quoted := len(s) > 2 && s[0] == '"' && s[len(s)-1] == '"'
	return quoted || !strings.ContainsAny(s, `@*,;:<>()[]\"`)
}

// isMailDomain tells whether a text can be what stands behind the @: also a name
// without a dot, as hosts have.
func isMailDomain(s string) bool {
	return s != "" && isLocalPart(s) && !strings.ContainsAny(s, `"?/`) && s[0] != '.' && s[len(s)-1] != '.' && !strings.Contains(s, "..")
}

// mayHaveSenders refuses objects that nobody sends as.
func mayHaveSenders(o quota.Object) error {
	if o.Class == quota.Server || o.Class == quota.Plan {
		return &Error{fmt.Sprintf("%s can have no senders: write user:, mailbox:, domain: or subscription:", o), ""}
	}
	return nil
}

// AddSender lets an object use a sender. added is false where it could already.
func (a *Admin) AddSender(ctx context.Context, o quota.Object, address string) (added bool, err error) {
	if err := mayHaveSenders(o); err != nil {
		return false, err
	}
	id, err := a.find(ctx, o)
	if err != nil {
		return false, err
	}
	err = a.transaction(ctx, func(tx pgx.Tx) error {
		if err := hold(ctx, tx, o, id); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `INSERT INTO sender (object_id, address) VALUES ($1, $2) ON CONFLICT DO NOTHING`, id, address)
		if added = tag.RowsAffected() == 1; err != nil || !added {
			return err
		}
		return a.note(ctx, tx, "sender add", o.String(), "", address)
	})
	if err != nil && !errors.As(err, new(*Error)) {
		err = fmt.Errorf("sender add %s: %w", o, err)
	}
	return added, err
}

// RemoveSender takes that away again.
func (a *Admin) RemoveSender(ctx context.Context, o quota.Object, address string) error {
	if err := mayHaveSenders(o); err != nil {
		return err
	}
	id, err := a.find(ctx, o)
	if err != nil {
		return err
	}
	return a.change(ctx, "sender remove", o, func(tx pgx.Tx) (string, string, error) {
		tag, err := tx.Exec(ctx, `DELETE FROM sender WHERE object_id = $1 AND address = $2`, id, address)
		if err == nil && tag.RowsAffected() == 0 {
			err = &Error{fmt.Sprintf("%s has no sender %s of its own", o, address), "mailctl sender list " + o.String()}
		}
		return address, noSender(address), err
	})
}

func noSender(address string) string { return "no " + address }

// AddSenders lets many objects use a sender: see AddSender.
func (a *Admin) AddSenders(ctx context.Context, m *Matched, address string) error {
	if err := mayHaveSenders(quota.Object{Class: m.Class}); err != nil {
		return err
	}
	const had = `sender s ON s.object_id = w.id AND s.address = $7` // $7 is what comes after
	return a.changeAll(ctx, "sender add", m, `s.address`, had, address, func(tx pgx.Tx, ids []quota.ID) error {
		_, err := tx.Exec(ctx, `INSERT INTO sender (object_id, address) SELECT unnest($1::bigint[]), $2 ON CONFLICT DO NOTHING`, ids, address)
		return err
	})
}

// RemoveSenders takes a sender from many objects, as far as they have it.
func (a *Admin) RemoveSenders(ctx context.Context, m *Matched, address string) error {
	if err := mayHaveSenders(quota.Object{Class: m.Class}); err != nil {
		return err
	}
	const had = `sender s ON s.object_id = w.id AND 'no ' || s.address = $7` // as noSender has it
	return a.changeAll(ctx, "sender remove", m, `s.address`, had, noSender(address), func(tx pgx.Tx, ids []quota.ID) error {
		_, err := tx.Exec(ctx, `DELETE FROM sender WHERE object_id = ANY($1) AND address = $2`, ids, address)
		return err
	})
}

// Senders lists what was added, of all objects or of one.
func (a *Admin) Senders(ctx context.Context, of *quota.Object) ([]Sender, error) {
	var id quota.ID
	if of != nil {
		if err := mayHaveSenders(*of); err != nil {
			return nil, err
		}
		var err error
		if id, err = a.find(ctx, *of); err != nil {
			return nil, err
		}
	}
	rows, err := a.db.Query(ctx, `SELECT e.object_id, coalesce(s.name, d.name, m.address, u.name || '@' || h.name, ''), e.address, e.made_at
  FROM sender e LEFT JOIN subscription s ON s.id = e.object_id LEFT JOIN domain d ON d.id = e.object_id LEFT JOIN mailbox m ON m.id = e.object_id
  LEFT JOIN system_user u ON u.id = e.object_id LEFT JOIN host h ON h.id = u.host_id
 WHERE $1::bigint IN (0, e.object_id) ORDER BY e.object_id >> 40 DESC, 2, e.address`, id)
	if err != nil {
		return nil, fmt.Errorf("list senders: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Sender, err error) {
		var object quota.ID
		var name string
		err = row.Scan(&object, &name, &s.Address, &s.Made)
		s.Object = quota.Object{Class: object.Class(), Name: name}.String()
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("list senders: %w", err)
	}
	return list, nil
}
