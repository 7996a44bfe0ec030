// Package effect does what package update decides: it brings a release in, tries
// it, switches to it, and frees what nobody needs any more. Each effect is answered
// by one event, which says who is to blame when it failed.
//
//	update.Step ─▶ Effect ─▶ Runner.Do ─▶ pkg/delivery, agent/probe, agent/slot, pkg/cas ─▶ Event ─▶ update.Step
//
// Effects may be repeated: what is done already is found done. One whose key is
// under way is not begun again, so that a loop may ask for it as often as it likes.
// A collection never runs beside an install.
package effect

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/agent/probe"
	"github.com/modelfleet/modelfleet/agent/slot"
	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/guard"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Options are what a [Runner] works with; only Failpoint may be missing.
type Options struct {
	Store   *cas.Store
	Slots   *slot.Slots
	Source  delivery.Source // of bundles
	Fetcher *delivery.Fetcher
	// Meet, when not nil, is called before an install begins: it waits, not long,
	// until neighbours are known.
	Meet    func(context.Context)
	Probe   probe.Options
	Trusted func() *trust.Trusted // newest pack that was believed; nil: none yet
	Keep    func() []fleet.Digest // bundles that no collection may take
	// Older is how many releases stay besides those, the last ones installed, until
	// an install needs their place.
	Older int
	// Answer is given the event that ends an effect, unless its context is over.
	Answer func(context.Context, fleet.ModelName, update.Event)
	// Progress is told how far the fetch or the mending of a release is, first of
	// all that nothing was done yet. It must not block.
	Progress func(update.Effect, delivery.Progress)
	// Failpoint is called before and after each effect; its error goes to Dead,
	// and the effect is then cut short there.
	Failpoint func(point string) error
	Dead      chan<- error
	Logger    *slog.Logger
}

// Runner carries effects out, each in a goroutine of its own. Make it with [New];
// it is safe for concurrent use.
type Runner struct {
	o  Options
	wg sync.WaitGroup
	// gate keeps a collection away from installs: they hold it for reading.
	gate sync.RWMutex

	mu       sync.Mutex
	underway map[key]context.CancelFunc
	dirty    bool // a collection waits for the installs, or the collection, to end
	keeps    int  // Keep effects so far
}

// New makes a runner with nothing to do.
func New(o Options) *Runner {
	return &Runner{o: o, underway: map[key]context.CancelFunc{}}
}

type key struct {
	model fleet.ModelName
	key   string
}

// Do begins an effect, unless one of its key is under way.
func (r *Runner) Do(ctx context.Context, e update.Effect) {
	k := key{e.Model, e.Key}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Kind == update.Keep {
		// It comes again with other bundles in one attempt, and each must be heard.
		r.keeps++
		k.key = fmt.Sprintf("%s/%d", e.Key, r.keeps)
	}
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
			case r.o.Dead <- err:
			case <-ctx.Done():
			}
		case ev.Key != "" && ctx.Err() == nil:
			r.o.Answer(ctx, e.Model, ev)
		}
	})
}

// carry does an effect and returns the event that answers it; the error is a
// failpoint's.
func (r *Runner) carry(ctx context.Context, e update.Effect) (update.Event, error) {
	if err := r.point("before " + e.Kind.String()); err != nil {
		return update.Event{}, err
	}
	ev := update.Event{Key: e.Key, Jitter: rand.Float64()}
	var err error
	do := func(effect func() error) error { // what is not ours to trust must not end the agent
		return guard.Do(r.o.Logger, e.Kind.String(), string(e.Model), effect)
	}
	switch e.Kind {
	case update.Fetch:
		ev.Kind, err = update.Fetched, do(func() error { return r.fetch(ctx, e) })
		if err != nil {
			ev.Kind, ev.Failure = update.FetchFailed, FetchFailure(err)
		}
	case update.Probe:
		ev.Kind, err = update.ProbePassed, do(func() error { return r.test(ctx, e) })
		if err != nil {
			ev.Kind, ev.Failure = update.ProbeFailed, probeFailure(err)
		}
	case update.Switch:
		ev.Kind, err = update.Switched, do(func() error { return r.toggle(e) })
		if err != nil {
			ev.Kind, ev.Failure = update.SwitchFailed, switchFailure(err)
		}
	case update.Mend:
		ev.Kind, ev.Bundle, err = update.Mended, e.Offer.Bundle, do(func() error { return r.fetch(ctx, e) })
		if err != nil {
			ev.Key = "" // the next look at the disk finds the damage again
		}
	case update.Keep:
		ev.Key = ""
		err = do(func() error { return r.keep(ctx, e) })
	}
	if err != nil && ctx.Err() == nil {
		r.o.Logger.Warn("effect failed", "effect", e.Kind.String(), "model", e.Model, "release", e.Offer.Ref, "kind", fault.KindOf(err).String(), "err", err)
	}
	return ev, r.point("after " + e.Kind.String())
}

