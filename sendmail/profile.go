package sendmail

import "io"

// A Profile says how one MTA's sendmail reads its command line and the header.
// It is a table, so that two MTAs can be laid side by side: postfix.go,
// sendmail8.go, exim.go … Functions say what no table can.
//
// All of it is static data: the wrapper starts at every mail, and what must be
// built at its start is paid at every mail.
type Profile struct {
	Name string

	// The command line.

	// Options are those of getopt(3): a letter, then ":" if it takes a value
	// (attached or the next word) or "::" if it takes an attached one or none.
	// "" stands for a program where each word is one option and none can be
	// joined (Exim): then all of them are in Does.
	Options  string
	Permutes bool   // options are looked for behind operands, too
	Ends     ending // what ends the options
	Names    []rule // by the last part of argv[0]; another name submits
	Does     []rule // what options do; the first rule that matches counts
	Words    []rule // whole words that are looked for before getopt, which would read them otherwise

	// before gives the words to look at in place of those of the command line, and
	// rewrite what stands for the first of the words that are left.
	before  func(words []string) []string
	rewrite func(words []string) string
	// sender takes the value of -f or -r.
	sender func(w *parsing, value string)
	// check sees the whole command line, for what depends on several options.
	check func(*parsing)

	// The message.

	Dots        bool      // a line with a lone dot ends it, by default
	DotsUnsure  bool      // … unless its configuration says otherwise
	FromLines   fromLines // lines of mbox before the header
	AnyNames    bool      // a field's name may be empty, or have bytes over 127
	DELNames    bool      // a field's name may have DEL (127), which is no printable character
	MaxName     int       // a longer name ends the header; 0 without a bound
	LineLimit   int       // a colon further behind may end the header; 0 without a bound
	NoName      string    // a line that begins so ends the header
	MayEnd      []string  // fields that end the header, as the MTA was built; in lower case
	BeforeColon string    // white space that may stand between the name of a field and the colon
	LastLine    bool      // a last line without a newline counts
	// lines is what the MTA makes of the bytes before it looks for lines.
	lines func(message io.Reader) io.Reader
	// machine makes what reads the header in place of all these rules, for MTAs
	// that no table fits.
	machine func(p *Profile, c Call, env Env) machine
	// AllHeader: the header may go on to the end of any message, so that none is
	// too long.
	AllHeader bool
	// fromLine finds the sender in a From_ line, for MTAs that take it from there
	// where -f is absent.
	fromLine  func(line []byte) (address string, ok bool)
	ReportEnv string   // a variable that asks for a report to the sender
	RawEnv    []string // variables that may be in the envelope or the dialogue, as they are

	// The recipients. With a machine, the fields are for the report only.

	Recipients    []string // fields with recipients, in lower case
	Resent        []string // fields that take the place of those, in lower case
	ResentWhen    []string // fields that bring that about; "resent-*" is any of that beginning
	ResentForgets bool     // … and operands are none any more
	Arguments     arguments
	Duplicates    duplicates
	OldStyle      bool // a list of duplicates may be one bad address, by the style of lists before it
	EmptyOperand  int  // recipients of the operand ""
	BlankOperand  int  // … of another one that holds no address
	Bounces       bounces
	// addresses calls each for each address of a list, as the MTA splits it.
	addresses func(list string, each func(address string))

	// The SMTP dialogue of -bs, where there is one.

	GoAhead string // the reply to DATA that asks for the content, without line end
	CRLF    bool   // if the first line of the content ends in CR LF, LF alone ends no line

	// What another user runs for the caller (handover.go).

	Passed       []passed // options that are handed over; none where that is not possible
	NamePassed   []string // what argv[0] means, where it is a name that ignores dots
	FullNameEnv  string   // a variable with the sender's full name
	OwnFullName  bool     // that of passwd(5) is for a sender without -f only
	PrintsErrors []string // options with which what is wrong is printed, and not mailed
	DSN          bool     // its SMTP server has DSN, and -N, -R and -V are of that (RFC 3461)
	SMTPUTF8     bool     // its SMTP server has SMTPUTF8, and it finds out by itself where a message needs it
	PrintsAll    bool     // where errors are printed, a call with an error has queued nothing
	Unqueued     []int    // exit statuses after which nothing is queued; nil for all but 0

	// The trace field (trace.go).

	TraceEnds   bool // how the first line ends says how others end, so the field must end alike
	TraceCloses bool // a first line that begins with white space is the body, and an empty line may stand before it
	// traceable is whether the field can go on top of what begins with head.
	traceable func(head []byte, whole bool) bool
	// mboxLine is whether a line before the header is one of mbox beyond doubt;
	// nil: all that fromLines means.
	mboxLine func(line []byte) bool
}

// rule: an option of this form has this effect. A form is the letter, then the
// value: "oi" is the option -o with the value i, "bm*" is -b with a value that
// begins with m, "f*" is -f with any. Where each word is one option, the sign at
// the end says where its value is: "F:" attached or else in the next word, "B?"
// alike if there is a next word, "oB#" if that begins with a digit, "oMa+" always
// in the next word.
type rule struct {
	form string
	does effect
}

// effect is what an option or a name does; several add up.
type effect uint32

const (
	nothing effect = 0

	// Modes: the last one counts.
	submit effect = 1 << iota
	smtp
	batchSMTP
	other // submits nothing

	probe // addresses are looked at only, if the mode is submit

	ends // the program ends, or does something else, whatever follows: a usage error, mostly

	setSender
	fromHeader
	ignoreDots
	heedDots
	gateway
	noBounce // errors are printed, and not mailed to the sender
	bounce   // they are mailed
	report   // a report of success to the sender, if the value names success
)

type ending uint8

const (
	atTwoDashes      ending = iota // getopt(3): "--"; a lone "-" is an operand
	atAnyTwoDashes                 // BSD: any word that begins with "--", which is dropped
	atOneOrTwoDashes               // "-" and "--", both dropped
)

type fromLines uint8

const (
	fromLinesEnd          fromLines = iota // are no fields, and end the header
	fromLineSkipped                        // one "From " line
	fromLinesSkipped                       // all of them
	quotedFromSkipped                      // all, and with any ">" before them
	onceQuotedFromSkipped                  // all, and with one ">" before them
	anyCaseFromSkipped                     // all, and in lower case
)

type arguments uint8

const (
	added      arguments = iota
	subtracted           // with -t: operands get nothing, even where the header names them
)

type duplicates uint8

const (
	kept    duplicates = iota
	dropped            // the same address, letter by letter, counts once
)

type bounces uint8

const (
	noBounces      bounces = iota
	bounceToSender         // a message without recipients is sent back to its sender
)

var profiles = []*Profile{&postfix, &exim, &sendmail8, &opensmtpd, &msmtp, &nullmailer, &dma}
