package sendmail

import "strings"

// msmtp is msmtp 1.8.23 to 1.8.33 under the name sendmail, from its
// src/msmtp.c. It queues nothing: it speaks SMTP at once, with a RCPT for each
// recipient. The account of msmtprc, and with it the sender of a call without
// -f, are not known here.
var msmtp = Profile{
	Name: "msmtp",

	Options:  "Pd::SC:a:f:N:R:X:tA:B:b:F:Gh:iL:mnO:o:v" + readEnvelopeFrom, // msmtp_cmdline()
	Permutes: true,                                                         // getopt_long(3) of glibc
	rewrite:  msmtpLongOption,
	Does: []rule{
		{"P", ends},    // --pretend shows the configuration
		{"S", ends},    // --serverinfo
		{"d0.1", ends}, // the version, as of sendmail -d0.1
		{"bm", nothing},
		{"b*", ends}, // "unsupported operation mode"
		{"f*", setSender},
		{"t", fromHeader},
		{"G", gateway},
		{"Rhdrs", nothing}, {"Rheaders", nothing}, {"Rfull", nothing}, {"Roff", nothing},
		{"R*", ends}, // "invalid argument"
	},
	sender: asGivenOrNull, // Debian bug 612679
	check:  checkMsmtp,

	Dots:    false, // and so -i means nothing
	machine: newMsmtpHeader,
	// A From_ line goes to the server as it is, which may take it for one of mbox if
	// it is the first, and else for the body.
	traceable: withoutFromLine,
	RawEnv:    []string{"EMAIL", "USER", "LOGNAME"}, // the sender without -f, where the account has none of its own

	Recipients: []string{"to", "cc", "bcc"},
	Resent:     []string{"resent-to", "resent-cc", "resent-bcc"},
	ResentWhen: []string{"resent-*"},
	addresses: func(list string, each func(address string)) {
		// Operands are lines "To: operand" of a header of their own.
		m := msmtpHeader{recipients: true}
		m.write("To: " + list + "\n\n")
		for range m.count() {
			each("")
		}
	},
}

// readEnvelopeFrom is the letter of --read-envelope-from, which has none: no
// argument has this byte.
const readEnvelopeFrom = "\x00"

// msmtpLongOptions are the long options of all versions: "=" for a value, "=?"
// for one that may be absent, and then the letter that does the same. What does
// not matter here is -O, with a value, or -i.
var msmtpLongOptions = [...]struct{ name, takes, letter string }{
	{"version", "", "P"},
	{"help", "", "P"},
	{"configure", "=", "P"},
	{"pretend", "", "P"},
	{"debug", "=?", "d"},
	{"serverinfo", "", "S"},
	{"rmqs", "=", "P"}, // Remote Message Queue Starting, ETRN
	{"file", "=", "C"},
	{"account", "=", "a"},
	{"host", "=", "O"},
	{"port", "=", "O"},
	{"timeout", "=", "O"},
	{"connect-timeout", "=", "O"},
	{"auto-from", "=?", "i"},
	{"from", "=", "f"},
	{"maildomain", "=", "O"},
	{"auth", "=?", "i"},
	{"user", "=", "O"},
	{"passwordeval", "=", "O"},
	{"tls", "=?", "i"},
	{"tls-starttls", "=?", "i"},
	{"tls-trust-file", "=", "O"},
	{"tls-crl-file", "=", "O"},
	{"tls-fingerprint", "=", "O"},
	{"tls-key-file", "=", "O"},
	{"tls-cert-file", "=", "O"},
	{"tls-certcheck", "=?", "i"},
	{"tls-force-sslv3", "=?", "i"},
	{"tls-min-dh-prime-bits", "=", "O"},
	{"tls-priorities", "=", "O"},
	{"tls-host-override", "=", "O"},
	{"dsn-notify", "=", "N"},
	{"dsn-return", "=", "R"},
	{"protocol", "=", "O"},
	{"domain", "=", "O"},
	{"logfile", "=", "X"},
	{"logfile-time-format", "=", "O"},
	{"syslog", "=?", "i"},
	{"aliases", "=", "O"},
	{"proxy-host", "=", "O"},
	{"proxy-port", "=", "O"},
	{"add-missing-from-header", "=?", "i"},
	{"add-missing-date-header", "=?", "i"},
	{"set-from-header", "=?", "i"},
	{"set-date-header", "=?", "i"},
	{"set-msgid-header", "=?", "i"},
	{"set-to-header", "=?", "i"}, // 1.8.29
	{"remove-bcc-headers", "=?", "i"},
	{"undisclosed-recipients", "=?", "i"},
	{"source-ip", "=", "O"},
	{"socket", "=", "O"},
	{"keepbcc", "=?", "i"},
	{"read-recipients", "", "t"},
	{"read-envelope-from", "", readEnvelopeFrom},
}

// usageError is a word that getopt(3) takes for an error.
const usageError = "-:"

// msmtpLongOption puts a short option in the place of a long one. A beginning
// that only one name has is enough (getopt_long(3)).
func msmtpLongOption(words []string) string {
	long, ok := strings.CutPrefix(words[0], "--")
	if !ok || long == "" {
		return words[0]
	}
	name, value, hasValue := strings.Cut(long, "=")
	found := -1
	for i, option := range msmtpLongOptions {
		if option.name == name {
			found = i
			break
		}
		if strings.HasPrefix(option.name, name) {
			if found >= 0 {
				return usageError // ambiguous
			}
			found = i
		}
	}
	if found < 0 {
		return usageError
	}
	switch option := msmtpLongOptions[found]; {
	case option.takes == "" && hasValue:
		return usageError
	case option.letter == "i", option.letter == "P":
		return "-" + option.letter
	case hasValue && value == "" && option.letter == "f":
		return "-f<>"
	case hasValue && value == "" && option.takes == "=":
		return "-i" // an empty value is one, and the next word is none
	default:
		return "-" + option.letter + value
	}
}

func checkMsmtp(w *parsing) {
	if w.seen['f'] > 0 && w.seen[readEnvelopeFrom[0]] > 0 {
		w.ended = true // "cannot use both --from and --read-envelope-from"
	}
	w.call.FromField = w.seen[readEnvelopeFrom[0]] > 0
	// What operands hold is made harmless (msmtp_read_headers(): "sanitize
	// characters"), other values are not.
	breaks := func(words []string) int { return strings.Count(strings.Join(words, ""), "\n") }
	w.call.LineBreaks = breaks(w.argv) > breaks(w.call.Operands)
}
