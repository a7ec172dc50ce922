// Package origin finds out who called sendmail: the system user, the kind of
// program, the script, the crontab line and the site behind one connection to
// the daemon's socket.
//
// # Proof
//
// The uid is what the kernel says of the peer of the socket, and the only key
// of a limit. Everything else is a [Fact] with a [Proof], because most of what
// /proc shows can be forged by the process that it describes: its command
// line, its name, its working directory, its environment and, with LD_PRELOAD
// into the real program, even its executable. Hence one rule: a name is
// believed (System) only if it was read from a process whose uids are all
// not the caller's, or from a file that only root can write; it is Kernel only
// if the kernel itself keeps it (uid, cgroup). The rest is Claimed: shown, and
// never used to charge somebody else.
//
// An ancestor is believed if all four of its uids are root's and its executable
// is the daemon's. The executable is needed too: with su or sudo a caller can have
// an ancestor of root, and give it any name and arguments, but not another
// program's file. The caller's own process is never believed, whatever its uids:
// after connecting it can turn into a setuid program. Where the caller is root
// himself nothing read from processes is more than Claimed.
//
// # Kinds
//
// The nearest daemon of root above the caller decides: cron, atd, php-fpm, Apache
// (System). If the control group of the caller is that of the same service, or
// the chain is lost (double fork, setsid) and only the control group is left, it
// is Kernel. Groups below /system.slice count, since in his own slice a user
// names units as he likes. Which of mod_php, php-cgi and cgi runs below a web
// server is told by programs of the caller's uid: the proof of these kinds is for
// "below a web server" only. Without such a daemon the nearest program tells
// php-cli, shell or other (Claimed); shell is Kernel in a login session of the
// caller.
//
// # Crontab lines
//
// The process below cron shows the command, as SHELL -c COMMAND, and runs as the
// user: he may replace it by one that shows another of his jobs, or none of his.
// Hence a line that matches is Claimed, and it is looked for in the user's own
// jobs only. It is System if cron can have started nothing else: all crontabs
// could be read, they hold one job that runs as this user, and none of them, nor
// the directory of the users' crontabs, has changed since two seconds before the
// job began. The last guards against a user who starts a long job, and then
// installs another crontab under it; it goes by ctime, which no program can set.
// It is System too if the process below cron is a shell of root that later became
// the user, by su. One gap is known: cron(8) tells changes by the second, and a
// crontab replaced twice within the second in which cron reads is run as it was
// first.
//
// # Pools of php-fpm
//
// The pool's name in a worker's title lies in memory of the caller's uid. The
// path of the configuration in the master's title does not, and if root alone can
// write that configuration, all files it includes and their directories, then the
// pool whose user is the caller is System where there is only one, and the title
// Claimed where there are several. A title that names a pool of another user is
// dropped.
//
// # Scripts and sites
//
// A script is always Claimed: it is the first argument of the nearest interpreter
// that is not the shell of popen(3), or SCRIPT_FILENAME, or the name that PHP's
// mail() wrote into the header, in the working directory of the PHP process if a
// file of that name is there, and without a directory if not. The directory is
// the one that the kernel shows: the one in the request would let a caller ask
// the daemon, which may read all, for files in directories closed to him. The
// virtual host of a web server's program is Claimed.
//
// # Subordinate uids
//
// A uid of subuid(5) without a login name is its owner's, or else a user would
// have 65536 limits. Ranges of uids below 1000 are left alone: what a container
// of root sends is not root's.
//
// # Races
//
// The caller waits for the daemon's answer while its process chain is read.
// The daemon holds a pidfd of it and asks it again afterwards: if the caller
// has died meanwhile, its pid may be another process's by then, and all facts
// but the uid are dropped. Each process is read through one open directory of
// /proc, which stays the same process's; a parent counts only if its child still
// names it after it was opened; and the uids of a process that is believed are
// read again after its executable.
//
// # Bounds
//
// At most 64 processes are read, 64 KiB of arguments of each, 1 MiB of a crontab
// or a file of php-fpm. A value is at most 4096 bytes and valid UTF-8.
package origin

// Proof says how far a fact can be believed. The numbers are stored.
type Proof uint8

const (
	Claimed Proof = 1 + iota // the caller says so; it could be forged
	System                   // read from a process or file that is not the caller's
	Kernel                   // kept by the kernel: uid, cgroup
)

// String returns "claimed", "system" or "kernel", and "" for no proof.
func (p Proof) String() string {
	switch p {
	case Claimed:
		return "claimed"
	case System:
		return "system"
	case Kernel:
		return "kernel"
	}
	return ""
}

// A Fact is something found out about a caller. The zero Fact is "unknown".
type Fact struct {
	Value string
	Proof Proof
}

// Kind is the kind of program behind a call.
type Kind string

const (
	PHPFPM Kind = "php-fpm"
	ModPHP Kind = "mod_php"
	PHPCGI Kind = "php-cgi"
	PHPCLI Kind = "php-cli"
	CGI    Kind = "cgi"
	Cron   Kind = "cron"
	At     Kind = "at"
	Shell  Kind = "shell"
	Other  Kind = "other"
	SMTP   Kind = "smtp" // not a program of this host: a mailbox that logged in
)

// Origin is what is known about the caller of one message.
type Origin struct {
	UID       uint32 // of the peer, from the kernel; a user namespace's uid maps back to its owner's
	User      string // login name of UID, or "#UID" where it has none
	Kind      Kind
	KindProof Proof // 0 if the caller had ended or could not be seen
	Script    Fact  // absolute path of the script; relative or a base name where the directory is not known
	Crontab   Fact  // "FILE:LINE COMMAND", or the command alone where no line matches
	Site      Fact  // FPM pool or virtual host
}

// Claims is what the caller itself says: the hints of the wire request and the
// header of the message. All of it can be forged.
type Claims struct {
	Dir       string            // working directory of the wrapper; not used, the kernel's word counts
	Env       map[string]string // SCRIPT_FILENAME and the like, see wire.HintNames
	PHPScript string            // value of the X-PHP-Originating-Script field: "UID:BASENAME"
}
