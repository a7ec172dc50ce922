package pgcluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// Serve becomes postgres: it does not return unless it fails. It must run as
// c.User.
func (c *Cluster) Serve() error {
	bin, err := c.programs()
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		return fmt.Errorf("postgres refuses to run as root: type systemctl start mailquota-postgresql, or runuser -u %s -- mailctl database serve", c.User)
	}
	// By argv[0] postgres finds its libraries, or else in PATH, where it is not
	// on Debian (find_my_exec, src/common/exec.c).
	path := filepath.Join(bin, "postgres")
	return fmt.Errorf("execute %s: %w", path, syscall.Exec(path, []string{path, "-D", c.DataDir}, os.Environ()))
}

// Server is a postgres that runs as a child.
type Server struct {
	process *os.Process
	done    chan struct{} // closed when it has ended
	ended   error         // why; to be read once done is closed
}

// Start runs postgres as a child until Stop, or until this process dies. It
// returns when connections are taken; the context bounds the wait for that.
func (c *Cluster) Start(ctx context.Context) (*Server, error) {
	bin, err := c.programs()
	if err != nil {
		return nil, err
	}
	id, err := c.identity()
	if err != nil {
		return nil, err
	}
	if err := makeDir(c.SocketDir, id, 0o750); err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(bin, "postgres"), "-D", c.DataDir)
	cmd.Dir = "/"
	cmd.SysProcAttr = id.attributes()
	cmd.SysProcAttr.Pdeathsig = syscall.SIGINT
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	s := &Server{done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The signal of a parent's death comes when the thread that forked
		// ends (prctl(2), PR_SET_PDEATHSIG); so keep that thread.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_, err = cmd.Process.Wait()
		}
		s.ended = err
		close(s.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	s.process = cmd.Process
	if err := awaitReady(ctx, stderr); err != nil {
		s.Abort()
		return nil, fmt.Errorf("start postgres in %s: %w", c.DataDir, err)
	}
	return s, nil
}

// awaitReady reads postgres's log until it says that it takes connections, and
// goes on reading it, so that postgres never waits for a full pipe.
func awaitReady(ctx context.Context, log io.Reader) error {
	ready := make(chan error, 1)
	go func() {
		var said []string
		lines := bufio.NewScanner(log)
		for lines.Scan() {
			if strings.Contains(lines.Text(), "ready to accept connections") {
				ready <- nil
				io.Copy(io.Discard, log)
				return
			}
			said = append(said, lines.Text())
		}
		ready <- errors.New("postgres ended: " + strings.Join(said[max(0, len(said)-10):], "; "))
	}()
	select {
	case err := <-ready:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// PID is the process id of the first process, which is the parent of the others.
func (s *Server) PID() int { return s.process.Pid }

// Stop ends postgres (its fast shutdown: it waits for no client) and waits for
// its end. It does nothing where it has ended.
func (s *Server) Stop() error { return s.end(syscall.SIGINT) }

// Abort ends postgres at once (its immediate shutdown), as a crash would: the
// next start recovers.
func (s *Server) Abort() error { return s.end(syscall.SIGQUIT) }

func (s *Server) end(signal os.Signal) error {
	if err := s.process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop postgres: %w", err)
	}
	<-s.done
	return s.ended
}
