// Package wrapper is what runs in the place of /usr/sbin/sendmail.
//
// A call that submits nothing (mailq, newaliases, a usage error …) becomes the
// real sendmail at once, untouched. Otherwise standard input is copied into a
// sealed memfd, mailquotad is asked, and the call becomes the real sendmail with
// the memfd as its standard input, or a copy with the trace field in it, and
// everything else as it was (argv with argv[0], environment, directory, umask,
// limits, descriptors 1 and 2), or ends with one line on standard error. In an
// SMTP dialogue (-bs, -bS) it stays, and passes on between its caller and the real
// sendmail.
//
// It runs at every mail, as whoever calls it, with no privilege and no secret;
// and so it decides nothing: what would let a message pass when it should not
// is left to mailquotad, or is a matter of the one file that root owns.
//
// The exit status is of sysexits(3): what mailquotad says for a refused message
// (69), 69 where mailquotad is away and on-unavailable says refuse, 70 where it
// did not understand, 71 and 74 where the system or standard input failed, 78
// where the real sendmail is missing; and 75 instead of any of them for mail that
// is relayed (-G, rmail), and for no other, since PHP takes it for sent since 8.5.
// docs/exit-codes.md has them by cause and by caller.
package wrapper

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/sendmail"
	"sendmail-wrapper/wire"
)

// Exit statuses of sysexits(3).
const (
	exUnavailable = 69
	exSoftware    = 70
	exOSErr       = 71
	exIOErr       = 74
	exTempFail    = 75
	exConfig      = 78
)

// askTimeout bounds the whole exchange with mailquotad, which answers within its
// own decision-timeout (15 seconds by default) if it answers at all; and sendTimeout
// where it sends the message, too: for that it waits a minute for a place, and five for
// the real sendmail, besides some seconds for each.
const (
	askTimeout  = 30 * time.Second
	sendTimeout = 8 * time.Minute
)

// Run does the call and returns its exit status; it does not return where the
// call becomes the real sendmail.
func Run(argv []string, configPath string) int {
	inheritSignals()
	config, wrong := LoadConfig(configPath)
	for _, err := range wrong {
		logLine(err.Error())
	}
	call := config.Profile.Under(os.LookupEnv).Parse(argv)
	exit, real := handle(&config, &call, argv)
	if !real && call.Gateway && (call.Mode == sendmail.Submit || call.Mode == sendmail.Probe) {
		// An MTA that relays keeps the mail in its queue, and bounces it at most of
		// the other statuses (Postfix: global/sys_exits.c).
		return exTempFail
	}
	return exit
}

// handle does it, and tells whether the exit status is the real sendmail's.
func handle(config *Config, call *sendmail.Call, argv []string) (exit int, real bool) {
	if err := checkReal(config.RealSendmail); err != nil {
		if call.Mode == sendmail.SMTP {
			writeAll(1, []byte(codeGone+" "+err.Error()+"\r\n"))
		}
		return fail(exConfig, err.Error()), false
	}
	handOff := config.HandOff && !isRoot()
	switch dialogued := call.Mode == sendmail.SMTP || call.Mode == sendmail.BatchSMTP; {
	case call.Mode == sendmail.Other:
		return become(config.RealSendmail, argv, -1), false
	case dialogued && handOff:
		return ownDialogue(config, call, argv), false
	case call.Mode == sendmail.SMTP:
		return dialogue(config, call, argv), true
	case call.Mode == sendmail.BatchSMTP:
		return batch(config, call, argv), true
	}
	held := newSpool(config.MaxMessageSize)
	read := call.Mode == sendmail.Submit && readable()
	if read {
		// An MTA whose configuration ignores dots would get a part of the message.
		held.copyStdin(!call.IgnoreDots && !config.Profile.DotsUnsure)
	}
	refuse := func(exit int, text string) (int, bool) {
		if read && !held.dotted {
			drain()
		}
		return fail(exit, text), false
	}
	message, failure := held.seal()
	if failure != nil {
		return refuse(failure.exit, failure.text)
	}
	r := request(config, argv)
	r.Truncated, r.HandOff = held.truncated, handOff
	if handOff && call.Mode == sendmail.Submit && !read {
		return refuse(exIOErr, "standard input cannot be read")
	}
	reply := ask(config, call, r, message)
	switch {
	case reply.Verdict == wire.VerdictHanded:
		writeAll(1, reply.Stdout)
		writeAll(2, reply.Stderr)
		return int(reply.Exit), true
	case reply.Verdict != wire.VerdictAccept:
		return refuse(int(reply.Exit), reply.Text)
	case !read:
		return become(config.RealSendmail, argv, -1), false
	}
	message = traced(message, held.size, reply)
	return become(config.RealSendmail, argv, int(message.Fd())), false
}

// isRoot is whether we are root of the host, whose mail each mail server takes: in a
// user namespace of his own anybody is root.
func isRoot() bool {
	if unix.Getuid() != 0 {
		return false
	}
	ids, err := readFile("/proc/self/uid_map")
	fields := strings.Fields(string(ids))
	return err != nil || len(fields) == 3 && fields[1] == "0" && fields[2] == "4294967295"
}

// codeGone is wire.CodeFault where the session ends.
const codeGone = "421 4.3.0"

// ask has mailquotad decide about a message, or on-unavailable if it cannot. The
// reply accepts, or refuses with all that a caller of any kind is told.
func ask(config *Config, call *sendmail.Call, r *wire.Request, message *os.File) *wire.Reply {
	timeout := askTimeout
	if r.HandOff {
		timeout = sendTimeout
	}
	reply, err := wire.Ask(config.Socket, r, message, timeout)
	var unreachable *wire.UnreachableError
	switch {
	case r.HandOff && errors.As(err, &unreachable) && unreachable.Asked:
		return &wire.Reply{Verdict: wire.VerdictRefuse, Exit: exUnavailable, Code: wire.CodeFault, Text: "nobody knows whether the mail was sent: " + unreachable.Error()}
	case errors.As(err, &unreachable):
		reply = &wire.Reply{Verdict: wire.VerdictUnavailable, Text: unreachable.Error()}
	case err != nil:
		return &wire.Reply{Verdict: wire.VerdictRefuse, Exit: exOSErr, Code: wire.CodeFault, Text: "cannot ask mailquotad: " + err.Error()}
	}
	switch reply.Verdict {
	case wire.VerdictAccept, wire.VerdictRefuse, wire.VerdictHanded:
	case wire.VerdictUnavailable:
		accept := config.Accept && !r.HandOff // or the mail server would refuse it, with its own words
		logUnavailable(accept, r.Argv, reply.Text)
		if accept {
			reply = &wire.Reply{Verdict: wire.VerdictAccept}
			break
		}
		reply = &wire.Reply{Verdict: wire.VerdictRefuse, Exit: exUnavailable, Code: wire.CodeFault,
			Text: "mail cannot be counted now, so it is refused; try again later (" + reply.Text + ")"}
	default:
		reply = &wire.Reply{Verdict: wire.VerdictRefuse, Exit: exSoftware, Code: wire.CodeFault, Text: reply.Text}
	}
	if reply.Verdict == wire.VerdictAccept && r.Truncated { // a part of a message is none
		reply = &wire.Reply{Verdict: wire.VerdictRefuse, Exit: exUnavailable, Code: wire.CodeTooLong, Text: wire.TextTooLong}
	}
	return reply
}

func request(config *Config, argv []string) *wire.Request {
	r := &wire.Request{Op: wire.OpSubmit, Profile: config.Profile.Name, Argv: argv}
	for _, name := range wire.HintNames {
		if value, ok := os.LookupEnv(name); ok {
			r.Hints = append(r.Hints, name+"="+value[:min(len(value), unix.PathMax)])
		}
	}
	return r
}

// fail tells the caller why his mail does not leave.
func fail(exit int, text string) int {
	writeAll(2, []byte("sendmail: "+text+"\n"))
	return exit
}

// writeAll writes to a descriptor of the caller's. Nobody is left to hear of an
// error there.
func writeAll(fd int, b []byte) {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err == unix.EINTR || err == unix.EAGAIN && wait(fd, unix.POLLOUT) == nil {
			continue
		}
		if err != nil {
			return
		}
		b = b[n:]
	}
}

// checkReal refuses to go on without a real sendmail, and to exec itself: then
// every mail would ask and exec for ever.
func checkReal(path string) error {
	var real, self unix.Stat_t
	hint := "; see real-sendmail in wrapper.conf(5)"
	if err := unix.Stat(path, &real); err != nil {
		return errors.New("no real sendmail: " + path + ": " + err.Error() + hint)
	}
	if err := unix.Stat("/proc/self/exe", &self); err == nil && real.Dev == self.Dev && real.Ino == self.Ino {
		return errors.New("the real sendmail is this program again: " + path + hint)
	}
	return nil
}

// become executes the real sendmail, with stdin (≥ 0) as its descriptor 0.
func become(path string, argv []string, stdin int) int {
	if stdin >= 0 {
		if _, err := unix.Seek(stdin, 0, unix.SEEK_SET); err != nil {
			return fail(exOSErr, "lseek: "+err.Error())
		}
		// dup2(2) leaves the copy without close-on-exec.
		if err := unix.Dup3(stdin, 0, 0); err != nil {
			return fail(exOSErr, "dup3: "+err.Error())
		}
	}
	err := execute(path, argv, environment())
	return fail(exConfig, "cannot execute "+path+": "+err.Error())
}

// environment is the caller's, byte for byte: os.Environ leaves out doubles,
// and a program that the caller feeds with them shall see them.
func environment() []string {
	raw, err := readFile("/proc/self/environ")
	if err != nil {
		return os.Environ()
	}
	var list []string
	for start, i := 0, 0; i < len(raw); i++ {
		if raw[i] == 0 {
			list = append(list, string(raw[start:i]))
			start = i + 1
		}
	}
	return list
}

// readFile is os.ReadFile without the epoll instance that package os would make
// first: it costs a part of each start, and a caller without descriptors left
// would see a Go trace.
func readFile(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	content := make([]byte, 0, 4096)
	for {
		content = slices.Grow(content, 4096)
		n, err := unix.Read(fd, content[len(content):cap(content)])
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			return content, err
		}
		content = content[:len(content)+n]
	}
}

func logUnavailable(accept bool, argv []string, why string) {
	done := "is refused"
	if accept {
		done = "leaves uncounted"
	}
	text := why + "; mail of uid " + strconv.Itoa(unix.Getuid()) + " " + done + " (on-unavailable):"
	for _, a := range argv {
		if len(text) > 800 {
			text += " …"
			break
		}
		text += " " + strconv.Quote(a[:min(len(a), 200)])
	}
	logLine(text)
}