func (r *Runner) point(name string) error {
	if r.o.Failpoint == nil {
		return nil
	}
	return r.o.Failpoint(name)
}

// fetch brings a release's files to the disk, verified against a bundle that its
// publisher signed and the directive names.
func (r *Runner) fetch(ctx context.Context, e update.Effect) error {
	o := e.Offer
	w, err := r.Want(ctx, o.Path, o.Bundle)
	if err != nil {
		return err
	}
	if root := fleet.Digest(w.Manifest.Root); root != o.Root {
		return fault.Newf(fault.Untrusted, "fetch release", o.Ref, "the bundle has root %s, the directive says %s", root.Short(), o.Root.Short())
	}
	w.Size, w.Bases = o.Size, r.bases(e.Model)
	w.Urgent = e.Kind == update.Mend // what is served is damaged
	err = r.install(ctx, e, w)
	debug.FreeOSMemory() // the buffers of an install are not needed again soon
	if r.due() {
		r.collect(ctx)
	}
	return err
}

// Want is what a release consists of, believed: its bundle is the one that the
// newest directive names at that path, and its publisher signed it.
func (r *Runner) Want(ctx context.Context, path string, bundle fleet.Digest) (delivery.Want, error) {
	t := r.o.Trusted()
	if t == nil {
		return delivery.Want{}, fault.Newf(fault.Transient, "read release", path, "no trust pack was believed yet")
	}
	backing, ok := t.Releases[path]
	if !ok {
		return delivery.Want{}, fault.Newf(fault.Transient, "read release", path, "the newest directive does not back it")
	}
	b, err := r.bundle(ctx, path)
	if err != nil {
		return delivery.Want{}, err
	}
	manifest, err := backing.VerifyBundle(b)
	if err != nil {
		return delivery.Want{}, err
	}
	if fleet.DigestOf(b) != bundle {
		return delivery.Want{}, fault.Newf(fault.Untrusted, "read release", path, "the bundle is not the one with digest %s", bundle.Short())
	}
	return delivery.Want{Key: bundle, Path: path, Manifest: manifest, Size: backing.Entry.Release.Variants[0].Size}, nil
}

// bases are the releases that a model's next one is likely a small difference
// to: the one that runs, then what is kept.
func (r *Runner) bases(m fleet.ModelName) []fleet.Digest {
	var bases []fleet.Digest
	if dir, err := r.o.Slots.Current(m); err == nil {
		if d, err := fleet.ParseDigest(filepath.Base(dir)); err == nil {
			bases = append(bases, d)
		}
	}
	return append(bases, r.o.Keep()...)
}

// install brings the files in, with no collection beside it.
func (r *Runner) install(ctx context.Context, e update.Effect, w delivery.Want) error {
	r.gate.RLock()
	defer r.gate.RUnlock()
	r.o.Progress(e, delivery.Progress{})
	if r.o.Meet != nil {
		r.o.Meet(ctx)
	}
	_, err := r.o.Fetcher.Install(ctx, w, func(p delivery.Progress) { r.o.Progress(e, p) })
	return err
}

// bundleWithin bounds the read of a bundle, which has no ranges to watch over: a
// source that trickles must not hold a fetch for ever.
const bundleWithin = 5 * time.Minute

