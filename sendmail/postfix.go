package sendmail

import "strings"

// postfix is Postfix 3.7 to 3.11: src/sendmail/sendmail.c, and for the header
// src/global/{rec_streamlf,mime_state,is_header,header_opts,tok822_parse}.c.
var postfix = Profile{
	Name: "postfix",

	Options: "A:B:C:F:GIL:N:O:R:UV:X:b:ce:f:h:imno:p:r:q:tvx", // GETOPT_LIST, which GETOPT() begins with "+"
	rewrite: oldVERP,
	Names: []rule{ // main(): "the default mode of operation is determined by the process name"
		{"mailq", other},
		{"newaliases", other},
		{"smtpd", other},   // the daemon
		{"rmail", gateway}, // Postfix has a script of that name, which calls sendmail; to sendmail it means nothing
	},
	Words: []rule{
		{"q", other}, // alone: flush the queue, "not getopt compatible"
	},
	Does: []rule{
		{"bm*", submit},
		{"bs*", smtp},
		{"bv*", probe}, // a flag and no mode: with -bs it means nothing
		{"bd*", other}, {"bl*", other}, {"bh*", other}, {"bH*", other}, {"bi*", other}, {"bp*", other},
		{"b*", ends}, // "unsupported"
		{"f*", setSender}, {"r*", setSender},
		{"G", gateway},
		{"I", other}, // newaliases
		{"i", ignoreDots}, {"oi*", ignoreDots},
		{"n", ends}, // "not supported"
		{"N*", report},
		{"q*", ends}, // -q30m exits, -qR and -qI flush, others are an error
		{"t", fromHeader},
		{"XV*", nothing}, // VERP
		{"X*", ends},     // "unsupported"
	},
	sender: firstOfSeveral,
	check:  checkPostfix,

	Dots:        true, // SM_FLAG_AEOF; all CR before the LF are stripped first
	FromLines:   quotedFromSkipped,
	LineLimit:   2048,  // line_length_limit, by default
	BeforeColon: " \t", // is_header.c
	LastLine:    true,
	ReportEnv:   "MAIL_VERBOSE", // as -v

	Recipients:   []string{"to", "cc", "bcc"}, // header_opts.c: HDR_OPT_EXTRACT
	Resent:       []string{"resent-to", "resent-cc", "resent-bcc"},
	ResentWhen:   []string{"resent-to", "resent-cc", "resent-bcc"}, // output_header(): those only, even where they name nobody
	EmptyOperand: 1,                                                // enqueue(): an argument without address is the empty address
	BlankOperand: 1,
	addresses:    postfixAddresses,

	GoAhead: "354 End data with <CR><LF>.<CR><LF>", // smtpd.c, data_cmd()

	Passed: []passed{
		{"bv*", "-bv"}, {"t", ""}, {"i", ""}, {"oi*", "-i"}, {"G", ""},
		{"B*", ""}, {"N*", ""}, {"R*", ""}, {"V*", ""}, {"XV*", ""}, // of -X there is VERP only
	},
	FullNameEnv: "NAME", // fullname.c
	DSN:         true,
	SMTPUTF8:    true, // smtputf8_autodetect_classes = sendmail, verify
	// Unqueued: enqueue() is fatal before postdrop(1) has queued the message, or where that says that it has not.

	TraceEnds:   true, // sendmail_fix_line_endings = strict
	TraceCloses: true, // mime_state_update(): a line that is no field ends the header, and gets an empty line before it
}

// oldVERP is what Postfix makes of -V before it looks for options: with two
// characters, be they attached or the next word, it is VERP as of old. The next
// word is then no value, but an operand or option of its own.
func oldVERP(words []string) string {
	word := words[0]
	if word == "-V" && len(words) > 1 && len(words[1]) == 2 {
		return "-XV"
	}
	if strings.HasPrefix(word, "-V") && len(word) == 4 {
		return "-X" + word[1:]
	}
	return word
}

// firstOfSeveral is what enqueue() does, with a warning.
func firstOfSeveral(w *parsing, value string) {
	w.call.Sender, w.call.SenderSet = firstAddress(value), true
}

// checkPostfix is main() from "look for conflicting options" on.
func checkPostfix(w *parsing) {
	c := &w.call
	if c.FromHeader && c.Mode != Submit {
		w.ended = true // "-t can be used only in delivery mode", "-t option cannot be used with -bv"
	}
	// One -v asks for a report of the delivery, more are for debugging.
	c.Report = c.Mode == Submit && (c.Report || w.seen['v'] == 1)
}
