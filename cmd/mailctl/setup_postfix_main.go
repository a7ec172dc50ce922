package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// mailquotaPolicy is the parameter of main.cf that holds the question to mailquotad.
// Restrictions name it, so that one line says how to ask, a service of master.cf is
// left out by an empty one, and what is ours is found again wherever it was moved to.
const (
	mailquotaPolicy = "mailquota_policy"
	policyWord      = "$" + mailquotaPolicy
)

// policyRestrictions are where smtpd(8) asks: early at RCPT, and to charge when all of
// the message has come.
var policyRestrictions = []string{"smtpd_recipient_restrictions", "smtpd_end_of_data_restrictions"}

// parameter is a setting of main.cf, all of its lines.
type parameter struct {
	name       string
	value      string // without comments and the blanks around it, lines joined
	start, end int    // of its lines
	at         int    // of the first byte of its value; the end of the first line if it is empty
}

// parameters reads main.cf as postconf(5) has it: a line that begins with a blank goes
// on with the one before, with comments and empty lines between them or not.
func parameters(text []byte) []parameter {
	var all []parameter
	offset := 0
	for line := range bytes.Lines(text) {
		start := offset
		offset += len(line)
		trimmed := bytes.TrimSpace(line)
		if len(trimmed) == 0 || trimmed[0] == '#' {
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			if len(all) == 0 {
				continue
			}
			p := &all[len(all)-1]
			p.end = offset
			if p.value == "" {
				p.at = start + bytes.Index(line, trimmed)
			}
			p.value = strings.TrimSpace(p.value + " " + string(trimmed))
			continue
		}
		name, value, ok := bytes.Cut(line, []byte("="))
		if !ok {
			continue
		}
		p := parameter{name: string(bytes.TrimSpace(name)), value: string(bytes.TrimSpace(value)), start: start, end: offset}
		if p.at = start + len(bytes.TrimRight(line, "\r\n")); p.value != "" {
			p.at = offset - len(bytes.TrimLeft(value, " \t"))
		}
		all = append(all, p)
	}
	return all
}

// setting is the parameter that holds: of several the last.
func setting(text []byte, name string) (p parameter, ok bool) {
	for _, q := range parameters(text) {
		if q.name == name {
			p, ok = q, true
		}
	}
	return p, ok
}

// The lines that we add are a block at the end of main.cf. A line that had to give way
// stays where it is, as a comment. postconf -e leaves both as they are.
const (
	postfixBegin = "# BEGIN mailctl setup postfix"
	postfixEnd   = "# END mailctl setup postfix"
	gaveWay      = "# mailctl setup postfix: "
)

// withoutOurs is main.cf as it would be had there been no set-up: what others have
// changed since stays, within our block, too, and so does what they have set for our
// transport. place is where the block was, or the end.
// checks tells whether header_checks of checksFile goes.
func withoutOurs(text []byte, checksFile string, checks bool) (rest []byte, place int) {
	text = bytes.Clone(text)
	begin := bytes.Index(text, []byte(postfixBegin))
	for _, p := range reversed(parameters(text)) {
		inBlock := begin >= 0 && p.start > begin && bytes.Contains(text[p.end:], []byte(postfixEnd))
		ours := false
		switch {
		case p.name == mailquotaPolicy:
			ours = true
		case strings.HasPrefix(p.name, "mailquota"):
			ours = inBlock && isQmgrCopy(p)
		case p.name == "default_transport":
			ours = isOurTransport(p.value)
		case p.name == "enable_long_queue_ids":
			ours = p.value == "yes" && inBlock
		case p.name == "header_checks":
			ours = checks && p.value == "regexp:"+checksFile
		default:
			ours = p.value == policyWord
		}
		if ours {
			text = slices.Delete(text, p.start, p.end)
			continue
		}
		text = slices.Concat(text[:p.at], withoutWord(text[p.at:p.end], true), text[p.end:])
	}
	place = -1
	for line := range bytes.Lines(backInForce(text)) {
		switch trimmed := string(bytes.TrimSpace(line)); {
		case strings.HasPrefix(trimmed, postfixBegin):
			place = len(rest)
		case trimmed != postfixEnd:
			rest = append(rest, line...)
		}
	}
	if place < 0 {
		place = blockPlace(rest)
	}
	return rest, place
}

