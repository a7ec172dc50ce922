package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// checkProgram refuses a program that anybody but root could have written, or put
// in the place of another.
func checkProgram(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	for _, way := range []string{path, real} {
		for p := filepath.Clean(way); ; p = filepath.Dir(p) {
			st, err := os.Lstat(p)
			if err != nil {
				return err
			}
			sys, ok := st.Sys().(*syscall.Stat_t)
			if !ok || sys.Uid != 0 {
				return fmt.Errorf("%s: does not belong to root: type chown root %s", path, p)
			}
			// In a sticky directory nobody but root renames what is root's; a link has no mode.
			isSafe := st.IsDir() && st.Mode()&os.ModeSticky != 0 || st.Mode()&os.ModeSymlink != 0
			if st.Mode()&0o022 != 0 && !isSafe {
				return fmt.Errorf("%s: others than root may write to %s: type chmod go-w %s", path, p, p)
			}
			if p == "/" {
				break
			}
		}
	}
	if st, err := os.Stat(real); err != nil || !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
		return fmt.Errorf("%s: is no program", path)
	}
	return nil
}
