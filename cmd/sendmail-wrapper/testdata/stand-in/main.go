// Command stand-in is a real sendmail that does nothing but stop, so that the
// test can look at how it was executed. It is written in assembly, since a
// runtime changes just that: its entry is stand_in, and Go's never runs.
package main

func main() {}
