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
	"strings"

	"sendmail-wrapper/wrapper"
)

var version = "unknown"

const help = `sendmail-wrapper: a sendmail that counts mail and refuses what is past the limit

It takes the place of /usr/sbin/sendmail, with the options of the real one:
  printf 'Subject: test\n\nhello\n' | /usr/sbin/sendmail somebody@example.org
  mailctl usage        what you have sent, and what is left

See sendmail-wrapper(8), wrapper.conf(5) and mailctl(8).
`

func main() {
	// As sendmail, all options are the real sendmail's.
	if strings.HasSuffix(os.Args[0], "sendmail-wrapper") && len(os.Args) == 2 {
		switch os.Args[1] {
		case "--version":
			os.Stdout.WriteString("sendmail-wrapper " + version + "\n")
			return
		case "--help":
			os.Stdout.WriteString(help)
			return
		}
	}
	os.Exit(wrapper.Run(os.Args, "/etc/sendmail-wrapper/wrapper.conf"))
}
