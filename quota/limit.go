package quota

import (
	"fmt"
	"strings"
)

// Limit is one of the limits that an object can have. The numbers are stored.
type Limit uint8

const (
	MessagesHour Limit = iota
	MessagesDay
	RecipientsHour
	RecipientsDay
	RecipientsMessage // most recipients of one message; has no window
	NumLimits         = iota
)

var limitNames = [NumLimits]string{"messages/hour", "messages/day", "recipients/hour", "recipients/day", "recipients/message"}

// String returns the form that ParseLimit reads.
func (l Limit) String() string { return limitNames[l] }

// ParseLimit reads "messages/hour" and the like. The error names the limits
// there are.
func ParseLimit(s string) (Limit, error) {
	for i, n := range limitNames {
		if s == n {
			return Limit(i), nil
		}
	}
	return 0, fmt.Errorf("%q is no limit: write one of %s", s, strings.Join(limitNames[:], ", "))
}

// Unlimited as the value of a bound lets everything through. It is stored.
const Unlimited = -1

// Bound is the limit in force for one object: its value, and the class of the
// object on which it was set. From is 0 where nobody set one: unlimited.
type Bound struct {
	Max  int64 // ≥ 0, or Unlimited
	From Class
}

// Bounds are the limits in force for one object, by Limit.
type Bounds [NumLimits]Bound

// Unbounded is Bounds with nothing set.
func Unbounded() (b Bounds) {
	for i := range b {
		b[i].Max = Unlimited
	}
	return b
}
