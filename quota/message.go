package quota

import (
	"time"

	"github.com/google/uuid"

	"sendmail-wrapper/origin"
)

// Message is one message that somebody wants to send.
type Message struct {
	ID         uuid.UUID // version 7; a message that comes twice with one ID is charged once
	Origin     origin.Origin
	Sender     string // envelope sender, "" for the null sender
	Recipients int    // envelope recipients, ≥ 1
	Size       int64  // bytes
	Forbidden  string // not empty: refused whatever the limits, for this reason
}

// Decision is what became of a Message.
type Decision struct {
	At           time.Time // by the database's clock
	Refusal      *Refusal  // nil: accepted and charged
	Subscription string    // whom it was charged to, for the log
	Domain       string    // "" where no domain is known
}

// Refusal says why a message was refused.
type Refusal struct {
	Object Object // whose limit; zero where no limit but Message.Forbidden refused it
	Limit  Limit
	Max    int64     // the limit's value
	Used   int64     // used when the message came (RecipientsMessage: recipients of the message)
	FreeAt time.Time // when the same message would pass, if nothing else is sent; zero: never
	Reason string    // Message.Forbidden
}
