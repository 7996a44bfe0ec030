// Command demo runs a whole fleet on loopback and narrates it: `make demo`.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/modelfleet/modelfleet/infra/demo/play"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

func main() {
	var o play.Options
	flag.BoolVar(&o.JSON, "json", false, "one JSON object on standard output; the story goes to standard error")
	flag.BoolVar(&o.Stay, "stay", false, "keep the fleet up, with its dashboard, until Ctrl-C")
	flag.StringVar(&o.Dir, "dir", "", "`folder` for everything the demo makes; default: a temporary one")
	flag.IntVar(&o.Devices, "devices", 48, "`number` of devices")
	flag.StringVar(&o.S3Endpoint, "s3-endpoint", "", "`URL` of another S3 server; credentials from the environment")
	flag.StringVar(&o.Bucket, "bucket", "modelfleet-demo", "`name` of the bucket")
	flag.StringVar(&o.Region, "region", "us-east-1", "AWS `region`")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := play.Run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		if hint := fault.Hint(err); hint != "" {
			fmt.Fprintln(os.Stderr, "hint:", hint)
		}
		os.Exit(fault.KindOf(err).Exit())
	}
}
