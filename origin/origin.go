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
// The nearest daemon of root above the caller decides: cron, anacron, atd, the
// delivery agents of mail servers, php-fpm, Apache (System). If the control group
// of the caller is that of the same service, or the chain is lost (double fork,
// setsid) and only the control group is left, it is Kernel. A service of the system
// that is none of these makes the kind Systemd. Which of mod_php, php-cgi and cgi
// runs below a web server is told by programs of the caller's uid: the proof of
// these kinds is for "below a web server" only. Without such a daemon or service
// the nearest program tells php-cli, shell or program (Claimed); shell is Kernel in
// a login session of the caller.
//
// # Units and containers
//
// The unit is the first part of the control group's path that is no slice: only
// root has the system's manager make these. Groups below it may have been named by
// the user whose unit it is: those below user@UID.service are told as Claimed,
// others not at all. A timer is told with the service if a file of root's of the
// same name starts it; then the unit is System, as the file is. A container is told
// by such a unit, or by a user or pid namespace that is not the daemon's; a mount
// namespace is none, since units have their own for PrivateTmp. A daemon of root
// that is itself in such a namespace is root there, whoever that is: its kind is
// Claimed, and no file of this host says what it runs.
//
// # Logins
//
// Who used su or sudo is the real uid of that process, which has the effective uid
// of root and hence cannot be traced by anybody else (System).
//
// # Crontab lines
//
// The process below cron shows the command, as SHELL -c COMMAND, and runs as the
// user: he may replace it by one that shows another of his jobs, or none of his.
// Hence a line that matches is Claimed, and it is looked for in the user's own jobs
// only. It is System if cron can have started nothing else: all crontabs could be
// read, they hold one job that runs as this user, and none of them, nor the
// directory of the users' crontabs, has changed since two seconds before the job
// began. The last guards against a user who starts a long job, and then installs
// another crontab under it; it goes by ctime, which no program can set. It is System
// too if the process below cron or anacron is a shell of root that later became the
// user, by su. One gap is known: cron(8) tells changes by the second, and a crontab
// replaced twice within the second in which cron reads is run as it was first.
//
// # Pools of php-fpm
//
// The pool's name in a worker's title lies in memory of the caller's uid. The
// path of the configuration in the master's title does not, and if root alone can
// write that configuration, all files it includes and their directories, then the
// pool whose user is the caller is System where there is only one, and the title
// Claimed where there are several. A title that names a pool of another user is
// dropped. FPM's status tells the pool in any case (Requests).
//
// # Scripts and sites
//
// A script is Claimed unless a server tells it (Requests). It is the first argument
// of the nearest interpreter that is not the shell of popen(3), or the file from
// which that reads, or what PHP keeps of its request, in memory of the worker or of
// php-cgi, or the file that PHP has open, or SCRIPT_FILENAME, or the name that PHP's
// mail() wrote into the header, in the working directory of the PHP process if a
// file of that name is there, and without a directory if not. The directory is the
// one that the kernel shows: one that the caller names would let him ask the
// daemon, which may read all, for files in directories closed to him. Of a caller
// who has lost his chain the file that he has inherited from PHP is taken. The
// header's name is Include where it is not the script's. The virtual host in the
// environment of a web server's program is Claimed, and so is its document root.
//
// PHP's memory is read since nothing else knows the script: with opcache PHP does
// not even open a script that it runs again. Seven words and four texts are read,
// at the address of the symbol sapi_globals in a program that root alone can
// write. They lie in the caller's reach, so that they are Claimed.
//
// # Requests
//
// What PHP-FPM's status and Apache's server-status say of a worker is System where
// root alone can listen: the FPM listener's directory is root's, or it or Apache
// listens on loopback at a port below 1024 (net.ipv4.ip_unprivileged_port_start). It
// is of the caller only if the request that the worker runs has started him, and a
// worker can still have children that an earlier request left behind. Let C be the
// child of the worker in the chain. The status is asked once C runs. C was started
// by that request if the request surely began before C, by the start time that the
// kernel keeps in ticks of 10 ms; or if the worker now waits for the end of C by its
// pid, or holds the other end of a pipe that is C's standard input, output or error,
// and has no other child (an old child can open a new one's pipe by /proc). If it
// surely began after C, nothing is said of it; if that is open, it is Claimed. A
// worker of Apache must have a single thread, as those of the prefork MPM: else C
// may be of a request of another thread that is over. FPM tells the beginning to the
// microsecond, Apache to the second.
//
// The pool whose status names the worker as running is System. So is the script
// that FPM runs; the title of the worker says only which status to ask. Method and
// URI are what the web server passed to FPM, and Claimed: a customer can have Apache
// pass what he likes. The client is that of the process of Apache that holds the
// other end of the worker's connection, if all that it answers has one client:
// Claimed, since that process may answer another request by now.
//
// A path with ".." behind a name is never cleaned by its text: behind a symbolic
// link that would name another file than the kernel opens. From a server, the
// environment or root's arguments it is dropped. Links, and "..", in the path of a
// script that the caller's own programs run are followed in the root directory of
// its process, as far as the caller may search each directory on the way: by its
// mode, as its owner or as anybody. Where he may not, or a part is missing, the path
// is told as he gave it, if it does not climb: nobody learns from the daemon where
// links lead in directories that are closed to him. The script of a job that root's
// cron, anacron or atd started and that became the caller is System, if all of its
// processes before were root's; it is told as root named it.
//
// # SMTP clients
//
// Of a program that sends by SMTP to a mail server of this host the kernel tells the uid,
// by the addresses and ports of both ends of the connection (Finder.Client). It is that of
// the process which made the socket: a program of root's that makes one and hands it to
// another user's process sends as root. What comes from another network namespace with
// addresses of its own is another host's, and what a firewall has redirected to this
// server is a connection that the client's end does not name: its uid is not known.
//
// Which process that is, is looked for among the processes of this user, by their
// descriptors: the one that has the socket open, or of several the one whose children
// all others are. He can pass a socket to any of his processes, and so show one of his
// own programs for another, and nobody else's. That the caller is this process is asked
// again at the end. Its rules are those of a program that calls sendmail, with two
// differences. A program of the system, as curl or msmtp, stands for the one that has
// started it, as sendmail does. And where the client is a worker of a server itself, its
// request sends the message if the worker waits for the mail server's answer, in read,
// recvfrom, poll or select, before and after that server is asked: System. If not, it is
// Claimed, since an earlier request can have left the connection open, with the message
// in it.
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
// but the uid are dropped. Each process is read through descriptors that stay the
// same process's: its directory of /proc, and a pidfd, which tells uids and parent
// (before Linux 6.13 the open file status). A parent counts only if its child still
// names it after it was opened; and the uids of a process that is believed are
// read again after its executable. Nothing of a process is kept for the next call,
// as a pid is used again, and a process becomes another program under the same pid;
// but where PHP lies in a server's memory, which is only tried. No lock is held while
// a process is read, since users can make that wait for ever.
//
// # Bounds
//
// At most 64 processes are read, 64 KiB of arguments of each, 1 MiB of a crontab or a
// file of php-fpm, 64 parts of a script's path, 1024 descriptors of a process. A
// server's status has 200 ms, and after a failure a second of rest (package
// serverstatus). To find who has a socket open at most 32768 descriptors of his are
// looked at, and 8192 of a process: beyond that only his uid is told. A value is at
// most 4096 bytes and valid UTF-8. A look-up that takes half a second is given up, as
// users can draw out what reads their processes.
package origin

