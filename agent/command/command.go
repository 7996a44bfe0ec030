// Package command is the modelfleet-agent command line: flags in, [agent.Options]
// out, exit codes by the kind of error, and a look at a running agent (status).
package command

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/agent"
	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

const usage = `modelfleet-agent brings signed models to this device, tries them, serves them to
applications and takes a bad one back.

  modelfleet-agent -state DIR -join TOKEN -labels class=jetson,site=plant-7   the first time
  modelfleet-agent -state DIR                                                 from then on
  modelfleet-agent status [-socket PATH]                                      how a running agent stands
  modelfleet-agent lift [-socket PATH] MODEL@VERSION                          try again what failed here
  modelfleet-agent hardware [-join TOKEN]                                     what this machine is known by

Make TOKEN with: modelfleet token create

`

// Main runs the command and returns its exit code.
func Main(ctx context.Context, version string, args []string, stdout, stderr io.Writer) int {
	run := daemon
	if len(args) > 0 {
		switch args[0] {
		case "status":
			run, args = status, args[1:]
		case "lift":
			run, args = lift, args[1:]
		case "hardware":
			run, args = hardware, args[1:]
		}
	}
	err := run(ctx, version, args, stdout, stderr)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	fmt.Fprintln(stderr, "modelfleet-agent:", err)
	if hint := fault.Hint(err); hint != "" {
		fmt.Fprintln(stderr, "hint:", hint)
	}
	return fault.KindOf(err).Exit()
}

// memory keeps the collector lively: an agent that does nothing should weigh
// little, and one that installs has its buffers bounded by pkg/delivery.
func memory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(30)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(96 << 20)
	}
}

// settled is how long after its start an agent has done what starting takes.
const settled = 20 * time.Second

func daemon(ctx context.Context, version string, args []string, stdout, stderr io.Writer) error {
	o, showVersion, err := parse(version, args, stderr)
	if err != nil {
		return err
	}
	if showVersion {
		_, err := fmt.Fprintln(stdout, "modelfleet-agent", version)
		return err
	}
	memory()
	ctx, stop := context.WithCancel(ctx)
	var trimming sync.WaitGroup
	trimming.Go(func() { keepTrim(ctx, o.Logger) })
	defer trimming.Wait()
	defer stop()
	return agent.Run(ctx, o)
}

// keepTrim trims once the agent has settled and then every minute: what is used
// once a minute or less need not stay in memory.
func keepTrim(ctx context.Context, log *slog.Logger) {
	timer := time.NewTimer(settled)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			trim(log)
			timer.Reset(time.Minute)
		}
	}
}

func parse(version string, args []string, stderr io.Writer) (o agent.Options, showVersion bool, err error) {
	f := flag.NewFlagSet("modelfleet-agent", flag.ContinueOnError)
	var joinFile, level, labels, id string
	f.StringVar(&o.State, "state", "", "`folder` of everything that lasts (required)")
	f.StringVar(&o.Token, "join", "", "join `token`; used once, to enrol")
	f.StringVar(&joinFile, "join-file", "", "`file` that holds the join token; it may be missing once the device has enrolled")
	f.StringVar(&id, "id", "", "member `id` to enrol as (default: the host's name)")
	f.StringVar(&labels, "labels", "", "labels to enrol with, as `k=v,k=v`; class and site mean something to modelfleet")
	f.StringVar(&o.Socket, "socket", local.DefaultSocket, "unix `socket` for applications")
	f.DurationVar(&o.Lease, "lease", 0, "how long an application keeps a release without a sign of life (default 1m)")
	f.StringVar(&o.Source, "source", "", "where model files are read from: an https `URL` or a folder (default: URLs from the coordinator)")
	f.StringVar(&o.Pack, "pack", "", "`file` that trust packs are also read from, for an air gap")
	f.StringVar(&o.Gossip, "gossip-bind", "", "`host:port` for the cell's gossip, UDP and TCP; port 0 takes any (default: no gossip)")
	f.StringVar(&o.Address, "gossip-address", "", "`host` that others of the cell reach this device by")
	shareFlags(f, &o)
	f.BoolVar(&o.Metered, "metered", false, "what this device fetches costs money: it asks neighbours, takes the fewest bytes and fetches nothing for others")
	f.Func("download-window", "`span` of each day, local time, in which model files are fetched, such as 22:00-05:00; several with commas (default: always)", func(text string) error {
		for span := range strings.SplitSeq(text, ",") {
			w, err := fleet.ParseWindow(span)
			if err != nil {
				return err
			}
			o.Download = append(o.Download, w)
		}
		return nil
	})
	f.IntVar(&o.Older, "keep", 0, "how many releases stay on the disk, while there is room, besides the one served and the one to go back to")
	f.DurationVar(&o.Report, "report", 0, "time between reports (default 1m)")
	f.DurationVar(&o.Busy, "report-busy", 0, "time between reports while a rollout concerns the device (default 10s)")
	f.DurationVar(&o.Window, "window", 0, "length of a window of error counting (default 10s)")
	f.DurationVar(&o.Soak, "soak", 0, "how long a release that no rollout brought is watched (default 5m)")
	f.DurationVar(&o.Retry, "retry", 0, "longest pause before a failed install is tried again (default 10m)")
	f.Float64Var(&o.ErrorRate, "error-rate", 0, "share of failed uses that a watched release is given up for, 0 to 1 (default: none)")
	f.StringVar(&o.Probe.Command, "selftest", "", "shell `command` that tests a release before it is served; $1 and MODELFLEET_PATH name its folder")
	f.StringVar(&o.Probe.URL, "selftest-url", "", "`URL` that is posted a release's path before it is served")
	f.DurationVar(&o.Probe.Timeout, "selftest-timeout", 0, "how long a self-test may take (default 2m)")
	bytesVar(f, &o.Rate, "rate", "most `bytes` a second that model files are fetched at from the bucket, for example 2MiB; neighbours have their own -share-rate (default: no cap)")
	f.DurationVar(&o.Scrub, "scrub", 0, "time between looks at whether files on the disk were damaged (default 24h; negative: never)")
	f.BoolVar(&o.LowMemory, "low-memory", false, "use at most 32 MiB while installing")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	f.BoolVar(&showVersion, "version", false, "print the version and exit")
	if err := readFlags(f, args, usage, stderr); err != nil {
		return o, false, err
	}
	if f.NArg() > 0 {
		return o, false, fault.Newf(fault.Invalid, "read flags", f.Arg(0), "no such argument").WithHint("see modelfleet-agent -help")
	}
	o.Version = version
	o.ID = fleet.MemberID(id)
	if id != "" {
		if o.ID, err = fleet.ParseMemberID(id); err != nil {
			return o, false, err
		}
	}
	if o.Labels, err = parseLabels(labels); err != nil {
		return o, false, err
	}
	if joinFile != "" && o.Token == "" {
		if o.Token, err = readToken(joinFile); err != nil {
			return o, false, err
		}
	}
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return o, false, fault.New(fault.Invalid, "read -log-level", level, err).WithHint("it is one of debug, info, warn, error")
	}
	o.Logger = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: l}))
	return o, showVersion, nil
}

