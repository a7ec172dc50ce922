package origin

import "strings"

const anacrontab = "/etc/anacrontab"

// anacronJobs returns the jobs of anacron, none if others than root can write
// their file.
func (c *crontabs) anacronJobs() []cronJob {
	f, err := c.parsed(anacrontab, func(text string) []cronJob { return parseAnacrontab(anacrontab, text) })
	if err != nil || f.owner != 0 || f.exposed {
		return nil
	}
	return f.jobs
}

// parseAnacrontab returns the jobs of an anacrontab(5): PERIOD DELAY ID COMMAND.
// A backslash at the end joins a line to the next (readtab.c, read_tab_line); the
// first of them gives the number.
func parseAnacrontab(file, text string) []cronJob {
	var jobs []cronJob
	number, began, joined := 0, 0, ""
	for line := range strings.Lines(text) {
		number++
		if joined == "" {
			began = number
		}
		line = strings.TrimSuffix(line, "\n")
		if head, more := strings.CutSuffix(line, `\`); more {
			joined += head
			continue
		}
		line, joined = strings.TrimLeft(joined+line, " \t"), ""
		if line == "" || line[0] == '#' || isCronSetting(line) {
			continue
		}
		schedule, command, ok := cutFields(line, 3)
		if ok && command != "" {
			jobs = append(jobs, cronJob{file: file, line: began, schedule: schedule, command: command, literal: true})
		}
	}
	return jobs
}