import "iter"

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
	PHPFPM  Kind = "php-fpm"
	ModPHP  Kind = "mod_php"
	PHPCGI  Kind = "php-cgi" // below a web server, or started by anything else for FastCGI
	PHPCLI  Kind = "php-cli"
	CGI     Kind = "cgi"
	Cron    Kind = "cron"
	Anacron Kind = "anacron"
	At      Kind = "at"
	Systemd Kind = "systemd" // a service, with a timer or without
	Shell   Kind = "shell"
	Pipe    Kind = "pipe"    // started by the mail server for mail that came in: .forward, aliases, procmail, vacation
	Program Kind = "program" // any other: Perl, Python, Node, a compiled one
	Unknown Kind = "unknown" // the caller has ended, or cannot be seen
	SMTP    Kind = "smtp"    // not a program of this host: a mailbox that logged in
	Forward Kind = "forward" // not a program of this host: a mailbox, alias or list sends on what it got
	Relay   Kind = "relay"   // not a program of this host: another one whose mail this one sends on
	Bounce  Kind = "bounce"  // the mail server itself: a report to the sender
)

// Origin is what is known about the caller of one message.
type Origin struct {
	UID       uint32 // of the peer, from the kernel; a user namespace's uid maps back to its owner's
	User      string // login name of UID, or "#UID" where it has none
	Kind      Kind
	KindProof Proof // 0 if the caller had ended or could not be seen

	Script       Fact // absolute path of the script; relative or a base name where the directory is not known
	Include      Fact // name of the file that called mail(), where PHP tells it and it is not Script's
	Crontab      Fact // "FILE:LINE SCHEDULE COMMAND", or the command alone where no line matches
	Site         Fact // FPM pool or virtual host
	DocumentRoot Fact // of the site
	Method       Fact // of the web request: GET, POST
	URI          Fact // of the web request, with its query
	Client       Fact // IP address of the web request's client
	Unit         Fact // unit of the control group: "backup.service", "backup.service (backup.timer)", "session-4.scope"
	Login        Fact // login name of who used sudo or su to become User
	Via          Fact // "smtp" where the caller connected to the mail server, instead of calling sendmail
	Container    Fact // what holds the caller, where it is not this host: "docker 3f0c…", "user namespace"

	Chain []Process // the caller first, then its parents, as far as they could be read; at most MaxChain
}

// MaxChain bounds Origin.Chain.
const MaxChain = 16

// Process is one of the chain of processes that ends with the caller.
type Process struct {
	PID     int    `json:"pid"`
	UID     uint32 `json:"uid"`     // real uid
	EUID    uint32 `json:"euid"`    // effective uid
	Program string `json:"program"` // path of the executable, or the process's name where that cannot be read
}

// Facts are all facts but the kind by name, also those that are not known. The
// names are those of reports, logs and the database.
func (o *Origin) Facts() iter.Seq2[string, *Fact] {
	return func(yield func(string, *Fact) bool) {
		_ = yield("script", &o.Script) && yield("include", &o.Include) && yield("crontab", &o.Crontab) &&
			yield("site", &o.Site) && yield("document_root", &o.DocumentRoot) && yield("method", &o.Method) &&
			yield("uri", &o.URI) && yield("client", &o.Client) && yield("unit", &o.Unit) && yield("login", &o.Login) &&
			yield("container", &o.Container) && yield("via", &o.Via)
	}
}

// Claims is what the caller itself says: the hints of the wire request and the
// header of the message. All of it can be forged.
type Claims struct {
	Env       map[string]string // SCRIPT_FILENAME and the like, see wire.HintNames
	PHPScript string            // value of the X-PHP-Originating-Script field: "UID:BASENAME"
}
