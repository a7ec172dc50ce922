package quota

import (
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Values of messages.decision.
const (
	rowAccepted = 1
	rowRefused  = 2
	rowObserved = 3 // accepted, and would have been refused
)

// insertSQL writes many rows with set-returning functions in the select list,
// which PostgreSQL runs faster than unnest in FROM; all arrays have one length.
// 0, ” and -1 stand for NULL, since an array of values is cheaper to send.
const insertSQL = `INSERT INTO messages (at, id, uid, size, user_id, mailbox_id, domain_id, subscription_id, refused_object, host_id,
  recipients, decision, refused_limit, kind_proof, script_proof, crontab_proof, site_proof,
  sender, kind, script, crontab, site, refused_why, facts)
SELECT unnest($2::timestamptz[]), unnest($3::uuid[]), nullif(unnest($4::bigint[]), -1), unnest($5::bigint[]), nullif(unnest($6::bigint[]), 0),
  nullif(unnest($7::bigint[]), 0), nullif(unnest($8::bigint[]), 0), nullif(unnest($9::bigint[]), 0), nullif(unnest($10::bigint[]), 0), $1::integer,
  unnest($11::integer[]), unnest($12::smallint[]), nullif(unnest($13::smallint[]), -1),
  nullif(unnest($14::smallint[]), 0), nullif(unnest($15::smallint[]), 0), nullif(unnest($16::smallint[]), 0), nullif(unnest($17::smallint[]), 0),
  unnest($18::text[]), unnest($19::text[]), nullif(unnest($20::text[]), ''), nullif(unnest($21::text[]), ''),
  nullif(unnest($22::text[]), ''), nullif(unnest($23::text[]), ''), nullif(unnest($24::text[]), '')::jsonb`

// detailsSQL writes those messages of a batch of which something is kept; of
// recipients a text each, a line an address, since PostgreSQL has no arrays of
// different length in an array.
const detailsSQL = `INSERT INTO details (at, id, message_id, subject, recipients)
SELECT unnest($1::timestamptz[]), unnest($2::uuid[]), nullif(unnest($3::text[]), ''), nullif(unnest($4::text[]), ''),
  string_to_array(nullif(unnest($5::text[]), ''), E'\n')`

// messageRows is a batch of rows, column by column, in types that pgx encodes
// without reflection.
type messageRows struct {
	at                                           []time.Time
	id                                           pgtype.FlatArray[pgtype.UUID]
	uid, size, recipients                        []int64
	user, mailbox, domain, subscription          []int64
	refusedObject                                []int64
	decision, refusedLimit                       []int16
	kindProof, scriptProof, cronProof, siteProof []int16
	sender, kind, script, crontab, site, why     []string
	facts                                        []string
	details                                      detailsRows
}

// detailsRows is the same of details.
type detailsRows struct {
	at                     []time.Time
	id                     pgtype.FlatArray[pgtype.UUID]
	messageID, subject, to []string
}

func (c *detailsRows) add(m *Message, at time.Time) {
	d := m.Details.bounded()
	if d.isZero() {
		return
	}
	c.at = append(c.at, at)
	c.id = append(c.id, pgtype.UUID{Bytes: m.ID, Valid: true})
	c.messageID = append(c.messageID, d.MessageID)
	c.subject = append(c.subject, d.Subject)
	c.to = append(c.to, strings.Join(d.To, "\n"))
}

func (c *messageRows) add(m *Message, r *route, d *Decision) {
	o := &m.Origin
	c.at = append(c.at, d.At)
	c.id = append(c.id, pgtype.UUID{Bytes: m.ID, Valid: true})
	uid := int64(o.UID)
	if m.Mailbox != "" || m.NoUser {
		uid = -1
	}
	c.uid = append(c.uid, uid)
	c.size = append(c.size, m.Size)
	var of [Server + 1]ID
	for _, t := range r.Targets {
		of[t.Object.Class] = t.ID
	}
	c.user = append(c.user, int64(of[User]))
	c.mailbox = append(c.mailbox, int64(of[Mailbox]))
	c.domain = append(c.domain, int64(of[Domain]))
	c.subscription = append(c.subscription, int64(of[Subscription]))
	c.recipients = append(c.recipients, int64(m.Recipients))
	c.kindProof = append(c.kindProof, int16(o.KindProof))
	c.scriptProof = append(c.scriptProof, int16(o.Script.Proof))
	c.cronProof = append(c.cronProof, int16(o.Crontab.Proof))
	c.siteProof = append(c.siteProof, int16(o.Site.Proof))
	c.sender = append(c.sender, text(m.Sender))
	c.kind = append(c.kind, text(string(o.Kind)))
	c.script = append(c.script, text(o.Script.Value))
	c.crontab = append(c.crontab, text(o.Crontab.Value))
	c.site = append(c.site, text(o.Site.Value))

	decision, object, limit, why := rowAccepted, ID(0), int16(-1), ""
	refusal := d.Refusal
	switch {
	case refusal != nil:
		decision = rowRefused
	case d.Observed != nil:
		decision, refusal = rowObserved, d.Observed
	}
	if refusal != nil {
		why = refusal.Text()
		if class := refusal.Object.Class; class != 0 {
			object = of[class]
		}
		if refusal.byLimit() {
			limit = int16(refusal.Limit)
		}
	}
	c.decision = append(c.decision, int16(decision))
	c.refusedObject = append(c.refusedObject, int64(object))
	c.refusedLimit = append(c.refusedLimit, limit)
	c.why = append(c.why, text(why))
	c.facts = append(c.facts, factsOf(o))
	c.details.add(m, d.At)
}

// queue has the rows written by a trip to the database.
func (c *messageRows) queue(trip *pgx.Batch, hostID int32) {
	if len(c.id) > 0 {
		trip.Queue(insertSQL, c.arguments(hostID)...)
	}
	if d := &c.details; len(d.id) > 0 {
		trip.Queue(detailsSQL, d.at, d.id, d.messageID, d.subject, d.to)
	}
}

func (c *messageRows) arguments(hostID int32) []any {
	return []any{hostID, c.at, c.id, c.uid, c.size, c.user, c.mailbox, c.domain, c.subscription, c.refusedObject, c.recipients,
		c.decision, c.refusedLimit, c.kindProof, c.scriptProof, c.cronProof, c.siteProof,
		c.sender, c.kind, c.script, c.crontab, c.site, c.why, c.facts}
}

// maxText bounds each text of a row, in bytes: 4 KiB holds any path (PATH_MAX).
const maxText = 4096

// text makes bytes from a stranger fit for a column of type text, which takes
// neither NUL nor what is no UTF-8; both show as U+FFFD.
func text(s string) string { return cut(s, maxText) }

// cut is text with another bound. What it returns it leaves as it is.
func cut(s string, most int) string {
	s = trim(s, most)
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	return trim(s, most) // U+FFFD is longer than what it stands for
}

// trim cuts a text at the end of a character, if it has valid ones.
func trim(s string, most int) string {
	if len(s) <= most {
		return s
	}
	n := most
	for n > most-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
