// Command modelfleet-agent runs on a device: it brings signed models in, tries
// them, serves them to applications and watches them.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/modelfleet/modelfleet/agent/command"
)

var version = "dev" // set when linked

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(command.Main(ctx, version, os.Args[1:], os.Stdout, os.Stderr))
}
