// Command scorer is an example Lambda function: it scores sensor samples with
// the model that its fleet says it should run. See package serve for events and
// answers, and package lambdamodel for its environment.
package main

import (
	"os"

	"github.com/modelfleet/modelfleet/functions/scorer/serve"
)

var version = "dev" // set when linked

func main() { os.Exit(serve.Main(version, os.Getenv, os.Stderr)) }
