package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sendmail-wrapper/tests/testpg"
)

// escapes is what some terminals obey.
const escapes = "x\x1b]0;owned\a\x1b[5m\u009b31m\r\u202e"

// hostile are values that nobody should give. The first ones are given to every
// option and argument, the rest to each kind of option once.
var hostile = []string{
	"", escapes, strings.Repeat("a", 1<<20),
	" ", "-1", "99999999999999999999", "NaN", "1e9", "0x10", "a\nmailctl: error: b\r\nhint: rm -rf /", "'; DROP TABLE messages; --", `"$(id)" ` + "`id`",
	"%s%d%n%!", "\xff\xfe\xc0\x80", "\u202egro.live\u2066", "../../../../etc/passwd", "/nonexistent/" + strings.Repeat("d/", 3000), "server", "plan:", "user:\t", "9999-99-99",
	"292277026596-12-04", "10.0.0.0/33", "-", "--", "{}", strings.Repeat("[", 100_000),
}

const givenToAll = 3

// leftOut are commands that change the machine and not a database.
var leftOut = []string{"setup", "database", "completion"}

// TestHostileValues: whatever stands on the command line, each command ends in
// time, with a status that is documented; one that fails says why in one line that
// no terminal obeys, and has changed nothing. It finds commands and options by
// itself; what else they need to be whole is in their examples.
func TestHostileValues(t *testing.T) {
	h := newHostility(t)
	t.Chdir(h.dir) // some values are names of files that are written
	commands := leaves()
	for _, words := range slices.Sorted(maps.Keys(commands)) {
		if slices.Contains(leftOut, strings.Fields(words)[0]) {
			continue
		}
		t.Run(strings.ReplaceAll(words, " ", "-"), func(t *testing.T) { h.attack(t, words, commands[words]) })
	}
}

// hostility is a database that is attacked by the command line.
type hostility struct {
	conf  string
	dir   string // for files
	owner *pgx.Conn
	sql   string          // a text of all rows of all tables
	state string          // what it was when last looked at
	next  string          // transaction that would have written something then
	given map[string]bool // kinds of options that had all values
}

func newHostility(t *testing.T) *hostility {
	t.Helper()
	database := testpg.New(t)
	h := &hostility{conf: filepath.Join(t.TempDir(), "mailquotad.conf"), dir: filepath.Join(t.TempDir(), "a/b/c/d/e/f"), given: map[string]bool{}}
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("database = %q\nhost = \"host1\"\nsocket = %q\n", testpg.As(database, "mailquotad"), filepath.Join(t.TempDir(), "s"))
	if err := os.WriteFile(h.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.owner, err = pgx.Connect(t.Context(), database); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.owner.Close(context.Background()) })
	err = h.owner.QueryRow(t.Context(), `SELECT 'SELECT md5(concat(' || string_agg(format('(SELECT md5(string_agg(t::text, ''|'' ORDER BY t::text)) FROM %I t)', relname), ', ') || '))'
  FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition`).Scan(&h.sql)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"plan add gold", "subscription add acme --plan gold", "domain add shop.example --subscription acme",
		"mailbox add info@shop.example", "user add daemon --subscription acme", "limit set subscription:acme messages/hour 5"} {
		if exit, _, stderr := h.run(t, strings.Fields(line)); exit != exOK {
			t.Fatalf("%s: %s", line, stderr)
		}
	}
	h.plant(t)
	h.state = h.look(t)
	return h
}

