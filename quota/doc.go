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
// refused otherwise, and nothing is charged. Mail of an exempt plan is charged
// and never refused.
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
// The clock is the database's, read once the usage rows are locked. The minute
// of a message is the newest of the clock's and of those already charged to any
// of its accounts, and its row is never dated before that minute: the bound
// holds by the recorded times, whatever clocks do.
//
// # Exactness
//
// [Store.Decide] locks the usage rows of all messages of a batch in the order of
// their ids, the server's last, decides in order of arrival, and writes counters
// and rows in the same transaction. Hence counters equal rows at any time
// ([Store.Prove]), and several hosts on one database never grant more than the
// limit together.
package quota
