// Command conform is what tests/conformance runs in a throw-away server: it
// calls a real sendmail and sendmail-wrapper in front of it with the same command
// line, input, environment, directory and umask, as an ordinary user, and says
// what differs: exit status, standard output and error, files left behind, what
// is queued (sender, recipients, every byte), and whether what the database was
// charged is what was queued.
//
// Each call of the real program is made twice. What differs between these two
// (queue ids, dates, process ids) is named for each mail server by patterns, and
// a pattern that is missing is an error, so that nothing is masked by guess.
//
// docs/conformance.md is for who reads the result.
package main

import (
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
)

const usage = `usage: conform [-case ID]... MTA              (by tests/conformance, as root, in a throw-away server)
       conform -random N [-seed S] MTA
`

func main() {
	ok, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "conform:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

func run(args []string) (ok bool, err error) {
	flags := flag.NewFlagSet("conform", flag.ExitOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	var wanted []string
	flags.Func("case", "only the case of this `ID`, with all that was seen; may be repeated", func(id string) error {
		wanted = append(wanted, id)
		return nil
	})
	random := flags.Int("random", 0, "instead: `N` calls made up, real program against profile")
	seed := flags.Uint64("seed", 1, "of the calls made up")
	flags.Parse(args)
	if flags.NArg() != 1 {
		flags.Usage()
		os.Exit(2)
	}
	m, err := mtaByName(flags.Arg(0))
	if err != nil {
		return false, err
	}
	caller, err := newCaller(m)
	if err != nil {
		return false, err
	}
	defer caller.close()
	if *random > 0 {
		return compareRandom(caller, *random, *seed)
	}
	cases, err := loadCases(m.name)
	if err != nil {
		return false, err
	}
	if len(wanted) > 0 {
		cases = slices.DeleteFunc(cases, func(c testCase) bool { return !slices.Contains(wanted, c.ID) })
		if len(cases) == 0 {
			return false, fmt.Errorf("no case %s for %s", strings.Join(wanted, ", "), m.name)
		}
	}
	return compareAll(caller, cases, len(wanted) > 0)
}

// recorded is what seven mail servers of Debian 12 did with 113 calls.
//
//go:embed testdata/cases.json
var recorded []byte

// loadCases returns those that were recorded and our own, as far as they are for
// this mail server.
func loadCases(mta string) ([]testCase, error) {
	var cases []testCase
	if err := json.Unmarshal(recorded, &cases); err != nil {
		return nil, fmt.Errorf("cases.json: %w", err)
	}
	for i := range cases {
		cases[i].Stdin = latin1(cases[i].Stdin)
	}
	for _, c := range ownCases() {
		if c.only == "" || slices.Contains(strings.Fields(c.only), mta) {
			cases = append(cases, c)
		}
	}
	return cases, nil
}

// latin1 turns characters into the bytes that they stand for.
func latin1(s string) string {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		b = append(b, byte(r))
	}
	return string(b)
}
