package quota

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"sendmail-wrapper/origin"
)

// rules are what holds besides limits: exceptions, and the mode of the server. They
// are never changed, only replaced.
type rules struct {
	mode       Mode
	exceptions []Exception
	raises     map[ID][]*Exception
	blocks     subjects
	whitelist  subjects
}

// subjects finds the exceptions of a message without going through all of them, but
// for those of crontab lines.
type subjects struct {
	objects  map[ID][]*Exception
	scripts  map[string][]*Exception // directories end in /
	crontabs []*Exception
	networks map[netip.Prefix][]*Exception
	lengths  []netip.Prefix // for each length of a prefix, by family, one that has it
}

const (
	serverModeSQL = `SELECT coalesce((SELECT mode FROM server), 'enforce')`

	// exceptionsSQL: those that hold now or, with a clock that is behind, still.
	exceptionsSQL = `SELECT id, kind, object_id, network, script, crontab, limit_no, value, until FROM exception
 WHERE until IS NULL OR until > clock_timestamp() - interval '1 minute' ORDER BY id`
)

// queueRules has rules read by a trip to the database.
func queueRules(trip *pgx.Batch, done func(*rules)) {
	var mode string
	trip.Queue(serverModeSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&mode) })
	trip.Queue(exceptionsSQL).Query(func(rows pgx.Rows) error {
		list, err := pgx.CollectRows(rows, scanException)
		if err == nil {
			done(newRules(modeOf(mode), list))
		}
		return err
	})
}

