// Package play is the demo: a whole fleet on loopback that lives through a
// model's life in a minute or so. It starts an S3 server, a coordinator, 48
// agents with an application each and four Lambda environments, all of them real
// processes, publishes three trained models, and lets things go wrong on
// purpose. Operators' actions are the real commands, shown as they are typed.
//
// Each act checks what it shows: the demo ends well only if all came out as
// they should, so it is an end-to-end test as well.
package play

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/infra/demo/train"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Options are what the demo may be asked for; the zero value is the demo.
type Options struct {
	JSON    bool      // one JSON object on Out at the end, the narration on Errs
	Stay    bool      // keep the fleet up until interrupted
	Dir     string    // where everything lies; default: a temporary folder, removed at the end
	Devices int       // default 48
	Out     io.Writer // default standard output
	Errs    io.Writer // default standard error

	S3Endpoint string // use this S3 server instead of the embedded one; credentials from the environment
	Bucket     string // default "modelfleet-demo"
	Region     string // default "us-east-1"
}

// Run plays the demo. The error says which act did not come out as it should.
func Run(ctx context.Context, o Options) (err error) {
	w, cleanup, err := newWorld(o, brisk())
	if err != nil {
		return err
	}
	o = w.o
	began := time.Now()
	err = w.play(ctx)
	w.n.figure("demo wall time", time.Since(began).Seconds(), "s")
	w.n.summary()
	if err == nil && o.Stay {
		w.stay(ctx)
	}
	w.stop()
	if err == nil {
		cleanup()
	} else {
		w.n.line("\nwhat everybody logged: " + w.logs)
	}
	if o.JSON {
		if err := w.n.report(o.Out); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	return err
}

// newWorld completes the options and makes the world's folders.
func newWorld(o Options, p pace) (*world, func(), error) {
	o.Devices = cmp.Or(o.Devices, 48)
	o.Bucket = cmp.Or(o.Bucket, "modelfleet-demo")
	o.Region = cmp.Or(o.Region, "us-east-1")
	if o.Out == nil {
		o.Out = os.Stdout
	}
	if o.Errs == nil {
		o.Errs = os.Stderr
	}
	if o.Devices < 12 {
		return nil, nil, fault.Newf(fault.Invalid, "play demo", "devices", "%d are too few for a fleet verdict; the least is 12", o.Devices)
	}
	dir, cleanup, err := workFolder(o.Dir)
	if err != nil {
		return nil, nil, err
	}
	out := o.Out
	if o.JSON {
		out = o.Errs
	}
	w := &world{o: o, pace: p, n: newNarrator(out), dir: dir, releases: map[string]train.Report{}, trained: make(chan error, 1), trainedEncoder: make(chan error, 1)}
	w.logs = filepath.Join(dir, "logs")
	if err := os.MkdirAll(w.logs, 0o755); err != nil {
		return nil, nil, fmt.Errorf("make the log folder: %w", err)
	}
	return w, cleanup, nil
}

// workFolder is dir, or a new temporary one whose path is short: a unix
// socket's path may have 107 bytes only.
func workFolder(dir string) (string, func(), error) {
	if dir != "" {
		abs, err := filepath.Abs(dir)
		if err == nil {
			err = os.MkdirAll(abs, 0o755)
		}
		if err != nil {
			return "", nil, fmt.Errorf("make the demo's folder: %w", err)
		}
		return abs, func() {}, nil
	}
	tmp, err := os.MkdirTemp("", "mf-")
	if err != nil {
		return "", nil, fmt.Errorf("make the demo's folder: %w", err)
	}
	return tmp, func() { _ = os.RemoveAll(tmp) }, nil
}

// play is the acts in their order. The first that fails ends it: the later ones
// stand on it.
func (w *world) play(ctx context.Context) error {
	for _, a := range []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"Build, and start S3 and the coordinator", w.actStart},
		{"48 devices join the fleet", w.actJoin},
		{"v1 is published and rolled out to all", w.actFirst},
		{"Functions score with it", w.actFunctions},
		{"v2, truly better, goes through its stages", w.actBetter},
		{"v3, really bad, is caught and taken back", w.actBad},
		{"A shard is tampered with in the bucket", w.actTamper},
		{"An old pack is replayed", w.actReplay},
		{"A stranger publishes", w.actStranger},
		{"The coordinator is killed, and returns", w.actOutage},
		{"An agent is killed in the middle of an install", w.actKill},
		{"A larger model comes to a hall once, its fine-tune as a difference", w.actSite},
		{"The functions answered all the while", w.actTraffic},
	} {
		name := a.name
		if w.o.Devices != 48 && name == "48 devices join the fleet" {
			name = fmt.Sprintf("%d devices join the fleet", w.o.Devices)
		}
		if err := w.n.act(name, func() (string, error) { return a.do(ctx) }); err != nil {
			return fmt.Errorf("act %q: %w", name, err)
		}
	}
	return nil
}

// stay keeps the fleet up until ctx ends.
func (w *world) stay(ctx context.Context) {
	env := append([]string{"PATH=" + w.bins + ":$PATH", "MODELFLEET_CONTEXT=" + w.contextFile(), "MODELFLEET_DIR=" + w.fleetDir()}, w.store.env...)
	w.n.line("\nThe fleet stays up; Ctrl-C stops everything. In another terminal:\n" +
		"  export " + strings.Join(env, "\n  export ") + "\n" +
		"  modelfleet members list -l site=hall-1\n" +
		"  modelfleet members explain " + string(w.agents[0].id) + "\n" +
		"  modelfleet rollout start " + ref("3.0.0") + " -f " + filepath.Join(w.dir, "staged.yaml") + " --retry --watch   # the bad one again")
	w.n.line("Dashboard: " + w.url + "  (sign in with the token in " + w.contextFile() + "; the certificate is the coordinator's own)")
	if w.traffic == nil && w.fn != nil {
		w.traffic = w.keepInvoking() // a function that nobody calls reports nothing
	}
	<-ctx.Done()
}
