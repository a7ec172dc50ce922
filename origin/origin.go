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
// # Races
//
// The caller waits for the daemon's answer while its process chain is read.
// The daemon holds a pidfd of it and asks it again afterwards: if the caller
// has died meanwhile, its pid may be another process's by then, and all facts
// but the uid are dropped.
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
)

// Origin is what is known about the caller of one message.
type Origin struct {
	UID       uint32 // of the peer, from the kernel; a user namespace's uid maps back to its owner's
	User      string // login name of UID, or "#UID" where it has none
	Kind      Kind
	KindProof Proof
	Script    Fact // absolute path of the script
	Crontab   Fact // "FILE:LINE COMMAND", or the command alone where no line matches
	Site      Fact // FPM pool or virtual host
}

// Claims is what the caller itself says: the hints of the wire request and the
// header of the message. All of it can be forged.
type Claims struct {
	Dir       string            // working directory of the wrapper
	Env       map[string]string // SCRIPT_FILENAME and the like, see wire.HintNames
	PHPScript string            // value of the X-PHP-Originating-Script field: "UID:BASENAME"
}
