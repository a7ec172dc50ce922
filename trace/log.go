package trace

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Line is one that a daemon of Postfix logged about a queue file.
type Line struct {
	Time    time.Time
	Program string // pickup, cleanup, qmgr, smtp, …
	Queue   string // id of the queue file
	Text    string // what follows the id
}

// parseLine reads a line of syslog (RFC 3164, or with the time of RFC 3339, as
// rsyslog writes it) or of journalctl -o short-iso. Times of RFC 3164 have no year:
// it is the last in which that time is not after now, a day's error of clocks aside.
func parseLine(s string, now time.Time) (l Line, ok bool) {
	l.Time, s, ok = parseTime(s, now)
	if !ok {
		return l, false
	}
	// HOST NAME/PROGRAM[PID]: QUEUE: TEXT. The name of an instance, or of a service
	// in master.cf, may have slashes as well: postfix-out/submission/smtpd.
	_, s, _ = strings.Cut(s, " ")
	tag, s, ok := strings.Cut(s, ": ")
	if !ok {
		return l, false
	}
	tag, _, _ = strings.Cut(tag, "[")
	slash := strings.LastIndexByte(tag, '/')
	if slash < 0 || strings.IndexByte(tag, ' ') >= 0 {
		return l, false
	}
	l.Program = tag[slash+1:]
	l.Queue, l.Text, ok = strings.Cut(s, ": ")
	return l, ok && IsQueueID(l.Queue)
}

func parseTime(s string, now time.Time) (t time.Time, rest string, ok bool) {
	const short = "Jan _2 15:04:05"
	if len(s) > len(short) && s[len(short)] == ' ' && s[0] >= 'A' {
		// With a year that has a 29th of February.
		t, err := time.ParseInLocation("2006 "+short, "2000 "+s[:len(short)], time.Local)
		if err != nil {
			return t, "", false
		}
		at := func(year int) time.Time {
			return time.Date(year, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.Local)
		}
		year := now.In(time.Local).Year() + 1
		for at(year).After(now.Add(24 * time.Hour)) {
			year--
		}
		return at(year), s[len(short)+1:], true
	}
	stamp, rest, ok := strings.Cut(s, " ")
	if !ok || len(stamp) < len("2006-01-02T15:04:05Z") || len(stamp) > 40 {
		return t, "", false
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05-0700"} {
		if t, err := time.Parse(layout, stamp); err == nil {
			return t, rest, true
		}
	}
	return t, "", false
}

// Ids of queue files, short and long (postconf(5), enable_long_queue_ids). The
// long one has seconds and microseconds to base 52, without vowels, a z, and the
// number of the file to base 51.
var (
	shortID = regexp.MustCompile(`^[0-9A-F]{6,20}$`)
	longID  = regexp.MustCompile(`^[` + base52 + `]{10,12}z[` + base52 + `]{1,15}$`)
)

const base52 = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"

// IsQueueID tells whether a word has the form of one of Postfix's queue ids.
func IsQueueID(s string) bool { return shortID.MatchString(s) || longID.MatchString(s) }

// QueueTime is when a queue file with a long id was made; the zero time for a
// short one.
func QueueTime(id string) time.Time {
	if !longID.MatchString(id) {
		return time.Time{}
	}
	var seconds int64
	for i := range 6 {
		seconds = seconds*int64(len(base52)) + int64(strings.IndexByte(base52, id[i]))
	}
	return time.Unix(seconds, 0)
}

// Mail is what Postfix logged about one queue file, from its first line in the log
// to the one that says removed.
type Mail struct {
	Queue       string
	First, Last time.Time
	UID         *int64   // of who called sendmail(1), from pickup
	Login       string   // of SMTP AUTH, from smtpd
	Sender      string   // envelope sender
	MessageID   string   // with < and >
	Traces      []string // values of the trace header as logged, topmost first
	Recipients  int      // of the envelope, after aliases of cleanup; 0: not logged
	Lines       []Line   // at most maxLines
	IsRemoved   bool     // delivered, bounced, or deleted
}

// maxLines bounds the lines that are kept of one queue file; one with 50000
// recipients has as many.
const maxLines = 200

var (
	pickupText  = regexp.MustCompile(`^uid=(\d{1,10}) from=<(.*)>`)
	saslText    = regexp.MustCompile(`, sasl_username=([^,\s]+)`)
	cleanupText = regexp.MustCompile(`^(?:resent-)?message-id=(\S.*)$`)
	qmgrText    = regexp.MustCompile(`^from=<(.*)>, size=\d+, nrcpt=(\d{1,9}) `)
	// The host that gave it, for SMTP; the value ends at the last one that fits.
	infoText = regexp.MustCompile(`^info: header ([^\s:]+): *(.*?) from (?:local|\S+\[\S+\](?::\d+)?);`)
)

// add takes a line's facts.
func (m *Mail) add(l Line, fields []string) {
	if len(m.Lines) == 0 {
		m.First = l.Time
	}
	m.Last = l.Time
	if len(m.Lines) < maxLines {
		m.Lines = append(m.Lines, l)
	}
	switch l.Program {
	case "pickup":
		if f := pickupText.FindStringSubmatch(l.Text); f != nil && m.UID == nil {
			if n, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				m.UID, m.Sender = &n, f[2]
			}
		}
	case "smtpd":
		if f := saslText.FindStringSubmatch(l.Text); f != nil && m.Login == "" {
			m.Login = f[1]
		}
	case "cleanup":
		if f := cleanupText.FindStringSubmatch(l.Text); f != nil {
			if m.MessageID == "" {
				m.MessageID = f[1]
			}
		} else if f := infoText.FindStringSubmatch(l.Text); f != nil && len(m.Traces) < maxTraces {
			for _, name := range fields {
				if strings.EqualFold(f[1], name) {
					m.Traces = append(m.Traces, strings.ToLower(f[2]))
					break
				}
			}
		}
	case "qmgr":
		if f := qmgrText.FindStringSubmatch(l.Text); f != nil {
			m.Sender = f[1]
			m.Recipients, _ = strconv.Atoi(f[2]) // nine digits
		}
		m.IsRemoved = m.IsRemoved || l.Text == "removed"
	}
}
