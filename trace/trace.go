// Package trace reads what is left of a message outside of the database: the
// message itself, as it came back in a bounce or a complaint, and the lines that
// Postfix logged about it.
//
// # Mail
//
// [ReadMail] finds the headers in a file: of the message, of messages attached to
// it (message/rfc822, RFC 2046 5.2.1; message/global, RFC 6532; the returned
// header of RFC 3462, text/rfc822-headers; a complaint of RFC 5965 has one of
// these), in whatever transfer encoding, and of a message that a bounce has in its
// text. Strangers write it all: reading is bounded, and a header proves nothing
// but that somebody wrote it. Whoever has once got a mail with a trace header can
// put it on another.
//
// # Log
//
// [Search] reads lines of syslog or the journal and keeps those of the queue
// files that a [Query] is about. It believes what it reads: any user of a host
// can write to syslog in Postfix's name, whereas the journal is asked for the
// lines of Postfix's own unit.
//
// Lines are those of postlog(1) and its daemons, which are the same in Postfix 2.9
// to 3.10: pickup "uid=, from=", cleanup "message-id=", qmgr "from=, size=,
// nrcpt=", a delivery agent's "to=, relay=, dsn=, status=", qmgr "removed". Lines
// of cleanup(8) "info: header NAME: VALUE from local; from=…" are what
// header_checks(5) with INFO makes; `mailctl setup postfix` sets that up for the
// trace header.
package trace
