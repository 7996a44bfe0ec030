// Command modelfleet-coordinator is the central mind of a fleet. See
// modelfleet-coordinator -help.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/modelfleet/modelfleet/coordinator"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	opts, err := coordinator.Parse(os.Args[1:], os.Stderr)
	if err == nil {
		err = coordinator.Run(ctx, opts)
	}
	if err == nil || err == coordinator.ErrHelp {
		return
	}
	fmt.Fprintln(os.Stderr, "modelfleet-coordinator:", err)
	if hint := fault.Hint(err); hint != "" {
		fmt.Fprintln(os.Stderr, "hint:", hint)
	}
	stop()
	os.Exit(fault.KindOf(err).Exit())
}
