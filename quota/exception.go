package quota

import (
	"net/netip"
	"time"
)

// ExceptionKind is what an exception does. The words are stored.
type ExceptionKind string

const (
	Raise     ExceptionKind = "raise"     // another value of one limit of an object, mostly a higher one
	Block     ExceptionKind = "block"     // all mail of its subject is refused
	Whitelist ExceptionKind = "whitelist" // mail of its subject is counted, and no limit refuses it
)

// Exception is a rule besides the limits, for a time or until it is removed. Its
// subject is one of Object, Network, Script and Crontab.
//
// A block holds for a script or crontab line however sure they are: who forges
// them, to get away or into it, only harms himself. A white list believes proved
// ones only (origin.System or better).
type Exception struct {
	ID      int64
	Kind    ExceptionKind
	Object  ID           // 0: another subject
	Network netip.Prefix // of the address of an SMTP or web client
	Script  string       // a path; with / at its end, all below it; a message's script and include count
	Crontab string       // part of a crontab line
	Limit   Limit        // of a Raise
	Value   int64        // of a Raise: ≥ 0, or Unlimited
	Until   time.Time    // holds before it; zero: until removed
}
