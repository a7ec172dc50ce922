package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"unicode"

	"github.com/jackc/pgx/v5/pgconn"

	"sendmail-wrapper/config"
	"sendmail-wrapper/pgcluster"
	"sendmail-wrapper/sqlschema"
)

// readURLs takes what the command line has of a database.
func (s *setupRun) readURLs() (err error) {
	o := &s.options
	if err := s.loadConfig(); err != nil {
		return err
	}
	if o.owner != "" && o.database == "" {
		return &failure{exUsage, "--database-owner goes with --database", "mailctl setup --help"}
	}
	for _, u := range []struct {
		option string
		value  *string
	}{{"--database", &o.database}, {"--database-owner", &o.owner}} {
		if *u.value == "-" {
			if *u.value, err = readLine(s.answers); err != nil {
				return &failure{exUsage, u.option + " -: " + err.Error(), ""}
			}
		}
		if *u.value == "" {
			continue
		}
		if _, err := pgconn.ParseConfig(*u.value); err != nil { // which says no password
			return &failure{exUsage, u.option + ": must be like postgres://mailquotad@db.example/mailquota: " + err.Error(), ""}
		}
		if strings.ContainsFunc(*u.value, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return &failure{exUsage, u.option + " has a character that cannot be printed", "write it as %XX"}
		}
	}
	return nil
}

// target is the configuration with the database of the command line, and whether
// that is another one than the file has.
func (s *setupRun) target() (c config.Daemon, changes bool, err error) {
	a := s.fresh()
	if err := a.loadConfig(); err != nil {
		return c, false, err
	}
	c = *a.config
	o := &s.options
	if o.database == "" || o.database == c.Database && (o.owner == "" || o.owner == c.DatabaseOwner) {
		return c, false, nil
	}
	text, err := os.ReadFile(s.configPath)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return c, false, err
	}
	for _, key := range []string{"database", "database-owner"} {
		if _, _, given := confLine(text, key); given && !setByUs(text, key) {
			return c, false, &failure{exWrong, s.configPath + " has another " + key + " already", "change it there, then mailctl setup without --database"}
		}
	}
	c.Database, c.DatabaseOwner = o.database, o.owner
	return c, true, nil
}

// where says of which server and database a connection string is.
func where(connString string) string {
	p, err := pgconn.ParseConfig(connString)
	if err != nil {
		return "a database that is not understood"
	}
	return fmt.Sprintf("database %s at %s", p.Database, p.Host)
}

func (s *setupRun) lookDatabase(ctx context.Context) (stepReport, error) {
	c, changes, err := s.target()
	if err != nil {
		return stepReport{}, err
	}
	if changes {
		return stepReport{State: stepPlanned, Text: fmt.Sprintf("use %s, make or upgrade the schema there, and write it into %s", where(c.Database), s.configPath)}, nil
	}
	what := where(c.Database)
	if c.Private() {
		cluster := privateCluster()
		what = "the service's own PostgreSQL in " + cluster.DataDir
		if !cluster.Exists() {
			programs, err := pgcluster.Find()
			if err != nil {
				return stepReport{}, &failure{exWrong, err.Error(), "apt-get install postgresql, or dnf install postgresql-server, or name another database by --database"}
			}
			return stepReport{State: stepPlanned, Text: fmt.Sprintf("make a PostgreSQL cluster of the service's own in %s, by the programs in %s, on a unix socket only", cluster.DataDir, programs)}, nil
		}
	}
	a := s.fresh()
	defer a.close()
	var older *sqlschema.VersionError
	switch err := a.connect(ctx); {
	case err == nil:
		return stepReport{State: stepSo, Text: fmt.Sprintf("%s, schema version %d", what, sqlschema.Latest())}, nil
	case errors.As(err, &older) && older.Have < older.Want && c.DatabaseOwner != "":
		return stepReport{State: stepPlanned, Text: fmt.Sprintf("%s: make or upgrade the schema, to version %d", what, sqlschema.Latest())}, nil
	case c.Private():
		return stepReport{State: stepPlanned, Text: "start " + what}, nil
	default:
		exit, hint := a.explain(err, nil)
		return stepReport{}, &failure{exit, err.Error(), hint}
	}
}

