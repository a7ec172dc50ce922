package sendmail

import (
	"slices"
	"strings"
)

// maxNamed is how much of a list is looked at to find the addresses that the report
// names, in bytes.
const maxNamed = 8 << 10

// names are the first recipients, each once, as they stand in argv or header without
// their brackets and names: as Postfix splits a list, whatever the MTA, because they
// are for the report only.
type names []string

func (n *names) add(list string) {
	if len(*n) >= MaxAddresses {
		return
	}
	cut := len(list) > maxNamed
	var kinds []byte
	var texts []string
	tokens(list[:min(len(list), maxNamed)], func(kind byte, text string) {
		kinds, texts = append(kinds, kind), append(texts, text)
	})
	var found []string
	split(kinds, func(from, to int) {
		if cut && to == len(kinds) { // it may go on
			return
		}
		address := strings.Join(texts[from:to], "")
		found = append(found, strings.Clone(address[:min(len(address), MaxAddress)]))
	})
	for _, address := range slices.Backward(found) { // the last one came first
		if len(*n) < MaxAddresses && !slices.Contains(*n, address) {
			*n = append(*n, address)
		}
	}
}

// named is what the report calls the recipients.
func (s *scanner) named() []string {
	if !s.call.FromHeader {
		return s.operandNames
	}
	header := s.plainNames
	if s.isResent {
		header = s.resentNames
	}
	all := s.operandNames
	switch {
	case s.p.Arguments == subtracted:
		return slices.DeleteFunc(header, func(address string) bool { return slices.Contains(s.operandNames, address) })
	case s.isResent && s.p.ResentForgets:
		all = nil
	}
	for _, address := range header {
		if len(all) < MaxAddresses && !slices.Contains(all, address) {
			all = append(all, address)
		}
	}
	return all
}