func scanException(row pgx.CollectableRow) (e Exception, err error) {
	var object *ID
	var network *netip.Prefix
	var script, crontab *string
	var limit *int16
	var value *int64
	var until *time.Time
	if err := row.Scan(&e.ID, &e.Kind, &object, &network, &script, &crontab, &limit, &value, &until); err != nil {
		return e, err
	}
	e.Object, e.Network, e.Script, e.Crontab = deref(object), deref(network), deref(script), deref(crontab)
	e.Limit, e.Value, e.Until = Limit(deref(limit)), min(deref(value), maxCount), deref(until).UTC()
	return e, nil
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func newRules(mode Mode, list []Exception) *rules {
	r := &rules{mode: mode, exceptions: list}
	for i := range list {
		switch e := &list[i]; e.Kind {
		case Raise:
			if r.raises == nil {
				r.raises = map[ID][]*Exception{}
			}
			r.raises[e.Object] = append(r.raises[e.Object], e)
		case Block:
			r.blocks.add(e)
		case Whitelist:
			r.whitelist.add(e)
		}
	}
	return r
}

func (s *subjects) add(e *Exception) {
	switch {
	case e.Object != 0:
		if s.objects == nil {
			s.objects = map[ID][]*Exception{}
		}
		s.objects[e.Object] = append(s.objects[e.Object], e)
	case e.Script != "":
		if s.scripts == nil {
			s.scripts = map[string][]*Exception{}
		}
		key := path.Clean(e.Script)
		if strings.HasSuffix(e.Script, "/") && key != "/" {
			key += "/"
		}
		s.scripts[key] = append(s.scripts[key], e)
	case e.Crontab != "":
		s.crontabs = append(s.crontabs, e)
	case e.Network.IsValid():
		if s.networks == nil {
			s.networks = map[netip.Prefix][]*Exception{}
		}
		network := e.Network.Masked()
		s.networks[network] = append(s.networks[network], e)
		if !slices.ContainsFunc(s.lengths, func(p netip.Prefix) bool {
			return p.Bits() == network.Bits() && p.Addr().Is4() == network.Addr().Is4()
		}) {
			s.lengths = append(s.lengths, network)
		}
	}
}

// holds tells whether an exception holds at a time.
func (e *Exception) holds(at time.Time) bool { return e.Until.IsZero() || at.Before(e.Until) }

// last is a or, if it holds longer at a time, one of list.
func last(a *Exception, list []*Exception, at time.Time) *Exception {
	for _, e := range list {
		if e.holds(at) && (a == nil || !a.Until.IsZero() && (e.Until.IsZero() || e.Until.After(a.Until))) {
			a = e
		}
	}
	return a
}

// find returns the exception of a message that holds longest at a time, nil if none
// does. Facts with less proof than least are not looked at.
func (s *subjects) find(m *Message, targets []target, least origin.Proof, at time.Time) (found *Exception) {
	if s.objects != nil {
		for _, t := range targets {
			if t.ID != 0 {
				found = last(found, s.objects[t.ID], at)
			}
		}
	}
	if m.Mailbox == "" { // of others the origin is not looked at
		if s.scripts != nil {
			for _, f := range []*origin.Fact{&m.Origin.Script, &m.Origin.Include} {
				if f.Proof >= least {
					found = s.findScript(found, text(f.Value), at)
				}
			}
		}
		for i, e := range s.crontabs {
			if c := &m.Origin.Crontab; c.Proof >= least && strings.Contains(c.Value, e.Crontab) {
				found = last(found, s.crontabs[i:i+1], at)
			}
		}
	}
	if client := m.Client.Unmap().WithZone(""); client.IsValid() {
		for _, p := range s.lengths {
			if p.Addr().Is4() == client.Is4() {
				network, _ := client.Prefix(p.Bits()) // no error: bits fit the family
				found = last(found, s.networks[network], at)
			}
		}
	}
	return found
}

// findScript looks for a path and each directory above it. A path that was not
// proved may have what leads out of a directory in it.
func (s *subjects) findScript(found *Exception, script string, at time.Time) *Exception {
	if script == "" {
		return found
	}
	script = path.Clean(script)
	found = last(found, s.scripts[script], at)
	for i := len(script) - 1; i >= 0; i-- {
		if script[i] == '/' {
			found = last(found, s.scripts[script[:i+1]], at)
		}
	}
	return found
}

// judge decides what holds before limits: whether a message is blocked, and the
// mode of the others; and says by which exception.
func (r *rules) judge(m *Message, route *route, at time.Time) (mode Mode, blocked *Refusal, by *Exception) {
	if by = r.blocks.find(m, route.Targets, 0, at); by != nil {
		return route.Mode, by.refusal(route.Targets), by
	}
	if by = r.whitelist.find(m, route.Targets, origin.System, at); by != nil {
		return Off, nil, by
	}
	return route.Mode, nil, nil
}

// decide decides about a message, whose accounts are those of its route.
func (r *rules) decide(m *Message, route *route, accounts []*Account, warn int64, now time.Time) (d Decision) {
	mode := Off
	if !m.Passes {
		if m.Forbidden != "" {
			return Decision{At: now, Refusal: &Refusal{Reason: m.Forbidden}}
		}
		var blocked *Refusal
		if mode, blocked, _ = r.judge(m, route, now); blocked != nil {
			return Decision{At: now, Refusal: blocked}
		}
	}
	foreign := route.foreign
	if mode == Off {
		foreign = nil
	}
	if foreign != nil && m.SenderCheck == SenderRefuse && mode == Enforce {
		return Decision{At: now, Refusal: foreign}
	}
	if m.Probe {
		d, _, _ = judge(accounts, m.cost(), mode, now, nil)
		if d.Refusal == nil {
			d.Events = nil
		}
	} else {
		d = Decide(accounts, m.cost(), mode, warn, now)
	}
	if foreign != nil && d.Refusal == nil && d.Observed == nil {
		d.Observed = foreign
	}
	for i := range d.Events {
		d.Events[i].Message = m.ID
	}
	return d
}

// refusal is what a block says.
func (e *Exception) refusal(targets []target) *Refusal {
	r := &Refusal{Blocked: true}
	subject := ""
	switch {
	case e.Script != "":
		subject = "script " + e.Script
	case e.Crontab != "":
		subject = fmt.Sprintf("crontab line with %q", e.Crontab)
	default:
		for _, t := range targets {
			if t.ID == e.Object {
				r.Object = t.Object
			}
		}
		subject = r.Object.phrase()
	}
	r.Reason = subject + " is blocked by the administrator"
	if !e.Until.IsZero() {
		r.Reason += "; until " + e.Until.UTC().Format("2006-01-02 15:04 UTC")
	}
	return r
}
