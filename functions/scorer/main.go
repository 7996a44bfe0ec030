// Command scorer is an example Lambda function: it scores sensor samples with
// the model that its fleet says it should run. Its environment is that of package
// lambdamodel; an event and its answer are
//
//	{"regime": "steady", "features": [1.2, 3.4, ...], "label": true}
//	{"score": 0.93, "class": "positive", "release": "service-needed@1.1.0"}
//
// where label, the truth, is optional.
package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/modelfleet/modelfleet/functions/lambdamodel"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

var version = "dev" // set when linked

func main() {
	opts, err := lambdamodel.FromEnv(os.Getenv)
	if err == nil {
		opts.Version, opts.Logger = version, slog.New(slog.NewJSONHandler(os.Stderr, nil))
		err = lambdamodel.Start(opts, open, score)
	}
	fmt.Fprintln(os.Stderr, "scorer:", err, fault.Hint(err))
	os.Exit(fault.KindOf(err).Exit())
}
