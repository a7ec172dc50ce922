package quota

import (
	"time"

	"github.com/google/uuid"
)

// EventKind is what kind of event it is. The words are stored.
type EventKind string

const (
	EventRefused  EventKind = "refused"  // a limit of the object refused a message
	EventObserved EventKind = "observed" // would have, if it were enforced
	EventWarned   EventKind = "warned"   // a message brought the object to WarnPercent of a limit, or beyond
)

// Event is something that somebody is to be told of: about one object, found
// when a message was decided. Each such message brings one; package notify
// makes one event of many.
type Event struct {
	Kind    EventKind
	Object  Object
	ID      ID // of Object; 0 where it is not known yet (decided without a database)
	Limit   Limit
	Max     int64 // the limit's value
	Used    int64 // of it: before the message for refused ones, with it for EventWarned
	At      time.Time
	Message uuid.UUID
}
