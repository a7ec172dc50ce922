// Command dial is the reference of the first benchmark: a Go program that does
// nothing but dial a unix socket.
package main

import (
	"net"
	"os"
)

func main() {
	c, err := net.Dial("unix", os.Args[1])
	if err != nil {
		os.Exit(69)
	}
	c.Close()
}
