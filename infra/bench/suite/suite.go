// Package suite is the list of end-to-end benchmarks and the command that runs
// them. A benchmark measures whole processes over real sockets and disks, next
// to a named anchor where one exists, and gives figures; one JSON object a
// figure with -json. BENCHMARKS.md keeps what they gave and the commands.
package suite

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/modelfleet/modelfleet/infra/bench/crash"
	"github.com/modelfleet/modelfleet/infra/bench/delta"
	"github.com/modelfleet/modelfleet/infra/bench/figure"
	"github.com/modelfleet/modelfleet/infra/bench/install"
	"github.com/modelfleet/modelfleet/infra/bench/oms"
	"github.com/modelfleet/modelfleet/infra/bench/pack"
	"github.com/modelfleet/modelfleet/infra/bench/publish"
	"github.com/modelfleet/modelfleet/infra/bench/site"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// benchmark is one entry of the suite.
type benchmark struct {
	name, about string
	run         func(context.Context, figure.Options) ([]figure.Figure, error)
}

func benchmarks() []benchmark {
	return []benchmark{
		{"crash", "what kills, power cuts and failing system calls leave of a member's disk and download", crash.Run},
		{"decide", "one decision of the rollout engine, for fleets of three sizes", decide},
		{"delta", "bytes of an update of trained weights, ours against the usual tools", delta.Run},
		{"demo", "a whole life of a fleet: wall time, how fast a bad release is caught, who ran it", demo},
		{"idle", "memory of an idle agent and coordinator", idle},
		{"install", "first install and update of a 1 GiB release, at three link speeds, against s5cmd", install.Run},
		{"oms", "verifying a signed model: speed next to openssl, memory, the bundle, the program", oms.Run},
		{"pack", "verifying a trust pack and a bundle, and their sizes, against a TUF client over HTTP", pack.Run},
		{"publish", "publishing a 1 GiB release to S3, against zstd and s5cmd", publish.Run},
		{"site", "one release for 1, 10 and 30 members of a site: bytes out of the bucket, time of the last", site.Run},
		{"sizes", "size of each binary, and the modules it links", sizes},
	}
}

// Main runs the command: -list, or the named benchmarks, all when none is named.
func Main(ctx context.Context, args []string, out, errs io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(errs)
	asJSON := flags.Bool("json", false, "one JSON object a figure")
	quick := flags.Bool("quick", false, "a shorter run")
	list := flags.Bool("list", false, "name the benchmarks")
	names, err := parse(flags, args)
	if err != nil {
		return fault.New(fault.Invalid, "read flags", "", err)
	}
	if *list {
		for _, b := range benchmarks() {
			fmt.Fprintf(out, "%-10s %s\n", b.name, b.about)
		}
		return nil
	}
	chosen, err := choose(names)
	if err != nil {
		return err
	}
	root, err := repository(ctx)
	if err != nil {
		return err
	}
	for _, b := range chosen {
		fmt.Fprintf(errs, "== %s: %s\n", b.name, b.about)
		figures, err := runOne(ctx, b, figure.Options{Quick: *quick, Root: root, Logf: func(format string, args ...any) {
			fmt.Fprintf(errs, format+"\n", args...)
		}})
		if err != nil {
			return fmt.Errorf("benchmark %s: %w", b.name, err)
		}
		for _, f := range figures {
			if err := write(out, f, *asJSON); err != nil {
				return err
			}
		}
	}
	return nil
}

// parse lets flags stand before, between and after the names.
func parse(flags *flag.FlagSet, args []string) ([]string, error) {
	var names []string
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		args = flags.Args()
		if len(args) == 0 {
			return names, nil
		}
		names, args = append(names, args[0]), args[1:]
	}
}

func choose(names []string) ([]benchmark, error) {
	all := benchmarks()
	if len(names) == 0 {
		return all, nil
	}
	var chosen []benchmark
	for _, name := range names {
		i := slices.IndexFunc(all, func(b benchmark) bool { return b.name == name })
		if i < 0 {
			return nil, fault.Newf(fault.NotFound, "find benchmark", name, "there is none of that name").WithHint("-list names them")
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

func runOne(ctx context.Context, b benchmark, o figure.Options) ([]figure.Figure, error) {
	work, err := os.MkdirTemp("", "modelfleet-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a work folder: %w", err)
	}
	defer os.RemoveAll(work)
	o.Work = work
	return b.run(ctx, o)
}

func write(out io.Writer, f figure.Figure, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(f)
	}
	anchor := ""
	if f.Anchor != "" {
		anchor = fmt.Sprintf("   %.3gx of %s", f.Ratio, f.Anchor)
	}
	_, err := fmt.Fprintf(out, "%-44s %12.5g %s%s\n", f.Name, f.Value, f.Unit, anchor)
	return err
}

// repository is the root of the module that the command runs in.
func repository(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	mod := strings.TrimSpace(string(out))
	if err != nil || filepath.Base(mod) != "go.mod" {
		return "", fault.New(fault.NotFound, "find the repository", "", err).WithHint("run it inside a checkout of modelfleet")
	}
	return filepath.Dir(mod), nil
}
