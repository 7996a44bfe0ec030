package play

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modelfleet/modelfleet/functions/lambdasim"
	"github.com/modelfleet/modelfleet/infra/demo/train"
	"github.com/modelfleet/modelfleet/infra/devs3"
	"github.com/modelfleet/modelfleet/infra/proctest"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// model is the name of the demo's model.
const model fleet.ModelName = "service-needed"

const (
	fleetName = "demo-factory"
	team      = "reliability"
)

// world is the fleet that the demo runs: an S3 server, a coordinator, agents
// with their applications, and a function. All of it is real processes on
// loopback.
type world struct {
	o    Options
	pace pace
	n    *narrator
	logs string // folder of what everybody logged
	ps   proctest.Group
	dir  string // everything lies in here

	bins   string // folder of the built programs
	s3     *devs3.Process
	store  store
	coord  *proctest.Program
	url    string // of the coordinator
	client *api.Client
	agents []*device
	fn     *lambdasim.Function
	// traffic ends the invocations that go on beside the acts, and says whether all
	// were answered; nil before they began.
	traffic func() error

	oldPack  []byte                  // the trust pack of when v1 was stable
	releases map[string]train.Report // by version, v1 ...
	trained  chan error              // one value, when training has ended

	trainedEncoder chan error // likewise, of the larger model and its fine-tune
}

// pace is how quickly everybody reports, decides and retries, as flags. No flags
// are the pace of production.
type pace struct{ coordinator, agent []string }

// brisk is the demo's: a life in a minute.
func brisk() pace {
	return pace{
		coordinator: []string{"-tick", "250ms", "-report", "1s"},
		agent:       []string{"-report", "1s", "-window", "1s", "-report-busy", "1s", "-soak", "1s", "-retry", "1s", "-rate", "64MiB"},
	}
}

// store is where the bucket is and how one signs in.
type store struct {
	endpoint, bucket, region string
	env                      []string // AWS credentials for child processes
}

// device is one edge device: the agent and the application beside it.
type device struct {
	id     fleet.MemberID
	labels fleet.Labels
	socket string
	state  string
	binary string   // of its agent
	flags  []string // of its agent, beside everybody's
	agent  *proctest.Program
	app    *proctest.Program
}

// programs are the commands that the demo builds and runs.
var programs = [...]string{
	"./agent/cmd/modelfleet-agent",
	"./coordinator/cmd/modelfleet-coordinator",
	"./coordinator/cmd/modelfleet",
	"./infra/devs3/cmd/devs3",
	"./infra/demo/device/cmd/device",
	"./functions/scorer",
}

// build compiles the programs; what is up to date is not built again. The flags
// are those of `go test`, so that its compiled packages serve both.
func (w *world) build(ctx context.Context) error {
	mod, _, err := proctest.Run(ctx, "", nil, "go", "env", "GOMOD")
	if err != nil {
		return err
	}
	root := filepath.Dir(strings.TrimSpace(string(mod)))
	w.bins = filepath.Join(root, "bin", "demo")
	if err := os.MkdirAll(w.bins, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", w.bins, err)
	}
	args := []string{"go", "-C", root, "build", "-buildvcs=false", "-ldflags", "-s -w", "-o", w.bins + "/"}
	_, _, err = proctest.Run(ctx, "", nil, append(args, programs[:]...)...)
	return err
}

func (w *world) bin(name string) string { return filepath.Join(w.bins, name) }

// train makes the three releases, while the fleet comes up.
func (w *world) train(ctx context.Context) {
	reports, err := train.Train(ctx, train.Options{Dir: filepath.Join(w.dir, "releases"), Seed: 7})
	for _, r := range reports {
		w.releases[r.Version] = r
	}
	w.trained <- err
	if err == nil {
		err = w.trainEncoder(ctx)
	}
	w.trainedEncoder <- err
}

