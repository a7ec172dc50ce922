package sendmail

import (
	"bytes"
	"io"
	"strings"
)

// sendmail8 is Sendmail 8.17 and 8.18: sendmail/main.c for the command line,
// collect.c, headers.c and conf.c for the header, parseaddr.c and recipient.c for
// addresses.
var sendmail8 = Profile{
	Name: "sendmail",

	Options: sendmail8Options,
	Ends:    atAnyTwoDashes, // its own getopt(): any word that begins with "--"
	before:  obsolete,
	Names: []rule{ // main(): "find initial opMode"
		{"newaliases", other},
		{"mailq", other},
		{"smtpd", other},
		{"hoststat", other},
		{"purgestat", other},
		{"rmail", gateway}, // a program of its own, which calls sendmail -G
	},
	Does: []rule{
		{"bm*", submit}, {"ba*", submit}, // MD_DELIVER, MD_ARPAFTP
		{"bs*", smtp},
		{"b*", other},
		{"f*", setSender}, {"r*", setSender},
		{"G", gateway},
		{"I", ends},
		{"i", ignoreDots},
		{"N*", report},
		{"oi", ignoreDots}, {"oit*", ignoreDots}, {"oiT*", ignoreDots}, {"oiy*", ignoreDots}, {"oiY*", ignoreDots}, // atobool()
		{"oi*", heedDots},
		{"OIgnoreDots*", ignoreDots},
		{"q*", ends}, {"Q*", ends}, // a queue run, or "can not use"
		{"t", fromHeader},
	},
	sender: sendmail8Sender,
	check:  checkSendmail8,

	Dots:        true,
	DotsUnsure:  true,            // IgnoreDots in its configuration
	FromLines:   fromLineSkipped, // MS_UFROM
	lines:       withoutNUL,
	BeforeColon: cSpace,                      // isheader(): "technically violates RFC822"
	DELNames:    true,                        // isheader(): *s > ' '
	MaxName:     100,                         // "long field names are end-of-header"
	NoName:      "--",                        // isheader()
	MayEnd:      []string{"message", "text"}, // HdrInfo[]: H_EOH, unless NO_EOH_FIELDS
	LastLine:    false,                       // collect(): what EOF cuts off is lost

	Recipients: []string{"to", "cc", "bcc", "apparently-to"}, // HdrInfo[]: H_RCPT
	Resent:     []string{"resent-to", "resent-cc", "resent-bcc"},
	ResentWhen: []string{ // HdrInfo[]: H_RESENT
		"resent-sender", "resent-from", "resent-reply-to", "resent-to", "resent-cc", "resent-bcc", "resent-message-id", "resent-date",
	},
	Duplicates: dropped, // recipient(): sameaddr()
	OldStyle:   true,    // EF_OLDSTYLE is of the message: white space delimits until a list has one of ",;<("

	// A bad address is bounced, once a message; the others are sent to.
	EmptyOperand: 0,
	BlankOperand: 1,
	addresses:    sendmail8Addresses,

	GoAhead: "354 End data with <CR><LF>.<CR><LF>", // collect() of 8.18, and of 8.17 as Debian patches it
	CRLF:    true,                                  // SRV_REQ_CRLF. A client with LF only is not refused here

	Passed: []passed{
		{"t", ""}, {"i", ""}, {"oi*", ""}, {"OIgnoreDots*", "-i"}, {"G", ""}, {"n", ""},
		{"e*", ""}, {"oe*", ""}, {"B*", ""}, {"N*", ""}, {"R*", ""}, {"V*", ""}, {"h*", ""},
	},
	FullNameEnv:  "NAME", // main()
	PrintsErrors: []string{"-oep"},
	DSN:          true,
	OwnFullName:  true, // setsender(): where pw_name is the sender
	// EX_OSFILE, EX_CANTCREAT, EX_IOERR, EX_NOPERM and EX_CONFIG: no queue file. Others may have sent a part, or a bounce.
	// 74, 77 and 78 may be one recipient's, where it delivers at once (DeliveryMode=i), and others have the message.
	Unqueued: []int{72, 73},

	TraceCloses: true, // collect(): MS_BODY begins at the first line that is none of the header
	traceable:   sendmail8Traceable,
}

// sendmail8Options is OPTIONS of main.c.
const sendmail8Options = "A:B:b:C:cD:d:e:F:f:Gh:IiL:M:mN:nO:o:p:Q:q:R:r:sTtUV:vX:"

