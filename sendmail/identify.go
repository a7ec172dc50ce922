package sendmail

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
)

// signatures are words that the sendmail of each MTA has in it, and that of no
// other: true of the packages of Debian 11, 12 and 13 with their 24 programs, and
// of Courier, esmtp and ssmtp, which have none. Most are names of files and
// options, which change less than texts for people.
var signatures = [...]struct{ profile, word string }{
	{"postfix", "mail_version="},                   // global/mail_version.h: each program is stamped with it
	{"exim", "extract_addresses_remove_arguments"}, // readconf.c: an option of its configuration
	{"sendmail", "submit.cf"},                      // include/sm/conf.h; since 8.12
	{"opensmtpd", "smtpd.sock"},                    // smtpd.h: SMTPD_SOCKET
	{"msmtp", "read-recipients"},                   // msmtp.c: the long form of -t
	{"nullmailer", "nullmailer-inject"},            // sendmail.cc executes it
	{"dma", "DragonFly Mail Agent"},                // dma.h: its name in Received:
}

// longestSignature bounds a signature, in bytes.
const longestSignature = 40

// Identify says which profile a program is of, by what is in it: neither its name
// nor the packages of a system tell for sure. A profile of exim may also be
// exim-add-arguments, which its configuration decides. The error says what path
// was found to be, and what to do.
func Identify(path string, program io.Reader) (profile string, err error) {
	const hint = `; write the mail server whose options it has into wrapper.conf, as in mta = "postfix" (see wrapper.conf(5))`
	found := make([]bool, len(signatures))
	window := make([]byte, 0, 256<<10)
	first := true
	for {
		n, err := io.ReadFull(program, window[len(window):cap(window)])
		window = window[:len(window)+n]
		if script, ok := bytes.CutPrefix(window, []byte("#!")); ok && first {
			line, _, _ := bytes.Cut(script[:min(len(script), 200)], []byte("\n"))
			return "", errors.New(path + " is a script (" + strconv.Quote(strings.TrimSpace(string(line))) + ")" + hint)
		}
		first = false
		for i := range signatures {
			found[i] = found[i] || bytes.Contains(window, []byte(signatures[i].word))
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return "", errors.New(path + ": " + err.Error())
		}
		// A word may lie across two reads.
		window = append(window[:0], window[len(window)-longestSignature:]...)
	}
	several := ""
	for i := range signatures {
		if found[i] {
			profile = signatures[i].profile
			several += " " + profile
		}
	}
	switch {
	case several == "":
		return "", errors.New(path + " is of no mail server that is known" + hint)
	case several != " "+profile:
		return "", errors.New(path + " could be of any of" + several + hint)
	}
	return profile, nil
}
