// Command mailquotad decides about every mail of a host; see mailquotad(8).
package main

import "os"

var version = "unknown"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }
