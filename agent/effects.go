package agent

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/agent/probe"
	"github.com/modelfleet/modelfleet/agent/slot"
	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// runner carries effects out, each in a goroutine of its own, and answers the
// loop with events. An effect whose key is under way already is not begun again.
type runner struct {
	log     *slog.Logger
	store   *cas.Store
	slots   *slot.Slots
	source  delivery.Source
	fetcher *delivery.Fetcher
	probe   probe.Options
	trusted func() *trust.Trusted
	keep    func() []fleet.Digest // bundles that must stay
	answer  func(context.Context, event)
	fail    func(point string) error
	dead    chan<- error
	cell    func() *gossip.Pool

	wg sync.WaitGroup
	// gate keeps a collection away from installs: they hold it for reading.
	gate sync.RWMutex

	mu       sync.Mutex
	underway map[effectKey]context.CancelFunc
	progress map[fleet.ModelName]delivery.Progress
	dirty    bool // a collection waits for the installs to end
}

type effectKey struct {
	model fleet.ModelName
	key   string
}

// do begins an effect.
func (r *runner) do(ctx context.Context, e update.Effect) {
	k := effectKey{e.Model, e.Key}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Kind == update.Cancel {
		if cancel := r.underway[k]; cancel != nil {
			cancel()
		}
		return
	}
	if r.underway[k] != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	r.underway[k] = cancel
	r.wg.Go(func() {
		defer cancel()
		ev, err := r.carry(ctx, e)
		r.mu.Lock()
		delete(r.underway, k)
		r.mu.Unlock()
		switch {
		case err != nil:
			select {
			case r.dead <- err:
			case <-ctx.Done():
			}
		case ev.Key != "" && ctx.Err() == nil:
			r.answer(ctx, event{model: e.Model, ev: ev})
		}
	})
}

// carry does an effect and returns the event that answers it; the error is a
// failpoint's.
func (r *runner) carry(ctx context.Context, e update.Effect) (update.Event, error) {
	if err := r.point("before " + e.Kind.String()); err != nil {
		return update.Event{}, err
	}
	ev := update.Event{Key: e.Key, Jitter: rand.Float64()}
	var err error
	switch e.Kind {
	case update.Fetch:
		ev.Kind, err = update.Fetched, r.fetch(ctx, e)
		if err != nil {
			ev.Kind, ev.Failure = update.FetchFailed, fetchFailure(err)
		}
	case update.Probe:
		ev.Kind, err = update.ProbePassed, r.test(ctx, e)
		if err != nil {
			ev.Kind, ev.Failure = update.ProbeFailed, probeFailure(err)
		}
	case update.Switch:
		ev.Kind, err = update.Switched, r.toggle(e)
		if err != nil {
			ev.Kind, ev.Failure = update.SwitchFailed, switchFailure(err)
		}
	case update.Keep:
		ev.Key = ""
		r.collect(ctx)
	}
	if err != nil && ctx.Err() == nil {
		r.log.Warn("effect failed", "effect", e.Kind.String(), "model", e.Model, "release", e.Offer.Ref, "kind", fault.KindOf(err).String(), "err", err)
	}
	return ev, r.point("after " + e.Kind.String())
}

func (r *runner) point(name string) error {
	if r.fail == nil {
		return nil
	}
	return r.fail(name)
}

// fetch brings a release's files to the disk, verified against a bundle that its
// publisher signed and the directive names.
func (r *runner) fetch(ctx context.Context, e update.Effect) error {
	o := e.Offer
	t := r.trusted()
	if t == nil {
		return fault.Newf(fault.Transient, "fetch release", o.Ref, "no trust pack was believed yet")
	}
	backing, ok := t.Releases[o.Path]
	if !ok {
		return fault.Newf(fault.Transient, "fetch release", o.Ref, "the newest directive does not back it")
	}
	bundle, err := r.bundle(ctx, o.Path)
	if err != nil {
		return err
	}
	manifest, err := backing.VerifyBundle(bundle)
	if err != nil {
		return err
	}
	if root := fleet.Digest(manifest.Root); root != o.Root || fleet.DigestOf(bundle) != o.Bundle {
		return fault.Newf(fault.Untrusted, "fetch release", o.Ref, "the bundle has root %s, the directive says %s", root.Short(), o.Root.Short())
	}
	r.gate.RLock()
	_, err = r.fetcher.Install(ctx, delivery.Want{Key: o.Bundle, Manifest: manifest, Size: o.Size}, func(p delivery.Progress) {
		r.mu.Lock()
		r.progress[e.Model] = p
		r.mu.Unlock()
	})
	r.gate.RUnlock()
	debug.FreeOSMemory() // the buffers of an install are not needed again soon
	r.mu.Lock()
	dirty := r.dirty
	r.mu.Unlock()
	if dirty {
		r.collect(ctx)
	}
	return err
}