// blockPlace is where our block goes that is nowhere yet: at the end, or, if the last
// line has no newline, before it and the setting that it is of, to leave it as it is.
func blockPlace(text []byte) int {
	last := bytes.LastIndexByte(text, '\n') + 1
	for _, p := range parameters(text) {
		if p.start <= last && last < p.end {
			return p.start
		}
	}
	if last < len(text) && (text[last] == ' ' || text[last] == '\t') { // it would go on with our last setting
		return len(text)
	}
	return last
}

// withoutWord takes $mailquota_policy out of a list of restrictions, with the comma
// behind it, and, where one was put there, the blank behind that.
func withoutWord(list []byte, blank bool) []byte {
	list = bytes.Clone(list)
	for from := 0; ; {
		i := bytes.Index(list[from:], []byte(policyWord))
		if i < 0 {
			return list
		}
		i += from
		end := i + len(policyWord)
		if end < len(list) && isNameByte(list[end]) { // a longer name
			from = end
			continue
		}
		if end < len(list) && list[end] == ',' {
			end++
			if blank && end < len(list) && list[end] == ' ' {
				end++
			}
		}
		list = slices.Delete(list, i, end)
		from = i
	}
}

func isNameByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// backInForce makes settings of the lines that gave way to ours, unless somebody has
// set the same since.
func backInForce(text []byte) []byte {
	var old []byte
	for line := range bytes.Lines(text) {
		if was, ok := bytes.CutPrefix(line, []byte(gaveWay)); ok {
			old = append(old, was...)
		}
	}
	again := map[string]bool{}
	for _, p := range parameters(text) {
		again[p.name] = true
	}
	var rest []byte
	dropped := false // continuation lines go with their first one
	for line := range bytes.Lines(text) {
		was, ok := bytes.CutPrefix(line, []byte(gaveWay))
		if !ok {
			rest = append(rest, line...)
			continue
		}
		if was[0] != ' ' && was[0] != '\t' {
			name, _, _ := strings.Cut(string(was), "=")
			dropped = again[strings.TrimSpace(name)]
		}
		if !dropped {
			rest = append(rest, was...)
		}
	}
	return rest
}

// givingWay makes a comment of each setting of name.
func givingWay(text []byte, name string) []byte {
	text = bytes.Clone(text)
	for _, p := range reversed(parameters(text)) {
		if p.name != name {
			continue
		}
		var old []byte
		for line := range bytes.Lines(text[p.start:p.end]) {
			if trimmed := bytes.TrimSpace(line); len(trimmed) > 0 && trimmed[0] != '#' {
				old = append(old, gaveWay...)
			}
			old = append(old, line...)
		}
		text = slices.Concat(text[:p.start], old, text[p.end:])
	}
	return text
}

// withPolicy puts $mailquota_policy first into a restriction, where it is set last.
func withPolicy(text []byte, name string) []byte {
	p, _ := setting(text, name)
	word := policyWord + ", "
	if p.value == "" {
		word = policyWord + ","
	}
	return slices.Concat(text[:p.at], []byte(word), text[p.at:])
}

// qmgrSettings are what qmgr(8) looks up by the name of a transport (postconf(5),
// "transport_…"): a transport of another name would have the defaults.
var qmgrSettings = []string{
	"delivery_slot_cost", "delivery_slot_discount", "delivery_slot_loan", "destination_concurrency_failed_cohort_limit",
	"destination_concurrency_limit", "destination_concurrency_negative_feedback", "destination_concurrency_positive_feedback",
	"destination_rate_delay", "destination_recipient_limit", "extra_recipient_limit", "initial_destination_concurrency",
	"minimum_delivery_slots", "recipient_limit", "recipient_refill_delay", "recipient_refill_limit", "transport_rate_delay",
}

// qmgrCopies are lines by which transport to is treated as from is. They refer to the
// old settings, to follow them; a name with "-" cannot be referred to. What its
// administrator has set for to stays.
func qmgrCopies(text []byte, from, to string) []string {
	var lines []string
	for _, suffix := range qmgrSettings {
		p, ok := setting(text, from+"_"+suffix)
		if _, chosen := setting(text, to+"_"+suffix); !ok || chosen {
			continue
		}
		value := "$" + p.name
		if strings.Contains(p.name, "-") {
			value = p.value
		}
		lines = append(lines, fmt.Sprintf("%s_%s = %s\n", to, suffix, value))
	}
	return lines
}

