// Command devs3 serves S3 from a folder, for development: devs3 -dir /abs/folder.
package main

import (
	"os"

	"github.com/modelfleet/modelfleet/infra/devs3"
)

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == devs3.Arg {
		args = args[1:]
	}
	os.Exit(devs3.Main(args, os.Stdout, os.Stderr))
}
