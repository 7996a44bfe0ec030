package delivery

import (
	"context"
	"io"
	"math/rand/v2"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// persist calls try until it succeeds, fails for good, or nothing at all was
// verified for as long as the patience lasts. Waits have full jitter and are at
// least what the store asked for.
func (in *install) persist(ctx context.Context, try func(context.Context) error) error {
	in.mu.Lock()
	began := in.lastGood
	in.mu.Unlock()
	if now := time.Now(); now.Sub(began) > in.o.Stall {
		began = now // other work came between
	}
	for n := 0; ; n++ {
		err := try(ctx)
		if err == nil || ctx.Err() != nil || !fault.Is(err, fault.Transient) {
			return err
		}
		in.mu.Lock()
		if in.lastGood.After(began) {
			began, n = in.lastGood, 0
		}
		in.mu.Unlock()
		left := in.o.Patience - time.Since(began)
		wait := rand.N(min(10*time.Second, 200*time.Millisecond<<min(n, 6)))
		if after, ok := registry.RetryAfter(err); ok {
			wait += after
		}
		if wait > left {
			return fault.New(fault.Transient, "install", in.want.Manifest.Name, err).
				WithHint("the network or the store is in trouble; the install goes on from here when it is tried again")
		}
		in.o.Logger.Debug("read failed, tried again", "wait", wait, "err", err)
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// wire is a range's body: it feeds the watchdog, the rates and the cap.
type wire struct {
	ctx   context.Context
	body  io.Reader
	in    *install
	watch *time.Timer
}

func (w *wire) Read(p []byte) (int, error) {
	if c := w.in.o.Rate; c > 0 {
		p = p[:min(len(p), int(c/8)+1)] // small steps, so that the cap holds over moments too
	}
	// The watchdog runs only while the source is waited for: not while this member
	// hashes, writes, or waits for its own cap.
	w.watch.Reset(w.in.o.Stall)
	start := time.Now()
	n, err := w.body.Read(p)
	w.watch.Stop()
	if n > 0 {
		w.in.mu.Lock()
		w.in.progress.Wire += int64(n)
		w.in.mu.Unlock()
		if perr := w.in.meter.read(w.ctx, n, time.Since(start)); perr != nil {
			return n, perr
		}
	}
	return n, err
}
