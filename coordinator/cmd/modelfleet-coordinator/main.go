// Command modelfleet-coordinator is the central mind of a fleet. See
// modelfleet-coordinator -help.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/modelfleet/modelfleet/coordinator"
)

var version = "dev" // set by the linker

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := coordinator.Main(ctx, version, os.Args[1:], os.Stderr)
	stop()
	os.Exit(code)
}
