package sendmail

import "strings"

// Some MTAs put values of their command line and environment as they are into the
// SMTP dialogue with the server that takes the mail, or into an envelope of lines.
// There one with a line break is several commands, each perhaps a recipient; and
// since the replies are then one step late, the message itself can be made to be
// read as commands. So nobody can say what such a call sends, and no program means
// it: it is not to be passed on.
//
// The servers of the field end a command at LF; a CR alone is text.

// maxHint is how much of a variable the wrapper passes on (PATH_MAX). What is cut
// off may have a line break.
const maxHint = 4096

func hasLineBreak(words ...string) bool {
	for _, word := range words {
		if strings.Contains(word, "\n") {
			return true
		}
	}
	return false
}

// lineBreakIn is whether a variable that the MTA takes as it is has a line break.
func (p *Profile) lineBreakIn(env Env) bool {
	for _, name := range p.RawEnv {
		if value, _ := env(name); len(value) >= maxHint || hasLineBreak(value) {
			return true
		}
	}
	return false
}
