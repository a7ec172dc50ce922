package quota

import (
	"slices"
	"strconv"
	"strings"

	"sendmail-wrapper/origin"
)

// Bounds of what a row has besides the texts of its columns, in bytes.
const (
	maxFact    = 1000 // a fact without a column, such as a URI
	maxProgram = 255  // a program of the chain
	maxLine    = 998  // a line of a header (RFC 5322, 2.1.1)
	maxTo      = 254  // an address (RFC 5321, 4.5.3.1.3, less its angle brackets)
)

// maxAddresses is how many addresses details have.
const maxAddresses = 20

// hasColumn tells whether a fact is stored in a column of its own.
func hasColumn(name string) bool { return name == "script" || name == "crontab" || name == "site" }

// boundFacts makes the facts of an origin, and its chain, fit for a row.
func boundFacts(o *origin.Origin) {
	for name, f := range o.Facts() {
		if hasColumn(name) {
			f.Value = text(f.Value)
		} else {
			f.Value = cut(f.Value, maxFact)
		}
	}
	o.Chain = slices.Clone(o.Chain[:min(len(o.Chain), origin.MaxChain)]) // others have the slice, too
	for i := range o.Chain {
		o.Chain[i].Program = cut(o.Chain[i].Program, maxProgram)
	}
}

// bounded are details that fit into a row. An address has no line break, which
// stands between two in the row.
func (d *Details) bounded() Details {
	b := Details{MessageID: cut(d.MessageID, maxLine), Subject: cut(d.Subject, maxLine)}
	for _, address := range d.To[:min(len(d.To), maxAddresses)] {
		if address = strings.ReplaceAll(cut(address, maxTo), "\n", "\uFFFD"); address != "" {
			b.To = append(b.To, address)
		}
	}
	return b
}

func (d *Details) isZero() bool { return d.MessageID == "" && d.Subject == "" && len(d.To) == 0 }

// factsOf is the value of messages.facts, as JSON, "" for NULL. All texts are
// bounded, valid UTF-8, and without NUL, which jsonb does not take.
func factsOf(o *origin.Origin) string {
	size := 2
	for name, f := range o.Facts() {
		if f.Proof != 0 && !hasColumn(name) {
			size += len(name) + len(f.Value) + 24
		}
	}
	for i := range o.Chain {
		size += len(o.Chain[i].Program) + 64
	}
	if size == 2 {
		return ""
	}
	b := append(make([]byte, 0, size), '{')
	for name, f := range o.Facts() {
		if f.Proof == 0 || hasColumn(name) {
			continue
		}
		b = append(b, '"')
		b = append(append(b, name...), `":[`...)
		b = append(appendJSON(b, cut(f.Value, maxFact)), `,"`...)
		b = append(append(b, f.Proof.String()...), `"],`...)
	}
	if len(o.Chain) > 0 {
		b = append(b, `"chain":[`...)
		for _, p := range o.Chain[:min(len(o.Chain), origin.MaxChain)] {
			b = strconv.AppendInt(append(b, `{"pid":`...), int64(p.PID), 10)
			b = strconv.AppendUint(append(b, `,"uid":`...), uint64(p.UID), 10)
			b = strconv.AppendUint(append(b, `,"euid":`...), uint64(p.EUID), 10)
			b = append(appendJSON(append(b, `,"program":`...), cut(p.Program, maxProgram)), "},"...)
		}
		b = append(b[:len(b)-1], "],"...)
	}
	b[len(b)-1] = '}'
	return string(b)
}

// appendJSON appends a text that is valid UTF-8 as a string of JSON (RFC 8259, 7).
func appendJSON(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			const hex = "0123456789abcdef"
			b = append(b, `\u00`...)
			b = append(b, hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
