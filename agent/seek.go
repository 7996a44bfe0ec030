package agent

import (
	"context"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

const (
	seekAgain = 5 * time.Second  // the pause after a search that brought a good pack
	seekEvery = time.Minute      // after one that brought nothing; it doubles ...
	seekMost  = 10 * time.Minute // ... up to this
)

// lacking reports whether the device should look for a pack elsewhere: it refused
// the newest, has none that is fresh, or what it has will be stale soon although
// who brings packs should have brought one long before. The heartbeat puts packs
// into the bucket when the coordinator is down.
func (l *loop) lacking() bool {
	t := l.trusted.Load()
	if t == nil || l.freshness() != telemetry.Fresh {
		return true
	}
	return t.Expires.Sub(l.clock.now()) < t.Expires.Sub(t.Issued)/4
}

// seekPacks asks every source for a pack whenever the loop lacks one, until ctx
// ends. Neighbours need not be asked: they announce what is newer by themselves.
func (a *agent) seekPacks(ctx context.Context) {
	group := a.me.Identity().Facts.Group
	bucket := func() ([]byte, error) {
		body, _, err := a.bucketPack(ctx, "")
		return body, err
	}
	coordinator := func() ([]byte, error) {
		r, err := a.me.Client().Pack(ctx, group, "", 0)
		return r.Pack, err
	}
	pause := seekAgain
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.loop.seek:
		}
		pause = min(max(2*pause, seekEvery), seekMost)
		for _, from := range []struct {
			name string
			get  func() ([]byte, error)
		}{{"bucket", bucket}, {"coordinator", coordinator}} {
			pack, err := from.get()
			if err != nil {
				a.o.Logger.Debug("no pack from there", "from", from.name, "kind", fault.KindOf(err).String(), "err", err)
				continue
			}
			// A refusal is logged and reported by the loop.
			if _, err := a.loop.offerPack(ctx, pack, from.name); err == nil {
				pause = seekAgain
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}
