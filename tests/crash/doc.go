// Package crash tests what is left after the worst moments: mailquotad, PostgreSQL
// or both killed at random points, outages of every kind, promotion of a standby.
// It starts real mailquotads and real, durable PostgreSQL clusters, sends messages
// over both sockets, notes each answer, and compares with the rows and counters.
package crash