// plant puts what a terminal may obey wherever strangers can: into names, what is
// known of messages, and what is kept of their text.
func (h *hostility) plant(t *testing.T) {
	t.Helper()
	for _, sql := range []string{
		`SELECT make_partitions((now() AT TIME ZONE 'UTC')::date - 1, 3)`,
		`INSERT INTO plan (name) VALUES ($1)`,
		`INSERT INTO subscription (plan_id, name) SELECT id, $1 FROM plan WHERE name = $1`,
		`INSERT INTO domain (subscription_id, name, document_root) SELECT id, $1, '/' || $1 FROM subscription WHERE name = $1`,
		`INSERT INTO mailbox (domain_id, address) SELECT id, $1 FROM domain WHERE name = $1`,
		`INSERT INTO host (name) VALUES ($1)`,
		`INSERT INTO system_user (subscription_id, uid, host_id, name) SELECT s.id, 7, h.id, $1 FROM subscription s, host h WHERE s.name = $1 AND h.name = $1`,
		`INSERT INTO limits (owner_id, class, messages_hour) SELECT id, 4, 1 FROM subscription WHERE name = $1`,
		`INSERT INTO messages (at, id, uid, size, user_id, mailbox_id, domain_id, subscription_id, refused_object, host_id, recipients, decision, refused_limit, kind_proof,
   script_proof, crontab_proof, site_proof, sender, kind, script, crontab, site, refused_why, facts)
 SELECT now() - n * interval '1 minute', gen_random_uuid(), 7, 1, u.id, m.id, d.id, s.id, CASE WHEN n > 1 THEN s.id END, u.host_id, 3, least(n, 3), CASE WHEN n > 1 THEN 0 END, 1,
        1, 1, 1, $1, 'cron', '/' || $1, CASE WHEN n > 2 THEN $1 END, $1, CASE WHEN n > 1 THEN $1 END, jsonb_build_object('uri', jsonb_build_array($1, 'system'))
   FROM subscription s JOIN system_user u ON u.subscription_id = s.id JOIN domain d ON d.subscription_id = s.id JOIN mailbox m ON m.domain_id = d.id, generate_series(1, 3) n
  WHERE s.name = $1`,
		`INSERT INTO details (at, id, message_id, subject, recipients) SELECT at, id, $1, $1, ARRAY[$1] FROM messages WHERE sender = $1`,
		`INSERT INTO audit (host, actor, action, object, before, after, why) VALUES ($1, $1, $1, $1, $1, $1, $1)`,
	} {
		var args []any
		if strings.Contains(sql, "$1") {
			sql, args = strings.ReplaceAll(sql, "$1", "$1::text"), []any{escapes}
		}
		if _, err := h.owner.Exec(t.Context(), sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// look returns what stands for all rows. It reads them if anybody may have written
// since it last did.
func (h *hostility) look(t *testing.T) (state string) {
	t.Helper()
	next := h.next
	if err := h.owner.QueryRow(t.Context(), `SELECT pg_snapshot_xmax(pg_current_snapshot())::text`).Scan(&h.next); err != nil {
		t.Fatal(err)
	}
	if next == h.next {
		return h.state
	}
	if err := h.owner.QueryRow(t.Context(), h.sql).Scan(&state); err != nil {
		t.Fatal(err)
	}
	return state
}

// run runs mailctl in this process; a panic ends the test.
func (h *hostility) run(t *testing.T, args []string) (exit int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var out, errs strings.Builder
	done := make(chan int, 1)
	go func() { done <- run(ctx, append([]string{"--config", h.conf}, args...), &out, &errs) }()
	select {
	case exit = <-done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s does not end", inShort(args))
	}
	if ctx.Err() != nil {
		t.Errorf("%s takes more than 10 seconds", inShort(args))
	}
	return exit, out.String(), errs.String()
}

// attack runs one command, as its example has it, with each value in the place of
// each argument and option.
func (h *hostility) attack(t *testing.T, words string, c *cobra.Command) {
	base := exampleOf(c)
	if base == nil { // its example is systemctl's: notify run, which has no argument
		return
	}
	base = slices.Clone(base[len(strings.Fields(words)):])
	for i, word := range base {
		if strings.HasPrefix(word, "/") {
			base[i] = h.dir + word
		}
	}
	arguments, options := split(c, base)
	line := func(arguments []string, options ...string) []string {
		return slices.Concat(strings.Fields(words), options, []string{"--"}, arguments)
	}
	h.check(t, line(arguments, options...))
	h.check(t, line(append(slices.Clone(arguments), "one-more"), options...))
	for i := range arguments {
		h.check(t, line(slices.Delete(slices.Clone(arguments), i, i+1), options...))
		for _, value := range hostile {
			mutated := slices.Clone(arguments)
			mutated[i] = value
			h.check(t, line(mutated, options...))
		}
	}
	c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		values := hostile
		if kind := f.Name + ": " + f.Usage; h.given[kind] {
			values = hostile[:givenToAll]
		} else {
			h.given[kind] = true
		}
		if f.Name == "help" {
			return
		}
		for _, value := range values {
			h.check(t, line(arguments, append(slices.Clone(options), "--"+f.Name+"="+value)...))
		}
	})
}

// check runs a command line and looks at what comes of it.
func (h *hostility) check(t *testing.T, args []string) {
	t.Helper()
	exit, stdout, stderr := h.run(t, args)
	if !slices.Contains(exits, exit) {
		t.Errorf("%s: exit status %d, which is none of %v", inShort(args), exit, exits)
	}
	for name, text := range map[string]string{"output": stdout, "errors": stderr} {
		if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
			t.Errorf("%s: a terminal may obey its %s: %q", inShort(args), name, text[:min(len(text), 300)])
		}
	}
	if len(stderr) > 5000 {
		t.Errorf("%s: %d bytes of errors: %q …", inShort(args), len(stderr), stderr[:300])
	}
	state := h.look(t)
	if exit == exOK {
		h.state = state
		return
	}
	if state != h.state {
		t.Errorf("%s: exit status %d, and the database is not as it was\n%s", inShort(args), exit, stderr)
		h.state = state
	}
	errors, hints := 0, 0
	for line := range strings.Lines(stderr) {
		if strings.HasPrefix(line, "mailctl: error: ") || strings.HasPrefix(line, "mailctl: problem: ") {
			errors++
		}
		if strings.HasPrefix(line, "hint: ") {
			hints++
		}
	}
	// What is looked for and found wrong may be the output itself.
	if errors == 0 && (exit != exWrong || stdout == "") || hints > 1 || strings.Count(stderr, "\nmailctl: error: ") > 1 {
		t.Errorf("%s: exit status %d; %d errors and %d hints:\n%s", inShort(args), exit, errors, hints, stderr)
	}
}

// exampleOf are the words of the example of a command that has most of them,
// without mailctl.
func exampleOf(c *cobra.Command) (most []string) {
	for line := range strings.Lines(c.Example) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "   ")
		line, _, _ = strings.Cut(line, " <")
		words, err := shellWords(line)
		if err == nil && strings.HasPrefix(strings.Join(words, " ")+" ", c.CommandPath()+" ") && len(words)-1 > len(most) {
			most = words[1:]
		}
	}
	return most
}

// split tells arguments from options.
func split(c *cobra.Command, words []string) (arguments, options []string) {
	for i := 0; i < len(words); i++ {
		name, isOption := strings.CutPrefix(words[i], "--")
		name, _, whole := strings.Cut(name, "=")
		if !isOption {
			arguments = append(arguments, words[i])
			continue
		}
		options = append(options, words[i])
		if f := c.Flags().Lookup(name); f != nil && !whole && f.NoOptDefVal == "" && i+1 < len(words) {
			i++
			options = append(options, words[i])
		}
	}
	return arguments, options
}

// inShort is a command line for who reads the test's output.
func inShort(args []string) string {
	text := fmt.Sprintf("%q", args)
	if len(text) > 200 {
		text = text[:200] + "…"
	}
	return text
}
