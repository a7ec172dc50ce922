package main

import (
	"fmt"
	"os/user"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// daemonUser is whom mailquotad runs as.
const daemonUser = "mailquota"

// reachable tells whether mailquotad may connect to the socket at path, by the
// kernel's own rules: a thread takes the user's place, with the one capability
// that helps there, and asks. It is not connected to: each connection would make
// php-fpm start a process. Only root can ask.
func reachable(path string) error {
	u, err := user.Lookup(daemonUser)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	result := make(chan error)
	go func() {
		// Never unlocked, so the thread ends with the goroutine, and nobody else
		// is run with these credentials.
		runtime.LockOSThread()
		result <- access(path, uid, gid)
	}()
	if err := <-result; err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// access changes the credentials of this thread alone, as the system calls do
// (capabilities(7), setfsuid(2)); those of package syscall change all threads.
func access(path string, uid, gid int) error {
	if _, _, e := syscall.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
		return e
	}
	if err := unix.Setfsgid(gid); err != nil {
		return err
	}
	if err := unix.Setfsuid(uid); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	// Directories that are closed to the user do not stop him who may read all.
	data := [2]unix.CapUserData{{Effective: 1 << unix.CAP_DAC_READ_SEARCH, Permitted: 1 << unix.CAP_DAC_READ_SEARCH}}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return err
	}
	// connect(2) asks for the right to write (unix(7)). Before Linux 5.8 there is
	// no way to ask by the effective credentials, so there all is taken to be well.
	err := unix.Faccessat2(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS)
	if err == unix.ENOSYS {
		return nil
	}
	return err
}
