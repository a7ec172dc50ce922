package testpg

import (
	"os"
	"path/filepath"
	"syscall"
)

// prefix is of the servers' directories. They are not below t.TempDir, since
// they last longer and a socket's path has room for 107 bytes (unix(7)).
const prefix = "testpg-"

// parent is where the directories are: in memory where there is room enough, since
// each database is hundreds of files to make and to remove. Containers often
// have 64 MB there.
func parent() string {
	const memory, room = "/dev/shm", 2 << 30
	var fs syscall.Statfs_t
	if os.Getenv("TMPDIR") == "" && syscall.Statfs(memory, &fs) == nil && fs.Bavail*uint64(fs.Bsize) >= room {
		return memory
	}
	return os.TempDir()
}

// claimDir makes a directory for a server, locked as long as this process
// lives, and removes those of processes that were killed.
func claimDir() (dir string, lock *os.File, err error) {
	removeAbandoned()
	if dir, err = os.MkdirTemp(parent(), prefix); err != nil {
		return "", nil, err
	}
	if err := os.Chmod(dir, 0o711); err != nil { // the user postgres passes through
		return dir, nil, err
	}
	// Nobody finds the lock's name before it is held.
	if lock, err = os.Create(filepath.Join(dir, "lock.new")); err != nil {
		return dir, nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return dir, lock, err
	}
	return dir, lock, os.Rename(lock.Name(), filepath.Join(dir, "lock"))
}

func removeAbandoned() {
	locks, err := filepath.Glob(filepath.Join(parent(), prefix+"*", "lock"))
	if err != nil {
		return
	}
	for _, path := range locks {
		lock, err := os.Open(path)
		if err != nil {
			continue // somebody else's
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			os.RemoveAll(filepath.Dir(path))
		}
		lock.Close()
	}
}
