package sendmail

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// passed is an option that is handed over: of a form as that of a rule, and as the word
// that it becomes, "" for itself.
type passed struct{ form, as string }

// Submitter is what the real sendmail would take from the user who calls it, where
// another one runs it for him.
type Submitter struct {
	Sender   string // envelope sender where no option names one: his login name, or what the message says
	FullName string // of passwd(5), "" for none
}

// maxHanded bounds a command line, in bytes: execve(2) takes 2 MiB with the environment, where the limit of
// the stack is the usual one.
const maxHanded = 2<<20 - 64<<10

// maxWord bounds one word: it has 32 pages with the NUL at its end (MAX_ARG_STRLEN, execve(2)).
var maxWord = 32*syscall.Getpagesize() - 1

// handedSize is what of maxHanded a word takes: with its NUL, and its pointer.
func handedSize(word string) int { return len(word) + 1 + 8 }

// HandOver returns the command line with which the real sendmail, run by a user of its
// own, queues what argv means. It is made anew, of options that are known to be
// harmless in that user's hand: none that names a file or sets something in the
// mail server (-C -D -d -L -O -X, -o but for a few), none that only users whom the mail
// server trusts may give (-oM…, -G of Exim), none that makes a call wait (-od…, -v of
// Sendmail and Exim), none that means nothing. Operands are behind "--", so that none
// is an option.
//
// The error says that this cannot be done: with another mail server, or where the new
// command line would not mean the same.
func (p *Profile) HandOver(argv []string, env Env, from Submitter) ([]string, error) {
	if !p.HandsOver() {
		return nil, errors.New("mail cannot be handed over to " + p.Name + ": hand-off is for postfix, exim, exim-add-arguments and sendmail")
	}
	var h handed
	w := parsing{profile: p, handed: &h}
	call := w.parse(argv)
	if call.Mode != Submit && call.Mode != Probe {
		return nil, errors.New("this command line submits no message")
	}
	out := []string{"sendmail"}
	if call.SenderSet {
		out = append(out, valued("-f", h.sender)...)
	} else {
		out = append(out, valued("-f", from.Sender)...)
	}
	name, named := h.fullName, h.fullNameSet
	if !named && p.FullNameEnv != "" {
		name, named = env(p.FullNameEnv)
	}
	if !named && (!p.OwnFullName || !call.SenderSet) {
		name, named = from.FullName, true
	}
	if named {
		out = append(out, valued("-F", name)...)
	}
	out = append(slices.Grow(out, len(h.words)+len(call.Operands)+2), h.words...)
	if p.ReportEnv != "" {
		// -v, once, asks for a report; each variable and option is one more.
		verbose := w.seen['v']
		if _, set := env(p.ReportEnv); set {
			verbose++
		}
		if verbose == 1 && call.Mode == Submit {
			out = append(out, "-v")
		}
	}
	out = append(append(out, "--"), call.Operands...)
	size, longest := 0, 0
	for _, word := range out {
		size += handedSize(word)
		longest = max(longest, len(word))
		if strings.IndexByte(word, 0) >= 0 {
			return nil, errors.New("NUL in the command line")
		}
	}
	switch {
	case longest > maxWord:
		return nil, errors.New("an argument of " + strconv.Itoa(longest) + " bytes is longer than a program can have: at most " + strconv.Itoa(maxWord))
	case size > maxHanded:
		return nil, errors.New("the command line is longer than a program can have")
	}
	if again := p.Parse(out); !sameEnvelope(&call, &again) {
		return nil, errors.New("this command line cannot be handed over to " + p.Name + ": its options would not mean the same")
	}
	return out, nil
}

// HandsOver is whether HandOver is possible with this mail server.
func (p *Profile) HandsOver() bool { return p.Passed != nil }

// NothingQueued is whether the real sendmail, run by HandOver for a call, has surely queued
// no mail where this is its exit status, neither the message nor a bounce.
func (p *Profile) NothingQueued(c *Call, exit int) bool {
	return exit != 0 && (p.Unqueued == nil || slices.Contains(p.Unqueued, exit) || p.PrintsAll && c.NoBounce)
}

// sameEnvelope is whether two command lines queue the same.
func sameEnvelope(a, b *Call) bool {
	return a.Mode == b.Mode && a.FromHeader == b.FromHeader && a.IgnoreDots == b.IgnoreDots && (!a.Report || b.Report) &&
		a.NoBounce == b.NoBounce && (!a.SenderSet || b.SenderSet && a.Sender == b.Sender) && slices.Equal(a.Operands, b.Operands)
}

// valued are the words of an option with its value: attached, since some programs look
// at words before they know which are values (obsolete, oldVERP).
func valued(option, value string) []string {
	if value == "" {
		return []string{option, ""}
	}
	return []string{option + value}
}

// handed is what HandOver has to know of a command line besides the Call.
type handed struct {
	sender      string   // value of the last -f or -r
	fullName    string   // value of -F
	fullNameSet bool     //
	words       []string // the other options
	size        int      // of them

	flags [128][]string // the words of each option without a value that occurred
}

// add adds the words of an option. Where they are more than a program can have, others are
// left out: it is refused anyway.
func (h *handed) add(words []string) {
	if h.full() {
		return
	}
	for _, word := range words {
		h.size += handedSize(word)
	}
	h.words = append(h.words, words...)
}

// full is whether the words are more than a program can have.
func (h *handed) full() bool { return h.size > maxHanded }

// hand returns the words of an option, by its form and value, for HandOver.
func (w *parsing) hand(form, value string) []string {
	switch h := w.handed; form {
	case "F":
		h.fullName, h.fullNameSet = value, true
		return nil
	case "f", "r":
		h.sender = value
		return nil
	}
	if w.handed.full() {
		return nil
	}
	for i := range w.profile.Passed {
		k := &w.profile.Passed[i]
		r := rule{form: k.form}
		if r.form[0] != form[0] || !r.fits(form, value) {
			continue
		}
		_, takes := r.split()
		words := []string{k.as}
		switch {
		case k.as != "":
		case takes == 0:
			words = []string{"-" + form + value}
		default:
			words = valued("-"+form, value)
		}
		// One that would be read as something else is none that anybody means.
		if w.profile.rewrite == nil || w.profile.rewrite(words) == words[0] {
			return words
		}
		return nil
	}
	return nil
}
