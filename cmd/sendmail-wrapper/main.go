// At its start Go looks for a CPU limit of the control group, in a list of
// mounts that is long on a hosting server; this program uses one thread.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command sendmail-wrapper is a sendmail(1) that counts mail and refuses what
// is past the limit; see sendmail-wrapper(8).
package main

import (
	"os"
	"runtime"
	"strings"

	"sendmail-wrapper/wrapper"
)

var version = "unknown"

// configPath is another one in the tests.
var configPath = "/etc/sendmail-wrapper/wrapper.conf"

const help = `sendmail-wrapper: a sendmail that counts mail and refuses what is past the limit

It takes the place of /usr/sbin/sendmail, with the options of the real one:
  printf 'Subject: test\n\nhello\n' | /usr/sbin/sendmail somebody@example.org
  mailctl usage        what you have sent, and what is left

See sendmail-wrapper(8), wrapper.conf(5) and mailctl(8).
`

// The thread that the caller started is the one that executes the real sendmail:
// PR_SET_PDEATHSIG is its alone (prctl(2)).
func init() { runtime.LockOSThread() }

func main() {
	argv := os.Args
	if len(argv) == 0 {
		argv = []string{""} // as Linux 5.18 does at execve(2)
	}
	// As sendmail, all options are the real sendmail's.
	if strings.HasSuffix(argv[0], "sendmail-wrapper") && len(argv) == 2 {
		switch argv[1] {
		case "--version":
			os.Stdout.WriteString("sendmail-wrapper " + version + "\n")
			return
		case "--help":
			os.Stdout.WriteString(help)
			return
		}
	}
	os.Exit(wrapper.Run(argv, configPath))
}
