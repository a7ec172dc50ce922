package quota

// Foresees tells whether a message would be refused, as far as this host remembers
// whose it is and what was used. It asks nobody, and so may be asked about each
// recipient; what it says is a reason to ask by Message.Probe, and no more.
func (s *Store) Foresees(m Message) bool {
	r := s.memory.lastRoute(s.keyOf(&m))
	if r == nil {
		return false
	}
	accounts := make([]*Account, len(r.Targets))
	for i, t := range r.Targets {
		a, err := s.memory.account(t, 100)
		if err != nil {
			return false
		}
		a.Exempt, a.share = t.Exempt, nil
		accounts[i] = a
	}
	m.Probe = true
	return s.memory.lastRules().decide(&m, r, accounts, 0, s.memory.now()).Refusal != nil
}
