// Package notify tells people what they should know: that mail of an object is
// refused, or would be, or is near a limit, and by what it was sent.
//
// # From a message to a notification
//
// Each message that a limit refuses brings a quota.Event. The [Recorder] of each
// mailquotad makes of all of an object and a kind one row of table event: the
// unique index event_open_key lets one be open at a time, whichever host was
// first. A [Deliverer], of all hosts' one at a time, finds new rows, makes a row of
// table notice for each who is to be told, once (notice_event_key), and delivers
// these: to the administrator and the customer by mail, to a web hook, to a
// program. An event is closed when there was nothing for some time; the next
// message opens another.
//
// # Once
//
// Who is about to deliver a notice moves its due_at on first, in a transaction of
// its own. So two deliverers, of which one does not know yet that it is no longer
// the one, do not deliver the same. Only when a deliverer dies between delivery
// and the note of it, the notice comes a second time, with the same Message-ID
// and id.
//
// # No loops
//
// Mail goes by the real sendmail and is not counted, so it makes no event. It has
// the null sender, so no bounce comes back (RFC 5321, 4.5.5), and
// Auto-Submitted, so nothing should answer it (RFC 3834).
package notify

import (
	"time"

	"sendmail-wrapper/quota"
)

// pgChannel wakes the deliverer, by NOTIFY.
const pgChannel = "mailquota_event"

// wakeful is how long the deliverer sleeps at most, and how long a later message
// of an event waits until it is written.
const wakeful = 30 * time.Second

// Test is the kind of what mailctl notify test sends, and Digest that of a digest,
// beside those of package quota.
const (
	Test   quota.EventKind = "test"
	Digest quota.EventKind = "digest"
)

// Channels are the ways to tell somebody. The words are stored.
const (
	Admin    = "admin"    // mail to the administrator
	Customer = "customer" // mail to the customer
	Webhook  = "webhook"  // HTTP POST
	Hook     = "hook"     // a program
)

// Channels lists them.
var Channels = []string{Admin, Customer, Webhook, Hook}