// bundleWithin bounds the read of a bundle, which has no ranges to watch over: a
// source that trickles must not hold a fetch for ever.
const bundleWithin = 5 * time.Minute

func (r *runner) bundle(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, bundleWithin)
	defer cancel()
	b, _, err := r.source.Get(ctx, path, "")
	return b, err
}

// done is how far the newest fetch of a model is.
func (r *runner) done(m fleet.ModelName) delivery.Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.progress[m]
}

func (r *runner) test(ctx context.Context, e update.Effect) error {
	o := e.Offer
	if !r.store.HasRelease(o.Bundle) {
		return fault.Newf(fault.Transient, "test release", o.Ref, "its files are gone")
	}
	return probe.Test(ctx, r.probe, probe.Subject{Model: e.Model, Ref: o.Ref, Root: o.Root, Path: r.store.ReleaseDir(o.Bundle)})
}

func (r *runner) toggle(e update.Effect) error {
	if e.Offer.IsZero() {
		return r.slots.Remove(e.Model)
	}
	if !r.store.HasRelease(e.Offer.Bundle) {
		return fault.Newf(fault.NotFound, "switch "+string(e.Model), e.Offer.Ref, "its files are gone")
	}
	return r.slots.Switch(e.Model, r.store.ReleaseDir(e.Offer.Bundle))
}

// collect frees what no model and no application needs. While anything is being
// installed it only notes that it is due.
func (r *runner) collect(ctx context.Context) {
	if !r.gate.TryLock() {
		r.mu.Lock()
		r.dirty = true
		r.mu.Unlock()
		return
	}
	defer r.gate.Unlock()
	r.mu.Lock()
	r.dirty = false
	r.mu.Unlock()
	freed, err := r.store.Collect(ctx, r.keep()...)
	switch {
	case err != nil && ctx.Err() == nil:
		r.log.Warn("store not collected", "err", err)
	case freed.Releases > 0:
		r.log.Info("store collected", "releases", freed.Releases, "bytes", freed.Bytes)
	}
}

// announce tells the cell of a pack that was believed.
func (r *runner) announce(p gossip.Pack) {
	pool := r.cell()
	if pool == nil {
		return
	}
	if err := pool.Announce(p); err != nil {
		r.log.Warn("pack not announced", "err", err)
	}
}

// fetchFailure says who is to blame for a fetch that failed; never the release:
// whatever was delivered, what was signed is as good as before.
func fetchFailure(err error) update.Failure {
	f := update.Failure{Class: fleet.TransportFailure, Code: "network", Text: short(err)}
	switch fault.KindOf(err) {
	case fault.Untrusted:
		f.Code = "corrupt"
		if trust.RuleOf(err) != "" {
			f.Code = "untrusted"
		}
	case fault.Exhausted:
		f.Class, f.Code = fleet.MemberFailure, "disk-full"
	case fault.Internal:
		f.Class, f.Code = fleet.MemberFailure, "io"
	case fault.Invalid:
		f.Class, f.Code = fleet.MemberFailure, "incompatible"
	case fault.Transient:
		if _, busy := registry.RetryAfter(err); busy {
			f.Code = "throttled"
		}
	}
	return f
}

func probeFailure(err error) update.Failure {
	f := update.Failure{Class: fleet.MemberFailure, Code: "self-test", Text: short(err)}
	if fault.Is(err, fault.Invalid) {
		f.Class = fleet.ReleaseFailure
	}
	return f
}

func switchFailure(err error) update.Failure {
	f := update.Failure{Class: fleet.MemberFailure, Code: "io", Text: short(err)}
	if fault.Is(err, fault.NotFound) {
		f.Code = update.CodeGone
	}
	return f
}

// short is an error for a reason that travels.
func short(err error) string {
	s := []rune(err.Error())
	if len(s) > 400 {
		s = append(s[:400], []rune("...")...)
	}
	return string(s)
}

// await waits for the effects under way; their context is over.
func (r *runner) await(limit time.Duration) {
	done := make(chan struct{})
	go func() {
		r.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(limit):
		r.log.Warn("effects did not end in time")
	}
}