// obsolete is the function of that name in main.c, which goes before getopt: an
// option that stands alone before another one has no value, even if it must have
// one. It ends at the first operand, but knows nothing of joined options.
func obsolete(words []string) []string {
	words = append([]string(nil), words...)
	for i := 0; i < len(words); i++ {
		word := words[i]
		if !strings.HasPrefix(word, "-") || strings.HasPrefix(word, "--") {
			break
		}
		if len(word) != 2 {
			continue
		}
		next := i+1 < len(words) && !strings.HasPrefix(words[i+1], "-")
		at := strings.IndexByte(sendmail8Options, word[1])
		switch {
		case next && at >= 0 && strings.HasPrefix(sendmail8Options[at+1:], ":") && word != "-d":
			i++
		case word == "-C":
			words[i] = "-Csendmail.cf"
		case word == "-q":
			words[i] = "-q0"
		case word == "-Q":
			words[i] = "-Q."
		case word == "-d":
			words[i] = "-d0-99.1"
		}
	}
	return words
}

// sendmail8Sender takes -f. A second one is "more than one from person"; a list
// is an error, too, but the mail goes, from the caller.
func sendmail8Sender(w *parsing, value string) {
	c := &w.call
	w.ended = w.ended || c.SenderSet || w.seen['f']+w.seen['r'] > 1
	if n := 0; value != "" {
		sendmail8Addresses(value+",", func(string) { n++ })
		if n > 1 {
			return
		}
	}
	c.Sender, c.SenderSet = firstAddress(value), true
}

func checkSendmail8(w *parsing) {
	c := &w.call
	if c.Mode == Submit && !c.FromHeader && len(c.Operands) == 0 {
		w.ended = true // "Recipient names must be specified"
	}
}

// sendmail8Traceable is whether the header is far enough from MaxHeadersLength, at
// which collect() refuses a message: 32768 bytes by default.
func sendmail8Traceable(head []byte, whole bool) bool {
	header := head
	for _, end := range []string{"\n\n", "\n\r\n"} {
		if at := bytes.Index(header, []byte(end)); at >= 0 {
			header, whole = header[:at], true
		}
	}
	return whole && len(header) < 32000
}

// maxToken is where prescan() gives up on an address (MAXNAME) and goes on in the
// middle of it, taking what follows for addresses.
const maxToken = 256

// sendmail8Addresses calls each for what is between delimiters, be it good or
// bad: sendtolist() and prescan(). Commas delimit, and white space in an old
// style list, which has nothing that only the new style has.
func sendmail8Addresses(list string, each func(string)) {
	old := !strings.ContainsAny(list, ",;<(")
	for {
		list = strings.TrimLeft(list, ","+cSpace)
		if list == "" {
			return
		}
		end := sendmail8End(list, old)
		if end > maxToken {
			for _, c := range []byte(list[:end]) {
				if c == ',' {
					each("")
				}
			}
		}
		each(simpleAddress(list[:end]))
		list = list[end:]
	}
}

// sendmail8End is where the first address of a list ends.
func sendmail8End(list string, old bool) int {
	quoted, escaped, route := false, false, false
	comments, angles := 0, 0
	for i := 0; i < len(list); i++ {
		c := list[i]
		delimits := c == ',' || old && strings.IndexByte(cSpace, c) >= 0
		switch {
		case delimits && comments == 0 && !quoted && (angles == 0 || !route): // a comma closes < unless it is a route
			return i
		case escaped:
			escaped = false
		case c == '\\':
			escaped = true
		case c == '"' && comments == 0:
			quoted = !quoted
		case quoted:
		case c == '(':
			comments++
		case c == ')':
			comments = max(comments-1, 0)
		case comments > 0:
		case c == '<':
			angles++
			route = route || strings.HasPrefix(strings.TrimLeft(list[i+1:], cSpace), "@")
		case c == '>':
			angles, route = max(angles-1, 0), false
		}
	}
	return len(list)
}

// withoutNUL leaves out what collect() leaves out of a header.
func withoutNUL(message io.Reader) io.Reader { return &nulDropper{message} }

type nulDropper struct{ in io.Reader }

func (d *nulDropper) Read(p []byte) (int, error) {
	for {
		n, err := d.in.Read(p)
		kept := n
		if bytes.IndexByte(p[:n], 0) >= 0 {
			kept = 0
			for _, c := range p[:n] {
				if c != 0 {
					p[kept] = c
					kept++
				}
			}
		}
		if kept > 0 || n == 0 || err != nil {
			return kept, err
		}
	}
}
