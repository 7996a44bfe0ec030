// Command device is the application on the demo's devices.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/modelfleet/modelfleet/infra/demo/device"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(device.Main(ctx, os.Args[1:], os.Stderr))
}