// isQmgrCopy tells whether a setting is a line of qmgrCopies.
func isQmgrCopy(p parameter) bool {
	i := slices.IndexFunc(qmgrSettings, func(suffix string) bool { return strings.HasSuffix(p.name, "_"+suffix) })
	if i < 0 {
		return false
	}
	to := strings.TrimSuffix(p.name, "_"+qmgrSettings[i])
	if !isOurTransport(to) {
		return false
	}
	from := "smtp"
	if to != ourTransport(from) {
		from = strings.TrimPrefix(to, ourTransport(""))
	}
	return p.value == "$"+from+"_"+qmgrSettings[i] || strings.Contains(from, "-")
}

// policyQuestion is the value of mailquota_policy. A question that is not answered in
// time is asked once more (smtpd_policy_service_try_limit) a second later, and then
// default_action is the answer, one at which the session ends, for the reason that
// mailquotad has at the end of a message: well before a client of SMTP gives up (5 minutes at RCPT,
// 10 at the end of the message, RFC 5321 4.5.3.2).
func policyQuestion(address, whenDown string) string {
	action := "{ default_action = 421 4.3.5 mail cannot be counted now; try again later }"
	if whenDown == whenDownAccept {
		action = "default_action=DUNNO"
	}
	return fmt.Sprintf("check_policy_service { inet:%s, timeout=10s, %s }", address, action)
}

// What becomes of mail while mailquotad does not answer.
const (
	whenDownDefer  = "defer"
	whenDownAccept = "accept"
)

// whenDownOf reads policyQuestion's choice back.
func whenDownOf(question string) string {
	if strings.Contains(question, "default_action=DUNNO") {
		return whenDownAccept
	}
	return whenDownDefer
}

// mainSettings is what main.cf shall have of ours.
type mainSettings struct {
	question  string // mailquota_policy
	checks    string // header_checks; "" leaves it
	transport string // of what leaves, which gets ours in front: "smtp", "slow:[relay.example]"; "" gets none
}

// mainWith is main.cf, which has nothing of ours yet, with w, the block at place.
func mainWith(text []byte, place int, w mainSettings) []byte {
	before, behind := text[:place], text[place:]
	body := fmt.Sprintf("%s = %s\n", mailquotaPolicy, w.question)
	for _, name := range policyRestrictions {
		_, setBehind := setting(behind, name)
		_, setBefore := setting(before, name)
		switch {
		case setBehind:
			behind = withPolicy(behind, name)
		case setBefore:
			before = withPolicy(before, name)
		default:
			body += name + " = " + policyWord + "\n"
		}
	}
	override := func(name, value string) {
		before, behind = givingWay(before, name), givingWay(behind, name)
		body += name + " = " + value + "\n"
	}
	// A queue id must not come again: by it and a recipient's number mail that is sent on
	// is known at each try.
	if p, _ := setting(text, "enable_long_queue_ids"); p.value != "yes" {
		override("enable_long_queue_ids", "yes")
	}
	if w.checks != "" {
		override("header_checks", w.checks)
	}
	if w.transport != "" {
		name, nexthop, _ := strings.Cut(w.transport, ":")
		ours := ourTransport(name)
		body += strings.Join(qmgrCopies(text, name, ours), "")
		if nexthop != "" {
			ours += ":" + nexthop
		}
		override("default_transport", ours)
	}
	before = bytes.Clone(before)
	if len(before) > 0 && before[len(before)-1] != '\n' {
		before = append(before, '\n')
	}
	return slices.Concat(before, []byte(block("#", "postfix", body)), behind)
}

// ourTransport is the name of mailquota-transport's socket in front of a transport.
func ourTransport(name string) string {
	if name == "smtp" {
		return "mailquota"
	}
	return "mailquota-" + name
}

// isOurTransport tells whether a default_transport is one that we wrote.
func isOurTransport(value string) bool {
	name, _, _ := strings.Cut(value, ":")
	return name == "mailquota" || strings.HasPrefix(name, "mailquota-")
}
