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
	if r := lookup(p.Names, argv[0][strings.LastIndexByte(argv[0], '/')+1:]); r != nil {
		w.do(r.does, "")
		if r.does&ignoreDots != 0 {
			w.handed = append(w.handed, p.NamePassed...)
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

	// For HandOver.
	senderGiven string   // value of the last -f or -r
	fullName    string   // value of -F
	fullNameSet bool     //
	handed      []string // the other options
}

// words reads options of which each is a word of its own, until the first word
// that is none, or "--"; false after a usage error.
func (w *parsing) words(words []string) bool {
	for len(words) > 0 && strings.HasPrefix(words[0], "-") {
		word := words[0][1:]
		words = words[1:]
		if word == "-" {
			break
		}
		r := lookup(w.profile.Does, word)
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
		w.hand(form, value)
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
		if r := lookup(p.Words, word[1:]); r != nil {
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
	for letters != "" {
		option := letters[0]
		letters = letters[1:]
		at := strings.IndexByte(w.profile.Options, option)
		if at < 0 || option == ':' {
			return words, false
		}
		value := ""
		if takes := w.profile.Options[at+1:]; strings.HasPrefix(takes, ":") {
			value, letters = letters, ""
			if value == "" && !strings.HasPrefix(takes, "::") {
				if len(words) == 0 {
					return words, false
				}
				value, words = words[0], words[1:]
			}
		}
		w.option(option, value)
	}
	return words, true
}

func (w *parsing) option(option byte, value string) {
	w.seen[option&127]++
	if r := lookup(w.profile.Does, string(option)+value); r != nil {
		w.do(r.does, value)
	}
	w.hand(string(option), value)
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

// lookup finds the first rule for an option, with its value behind the letter.
func lookup(rules []rule, option string) *rule {
	for i := range rules {
		form, takes := rules[i].split()
		if rest, ok := strings.CutPrefix(option, form); ok && (rest == "" || takes != 0 && takes != '+') {
			return &rules[i]
		}
	}
	return nil
}

// split parts a form from the sign at its end, 0 without.
func (r *rule) split() (form string, takes byte) {
	end := len(r.form) - 1
	if takes = r.form[end]; strings.IndexByte("*:#?+", takes) < 0 {
		return r.form, 0
	}
	return r.form[:end], takes
}
