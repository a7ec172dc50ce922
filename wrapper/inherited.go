package wrapper

import (
	"errors"
	"os/signal"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Go's runtime changes what the caller has left to this process before the first
// line of Go runs, and does not say what it was: it handles signals that were
// ignored, all but SIGHUP and SIGINT (runtime/signal_unix.go, initsig); unblocks
// SIGCHLD and some others (minitSignalMask); and opens /dev/null where one of the
// descriptors 0 to 2 is closed (runtime/fds_unix.go). The real sendmail shall
// have all of it as it was: PHP, for one, ignores SIGPIPE, and counts on it.
//
// So entry_*.s, which runs before the runtime, takes note in these variables.
// `make build` says -E sendmail_wrapper_entry to the linker, which makes it the
// program's first instruction. Without that option, in the tests and on other
// machines than amd64 and arm64, nothing is noted, and it stays as Go has it.
//
// It raises one limit as well, without which the runtime would not come up: that
// reserves some 700 MiB of address space, and RLimitMEM of Apache sets a soft
// limit that is often less. Where the hard limit is too low, too, it says so and
// exits with 71, before the runtime would print a trace.
var (
	callerNoted   bool
	callerIgnored uint64      // signal n is bit n-1
	callerBlocked uint64      // the same, as rt_sigprocmask(2) has it
	callerClosed  uint64      // descriptor n is bit n
	callerFiles   unix.Rlimit // of descriptors, which package syscall raises
	callerSpace   unix.Rlimit // of address space
	callerAction  sigaction   // of the signal that was asked for last
	space         unix.Rlimit // while the wrapper works

	leastSpace     uint64 = 768 << 20 // bytes; below 700 MiB the runtime does not come up
	tooLittleSpace        = "sendmail: the limit of address space (ulimit -H -v) is below the 768 MiB that sendmail-wrapper needs, so nothing was sent\n"
)

// sigaction is the kernel's, of both machines (asm-generic/signal.h with
// SA_RESTORER).
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

const (
	sigDefault = 0
	sigIgnore  = 1
)

func bit(s syscall.Signal) uint64 { return 1 << (s - 1) }

// handledByGo are the signals whose handlers of Go's stay while the wrapper
// works: of a fault, of the scheduler, and those that would end the program
// where a failed write(2) can be told.
var handledByGo = bit(unix.SIGSEGV) | bit(unix.SIGBUS) | bit(unix.SIGFPE) | bit(unix.SIGURG) | bit(unix.SIGPIPE) | bit(unix.SIGXFSZ)

// inheritSignals sets what each signal does to what it did when the wrapper was
// called. Ignored ones stay ignored, which exec(2) hands on. All others have
// their default, as in a program in C: Go would drop an alarm(2) that the caller
// has set, and print a trace at SIGQUIT.
func inheritSignals() {
	if !callerNoted {
		return
	}
	for s := syscall.Signal(1); s <= 64; s++ {
		switch {
		case callerIgnored&bit(s) != 0:
			signal.Ignore(s) // a child of syscall.ForkExec has it from the runtime then, but SIGPIPE: startChild
			setAction(s, sigIgnore)
		case handledByGo&bit(s) == 0:
			setAction(s, sigDefault)
		}
	}
}

func setAction(s syscall.Signal, handler uintptr) {
	a := sigaction{handler: handler}
	// The two that fail, SIGKILL and SIGSTOP, are at their default always.
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&a)), 0, 8, 0, 0)
}

// execute becomes another program, which has descriptors that were closed, the mask
// of blocked signals and the limit of address space as the caller had them. It
// returns only an error.
func execute(path string, argv, env []string) error {
	if !callerNoted {
		return unix.Exec(path, argv, env)
	}
	for fd := range 3 {
		if callerClosed&(1<<fd) != 0 {
			unix.CloseOnExec(fd)
		}
	}
	runtime.LockOSThread() // the mask is the thread's
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&callerBlocked)), 0, 8, 0, 0)
	if callerSpace == space {
		return unix.Exec(path, argv, env)
	}
	// Under the caller's limit the kernel gives no more memory, and where Go's runtime
	// wants some it dies. So that limit and execve(2) are the last two system calls,
	// with nothing between; and what syscall.Exec does before, which is to copy the
	// lists and to put back the limit of descriptors, is done here. Another thread
	// could want memory for the collector only, which there is at some 4 MB.
	name, err1 := unix.BytePtrFromString(path)
	args, err2 := syscall.SlicePtrFromStrings(argv)
	vars, err3 := syscall.SlicePtrFromStrings(env)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	_ = unix.Prlimit(0, unix.RLIMIT_NOFILE, &callerFiles, nil) // to what it was, or less: always allowed
	_, _, _ = unix.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_AS, uintptr(unsafe.Pointer(&callerSpace)), 0, 0, 0)
	_, _, errno := unix.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&args[0])), uintptr(unsafe.Pointer(&vars[0])))
	_ = unix.Prlimit(0, unix.RLIMIT_AS, &space, nil) // for who tells of the error
	return errno
}

// inheritDescriptor is fd as syscall.ForkExec takes it for a child, which shall
// not have /dev/null where the caller has closed it. The rest a child has of
// syscall.ForkExec: the mask of signals, and the limit of descriptors.
func inheritDescriptor(fd int) uintptr {
	if fd < 3 && callerClosed&(1<<fd) != 0 {
		return ^uintptr(0)
	}
	return uintptr(fd)
}

// inheritChild is for a child that runs already. Where the caller ignores SIGCHLD
// the child does; but here its exit status is waited for.
func inheritChild(pid int) {
	if callerSpace != space {
		_ = unix.Prlimit(pid, unix.RLIMIT_AS, &callerSpace, nil) // it has ended already
	}
	if callerIgnored&bit(unix.SIGCHLD) != 0 {
		setAction(unix.SIGCHLD, sigDefault)
	}
}
