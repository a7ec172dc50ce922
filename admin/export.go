package admin

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/inventory"
	"sendmail-wrapper/quota"
)

// Export reads all objects, limits, modes, senders and exceptions that hold, as of one
// moment. It holds up nothing.
func (a *Admin) Export(ctx context.Context) (*inventory.Inventory, error) {
	var inv *inventory.Inventory
	err := pgx.BeginFunc(ctx, a.db, func(tx pgx.Tx) (err error) {
		if _, err = tx.Exec(ctx, `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY`); err != nil {
			return err
		}
		inv, err = readInventory(ctx, tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	return inv, nil
}

// objectsSQL reads all objects. What a class does not have is empty.
const objectsSQL = `SELECT id, '' AS name, '' AS host, 0::bigint AS uid, '' AS parent, '' AS contact, '' AS document_root, coalesce(mode, '') AS mode FROM server
UNION ALL SELECT id, name, '', 0, '', '', '', coalesce(mode, '') FROM plan WHERE removed_at IS NULL
UNION ALL SELECT s.id, s.name, '', 0, p.name, coalesce(s.contact, ''), '', coalesce(s.mode, '')
  FROM subscription s JOIN plan p ON p.id = s.plan_id WHERE s.removed_at IS NULL
UNION ALL SELECT d.id, d.name, '', 0, s.name, '', coalesce(d.document_root, ''), coalesce(d.mode, '')
  FROM domain d JOIN subscription s ON s.id = d.subscription_id WHERE d.removed_at IS NULL
UNION ALL SELECT m.id, m.address, '', 0, d.name, '', '', coalesce(m.mode, '')
  FROM mailbox m JOIN domain d ON d.id = m.domain_id WHERE m.removed_at IS NULL
UNION ALL SELECT u.id, u.name, h.name, u.uid, s.name, '', '', coalesce(u.mode, '')
  FROM system_user u JOIN host h ON h.id = u.host_id JOIN subscription s ON s.id = u.subscription_id WHERE u.removed_at IS NULL`

const exceptionsSQL = `SELECT DISTINCT kind, coalesce(object_id, 0), network, coalesce(script, ''), coalesce(crontab, ''), coalesce(limit_no, 0), coalesce(value, 0), until, coalesce(why, '')
  FROM exception WHERE until IS NULL OR until > now()
 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9`

// readInventory reads all there is, in a transaction whose queries see the same.
func readInventory(ctx context.Context, tx pgx.Tx) (*inventory.Inventory, error) {
	inv := new(inventory.Inventory)
	at := make(map[quota.ID]int)
	rows, err := tx.Query(ctx, objectsSQL)
	if err != nil {
		return nil, err
	}
	var id quota.ID
	var o inventory.Object
	_, err = pgx.ForEachRow(rows, []any{&id, &o.Name, &o.Host, &o.UID, &o.Parent, &o.Contact.Value, &o.DocumentRoot.Value, &o.Mode.Value}, func() error {
		o.Class = id.Class()
		o.Contact.Said, o.DocumentRoot.Said, o.Mode.Said = o.Class == quota.Subscription, o.Class == quota.Domain, true
		at[id] = len(inv.Objects)
		inv.Objects = append(inv.Objects, o)
		return nil
	})
	if err != nil {
		return nil, err
	}
	rows, err = tx.Query(ctx, `SELECT owner_id, class, messages_hour, messages_day, recipients_hour, recipients_day, recipients_message FROM limits ORDER BY owner_id, class`)
	if err != nil {
		return nil, err
	}
	var class int16
	var values [quota.NumLimits]*int64
	_, err = pgx.ForEachRow(rows, []any{&id, &class, &values[0], &values[1], &values[2], &values[3], &values[4]}, func() error {
		i, there := at[id]
		for l, v := range values {
			if there && v != nil {
				o := &inv.Objects[i]
				o.Limits = append(o.Limits, inventory.Limit{For: quota.Class(class), Limit: quota.Limit(l), Value: v})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	rows, err = tx.Query(ctx, `SELECT object_id, string_agg(address, ' ' ORDER BY address COLLATE "C") FROM sender GROUP BY object_id`)
	if err != nil {
		return nil, err
	}
	var senders string
	_, err = pgx.ForEachRow(rows, []any{&id, &senders}, func() error {
		if i, there := at[id]; there {
			inv.Objects[i].Senders = inventory.Say(senders)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	rows, err = tx.Query(ctx, exceptionsSQL)
	if err != nil {
		return nil, err
	}
	var x inventory.Exception
	var network *netip.Prefix
	var until *time.Time
	var limit int16
	_, err = pgx.ForEachRow(rows, []any{&x.Kind, &id, &network, &x.Script, &x.Crontab, &limit, &x.Value, &until, &x.Why}, func() error {
		e := x
		e.Limit = quota.Limit(limit)
		if network != nil {
			e.Network = *network
		}
		if until != nil {
			e.Until = until.UTC()
		}
		if id != 0 {
			i, there := at[id]
			if !there {
				return nil // of an object that was removed
			}
			e.Object = inv.Objects[i].Ref
		}
		inv.Exceptions = append(inv.Exceptions, e)
		return nil
	})
	return inv, err
}