func (s *setupRun) makeDatabase(ctx context.Context) (stepReport, error) {
	if err := makeUser(ctx); err != nil {
		return stepReport{}, err
	}
	c, changes, err := s.target()
	if err != nil {
		return stepReport{}, err
	}
	if !changes {
		if _, err := s.call(ctx, nil, "database", "init"); err != nil {
			return stepReport{}, err
		}
		text := where(c.Database)
		if c.Private() {
			text = "the service's own PostgreSQL in " + config.PrivateDataDir
		}
		return stepReport{Text: fmt.Sprintf("%s, schema version %d", text, sqlschema.Latest())}, nil
	}
	// All of it works before the configuration names it.
	a := &app{stdout: io.Discard, stderr: io.Discard, json: true, configPath: s.configPath, config: &c}
	defer a.close()
	if c.DatabaseOwner != "" {
		if err := a.migrate(ctx); err != nil {
			return stepReport{}, &failure{exUnavailable, err.Error(), "is --database-owner right, and does that server let this host in?"}
		}
	}
	var schema *sqlschema.VersionError
	switch err := a.connect(ctx); {
	case errors.As(err, &schema) && c.DatabaseOwner == "":
		return stepReport{}, &failure{exConfig, err.Error(), "name its owner by --database-owner, who makes the schema"}
	case err != nil:
		return stepReport{}, &failure{exUnavailable, err.Error(), "is --database right, and does that server let this host in?"}
	}
	r := stepReport{Text: fmt.Sprintf("%s, schema version %d; written into %s", where(c.Database), sqlschema.Latest(), s.configPath)}
	if privateCluster().Exists() {
		r.Notes = append(r.Notes, "the service's own database in "+config.PrivateDataDir+" stays as it is; nothing of it is taken over")
	}
	return r, s.writeDatabase(c.Database, c.DatabaseOwner)
}

// setupMark is behind our lines in mailquotad.conf. It has the mode and group of the
// file before, where they had to change for a password; "-" where they had not.
var setupMark = regexp.MustCompile(`# mailctl setup; before: (-|0[0-7]{3} \S+)\s*$`)

func setByUs(text []byte, key string) bool {
	start, end, given := confLine(text, key)
	return given && setupMark.Match(text[start:end])
}

// writeDatabase sets the two lines. With a password in them only root and mailquotad
// may read the file, from the moment when they are in it.
func (s *setupRun) writeDatabase(database, owner string) error {
	e, err := readEdit(s.configPath)
	if err != nil {
		return err
	}
	before := "-"
	if found := setupMark.FindSubmatch(lineOf(e.before, "database")); found != nil {
		before = string(found[1])
	}
	e.mode, e.group = 0o640, s.group
	if hasPassword(database) || hasPassword(owner) {
		if info, err := os.Stat(s.configPath); err == nil && info.Mode()&0o007 != 0 {
			group, err := user.LookupGroupId(strconv.Itoa(int(info.Sys().(*syscall.Stat_t).Gid)))
			if err != nil {
				return err
			}
			e.exactly = true
			before = fmt.Sprintf("%04o %s", info.Mode().Perm(), group.Name)
		}
	}
	line := func(key, value string) string {
		if value == "" {
			return ""
		}
		return fmt.Sprintf("%s = %s # mailctl setup; before: %s\n", key, strconv.Quote(value), before)
	}
	e.after = setLine(e.before, "database", line("database", database))
	e.after = setLine(e.after, "database-owner", line("database-owner", owner))
	return e.apply()
}

func lineOf(text []byte, key string) []byte {
	start, end, given := confLine(text, key)
	if !given {
		return nil
	}
	return text[start:end]
}

func hasPassword(connString string) bool {
	p, err := pgconn.ParseConfig(connString)
	return connString != "" && err == nil && p.Password != ""
}

// forgetDatabase takes the lines out again, and gives the file its mode and group.
func (s *setupRun) forgetDatabase(dryRun bool) (stepReport, error) {
	e, err := readEdit(s.configPath)
	if err != nil {
		return stepReport{}, err
	}
	r := stepReport{State: stepSo, Text: "mailquotad.conf has no line of mailctl setup"}
	found := setupMark.FindSubmatch(lineOf(e.before, "database"))
	if found == nil {
		return r, nil
	}
	if mode, group, changed := strings.Cut(string(found[1]), " "); changed {
		bits, err := strconv.ParseUint(mode, 8, 32)
		if err != nil {
			return r, err
		}
		e.exactly, e.mode, e.group = true, os.FileMode(bits), group
	}
	for _, key := range []string{"database", "database-owner"} {
		if setByUs(e.after, key) {
			e.after = setLine(e.after, key, "")
		}
	}
	if len(e.after) == 0 { // it was made for these lines
		e.after = nil
	}
	r = stepReport{State: stepUndone, Text: "database out of " + s.configPath + "; its data stay, and mailctl setup --database takes them up again"}
	if dryRun {
		r.State = stepPlanned
		return r, nil
	}
	return r, e.apply()
}
