package sendmail

import "strings"

// Parse reads a command line. It never fails: a call that the real program
// would reject is Other, so that the real program says so itself.
func (p *Profile) Parse(argv []string) Call {
	w := parsing{profile: p}
	return w.parse(argv)
}

func (w *parsing) parse(argv []string) Call {
	if len(argv) == 0 {
		return Call{}
	}
	p := w.profile
	w.argv = argv
	w.call.Mode = Submit
	w.call.IgnoreDots = !p.Dots
	if r := lookup(p.Names, argv[0][strings.LastIndexByte(argv[0], '/')+1:], ""); r != nil {
		w.do(r.does, "")
		if r.does&ignoreDots != 0 && w.handed != nil {
			w.handed.add(p.NamePassed)
		}
	}
	words := argv[1:]
	ok := false
	switch {
	case p.Options == "":
		ok = w.words(words)
	case p.before != nil:
		ok = w.getopt(p.before(words)) // and the operands as they stand in argv
		w.call.Operands = words[len(words)-len(w.call.Operands):]
	default:
		ok = w.getopt(words)
	}
	if w.probe && w.call.Mode == Submit {
		w.call.Mode = Probe
	}
	if ok && p.check != nil {
		p.check(w)
	}
	if !ok || w.ended || w.call.Mode == Other {
		return Call{}
	}
	return w.call
}

// Under is the profile in an environment: where POSIXLY_CORRECT is set, the
// getopt(3) of glibc stops at the first operand.
func (p *Profile) Under(env Env) *Profile {
	if _, set := env("POSIXLY_CORRECT"); !set || !p.Permutes {
		return p
	}
	strict := *p
	strict.Permutes = false
	return &strict
}

// parsing is a command line, read in part.
type parsing struct {
	profile *Profile
	argv    []string
	call    Call
	seen    [128]int // how often each option occurred
	ended   bool     // the program submits nothing, whatever else is there
	probe   bool

	// flags are the options without a value that occurred, each with what it does, so
	// that its rules are looked for once: one word may have millions of them.
	flags [128]effect

	handed *handed // for HandOver only
}

// known is added to each of parsing.flags.
const known effect = 1 << 31

// lasting are effects that nothing undoes: the second time an option has only these, it
// changes nothing.
const lasting = known | ends | probe | fromHeader | gateway

// words reads options of which each is a word of its own, until the first word
// that is none, or "--"; false after a usage error.
func (w *parsing) words(words []string) bool {
	for len(words) > 0 && strings.HasPrefix(words[0], "-") {
		word := words[0][1:]
		words = words[1:]
		if word == "-" {
			break
		}
		r := lookup(w.profile.Does, word, "")
		if r == nil {
			return false
		}
		form, takes := r.split()
		value := word[len(form):]
		switch {
		case takes == 0, takes == '*', value != "":
		case takes == '#' && (len(words) == 0 || words[0] == "" || !isDigit(words[0][0])):
		case takes == '?' && len(words) == 0:
		case len(words) == 0:
			return false
		default:
			value, words = words[0], words[1:]
		}
		w.do(r.does, value)
		if w.handed != nil {
			w.handed.add(w.hand(form, value))
		}
	}
	w.call.Operands = words
	return true
}

// getopt reads options as getopt(3) does; false after a usage error.
func (w *parsing) getopt(words []string) bool {
	p := w.profile
	operands := words[:0:0]
	for len(words) > 0 {
		word := words[0]
		if p.rewrite != nil {
			word = p.rewrite(words)
		}
		switch p.Ends {
		case atTwoDashes:
			if word == "--" {
				w.call.Operands = append(operands, words[1:]...)
				return true
			}
		case atAnyTwoDashes:
			if strings.HasPrefix(word, "--") {
				w.call.Operands = words[1:]
				return true
			}
		case atOneOrTwoDashes:
			if word == "-" || word == "--" {
				w.call.Operands = words[1:]
				return true
			}
		}
		if word == "" || word == "-" || word[0] != '-' {
			if !p.Permutes {
				break
			}
			operands, words = append(operands, word), words[1:]
			continue
		}
		words = words[1:]
		if r := lookup(p.Words, word[1:], ""); r != nil {
			w.do(r.does, "")
			continue
		}
		var ok bool
		if words, ok = w.cluster(word[1:], words); !ok {
			return false
		}
	}
	w.call.Operands = words
	if p.Permutes {
		w.call.Operands = operands
	}
	return true
}

