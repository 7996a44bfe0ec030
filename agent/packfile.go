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
	var seen written
	for {
		if now, ok := changedSince(a.o.Pack, seen); ok {
			seen = now
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

// written tells what a file held from what it holds. One that is read in the middle of
// being written may end within the same tick of the file system's clock.
type written struct {
	at   time.Time
	size int64
}

func changedSince(path string, seen written) (written, bool) {
	fi, err := os.Stat(path)
	if err != nil || fi.Size() > trust.MaxPack || fi.Size() == seen.size && fi.ModTime().Equal(seen.at) {
		return seen, false
	}
	return written{fi.ModTime(), fi.Size()}, true
}
