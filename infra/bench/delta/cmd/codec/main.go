// Command codec is the measured half of the delta benchmark; see codec.Run.
package main

import (
	"fmt"
	"os"

	"github.com/modelfleet/modelfleet/infra/bench/delta/codec"
)

func main() {
	if err := codec.Run(os.Args[1], os.Args[2:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "codec:", err)
		os.Exit(1)
	}
}
