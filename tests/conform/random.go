package main

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"sendmail-wrapper/sendmail"
)

// compareRandom makes n calls up, has the real program make them, and compares
// what is queued with what the profile counts. Less is a way around a limit, so
// it fails; more is only said.
func compareRandom(c *caller, n int, seed uint64) (ok bool, err error) {
	g := generator{rand.New(rand.NewPCG(seed, 0)), c.mta.name}
	low, high, nobody := 0, 0, 0
	for range n {
		tc := g.call()
		r, err := c.call(realProgram, &tc, pipe)
		if err != nil {
			return false, err
		}
		queued := 0
		for _, m := range r.queued {
			queued += len(m.recipients)
		}
		counted, err := c.count(&tc)
		if err != nil {
			return false, err
		}
		switch {
		case counted < queued:
			low++
			fmt.Printf("%s: %d counted, %d queued: %q %q\n\t%q\n", c.mta.name, counted, queued, tc.Argv, tc.Env, tc.Stdin)
		case counted > queued && queued > 0:
			high++
		case counted > 0 && queued == 0:
			nobody++
		}
	}
	fmt.Printf("%s: %d calls made up (seed %d), %d counted as queued, %d low, %d high, %d counted and not queued at all\n",
		c.mta.name, n, seed, n-low-high-nobody, low, high, nobody)
	return low == 0, nil
}

// count is how many recipients would be charged, as mailquotad does it.
func (c *caller) count(tc *testCase) (int, error) {
	env := func(name string) (string, bool) { return lookup(tc, name) }
	call := c.profile.Under(env).Parse(tc.Argv)
	if call.Mode != sendmail.Submit && call.Mode != sendmail.Probe {
		return 0, nil
	}
	envelope, err := c.profile.Scan(call, env, strings.NewReader(tc.Stdin))
	return envelope.Recipients, err
}

// generator makes calls up: options in any order and place, odd addresses and
// headers, line ends mixed.
type generator struct {
	*rand.Rand
	mta string
}

// options are taken or refused by one mail server or another; words of one
// element are separated by |. What would run a daemon or a dialogue is not here.
var options = []string{
	"-i", "-oi", "-t", "-t", "-t", "-ti", "-it", "-tv", "-bm", "-b|m", "-bv", "-f|s@x.y", "-fs@x.y", "-f|<>", "-f|", "-r|s@x.y", "-F|Full Name", "-Fx",
	"-v", "-oem", "-oeq", "-oee", "-oep", "-o|i", "-o7", "-oitrue", "-oifalse", "-om", "-odq", "-em", "-ee", "-eq", "-ep",
	"-N|success", "-N|never", "-N|failure,delay", "-R|hdrs", "-V|id", "-V|+=", "-V+=", "-XV", "-B|8BITMIME", "-B8BITMIME", "-h|5", "-L|tag", "-O|x=y", "-O|IgnoreDots=true",
	"-U", "-G", "-n", "-m", "-x", "-A|c", "-Ac", "-c", "-s", "-d", "-d0", "-D|x", "-E", "-p|ESMTP:h", "-oMr|p", "-oA|x", "-q", "-z|x", "-S", "-a|default",
	"--", "-", "--from=s@x.y", "--read-recipients", "--read-envelope-from", "-tf|s@x.y", "-if", "-bnq", "-oQx", "-X|/dev/null", "-C|/dev/null",
}

var operands = []string{
	"a@x.y", "a@x.y", "b@x.y", "c@x.y,d@x.y", "Joe <e@x.y>", "e@x.y f@x.y", " g@x.y ", "", "-a@x.y", "<h@x.y>", "<@r1,@r2:i@x.y>", "g: j@x.y, k@x.y;", "g:;",
	"\"q,q\"@x.y", "(c) l@x.y", "(c)", "m@x.y (", "n@x.y)", "<o@x.y", "p@x.y>", "\"unclosed@x.y", "q@x.y;r@x.y", ",", ";", "s\\,t@x.y", "root", "j\xf6@x.y", "j\xc3\xb6@x.y",
	"u@x.y,", ",v@x.y", "<>", "w@x.y\n", "x@@x.y", "y@x.y@z", "@x.y", "a%b@x.y", "a!b", "=?utf-8?q?a=2Cb?= <z@x.y>",
}

var fields = []string{
	"To", "To", "To", "Cc", "Cc", "Bcc", "Bcc", "TO", "bcc", "To ", "Cc\t", " To", "Apparently-To", "Resent-To", "Resent-Cc", "Resent-Bcc", "Resent-From", "Resent-Sender", "Resent-Date",
	"From", "Sender", "Reply-To", "Errors-To", "Return-Path", "Return-Receipt-To", "Subject", "Message-ID", "Date", "X-A", "Text", "Message", "To-", "T o", "",
}

// lines stand alone in a header.
var lines = []string{"", " ", "\t", ".", "..", "not a header", "From joe Thu Jan  1 00:00:00 1970", ">From joe Thu Jan  1 00:00:00 1970", "--", " folded@x.y", ", more@x.y", ":", "To"}

func (g generator) pick(list []string) string { return list[g.IntN(len(list))] }

func (g generator) chance(n int) bool { return g.IntN(n) == 0 }

func (g generator) call() testCase {
	tc := testCase{Argv: []string{"sendmail"}}
	for range g.IntN(4) {
		tc.Argv = append(tc.Argv, strings.Split(g.pick(options), "|")...)
	}
	if g.chance(3) {
		tc.Argv = append(tc.Argv, "-t")
	}
	for range g.IntN(4) {
		tc.Argv = append(tc.Argv, g.pick(operands))
		if g.chance(8) {
			tc.Argv = append(tc.Argv, strings.Split(g.pick(options), "|")...)
		}
	}
	if g.chance(20) {
		tc.Env = map[string]string{"POSIXLY_CORRECT": ""}
	}
	ends := []string{"\n"}
	switch g.IntN(4) {
	case 0:
		ends = []string{"\r\n"}
	case 1:
		ends = []string{"\n", "\r\n", "\n", "\r\n", "\r\r\n", "\n\r"}
	}
	b := strings.Builder{}
	for range g.IntN(7) {
		if g.chance(8) {
			b.WriteString(g.pick(lines))
		} else {
			b.WriteString(g.pick(fields) + ":" + g.pick([]string{" ", " ", "", "  ", "\t"}))
			for i := range g.IntN(4) {
				if i > 0 {
					b.WriteString(g.pick([]string{", ", ",", ", ", " ", "; ", ",\n ", "," + g.pick(ends) + "\t"}))
				}
				b.WriteString(strings.ReplaceAll(g.pick(operands), "\n", ""))
			}
		}
		b.WriteString(g.pick(ends))
	}
	if !g.chance(10) {
		b.WriteString(g.pick(ends))
	}
	for range g.IntN(4) {
		b.WriteString(g.pick([]string{"body", "To: body@x.y", ".", "..", "", "From x"}) + g.pick(ends))
	}
	message := []byte(b.String())
	for g.chance(6) && len(message) > 0 {
		message[g.IntN(len(message))] = g.pick([]string{"\x00", "\r", "\xe4", "\"", "(", "<", ",", "\\", " ", "\n", "\x7f"})[0]
	}
	tc.Stdin = string(message)
	return tc
}