// cluster reads the options of one word. The last may take the next word as its
// value. It returns the words that are left.
func (w *parsing) cluster(letters string, words []string) (left []string, ok bool) {
	last := known // what the flags before this letter did last; done again, it changes nothing
	for letters != "" {
		letter := letters[:1]
		letters = letters[1:]
		option := letter[0]
		if option < 128 && w.flags[option]&known != 0 {
			w.seen[option]++
			if does := w.flags[option]; does != last && does&^lasting != 0 {
				w.do(does, "")
				last = does
			}
			if w.handed != nil {
				w.handed.add(w.handed.flags[option])
			}
			continue
		}
		at := strings.IndexByte(w.profile.Options, option)
		if at < 0 || option == ':' {
			return words, false
		}
		takes := w.profile.Options[at+1:]
		if !strings.HasPrefix(takes, ":") {
			w.flags[option] = w.option(letter, "") | known
			last = w.flags[option]
			continue
		}
		value := letters
		letters = ""
		if value == "" && !strings.HasPrefix(takes, "::") {
			if len(words) == 0 {
				return words, false
			}
			value, words = words[0], words[1:]
		}
		w.option(letter, value)
	}
	return words, true
}

// option takes an option, and returns what it does.
func (w *parsing) option(letter, value string) (does effect) {
	option := letter[0] & 127
	w.seen[option]++
	if r := lookup(w.profile.Does, letter, value); r != nil {
		does = r.does
		w.do(does, value)
	}
	if w.handed != nil {
		words := w.hand(letter, value)
		w.handed.add(words)
		w.handed.flags[option] = words // heeded where it has no value
	}
	return does
}

// do is what an option does, or a name.
func (w *parsing) do(does effect, value string) {
	c := &w.call
	switch {
	case does&submit != 0:
		c.Mode = Submit
	case does&smtp != 0 && c.Mode != BatchSMTP: // -bs behind -bS stays -bS: Exim sets two flags
		c.Mode = SMTP
	case does&batchSMTP != 0:
		c.Mode = BatchSMTP
	case does&other != 0:
		c.Mode = Other
	}
	w.ended = w.ended || does&ends != 0
	w.probe = w.probe || does&probe != 0
	c.NoBounce = (c.NoBounce || does&noBounce != 0) && does&bounce == 0
	c.FromHeader = c.FromHeader || does&fromHeader != 0
	c.Gateway = c.Gateway || does&gateway != 0
	c.IgnoreDots = (c.IgnoreDots || does&ignoreDots != 0) && does&heedDots == 0
	if does&report != 0 { // the last -N counts
		c.Report = strings.Contains(strings.ToLower(value), "success")
	}
	if does&setSender != 0 {
		w.profile.sender(w, value)
	}
}

// asGiven takes -f with whatever is in it.
func asGiven(w *parsing, value string) { w.call.Sender, w.call.SenderSet = value, true }

// asGivenOrNull is the same, but for "<>".
func asGivenOrNull(w *parsing, value string) {
	if value == "<>" {
		value = ""
	}
	asGiven(w, value)
}

// lookup finds the first rule for an option, with its value behind the letter: the
// option is head and tail, which are not joined, for a value may be long.
func lookup(rules []rule, head, tail string) *rule {
	if head == "" {
		return nil
	}
	first, second := head[0], -1
	switch {
	case len(head) > 1:
		second = int(head[1])
	case tail != "":
		second = int(tail[0])
	}
	for i := range rules {
		form := rules[i].form
		if form[0] != first || len(form) > 2 && int(form[1]) != second { // nearly all
			continue
		}
		if r := &rules[i]; r.fits(head, tail) {
			return r
		}
	}
	return nil
}

// fits is whether a rule is one for an option.
func (r *rule) fits(head, tail string) bool {
	form, takes := r.split()
	n := min(len(form), len(head))
	rest, ok := strings.CutPrefix(tail, form[n:])
	return ok && form[:n] == head[:n] && (n == len(head) && rest == "" || takes != 0 && takes != '+')
}

// split parts a form from the sign at its end, 0 without.
func (r *rule) split() (form string, takes byte) {
	end := len(r.form) - 1
	switch takes = r.form[end]; takes {
	case '*', ':', '#', '?', '+':
		return r.form[:end], takes
	}
	return r.form, 0
}
