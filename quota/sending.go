package quota

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// aboveSQL gives for each of a list of objects itself and what it is charged to
// besides, nearest first, with their names.
const aboveSQL = `SELECT k.id, a.id, CASE a.id >> 40
       WHEN 1 THEN (SELECT name FROM system_user WHERE id = a.id)
       WHEN 2 THEN (SELECT address FROM mailbox WHERE id = a.id)
       WHEN 3 THEN (SELECT name FROM domain WHERE id = a.id)
       WHEN 4 THEN (SELECT name FROM subscription WHERE id = a.id)
       ELSE '' END
  FROM unnest($1::bigint[]) k(id)
  LEFT JOIN system_user u ON u.id = k.id
  LEFT JOIN mailbox m ON m.id = k.id
  LEFT JOIN domain d ON d.id = coalesce(m.domain_id, k.id),
  LATERAL (SELECT DISTINCT id FROM (VALUES (k.id), (d.id), (u.subscription_id), (d.subscription_id), (6::bigint << 40)) v(id) WHERE id IS NOT NULL) a
 ORDER BY k.id, a.id`

// Stopped tells which of some objects can send nothing now, and why not: a block,
// or the limit that is used up, of the object itself or of what is above it.
func (s *Store) Stopped(ctx context.Context, ids []ID) (map[ID]string, error) {
	above := map[ID][]ID{}
	var targets []target
	rows, err := s.pool.Query(ctx, aboveSQL, ids)
	if err != nil {
		return nil, fmt.Errorf("find what is above: %w", err)
	}
	met := map[ID]bool{}
	var id ID
	var t target
	_, err = pgx.ForEachRow(rows, []any{&id, &t.ID, &t.Object.Name}, func() error {
		above[id] = append(above[id], t.ID)
		if !met[t.ID] {
			t.Object.Class = t.ID.Class()
			met[t.ID], targets = true, append(targets, t)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find what is above: %w", err)
	}
	usage := make(map[ID]*ObjectUsage, len(targets))
	for page := range slices.Chunk(targets, usagePage) {
		list, err := s.usage(ctx, page)
		if err != nil {
			return nil, err
		}
		for i := range list {
			usage[page[i].ID] = &list[i]
		}
	}
	stopped := map[ID]string{}
	for _, id := range ids {
		enforced := usage[id] != nil && usage[id].Mode == string(Enforce)
		for _, a := range above[id] {
			if why := usage[a].stops(enforced); why != "" {
				stopped[id] = why
				break
			}
		}
	}
	return stopped, nil
}

// stops says what of an object stops all mail under it; "" if nothing does.
func (u *ObjectUsage) stops(enforced bool) string {
	for _, e := range u.Exceptions {
		if e.Kind == Block {
			return u.Object + " is blocked"
		}
	}
	for _, e := range u.Exceptions {
		enforced = enforced && e.Kind != Whitelist
	}
	if !enforced || u.Grants != nil {
		return ""
	}
	for l := range Limit(NumLimits) {
		v := u.Limits[l.String()]
		if v.Left != nil && *v.Left == 0 && (l != RecipientsMessage || *v.Limit == 0) {
			return u.Object + " " + l.String()
		}
	}
	return ""
}
