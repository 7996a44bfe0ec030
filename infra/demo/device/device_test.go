package device_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/infra/demo/device"
	"github.com/modelfleet/modelfleet/infra/demo/train"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// The application under test is this binary, told by an argument to be it.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "run" || os.Args[1] == "selftest") {
		os.Exit(device.Main(context.Background(), os.Args[1:], os.Stderr))
	}
	os.Exit(m.Run())
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// host is an agent that serves one folder and counts what it is told.
type host struct {
	changed chan struct{} // receives after each observation and loss

	mu      sync.Mutex
	release *local.Release
	seen    map[fleet.Digest]tally
	losses  []local.Loss
}

type tally struct{ n, errors, right, wrong int }

func (h *host) Listing() local.Listing {
	h.mu.Lock()
	defer h.mu.Unlock()
	return local.Listing{Models: []local.Model{{Name: "service-needed", Serving: h.release}}}
}

func (h *host) Observe(_ fleet.ModelName, root fleet.Digest, obs []local.Observation) {
	h.mu.Lock()
	t := h.seen[root]
	for _, o := range obs {
		t.n++
		switch {
		case o.Error:
			t.errors++
		case o.Right != nil && *o.Right:
			t.right++
		case o.Right != nil:
			t.wrong++
		}
		if o.Micros <= 0 || (o.Score == nil) != o.Error {
			panic("an observation without latency or score")
		}
	}
	h.seen[root] = t
	h.mu.Unlock()
	h.poke()
}

func (h *host) Lost(l local.Loss) {
	h.mu.Lock()
	h.losses = append(h.losses, l)
	h.mu.Unlock()
	h.poke()
}

// Lift is not asked for by an application.
func (h *host) Lift(fleet.ModelName, fleet.Digest) {}

func (h *host) poke() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// until waits for a state of the host.
func (h *host) until(t *testing.T, state func() bool) {
	t.Helper()
	for {
		h.mu.Lock()
		ok := state()
		h.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-h.changed:
		case <-t.Context().Done():
			t.Fatal("the test ended before the state came")
		}
	}
}

func TestDevice(t *testing.T) {
	t.Parallel()
	reports, err := train.Train(t.Context(), train.Options{Dir: t.TempDir(), Seed: 5, ReferenceRows: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("TheApplicationScoresSwitchesAndCrashes", func(t *testing.T) { checkApplication(t, reports) })
	t.Run("SelfTestIsACommand", func(t *testing.T) { checkSelfTest(t, reports) })
}

func checkApplication(t *testing.T, reports []train.Report) {
	root := func(v int) fleet.Digest { return fleet.DigestOf([]byte{byte(v)}) }
	serve := func(v int) *local.Release {
		return &local.Release{Ref: "service-needed@" + reports[v].Version, Root: root(v), Path: reports[v].Dir}
	}
	h := &host{changed: make(chan struct{}, 1), seen: map[fleet.Digest]tally{}, release: serve(1)}
	socket := filepath.Join(t.TempDir(), "a.sock")
	server := local.New(local.Options{Socket: socket, Host: h, Logger: quiet})
	ln, err := server.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	serving, stop := context.WithCancel(t.Context())
	defer stop()
	wg.Go(func() { server.Serve(serving, ln) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	crashes := make(chan string, 1)
	var out bytes.Buffer
	supervised := make(chan error, 1)
	wg.Go(func() {
		supervised <- device.Supervise(ctx, device.Supervisor{
			Command: []string{self, "run", "-socket", socket, "-seed", "3", "-site", "oslo", "-rate", "300", "-report", "20ms"},
			Output:  &out, Logger: quiet, Delay: 1, Ended: func(how string) {
				select {
				case crashes <- how:
				default: // one is enough
				}
			},
		})
	})
	h.until(t, func() bool { return h.seen[root(1)].n > 500 })
	h.mu.Lock()
	good := h.seen[root(1)]
	h.release = serve(2)
	h.mu.Unlock()
	server.Changed()
	if share := float64(good.right) / float64(good.right+good.wrong); good.errors > 0 || share < 0.8 {
		t.Errorf("v2: %+v, right in %.2f", good, share)
	}
	how := <-crashes
	if !strings.Contains(how, "exit status 2") {
		t.Errorf("the crash: %s, want a panic's exit", how)
	}
	h.until(t, func() bool { return len(h.losses) > 1 && h.seen[root(2)].errors > 0 }) // and again after the restart
	cancel()
	if err := <-supervised; err != nil {
		t.Errorf("supervisor: %v", err)
	}
	if !strings.Contains(out.String(), "index out of range") {
		t.Errorf("output of the crash: %.300s", out.String())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.losses[0]; l.Root != root(2) || l.App != "scorer" || l.Fatal {
		t.Errorf("loss %+v", l)
	}
}

func checkSelfTest(t *testing.T, reports []train.Report) {
	for _, r := range reports { // v3 as well: what is wrong with it, usual cases do not show
		if code := device.Main(t.Context(), []string{"selftest", r.Dir}, io.Discard); code != 0 {
			t.Errorf("%s: exit status %d", r.Version, code)
		}
	}
	var said bytes.Buffer
	if code := device.Main(t.Context(), []string{"selftest", t.TempDir()}, &said); code != 2 || said.Len() == 0 {
		t.Errorf("an empty folder: exit status %d, %q", code, said.String())
	}
	for _, args := range [][]string{{"nonsense"}, {"selftest"}, {"run", "x"}, {"run", "-nonsense"}} {
		if code := device.Main(t.Context(), args, io.Discard); code != 2 {
			t.Errorf("%v: exit status %d, want 2", args, code)
		}
	}
}
