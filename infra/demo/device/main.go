package device

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

const usage = `The demo's device application.

usage: device run       [flags]    score readings with the agent's model
       device supervise [flags]    the same in a child process that is started again when it crashes
       device selftest  FOLDER     does the release in FOLDER load, and give its golden scores?

A self-test for the agent:  modelfleet-agent -selftest 'device selftest "$1"' ...

flags:
`

// Main is the command with its arguments; it returns the exit status.
func Main(ctx context.Context, args []string, stderr io.Writer) int {
	if err := dispatch(ctx, args, stderr); err != nil {
		fmt.Fprintln(stderr, "device:", err)
		if hint := fault.Hint(err); hint != "" {
			fmt.Fprintln(stderr, "  "+hint)
		}
		return fault.KindOf(err).Exit()
	}
	return 0
}

func dispatch(ctx context.Context, args []string, stderr io.Writer) error {
	o := Options{Logger: slog.New(slog.NewTextHandler(stderr, nil))}
	fs := flag.NewFlagSet("device", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.Socket, "socket", "/run/modelfleet/agent.sock", "the agent's `path`")
	fs.StringVar(&o.App, "app", "scorer", "the application's `name` at the agent")
	model := fs.String("model", "service-needed", "the model's `name`")
	fs.StringVar(&o.Site, "site", "lab", "the site's `name`; it sets the climate")
	fs.Uint64Var(&o.Seed, "seed", 1, "the `number` that makes this device's machines")
	fs.Float64Var(&o.Rate, "rate", 50, "readings a `second`")
	fs.DurationVar(&o.Report, "report", time.Second, "how often to report to the agent")
	fs.Usage = func() { fmt.Fprint(stderr, usage); fs.PrintDefaults() }
	if len(args) == 0 || args[0] == "-h" || args[0] == "-help" || args[0] == "--help" {
		fs.Usage()
		return nil
	}
	if err := fs.Parse(args[1:]); err != nil {
		return fault.New(fault.Invalid, "read flags", args[0], err)
	}
	o.Model = fleet.ModelName(*model)
	switch {
	case args[0] == "selftest" && fs.NArg() == 1:
		return SelfTest(fs.Arg(0))
	case args[0] == "run" && fs.NArg() == 0:
		return Run(ctx, o)
	case args[0] == "supervise" && fs.NArg() == 0:
		self, err := os.Executable()
		if err != nil {
			return fault.New(fault.Internal, "find this program", "", err)
		}
		return Supervise(ctx, Supervisor{Command: append([]string{self, "run"}, args[1:]...), Output: stderr, Logger: o.Logger})
	}
	return fault.Newf(fault.Invalid, "read arguments", fmt.Sprintf("%q", args), "no such command").
		WithHint("device run | supervise | selftest FOLDER; see device -help")
}
