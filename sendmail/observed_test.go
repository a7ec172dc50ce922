package sendmail

import (
	"bufio"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
)

// observation is what seven servers of Debian 12 did with a call by the user
// alice: Postfix 3.7.11, Exim 4.96, Sendmail 8.17.1.9 with submit.cf, OpenSMTPD
// 6.8, msmtp 1.8.23, nullmailer 2.2, dma 0.13.
type observation struct {
	ID, Title string
	Argv      []string
	Stdin     string // a character is a byte; {40000} stands for so many bytes of other header fields

	// Queued, by profile, is each message that was queued: the number of
	// recipients, "+" if text after a lone dot was part of it, and the sender, "?"
	// where it hangs on the configuration. The domain of the host itself is left out.
	Queued map[string][]string
}

func observations(t *testing.T) (list []observation) {
	f, err := os.Open("testdata/cases.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var o observation
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		var bytes []byte
		for _, r := range o.Stdin {
			bytes = append(bytes, byte(r))
		}
		o.Stdin = strings.Replace(string(bytes), "{40000}", strings.Repeat("X: "+strings.Repeat("x", 396)+"\n", 100), 1)
		list = append(list, o)
	}
	return list
}

// chargedMore are the observations of which more is charged than was queued, by
// profile and case. Whether they succeed hangs on the rights of the caller, on
// how the server was built, or on its configuration.
var chargedMore = map[string]string{
	"exim 83":       "-G is for trusted users",
	"exim 84":       "-L is for administrators",
	"exim 99":       "-d is for administrators",
	"exim 100":      "-d is for administrators",
	"exim 110":      "-D is for administrators",
	"sendmail 86":   "-U where built with EAI",
	"sendmail 102":  "-X a log file that can be written",
	"sendmail 104":  "-oA needs rights in the submission program",
	"sendmail 105":  "-c needs rights in the submission program",
	"sendmail 106":  "-s needs rights in the submission program",
	"sendmail 110":  "-D needs rights in the submission program",
	"sendmail 135":  "MaxHeadersLength is 32768 by default",
	"postfix 79":    "-N success: the report to the sender is charged, too",
	"postfix 109":   "-v: the report to the sender is charged, too",
	"sendmail 79":   "-N success: the report to the sender is charged, too",
	"msmtp 79":      "-N where the server of the account knows DSN",
	"opensmtpd 149": "a NUL in the last line of a body, which is not read here",
	"dma 25":        "-f may be an alias, or * is one",
	"dma 110":       "scratch/dbg may be an alias, or * is one",
	"dma 116":       "- may be an alias, or * is one",
	"dma 127":       "the empty name, where * is an alias",
	"dma 50":        "0.13 misses recipients in continuations, 0.14 does not",
}

// TestObserved: for each call, the count of recipients and the sender are what
// the real program made of it.
func TestObserved(t *testing.T) {
	list := observations(t)
	for _, p := range profiles {
		for _, o := range list {
			t.Run(p.Name+" "+o.ID+" "+o.Title, func(t *testing.T) {
				call := p.Parse(o.Argv)
				if call.Mode == SMTP { // the dialogue decides about messages
					return
				}
				envelope, err := scan(p, call, iotest.OneByteReader(strings.NewReader(o.Stdin)))
				if err != nil {
					t.Fatal(err)
				}
				queued := 0
				for _, m := range o.Queued[p.Name] {
					count, sender, _ := strings.Cut(m, " ")
					recipients, err := strconv.Atoi(strings.TrimSuffix(count, "+"))
					if err != nil {
						t.Fatal(err)
					}
					queued += recipients
					dotBeforeCR := p == &dma && strings.Contains(o.Stdin, "\n.\r\n") // is text to dma
					if count != strconv.Itoa(recipients) && !call.IgnoreDots && !dotBeforeCR {
						t.Errorf("the server went on after a lone dot")
					}
					checkSender(t, &envelope, sender)
				}
				charged := envelope.Recipients
				if call.Mode == Other {
					charged = 0
				}
				why := chargedMore[p.Name+" "+o.ID]
				switch {
				case charged < queued:
					t.Errorf("%d recipients, the server had %d", charged, queued)
				case charged > queued && why == "":
					t.Errorf("%d recipients, the server had only %d", charged, queued)
				case charged == queued && why != "":
					t.Errorf("%d recipients, as the server had: no exception", charged)
				}
			})
		}
	}
	if len(list) != 113 {
		t.Errorf("%d cases, want all 113", len(list))
	}
}

// checkSender compares with what was observed, but of a bounce: that has none.
func checkSender(t *testing.T, e *Envelope, observed string) {
	t.Helper()
	sender := "alice"
	if e.SenderSet {
		sender = firstAddress(e.Sender)
	}
	bounce := observed == "MAILER-DAEMON" || observed == "<>" && sender != ""
	if want := firstAddress(observed); !bounce && observed != "?" && sender != want {
		t.Errorf("sender %q, the server had %q", sender, want)
	}
}
