package main

// finding is what a check of mailctl doctor found. Each area has a function that
// looks and returns some: for each thing that it looks at one, be it fine or not.
type finding struct {
	Check    string       `json:"check"`              // stable name, such as "network-door"
	State    findingState `json:"state"`              //
	Severity severity     `json:"severity,omitempty"` // of what is not fine
	Text     string       `json:"text"`               // what is fine, or what is open or wrong and what it lets through
	Command  string       `json:"command,omitempty"`  // that closes or mends it
}

// findingState is how a finding stands.
type findingState string

const (
	isFine    findingState = "fine"
	isOpen    findingState = "open"    // a way past the counters, or what was not set up
	isWrong   findingState = "wrong"   // what was set up does not work
	isUnknown findingState = "unknown" // it could not be looked at
)

// severity is how bad it is.
type severity string

const (
	lowSeverity    severity = "low"    // a convenience is missing
	mediumSeverity severity = "medium" // mail may leave uncounted by somebody who tries to
	highSeverity   severity = "high"   // mail leaves uncounted, or is lost or refused, now
)