func (r *Runner) bundle(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, bundleWithin)
	defer cancel()
	b, _, err := r.o.Source.Get(ctx, path, "")
	return b, err
}

func (r *Runner) test(ctx context.Context, e update.Effect) error {
	o := e.Offer
	if !r.o.Store.HasRelease(o.Bundle) {
		return fault.Newf(fault.Transient, "test release", o.Ref, "its files are gone")
	}
	return probe.Test(ctx, r.o.Probe, probe.Subject{Model: e.Model, Ref: o.Ref, Root: o.Root, Path: r.o.Store.ReleaseDir(o.Bundle)})
}

func (r *Runner) toggle(e update.Effect) error {
	if e.Offer.IsZero() {
		return r.o.Slots.Remove(e.Model)
	}
	if !r.o.Store.HasRelease(e.Offer.Bundle) {
		return fault.Newf(fault.NotFound, "switch "+string(e.Model), e.Offer.Ref, "its files are gone")
	}
	return r.o.Slots.Switch(e.Model, r.o.Store.ReleaseDir(e.Offer.Bundle))
}

// keep takes the link to what is not kept any more away, and frees its room.
func (r *Runner) keep(ctx context.Context, e update.Effect) error {
	err := r.o.Slots.Forget(e.Model, func(release string) bool {
		d, err := fleet.ParseDigest(filepath.Base(release))
		return err == nil && slices.Contains(e.Bundles, d)
	})
	r.collect(ctx)
	return err
}

// collect frees what no model and no application needs. While anything is being
// installed or collected it only notes that it is due, and whoever ends does it.
func (r *Runner) collect(ctx context.Context) {
	for again := true; again; again = r.due() {
		r.note(true)
		if !r.gate.TryLock() {
			return
		}
		r.note(false) // before what is kept is looked up
		freed, err := r.free(ctx)
		r.gate.Unlock()
		switch {
		case err != nil && ctx.Err() == nil:
			r.o.Logger.Warn("store not collected", "err", err)
		case freed.Releases > 0:
			r.o.Logger.Info("store collected", "releases", freed.Releases, "bytes", freed.Bytes)
		}
	}
}

func (r *Runner) note(dirty bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dirty = dirty
}

// due reports whether a collection was asked for and not made.
func (r *Runner) due() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dirty
}

// free collects. No link may lead to what goes: what is kept may have changed since
// the effect that asked, and a fetch that collects asked for nothing.
func (r *Runner) free(ctx context.Context) (cas.Collected, error) {
	keep := append(r.o.Keep(), r.older()...)
	models, err := r.o.Slots.Models()
	if err != nil {
		return cas.Collected{}, err
	}
	for _, m := range models {
		err := r.o.Slots.Forget(m, func(release string) bool {
			d, err := fleet.ParseDigest(filepath.Base(release))
			return err == nil && slices.Contains(keep, d)
		})
		if err != nil {
			return cas.Collected{}, err
		}
	}
	return r.o.Store.Collect(ctx, keep...)
}

// older are the releases that stay as long as there is room.
func (r *Runner) older() []fleet.Digest {
	if r.o.Older <= 0 {
		return nil
	}
	all, err := r.o.Store.Releases()
	if err != nil {
		r.o.Logger.Warn("releases not listed", "err", err)
		return nil
	}
	keep := r.o.Keep()
	all = slices.DeleteFunc(all, func(d fleet.Digest) bool { return slices.Contains(keep, d) })
	since := func(d fleet.Digest) time.Time {
		fi, err := os.Stat(r.o.Store.ReleaseDir(d))
		if err != nil {
			return time.Time{} // gone meanwhile
		}
		return fi.ModTime()
	}
	slices.SortStableFunc(all, func(a, b fleet.Digest) int { return since(b).Compare(since(a)) })
	return all[:min(len(all), r.o.Older)]
}

// Await waits for the effects under way, whose context is over.
func (r *Runner) Await(limit time.Duration) {
	done := make(chan struct{})
	go func() {
		r.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(limit):
		r.o.Logger.Warn("effects did not end in time")
	}
}
