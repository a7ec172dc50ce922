package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// runHook runs the administrator's program, which takes what is told by exit
// status 0.
func runHook(ctx context.Context, path string, told *Told) error {
	if err := checkProgram(path); err != nil {
		return err
	}
	input, err := json.Marshal(told)
	if err != nil {
		return err
	}
	return runProgram(ctx, exec.Command(path), append(input, '\n'), hookBound)
}

// maxLinks is how many symbolic links lead to a program at most; the kernel follows
// as many.
const maxLinks = 40

// checkProgram refuses a program that anybody but root could have written, or put
// in the place of another. It goes the way that the kernel goes, name by name and
// link by link: whoever owns any step of it decides what is run.
func checkProgram(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s: must be a whole path, from /", path)
	}
	at, links := "/", 0
	st, err := checkStep(path, at)
	for rest := path; err == nil && rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			st, err = checkStep(path, at)
			continue
		}
		next := filepath.Join(at, name)
		if st, err = checkStep(path, next); err != nil || st.Mode()&os.ModeSymlink == 0 {
			at = next
			continue
		}
		target, err := os.Readlink(next)
		if err != nil {
			return err
		}
		if links++; links > maxLinks {
			return fmt.Errorf("%s: too many links", path)
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = target + "/" + rest
	}
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
		return fmt.Errorf("%s: is no program", path)
	}
	return nil
}

// checkStep looks at one directory, link or file on the way to a program.
func checkStep(path, step string) (os.FileInfo, error) {
	st, err := os.Lstat(step)
	if err != nil {
		return nil, err
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); !ok || sys.Uid != 0 {
		return nil, fmt.Errorf("%s: does not belong to root: type chown -h root %s", path, step)
	}
	// In a sticky directory nobody but root renames what is root's; a link has no mode.
	isSafe := st.IsDir() && st.Mode()&os.ModeSticky != 0 || st.Mode()&os.ModeSymlink != 0
	if st.Mode()&0o022 != 0 && !isSafe {
		return nil, fmt.Errorf("%s: others than root may write to %s: type chmod go-w %s", path, step, step)
	}
	return st, nil
}
