// Package device is the application that runs on the demo's devices: it takes
// its model from the agent, scores the readings of its machines, and tells the
// agent what it observed. It is what an integrator would write, on agent/local's
// client, and it hides nothing: when the model makes it panic, it crashes.
//
// [Run] is the application; [Supervise] starts it again when it ended, as
// systemd would; [Main] is both, and the agent's self-test, as a command.
package device

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/functions/scorer/mlp"
	"github.com/modelfleet/modelfleet/infra/demo/train"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Options describe one device's application.
type Options struct {
	Socket string // of the agent
	App    string // its name at the agent; default "scorer"
	Model  fleet.ModelName
	Site   string        // climate of the machines
	Seed   uint64        // the machines
	Rate   float64       // readings a second; default 50
	Report time.Duration // how often observations go to the agent; default 1 s
	Logger *slog.Logger
}

// tick is how often readings come in; those of one tick come together.
const tick = 100 * time.Millisecond

// maxSkip: an application that was started again does not see its past once more,
// so the stream begins at a random one of so many readings.
const maxSkip = 4096

// Run scores the device's readings until ctx ends. While there is no model, or
// no agent, readings are lost. It does not recover from a panic of the model.
func Run(ctx context.Context, o Options) error {
	if o.Rate <= 0 {
		o.Rate = 50
	}
	if o.Report <= 0 {
		o.Report = time.Second
	}
	if o.App == "" {
		o.App = "scorer"
	}
	a := &app{
		o:      o,
		client: local.NewClient(local.ClientOptions{Socket: o.Socket, App: o.App}),
		stream: train.NewStream(o.Seed, o.Site),
	}
	for range rand.N(maxSkip) {
		a.stream.Next()
	}
	var wg sync.WaitGroup
	wg.Go(func() { a.score(ctx) })
	wg.Go(func() { a.report(ctx) })
	err := a.client.Follow(ctx, o.Model, a.use)
	wg.Wait()
	if errors.Is(ctx.Err(), context.Canceled) && fault.Is(err, fault.Canceled) {
		return nil
	}
	return err
}

type app struct {
	o      Options
	client *local.Client
	stream *train.Stream // of the scoring goroutine

	mu       sync.Mutex
	loaded   local.Loaded
	pipeline *mlp.Pipeline // nil before the first release
	seen     []batch       // not yet reported, oldest release first
}

// batch is what was observed with one release.
type batch struct {
	loaded local.Loaded
	obs    []local.Observation
}

// use opens a release and serves with it from the next reading on.
func (a *app) use(l local.Loaded) error {
	p, err := mlp.Open(l.Path)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.loaded, a.pipeline = l, p
	a.o.Logger.Info("release loaded", "model", string(a.o.Model), "release", l.Ref)
	return nil
}

// score takes the readings as they come in.
func (a *app) score(ctx context.Context) {
	// Devices do not tick together.
	if !wait(ctx, rand.N(tick)) {
		return
	}
	t := time.NewTicker(tick)
	defer t.Stop()
	due := 0.0
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		arrived := time.Now()
		for due += a.o.Rate * tick.Seconds(); due >= 1; due-- {
			a.one(a.stream.Next(), arrived)
		}
	}
}

// one scores one reading. The latency is from the reading's arrival.
func (a *app) one(s train.Sample, arrived time.Time) {
	a.mu.Lock()
	l, p := a.loaded, a.pipeline
	a.mu.Unlock()
	if p == nil {
		return
	}
	answer, err := p.Score(s.Sample)
	obs := local.Observation{Micros: max(1, time.Since(arrived).Microseconds()), Error: err != nil}
	if err == nil {
		obs.Score = &answer.Score
		if s.Labelled {
			right := answer.Positive == s.Faulty
			obs.Right = &right
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.seen); n == 0 || a.seen[n-1].loaded.Root != l.Root {
		a.seen = append(a.seen, batch{loaded: l})
	}
	last := &a.seen[len(a.seen)-1]
	last.obs = append(last.obs, obs)
}

// maxHeld bounds the observations kept for an agent that is away.
const maxHeld = 5000

// report hands observations to the agent, and the last of them at the end.
func (a *app) report(ctx context.Context) {
	for wait(ctx, a.o.Report) {
		a.flush(ctx)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	a.flush(last)
}

func (a *app) flush(ctx context.Context) {
	a.mu.Lock()
	seen := a.seen
	a.seen = nil
	a.mu.Unlock()
	for i, b := range seen {
		err := a.client.Observe(ctx, b.loaded, b.obs...)
		if err == nil {
			continue
		}
		if !fault.KindOf(err).Retry() {
			a.o.Logger.Warn("observations refused", "release", b.loaded.Ref, "err", err)
			continue
		}
		a.mu.Lock()
		a.seen = append(seen[i:], a.seen...)
		a.trim()
		a.mu.Unlock()
		return
	}
}

// trim drops the oldest observations when there are too many; mu is held.
func (a *app) trim() {
	n := 0
	for _, b := range a.seen {
		n += len(b.obs)
	}
	for n > maxHeld {
		n -= len(a.seen[0].obs)
		a.seen = a.seen[1:]
	}
}

// wait reports whether d passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// SelfTest is the agent's question before it serves a release: does it load
// here, and does it give the scores it should?
func SelfTest(dir string) error {
	if err := mlp.SelfTest(dir); err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	return nil
}