// readFlags parses args. A mistake is told once, by the error; the flags are
// listed, after intro, only to who asks.
func readFlags(f *flag.FlagSet, args []string, intro string, stderr io.Writer) error {
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	err := f.Parse(args)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, flag.ErrHelp):
		f.SetOutput(stderr)
		fmt.Fprint(stderr, cmp.Or(intro, "Flags of "+f.Name()+":\n"))
		f.PrintDefaults()
		return err
	}
	return fault.New(fault.Invalid, "read flags", "", err).WithHint("see %s -help", f.Name())
}

// shareFlags are those of what neighbours give each other.
func shareFlags(f *flag.FlagSet, o *agent.Options) {
	f.StringVar(&o.Share, "share", "", "`host:port` (TCP) that neighbours of the cell are served model files on, or off, then neighbours are not asked for files either (default: the gossip's host and the port after its own)")
	bytesVar(f, &o.ShareRate, "share-rate", "most `bytes` a second that neighbours are served at (default 32MiB)")
	f.Func("share-disk", "most `bytes` of the disk that frames fetched for neighbours take, 0 for none (default 512MiB)", func(text string) (err error) {
		if o.ShareDisk = -1; text != "0" {
			o.ShareDisk, err = parseBytes(text)
		}
		return err
	})
}

// bytesVar is a flag that takes a number of bytes.
func bytesVar(f *flag.FlagSet, v *int64, name, usage string) {
	f.Func(name, usage, func(text string) (err error) {
		*v, err = parseBytes(text)
		return err
	})
}

// parseBytes reads a number of bytes: 500000, 512KiB, 2MiB, 1.5GiB.
func parseBytes(s string) (int64, error) {
	number, unit := s, float64(1)
	for i, suffix := range [...]string{"KiB", "MiB", "GiB"} {
		if rest, ok := strings.CutSuffix(s, suffix); ok {
			number, unit = rest, float64(int64(1)<<(10*(i+1)))
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || !(v*unit >= 1 && v*unit <= 1<<50) { // so written, NaN is refused too
		return 0, fmt.Errorf("%q is not a number of bytes such as 500000, 512KiB or 2MiB", s)
	}
	return int64(v * unit), nil
}

func parseLabels(s string) (fleet.Labels, error) {
	labels := fleet.Labels{}
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		k, v, ok := strings.Cut(part, "=")
		if !ok || k == "" || v == "" {
			return nil, fault.Newf(fault.Invalid, "read -labels", part, "not a label").WithHint("write for example -labels class=jetson,site=plant-7")
		}
		labels[k] = v
	}
	return labels, nil
}

// readToken reads a join token from a file; one that is missing is no token.
func readToken(path string) (string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fault.New(fault.Denied, "read join token", path, err)
	}
	return strings.TrimSpace(string(data)), nil
}
