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

const usage = `modelfleet-agent installs signed models on this device, tests them, serves them to
applications and rolls back bad ones.

  modelfleet-agent -state DIR -join TOKEN -labels class=jetson,site=plant-7   first start: enrol
  modelfleet-agent -state DIR                                                 later starts
  modelfleet-agent status [-socket PATH]                                      show the state of a running agent
  modelfleet-agent lift [-socket PATH] MODEL@VERSION                          lift a release's quarantine on this device
  modelfleet-agent hardware [-join TOKEN]                                     print this machine's hardware ids

Create TOKEN with: modelfleet token create

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
	f.StringVar(&o.State, "state", "", "`folder` for persistent state (required)")
	f.StringVar(&o.Token, "join", "", "join `token`, used only to enrol")
	f.StringVar(&joinFile, "join-file", "", "`file` with the join token; may be missing once the device is enrolled")
	f.StringVar(&id, "id", "", "member `id` to enrol as (default: the host name)")
	f.StringVar(&labels, "labels", "", "labels to enrol with, as `k=v,k=v`; modelfleet itself uses class and site")
	f.StringVar(&o.Socket, "socket", local.DefaultSocket, "Unix `socket` for applications")
	f.DurationVar(&o.Lease, "lease", 0, "how long an application's lease on a release lasts without a heartbeat (default 1m)")
	f.StringVar(&o.Source, "source", "", "where to read model files from: an https `URL` or a folder (default: URLs from the coordinator)")
	f.StringVar(&o.Pack, "pack", "", "additional `file` to read trust packs from, for air-gapped sites")
	f.StringVar(&o.Gossip, "gossip-bind", "", "`host:port` for the cell's gossip, UDP and TCP; port 0 picks a free one (default: no gossip)")
	f.StringVar(&o.Address, "gossip-address", "", "`host` that peers in the cell use to reach this device")
	shareFlags(f, &o)
	f.BoolVar(&o.Metered, "metered", false, "the link is metered: prefer neighbours, minimise bytes, and fetch nothing on behalf of others")
	f.Func("download-window", "daily `span`, local time, in which model files may be fetched, such as 22:00-05:00; comma-separated (default: always)", func(text string) error {
		for span := range strings.SplitSeq(text, ",") {
			w, err := fleet.ParseWindow(span)
			if err != nil {
				return err
			}
			o.Download = append(o.Download, w)
		}
		return nil
	})
	f.IntVar(&o.Older, "keep", 0, "number of releases to keep on disk, space permitting, besides the served one and its fallback")
	f.DurationVar(&o.Report, "report", 0, "interval between reports (default 1m)")
	f.DurationVar(&o.Busy, "report-busy", 0, "interval between reports while the device takes part in a rollout (default 10s)")
	f.DurationVar(&o.Window, "window", 0, "length of an error-counting window (default 10s)")
	f.DurationVar(&o.Soak, "soak", 0, "how long to watch a release installed outside a rollout (default 5m)")
	f.DurationVar(&o.Retry, "retry", 0, "maximum delay before a failed install is retried (default 10m)")
	f.Float64Var(&o.ErrorRate, "error-rate", 0, "error rate, 0 to 1, at which a watched release is rejected (default: none)")
	f.StringVar(&o.Probe.Command, "selftest", "", "shell `command` that tests a release before it is served; $1 and $MODELFLEET_PATH hold its folder")
	f.StringVar(&o.Probe.URL, "selftest-url", "", "`URL` to POST a release's path to as a test before it is served")
	f.DurationVar(&o.Probe.Timeout, "selftest-timeout", 0, "timeout of a self-test (default 2m)")
	bytesVar(f, &o.Rate, "rate", "maximum download rate from the bucket, in `bytes` per second, such as 2MiB; for neighbours see -share-rate (default: unlimited)")
	f.DurationVar(&o.Scrub, "scrub", 0, "interval between checks for damaged files on disk (default 24h; negative: never)")
	f.BoolVar(&o.LowMemory, "low-memory", false, "use at most 32 MiB while installing")
	f.StringVar(&level, "log-level", "info", "minimum `level` to log: debug, info, warn or error")
	f.BoolVar(&showVersion, "version", false, "print the version and exit")
	if err := readFlags(f, args, usage, stderr); err != nil {
		return o, false, err
	}
	if f.NArg() > 0 {
		return o, false, fault.Newf(fault.Invalid, "read flags", f.Arg(0), "unexpected argument").WithHint("see modelfleet-agent -help")
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
		return o, false, fault.New(fault.Invalid, "read -log-level", level, err).WithHint("use debug, info, warn or error")
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
	f.StringVar(&o.Share, "share", "", "`host:port` (TCP) on which to serve model files to neighbours, or off to neither serve neighbours nor fetch from them (default: the gossip host and the next port)")
	bytesVar(f, &o.ShareRate, "share-rate", "maximum rate for serving neighbours, in `bytes` per second (default 32MiB)")
	f.Func("share-disk", "maximum disk space for frames fetched for neighbours, in `bytes`; 0 for none (default 512MiB)", func(text string) (err error) {
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
			return nil, fault.Newf(fault.Invalid, "read -labels", part, "it is not a label of the form key=value").WithHint("for example: -labels class=jetson,site=plant-7")
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
