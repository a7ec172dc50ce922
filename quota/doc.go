// Package quota decides whether a message may leave, and counts it.
//
// # The rule
//
// A message belongs to accounts, nearest first: its system user or mailbox, its
// domain where one is known, its subscription, the server. Each account has up
// to five limits ([Limit]); each limit's value is the nearest that is set: on
// the object itself, as the default of its plan for its class, as the default
// of the server for its class; else it is unlimited. A message passes if no
// limit of any of its accounts would be exceeded; then all are charged. It is
// refused otherwise, and nothing is charged, if its mode is [Enforce]; else it is
// let through and charged ([Mode]).
//
// Exceptions ([Exception]) go before: a block refuses in any mode, a white list lets
// through, a raise replaces the value of a limit. Of what an object has used a part
// may be forgiven, and it may have an allowance ([Grant]) for messages that its limits
// of an hour or a day would refuse: both are part of its [Usage], so the counters
// still equal the rows.
//
// # Windows
//
// An hour is 61 slots of a minute and a day 97 slots of 15 minutes, because an
// interval of 60 minutes touches up to 61 minutes. So no 60 minutes (24 hours)
// ever hold more than the limit, wherever they begin; a message leaves the
// count up to one slot late. [Refusal.FreeAt] is exact.
//
// # Time
//
// The clock is the database's, read once the usage rows are locked, or carried on
// from the last reading, where PostgreSQL finds it right to a second. The minute
// of a message is the newest of the clock's and of those already charged to any
// of its accounts, and its row is never dated before that minute: the bound
// holds by the recorded times, whatever clocks do.
//
// # Exactness
//
// [Store.Decide] locks the usage rows of all messages of a batch in the order of
// their ids, the server's last, decides in order of arrival, and writes counters
// and rows in the same transaction. Hence counters equal rows at any time
// ([Store.Prove]), several hosts on one database never grant more than the limit
// together, and they never wait for each other in a circle.
//
// Whom a message is charged to, limits and exceptions are remembered. The table epoch tells
// in each decision, once the rows are locked, whether that is still right; a
// trigger changes it with every change of what is remembered. So a change holds
// for each message that comes after its commit.
//
// # Without the database
//
// A [Queue] that gets no decision within Settings.Timeout goes on by what is
// remembered, and writes each batch to its journal, a file, before it answers.
// When the database is back the journal is booked, each message once, by its id:
// rows and counters are then as if it had never been away.
//
//   - One host that was running knows all usage: it keeps to the limits exactly.
//     So does one that was stopped and started in the meantime, and one that was
//     killed while the database was away.
//   - Of N hosts each grants an Nth of what is left of a limit as far as it knows.
//     Together they may exceed it by what they had not seen of each other, divided
//     by N.
//   - What was charged before a kill is known only as of the last minute, and
//     of an object that is not remembered nothing is: there a host grants
//     Settings.JournalShare percent of what is left, or of the default.
//
// A transaction that was on its way to its commit when the connection broke may
// have happened or not. Its decisions are kept as they were, so that the answer
// is right in both cases.
package quota