// startStore starts the embedded S3 server, or takes the one that was named.
func (w *world) startStore(ctx context.Context) error {
	w.store = store{endpoint: w.o.S3Endpoint, bucket: w.o.Bucket, region: w.o.Region, env: nil}
	if w.o.S3Endpoint != "" {
		w.n.say("using the bucket %s at %s", w.o.Bucket, w.o.S3Endpoint)
		return nil
	}
	var err error
	w.s3, err = devs3.Start(ctx, w.bin("devs3"), devs3.Options{Dir: filepath.Join(w.dir, "s3"), Bucket: w.o.Bucket, Region: w.o.Region})
	if err != nil {
		return err
	}
	w.store.endpoint = w.s3.Endpoint
	w.store.env = []string{"AWS_ACCESS_KEY_ID=" + w.s3.AccessKey, "AWS_SECRET_ACCESS_KEY=" + w.s3.SecretKey, "AWS_REGION=" + w.o.Region}
	w.n.say("S3 server (versitygw, not durable against power loss) at %s, bucket %s", w.store.endpoint, w.store.bucket)
	return nil
}

// cli runs the operator's command, shown as one would type it.
func (w *world) cli(ctx context.Context, args ...string) (string, error) {
	w.n.command(append([]string{"modelfleet"}, args...)...)
	return w.quiet(ctx, args...)
}

// quiet runs the operator's command without showing it.
func (w *world) quiet(ctx context.Context, args ...string) (string, error) {
	out, _, err := w.run(ctx, args...)
	return string(out), err
}

// run runs the operator's command, which finds its fleet by the environment.
func (w *world) run(ctx context.Context, args ...string) (out []byte, said string, err error) {
	env := append(os.Environ(), "MODELFLEET_CONTEXT="+w.contextFile(), "MODELFLEET_DIR="+w.fleetDir())
	return proctest.Run(ctx, "", append(env, w.store.env...), append([]string{w.bin("modelfleet")}, args...)...)
}

// spawn starts a program in the background, with these variables too.
func (w *world) spawn(name string, env []string, args ...string) (*proctest.Program, error) {
	p := &proctest.Program{Name: name, Args: args, Env: append(os.Environ(), env...), Log: filepath.Join(w.logs, name+".log")}
	return p, w.ps.Start(p)
}

// cliJSON runs a command with -o json and reads what it printed.
func cliJSON[T any](ctx context.Context, w *world, args ...string) (T, error) {
	var v T
	out, err := w.cli(ctx, append(args, "-o", "json")...)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		return v, fmt.Errorf("read what modelfleet %s printed: %w: %s", args[0], err, out)
	}
	return v, nil
}

func (w *world) fleetDir() string    { return filepath.Join(w.dir, "fleet") }
func (w *world) dataDir() string     { return filepath.Join(w.dir, "coordinator") }
func (w *world) contextFile() string { return filepath.Join(w.dataDir(), "admin.context.json") }

// startCoordinator starts the coordinator and waits until it answers.
func (w *world) startCoordinator(ctx context.Context) error {
	if w.coord == nil {
		addr, err := proctest.FreeAddr()
		if err != nil {
			return err
		}
		gossip, err := proctest.FreeAddr()
		if err != nil {
			return err
		}
		w.url = "https://" + addr
		args := append([]string{w.bin("modelfleet-coordinator"), "-fleet", w.fleetDir(), "-data", w.dataDir(),
			"-listen", addr, "-url", w.url, "-join-cell", sites[0], "-gossip-bind", gossip}, w.pace.coordinator...)
		w.coord, err = w.spawn("coordinator", w.store.env, args...)
		if err != nil {
			return err
		}
	} else if err := w.coord.Start(); err != nil {
		return err
	}
	err := proctest.Until(ctx, proctest.Patience, "the coordinator answers", func() (bool, error) {
		if !w.coord.Running() {
			return false, errors.New("it ended")
		}
		c, err := api.LoadContext(w.contextFile())
		if err != nil {
			return false, err
		}
		if w.client, err = c.Client(); err != nil {
			return false, err
		}
		_, err = w.client.Fleet(ctx)
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, w.coord.Tail(8))
	}
	return nil
}

