package agent

import (
	"context"
	"os"
	"time"

	"github.com/modelfleet/modelfleet/pkg/trust"
)

// watchPackFile offers the loop a pack from a file each time it changes: how a
// device behind an air gap hears of directives.
func (a *agent) watchPackFile(ctx context.Context) {
	if a.o.Pack == "" {
		return
	}
	tick := time.NewTicker(min(a.o.Report, 5*time.Second))
	defer tick.Stop()
	var seen time.Time
	for {
		if at, ok := changedSince(a.o.Pack, seen); ok {
			seen = at
			pack, err := os.ReadFile(a.o.Pack)
			if err != nil {
				a.o.Logger.Warn("pack file not read", "err", err)
			} else {
				// A refusal is logged and reported by the loop.
				_, _ = a.loop.offerPack(ctx, pack, "file")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func changedSince(path string, seen time.Time) (time.Time, bool) {
	fi, err := os.Stat(path)
	if err != nil || fi.Size() > trust.MaxPack || fi.ModTime().Equal(seen) {
		return seen, false
	}
	return fi.ModTime(), true
}
