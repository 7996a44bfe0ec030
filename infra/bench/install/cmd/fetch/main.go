// Command fetch installs one release as an agent would: fetch JOB STORE. It is
// the measured half of the install benchmark.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/modelfleet/modelfleet/infra/bench/install/member"
)

func main() {
	if err := member.Fetch(context.Background(), os.Args[1], os.Args[2], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "fetch:", err)
		os.Exit(1)
	}
}
