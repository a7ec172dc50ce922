package submit

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sendmail-wrapper/wire"
)

const (
	// runTimeout bounds how long the real sendmail runs.
	runTimeout = 5 * time.Minute
	// killTimeout is how long it may take to end once it is told to.
	killTimeout = 5 * time.Second
)

// pipeSize is what a pipe holds, of pages that are full (pipe(7)).
const pipeSize = 64 << 10

// environment is all that the real sendmail has of it.
func environment() []string {
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"}
	if tz := os.Getenv("TZ"); tz != "" {
		env = append(env, "TZ="+tz)
	}
	return env
}

// run runs the real sendmail.
func (s *Server) run(program string, r *Request, stdin *os.File) *Result {
	argv := make([]string, len(r.Argv))
	for i, word := range r.Argv {
		argv[i] = string(word)
	}
	var outputs [2]output
	var ends [2]*os.File
	for i := range outputs {
		read, write, err := os.Pipe()
		if err != nil {
			return &Result{NotRun: err.Error()}
		}
		defer read.Close()
		defer write.Close()
		outputs[i], ends[i] = output{from: read, ended: make(chan struct{})}, write
	}
	// Go opens all else close-on-exec.
	p, err := os.StartProcess(program, argv, &os.ProcAttr{Dir: "/", Env: environment(), Files: []*os.File{stdin, ends[0], ends[1]},
		Sys: &syscall.SysProcAttr{Setpgid: true}})
	if err != nil {
		return &Result{NotRun: err.Error()}
	}
	for i := range outputs {
		ends[i].Close()
		go outputs[i].read()
	}
	result := s.await(p, r)
	for i := range outputs {
		outputs[i].end()
	}
	result.Stdout, result.Stderr = outputs[0].kept, outputs[1].kept
	return result
}

// await waits for the end of a program, and brings it about where it takes too long.
func (s *Server) await(p *os.Process, r *Request) *Result {
	result := &Result{}
	ended := make(chan *os.ProcessState, 1)
	go func() {
		state, err := p.Wait()
		if err != nil { // of a process of ours: never
			s.log.Error().Err(err).Msg("wait for the real sendmail")
		}
		ended <- state
	}()
	timeout := s.runTimeout
	for _, signal := range []syscall.Signal{0, syscall.SIGTERM, syscall.SIGKILL} {
		if signal != 0 {
			s.log.Error().Uint32("uid", r.Owner).Int("pid", p.Pid).Stringer("signal", signal).Msg("the real sendmail takes too long, and is ended")
			// Its children, too; what has become another user by setuid may not be ours to end.
			if err := syscall.Kill(-p.Pid, signal); err != nil {
				s.log.Error().Err(err).Int("pid", p.Pid).Msg("kill")
			}
			result.Ended, timeout = "took longer than "+s.runTimeout.String()+" and was ended", killTimeout
		}
		select {
		case state := <-ended:
			switch status, ok := state.Sys().(syscall.WaitStatus); {
			case result.Ended != "":
			case !ok:
				result.Ended = "ended"
			case status.Signaled():
				result.Ended = "ended by signal " + status.Signal().String()
			default:
				result.Exit = status.ExitStatus()
			}
			return result
		case <-time.After(timeout):
		}
	}
	return result
}

// output is what a program writes.
type output struct {
	from  *os.File
	kept  []byte
	ended chan struct{}
}

// read takes what is written; what is beyond wire.MaxOutput is dropped.
func (o *output) read() {
	defer close(o.ended)
	buf := make([]byte, 16<<10)
	for {
		n, err := o.from.Read(buf)
		o.keep(buf[:n])
		if err != nil {
			return
		}
	}
}

func (o *output) keep(b []byte) {
	o.kept = append(o.kept, b[:min(len(b), wire.MaxOutput-len(o.kept))]...)
}

// end ends the reading, when the program has ended: a process that it has left behind, such
// as a delivery of Exim's, may have the pipe open for long. What the program itself has
// written is all there by now.
func (o *output) end() {
	if o.from.SetReadDeadline(time.Now()) != nil {
		return // of a pipe: never
	}
	<-o.ended
	raw, err := o.from.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, pipeSize)
	n := 0
	if raw.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), buf) }) == nil {
		o.keep(buf[:max(n, 0)])
	}
}
