// Command mailctl is with what an administrator sets limits and reads reports;
// see mailctl(8).
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