var sites = [...]string{"hall-1", "hall-2", "hall-3"}

// plan lays out the devices: three sites, two regions, two hardware classes,
// and a laboratory ring of four in the first hall.
func (w *world) plan() error {
	for i := range w.o.Devices {
		site := i % len(sites)
		id := fleet.MemberID(fmt.Sprintf("%s-cam-%02d", sites[site], i/len(sites)+1))
		labels := fleet.Labels{"site": sites[site], "region": [...]string{"eu", "eu", "us"}[site], "class": [...]string{"jetson", "rpi"}[(i/len(sites))%2], "ring": "field"}
		if site == 0 && i/len(sites) < 4 {
			labels["ring"] = "lab"
		}
		dir := filepath.Join(w.dir, "devices", string(id))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
		w.agents = append(w.agents, &device{id: id, labels: labels, state: filepath.Join(dir, "state"), socket: filepath.Join(dir, "s"), binary: w.bin("modelfleet-agent")})
	}
	return nil
}

// startDevices starts every device's agent and application, some at a time.
func (w *world) startDevices(ctx context.Context, token string) error {
	g, _ := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, d := range w.agents {
		g.Go(func() error { return w.startDevice(d, i, token) })
	}
	return g.Wait()
}

func (w *world) startDevice(d *device, i int, token string) error {
	gossip, err := proctest.FreeAddr()
	if err != nil {
		return err
	}
	args := append([]string{d.binary, "-state", d.state, "-join", token, "-id", string(d.id), "-labels", d.labels.String(),
		"-socket", d.socket, "-gossip-bind", gossip, "-pack", d.packFile(), "-selftest", w.bin("device") + ` selftest "$1"`}, w.pace.agent...)
	args = append(args, d.flags...)
	d.agent, err = w.spawn(string(d.id), nil, args...)
	if err != nil {
		return err
	}
	d.app, err = w.spawn(string(d.id)+"-app", nil, w.bin("device"), "supervise",
		"-socket", d.socket, "-model", string(model), "-site", d.labels["site"], "-seed", fmt.Sprint(1000+i), "-rate", "40", "-report", "500ms")
	return err
}

// packFile is where the device also looks for packs: a folder for a USB stick.
func (d *device) packFile() string { return filepath.Join(filepath.Dir(d.socket), "usb.pack.zst") }

// current is the release folder that the device's applications are given.
func (d *device) current() (string, error) {
	return filepath.EvalSymlinks(filepath.Join(d.state, "models", string(model), "current"))
}

// members are the devices as the coordinator sees them.
func (w *world) members(ctx context.Context) ([]api.MemberInfo, error) {
	all, err := w.client.Members(ctx, fleet.Selector{})
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	return all, nil
}

// status is what a member says of the demo's model.
func status(m api.MemberInfo) api.ModelStatus {
	for _, s := range m.Models {
		if s.Model == model {
			return s
		}
	}
	return api.ModelStatus{}
}

// awaitRunning waits until want members of the kind run the release.
func (w *world) awaitRunning(ctx context.Context, limit time.Duration, kind fleet.Kind, ref string, want int) error {
	return proctest.Until(ctx, limit, fmt.Sprintf("%d %ss run %s", want, kind, ref), func() (bool, error) {
		members, err := w.members(ctx)
		if err != nil {
			return false, err
		}
		n := 0
		for _, m := range members {
			if m.Facts.Kind == kind && status(m).Running == ref {
				n++
			}
		}
		w.n.progress(string(kind)+"s run "+ref, n, want)
		if n < want {
			return false, fmt.Errorf("%d do", n)
		}
		return true, nil
	})
}

// stop ends everything that was started.
func (w *world) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if w.traffic != nil {
		_ = w.traffic() // the acts have looked at it already
	}
	if w.fn != nil {
		_ = w.fn.Close(ctx) // its processes are gone either way
	}
	w.ps.End(syscall.SIGTERM, 3*time.Second)
	if w.s3 != nil {
		_ = w.s3.Stop()
	}
}
