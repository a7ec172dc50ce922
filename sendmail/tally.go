package sendmail

// tally counts recipients.
type tally struct {
	p        *Profile
	operands *tally // those that were before, for the header
	n        int
	seen     map[string]bool // the first maxSeen, where the profile must know them again
}

// maxSeen bounds the memory for addresses: later ones may count twice.
const maxSeen = 10_000

// list counts the addresses of a list; ifNone, if there is none.
func (t *tally) list(list string, ifNone int) {
	addresses, before := 0, t.n
	t.p.addresses(list, func(address string) {
		addresses++
		if t.add(address) {
			t.n++
		}
	})
	switch {
	case addresses == 0:
		t.n += ifNone
	case addresses > 1 && t.n == before && t.p.OldStyle:
		t.n++
	}
}

// add is whether an address is one recipient more. "" is an address of which
// nothing can be said.
func (t *tally) add(address string) bool {
	if address == "" || t.p.Duplicates == kept && t.p.Arguments == added {
		return true
	}
	if t.operands != nil && t.operands.seen[address] { // dropped, or subtracted
		return false
	}
	again := t.seen[address]
	if !again && len(t.seen) < maxSeen {
		if t.seen == nil {
			t.seen = map[string]bool{}
		}
		t.seen[address] = true
	}
	return !again || t.p.Duplicates == kept
}
