// Command modelfleet is the operator's desk: see package coordinator/cli.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/modelfleet/modelfleet/coordinator/cli"
	"github.com/modelfleet/modelfleet/coordinator/cli/console"
)

var version = "dev" // set by the linker

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, cli.Options{Args: os.Args[1:], Streams: console.System(), Env: os.Getenv, Version: version})
	stop()
	os.Exit(code)
}
