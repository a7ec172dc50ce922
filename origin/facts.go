package origin

import (
	"net"
	"path/filepath"
	"strings"
)

// crontab names the line of the job below the cron process chain[at]. The package
// comment has the rule and the attacks.
func (c *call) crontab(at int) Fact {
	job, since := c.chain[at-1], startedAt(c.chain[at].start)
	args := job.cmdline()
	command, isShell := inlineCommand(args)
	if !isShell {
		command = strings.Join(args, " ")
	}
	switch {
	case at <= c.own: // the job runs as the caller
		jobs, steady := c.finder.crons.jobsOf(c.origin.User, c.origin.UID, since)
		found := findJob(jobs, command, args, isShell)
		// Cron itself mails a job's output: its child is sendmail, not the job.
		direct := at == 1
		switch {
		case len(jobs) == 1 && steady && (found != nil || direct):
			return Fact{Value: jobs[0].String(), Proof: c.best(System)}
		case found != nil:
			return Fact{Value: found.String(), Proof: Claimed}
		case direct:
			return Fact{}
		}
	case job.uids.all(isRoot): // a job of root that became the caller
		proof := Claimed
		if exe, ok := job.steadyExe(); ok && isShell && languageOf(exe) == langShell {
			proof = System
		}
		jobs, _ := c.finder.crons.jobsOf(c.users.name(0), 0, since)
		if found := findJob(jobs, command, args, isShell); found != nil {
			command = found.String()
		}
		return Fact{Value: command, Proof: proof}
	default: // a third user's job that became the caller
		uid := c.users.owner(job.uids[0])
		jobs, _ := c.finder.crons.jobsOf(c.users.name(uid), uid, since)
		if found := findJob(jobs, command, args, isShell); found != nil {
			command = found.String()
		}
	}
	return Fact{Value: command, Proof: Claimed}
}

func findJob(jobs []cronJob, command string, args []string, isShell bool) *cronJob {
	for i := range jobs {
		if isShell && jobs[i].runs(command) || !isShell && jobs[i].becomes(args) {
			return &jobs[i]
		}
	}
	return nil
}

// pool names the pool of php-fpm below the master chain[at]. The worker's title
// lies in memory of the caller's uid; the master's title and the file that it
// names do not.
func (c *call) pool(at int) Fact {
	if at > c.own { // the worker is not the caller's: he came by sudo or su
		return Fact{}
	}
	claimed, ok := strings.CutPrefix(title(c.chain[at-1].cmdline()), fpmWorkerTitle)
	if !ok {
		claimed = ""
	}
	config := strings.TrimSuffix(strings.TrimPrefix(title(c.chain[at].cmdline()), fpmMasterTitle), ")")
	pools := c.finder.fpm.pools(config)
	if pools == nil {
		return Fact{Value: claimed, Proof: Claimed}
	}
	var mine []string
	possible, claimIsPossible := 0, false
	for _, p := range pools {
		uid, known := c.users.lookup(p.user)
		if known && uid != c.origin.UID {
			continue
		}
		possible++
		claimIsPossible = claimIsPossible || p.name == claimed
		if known {
			mine = append(mine, p.name)
		}
	}
	switch {
	case possible == 1 && len(mine) == 1:
		return Fact{Value: mine[0], Proof: c.best(System)}
	case claimIsPossible:
		return Fact{Value: claimed, Proof: Claimed}
	}
	return Fact{}
}

// webKind tells what runs below a web server, at being the index of its process
// of root, 0 if the chain is lost. Only programs of the caller's uid say so.
func (c *call) webKind(at int) Kind {
	for i := 1; i < c.own && i < max(at, 1); i++ {
		if c.chain[i].language() == langPHPCGI {
			return PHPCGI
		}
	}
	if at == 0 || at > c.own { // chain lost, or suexec between
		return CGI
	}
	worker := at - 1
	switch {
	case worker == 0, c.near == worker: // 0 is the worker itself, turned into sendmail
		return ModPHP
	case c.claims.Env["GATEWAY_INTERFACE"] != "":
		return CGI
	}
	// A CGI program is started as itself, one of mod_php's by a shell.
	if _, inline := inlineCommand(c.chain[worker-1].cmdline()); inline {
		return ModPHP
	}
	return CGI
}

// webScript names the script of a program below a web server or php-fpm: the one
// that the nearest interpreter was started with, or SCRIPT_FILENAME, or the file
// that mail() wrote into the header, which names no directory.
func (c *call) webScript() Fact {
	if f := c.script(); f.Value != "" {
		return f
	}
	if path := c.claims.Env["SCRIPT_FILENAME"]; filepath.IsAbs(path) {
		return Fact{Value: filepath.Clean(path), Proof: Claimed}
	}
	base := scriptBase(c.claims.PHPScript)
	if base == "" {
		return Fact{}
	}
	// PHP makes the directory of the script the worker's. It is looked into as
	// the kernel shows it, never as the caller says: else he could ask for files
	// in directories that he may not enter.
	for _, i := range []int{c.near, 0} {
		p := c.chain[i]
		if dir := p.cwd(); dir != "" && p.holds(base) {
			return Fact{Value: filepath.Join(dir, base), Proof: Claimed}
		}
	}
	return Fact{Value: base, Proof: Claimed}
}

// scriptBase returns the file's name of an X-PHP-Originating-Script field,
// "UID:NAME" or "UID:NAME(LINE) : eval()'d code" (php_mail.c), "" if it is none.
func scriptBase(field string) string {
	uid, name, ok := strings.Cut(strings.TrimSpace(field), ":")
	if _, valid := parseUID(uid); !ok || !valid {
		return ""
	}
	for {
		code, found := strings.CutSuffix(name, " : eval()'d code")
		open := strings.LastIndexByte(code, '(')
		if !found || open < 0 || !strings.HasSuffix(code, ")") {
			break
		}
		name = code[:open]
	}
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") || len(name) > 255 {
		return ""
	}
	return name
}

// host returns the virtual host that the environment names.
func (c *call) host() Fact {
	for _, name := range []string{"SERVER_NAME", "HTTP_HOST"} {
		if host := c.claims.Env[name]; host != "" {
			if h, _, err := net.SplitHostPort(host); err == nil {
				host = h
			}
			return Fact{Value: strings.ToLower(host), Proof: Claimed}
		}
	}
	return Fact{}
}
