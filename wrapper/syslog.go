package wrapper

import (
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// devLog is where syslogd and journald listen (syslog(3)).
var devLog = "/dev/log"

// mailWarning is facility mail, priority warning (RFC 5424, section 6.2.1).
const mailWarning = 2<<3 | 4

// logLine leaves one line with syslog. It never waits and never fails the call:
// package log/syslog would do both, and brings package net along.
func logLine(text string) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	// In UTC, as musl's syslog(3) does: to read /etc/localtime costs a part of
	// the call, and syslogd puts the time of arrival in its place.
	line := "<" + strconv.Itoa(mailWarning) + ">" + time.Now().UTC().Format(time.Stamp) + " sendmail[" + strconv.Itoa(os.Getpid()) + "]: " + text
	_ = unix.Sendto(fd, []byte(line), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: devLog})
}
