package sendmail

import "strings"

// postfix is the sendmail(1) of Postfix, from its src/sendmail/sendmail.c.
var postfix = &Profile{Name: "postfix", parse: parsePostfix}

// postfixOptions is GETOPT_LIST of sendmail.c: a colon follows an option with a
// value. Postfix stops at the first operand.
const postfixOptions = "A:B:C:F:GIL:N:O:R:UV:X:b:ce:f:h:imno:p:r:q:tvx"

func parsePostfix(argv []string) Call {
	c := Call{Mode: Submit}
	switch argv[0][strings.LastIndexByte(argv[0], '/')+1:] {
	case "mailq", "newaliases", "smtpd":
		c.Mode = Other
	}
	probe, flush := false, false
	words := argv[1:]
	for len(words) > 0 {
		word := words[0]
		if word == "--" {
			words = words[1:]
			break
		}
		if word == "-" || !strings.HasPrefix(word, "-") {
			break
		}
		words = words[1:]
		switch {
		case word == "-q": // alone: flush the queue
			c.Mode = Other
			continue
		case word == "-V" && len(words) > 0 && len(words[0]) == 2: // old VERP: -V is -XV then, and the word an operand or option
			continue
		case strings.HasPrefix(word, "-V") && len(word) == 4: // old VERP: -XVxy
			continue
		}
		for cluster := word[1:]; cluster != ""; {
			option := cluster[0]
			cluster = cluster[1:]
			at := strings.IndexByte(postfixOptions, option)
			if at < 0 || option == ':' {
				return Call{} // a usage error
			}
			value := ""
			if at+1 < len(postfixOptions) && postfixOptions[at+1] == ':' {
				if value, cluster = cluster, ""; value == "" {
					if len(words) == 0 {
						return Call{} // a usage error
					}
					value, words = words[0], words[1:]
				}
			}
			switch option {
			case 'b':
				switch {
				case value == "":
					return Call{}
				case value[0] == 'm':
					c.Mode = Submit
				case value[0] == 's':
					c.Mode = SMTP
				case value[0] == 'v':
					probe = true
				default: // aliases, queue, daemon, or a usage error
					c.Mode = Other
				}
			case 'f', 'r':
				c.Sender, c.SenderSet = firstAddress(value), true
			case 'G':
				c.Gateway = true
			case 'I':
				c.Mode = Other
			case 'i':
				c.IgnoreDots = true
			case 'n':
				return Call{} // "-n option not supported"
			case 'o':
				if strings.HasPrefix(value, "i") { // whatever follows
					c.IgnoreDots = true
				}
			case 'q':
				if value != "" && (value[0] == 'R' || value[0] == 'I') { // flush one site, one message
					flush = true
				}
			case 't':
				c.FromHeader = true
			}
		}
	}
	c.Operands = words
	switch {
	case c.FromHeader && c.Mode == SMTP: // "-t can be used only in delivery mode"
		return Call{}
	case c.Mode == Other || flush && c.Mode == Submit: // with operands a usage error
		return Call{}
	case probe && c.Mode == Submit && !c.FromHeader:
		c.Mode = Probe
	}
	return c
}
