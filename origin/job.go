package origin

import "strings"

// commandOf returns what cron had a shell run: from the shell's arguments, or from
// those of the program that it became. Then isShell is false.
func commandOf(args []string) (command string, isShell bool) {
	if command, isShell = inlineCommand(args); !isShell {
		command = strings.Join(args, " ")
	}
	return command, isShell
}

// jobScript returns the script of the program that called, below a daemon of
// root that runs jobs. If the caller's own programs show none, that of root's
// counts, where root's job became the caller. Root alone started these, so that
// their arguments are no claim of the caller's; links in them are not followed, since
// they can be, and could have been changed since.
func (c *call) jobScript() Fact {
	f := c.script()
	if f.Value != "" || c.at <= c.own {
		return f
	}
	for _, p := range c.chain[c.own:c.at] {
		if !p.uids.all(isRoot) {
			return f
		}
	}
	for _, p := range c.chain[c.own:c.at] {
		script := p.scriptPath()
		if _, ok := p.steadyExe(); ok && script != "" && !climbs(script) {
			return Fact{Value: script, Proof: c.best(System)}
		}
	}
	return f
}

// crontab names the line of the job below the cron process chain[at]. The package
// comment has the rule and the attacks.
func (c *call) crontab(at int) Fact {
	job, since := c.chain[at-1], c.chain[at].started()
	args := job.cmdline()
	command, isShell := commandOf(args)
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

// anacronJob names the line of the job below the anacron process chain[at].
// anacron runs jobs of root only, as SHELL -c COMMAND; one that mails belongs to
// root, or has become the caller. Of anacron's own mail about a job's output, the
// job is not known: one process of it waits for all.
func (c *call) anacronJob(at int) Fact {
	if at == 1 {
		return Fact{}
	}
	job := c.chain[at-1]
	command, isShell := commandOf(job.cmdline())
	proof := Claimed
	if exe, ok := job.steadyExe(); ok && isShell && job.uids.all(isRoot) && languageOf(exe) == langShell {
		proof = c.best(System)
	}
	if found := findJob(c.finder.crons.anacronJobs(), command, job.cmdline(), isShell); found != nil {
		command = found.String()
	}
	return Fact{Value: command, Proof: proof}
}
