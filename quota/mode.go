package quota

import "fmt"

// Mode says what limits do to a message. It is set on the server, a plan, a
// subscription, a domain, a mailbox or a system user; the nearest one set on the
// way from user or mailbox, domain, subscription and plan to the server holds for
// the whole message, whichever account's limit it is. Blocks hold in any mode.
type Mode string

const (
	Enforce Mode = "enforce" // what does not fit is refused; holds where none is set
	Observe Mode = "observe" // all is let through and charged; what would have been refused is recorded
	Off     Mode = "off"     // all is let through and charged
)

// ParseMode reads a Mode. The error names those there are.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case Enforce, Observe, Off:
		return m, nil
	}
	return "", fmt.Errorf("%q is no mode: write enforce, observe or off", s)
}

// modeOf reads what the database has, whose words are checked there.
func modeOf(s string) Mode {
	switch s {
	case string(Observe):
		return Observe
	case string(Off):
		return Off
	}
	return Enforce
}
