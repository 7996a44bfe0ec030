// Package serve is the scorer as a library: what its main runs, and what tests
// that are several programs in one binary run as well.
//
// An event and its answer are
//
//	{"regime": "steady", "features": [1.2, 3.4, ...], "label": true}
//	{"score": 0.93, "class": "positive", "release": "service-needed@1.1.0"}
//
// where label, the truth, is optional.
package serve

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/modelfleet/modelfleet/functions/lambdamodel"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Main takes events until Lambda ends the process; it returns only when it could
// not begin, with the exit code. The environment is that of package lambdamodel.
func Main(version string, getenv func(string) string, stderr io.Writer) int {
	opts, err := lambdamodel.FromEnv(getenv)
	if err == nil {
		opts.Version, opts.Logger = version, slog.New(slog.NewJSONHandler(stderr, nil))
		err = lambdamodel.Start(opts, open, score)
	}
	fmt.Fprintln(stderr, "scorer:", err, fault.Hint(err))
	return fault.KindOf(err).Exit()
}
